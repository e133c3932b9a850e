//! What a statement needs and what it leaves behind, as far as routing and pooling care.
//!
//! `sql` derives these from a statement's text; `core::route` and the client's session act on them.
//! Nothing here depends on the text any more.

use super::plans::Constants;
use std::sync::Arc;

/// Where a statement may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Shows or changes no data (`SET`, `SHOW`, `DISCARD`): the primary's view, and no mark is left.
    Neutral,
    /// Reads only: any node whose state the session may be shown.
    Read,
    /// The primary.
    Write,
}

/// Why a statement was not taken for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteReason {
    /// Changes data or definitions, or is a command that only a primary accepts.
    Command,
    /// `SELECT … FOR UPDATE` and its three sisters.
    Locks,
    /// A data-modifying statement inside `WITH`.
    ModifyingCte,
    /// `SELECT … INTO`.
    SelectInto,
    /// Calls a function that the catalogue holds to be volatile.
    VolatileFunction,
    /// Calls a function that the catalogue does not know yet.
    UnknownFunction,
    /// Opens a transaction that may write.
    Transaction,
    /// Touches state that only the primary's session has (temporary tables, `LISTEN`, locks).
    SessionState,
    /// The parser refused the text.
    DoesNotParse,
    /// Too long or too deep to be looked at.
    TooLarge,
    /// The catalogue has not been read yet or does not have a relation, or the text is in an unusual
    /// lexical mode.
    NotReady,
    /// A standby once refused this statement.
    RefusedByStandby,
}

/// What a session has left on its server connection, for which it must keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PinReason {
    /// `LISTEN`, where no connection could be had that listens for several sessions, or a connection is
    /// kept for a session's life.
    Listen,
    /// Whatever stands in the temporary schema: a table, a function, a collation.
    TemporaryObject,
    /// `PREPARE` as an SQL statement: the name lives in one server session.
    SqlPrepare,
    /// A cursor declared `WITH HOLD`.
    HoldCursor,
    /// A session-level advisory lock.
    AdvisoryLock,
    /// A setting that cannot be repeated elsewhere: its name was made up at run time, or it takes a
    /// privilege that the session does not have.
    Settings,
    /// `SET SESSION AUTHORIZATION`.
    Authorization,
    /// `LOAD`, and functions that leave something in the server process (a temporary replication slot, a
    /// backup that has begun): what a library keeps for itself cannot be asked for, or taken away.
    Library,
    /// `setseed`: the numbers that follow come from this server process.
    Seed,
    /// The server has refused to say what is left, such as for a lock on a catalogue. It is asked again.
    Unanswered,
}

impl PinReason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Listen,
        Self::TemporaryObject,
        Self::SqlPrepare,
        Self::HoldCursor,
        Self::AdvisoryLock,
        Self::Settings,
        Self::Authorization,
        Self::Library,
        Self::Seed,
        Self::Unanswered,
    ];

    /// Whether the server process keeps it through DISCARD ALL.
    pub fn stays_in_process(self) -> bool {
        matches!(self, Self::Library | Self::Seed)
    }

    /// As consoles and metrics name it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::TemporaryObject => "temporary_object",
            Self::SqlPrepare => "prepared_statement",
            Self::HoldCursor => "holdable_cursor",
            Self::AdvisoryLock => "advisory_lock",
            Self::Settings => "setting",
            Self::Authorization => "session_authorization",
            Self::Library => "library",
            Self::Seed => "seed",
            Self::Unanswered => "unanswered",
        }
    }
}

/// A transaction's isolation level, as far as it was spelled out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// READ UNCOMMITTED, which PostgreSQL runs as READ COMMITTED, and READ COMMITTED.
    ReadCommitted,
    /// REPEATABLE READ.
    RepeatableRead,
    /// SERIALIZABLE: never on a standby.
    Serializable,
}

