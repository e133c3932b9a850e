//! What people are told: events as they happen, how things stand, and what goes wrong, each once.
//!
//! The words of an event are the planner's own (`core/failover/describe.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Level;

use super::shared::Shared;
use crate::config::Failover;
use crate::core::failover::FailoverPolicy;
use crate::core::failover::command::Event;
use crate::core::failover::policy::Durability;
use crate::core::failover::record::{Cause, Phase, Record, Recovery};
use crate::core::lsn::Timeline;
use crate::core::topology::{NodeId, NodeSet};
use crate::metrics::failover::Ended;
use crate::shared::operator::commands::Outcome;
use crate::shared::operator::status::FailoverStatus;

/// What has failed is shown for as long: longer than until it is tried again.
const SHOWN: Duration = Duration::from_secs(10);

/// The kinds of events that tell who leads now: another than before, or the first one seen.
const PROMOTED: &str = "promoted";
const FOUND: &str = "primary_found";

/// Speaks for the controller.
pub(super) struct EventLog {
    shared: Shared,
    policy: Arc<FailoverPolicy>,
    mode: &'static str,
    /// This proxy's address.
    address: String,
    /// When the latest failover or switchover began.
    began: Option<Instant>,
    /// It is still under way.
    busy: bool,
    /// Who leads, on which timeline, as far as it was told.
    told: Option<(NodeId, Timeline)>,
    /// The latest other proxy that was seen to decide: an address.
    other_leader: Option<String>,
    /// Said last, without its figures.
    why: String,
    /// Said last.
    failure: String,
    /// What has failed lately, and when.
    failing: Vec<(String, Instant)>,
}

/// How things stand by a record.
pub(super) struct Report<'a> {
    pub(super) record: &'a Record,
    pub(super) why: String,
    /// This proxy decides.
    pub(super) leads: bool,
    /// Who decides, as far as is known: an address.
    pub(super) leader: Option<String>,
    /// By whose promises the primary's lease goes on without a proxy, or why it does not.
    pub(super) failsafe: String,
    /// The nodes whose agents answer.
    pub(super) agents: NodeSet,
    /// Why nodes could not be rejoined, as was said last.
    pub(super) unjoined: BTreeMap<NodeId, String>,
    /// Some commits wait for no standby's disk, by `synchronous_commit`.
    pub(super) early: bool,
}

impl EventLog {
    pub(super) fn new(
        shared: Shared,
        policy: Arc<FailoverPolicy>,
        failover: &Failover,
        address: String,
    ) -> Self {
        Self {
            shared,
            policy,
            mode: failover.mode.name(),
            address,
            began: None,
            busy: false,
            told: None,
            other_leader: None,
            why: String::new(),
            failure: String::new(),
            failing: Vec::new(),
        }
    }

    /// Speaks by another policy from now on.
    pub(super) fn reload(&mut self, policy: Arc<FailoverPolicy>, failover: &Failover) {
        self.policy = policy;
        self.mode = failover.mode.name();
    }

    /// Something has happened; `stall` is for how long statements were held the last time.
    pub(super) fn event(&mut self, event: &Event, stall: Duration) {
        let text = event.describe(&self.policy);
        write_line(event, &text);
        let by = match self.shared.operator.commands.pending() {
            Some(_) => format!("an operator, through {}", self.address),
            None => self.address.clone(),
        };
        let after = self.began.map(|began| began.elapsed());
        self.shared
            .operator
            .events
            .tell_of(kind(event), text, &by, after);
        if let Event::Found {
            primary, timeline, ..
        }
        | Event::Promoted {
            node: primary,
            timeline,
            ..
        } = event
        {
            self.told = Some((*primary, *timeline));
        }
        match event {
            Event::Promoted {
                cause: Cause::Switchover,
                ..
            } => self.shared.metrics.failover.ended(Ended::SwitchedOver),
            Event::Promoted { .. } => self.shared.metrics.failover.ended(Ended::Promoted),
            Event::Restored(_) => self.shared.metrics.failover.ended(Ended::Restored),
            Event::CalledOff { .. } => self.shared.metrics.failover.ended(Ended::CalledOff),
            Event::Chosen { lost_bytes, .. } => self
                .shared
                .metrics
                .failover
                .lost_write_bytes
                .inc_by(*lost_bytes),
            // The record that reports it has released them already.
            Event::Done { request } => self
                .shared
                .operator
                .commands
                .finish(*request, Outcome::Done { stall }),
            Event::Refused { request, why } => {
                self.shared
                    .operator
                    .commands
                    .finish(*request, Outcome::Refused(why.clone()));
            }
            _ => {}
        }
    }

