//! A switchover under load with every kind of client that keeps something at the server: ten sessions that
//! listen, ten that are pinned and ten of a proxy that pools by session, beside pgbench with 16 clients. No
//! transaction that had begun fails, nothing acknowledged is lost, nothing refused is there; each is told what
//! the documentation says, and the answer says for how long statements were held.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pgcauseway::rig::{Cluster, Etcd, Login, Proxy};
use serde_json::Value;

use super::{cluster, rounds};
use crate::support::frames::{
    bind, copy_data, copy_done, execute, flush, parse, query, summary, sync,
};
use crate::support::pgbench::Pgbench;
use crate::support::status::{another_leads, events, leader, promotable, settled};
use crate::support::{Frame, PROGRAM, Wire, block_on, eventually, http, need, turn};

/// Of each kind.
const EACH: i32 = 10;
/// A busy machine is not a failed node, nor an etcd that has failed.
const CALM: &str = "durability: quorum\ntimeout: 6s\nlease: 12s\nhold_timeout: 60s";
/// For all that may have a transaction open at once: pgbench lets nobody get on while it waits for one of its
/// clients.
const CONNECTIONS: usize = 40;
/// Between a session's transactions.
const PACE: Duration = Duration::from_millis(15);
/// What pins.
const PINS: [&str; 4] = [
    "CREATE TEMP TABLE mine (n int)",
    "SELECT pg_advisory_lock_shared(7)",
    "PREPARE mine AS SELECT 1",
    "DECLARE mine CURSOR WITH HOLD FOR SELECT generate_series(1, 3)",
];

/// Where clients log in.
#[derive(Clone)]
struct Door {
    port: u16,
    login: Login,
}

impl Door {
    fn to(proxy: &Proxy, cluster: &Cluster) -> Self {
        Self {
            port: proxy.address().port(),
            login: cluster.application().clone(),
        }
    }

    fn enter(&self) -> Wire {
        Wire::login(self.port, &self.login, &[])
    }
}

/// What became of a transaction.
enum Fate {
    Committed,
    /// The session was ended before it had begun, with this SQLSTATE, or without a word.
    NeverBegan(String),
    /// What no client should see.
    Failed(String),
}

/// What a session that writes has seen.
#[derive(Default)]
struct Seen {
    committed: BTreeSet<(i32, i32)>,
    /// The SQLSTATEs with which it was ended between transactions.
    ended: Vec<String>,
    failed: Vec<String>,
}

/// Sessions in threads of their own, until they are told to stop.
struct Crowd<T> {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<T>>,
}

impl<T: Send + 'static> Crowd<T> {
    fn start(
        numbers: impl IntoIterator<Item = i32>,
        session: impl Fn(i32, &AtomicBool, &AtomicU64) -> T + Clone + Send + 'static,
    ) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let threads = numbers.into_iter().map(|number| {
            let (stop, done, session) = (Arc::clone(&stop), Arc::clone(&done), session.clone());
            std::thread::spawn(move || session(number, &stop, &done))
        });
        let threads = threads.collect();
        Self {
            stop,
            done,
            threads,
        }
    }

    /// Waits until so much more has been done.
    fn goes_on(&self, more: u64) {
        let until = self.done.load(Ordering::Relaxed) + more;
        eventually("sessions go on", || {
            self.done.load(Ordering::Relaxed) >= until
        });
    }

    fn end(self) -> Vec<T> {
        self.stop.store(true, Ordering::Relaxed);
        let ends = self.threads.into_iter().map(JoinHandle::join);
        ends.map(Result::unwrap).collect()
    }
}

