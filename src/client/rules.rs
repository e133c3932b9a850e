//! What sessions go by of the configuration in force, derived from it once. A reload replaces it as a
//! whole; a session looks for a new one whenever it places a batch, which costs a comparison.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::config::{AuthMethod, Config, Durability, OnLostWrites, PoolMode, Secret};
use crate::core::route::Policy;
use crate::tls::TlsError;
use crate::tls::client_leg::ClientLeg;
use crate::wire::auth::Verifier;

/// Longest wait for proof that the primary shows what a standby has shown.
const VISIBILITY_WAIT: Duration = Duration::from_secs(1);

/// Something in the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A user's password.
    #[error("the password of user \"{0}\" is not one that the authentication method can check")]
    Password(String),
    /// What TLS towards clients is made of.
    #[error("prepare TLS towards clients: {0}")]
    Tls(#[from] TlsError),
}

/// The rules in force, shared by all workers.
pub type LiveRules = Arc<ArcSwap<Rules>>;

/// What sessions go by.
#[derive(Debug)]
pub struct Rules {
    pub config: Arc<Config>,
    /// What every batch needs of it.
    pub bounds: Bounds,
    /// By user name: how to check a client, and what to show the servers.
    pub users: HashMap<String, Arc<Account>>,
    /// The TLS that clients are offered, if they are.
    pub client_leg: Option<Arc<ClientLeg>>,
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

/// What no reload changes.
#[derive(Debug)]
pub struct StartConfig {
    pub pool_mode: PoolMode,
    /// In configuration order.
    pub node_names: Vec<String>,
}

impl StartConfig {
    pub fn of(config: &Config) -> Self {
        let names = config.nodes.iter().map(|node| node.name.clone());
        Self {
            pool_mode: config.pool.mode,
            node_names: names.collect(),
        }
    }
}

/// A user who may log in.
#[derive(Debug)]
pub struct Account {
    /// Checks the client's proof.
    pub verifier: Verifier,
    /// For the servers.
    pub server_password: Option<Secret>,
}

impl Rules {
    /// Accounts that have not changed are taken from the rules before: to derive one from a password
    /// costs thousands of hashes.
    ///
    /// # Errors
    ///
    /// A password that the authentication method cannot check, or certificates that do not serve.
    pub fn derive(config: Arc<Config>, before: Option<&Self>) -> Result<Self, RulesError> {
        let failover = config.failover.as_ref();
        let warns = |on_lost_writes| on_lost_writes == OnLostWrites::Warn;
        Ok(Self {
            bounds: Bounds {
                policy: policy(&config),
                hold_timeout: config.hold_timeout,
                max_prepared: config.pool.max_prepared,
                warns_of_lost_writes: failover.is_some_and(|f| warns(f.on_lost_writes)),
                resolves_commits: failover.is_some_and(|f| f.resolve_commits),
            },
            users: accounts(&config, before)?,
            client_leg: client_leg(&config, before)?,
            config,
        })
    }
}

fn policy(config: &Config) -> Policy {
    let us = |duration: Duration| duration.as_micros() as u64;
    Policy {
        catchup_wait_us: us(config.routing.catchup_wait),
        max_lag_us: us(config.routing.max_lag),
        visibility_wait_us: us(VISIBILITY_WAIT),
        lossless: config
            .failover
            .as_ref()
            .is_some_and(|failover| failover.durability == Durability::Quorum),
    }
}

fn client_leg(
    config: &Config,
    before: Option<&Rules>,
) -> Result<Option<Arc<ClientLeg>>, RulesError> {
    match before.filter(|before| before.config.tls.client == config.tls.client) {
        Some(before) => Ok(before.client_leg.clone()),
        None => Ok(ClientLeg::new(&config.tls.client)?.map(Arc::new)),
    }
}

fn accounts(
    config: &Config,
    before: Option<&Rules>,
) -> Result<HashMap<String, Arc<Account>>, RulesError> {
    let mut accounts = HashMap::new();
    for (name, user) in &config.auth.users {
        // The method stays for the proxy's life.
        let same = before.filter(|before| before.config.auth.users.get(name) == Some(user));
        if let Some(account) = same.and_then(|before| before.users.get(name)) {
            accounts.insert(name.clone(), Arc::clone(account));
            continue;
        }
        let password = user.password.as_ref().map(Secret::reveal);
        let verifier = match (config.auth.method, password) {
            (AuthMethod::Trust, _) => Some(Verifier::Trust),
            (AuthMethod::Md5, Some(password)) => Some(Verifier::md5(name, password)),
            (AuthMethod::ScramSha256, Some(password)) => Verifier::scram(password),
            (_, None) => None,
        };
        let verifier = verifier.ok_or_else(|| RulesError::Password(name.clone()))?;
        let account = Account {
            verifier,
            server_password: user.server_password.clone(),
        };
        accounts.insert(name.clone(), Arc::new(account));
    }
    Ok(accounts)
}
