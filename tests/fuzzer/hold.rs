//! Who holds a server connection: a script never asks for more of them than the pool has, since
//! waiting for one is nothing that PostgreSQL could be compared with.

use std::collections::{HashMap, HashSet};

use crate::script::{Act, Message};
use crate::wire::Frame;

/// Server connections in the pool of each node.
pub const POOL: usize = 2;

/// When a session that has kept something on its connection lets go of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pins {
    /// As soon as it has ended all of it.
    End,
    /// Not before DISCARD ALL.
    Stay,
}

const LISTENS: u8 = 1;
const LOCKS: u8 = 2;
const TEMPORARY: u8 = 4;
const CURSOR: u8 = 8;
const PREPARED: u8 = 16;
/// A setting whose name was made up at run time.
const MADE_UP: u8 = 32;
/// What ends with its statement or transaction, but not for a proxy whose pins stay.
const OPAQUE: u8 = 64;

/// What each session may have left on a connection.
pub struct Holds {
    pins: Pins,
    sessions: HashMap<usize, Held>,
}

#[derive(Default)]
struct Held {
    busy: bool,
    kept: u8,
    /// What statements of the protocol would leave, by name.
    named: HashMap<String, u8>,
}

impl Holds {
    pub fn new(pins: Pins) -> Self {
        Self {
            pins,
            sessions: HashMap::new(),
        }
    }

    /// Whether a session can take a step without waiting for another one.
    pub fn allow(&self, session: usize, act: &Act) -> bool {
        if matches!(act, Act::Leave { .. }) || self.holds(session) {
            return true;
        }
        let others = self.sessions.keys().filter(|other| self.holds(**other));
        others.count() < POOL
    }

    fn holds(&self, session: usize) -> bool {
        let held = self.sessions.get(&session);
        held.is_some_and(|held| held.busy || held.kept != 0)
    }

    /// Takes in what a step has done; `busy` is whether a transaction or a pipeline is open now.
    pub fn learn(&mut self, session: usize, act: &Act, answer: &[Frame], busy: bool) {
        if matches!(act, Act::Connect(_) | Act::Leave { .. }) {
            self.sessions.remove(&session);
            return;
        }
        let pins = self.pins;
        let held = self.sessions.entry(session).or_default();
        let was_busy = std::mem::replace(&mut held.busy, busy);
        if let Act::Extended { messages, .. } = act {
            for message in messages {
                match message {
                    Message::Parse { name, sql } => {
                        held.named.insert(name.clone(), kept(sql, pins));
                    }
                    Message::Bind { name, .. } => {
                        held.kept |= held.named.get(name).copied().unwrap_or_default();
                    }
                    _ => {}
                }
            }
            return;
        }
        let texts = act.texts();
        for text in &texts {
            held.kept |= kept(text, pins);
        }
        let failed = answer.iter().any(|frame| frame.tag == b'E');
        if let [text] = texts[..]
            && !was_busy
            && !busy
            && !failed
        {
            held.kept &= !ended(text, pins);
        }
    }
}

/// Which sessions' READ ONLY transactions may have to stay on the standby where they began, by the README:
/// they keep a snapshot, a cursor or a portal.
#[derive(Default)]
pub struct Stays {
    /// Until the transaction ends.
    here: HashSet<usize>,
    /// By the isolation that every transaction has.
    always: HashSet<usize>,
}

impl Stays {
    /// Takes in what a session is about to do.
    pub fn learn(&mut self, session: usize, act: &Act) {
        if matches!(act, Act::Connect(_)) {
            self.here.remove(&session);
            self.always.remove(&session);
        }
        let says = |words: &[&str]| {
            let texts = act.texts();
            words
                .iter()
                .any(|word| texts.iter().any(|text| text.contains(word)))
        };
        if says(&["default_transaction_isolation", "CHARACTERISTICS"]) {
            self.always.insert(session);
        }
        let portal = |message: &Message| match message {
            // What was prepared under a name may be any of them.
            Message::Bind { portal, name, .. } => !portal.is_empty() || !name.is_empty(),
            Message::Execute { rows, .. } => *rows > 0,
            _ => false,
        };
        let binds = match act {
            Act::Extended { messages, .. } => messages.iter().any(portal),
            _ => false,
        };
        if binds || says(&["ISOLATION", "DECLARE"]) {
            self.here.insert(session);
        }
    }

    /// The session's transaction has ended.
    pub fn ended(&mut self, session: usize) {
        self.here.remove(&session);
    }

    /// Whether the session's transaction may have to stay.
    pub fn may(&self, session: usize) -> bool {
        self.here.contains(&session) || self.always.contains(&session)
    }
}

/// What a statement may leave on its connection.
fn kept(text: &str, pins: Pins) -> u8 {
    let text = text.to_lowercase();
    let mut kept = 0;
    let mut keep = |what, signs: &[&str]| {
        if signs.iter().any(|sign| text.contains(sign)) {
            kept |= what;
        }
    };
    keep(LOCKS, &["advisory_lock", "f_lock"]);
    keep(TEMPORARY, &["temp", "tmp"]);
    keep(CURSOR, &["with hold"]);
    keep(MADE_UP, &["f_set(", "p_commit("]);
    // Those who listen share a connection of their own.
    if pins == Pins::Stay && text.starts_with("listen") {
        kept |= LISTENS;
    }
    if text.starts_with("prepare") {
        kept |= PREPARED;
    }
    let opaque = [
        "set_config",
        "f_",
        "do $$",
        "call ",
        "nextval",
        "setval",
        "execute",
    ];
    if pins == Pins::Stay && (opaque.iter().any(|sign| text.contains(sign)) || kept != 0) {
        kept |= OPAQUE;
    }
    kept
}

/// What a statement that has succeeded outside a transaction has ended.
fn ended(text: &str, pins: Pins) -> u8 {
    match text {
        "DISCARD ALL" => u8::MAX,
        _ if pins == Pins::Stay => 0,
        "RESET ALL" => MADE_UP,
        "SELECT pg_advisory_unlock_all()" => LOCKS,
        "CLOSE ALL" => CURSOR,
        "DEALLOCATE ALL" => PREPARED,
        "DISCARD TEMP" => TEMPORARY,
        _ => 0,
    }
}