/// What one statement does to the session once it has succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `BEGIN` or `START TRANSACTION`, with what it declared.
    Begin {
        /// `READ ONLY` is `Some(true)`, `READ WRITE` is `Some(false)`.
        read_only: Option<bool>,
        /// The declared isolation level.
        isolation: Option<Isolation>,
    },
    /// `COMMIT`, `END`, `PREPARE TRANSACTION`; with `AND CHAIN` the next transaction is open already.
    End {
        /// `AND CHAIN`.
        chain: bool,
    },
    /// `ROLLBACK`, `ABORT`.
    Rollback {
        /// `AND CHAIN`.
        chain: bool,
    },
    /// `SAVEPOINT name`.
    Savepoint(Box<str>),
    /// `RELEASE SAVEPOINT name`.
    Release(Box<str>),
    /// `ROLLBACK TO SAVEPOINT name`.
    RollbackTo(Box<str>),
    /// `SET` or `RESET` of a server setting, or of the role.
    Set {
        /// The setting's name in lower case; `role` for `SET ROLE`.
        name: Box<str>,
        /// The complete `SET` statement, without `LOCAL`, to repeat on another server connection; none
        /// after `RESET` and `TO DEFAULT`.
        sql: Option<Box<str>>,
        /// `SET LOCAL`: until the transaction ends.
        local: bool,
    },
    /// `RESET ALL`: every setting but the role and the session's authorization.
    ResetAll,
    /// `DISCARD ALL`.
    DiscardAll,
    /// `DISCARD TEMP`.
    DiscardTemp,
    /// `DISCARD SEQUENCES`.
    DiscardSequences,
    /// `DISCARD PLANS`: nothing that anybody can see.
    DiscardPlans,
    /// `DEALLOCATE name`, or of all of them.
    Deallocate(Option<Box<str>>),
    /// Speaks of prepared statements by their names in SQL (`EXECUTE`, `DEALLOCATE name`,
    /// `pg_prepared_statements`), where those of the protocol must stand beside SQL's own.
    NamesStatements,
    /// Leaves this on the server connection, for certain once it has succeeded.
    Pin(PinReason),
    /// May have ended what a pin stands for (`UNLISTEN`, an unlock, `CLOSE`, `DROP`): worth a question
    /// if the session is pinned for it.
    Unpin(PinReason),
    /// Runs what cannot be told from the text: the server has to be asked what is left of it.
    Opaque(Arc<Opaque>),
    /// `PREPARE name`, beside its pin, of a statement that does this.
    Prepare {
        /// The name in SQL.
        name: Box<str>,
        /// What executing it does.
        effects: Arc<[Self]>,
    },
    /// `EXECUTE name`: does what was prepared under this name.
    Execute(Box<str>),
    /// Makes a setting until the transaction's end, of which the text does not tell what it comes to.
    SetsWithin,
    /// Declares a cursor, which stays where it is.
    Declare,
    /// Takes or reads what all sessions share on the primary alone: advisory locks, the state of sequences.
    PrimaryOnly,
    /// Draws a number from a sequence: `lastval` and `currval` on this connection speak of it.
    DrawsNumber,
    /// Asks `lastval` or `currval`, which only the connection can answer that drew for this session.
    AsksNumber,
    /// Sends notifications (`NOTIFY`, `pg_notify`).
    Notify,
    /// `pg_terminate_backend`: the server process that it ends may be the session's own.
    Terminates,
    /// `LISTEN`: to what, is asked.
    Listen,
    /// `UNLISTEN`, of one channel or of all.
    Unlisten,
    /// Asks what the session listens to (`pg_listening_channels`).
    AsksChannels,
    /// Changes what sessions that begin later find: idle connections of before are to be renewed.
    Renew(Renew),
    /// Changes definitions for everybody: what is known of functions may be stale from here on, and what
    /// was parsed before may mean something else.
    Ddl,
    /// `SET causeway.name = value` (with `LOCAL` or not) or, without a value, `RESET` / `TO DEFAULT`.
    SetOwn {
        /// The part after `causeway.`, in lower case.
        name: Box<str>,
        /// The value, unquoted.
        value: Option<Box<str>>,
        /// `SET LOCAL`: until the transaction ends.
        local: bool,
    },
    /// `SHOW causeway.name`.
    ShowOwn(Box<str>),
}