    /// Shows how things stand.
    pub(super) fn show(&mut self, report: Report<'_>) {
        let Report {
            record,
            why,
            leads,
            leader,
            failsafe,
            agents,
            unjoined,
            early,
        } = report;
        self.keep_time(record);
        let mut shown_why = why.clone();
        self.failing.retain(|(_, at)| at.elapsed() < SHOWN);
        for (failure, _) in &self.failing {
            shown_why = format!("{shown_why}; failed: {failure}");
        }
        if !leads {
            self.other_leader.clone_from(&leader);
            self.tell_who_leads(record);
        }
        let shown = &self.shared.metrics.failover.state;
        shown.stand(record.phase.label(), record.epoch, leads);
        let name = |node: &NodeId| self.policy.name(*node);
        let quarantine = record.quarantine.iter();
        let quarantine = quarantine.map(|(node, why)| {
            let why = match unjoined.get(node) {
                Some(failure) => format!("{}; could not be rejoined: {failure}", why.describe()),
                None => why.describe(),
            };
            (name(node), why)
        });
        let fences = self.policy.ids().map(|node| {
            let fence = self.policy.describe_fence(node, agents.contains(node));
            (name(&node), fence)
        });
        self.shared.operator.status.set(FailoverStatus {
            mode: self.mode.to_owned(),
            paused: record.paused,
            phase: record.phase.label().to_owned(),
            epoch: record.epoch,
            primary: record.primary.as_ref().map(name),
            durability: match (self.policy.durability, record.sync.wanted()) {
                (Durability::Async { .. }, _) => "async",
                (Durability::Quorum { .. }, Some(_)) if !record.sync.changing() && !early => {
                    "quorum"
                }
                (Durability::Quorum { .. }, _) => "quorum pending",
            },
            leads,
            leader,
            fences: fences.collect(),
            failsafe,
            governed: record.governed.iter().map(name).collect(),
            quarantine: quarantine.collect(),
            why: shown_why.clone(),
        });
        self.shared.cluster.explain(&shown_why);
        let quiet = matches!(record.phase, Phase::Steady);
        // A wait that counts down is one wait.
        let without_figures = why.replace(|c: char| c.is_ascii_digit(), "");
        if without_figures != self.why {
            if !quiet && !why.is_empty() {
                tracing::info!(phase = record.phase.label(), %why, "failover waits");
            }
            self.why = without_figures;
        }
    }

    /// It lasts until every node is back, and the events of the step that ends it still belong to it.
    fn keep_time(&mut self, record: &Record) {
        let serving = matches!(record.phase, Phase::Steady | Phase::Looking);
        let busy = !serving || !record.quarantine.is_empty();
        match (busy, self.busy) {
            (true, false) => self.began = Some(Instant::now()),
            (false, false) => self.began = None,
            (_, true) => {}
        }
        self.busy = busy;
    }

    /// Tells who leads by this record, unless it was told: another proxy's decision, which may have been
    /// taken over before it was heard of.
    pub(super) fn tell_who_leads(&mut self, record: &Record) {
        let serving = matches!(record.phase, Phase::Steady | Phase::Following);
        let Some(primary) = record.primary.filter(|_| serving) else {
            return;
        };
        let now = Some((primary, record.timeline));
        if self.told == now {
            return;
        }
        let kind = match self.told {
            Some(_) => PROMOTED,
            None => FOUND,
        };
        let name = self.policy.name(primary);
        let text = format!("{name} leads on timeline {}", record.timeline);
        let after = self.began.map(|began| began.elapsed());
        let by = self.other_leader.as_deref().unwrap_or(&self.address);
        tracing::info!(event = kind, by, "{text}");
        self.shared.operator.events.tell_of(kind, text, by, after);
        self.told = now;
    }

    /// Nothing can be decided by the record: says so wherever people look.
    pub(super) fn stuck(&mut self, doing: &str, error: &str) {
        self.fail(doing, error);
        let known = self.shared.operator.status.get();
        let durability = match self.policy.durability {
            _ if !known.durability.is_empty() => known.durability,
            Durability::Async { .. } => "async",
            Durability::Quorum { .. } => "quorum pending",
        };
        self.shared.operator.status.set(FailoverStatus {
            mode: self.mode.to_owned(),
            durability,
            why: format!("cannot {doing}: {error}"),
            ..(*known).clone()
        });
    }

    /// Says what went wrong, once for each different reason.
    pub(super) fn fail(&mut self, doing: &str, error: &str) {
        let failure = format!("{doing}: {error}");
        self.shared.cluster.explain(&failure);
        // An order that fails again fails otherwise: it is one.
        let order = format!("{doing}: ");
        self.failing.retain(|(known, _)| !known.starts_with(&order));
        self.failing.push((failure.clone(), Instant::now()));
        if failure != self.failure {
            tracing::warn!(doing, reason = error, "a step of the failover failed");
            self.failure = failure;
        }
    }
}

/// The event's kind: a name that scripts may hold on to.
fn kind(event: &Event) -> &'static str {
    match event {
        Event::Found { .. } => "primary_found",
        Event::PrimaryFailed { .. } => "primary_failed",
        Event::CalledOff { .. } => "called_off",
        Event::Fenced { .. } => "fenced",
        Event::Chosen { .. } => "candidate_chosen",
        Event::Promoted { .. } => "promoted",
        Event::Restored(_) => "restored",
        Event::Quarantined { .. } => "quarantined",
        Event::Rejoined(_) => "rejoined",
        Event::StrayPrimary { .. } => "impostor",
        Event::Done { .. } => "request_done",
        Event::Refused { .. } => "request_refused",
    }
}

/// ERROR: a human must look. WARN: something stands in the way of clients, or of a node.
fn level(event: &Event) -> Level {
    match event {
        Event::Chosen { lost_bytes, .. } if *lost_bytes > 0 => Level::ERROR,
        Event::StrayPrimary { .. } => Level::ERROR,
        Event::Quarantined { why, .. } => match why.recovery {
            Recovery::Operator => Level::ERROR,
            Recovery::Start => Level::INFO,
            Recovery::Rewind | Recovery::Copy => Level::WARN,
        },
        Event::PrimaryFailed { .. } | Event::Restored(_) => Level::WARN,
        _ => Level::INFO,
    }
}

fn write_line(event: &Event, text: &str) {
    let kind = kind(event);
    match level(event) {
        Level::ERROR => tracing::error!(event = kind, "{text}"),
        Level::WARN => tracing::warn!(event = kind, "{text}"),
        _ => tracing::info!(event = kind, "{text}"),
    }
}
