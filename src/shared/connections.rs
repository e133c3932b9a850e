//! Who is connected, to whom, and what was done: clients and pools write it, the console reads it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Serialize;

use crate::core::residue::Pins;
use crate::core::topology::NodeId;

/// Everybody who is connected, and what they have done.
#[derive(Debug, Default)]
pub struct Connections {
    clients: Mutex<HashMap<u64, Arc<Client>>>,
    next: AtomicU64,
    traffic: Mutex<BTreeMap<Arc<str>, Arc<Traffic>>>,
    pools: ArcSwap<Vec<PoolEntry>>,
}

/// A client that has logged in.
#[derive(Debug)]
pub struct Client {
    /// Unique over the process's life.
    pub id: u64,
    pub user: Arc<str>,
    pub database: Arc<str>,
    /// Where from, if that could be found out.
    pub address: Option<SocketAddr>,
    /// Version, cipher and key exchange of its TLS, if it has come by that.
    pub encryption: Option<String>,
    pub connected: SystemTime,
    /// A statement of it is being worked on.
    busy: AtomicBool,
    /// What keeps it on its server connection.
    pins: Mutex<Pins>,
    /// Channels that it listens to by a connection that it shares.
    channels: AtomicUsize,
    /// Since when it waits for a paused database.
    paused: Mutex<Option<Instant>>,
    traffic: Arc<Traffic>,
}

/// What has been done for a database.
#[derive(Debug, Default)]
pub struct Traffic {
    transactions: AtomicU64,
    units: AtomicU64,
    time_us: AtomicU64,
}

/// A `Traffic` at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Transactions, a statement outside of one counted as one.
    pub transactions: u64,
    /// Simple queries, and extended batches up to Sync.
    pub units: u64,
    /// From arrival to the end of the answer, in microseconds.
    pub time_us: u64,
}

/// Sessions that keep a server connection outside of transactions, for what they have left on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pinned {
    pub sessions: usize,
    /// By reason; a session may have several.
    pub reasons: BTreeMap<&'static str, usize>,
}

/// A pool of server connections: its node, its database and its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolEntry {
    pub node: NodeId,
    pub database: Arc<str>,
    pub user: Arc<str>,
    pub active: usize,
    pub idle: usize,
    /// Clients that wait for a connection.
    pub waiting: usize,
    /// Since when the first of them waits.
    pub waiting_since: Option<Instant>,
}

/// A client's entry; struck out when dropped.
#[derive(Debug)]
pub struct Entry {
    client: Arc<Client>,
    connections: Arc<Connections>,
}

impl Connections {
    pub fn enter(
        self: &Arc<Self>,
        user: &Arc<str>,
        database: &Arc<str>,
        address: Option<SocketAddr>,
        encryption: Option<String>,
    ) -> Entry {
        let traffic = Arc::clone(self.traffic.lock().entry(Arc::clone(database)).or_default());
        let client = Arc::new(Client {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            user: Arc::clone(user),
            database: Arc::clone(database),
            address,
            encryption,
            connected: SystemTime::now(),
            busy: AtomicBool::new(false),
            pins: Mutex::default(),
            channels: AtomicUsize::new(0),
            paused: Mutex::default(),
            traffic,
        });
        self.clients.lock().insert(client.id, Arc::clone(&client));
        Entry {
            client,
            connections: Arc::clone(self),
        }
    }

    pub fn clients(&self) -> Vec<Arc<Client>> {
        let mut clients: Vec<_> = self.clients.lock().values().cloned().collect();
        clients.sort_unstable_by_key(|client| client.id);
        clients
    }

    /// Who keeps a server connection, and why.
    pub fn pinned(&self) -> Pinned {
        let mut pinned = Pinned::default();
        for client in self.clients.lock().values() {
            let pins = client.pins();
            pinned.sessions += usize::from(!pins.is_empty());
            for reason in pins.iter() {
                *pinned.reasons.entry(reason.label()).or_default() += 1;
            }
        }
        pinned
    }