/// What is known of code whose effects on the session cannot be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opaque {
    /// Custom settings (with a dot in their names, which `pg_settings` does not show) that its body names.
    pub names: Box<[Box<str>]>,
    /// It can make up a setting's name at run time.
    pub any_name: bool,
    /// Its parameters that name settings, numbered from 1: they are known once they are bound.
    pub parameters: Box<[u16]>,
    /// Nothing says that there is such code: a table is written to that is not known yet.
    pub by_chance: bool,
}

impl Opaque {
    /// Whether it may set what nobody can ask for by name.
    pub fn sets_unknown_names(&self) -> bool {
        self.any_name || !self.parameters.is_empty()
    }

    /// With the parameters' values, where they name settings that have to be asked for by name.
    fn bound(&self, values: &[Option<Box<[u8]>>]) -> Self {
        let mut bound = self.clone();
        let mut names = self.names.to_vec();
        for number in std::mem::take(&mut bound.parameters) {
            match usize::from(number)
                .checked_sub(1)
                .and_then(|at| values.get(at))
            {
                // A setting without a name is refused.
                Some(None) => {}
                Some(Some(value)) => match std::str::from_utf8(value) {
                    // Not a text, whatever it is.
                    Ok(name) if name.contains('\0') => bound.any_name = true,
                    Ok(name) if name.contains('.') => names.push(name.to_ascii_lowercase().into()),
                    Ok(_) => {}
                    Err(_) => bound.any_name = true,
                },
                None => bound.any_name = true,
            }
        }
        bound.names = names.into();
        bound
    }
}

/// Effects of a statement whose parameters are bound to these values; `values` is asked only where that
/// makes a difference.
pub fn bound(
    effects: &Arc<[Step]>,
    values: impl FnOnce() -> Option<Vec<Option<Box<[u8]>>>>,
) -> Arc<[Step]> {
    let open = |step: &Step| matches!(&step.effect, Effect::Opaque(opaque) if !opaque.parameters.is_empty());
    if !effects.iter().any(open) {
        return Arc::clone(effects);
    }
    let Some(values) = values() else {
        return Arc::clone(effects);
    };
    let bind = |step: &Step| match &step.effect {
        Effect::Opaque(opaque) => Step {
            statement: step.statement,
            effect: Effect::Opaque(Arc::new(opaque.bound(&values))),
        },
        _ => step.clone(),
    };
    effects.iter().map(bind).collect()
}

/// Whose idle server connections no longer show what a new one would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renew {
    /// `ALTER ROLE … SET`, `ALTER ROLE` and its kin; of everybody when none is named.
    Role(Option<Box<str>>),
    /// `ALTER DATABASE … SET`, of a database by name.
    Database(Box<str>),
    /// `DROP DATABASE`, `ALTER DATABASE … RENAME`, `CREATE DATABASE … TEMPLATE`: none may be connected
    /// to it, so that its idle connections are closed before the statement is sent.
    Close(Box<str>),
}

/// An effect, and which of a text's statements brings it about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The statement's number in its text, from 0.
    pub statement: u32,
    /// What it does once it has succeeded.
    pub effect: Effect,
}

/// Those of one of a text's statements, by its number; they stand in the statements' order.
pub fn of_statement(steps: &[Step], number: u32) -> &[Step] {
    let start = steps.partition_point(|step| step.statement < number);
    let of = &steps[start..];
    &of[..of.partition_point(|step| step.statement == number)]
}

impl Effect {
    /// Whether it ends a transaction and begins the next.
    pub fn chains(&self) -> bool {
        matches!(
            self,
            Self::End { chain: true } | Self::Rollback { chain: true }
        )
    }

    /// Whether what the session listens to matters to it, or may matter to what follows it in the same
    /// transaction.
    pub fn concerns_channels(&self) -> bool {
        matches!(
            self,
            Self::Listen
                | Self::Unlisten
                | Self::AsksChannels
                | Self::DiscardAll
                | Self::Opaque(_)
                | Self::Execute(_)
                | Self::Begin { .. }
        )
    }