/// Writes transaction after transaction, keeping what `pin` leaves; ended, it comes again.
fn write(
    door: &Door,
    pin: Option<&str>,
    session: i32,
    stop: &AtomicBool,
    done: &AtomicU64,
) -> Seen {
    let mut seen = Seen::default();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut wire = door.enter();
        let mut over = match pin.map(|pin| step(&mut wire, &[query(pin)], b'Z')) {
            None | Some(Ok(_)) => None,
            Some(Err(fate)) => Some(fate),
        };
        while over.is_none() && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(PACE);
            number += 1;
            match transaction(&mut wire, session, number) {
                Fate::Committed => {
                    seen.committed.insert((session, number));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                fate => over = Some(fate),
            }
        }
        match over {
            Some(Fate::NeverBegan(told)) => seen.ended.push(told),
            Some(Fate::Failed(what)) => seen.failed.push(format!("{session}/{number}: {what}")),
            Some(Fate::Committed) | None => {}
        }
    }
    seen
}

/// One transaction that inserts a row, in one of the ways in which drivers do.
fn transaction(wire: &mut Wire, session: i32, number: i32) -> Fate {
    // Nothing is said to a session that has been ended: its last words would be lost with it.
    if !wire.is_silent(Duration::from_millis(1)) {
        return ended(&wire.until_closed());
    }
    let insert = format!("INSERT INTO kept VALUES ({session}, {number})");
    let simple = |sql: &str| vec![query(sql)];
    let extended = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    let row = copy_data(&format!("{session}\t{number}\n"));
    let steps = match number % 6 {
        0 => vec![(simple(&insert), b'Z')],
        1 => vec![
            (simple("BEGIN"), b'Z'),
            (simple(&insert), b'Z'),
            (simple("COMMIT"), b'Z'),
        ],
        2 => {
            let all = ["BEGIN", &insert, "COMMIT"].map(extended);
            vec![([&all[..], &[sync()]].concat(), b'Z')]
        }
        3 => vec![
            (simple("BEGIN"), b'Z'),
            (simple("COPY kept FROM STDIN"), b'G'),
            (vec![row, copy_done()], b'Z'),
            (simple("COMMIT"), b'Z'),
        ],
        // The pipeline's end comes later.
        4 => vec![
            (vec![extended(&insert), flush()], b'C'),
            (vec![sync()], b'Z'),
        ],
        _ => vec![
            (vec![extended("BEGIN"), sync()], b'Z'),
            (vec![extended(&insert)], b'C'),
            (vec![sync()], b'Z'),
            (vec![extended("COMMIT"), sync()], b'Z'),
        ],
    };
    let count = steps.len();
    for (at, (messages, until)) in steps.into_iter().enumerate() {
        match step(wire, &messages, until) {
            Ok(()) => {}
            Err(fate) if at == 0 => return fate,
            Err(Fate::NeverBegan(told) | Fate::Failed(told)) => {
                return Fate::Failed(format!(
                    "{told} at step {at} of {count}, way {}",
                    number % 6
                ));
            }
            Err(Fate::Committed) => {}
        }
    }
    Fate::Committed
}

/// Sends messages and waits for the answer's end.
fn step(wire: &mut Wire, messages: &[Vec<u8>], until: u8) -> Result<(), Fate> {
    wire.send(&messages.concat());
    let answer = wire.until(until);
    let whole = answer.last().is_some_and(|frame| frame.tag == until);
    match whole && !answer.iter().any(|frame| frame.tag == b'E') {
        true => Ok(()),
        false => Err(ended(&answer)),
    }
}

/// A session's end: nothing but an error that is fatal, or not a word.
fn ended(answer: &[Frame]) -> Fate {
    match answer {
        [] => Fate::NeverBegan(String::new()),
        [end] if end.tag == b'E' && end.field(b'S').as_deref() == Some("FATAL") => {
            Fate::NeverBegan(end.field(b'C').unwrap_or_default())
        }
        other => Fate::Failed(format!("{} ({other:?})", summary(other))),
    }
}

