//! Clients that vanish at random places, with requests to cancel between them: nothing is stuck, nobody meets
//! what is another's, nothing runs after its client was seen to leave, and nothing is kept of them.
//!
//! `CAUSEWAY_VANISHING=10000` says how many.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::program::{Program, direct, numbers};
use super::witnesses::Witnesses;
use crate::cluster;
use crate::support::frames::{bind, cancel_request, copy_data, copy_done, describe, execute};
use crate::support::frames::{flush, parse, query, startup, sync};
use crate::support::{Wire, eventually, http, summary};

const AT_ONCE: usize = 24;
const POOL: usize = 6;

/// What may have become of a client's write, by all that its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    /// It was never sent whole, or was left in an open transaction.
    Never,
    Maybe,
    Done,
}

struct World<'a> {
    program: &'a Program,
    next: AtomicU32,
    writes: Mutex<BTreeMap<u32, Write>>,
    /// Of clients that are there, or were.
    keys: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
}

/// A client that is to do something, and perhaps to vanish meanwhile.
struct Client<'a> {
    world: &'a World<'a>,
    random: &'a mut StdRng,
    wire: Wire,
    number: u32,
}

impl World<'_> {
    /// One client from its connection to its end.
    fn client(&self, random: &mut StdRng) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let login = cluster().application();
        let mut wire = Wire::open(self.program.port);
        let hello = startup(3, random.random_range(0..3), &[("user", &login.user)]);
        if random.random_ratio(1, 10) {
            wire.send(&hello[..random.random_range(0..=hello.len())]);
            return wire.vanish();
        }
        wire.send(&hello);
        wire.authenticate(&login.user, &login.password).unwrap();
        {
            let mut keys = self.keys.lock();
            keys.push(wire.cancel_key());
            if keys.len() > 50 {
                keys.remove(0);
            }
        }
        let client = Client {
            world: self,
            random,
            wire,
            number,
        };
        match client.random.random_range(0..8) {
            0 => client.read(),
            1 => client.read_prepared(),
            2 => client.write_whole(),
            3 => client.write_cut(),
            4 => client.write_in_a_transaction(),
            5 => client.copy(),
            6 => client.read_much(),
            _ => client.cancel_somebody(),
        }
    }
}

impl Client<'_> {
    fn records(&self, write: Write) {
        self.world.writes.lock().insert(self.number, write);
    }

    /// Its own answer, or that somebody has cancelled it.
    fn hears(&mut self, own: &str) -> bool {
        let answer = summary(&self.wire.until(b'Z'));
        let is_own = answer == own;
        assert!(
            is_own || answer.contains("E[57014]"),
            "{answer} in place of {own}"
        );
        is_own
    }

    fn read(mut self) {
        let number = self.number;
        self.wire.send(&query(&format!("SELECT {number}")));
        if self.random.random() {
            self.hears(&format!("T D[{number}] C[SELECT 1] Z[I]"));
        }
        self.wire.vanish();
    }

    fn read_prepared(mut self) {
        let number = self.number;
        let all = [
            parse("marker", &format!("SELECT {number} + $1::int")),
            bind("", "marker", &["0"]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]
        .concat();
        let place = self.random.random_range(0..=all.len() * 2).min(all.len());
        self.wire.send(&all[..place]);
        if place == all.len() && self.random.random() {
            self.hears(&format!("1 2 T D[{number}] C[SELECT 1] Z[I]"));
        }
        self.wire.vanish();
    }

    fn write_whole(mut self) {
        self.wire.send(&query(&insert(self.number)));
        self.records(Write::Maybe);
        if self.random.random() && self.hears("C[INSERT 0 1] Z[I]") {
            self.records(Write::Done);
        }
        self.wire.vanish();
    }

    fn write_cut(mut self) {
        let whole = if self.random.random() {
            query(&insert(self.number))
        } else {
            let ends = [parse("", &insert(self.number)), bind("", "", &[])];
            [ends.concat(), execute("", 0), flush(), sync()].concat()
        };
        let place = self.random.random_range(0..whole.len());
        self.records(Write::Never);
        self.wire.send(&whole[..place]);
        self.wire.vanish();
    }

    fn write_in_a_transaction(mut self) {
        self.records(Write::Never);
        self.wire.send(&query("BEGIN"));
        if self.hears("C[BEGIN] Z[T]") {
            self.wire.send(&query(&insert(self.number)));
            if self.random.random() {
                self.wire.until(b'Z');
            }
        }
        self.wire.vanish();
    }

    fn copy(mut self) {
        self.records(Write::Never);
        let copy = query("COPY vanishing FROM STDIN");
        let data = copy_data(&format!("{}\n", self.number));
        let all = [copy, data, copy_done()].concat();
        let place = self.random.random_range(0..=all.len());
        if place == all.len() {
            self.records(Write::Maybe);
        }
        self.wire.send(&all[..place]);
        if place == all.len() && self.hears("G C[COPY 1] Z[I]") {
            self.records(Write::Done);
        }
        self.wire.vanish();
    }

    fn read_much(mut self) {
        let number = self.number;
        let text = format!("SELECT {number}, repeat('x', 500) FROM generate_series(1, 4000)");
        self.wire.send(&query(&text));
        for _ in 0..self.random.random_range(0..40) {
            let Some(frame) = self.wire.frame() else {
                break;
            };
            if frame.tag == b'D' {
                assert_eq!(frame.columns()[0], number.to_string());
            }
            if frame.tag == b'Z' {
                break;
            }
        }
        self.wire.vanish();
    }

    fn cancel_somebody(mut self) {
        let keys = self.world.keys.lock().clone();
        let (process, key) = &keys[self.random.random_range(0..keys.len())];
        let request = cancel_request(process, key);
        let place = self.random.random_range(0..=request.len() * 2);
        let mut wire = Wire::open(self.world.program.port);
        wire.send(&request[..place.min(request.len())]);
        wire.vanish();
        // A cancel request for one's own statement, from oneself.
        self.wire.send(&query("SELECT pg_sleep(20)"));
        let (process, key) = self.wire.cancel_key();
        let mut wire = Wire::open(self.world.program.port);
        wire.send(&cancel_request(&process, &key));
        if self.random.random() {
            wire.until_closed();
        }
        self.wire.vanish();
    }
}

