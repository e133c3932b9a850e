//! A transaction of which no server knows any more, while its client has not ended it.

use crate::core::exchange::TransactionStatus;

/// Whether the session stands in a transaction that no server knows any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::client) enum Aborted {
    /// It does not.
    #[default]
    No,
    /// It does, and has not been told: its client said nothing since.
    Untold,
    /// It does, and was told.
    Told,
}

impl Aborted {
    /// What the client is told of its transaction while it holds no server.
    pub(in crate::client) fn status(self) -> TransactionStatus {
        match self {
            Self::No => TransactionStatus::Idle,
            Self::Untold | Self::Told => TransactionStatus::Failed,
        }
    }
}