/// What a session that listens has heard, in order; none where it was warned of a loss.
fn hear(door: &Door, heard: &AtomicU64) -> Vec<Option<u64>> {
    let mut wire = door.enter();
    wire.run("LISTEN news");
    heard.fetch_add(1, Ordering::Relaxed);
    let mut all = Vec::new();
    loop {
        let frame = wire.frame().expect("it listens on");
        match frame.tag {
            b'A' => {
                let text = String::from_utf8_lossy(&frame.body[4..]).into_owned();
                let payload = text.strip_prefix("news\0").unwrap().trim_end_matches('\0');
                match payload.parse() {
                    Ok(number) => all.push(Some(number)),
                    // The last word.
                    Err(_) => break,
                }
            }
            b'N' if frame.field(b'C').as_deref() == Some("01000") => all.push(None),
            _ => panic!("{frame:?}"),
        }
    }
    // It is a session like any other.
    assert_eq!(wire.value("SELECT 1"), "1");
    all
}

/// Numbers without one missing, but for what a warning stands for: as many as there were switchovers.
fn assert_heard(heard: &[Option<u64>], said: u64, switchovers: usize) {
    let parts: Vec<Vec<u64>> = heard
        .split(Option::is_none)
        .map(|part| part.iter().copied().flatten().collect())
        .collect();
    let shown: Vec<_> = parts
        .iter()
        .map(|part| (part.first(), part.last(), part.len()))
        .collect();
    assert_eq!(parts.len(), switchovers + 1, "one warning each: {shown:?}");
    let mut last = 0;
    for (at, part) in parts.iter().enumerate() {
        let (Some(first), Some(end)) = (part.first(), part.last()) else {
            panic!("nothing was heard: {shown:?}");
        };
        assert!(*first > last && (at > 0 || *first == 1), "{shown:?}");
        assert_eq!(
            end - first + 1,
            part.len() as u64,
            "in order, once: {shown:?}"
        );
        last = *end;
    }
    assert_eq!(last, said, "{shown:?}");
}

/// Gives an order to whichever proxy decides.
fn order(proxies: &[Proxy], path: &str) -> (u16, Value) {
    let decides = |proxy: &&Proxy| http::status_if_any(proxy.http())["failover"]["leads"] == true;
    let mut found = None;
    eventually("a proxy decides", || {
        found = proxies.iter().find(decides);
        found.is_some()
    });
    let (code, body) = block_on(found.unwrap().ask("POST", path)).unwrap();
    (code, serde_json::from_str(&body).unwrap_or_default())
}

/// Orders a switchover. A machine that is too busy for transactions to end in time calls it off, which nobody may
/// notice either; then it is ordered again.
fn switched(proxies: &[Proxy]) -> Value {
    let mut done = Value::Null;
    eventually("it is carried out", || {
        let (code, answer) = order(proxies, "/api/switchover");
        let text = answer["text"].as_str().unwrap_or_default();
        let called_off = text.contains("still open") || text.contains("is not complete");
        assert!(code == 200 || called_off, "{code} {answer}");
        done = answer;
        code == 200
    });
    done
}

