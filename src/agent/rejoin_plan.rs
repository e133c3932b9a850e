//! By which way a data directory becomes that of a standby: pure.
//!
//! What may not be done is what matters. A data directory that pg_rewind was at work in cannot be
//! rewound again: its WAL may be the source's in part, and blocks would be missed. And only a primary
//! that crashed may recover by itself: a standby that did would write a history of its own on its
//! primary's timeline, which pg_rewind takes for the same.

use serde::{Deserialize, Serialize};

use super::control_file::Control;

/// How far a rejoin has come that was cut short; noted on disk before it is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// The server may have recovered in single-user mode; its history is its own.
    Recovering,
    /// pg_rewind or a replacement may have changed any part.
    Rewriting,
    /// All of it is the source's; it only has to be made a standby.
    Whole,
}

/// What to do first; the ways after it follow when it does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// Start it as a standby: it was one.
    Follow,
    /// Recover in single-user mode, then rewind.
    Recover,
    Rewind,
    /// Take a base backup.
    Copy,
}

/// The first step, given the stage of an earlier rejoin, `pg_control`, whether there is a
/// `backup_label`, and the source's timeline.
pub(super) fn first(
    stage: Option<Stage>,
    control: Option<Control>,
    backup_label: bool,
    timeline: u32,
) -> First {
    let Some(control) = control else {
        return First::Copy;
    };
    match stage {
        Some(Stage::Rewriting) => First::Copy,
        Some(Stage::Whole) => First::Follow,
        // Whether it was rewound or copied, only a standby can use it.
        _ if backup_label => First::Follow,
        _ if control.in_archive_recovery() && !control.shut_down() => First::Follow,
        // pg_rewind takes equal timelines for one history; a former primary's is another.
        _ if !control.in_archive_recovery() && control.timeline == timeline => First::Copy,
        _ if control.shut_down() => First::Rewind,
        _ => First::Recover,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(state: u32, timeline: u32) -> Option<Control> {
        let mut bytes = [0; 52];
        bytes[16..20].copy_from_slice(&state.to_ne_bytes());
        bytes[48..52].copy_from_slice(&timeline.to_ne_bytes());
        Control::parse(&bytes)
    }

    const SHUT_DOWN: u32 = 1;
    const SHUT_DOWN_IN_RECOVERY: u32 = 2;
    const IN_ARCHIVE_RECOVERY: u32 = 5;
    const IN_PRODUCTION: u32 = 6;

    #[test]
    fn a_crashed_primary_recovers_and_is_rewound() {
        for stage in [None, Some(Stage::Recovering)] {
            assert_eq!(
                first(stage, control(IN_PRODUCTION, 1), false, 2),
                First::Recover
            );
            assert_eq!(first(stage, control(SHUT_DOWN, 1), false, 2), First::Rewind);
        }
    }

    #[test]
    fn what_was_half_rewritten_is_copied_whatever_it_looks_like() {
        for state in 0..7 {
            for label in [false, true] {
                let half = first(Some(Stage::Rewriting), control(state, 1), label, 2);
                assert_eq!(half, First::Copy);
            }
        }
        assert_eq!(first(None, None, false, 2), First::Copy);
    }

    #[test]
    fn no_standby_ever_recovers_by_itself() {
        for stage in [None, Some(Stage::Recovering), Some(Stage::Whole)] {
            for timeline in [1, 2] {
                let crashed = control(IN_ARCHIVE_RECOVERY, timeline);
                assert_eq!(first(stage, crashed, false, 2), First::Follow);
                assert_eq!(first(stage, crashed, true, 2), First::Follow);
                let stopped = first(stage, control(SHUT_DOWN_IN_RECOVERY, timeline), false, 2);
                assert!(matches!(stopped, First::Follow | First::Rewind));
            }
            assert_eq!(
                first(stage, control(IN_PRODUCTION, 1), true, 2),
                First::Follow
            );
        }
    }

    #[test]
    fn a_former_primary_on_the_same_timeline_is_not_rewound() {
        assert_eq!(first(None, control(SHUT_DOWN, 2), false, 2), First::Copy);
        assert_eq!(
            first(None, control(IN_PRODUCTION, 2), false, 2),
            First::Copy
        );
    }
}
