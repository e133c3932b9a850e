//! What can go wrong towards a client: one kind gives the SQLSTATE, which is the metric's label as well, and the
//! level of the log line.
//!
//! The message is safe to show: it never holds a secret nor another session's data.

use std::fmt;

use tracing::Level;

/// Kinds of trouble that Causeway itself reports (PostgreSQL manual, "PostgreSQL Error Codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The client broke the protocol.
    ProtocolViolation,
    /// The client asked for something that is not offered.
    FeatureNotSupported,
    /// Wrong password, or no such user.
    InvalidPassword,
    /// The startup packet lacks something or is not allowed.
    InvalidAuthorization,
    /// No room: too many clients, or no server connection came free in time.
    TooManyConnections,
    /// A session holds all that it may.
    ProgramLimitExceeded,
    /// All sessions together hold all that they may.
    OutOfMemory,
    /// A value that a setting of ours does not take.
    InvalidParameterValue,
    /// A setting of ours that does not exist.
    UndefinedObject,
    /// A setting that is for reading only.
    CantChangeRuntimeParam,
    /// Something that has no effect outside a transaction.
    NoActiveTransaction,
    /// A transaction was rolled back for a reason outside it: it may be tried again.
    SerializationFailure,
    /// A transaction is aborted.
    InFailedTransaction,
    /// No node can serve this at present.
    CannotConnectNow,
    /// The server connection was lost and nothing can have been committed.
    ConnectionFailure,
    /// The server connection was lost after a commit was sent.
    TransactionResolutionUnknown,
    /// A promotion may have lost what the session has written or seen.
    LostWrites,
    /// A command that the console does not know.
    SyntaxError,
    /// Not for this user.
    InsufficientPrivilege,
    /// An order that cannot be carried out as things stand.
    NotInPrerequisiteState,
    /// Another order is being worked on.
    ObjectInUse,
    /// The configuration file has faults.
    ConfigFileError,
    /// A command was given up by its client.
    QueryCanceled,
    /// Nothing has failed, but something is to be looked after.
    Warning,
    /// The proxy is being shut down.
    AdminShutdown,
    /// The session was silent for as long as it had asked for.
    IdleSessionTimeout,
    /// A fault of ours.
    Internal,
}

impl Kind {
    pub fn sqlstate(self) -> &'static str {
        match self {
            Self::ProtocolViolation => "08P01",
            Self::FeatureNotSupported => "0A000",
            Self::InvalidPassword => "28P01",
            Self::InvalidAuthorization => "28000",
            Self::TooManyConnections => "53300",
            Self::ProgramLimitExceeded => "54000",
            Self::OutOfMemory => "53200",
            Self::InvalidParameterValue => "22023",
            Self::UndefinedObject => "42704",
            Self::CantChangeRuntimeParam => "55P02",
            Self::NoActiveTransaction => "25P01",
            Self::SerializationFailure => "40001",
            Self::InFailedTransaction => "25P02",
            Self::CannotConnectNow => "57P03",
            Self::ConnectionFailure => "08006",
            Self::TransactionResolutionUnknown => "08007",
            Self::LostWrites => "LW001",
            Self::SyntaxError => "42601",
            Self::InsufficientPrivilege => "42501",
            Self::NotInPrerequisiteState => "55000",
            Self::ObjectInUse => "55006",
            Self::ConfigFileError => "F0000",
            Self::QueryCanceled => "57014",
            Self::Warning => "01000",
            Self::AdminShutdown => "57P01",
            Self::IdleSessionTimeout => "57P05",
            Self::Internal => "XX000",
        }
    }
}

impl Kind {
    /// How loudly it is told to operators: what they can do something about is a warning, what only
    /// clients can is for debugging.
    pub fn level(self) -> Level {
        match self {
            Self::Internal => Level::ERROR,
            Self::TooManyConnections
            | Self::OutOfMemory
            | Self::CannotConnectNow
            | Self::ConnectionFailure
            | Self::TransactionResolutionUnknown
            | Self::LostWrites => Level::WARN,
            Self::ProtocolViolation
            | Self::InvalidPassword
            | Self::InvalidAuthorization
            | Self::InsufficientPrivilege
            | Self::SerializationFailure
            | Self::ConfigFileError
            | Self::AdminShutdown
            | Self::IdleSessionTimeout => Level::INFO,
            Self::FeatureNotSupported
            | Self::ProgramLimitExceeded
            | Self::InvalidParameterValue
            | Self::UndefinedObject
            | Self::CantChangeRuntimeParam
            | Self::NoActiveTransaction
            | Self::InFailedTransaction
            | Self::SyntaxError
            | Self::QueryCanceled
            | Self::Warning
            | Self::NotInPrerequisiteState
            | Self::ObjectInUse => Level::DEBUG,
        }
    }
}

/// An error or notice that Causeway originates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: Kind,
    /// The connection ends with it.
    pub fatal: bool,
    /// What happened, to which node.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl Problem {
    /// An error after which the session goes on.
    pub fn error(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            fatal: false,
            message: message.into(),
            detail: None,
            hint: None,
        }
    }

    /// An error that ends the connection.
    pub fn fatal(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            fatal: true,
            ..Self::error(kind, message)
        }
    }

    /// Adds what to do.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds more of what happened.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.kind.sqlstate())
    }
}

impl std::error::Error for Problem {}
