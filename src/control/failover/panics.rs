//! A panic of what others rely on is theirs as well: without it nobody knows what is so.

use tokio::task::JoinError;

/// Goes on with the panic by which a task has ended, if that is how.
pub(super) fn propagate(error: JoinError) {
    if error.is_panic() {
        std::panic::resume_unwind(error.into_panic());
    }
}
