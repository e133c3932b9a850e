//! What a statement needs and what it leaves behind, as far as routing and pooling care.
//!
//! `sql` derives these from a statement's text; `core::route` and the client's session act on them.
//! Nothing here depends on the text any more.

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
    /// The function catalogue has not been read yet, or the text is in an unusual lexical mode.
    NotReady,
    /// A standby once refused this statement.
    RefusedByStandby,
}

/// Why a session must keep the server connection it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinReason {
    /// `LISTEN`.
    Listen,
    /// A temporary table, view or sequence.
    TemporaryObject,
    /// `PREPARE` as an SQL statement: the name lives in one server session.
    SqlPrepare,
    /// A cursor declared `WITH HOLD`.
    HoldCursor,
    /// A session-level advisory lock.
    AdvisoryLock,
    /// A setting changed in a way that cannot be followed (`set_config`, `SET SESSION AUTHORIZATION`).
    Settings,
    /// `LOAD`.
    Library,
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
    /// `COMMIT`, `END`, `PREPARE TRANSACTION`.
    End,
    /// `ROLLBACK`, `ABORT`.
    Rollback,
    /// `SAVEPOINT name`.
    Savepoint(Box<str>),
    /// `ROLLBACK TO SAVEPOINT name`.
    RollbackTo(Box<str>),
    /// `SET` or `RESET` of a server setting outside `LOCAL`.
    Set {
        /// The setting's name in lower case.
        name: Box<str>,
        /// The complete `SET` statement to repeat on another server connection; none after `RESET`.
        sql: Option<Box<str>>,
    },
    /// `RESET ALL`.
    ResetAll,
    /// `DISCARD ALL`.
    DiscardAll,
    /// `DISCARD PLANS | SEQUENCES | TEMP`: nothing that we keep.
    DiscardOther,
    /// `DEALLOCATE name`, or of all of them.
    Deallocate(Option<Box<str>>),
    /// The session now depends on this very server connection.
    Pin(PinReason),
    /// Changes definitions: what is known of functions may be stale from here on.
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

impl Effect {
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
    pub effects: Arc<[Effect]>,
    /// How many statements the text holds (0 for an empty query).
    pub count: usize,
    /// The commit may not have been flushed when it is acknowledged (`synchronous_commit` was
    /// touched, or code ran that could have touched it): only the insert position covers it.
    pub may_commit_async: bool,
    /// A per-statement level.
    pub hint: Option<Hint>,
    /// The text is one of `COPY … TO STDOUT | FROM STDIN`.
    pub copy: bool,
}

impl Statement {
    /// Whether all of it concerns Causeway's own settings.
    pub fn is_own(&self) -> bool {
        self.count > 0
            && self.effects.len() == self.count
            && self.effects.iter().all(Effect::is_own)
    }

    /// A text that was not looked at and therefore goes to the primary.
    pub fn unexamined(reason: WriteReason) -> Self {
        Self {
            access: Access::Write,
            write_reason: Some(reason),
            effects: Arc::from([]),
            count: 1,
            may_commit_async: true,
            hint: None,
            copy: false,
        }
    }
}
