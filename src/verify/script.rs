//! Pure: what a session does next, chosen by a seeded generator so that a run can be repeated.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::checker::Cell;
use super::options::{Blocks, Form};

/// What one statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Read(Cell),
    /// Writes the session's next value into its own row.
    WriteOwn,
    /// Increases a counter by one.
    Increase(Cell),
}

/// One transaction: a single autocommit statement, or several between BEGIN and COMMIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transaction {
    /// How its statements are sent.
    pub(super) form: Form,
    /// Whether it is wrapped in BEGIN and COMMIT.
    pub(super) block: bool,
    /// Its statements, in order.
    pub(super) actions: Vec<Action>,
}

impl Transaction {
    /// Whether any statement writes.
    pub(super) fn writes(&self) -> bool {
        self.actions
            .iter()
            .any(|action| !matches!(action, Action::Read(_)))
    }
}

/// What kind of work a session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionKind {
    /// Writes its own row, then reads it; some also increase counters.
    Writer {
        /// Increases the shared counter once a cycle.
        increases_shared: bool,
        /// Increases the pair once a cycle.
        increases_pair: bool,
    },
    /// Only reads counters.
    Reader,
    /// Everything, in one session, in any order.
    Mixed,
}

/// An endless, seeded sequence of cycles.
#[derive(Debug)]
pub(super) struct Script {
    role: SessionKind,
    forms: Vec<Form>,
    blocks: Blocks,
    reads_per_write: usize,
    random: StdRng,
}

