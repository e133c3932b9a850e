//! A small model of PostgreSQL replication and of the monitor, to drive `core::route::decide`.
//!
//! It knows the truth: which transactions each server shows at each moment. A commit record can be
//! shipped before the primary shows the commit; an asynchronous commit is shown before it is
//! flushed; a restarted standby goes back. Probes leave, are carried out in two halves and answered
//! in any order with everything else, or are lost. Every event is a few numbers, so that a history
//! can be shrunk.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use pgcauseway::core::gauge::{Gauge, Measurement, Position};
use pgcauseway::core::lsn::{Lsn, Timeline};
use pgcauseway::core::topology::{Incarnation, Life, NodeId, NodeView, Role, Topology};
use pgcauseway::core::visibility::{FinishedIds, Snapshot, end_of_commits};

/// A transaction id.
pub(crate) type Xid = u64;

/// The primary is node 0.
pub(crate) const NODES: usize = 3;

/// The servers as they truly are.
#[derive(Default)]
pub(crate) struct Servers {
    next_xid: Xid,
    /// Everything the primary shows.
    pub(crate) shown: BTreeSet<Xid>,
    running: BTreeSet<Xid>,
    /// Commit records in order; a position is a number of records.
    wal: Vec<Xid>,
    flushed: usize,
    /// `synchronous_commit` is off.
    pub(crate) asynchronous: bool,
    replayed: [usize; NODES],
    /// How often each server was restarted.
    pub(crate) lives: [u64; NODES],
}

impl Servers {
    pub(crate) fn begin(&mut self) -> Xid {
        self.next_xid += 1;
        self.running.insert(self.next_xid);
        self.next_xid
    }

    /// Writes the commit record; on disk at once unless asynchronous.
    pub(crate) fn log(&mut self, xid: Xid, asynchronous: bool) {
        self.wal.push(xid);
        if !asynchronous && !self.asynchronous {
            self.flushed = self.wal.len();
        }
    }

    pub(crate) fn show(&mut self, xid: Xid) {
        self.running.remove(&xid);
        self.shown.insert(xid);
    }

    pub(crate) fn flush(&mut self) {
        self.flushed = self.wal.len();
    }

    pub(crate) fn replay(&mut self, standby: usize, records: usize) {
        let to = self.replayed[standby] + records;
        self.replayed[standby] = to.min(self.flushed);
    }

    /// A standby starts again from an older state.
    pub(crate) fn restart(&mut self, standby: usize, back: usize) {
        self.lives[standby] += 1;
        self.replayed[standby] = self.replayed[standby].saturating_sub(back);
    }

    /// What a statement that starts now on a node sees.
    pub(crate) fn sees(&self, node: usize) -> BTreeSet<Xid> {
        match node {
            0 => self.shown.clone(),
            standby => self.wal[..self.replayed[standby]].iter().copied().collect(),
        }
    }

    fn position(&self, node: usize) -> Position {
        let lsn = |records: usize| Lsn(1000 + records as u64);
        match node {
            0 => Position {
                flush: lsn(self.flushed),
                insert: lsn(self.wal.len()),
                commits: lsn(self.wal.len()),
            },
            standby => Position::replayed(lsn(self.replayed[standby])),
        }
    }

    /// `pg_snapshot_xmax`: one more than the latest transaction that has ended.
    fn xmax(&self, node: usize) -> Xid {
        self.sees(node).last().copied().unwrap_or(0) + 1
    }

    fn running_below(&self, xmax: Xid) -> Arc<[Xid]> {
        self.running.range(..xmax).copied().collect()
    }
}

/// A probe on its way.
struct Flight {
    number: u64,
    asked: Arc<[Xid]>,
    xmax: Option<Xid>,
    running: Arc<[Xid]>,
    asynchronous: bool,
    position: Option<Position>,
}

/// A monitoring connection.
struct Connection {
    incarnation: Incarnation,
    gauge: Arc<Gauge>,
    /// The server's life in which it was made.
    server_life: u64,
    replayed: Lsn,
    /// What the primary's latest answer showed, and the end of its commits.
    shown: Option<(Snapshot, Lsn)>,
    flight: Option<Flight>,
}

