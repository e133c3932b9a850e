//! Why there is no report.

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The options make no sense.
    #[error("{0}")]
    Usage(String),
    /// The endpoint could not be reached or prepared.
    #[error("{0}")]
    Unavailable(String),
    /// Stopped before anything was checked.
    #[error("stopped before the check began")]
    Stopped,
    /// A fault of the checker itself.
    #[error("{0}")]
    Internal(String),
}

impl VerifyError {
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// The exit code, by sysexits.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Unavailable(_) | Self::Stopped => 69,
            Self::Internal(_) => 70,
        }
    }
}
