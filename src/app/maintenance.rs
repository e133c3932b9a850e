//! Carrying out what operators ask of the proxy as a whole: a reload above all.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::pools::Pools;
use crate::client::rules::{LiveRules, Rules};
use crate::config::{self, Config, Live};
use crate::core::topology::NodeId;
use crate::logging::Switch;
use crate::metrics::Metrics;
use crate::metrics::process::ReloadOutcome;
use crate::shared::cluster::ClusterState;
use crate::shared::maintenance::{Maintenance, NotReloaded, Reloaded, Reloading};
use crate::shared::memory::MemoryBudget;
use crate::shared::operator::OperatorState;

/// Bound on reading the file and what it names.
const READ_BOUND: Duration = Duration::from_secs(30);

/// Sets the gauges that say what the configuration allows.
pub(super) fn show_limits(metrics: &Metrics, config: &Config) {
    metrics.pools.size.set(config.pool.size as i64);
    let max_clients = config.max_clients as i64;
    metrics.clients.connections_max.set(max_clients);
}

/// Everything that a reload changes.
pub(super) struct Maintainer {
    pub(super) live: Arc<Live>,
    pub(super) rules: LiveRules,
    pub(super) pools: Arc<Pools>,
    pub(super) cluster: Arc<ClusterState>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) operator: Arc<OperatorState>,
    pub(super) memory: Arc<MemoryBudget>,
    pub(super) log: Option<Switch>,
    /// Held from the reading to the end of the change.
    pub(super) one_at_a_time: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Maintainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maintainer").finish_non_exhaustive()
    }
}

impl Maintenance for Maintainer {
    fn reload<'a>(&'a self, from: &'a str) -> Reloading<'a> {
        Box::pin(async move {
            let _one_at_a_time = self.one_at_a_time.lock().await;
            match self.read().await {
                Ok(next) => Ok(self.take_over(next, from)),
                Err(not) => {
                    self.metrics.process.reloaded(ReloadOutcome::Refused);
                    for fault in &not.faults {
                        tracing::error!(from, %fault, "the configuration was not reloaded; nothing has changed");
                    }
                    self.operator.events.tell("reload_refused", not.to_string());
                    Err(not)
                }
            }
        })
    }

    fn close_idle(&self, database: Option<&str>) -> usize {
        self.pools.close_idle(database)
    }

    fn open_on(&self, node: NodeId) -> usize {
        self.pools.open_on(node)
    }

    fn tidy(&self) {
        self.pools.tidy();
    }
}

/// All that can fail is done.
struct Next {
    reload: config::Reload,
    rules: Rules,
    advice: Vec<String>,
}

impl Maintainer {
    /// Reads and checks the file, and derives what takes time: each new password is hashed.
    async fn read(&self) -> Result<Next, NotReloaded> {
        let (running, before) = (self.live.current(), self.rules.load_full());
        let work = tokio::task::spawn_blocking(move || {
            let wanted = Config::load(&running.file).map_err(|faults| NotReloaded {
                faults: faults.iter().map(ToString::to_string).collect(),
            })?;
            let advice = wanted.advice();
            let reload = config::reload(&running, wanted);
            let config = Arc::new(reload.config.clone());
            let rules = Rules::derive(config, Some(&before)).map_err(|error| not(&error))?;
            Ok(Next {
                reload,
                rules,
                advice,
            })
        });
        match tokio::time::timeout(READ_BOUND, work).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => Err(not(&error)),
            Err(_) => Err(not(&format!("the file was not read within {READ_BOUND:?}"))),
        }
    }

    fn take_over(&self, next: Next, from: &str) -> Reloaded {
        let Next {
            reload,
            rules,
            advice,
        } = next;
        let (config, rules) = (Arc::clone(&rules.config), Arc::new(rules));
        let filter = &config.log.filter;
        if *filter != self.live.load().log.filter
            && let Some(Err(error)) = self.log.as_ref().map(|switch| switch(filter))
        {
            tracing::error!(error, "change the log's filter");
        }
        self.live.replace(Arc::clone(&config));
        self.rules.store(Arc::clone(&rules));
        self.pools.adopt(&config.pool, |user| {
            let account = rules.users.get(user);
            account.map(|account| account.server_password.clone())
        });
        let bounds = config.memory;
        self.memory.set_bounds(bounds.total, bounds.session);
        self.cluster.reconfigure(&config);
        show_limits(&self.metrics, &config);
        self.metrics.process.reloaded(ReloadOutcome::Applied);
        self.metrics.process.config_was_read();
        let reloaded = Reloaded {
            applied: reload.applied,
            restart: reload.restart,
        };
        tracing::info!(from, "configuration reloaded; {reloaded}");
        for key in &reloaded.restart {
            tracing::warn!(key, "the change needs a restart");
        }
        advice.iter().for_each(|advice| tracing::warn!("{advice}"));
        self.operator
            .events
            .tell("reloaded", format!("configuration reloaded; {reloaded}"));
        reloaded
    }
}

fn not(error: &impl ToString) -> NotReloaded {
    NotReloaded {
        faults: vec![error.to_string()],
    }
}
