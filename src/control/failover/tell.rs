//! What kind of event the planner reports, for logs, status and scripts; the words are its own
//! (`core/failover/describe.rs`).

use crate::core::failover::Policy;
use crate::core::failover::command::Event;

/// The event's kind: a name that scripts may hold on to.
pub(super) fn kind(event: &Event) -> &'static str {
    match event {
        Event::Found { .. } => "primary_found",
        Event::Fell { .. } => "primary_failed",
        Event::CalledOff { .. } => "called_off",
        Event::Fenced { .. } => "fenced",
        Event::Chosen { .. } => "candidate_chosen",
        Event::Promoted { .. } => "promoted",
        Event::Restored(_) => "restored",
        Event::Quarantined { .. } => "quarantined",
        Event::Rejoined(_) => "rejoined",
        Event::Impostor { .. } => "impostor",
        Event::Done { .. } => "request_done",
        Event::Refused { .. } => "request_refused",
    }
}

/// Writes the line that an event is worth and gives its words.
pub(super) fn log(event: &Event, policy: &Policy) -> String {
    let (kind, text) = (kind(event), event.describe(policy));
    let grave = match event {
        Event::Chosen { lost_bytes, .. } => *lost_bytes > 0,
        Event::Impostor { .. } => true,
        _ => false,
    };
    if grave {
        tracing::error!(event = kind, "{text}");
    } else {
        tracing::info!(event = kind, "{text}");
    }
    text
}
