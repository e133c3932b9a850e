//! What a session's statements have done, as its server's own completions tell it: what holds from now
//! on, and what holds only once the transaction commits.
//!
//! Every CommandComplete, ErrorResponse and ReadyForQuery is entered in the order in which it comes
//! (PostgreSQL manual, "Message Flow" and "Simple Query": several statements in one message are one
//! transaction unless they say otherwise, and so is a pipeline up to its Sync).

use super::exchange::TransactionStatus;
use super::mutant::{Rule, holds};
use super::session::Level;
use super::statement::{Effect, Isolation};

/// A change that a ROLLBACK takes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A setting, or the role.
    Set {
        /// Its name.
        name: Box<str>,
        /// The statement that makes it so; none after RESET.
        sql: Option<Box<str>>,
    },
    /// `RESET ALL`.
    ResetAll,
    /// `SET causeway.consistency`; none goes back to the default.
    Level(Option<Level>),
}

#[derive(Clone, Debug)]
struct Pending {
    change: Change,
    /// Until the transaction ends.
    local: bool,
}

/// What a BEGIN says of its transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Declared {
    read_only: Option<bool>,
    isolation: Option<Isolation>,
}

/// A session's transaction, if any of it matters beyond its end.
#[derive(Debug, Default)]
pub struct Transaction {
    /// A BEGIN has come, and its end has not.
    open: bool,
    /// What the BEGIN declared.
    declared: Declared,
    /// An error has undone what stands outside of a transaction block.
    failed: bool,
    pending: Vec<Pending>,
    /// Another number whenever that has changed.
    turn: u64,
    /// Each with how many changes were pending at it. Names may come more than once.
    savepoints: Vec<(Box<str>, usize)>,
    /// What all of that takes.
    bytes: usize,
}

/// What remembering something takes beside its text, in bytes.
const BESIDE: usize = 64;

impl Pending {
    fn bytes(&self) -> usize {
        match &self.change {
            Change::Set { name, sql } => {
                BESIDE + name.len() + sql.as_ref().map_or(0, |sql| sql.len())
            }
            Change::ResetAll | Change::Level(_) => BESIDE,
        }
    }

    /// The statement that makes it so; none for what no server knows.
    fn statement(&self) -> Option<String> {
        let local = if self.local { "LOCAL " } else { "" };
        match &self.change {
            Change::Set { sql: Some(sql), .. } => {
                let rest = sql
                    .get(..4)
                    .filter(|word| word.eq_ignore_ascii_case("SET "));
                Some(match rest {
                    Some(_) => format!("SET {local}{}", &sql[4..]),
                    None => sql.to_string(),
                })
            }
            Change::Set { name, sql: None } => Some(format!("SET {local}{name} TO DEFAULT")),
            Change::ResetAll => Some("RESET ALL".to_owned()),
            Change::Level(_) => None,
        }
    }
}

fn savepoint(name: &str) -> String {
    format!("SAVEPOINT \"{}\"", name.replace('"', "\"\""))
}

/// The server's transaction is not the one that the statements' effects speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch;

impl Transaction {
    /// Whether nothing is pending.
    pub fn is_clean(&self) -> bool {
        !self.open && !self.failed && self.pending.is_empty()
    }

