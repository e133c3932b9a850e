//! Whether a server that was started gets on: pure.
//!
//! How long a recovery takes follows from how much there is to replay, and nobody knows it before. So no
//! bound counts from its beginning; what counts is for how long nothing of it has moved.

use std::time::Duration;

use super::control_file::Control;

/// Time in which nobody has looked for so long counts for nothing: the machine may have stood still.
const UNSEEN: Duration = Duration::from_secs(5);

/// What one look shows of how far the server has come; what it does not show is none or zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sight {
    /// The postmaster's process number, and when it was started.
    pub(super) postmaster: Option<(i32, Option<u64>)>,
    /// `pg_control` is written with each restartpoint, and as far as the recovery must go at least.
    pub(super) control: Option<Control>,
    /// Whether it is as started as it gets, and whether it lets anybody in.
    pub(super) up: bool,
    pub(super) ready: bool,
    /// The WAL segment that its startup process is at, whatever its timeline.
    pub(super) segment: u64,
    /// The processor time of its startup process while that is at none: it may have a million files to
    /// make durable first.
    pub(super) worked: u64,
    /// How far it has replayed by its own word.
    pub(super) replayed: u64,
}

/// How far the server has come, and when it last got on. What goes back and forth, such as between the
/// archive and a primary that does not have the WAL either, is no progress.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    furthest: Sight,
    moved: Duration,
    looked: Duration,
}

impl Progress {
    /// Enters what was seen at a moment.
    pub(super) fn note(&mut self, seen: Sight, now: Duration) {
        let before = self.furthest;
        let unseen = now.saturating_sub(self.looked);
        if unseen > UNSEEN {
            self.moved += unseen;
        }
        self.looked = self.looked.max(now);
        if seen.postmaster != before.postmaster {
            (self.furthest, self.moved) = (seen, self.looked);
            return;
        }
        let segment = before.segment.max(seen.segment);
        let further = Sight {
            postmaster: before.postmaster,
            control: seen.control.or(before.control),
            up: before.up || seen.up,
            ready: before.ready || seen.ready,
            segment,
            worked: match segment {
                0 => before.worked.max(seen.worked),
                _ => before.worked,
            },
            replayed: before.replayed.max(seen.replayed),
        };
        if further != before {
            (self.furthest, self.moved) = (further, self.looked);
        }
    }

    /// The same server has replayed so far.
    pub(super) fn replayed(&mut self, replayed: u64, now: Duration) {
        let seen = Sight {
            postmaster: self.furthest.postmaster,
            replayed,
            ..Sight::default()
        };
        self.note(seen, now);
    }

    /// For how long the server had not got on when it was last looked at.
    pub(super) fn still(&self) -> Duration {
        self.looked.saturating_sub(self.moved)
    }
}

/// The number of the WAL segment in the title of a startup process, such as `postgres: startup recovering
/// 000000010000000000000007`; none for another process, zero while it is at none.
pub(super) fn segment(title: &str) -> Option<u64> {
    let (_, doing) = title.split_once("startup")?;
    let is_segment = |word: &&str| word.len() == 24 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let Some(word) = doing.split_ascii_whitespace().find(is_segment) else {
        return Some(0);
    };
    // The first of them would be zero.
    let (file, segment) = (word.get(8..16)?, word.get(16..)?);
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(((number(file)? << 32) | number(segment)?) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn sight(segment: u64, replayed: u64) -> Sight {
        Sight {
            postmaster: Some((7, Some(1))),
            segment,
            replayed,
            ..Sight::default()
        }
    }

    #[test]
    fn a_recovery_gets_on_for_as_long_as_anything_moves() {
        let mut progress = Progress::default();
        for second in 0..1_000 {
            progress.note(sight(second / 3, 0), at(second));
            assert!(progress.still() < at(3));
        }
        let mut last = Progress::default();
        for second in 0..1_000 {
            last.note(sight(1, 0), at(second));
            last.replayed(second / 2, at(second));
            assert!(last.still() < at(2));
        }
        let control = Control::parse(&{
            let mut bytes = [1; 52];
            bytes[16..20].copy_from_slice(&5_u32.to_ne_bytes());
            bytes
        });
        assert!(control.is_some());
        last.note(sight(1, 0), at(1_003));
        assert_eq!(last.still(), at(5));
        let written = Sight {
            control,
            ..sight(1, 0)
        };
        last.note(written, at(1_004));
        assert_eq!(last.still(), at(0));
    }

    #[test]
    fn what_goes_back_and_forth_stands_still() {
        let mut progress = Progress::default();
        for second in 0..100 {
            let seen = Sight {
                // A loop costs time as well.
                worked: second,
                ..sight(5 - second % 2, 0)
            };
            progress.note(seen, at(second));
        }
        assert_eq!(progress.still(), at(99));
        // Another start is another beginning, and before it is at any WAL its work counts.
        for second in 100..200 {
            let seen = Sight {
                postmaster: Some((8, Some(2))),
                worked: second,
                ..Sight::default()
            };
            progress.note(seen, at(second));
            assert_eq!(progress.still(), at(0));
        }
    }

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let mut progress = Progress::default();
        progress.note(sight(1, 0), at(100));
        progress.note(sight(1, 0), at(104));
        assert_eq!(progress.still(), at(4));
        progress.note(sight(1, 0), at(4_000));
        assert_eq!(progress.still(), at(4));
        progress.note(sight(1, 0), at(4_001));
        assert_eq!(progress.still(), at(5));
    }

    #[test]
    fn titles_are_read_whatever_the_version() {
        let new = "postgres: pg3: startup recovering 00000002000000010000000A";
        assert_eq!(segment(new), Some(((1 << 32) | 10) + 1));
        let old = "postgres: startup   waiting for 000000010000000000000000";
        assert_eq!(segment(old), Some(1));
        assert_eq!(segment("postgres: pg3: startup "), Some(0));
        assert_eq!(segment("postgres: checkpointer"), None);
        assert_eq!(
            segment("postgres: startup recovering é00000000000000000000000"),
            Some(0)
        );
    }
}
