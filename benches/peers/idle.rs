//! What an idle client costs: memory while it stays, CPU while it logs in.

use std::time::Duration;

use pgcauseway::rig::Cluster;

use super::contestant::{Contestant, proxies};
use super::options::Options;
use super::{pgbouncer, process};
use crate::Outcome;

/// One proxy with many idle clients.
#[derive(Clone, Debug)]
pub(crate) struct Idle {
    pub(crate) name: String,
    /// Memory that came with the clients, for each.
    pub(crate) growth_kib: f64,
    /// All of the proxy's memory, for each client.
    pub(crate) whole_kib: f64,
    /// CPU for a login and one query.
    pub(crate) login_us: f64,
}

/// Measures every proxy, freshly started, one after the other.
pub(crate) async fn measure(cluster: &Cluster, options: &Options) -> Outcome<Vec<Idle>> {
    let program = pgbouncer::Program::find(options.pgbouncer.as_deref())?;
    let mut figures = Vec::new();
    for kind in proxies(&program, options) {
        let proxy = Contestant::start(kind, cluster, options, &program).await?;
        figures.push(one(&proxy, options.idle_clients).await?);
    }
    Ok(figures)
}

async fn one(proxy: &Contestant, clients: usize) -> Outcome<Idle> {
    let pid = proxy.pid().ok_or("the proxy is gone")?;
    // The first sessions make pools and caches, which are not the clients' own.
    for _ in 0..3 {
        proxy.connect().await?.simple_query("SELECT 1").await?;
    }
    settle().await;
    let (before, memory) = (process::sample(pid)?, process::resident_kib(pid)?);
    let mut idle = Vec::with_capacity(clients);
    for _ in 0..clients {
        let client = proxy.connect().await?;
        client.simple_query("SELECT 1").await?;
        idle.push(client);
    }
    let after = process::sample(pid)?;
    settle().await;
    let full = process::resident_kib(pid)?;
    let count = clients as f64;
    Ok(Idle {
        name: proxy.name.clone(),
        growth_kib: full.saturating_sub(memory) as f64 / count,
        whole_kib: full as f64 / count,
        login_us: after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / count,
    })
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}
