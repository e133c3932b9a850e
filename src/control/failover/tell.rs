//! What kind of event the planner reports, for logs, status and scripts; the words are its own
//! (`core/failover/describe.rs`).

use tracing::Level;

use crate::core::failover::FailoverPolicy;
use crate::core::failover::command::Event;
use crate::core::failover::record::Recovery;

/// The event's kind: a name that scripts may hold on to.
pub(super) fn kind(event: &Event) -> &'static str {
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

/// Writes the line that an event is worth and gives its words.
pub(super) fn log(event: &Event, policy: &FailoverPolicy) -> String {
    let (kind, text) = (kind(event), event.describe(policy));
    match level(event) {
        Level::ERROR => tracing::error!(event = kind, "{text}"),
        Level::WARN => tracing::warn!(event = kind, "{text}"),
        _ => tracing::info!(event = kind, "{text}"),
    }
    text
}