/// The monitor's side, after `control::monitor` and `control::probe`.
pub(crate) struct Monitor {
    pub(crate) topology: Topology,
    connections: [Option<Connection>; NODES],
    /// Gauge and server's life of every incarnation there ever was.
    pub(crate) known: HashMap<Incarnation, (Arc<Gauge>, u64)>,
    /// How often a life has gone on after a silence.
    pub(crate) resumed: usize,
}

impl Monitor {
    pub(crate) fn new() -> Self {
        let nodes = (0..NODES as u16).map(|id| NodeView {
            id: NodeId(id),
            name: Arc::from(format!("pg{}", id + 1)),
            weight: 1,
            near: true,
            life: None,
            silent: None,
            barred: false,
            suspended: false,
            drained: false,
            previous: Arc::default(),
        });
        Self {
            topology: Topology {
                nodes: nodes.collect(),
                ..Topology::default()
            },
            connections: Default::default(),
            known: HashMap::new(),
            resumed: 0,
        }
    }

    /// The next thing that happens to a node's probe: it leaves, looks at the snapshot, looks at
    /// the position, arrives.
    pub(crate) fn step(&mut self, node: usize, servers: &Servers, now_us: u64) {
        if let Some(connection) = &self.connections[node]
            && connection.server_life != servers.lives[node]
        {
            return self.lose(node);
        }
        let running = match self.topology.nodes[0].as_primary() {
            Some((_, snapshot)) => Arc::clone(&snapshot.running),
            None => Arc::from([]),
        };
        let next = Incarnation(self.known.len() as u64 + 1);
        let silent = self.topology.nodes[node].silent.as_ref();
        let silent = silent.map(|silence| silence.life.incarnation);
        let server_life = servers.lives[node];
        let goes_on = silent.filter(|life| self.known[life].1 == server_life);
        let connection = self.connections[node].get_or_insert_with(|| {
            let incarnation = goes_on.unwrap_or(next);
            let new = || (Arc::default(), server_life);
            let (gauge, _) = self.known.entry(incarnation).or_insert_with(new);
            self.resumed += usize::from(goes_on.is_some());
            Connection {
                incarnation,
                gauge: Arc::clone(gauge),
                server_life,
                replayed: Lsn(0),
                shown: None,
                flight: None,
            }
        });
        let Some(flight) = &mut connection.flight else {
            connection.flight = Some(Flight {
                number: connection.gauge.next_probe(),
                asked: running,
                xmax: None,
                running: Arc::from([]),
                asynchronous: false,
                position: None,
            });
            return;
        };
        let Some(xmax) = flight.xmax else {
            let xmax = servers.xmax(node);
            flight.xmax = Some(xmax);
            flight.asynchronous = node == 0 && servers.asynchronous;
            flight.running = servers.running_below(xmax);
            return;
        };
        let Some(mut position) = flight.position else {
            flight.position = Some(servers.position(node));
            if node > 0 {
                // `pg_xact_status` looks at the present, not at the snapshot.
                let ended = servers.sees(node);
                let asked = flight.asked.iter().copied();
                flight.running = asked
                    .filter(|id| *id < xmax && !ended.contains(id))
                    .collect();
            }
            return;
        };
        let running = Arc::clone(&flight.running);
        if node == 0 {
            let snapshot = Snapshot {
                xmax,
                running: Arc::clone(&running),
            };
            let before = connection.shown.as_ref().map(|(shown, end)| (shown, *end));
            position.commits = end_of_commits(before, &snapshot, position.insert);
            connection.shown = Some((snapshot, position.commits));
        }
        let latest = Measurement {
            probe: flight.number,
            position,
            at_us: now_us,
            timeline: Timeline(1),
            asynchronous: flight.asynchronous,
        };
        connection.gauge.record(latest);
        let role = match node {
            0 => Role::Primary(Snapshot { xmax, running }),
            _ => Role::Standby(FinishedIds {
                xmax,
                still_running: running,
                at_least: std::mem::replace(&mut connection.replayed, position.flush),
            }),
        };
        connection.flight = None;
        let life = Life {
            incarnation: connection.incarnation,
            role,
            timeline: Timeline(1),
            history: None,
            system: None,
            latest,
            gauge: Arc::clone(&connection.gauge),
        };
        self.topology.nodes[node].live(life);
    }

    /// The monitoring connection breaks; the server may live on.
    pub(crate) fn lose(&mut self, node: usize) {
        self.connections[node] = None;
        self.topology.nodes[node].fall_silent(0);
    }
}