    /// Sessions that listen without keeping a server connection for that.
    pub fn listening(&self) -> usize {
        let clients = self.clients.lock();
        clients
            .values()
            .filter(|client| client.channels() > 0)
            .count()
    }

    /// What has been done, by database.
    pub fn traffic(&self) -> Vec<(Arc<str>, Done)> {
        let traffic = self.traffic.lock();
        let done = traffic.iter().map(|(database, traffic)| {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let done = Done {
                transactions: load(&traffic.transactions),
                units: load(&traffic.units),
                time_us: load(&traffic.time_us),
            };
            (Arc::clone(database), done)
        });
        done.collect()
    }

    /// Replaces what is known of the pools.
    pub fn set_pools(&self, mut pools: Vec<PoolEntry>) {
        pools.sort_unstable_by(|a, b| {
            (&a.database, &a.user, a.node).cmp(&(&b.database, &b.user, b.node))
        });
        self.pools.store(Arc::new(pools));
    }

    /// The pools as of at most half a second ago, by database, user and node.
    pub fn pools(&self) -> Arc<Vec<PoolEntry>> {
        self.pools.load_full()
    }
}

impl Client {
    /// Whether a statement of it is being worked on.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// What keeps it on its server connection.
    pub fn pins(&self) -> Pins {
        *self.pins.lock()
    }

    /// How many channels it listens to by a connection that it shares.
    pub fn channels(&self) -> usize {
        self.channels.load(Ordering::Relaxed)
    }

    /// Since when it waits for a paused database, if it does.
    pub fn paused_since(&self) -> Option<Instant> {
        *self.paused.lock()
    }
}

impl Entry {
    /// A unit has arrived.
    pub fn begin(&self) {
        self.client.busy.store(true, Ordering::Relaxed);
    }

    /// This keeps it on its server connection from now on.
    pub fn pinned(&self, pins: Pins) {
        let before = std::mem::replace(&mut *self.client.pins.lock(), pins);
        if before.is_empty() && !pins.is_empty() {
            let Client { id, user, .. } = &*self.client;
            let database = &self.client.database;
            tracing::info!(client = id, %user, %database, why = %pins, "pin a session to its server connection");
        }
    }

    /// It listens to so many channels by a connection that it shares.
    pub fn listens(&self, channels: usize) {
        self.client.channels.store(channels, Ordering::Relaxed);
    }

    /// It waits for a paused database, or does so no longer.
    pub fn pause(&self, paused: bool) {
        *self.client.paused.lock() = paused.then(Instant::now);
    }

    /// It has been answered, and with it perhaps the transaction has ended.
    pub fn end(&self, took: Duration, transaction_over: bool) {
        let Client { busy, traffic, .. } = &*self.client;
        busy.store(false, Ordering::Relaxed);
        traffic.units.fetch_add(1, Ordering::Relaxed);
        let us = took.as_micros() as u64;
        traffic.time_us.fetch_add(us, Ordering::Relaxed);
        if transaction_over {
            traffic.transactions.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.clients.lock().remove(&self.client.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::statement::PinReason;

    #[test]
    fn clients_come_and_go_and_leave_what_they_did() {
        let connections = Arc::new(Connections::default());
        let (user, database) = (Arc::from("u"), Arc::from("d"));
        let entry = connections.enter(&user, &database, None, None);
        entry.begin();
        assert!(connections.clients()[0].is_busy());
        entry.end(Duration::from_micros(7), true);
        assert!(!connections.clients()[0].is_busy());
        let mut pins = Pins::default();
        pins.insert(PinReason::Listen);
        pins.insert(PinReason::Seed);
        entry.pinned(pins);
        let pinned = connections.pinned();
        let reasons = BTreeMap::from([("listen", 1), ("seed", 1)]);
        assert_eq!((pinned.sessions, pinned.reasons), (1, reasons));
        entry.pinned(Pins::default());
        assert_eq!(connections.pinned(), Pinned::default());
        drop(entry);
        assert!(connections.clients().is_empty());
        let done = Done {
            transactions: 1,
            units: 1,
            time_us: 7,
        };
        assert_eq!(connections.traffic(), [(database, done)]);
    }
}