    /// A transaction-bound effect's statement has completed with `tag`. What a commit makes hold is
    /// appended to `committed`.
    pub fn completed(&mut self, effect: &Effect, tag: &[u8], committed: &mut Vec<Change>) {
        match effect {
            Effect::Begin {
                read_only,
                isolation,
            } => {
                // Of one that is open already a BEGIN changes what it names.
                let before = match std::mem::replace(&mut self.open, true) {
                    true => self.declared,
                    false => Declared::default(),
                };
                self.declared = Declared {
                    read_only: read_only.or(before.read_only),
                    isolation: isolation.or(before.isolation),
                };
            }
            // A COMMIT of a failed transaction is answered ROLLBACK.
            Effect::End { chain } => {
                if tag.starts_with(b"ROLLBACK") {
                    self.roll_back();
                } else if !*chain || holds(Rule::ChainIsABoundary) {
                    self.commit(committed);
                }
                self.open = *chain;
            }
            Effect::Rollback { chain } => {
                self.roll_back();
                self.open = *chain;
            }
            Effect::Savepoint(name) => {
                self.bytes += BESIDE + name.len();
                self.savepoints.push((name.clone(), self.pending.len()));
            }
            Effect::Release(name) => {
                if let Some(at) = self.find(name) {
                    self.forget_savepoints(at);
                }
            }
            Effect::RollbackTo(name) => {
                if let Some(at) = self.find(name)
                    && holds(Rule::RollbackToTakesBack)
                {
                    let pending = self.savepoints[at].1;
                    let undone = self.pending.get(pending..).unwrap_or_default().iter();
                    self.bytes -= undone.map(Pending::bytes).sum::<usize>();
                    self.pending.truncate(pending);
                    self.turn += 1;
                    self.forget_savepoints(at + 1);
                }
            }
            Effect::Set { name, sql, local } => {
                let (name, sql) = (name.clone(), sql.clone());
                self.push(Change::Set { name, sql }, *local);
            }
            Effect::ResetAll => self.push(Change::ResetAll, false),
            _ => {}
        }
    }

    /// A change that is made here, in the transaction that is open at the server.
    pub fn push(&mut self, change: Change, local: bool) {
        let pending = Pending { change, local };
        self.bytes += pending.bytes();
        self.pending.push(pending);
        self.turn += 1;
    }

    /// The server has answered with an error.
    pub fn error(&mut self) {
        if !self.open && holds(Rule::ErrorTakesBack) {
            self.pending.clear();
            self.turn += 1;
            self.failed = true;
            self.weigh();
        }
    }

    /// ReadyForQuery.
    ///
    /// # Errors
    ///
    /// When the server stands elsewhere than the effects say: something was run that was not examined.
    pub fn ready(
        &mut self,
        status: TransactionStatus,
        committed: &mut Vec<Change>,
    ) -> Result<(), Mismatch> {
        let idle = status == TransactionStatus::Idle;
        self.failed = false;
        if idle == self.open {
            if idle {
                self.roll_back();
            }
            self.open = !idle;
            return Err(Mismatch);
        }
        if idle {
            self.commit(committed);
        }
        Ok(())
    }

    /// The statements that bring another server connection to where this transaction stands, as long as
    /// it has only read; none if it keeps one snapshot and has taken it (`has_read`), or is not open.
    pub fn replay(&self, has_read: bool) -> Option<Vec<String>> {
        let one_snapshot = self
            .declared
            .isolation
            .is_some_and(|level| level != Isolation::ReadCommitted);
        if !self.open || self.failed || one_snapshot && has_read {
            return None;
        }
        let mut begin = String::from("BEGIN");
        match self.declared.isolation {
            Some(Isolation::ReadCommitted) => begin += " ISOLATION LEVEL READ COMMITTED",
            Some(Isolation::RepeatableRead) => begin += " ISOLATION LEVEL REPEATABLE READ",
            Some(Isolation::Serializable) => begin += " ISOLATION LEVEL SERIALIZABLE",
            None => {}
        }
        match self.declared.read_only {
            Some(true) => begin += " READ ONLY",
            Some(false) => begin += " READ WRITE",
            None => {}
        }
        let mut statements = vec![begin];
        let mut savepoints = self.savepoints.iter().peekable();
        for (index, pending) in self.pending.iter().enumerate() {
            while let Some((name, _)) = savepoints.next_if(|(_, at)| *at <= index) {
                statements.push(savepoint(name));
            }
            statements.extend(pending.statement());
        }
        statements.extend(savepoints.map(|(name, _)| savepoint(name)));
        Some(statements)
    }

    /// Its server is lost, and all of it with it.
    pub fn lost(&mut self) {
        let turn = self.turn + 1;
        *self = Self {
            turn,
            ..Self::default()
        };
    }

    /// Another number whenever the changes in force inside the transaction are others.
    pub fn turn(&self) -> u64 {
        self.turn
    }