#[test]
fn a_switchover_with_clients_that_keep_connections_fails_no_transaction() {
    if !need("pgbench") || !need("etcd") {
        return;
    }
    let _turn = turn();
    let cluster = cluster("keptclients");
    let etcd = block_on(Etcd::start("keptclients-etcd", 1)).unwrap();
    let failover = format!(
        "{CALM}\ncoordination: etcd\netcd: {{ endpoints: {:?}, ttl: 6s }}",
        etcd.endpoints()
    );
    let proxies = ["transaction", "session"].map(|mode| {
        let yaml = format!(
            "{}{}pool: {{ mode: {mode}, size: {CONNECTIONS} }}\n",
            cluster
                .yaml()
                .replacen("monitor:\n", "monitor:\n  timeout: 10s\n", 1),
            cluster.failover_yaml(&failover)
        );
        let proxy = Proxy::new(&cluster, mode, None, Path::new(PROGRAM), &yaml).unwrap();
        block_on(proxy.start()).unwrap();
        proxy
    });
    for proxy in &proxies {
        settled(proxy.http());
    }
    let [shared, by_session] = proxies.each_ref().map(|proxy| Door::to(proxy, &cluster));
    let mut control = shared.enter();
    control.run("CREATE TABLE kept (session int, number int, PRIMARY KEY (session, number))");

    let listeners = {
        let door = shared.clone();
        Crowd::start(0..EACH, move |_, _, heard| hear(&door, heard))
    };
    eventually("all listen", || {
        listeners.done.load(Ordering::Relaxed) == EACH as u64
    });
    let speaker = {
        let door = shared.clone();
        Crowd::start([0], move |_, stop, done| {
            let mut wire = door.enter();
            while !stop.load(Ordering::Relaxed) {
                let number = done.load(Ordering::Relaxed) + 1;
                wire.run(&format!("NOTIFY news, '{number}'"));
                done.store(number, Ordering::Relaxed);
                std::thread::sleep(PACE);
            }
            wire.run("NOTIFY news, 'the end'");
            done.load(Ordering::Relaxed)
        })
    };
    let pinned = {
        let door = shared.clone();
        Crowd::start(0..EACH, move |session, stop, done| {
            let pin = PINS[session as usize % PINS.len()];
            write(&door, Some(pin), session, stop, done)
        })
    };
    let lent = {
        let door = by_session.clone();
        Crowd::start(EACH..2 * EACH, move |session, stop, done| {
            write(&door, None, session, stop, done)
        })
    };
    let pgbench = Pgbench::start(shared.port, "prepared");

    let mut stalls = Vec::new();
    for _ in 0..rounds(2) {
        pinned.goes_on(50);
        lent.goes_on(50);
        speaker.goes_on(20);
        let leads = |proxy: &&Proxy| http::status_if_any(proxy.http())["failover"]["leads"] == true;
        let decider = proxies.iter().find(leads).expect("one decides").http();
        promotable(decider, 2);
        let old = leader(decider);
        let answer = switched(&proxies);
        stalls.push(answer["stall_ms"].as_f64().unwrap());
        for proxy in &proxies {
            another_leads(proxy.http(), &old);
            settled(proxy.http());
        }
        assert!(!events(decider, "promoted").is_empty());
        pinned.goes_on(50);
        lent.goes_on(50);
        speaker.goes_on(20);
    }
    let switchovers = stalls.len();
    println!("stalls in ms: {stalls:.0?}");
    let words = pgbench.stop();
    let (pinned, lent) = (pinned.end(), lent.end());
    let said = speaker.end()[0];
    let heard = listeners.end();

    let tps = words.lines().find(|line| line.starts_with("tps"));
    let writes = |crowd: &[Seen]| crowd.iter().map(|seen| seen.committed.len()).sum::<usize>();
    println!(
        "pgbench: {}; {} transactions pinned, {} by session, {said} notifications",
        tps.unwrap_or_default(),
        writes(&pinned),
        writes(&lent)
    );
    let all: Vec<&Seen> = pinned.iter().chain(&lent).collect();
    let failed: Vec<_> = all.iter().flat_map(|seen| &seen.failed).collect();
    let told: Vec<_> = all.iter().map(|seen| seen.ended.join(" ")).collect();
    let as_promised = |seen: &&Seen| {
        let mut ends = seen.ended.iter();
        seen.ended.len() == switchovers && ends.all(|end| ["57P01", ""].contains(&end.as_str()))
    };
    let well = failed.is_empty() && all.iter().all(as_promised);
    assert!(well, "failed: {failed:#?}; ended: {told:?}");
    let committed: BTreeSet<_> = all
        .iter()
        .flat_map(|seen| &seen.committed)
        .copied()
        .collect();
    assert_eq!(stored(&shared), committed);
    for heard in &heard {
        assert_heard(heard, said, switchovers);
    }
}

/// The rows that are there.
fn stored(door: &Door) -> BTreeSet<(i32, i32)> {
    let sql = "/* causeway: consistency=primary */ SELECT * FROM kept";
    let frames = door.enter().exchange_frames(&[query(sql)], 1);
    let rows = frames.iter().filter(|frame| frame.tag == b'D');
    let number = |text: &String| text.parse().unwrap();
    rows.map(|row| {
        let columns = row.columns();
        (number(&columns[0]), number(&columns[1]))
    })
    .collect()
}
