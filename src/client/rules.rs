//! What sessions go by of the configuration in force, derived from it once. A reload replaces it as a
//! whole; a session looks for a new one whenever it places a batch, which costs a comparison.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::config::{Config, Secret};
use crate::core::route::Policy;
use crate::wire::auth::Verifier;

/// The rules in force, shared by all workers.
pub type LiveRules = Arc<ArcSwap<Rules>>;

/// What sessions go by.
#[derive(Debug)]
pub struct Rules {
    /// The configuration.
    pub config: Arc<Config>,
    /// What every batch needs of it.
    pub bounds: Bounds,
    /// By user name: how to check a client, and what to show the servers.
    pub users: HashMap<String, Arc<Account>>,
}

/// What every batch needs.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The routing policy.
    pub policy: Policy,
    /// Longest wait of a statement for a primary.
    pub hold_timeout: Duration,
    /// Named prepared statements kept on one server connection.
    pub max_prepared: usize,
    /// A session whose writes may be lost is warned, rather than refused a statement.
    pub warns_of_lost_writes: bool,
    /// A transaction is identified before its COMMIT.
    pub resolves_commits: bool,
}

/// A user who may log in.
#[derive(Debug)]
pub struct Account {
    /// Checks the client's proof.
    pub verifier: Verifier,
    /// For the servers.
    pub server_password: Option<Secret>,
}
