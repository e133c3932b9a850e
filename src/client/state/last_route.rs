//! Where a session's last batch went and why, for `SHOW causeway.last_route`.

use crate::core::gauge::Position;
use crate::core::lsn::Lsn;
use crate::core::route::{Reason, Route};
use crate::core::session::{Seen, Upper};
use crate::core::statement::WriteReason;
use crate::core::topology::{NodeId, Topology};

/// One placement.
#[derive(Clone, Copy, Debug)]
pub(in crate::client) struct LastRoute {
    pub(in crate::client) route: Route,
    served: Option<Lsn>,
    primary: Option<Position>,
    upper: Option<Upper>,
}

impl LastRoute {
    /// A batch that was placed by what the session has seen.
    pub(in crate::client) fn placed(route: Route, seen: &mut Seen, topology: &Topology) -> Self {
        let position = |id: NodeId| Some(topology.node(id)?.life.as_ref()?.latest.position);
        Self {
            route,
            served: position(route.node).map(|position| position.flush),
            primary: topology.primary().and_then(|node| position(node.id)),
            upper: if route.reason == Reason::CaughtUp {
                seen.upper(topology)
            } else {
                None
            },
        }
    }

    /// A batch that went where its session already was.
    pub(in crate::client) fn held(route: Route) -> Self {
        Self {
            route: Route {
                reason: Reason::Held,
                ..route
            },
            served: None,
            primary: None,
            upper: None,
        }
    }

    /// One line for the user: where, how far behind, why.
    pub(in crate::client) fn describe(&self, node: &str) -> String {
        let role = if self.route.primary {
            "primary"
        } else {
            "standby"
        };
        let mut parts = vec![format!("{role} {node}")];
        if let (Some(served), false) = (self.served, self.route.primary) {
            if let Some(upper) = self.upper {
                parts.push(format!(
                    "{} bytes behind the session",
                    upper.lsn.bytes_since(served)
                ));
            }
            if let Some(primary) = self.primary {
                parts.push(format!(
                    "{} bytes behind the primary",
                    primary.flush.bytes_since(served)
                ));
            }
        }
        parts.push(self.why());
        parts.join(", ")
    }

    fn why(&self) -> String {
        let waited = self.route.waited_us as f64 / 1000.0;
        match self.route.reason {
            Reason::Write(why) => format!("a write: {}", write_reason(why)),
            Reason::Neutral => "touches no data".to_owned(),
            Reason::LevelPrimary => "consistency is primary".to_owned(),
            Reason::Eventual => "consistency is eventual".to_owned(),
            Reason::NothingSeen => "the session had seen nothing yet".to_owned(),
            Reason::SameStandby => "the standby that served the session before".to_owned(),
            Reason::CaughtUp if waited > 0.0 => format!("caught up after {waited:.1} ms"),
            Reason::CaughtUp => "caught up".to_owned(),
            Reason::NoStandby => "no standby was fit to serve reads".to_owned(),
            Reason::StandbysBehind => {
                format!("no standby had caught up after {waited:.1} ms")
            }
            Reason::StandbysFull => {
                "all connections to the standbys that would do were in use".to_owned()
            }
            Reason::Held => "the session held this connection".to_owned(),
        }
    }
}

fn write_reason(reason: WriteReason) -> &'static str {
    match reason {
        WriteReason::Command => "changes data or definitions",
        WriteReason::Locks => "locks rows",
        WriteReason::ModifyingCte => "WITH changes data",
        WriteReason::SelectInto => "SELECT INTO",
        WriteReason::VolatileFunction => "calls a volatile function",
        WriteReason::UnknownFunction => "calls a function that is not known yet",
        WriteReason::Transaction => "opens a transaction that may write",
        WriteReason::SessionState => "touches session state",
        WriteReason::DoesNotParse => "does not parse",
        WriteReason::TooLarge => "too large to be looked at",
        WriteReason::NotReady => "the function catalogue has not been read yet",
        WriteReason::RefusedByStandby => "a standby refused it before",
    }
}