    /// The changes in force inside the transaction, the oldest first.
    pub fn changes(&self) -> impl DoubleEndedIterator<Item = &Change> {
        self.pending.iter().map(|pending| &pending.change)
    }

    /// Whether a setting has been reset in the open transaction, and not been made since; and if so, whether
    /// only until its end.
    pub fn has_reset(&self, setting: &str) -> Option<bool> {
        let last = self.pending.iter().rfind(|pending| match &pending.change {
            Change::Set { name, .. } => **name == *setting,
            Change::ResetAll => true,
            Change::Level(_) => false,
        })?;
        let made = matches!(last.change, Change::Set { sql: Some(_), .. });
        (self.open && !made).then_some(last.local)
    }

    /// How many bytes it takes to remember it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.savepoints
            .iter()
            .rposition(|(known, _)| **known == *name)
    }

    fn commit(&mut self, committed: &mut Vec<Change>) {
        self.savepoints.clear();
        let pending = self.pending.drain(..);
        let lasts = |p: &Pending| !p.local || !holds(Rule::LocalEnds);
        committed.extend(pending.filter(lasts).map(|p| p.change));
        self.bytes = 0;
        self.turn += 1;
    }

    fn roll_back(&mut self) {
        self.savepoints.clear();
        if holds(Rule::RollbackTakesBack) {
            self.pending.clear();
            self.turn += 1;
        }
        self.weigh();
    }

    /// All from this one on. It costs what is forgotten, not what is kept: a text can do it for each of its
    /// statements.
    fn forget_savepoints(&mut self, from: usize) {
        let forgotten = self.savepoints.drain(from..);
        self.bytes -= forgotten
            .map(|(name, _)| BESIDE + name.len())
            .sum::<usize>();
    }

    fn weigh(&mut self) {
        let names = self.savepoints.iter().map(|(name, _)| BESIDE + name.len());
        self.bytes = names.chain(self.pending.iter().map(Pending::bytes)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TransactionStatus::{Failed, Idle, InTransaction};

    fn set(name: &str) -> Effect {
        Effect::Set {
            name: name.into(),
            sql: Some("".into()),
            local: false,
        }
    }

    const BEGIN: Effect = Effect::Begin {
        read_only: None,
        isolation: None,
    };

    /// Runs statements, given by effect and tag; an empty tag is an error.
    fn run(
        steps: &[(Effect, &str)],
        status: TransactionStatus,
        transaction: &mut Transaction,
    ) -> String {
        let mut committed = Vec::new();
        for (effect, tag) in steps {
            match tag.len() {
                0 => transaction.error(),
                _ => transaction.completed(effect, tag.as_bytes(), &mut committed),
            }
        }
        let ready = transaction.ready(status, &mut committed);
        let names = committed.iter().map(|change| match change {
            Change::Set { name, .. } => name.to_string(),
            other => format!("{other:?}"),
        });
        let names = names.collect::<Vec<_>>().join(" ");
        if ready.is_ok() {
            names
        } else {
            format!("{names}!")
        }
    }

    #[test]
    fn a_text_is_judged_statement_by_statement() {
        let end = Effect::End { chain: false };
        let rollback = Effect::Rollback { chain: false };
        let once =
            |steps: &[(Effect, &str)], status| run(steps, status, &mut Transaction::default());
        assert_eq!(
            once(&[(rollback.clone(), "ROLLBACK"), (set("a"), "SET")], Idle),
            "a"
        );
        assert_eq!(once(&[(set("a"), "SET"), (set("b"), "")], Idle), "");
        assert_eq!(
            once(
                &[
                    (BEGIN, "BEGIN"),
                    (set("a"), "SET"),
                    (end.clone(), "COMMIT"),
                    (set("b"), "")
                ],
                Idle
            ),
            "a",
            "what a COMMIT had ended is not undone"
        );
        let mut transaction = Transaction::default();
        let chain = Effect::End { chain: true };
        assert_eq!(
            run(
                &[
                    (BEGIN, "BEGIN"),
                    (set("a"), "SET"),
                    (chain, "COMMIT"),
                    (set("b"), "SET")
                ],
                InTransaction,
                &mut transaction
            ),
            "a"
        );
        assert_eq!(run(&[(rollback, "ROLLBACK")], Idle, &mut transaction), "");
        assert!(transaction.is_clean());
        assert_eq!(
            run(
                &[(BEGIN, "BEGIN"), (set("a"), "SET"), (set("b"), "")],
                Failed,
                &mut transaction
            ),
            ""
        );
        assert_eq!(
            run(&[(end, "ROLLBACK")], Idle, &mut transaction),
            "",
            "a failed transaction"
        );
    }

    #[test]
    fn savepoints_of_one_name_hide_each_other() {
        let mut transaction = Transaction::default();
        let save = || (Effect::Savepoint("s".into()), "SAVEPOINT");
        let steps = [
            (BEGIN, "BEGIN"),
            save(),
            (set("a"), "SET"),
            save(),
            (set("b"), "SET"),
            (Effect::Release("s".into()), "RELEASE"),
            (Effect::RollbackTo("s".into()), "ROLLBACK"),
            (set("c"), "SET"),
            (Effect::End { chain: false }, "COMMIT"),
        ];
        assert_eq!(run(&steps, Idle, &mut transaction), "c");
    }

    #[test]
    fn a_transaction_can_be_brought_to_another_server() {
        let mut transaction = Transaction::default();
        let begin = Effect::Begin {
            read_only: Some(true),
            isolation: Some(Isolation::RepeatableRead),
        };
        let set = |name: &str, local| Effect::Set {
            name: name.into(),
            sql: Some(format!("SET {name} = 1").into()),
            local,
        };
        let steps = [
            (begin, "BEGIN"),
            (set("a", true), "SET"),
            (Effect::Savepoint("it's \"s\"".into()), "SAVEPOINT"),
            (set("b", false), "SET"),
        ];
        run(&steps, InTransaction, &mut transaction);
        assert_eq!(
            transaction.replay(false).unwrap(),
            [
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
                "SET LOCAL a = 1",
                "SAVEPOINT \"it's \"\"s\"\"\"",
                "SET b = 1"
            ]
        );
        assert_eq!(transaction.replay(true), None, "its snapshot is promised");
        // A warning, and nothing else.
        run(&[(BEGIN, "BEGIN")], InTransaction, &mut transaction);
        let again = transaction.replay(false).unwrap();
        assert_eq!(again[0], "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    }

    #[test]
    fn what_is_forgotten_is_no_longer_counted() {
        let mut transaction = Transaction::default();
        let save = |name: &str| (Effect::Savepoint(name.into()), "SAVEPOINT");
        let release = |name: &str| (Effect::Release(name.into()), "RELEASE");
        let back = |name: &str| (Effect::RollbackTo(name.into()), "ROLLBACK");
        for (steps, changes) in [
            (vec![(BEGIN, "BEGIN"), (set("first"), "SET")], true),
            (vec![save("a"), (set("b"), "SET"), save("long name")], true),
            (vec![back("long name"), release("long name")], false),
            (vec![save("b"), save("b"), back("a")], true),
            (vec![back("nowhere"), release("nowhere")], false),
            (vec![release("a")], false),
        ] {
            let turn = transaction.turn();
            run(&steps, InTransaction, &mut transaction);
            let counted = transaction.bytes();
            transaction.weigh();
            assert_eq!(transaction.bytes(), counted, "{steps:?}");
            assert!(transaction.turn() != turn || !changes, "{steps:?}");
        }
        assert_eq!(transaction.changes().count(), 1);
        assert_eq!(transaction.bytes(), BESIDE + "first".len());
    }

    #[test]
    fn a_transaction_that_nobody_began_is_noticed() {
        let mut transaction = Transaction::default();
        assert_eq!(run(&[], InTransaction, &mut transaction), "!");
        assert_eq!(
            run(&[(set("a"), "SET")], Idle, &mut transaction),
            "!",
            "nor ended"
        );
    }
}