impl Script {
    /// A script for one session; equal arguments give equal scripts.
    pub(super) fn new(
        role: SessionKind,
        forms: &[Form],
        blocks: Blocks,
        reads_per_write: usize,
        seed: u64,
    ) -> Self {
        Self {
            role,
            forms: forms.to_vec(),
            blocks,
            reads_per_write,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// The next cycle. If one of its transactions fails the rest must be dropped: the pair's
    /// invariant needs the first increase to be committed before the second is sent.
    pub(super) fn next_cycle(&mut self) -> Vec<Transaction> {
        let mut cycle = Vec::new();
        match self.role {
            SessionKind::Writer {
                increases_shared,
                increases_pair,
            } => {
                self.write_own(&mut cycle);
                self.reads(&mut cycle, Cell::Own, self.reads_per_write);
                if increases_shared {
                    self.increase(&mut cycle, Cell::Shared);
                }
                if increases_pair {
                    self.increase(&mut cycle, Cell::First);
                    self.increase(&mut cycle, Cell::Second);
                }
            }
            SessionKind::Reader => self.read_counters(&mut cycle),
            SessionKind::Mixed => self.mixed(&mut cycle),
        }
        cycle
    }

    fn mixed(&mut self, cycle: &mut Vec<Transaction>) {
        match self.random.random_range(0..10) {
            0..=2 => {
                self.write_own(cycle);
                // Straight after a write the session may have moved to the primary: what it saw
                // of the counters on a standby must be there too.
                self.read_counters(cycle);
                self.reads(cycle, Cell::Own, self.reads_per_write);
            }
            // Starts with a read, so that it can begin on a standby and has to move to the primary
            // in the middle.
            3 if self.blocks != Blocks::Never => {
                let form = self.form();
                cycle.push(Transaction {
                    form,
                    block: true,
                    actions: vec![
                        Action::Read(Cell::Shared),
                        Action::Read(Cell::Second),
                        Action::WriteOwn,
                        Action::Read(Cell::Shared),
                        Action::Read(Cell::First),
                        Action::Read(Cell::Own),
                    ],
                });
                self.reads(cycle, Cell::Own, 1);
            }
            4 => {
                self.increase(cycle, Cell::Shared);
                self.reads(cycle, Cell::Shared, self.reads_per_write);
            }
            5 => {
                self.increase(cycle, Cell::First);
                self.increase(cycle, Cell::Second);
                self.read_counters(cycle);
            }
            _ => {
                self.read_counters(cycle);
                self.reads(cycle, Cell::Own, 1);
            }
        }
    }

    fn write_own(&mut self, cycle: &mut Vec<Transaction>) {
        let form = self.form();
        let block = self.block(0.5);
        let mut actions = vec![Action::WriteOwn];
        if block && self.random.random_bool(0.25) {
            actions.push(Action::Read(Cell::Own));
        }
        cycle.push(Transaction {
            form,
            block,
            actions,
        });
    }

    fn increase(&mut self, cycle: &mut Vec<Transaction>, cell: Cell) {
        let form = self.form();
        let block = self.block(0.5);
        cycle.push(Transaction {
            form,
            block,
            actions: vec![Action::Increase(cell)],
        });
    }

    fn reads(&mut self, cycle: &mut Vec<Transaction>, cell: Cell, count: usize) {
        let mut left = count;
        while left > 0 {
            let form = self.form();
            let block = self.block(0.25);
            let together = if block { left.min(2) } else { 1 };
            cycle.push(Transaction {
                form,
                block,
                actions: vec![Action::Read(cell); together],
            });
            left -= together;
        }
    }

    fn read_counters(&mut self, cycle: &mut Vec<Transaction>) {
        if self.random.random_bool(0.5) {
            self.reads(cycle, Cell::Shared, 1);
        } else if self.block(0.25) {
            let form = self.form();
            cycle.push(Transaction {
                form,
                block: true,
                actions: vec![Action::Read(Cell::Second), Action::Read(Cell::First)],
            });
        } else {
            for cell in [Cell::Second, Cell::First] {
                let form = self.form();
                cycle.push(Transaction {
                    form,
                    block: false,
                    actions: vec![Action::Read(cell)],
                });
            }
        }
    }

    fn form(&mut self) -> Form {
        self.forms
            .choose(&mut self.random)
            .copied()
            .unwrap_or(Form::Simple)
    }

    fn block(&mut self, share: f64) -> bool {
        match self.blocks {
            Blocks::Never => false,
            Blocks::Mixed => self.random.random_bool(share),
            Blocks::Always => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITER: SessionKind = SessionKind::Writer {
        increases_shared: true,
        increases_pair: true,
    };

    fn transactions(
        role: SessionKind,
        blocks: Blocks,
        reads: usize,
        seed: u64,
    ) -> Vec<Transaction> {
        let mut script = Script::new(role, &Form::ALL, blocks, reads, seed);
        (0..500).flat_map(|_| script.next_cycle()).collect()
    }

    #[test]
    fn one_seed_gives_one_script() {
        for role in [WRITER, SessionKind::Reader, SessionKind::Mixed] {
            let once = transactions(role, Blocks::Mixed, 2, 7);
            assert_eq!(once, transactions(role, Blocks::Mixed, 2, 7));
            assert_ne!(once, transactions(role, Blocks::Mixed, 2, 8));
        }
    }

    #[test]
    fn every_form_is_used_inside_and_outside_of_blocks() {
        for role in [WRITER, SessionKind::Reader, SessionKind::Mixed] {
            let all = transactions(role, Blocks::Mixed, 1, 1);
            for form in Form::ALL {
                for block in [false, true] {
                    assert!(all.iter().any(|t| t.form == form && t.block == block));
                }
            }
        }
    }

    #[test]
    fn without_a_block_a_transaction_is_one_statement() {
        for role in [WRITER, SessionKind::Reader, SessionKind::Mixed] {
            for transaction in transactions(role, Blocks::Mixed, 3, 3) {
                assert!(transaction.block || transaction.actions.len() == 1);
            }
            assert!(
                transactions(role, Blocks::Never, 3, 3)
                    .iter()
                    .all(|t| !t.block)
            );
        }
    }

    #[test]
    fn a_write_is_followed_by_as_many_reads_as_asked() {
        let role = SessionKind::Writer {
            increases_shared: false,
            increases_pair: false,
        };
        let all = transactions(role, Blocks::Never, 9, 5);
        let writes = all.iter().filter(|t| t.writes()).count();
        assert_eq!((writes, all.len() - writes), (500, 4500));
    }

    #[test]
    fn the_second_counter_is_increased_only_right_after_the_first() {
        let all = transactions(SessionKind::Mixed, Blocks::Mixed, 1, 11);
        for (before, after) in all.iter().zip(&all[1..]) {
            if after.actions.contains(&Action::Increase(Cell::Second)) {
                assert_eq!(before.actions, [Action::Increase(Cell::First)]);
            }
        }
    }

    #[test]
    fn readers_never_write() {
        assert!(
            !transactions(SessionKind::Reader, Blocks::Mixed, 1, 2)
                .iter()
                .any(Transaction::writes)
        );
    }
}
