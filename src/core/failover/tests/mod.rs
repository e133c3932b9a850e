//! The planner, tried: in every order of events, and by examples.

mod explorer;
mod quorum;

/// A new version must read what an old one has stored.
#[test]
fn the_stored_words_of_a_quarantine_stay_the_same() {
    use super::record::{QuarantineReason, Quarantined, Recovery};
    let stored = r#"{"reason":"BeyondFork","way":"Rewind"}"#;
    let (reason, recovery) = (QuarantineReason::BeyondFork, Recovery::Rewind);
    let known = Quarantined { reason, recovery };
    assert_eq!(serde_json::to_string(&known).unwrap(), stored);
    assert_eq!(serde_json::from_str::<Quarantined>(stored).unwrap(), known);
}
