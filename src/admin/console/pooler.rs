//! The console's tables that PgBouncer has as well. Columns of the same meaning have its names, and
//! what is not counted here has no column, so that nobody charts an invented zero.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::{maybe, table, text};
use crate::admin::State;
use crate::config::{ClientTlsMode, PoolMode};
use crate::shared::admin::Answer;

fn pool_mode(state: &State) -> &'static str {
    match state.live.load().pool.mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
    }
}

/// By database and user, over all nodes: PgBouncer's exporters take these two for a key.
pub(super) fn pools(state: &State) -> Answer {
    #[derive(Default)]
    struct Row {
        clients: usize,
        waiting: usize,
        since: Option<Instant>,
        active: usize,
        idle: usize,
    }
    impl Row {
        fn waits(&mut self, clients: usize, since: Option<Instant>) {
            self.waiting += clients;
            self.since = [self.since, since].into_iter().flatten().min();
        }
    }
    let mut rows: BTreeMap<(Arc<str>, Arc<str>), Row> = BTreeMap::new();
    for client in state.connections.clients() {
        let key = (Arc::clone(&client.database), Arc::clone(&client.user));
        let row = rows.entry(key).or_default();
        row.clients += 1;
        row.waits(
            usize::from(client.paused_since().is_some()),
            client.paused_since(),
        );
    }
    for pool in state.connections.pools().iter() {
        let key = (Arc::clone(&pool.database), Arc::clone(&pool.user));
        let row = rows.entry(key).or_default();
        row.waits(pool.waiting, pool.waiting_since);
        row.active += pool.active;
        row.idle += pool.idle;
    }
    let rows = rows.into_iter().map(|((database, user), row)| {
        let waited = row.since.map_or(Duration::ZERO, |since| since.elapsed());
        vec![
            text(database),
            text(user),
            text(row.clients.saturating_sub(row.waiting)),
            text(row.waiting),
            text(row.active),
            text(row.idle),
            text(waited.as_secs()),
            text(waited.subsec_micros()),
            text(pool_mode(state)),
        ]
    });
    let columns = vec![
        "database",
        "user",
        "cl_active",
        "cl_waiting",
        "sv_active",
        "sv_idle",
        "maxwait",
        "maxwait_us",
        "pool_mode",
    ];
    table(columns, rows.collect())
}

pub(super) fn clients(state: &State) -> Answer {
    let clients = state.connections.clients().into_iter();
    let rows = clients.map(|client| {
        let since = client.connected.duration_since(UNIX_EPOCH);
        vec![
            text("C"),
            text(&client.user),
            text(&client.database),
            text(match (client.paused_since().is_some(), client.is_busy()) {
                (true, _) => "waiting",
                (false, true) => "active",
                (false, false) => "idle",
            }),
            maybe(client.address.map(|address| address.ip())),
            maybe(client.address.map(|address| address.port())),
            text(time_of(since.map_or(0, |since| since.as_millis() as u64))),
            text(client.id),
            text(client.pins()),
            text(client.channels()),
            // PgBouncer's is empty without TLS.
            text(client.encryption.as_deref().unwrap_or_default()),
        ]
    });
    let columns = vec![
        "type",
        "user",
        "database",
        "state",
        "addr",
        "port",
        "connect_time",
        "id",
        "pinned",
        "channels",
        "tls",
    ];
    table(columns, rows.collect())
}

/// One row for each pool of a node: connections are counted, not named.
pub(super) fn servers(state: &State) -> Answer {
    let pools = state.connections.pools();
    let config = state.live.load();
    let rows = pools.iter().filter_map(|pool| {
        let node = config.nodes.get(usize::from(pool.node.0))?;
        Some(vec![
            text("S"),
            text(&pool.user),
            text(&pool.database),
            text(&node.name),
            text(&node.host),
            text(node.port),
            text(pool.active),
            text(pool.idle),
            text(pool.waiting),
        ])
    });
    let columns = vec![
        "type",
        "user",
        "database",
        "node",
        "addr",
        "port",
        "sv_active",
        "sv_idle",
        "cl_waiting",
    ];
    table(columns, rows.collect())
}

/// Every database that has been asked for; host and port are the primary's. There is neither a least nor
/// a reserve nor a bound for a whole database: PgBouncer says 0.
pub(super) fn databases(state: &State) -> Answer {
    let topology = state.cluster.topology();
    let config = state.live.load();
    let primary = topology.primary();
    let primary = primary.and_then(|node| config.nodes.get(usize::from(node.id.0)));
    let pools = state.connections.pools();
    let held = state.pause.held();
    let names: BTreeSet<Arc<str>> = state.cluster.catalogs.databases().into_iter().collect();
    let rows = names.into_iter().map(|name| {
        let open = pools.iter().filter(|pool| pool.database == name);
        let open: usize = open.map(|pool| pool.active + pool.idle).sum();
        vec![
            text(&name),
            maybe(primary.map(|node| &node.host)),
            maybe(primary.map(|node| node.port)),
            text(&name),
            None,
            text(config.pool.size),
            text(0),
            text(0),
            text(pool_mode(state)),
            text(0),
            text(open),
            text(u8::from(held.holds(&name))),
            text(0),
        ]
    });
    let columns = vec![
        "name",
        "host",
        "port",
        "database",
        "force_user",
        "pool_size",
        "min_pool_size",
        "reserve_pool",
        "pool_mode",
        "max_connections",
        "current_connections",
        "paused",
        "disabled",
    ];
    table(columns, rows.collect())
}

