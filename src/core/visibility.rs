//! Whether the primary already shows everything that a standby has shown.
//!
//! A primary ships a commit record before it makes the commit visible to other sessions, so a row
//! read on a standby can be missing on the primary for a moment (with synchronous replication, for
//! as long as the standbys take). No WAL position reveals it. Transaction ids do: nothing that the
//! standby held to be finished may still be running in a primary snapshot.

use std::sync::Arc;

use super::lsn::Lsn;

/// A primary's `pg_current_snapshot()` (manual, "Transaction ID and Snapshot Information Functions").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Every id from here on is not finished.
    pub xmax: u64,
    /// Ids below `xmax` that are still running, in order.
    pub running: Arc<[u64]>,
}

/// What a standby held to be finished at one probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinishedIds {
    /// Every id from here on is not finished there.
    pub xmax: u64,
    /// Ids that were asked about and were still running there, in order.
    pub still_running: Arc<[u64]>,
    /// A position that it had certainly replayed when this was so.
    pub at_least: Lsn,
}

/// The end of WAL that holds the commit record of every transaction that a primary snapshot shows, whoever
/// committed it and whether or not that is on disk.
///
/// A commit is in the WAL before it is visible, so that the insert position read after the snapshot is
/// such an end (`insert`). Where the snapshot shows no more than one before did, that one's end is as good,
/// and does not include what open transactions have written since, which nobody may flush for long.
pub fn end_of_commits(before: Option<(&Snapshot, Lsn)>, snapshot: &Snapshot, insert: Lsn) -> Lsn {
    match before {
        Some((same, end)) if same == snapshot => end.min(insert),
        _ => insert,
    }
}

/// True when a primary snapshot shows every transaction that the standby held to be finished.
///
/// A later snapshot of the same primary then shows it too, so the answer never expires. Ids that
/// the standby held to be running at a later moment (`running_later`, in order) were running then as well.
pub fn primary_shows(primary: &Snapshot, standby: &FinishedIds, running_later: &[u64]) -> bool {
    let unfinished = |id: &u64| {
        let among = |ids: &[u64]| ids.binary_search(id).is_ok();
        *id >= standby.xmax || among(&standby.still_running) || among(running_later)
    };
    standby.xmax <= primary.xmax && primary.running.iter().all(unfinished)
}

/// The text form `xmin:xmax:id,id,…` of `pg_snapshot`.
pub fn parse_snapshot(text: &str) -> Option<Snapshot> {
    let mut parts = text.splitn(3, ':');
    let _xmin: u64 = parts.next()?.parse().ok()?;
    let xmax = parts.next()?.parse().ok()?;
    let list = parts.next()?;
    let running = if list.is_empty() {
        Arc::from([])
    } else {
        list.split(',')
            .map(|id| id.parse().ok())
            .collect::<Option<_>>()?
    };
    Some(Snapshot { xmax, running })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(text: &str) -> Snapshot {
        parse_snapshot(text).unwrap()
    }

    fn standby(xmax: u64, still_running: &[u64]) -> FinishedIds {
        FinishedIds {
            xmax,
            still_running: Arc::from(still_running),
            at_least: Lsn(0),
        }
    }

    #[test]
    fn text_form() {
        assert_eq!(
            primary("10:10:"),
            Snapshot {
                xmax: 10,
                running: Arc::from([])
            }
        );
        assert_eq!(
            primary("10:20:10,14"),
            Snapshot {
                xmax: 20,
                running: Arc::from([10, 14])
            }
        );
        for text in ["", "1", "1:2", "1:2:x", "1:2:3,", "a:b:"] {
            assert_eq!(parse_snapshot(text), None, "{text}");
        }
    }

    #[test]
    fn a_commit_that_waits_for_synchronous_replication_is_not_shown() {
        // 14 is replayed on the standby and still waits for its acknowledgement on the primary.
        assert!(!primary_shows(&primary("14:15:14"), &standby(15, &[]), &[]));
        assert!(primary_shows(&primary("15:15:"), &standby(15, &[]), &[]));
    }

    #[test]
    fn the_newest_transaction_may_be_missing_from_the_list() {
        // Snapshots end at the latest completed id: 15 runs on the primary but is not listed.
        assert!(!primary_shows(&primary("15:15:"), &standby(16, &[]), &[]));
    }

    #[test]
    fn a_transaction_open_on_both_sides_does_not_hold_anyone_up() {
        assert!(primary_shows(&primary("7:20:7"), &standby(20, &[7]), &[]));
        assert!(!primary_shows(
            &primary("7:20:7,9"),
            &standby(20, &[7]),
            &[]
        ));
        assert!(
            primary_shows(&primary("7:20:7,19"), &standby(19, &[7]), &[]),
            "19 is ahead of both"
        );
    }
    #[test]
    fn thousands_of_writers_are_no_other_case() {
        let ids: Vec<u64> = (1..=5_000).map(|id| 2 * id).collect();
        let list: Vec<String> = ids.iter().map(u64::to_string).collect();
        let primary = primary(&format!("2:20000:{}", list.join(",")));
        assert!(primary_shows(&primary, &standby(20_000, &ids), &[]));
        assert!(!primary_shows(&primary, &standby(20_000, &ids[1..]), &[]));
        assert!(primary_shows(
            &primary,
            &standby(20_000, &ids[1..]),
            &ids[..1]
        ));
    }

    #[test]
    fn what_runs_on_the_standby_later_has_not_ended_before() {
        let (primary, standby) = (primary("7:20:7,9"), standby(20, &[7]));
        assert!(!primary_shows(&primary, &standby, &[]));
        assert!(primary_shows(&primary, &standby, &[9]));
        assert!(!primary_shows(&primary, &standby, &[8]));
    }

    #[test]
    fn what_open_transactions_write_moves_no_end_of_commits() {
        let (first, later) = (primary("14:15:14"), primary("14:16:14"));
        let end = |before, now| end_of_commits(before, now, Lsn(300)).0;
        assert_eq!(end(None, &first), 300);
        assert_eq!(end(Some((&first, Lsn(200))), &first), 200);
        assert_eq!(end(Some((&first, Lsn(200))), &later), 300, "15 has ended");
    }
}