fn insert(number: u32) -> String {
    format!("INSERT INTO vanishing VALUES ({number})")
}

fn storm(world: &World<'_>, count: usize, seed: u64) {
    let left = AtomicU32::new(count as u32);
    let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    std::thread::scope(|scope| {
        for thread in 0..AT_ONCE as u64 {
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed + thread);
                while take().is_ok() {
                    world.client(&mut random);
                }
            });
        }
    });
}

/// Writes that wait for a server connection when their clients leave are never run.
fn give_up(world: &World<'_>, count: usize) {
    let program = world.program;
    let mut holders: Vec<_> = (0..POOL)
        .map(|_| program.wire_with(&[("options", "-c causeway.consistency=primary")]))
        .collect();
    for holder in &mut holders {
        holder.run("BEGIN");
        holder.run("LOCK TABLE vanishing IN ACCESS SHARE MODE");
    }
    let waiting = || {
        let status = http::status(program.http);
        let nodes = status["nodes"].as_array().unwrap();
        let count = |node: &serde_json::Value| node["pool"]["waiting"].as_u64().unwrap();
        nodes.iter().map(count).sum::<u64>() as usize
    };
    let clients: Vec<_> = (0..count)
        .map(|at| {
            let number = world.next.fetch_add(1, Ordering::Relaxed);
            world.writes.lock().insert(number, Write::Never);
            let mut wire = program.wire();
            wire.send(&match at % 2 {
                0 => query(&insert(number)),
                _ => [
                    parse("", &insert(number)),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                ]
                .concat(),
            });
            wire
        })
        .collect();
    eventually("all of them wait", || waiting() == count);
    clients.into_iter().for_each(Wire::vanish);
    eventually("nobody waits any more", || waiting() == 0);
    holders.iter_mut().for_each(|holder| holder.run("COMMIT"));
}

#[test]
fn clients_that_vanish_leave_nothing() {
    let count = std::env::var("CAUSEWAY_VANISHING").ok();
    let count = count.map_or(700, |count| count.parse().unwrap());
    direct().run("CREATE TABLE vanishing (n int)");
    let more = format!("pool: {{ size: {POOL}, wait_timeout: 60s }}\n");
    let program = Program::with("causeway-vanishing", &cluster().yaml(), &more);
    let mut witnesses = Witnesses::new(&program, 3);
    let world = World {
        program: &program,
        next: AtomicU32::new(1),
        writes: Mutex::default(),
        keys: Mutex::default(),
    };
    storm(&world, 200, 1);
    program.assert_well();
    let memory = program.memory("VmRSS");
    let descriptors = program.descriptors();
    storm(&world, count, 1000);
    witnesses.check();
    give_up(&world, 50);
    witnesses.check();
    program.assert_well();
    eventually("every connection is closed", || {
        program.descriptors() <= descriptors + 3 * POOL
    });
    let grown = program.memory("VmRSS").saturating_sub(memory);
    assert!(grown < 16 << 20, "the proxy grew by {grown} bytes");
    // What its client has left may run to its end.
    eventually("no write is under way", || {
        crate::from_primary(
            cluster(),
            "SELECT NOT exists (SELECT FROM pg_stat_activity WHERE state <> 'idle' AND query LIKE '%vanishing VALUES%' \
             AND pid <> pg_backend_pid())",
        )
    });
    let mut times: BTreeMap<i64, usize> = BTreeMap::new();
    numbers("vanishing")
        .into_iter()
        .for_each(|n| *times.entry(n).or_default() += 1);
    let writes = world.writes.into_inner();
    for (number, write) in &writes {
        let times = times.remove(&i64::from(*number)).unwrap_or_default();
        match write {
            Write::Never => assert_eq!(times, 0, "{number} has run"),
            Write::Maybe => assert!(times <= 1, "{number} has run twice"),
            Write::Done => assert_eq!(times, 1, "{number} was acknowledged"),
        }
    }
    assert!(times.is_empty(), "nobody wrote {times:?}");
    let done = writes
        .values()
        .filter(|write| **write == Write::Done)
        .count();
    assert!(done > 20, "only {done} writes were acknowledged");
}
