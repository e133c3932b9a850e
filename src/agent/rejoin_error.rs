//! Why a rejoin ends without a standby, and which ends are final: nothing is copied for those.

use std::io;
use std::time::Duration;

use super::fencing_lease::Denied;
use super::inquiry::ServerState;
use super::postmaster::ServerError;
use super::state::ChangeError;
use super::tools::ToolError;

/// Why a rejoin was given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum RejoinError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("its recovery has not moved for {0:?}")]
    Stuck(Duration),
    #[error(
        "its restore_command has been under way for {0:?} and does not end; the server was left waiting for it, \
         since a copy would wait as well"
    )]
    Archive(Duration),
    #[error("{0}; it had not looked at its data yet: a copy would start no better")]
    Unstarted(ServerError),
    #[error(
        "it does not stream on timeline {timeline}, and nothing of it has moved for {bound:?}; asked, it says \
         {standing:?}"
    )]
    NotStreaming {
        bound: Duration,
        timeline: u32,
        standing: Option<ServerState>,
    },
    #[error(
        "another hand has started the server (process {0}) while it was being rejoined: nothing was changed \
         under it, and it was left running"
    )]
    Started(i32),
    #[error("{0}")]
    Text(String),
}

impl From<Denied> for RejoinError {
    fn from(denied: Denied) -> Self {
        Self::Change(denied.into())
    }
}

impl RejoinError {
    /// Whether nothing more is to be done, by whichever way.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Started(_)
                | Self::Archive(_)
                | Self::Unstarted(_)
                | Self::Tool(ToolError::Cancelled)
                | Self::Server(ServerError::Overtaken)
                | Self::Change(ChangeError::Denied(_))
        )
    }
}