/// Counters since the start; times in microseconds, as PgBouncer's are.
pub(super) fn stats(state: &State) -> Answer {
    let traffic = state.connections.traffic().into_iter();
    let rows = traffic.map(|(database, done)| {
        vec![
            text(database),
            text(done.transactions),
            text(done.units),
            text(done.time_us),
            text(done.time_us.checked_div(done.units).unwrap_or(0)),
        ]
    });
    let columns = vec![
        "database",
        "total_xact_count",
        "total_query_count",
        "total_query_time",
        "avg_query_time",
    ];
    table(columns, rows.collect())
}

/// The same counters under the names of `SHOW STATS_TOTALS`.
pub(super) fn stats_totals(state: &State) -> Answer {
    let traffic = state.connections.traffic().into_iter();
    let rows = traffic.map(|(database, done)| {
        vec![
            text(database),
            text(done.transactions),
            text(done.units),
            text(done.time_us),
        ]
    });
    let columns = vec!["database", "xact_count", "query_count", "query_time"];
    table(columns, rows.collect())
}

pub(super) fn lists(state: &State) -> Answer {
    let pools = state.connections.pools();
    let clients = state.connections.clients().len();
    let config = state.live.load();
    let pairs = [
        ("databases", state.cluster.catalogs.databases().len()),
        ("users", config.auth.users.len()),
        ("pools", pools.len()),
        ("free_clients", config.max_clients.saturating_sub(clients)),
        ("used_clients", clients),
        ("free_servers", pools.iter().map(|pool| pool.idle).sum()),
        ("used_servers", pools.iter().map(|pool| pool.active).sum()),
    ];
    let rows = pairs.map(|(name, count)| vec![text(name), text(count)]);
    table(vec!["list", "items"], rows.into())
}

/// What sessions make the proxy hold, in bytes, and how much that may be.
pub(super) fn mem(state: &State) -> Answer {
    let memory = &state.memory;
    let rows = [
        ("held", memory.held()),
        ("total", memory.total()),
        ("session", memory.session()),
    ];
    let rows = rows.map(|(name, bytes)| vec![text(name), text(bytes)]);
    table(vec!["name", "bytes"], rows.into())
}

/// Shown keys that a reload leaves as they are.
const FIXED: [&str; 3] = ["listen", "admin.http", "pool.mode"];

/// The configuration in force, without secrets. Two keys have PgBouncer's names beside ours, since its
/// exporters look for them.
pub(super) fn config(state: &State) -> Answer {
    let config = state.live.load();
    let ms = |span: std::time::Duration| text(format!("{}ms", span.as_secs_f64() * 1000.0));
    let (own_mode, sslmode) = match config.tls.client.mode {
        ClientTlsMode::Off => ("off", "disable"),
        ClientTlsMode::Prefer => ("prefer", "prefer"),
        ClientTlsMode::Require => ("require", "require"),
    };
    let mut pairs = vec![
        ("listen", text(config.listen)),
        ("admin.http", maybe(config.admin.http)),
        ("admin.users", text(config.admin.users.join(","))),
        ("max_clients", text(config.max_clients)),
        ("max_client_conn", text(config.max_clients)),
        ("tls.client.mode", text(own_mode)),
        ("client_tls_sslmode", text(sslmode)),
        ("pool.mode", text(pool_mode(state))),
        ("pool.size", text(config.pool.size)),
        ("default_pool_size", text(config.pool.size)),
        ("pool.wait_timeout", ms(config.pool.wait_timeout)),
        ("pool.connect_timeout", ms(config.pool.connect_timeout)),
        ("pool.idle_timeout", ms(config.pool.idle_timeout)),
        ("pool.max_prepared", text(config.pool.max_prepared)),
        ("memory.total", text(config.memory.total)),
        ("memory.session", text(config.memory.session)),
        ("monitor.interval", ms(config.monitor.interval)),
        ("monitor.timeout", ms(config.monitor.timeout)),
        (
            "routing.consistency",
            text(config.routing.consistency.name()),
        ),
        ("routing.catchup_wait", ms(config.routing.catchup_wait)),
        ("routing.max_lag", ms(config.routing.max_lag)),
        ("routing.zone", config.routing.zone.clone()),
        ("failover.hold_timeout", ms(config.hold_timeout)),
    ];
    let mode = state.operator.status.get().mode.clone();
    let mode = if mode.is_empty() {
        "off".to_owned()
    } else {
        mode
    };
    pairs.push(("failover.mode", Some(mode)));
    let rows = pairs.into_iter();
    let changeable = |key| match FIXED.contains(&key) {
        true => "no",
        false => "yes",
    };
    let rows = rows.map(|(key, value)| vec![text(key), value, None, text(changeable(key))]);
    table(
        vec!["key", "value", "default", "changeable"],
        rows.collect(),
    )
}

/// A time in milliseconds of the Unix epoch as `2026-01-31 12:34:56 UTC`.
pub(super) fn time_of(ms: u64) -> String {
    let seconds = ms / 1000;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    // Days to a date in the proleptic Gregorian calendar, by eras of 400 years that begin in March
    // (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(time_of(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(time_of(951_782_399_000), "2000-02-28 23:59:59 UTC");
        assert_eq!(time_of(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(time_of(1_798_761_599_999), "2026-12-31 23:59:59 UTC");
    }
}
