//! What all parts of one cluster share.

use std::time::Duration;

use super::Binaries;
use super::account::Account;
use super::credentials::Credentials;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) binaries: Binaries,
    pub(super) account: Account,
    pub(super) credentials: Credentials,
    /// Bound on every single operation.
    pub(super) within: Duration,
}
