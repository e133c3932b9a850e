//! What operators order: handed to the planner while this proxy decides, turned away while it does not.

use std::sync::Arc;

use crate::core::failover::record::{Record, Request};
use crate::shared::operator::OperatorState;
use crate::shared::operator::commands::Outcome;

pub(super) struct Orders {
    operator: Arc<OperatorState>,
    /// The latest order that was taken up here.
    taken: Option<u64>,
}

impl Orders {
    pub(super) fn new(operator: Arc<OperatorState>) -> Self {
        Self {
            operator,
            taken: None,
        }
    }

    /// Resolves once something is ordered.
    pub(super) async fn ordered(&self) {
        self.operator.commands.submitted().await;
    }

    /// What is asked for at present; orders from now on are later than what the record has answered.
    pub(super) fn request(&self, record: &Record) -> Option<Request> {
        if let Some(answered) = record.answered_request {
            self.operator.commands.number_beyond(answered);
        }
        self.operator.commands.pending()
    }

    /// Notes what a stored record has taken up.
    pub(super) fn taken_up_by(&mut self, record: &Record) {
        if let Some(request) = record.request {
            self.operator.commands.begun(request.id);
            self.taken = Some(request.id);
        }
    }

    /// Only the proxy that decides takes orders.
    pub(super) fn turn_away(&self, leader: Option<&str>) {
        let Some(order) = self.operator.commands.pending() else {
            return;
        };
        let why = match leader {
            Some(leader) => format!("the proxy at {leader} decides, not this one: order it there"),
            None => "no proxy decides at present: try again in a moment".to_owned(),
        };
        // It may have been taken up while this one decided.
        let begun = self.taken == Some(order.id);
        let why = match begun {
            true => format!("begun, but {why}; /api/status there tells how it ended"),
            false => why,
        };
        self.operator
            .commands
            .finish(order.id, Outcome::Refused(why));
    }
}