    /// Whether it is what its statement is for, and not something beside it.
    pub fn counts(&self) -> bool {
        !matches!(
            self,
            Self::Unpin(_)
                | Self::NamesStatements
                | Self::Declare
                | Self::PrimaryOnly
                | Self::SetsWithin
        )
    }

    /// Whether it may send notifications.
    pub fn may_notify(&self) -> bool {
        matches!(self, Self::Notify | Self::Opaque(_) | Self::Execute(_))
    }

    /// Whether it concerns a setting of Causeway's own, which no server knows.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::SetOwn { .. } | Self::ShowOwn(_))
    }
}

/// A leading `/* causeway: … */` comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// `consistency=…`.
    pub consistency: Option<super::session::Level>,
    /// What was not understood and therefore ignored, for a `WARNING` to the client.
    pub fault: Option<Box<str>>,
}

/// Everything that routing and pooling know about one text: a simple query or a `Parse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The strictest access any of its statements needs.
    pub access: Access,
    /// Why it is a write, when it is one.
    pub write_reason: Option<WriteReason>,
    /// Session effects, in the statements' order; empty for nearly every text.
    pub effects: Arc<[Step]>,
    /// How many statements the text holds (0 for an empty query).
    pub count: usize,
    /// The commit may not have been flushed when it is acknowledged (`synchronous_commit` was
    /// touched, or code ran that could have touched it): only the insert position covers it.
    pub may_commit_async: bool,
    /// Code of users may run by it, or may run unseen: only what is made of PostgreSQL's own and of plain
    /// tables is known to run none.
    pub may_run_code: bool,
    /// What it changes need not be a table whose rows are logged, so that its commit may flush nothing.
    pub may_flush_nothing: bool,
    /// By what constants are read in the plans that its code leaves.
    pub settled: Constants,
    /// A per-statement level.
    pub hint: Option<Hint>,
}

impl Statement {
    /// A text that was not looked at and therefore goes to the primary.
    pub fn unexamined(reason: WriteReason) -> Self {
        Self::unread(reason, Opaque::default())
    }

    /// A text of which nothing is known: it may have made up any setting's name.
    pub fn unseen(reason: WriteReason) -> Self {
        let opaque = Opaque {
            any_name: true,
            ..Opaque::default()
        };
        Self::unread(reason, opaque)
    }

    /// A text that was not understood, and what could be told of it all the same.
    pub fn unread(reason: WriteReason, opaque: Opaque) -> Self {
        Self {
            access: Access::Write,
            write_reason: Some(reason),
            effects: Arc::from([Step {
                statement: 0,
                effect: Effect::Opaque(Arc::new(opaque)),
            }]),
            count: 1,
            may_commit_async: true,
            may_run_code: true,
            may_flush_nothing: true,
            settled: Constants::ByAnything,
            hint: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_names_a_setting_once_it_is_bound() {
        let opaque = Opaque {
            parameters: [2].into(),
            ..Opaque::default()
        };
        assert!(opaque.sets_unknown_names());
        let effects: Arc<[Step]> = [Step {
            statement: 0,
            effect: Effect::Opaque(Arc::new(opaque)),
        }]
        .into();
        let value = |text: &[u8]| Some(Box::from(text));
        for (values, names, any_name) in [
            (vec![None, value(b"App.Tenant")], "app.tenant", false),
            (vec![None, value(b"work_mem")], "", false),
            (vec![value(b"a.b"), None], "", false),
            (vec![None, value(b"\0\0@.")], "", true),
            (vec![None, value(b"\xff.a")], "", true),
            (vec![value(b"a.b")], "", true),
        ] {
            let bound = bound(&effects, || Some(values.clone()));
            let Effect::Opaque(opaque) = &bound[0].effect else {
                panic!("{bound:?}");
            };
            assert_eq!(opaque.names.join(","), names, "{values:?}");
            assert_eq!(opaque.sets_unknown_names(), any_name, "{values:?}");
        }
        assert_eq!(
            bound(&effects, || None),
            effects,
            "values that cannot be read"
        );
    }
}
