//! What became of a transaction whose COMMIT was sent and never answered.
//!
//! Its id alone does not tell: a server that has lost the end of its WAL gives the same id to another
//! transaction. Together with a position before the commit record and the fork of the timeline, or an
//! unbroken life of the server, it does (manual, "Transaction ID and Snapshot Information Functions").

use super::lsn::{Lsn, Timeline};
use super::timeline::TimelineHistory;
use super::topology::{Incarnation, NodeId};

/// A transaction as its server knew it right before its COMMIT was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its id, with the epoch.
    pub xid: u64,
    /// The insert position: what it had written is before it, its commit record is not.
    pub written: Lsn,
    /// The server.
    pub node: NodeId,
    /// The life of the server.
    pub incarnation: Incarnation,
    /// The server's timeline.
    pub timeline: Timeline,
}

/// The primary that can be asked.
#[derive(Clone, Copy, Debug)]
pub struct Witness<'a> {
    /// Which node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Its timeline.
    pub timeline: Timeline,
    /// Its history, if it could be read.
    pub history: Option<&'a TimelineHistory>,
}

/// What asking the witness can prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    /// Its word is to be taken.
    Full,
    /// It may have given the id to another transaction: only that it did not commit is certain.
    DenialOnly,
    /// It need not be asked: its history ends before the commit.
    RolledBack,
    /// Nothing.
    None,
}

/// `pg_xact_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XidStatus {
    /// It committed.
    Committed,
    /// It was rolled back, or ended with its server.
    Aborted,
    /// It runs.
    InProgress,
    /// The server has not given out this id.
    NeverBegun,
    /// Too old to be remembered, or an answer that makes no sense.
    Forgotten,
}

/// What became of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It committed.
    Committed,
    /// Nothing of it is left.
    RolledBack,
    /// It still runs: ask again.
    Wait,
    /// It cannot be told.
    Unknown,
}

impl Pending {
    /// What the primary can say about it.
    pub fn credit(&self, witness: Witness<'_>) -> Credit {
        if witness.node == self.node && witness.incarnation == self.incarnation {
            return Credit::Full;
        }
        if witness.timeline == self.timeline {
            // The same server after a crash, which may have cost it what it had not flushed.
            return Credit::DenialOnly;
        }
        let fork = witness.history.and_then(|h| h.end_of(self.timeline));
        match fork {
            None => Credit::None,
            Some(fork) if fork <= self.written => Credit::RolledBack,
            // All that it wrote before the commit was received there, and with it its id.
            Some(_) => Credit::Full,
        }
    }
}

impl Credit {
    /// Judges the witness's answer.
    pub fn verdict(self, status: XidStatus) -> Verdict {
        match (self, status) {
            (Self::RolledBack, _) => Verdict::RolledBack,
            (Self::None, _) => Verdict::Unknown,
            (_, XidStatus::Aborted | XidStatus::NeverBegun) => Verdict::RolledBack,
            (Self::Full, XidStatus::Committed) => Verdict::Committed,
            (Self::Full, XidStatus::InProgress) => Verdict::Wait,
            (_, _) => Verdict::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::timeline::TimelineSwitch;
    use super::*;

    const PENDING: Pending = Pending {
        xid: 750,
        written: Lsn(0x5000),
        node: NodeId(0),
        incarnation: Incarnation(1),
        timeline: Timeline(1),
    };

    fn promoted(history: &TimelineHistory) -> Witness<'_> {
        Witness {
            node: NodeId(1),
            incarnation: Incarnation(2),
            timeline: Timeline(2),
            history: Some(history),
        }
    }

    fn fork_at(end: u64) -> TimelineHistory {
        TimelineHistory(vec![TimelineSwitch {
            timeline: Timeline(1),
            end: Lsn(end),
        }])
    }

    #[test]
    fn a_server_that_lives_on_is_believed() {
        let same = Witness {
            node: NodeId(0),
            incarnation: Incarnation(1),
            timeline: Timeline(1),
            history: None,
        };
        let credit = PENDING.credit(same);
        assert_eq!(credit.verdict(XidStatus::Committed), Verdict::Committed);
        assert_eq!(credit.verdict(XidStatus::InProgress), Verdict::Wait);
        assert_eq!(credit.verdict(XidStatus::Aborted), Verdict::RolledBack);
        assert_eq!(credit.verdict(XidStatus::Forgotten), Verdict::Unknown);
    }

    #[test]
    fn after_a_crash_the_id_may_be_another_transaction_s() {
        let restarted = Witness {
            node: NodeId(0),
            incarnation: Incarnation(2),
            timeline: Timeline(1),
            history: None,
        };
        let credit = PENDING.credit(restarted);
        assert_eq!(credit.verdict(XidStatus::Committed), Verdict::Unknown);
        assert_eq!(credit.verdict(XidStatus::InProgress), Verdict::Unknown);
        assert_eq!(credit.verdict(XidStatus::Aborted), Verdict::RolledBack);
        assert_eq!(credit.verdict(XidStatus::NeverBegun), Verdict::RolledBack);
    }

    #[test]
    fn the_fork_decides_after_a_promotion() {
        let before = fork_at(0x5000);
        assert_eq!(PENDING.credit(promoted(&before)), Credit::RolledBack);
        let beyond = fork_at(0x5001);
        let credit = PENDING.credit(promoted(&beyond));
        assert_eq!(credit.verdict(XidStatus::Committed), Verdict::Committed);
        // The commit record itself was not received.
        assert_eq!(credit.verdict(XidStatus::Aborted), Verdict::RolledBack);
        let stranger = TimelineHistory::default();
        let credit = PENDING.credit(promoted(&stranger));
        assert_eq!(credit.verdict(XidStatus::Aborted), Verdict::Unknown);
    }
}
