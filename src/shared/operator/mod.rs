//! The operator's desk: what is asked of the failover controller, and what it reports. Neither side
//! knows the other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::sync::watch;

use crate::core::topology::NodeId;

/// So many events are kept.
const EVENTS: usize = 200;

/// What an operator can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A planned change of the primary, without loss.
    Switchover,
    /// Replace the primary now, and accept the loss that has been spoken of.
    Failover,
}

/// One thing asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Unique over the process's life, rising.
    pub id: u64,
    /// What.
    pub ask: Ask,
    /// Who is to lead; none for the best.
    pub to: Option<NodeId>,
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Done {
        /// For how long clients' statements were held.
        stall: Duration,
    },
    /// It was not, and nothing was lost.
    Refused(String),
}

/// How failover stands at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The mode in force; empty without a failover section.
    pub mode: String,
    /// What is being done.
    pub phase: String,
    /// Rises with every decision about who leads.
    pub epoch: u64,
    /// The node that leads.
    pub primary: Option<String>,
    /// What an acknowledged write survives at present: `async`, `quorum`, or `quorum pending` while
    /// the primary may still acknowledge by another rule.
    pub durability: &'static str,
    /// Why nothing more is done at present.
    pub why: String,
    /// Whether this proxy decides.
    pub leads: bool,
    /// The proxy that decides, as far as this one knows.
    pub leader: Option<String>,
    /// By node: what would keep it from taking writes, should it be replaced as a primary.
    pub fences: Vec<(String, String)>,
    /// Nodes that serve nothing, and why.
    pub quarantine: Vec<(String, String)>,
}

/// Something that people are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Rises by one.
    pub number: u64,
    /// When, in milliseconds of the Unix epoch.
    pub at_ms: u64,
    /// A short name.
    pub kind: &'static str,
    /// In words.
    pub text: String,
    /// Whose doing it is: the address of the proxy that decided, or that it is an operator's order.
    pub by: String,
    /// How long after the failover or switchover began, in milliseconds; none outside of one.
    pub after_ms: Option<u64>,
}

/// Something that is wrong at present, with one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The node.
    pub node: String,
    /// A short name, such as `agent`.
    pub kind: &'static str,
    /// In words.
    pub text: String,
}

/// The desk.
#[derive(Debug)]
pub struct Desk {
    state: Mutex<State>,
    ordered: Notify,
    standing: watch::Sender<Arc<Standing>>,
}

#[derive(Debug, Default)]
struct State {
    last_order: u64,
    order: Option<Order>,
    ended: VecDeque<(u64, Outcome)>,
    events: VecDeque<Told>,
    next_event: u64,
    /// By node and kind.
    troubles: BTreeMap<(String, &'static str), String>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            ordered: Notify::new(),
            standing: watch::Sender::new(Arc::default()),
        }
    }
}

impl Desk {
    /// Places an order. Err: another one is being worked on.
    pub fn order(&self, ask: Ask, to: Option<NodeId>) -> Result<Order, Order> {
        let mut state = self.state.lock();
        if let Some(order) = state.order {
            return Err(order);
        }
        // A record may remember orders from before a restart, or of another proxy.
        state.last_order = (state.last_order + 1).max(unix_ms());
        let order = Order {
            id: state.last_order,
            ask,
            to,
        };
        state.order = Some(order);
        drop(state);
        self.ordered.notify_waiters();
        Ok(order)
    }

    /// Orders from now on are later than this one, which another proxy may have numbered by a clock
    /// that is ahead of ours.
    pub fn number_beyond(&self, id: u64) {
        let mut state = self.state.lock();
        state.last_order = state.last_order.max(id);
    }

    /// The order that waits or is being worked on.
    pub fn pending(&self) -> Option<Order> {
        self.state.lock().order
    }

    /// Resolves once something is ordered.
    pub async fn ordered(&self) {
        self.ordered.notified().await;
    }

    /// An order has ended.
    pub fn end(&self, id: u64, outcome: Outcome) {
        let mut state = self.state.lock();
        if state.order.is_some_and(|order| order.id == id) {
            state.order = None;
        }
        state.ended.push_back((id, outcome));
        if state.ended.len() > EVENTS {
            state.ended.pop_front();
        }
        drop(state);
        self.standing.send_modify(|_| {});
    }

    /// How an order ended; waits for that.
    pub async fn outcome(&self, id: u64) -> Outcome {
        let mut standing = self.standing.subscribe();
        loop {
            standing.borrow_and_update();
            if let Some(outcome) = self.ended(id) {
                return outcome;
            }
            if standing.changed().await.is_err() {
                return Outcome::Refused("causeway is shutting down".to_owned());
            }
        }
    }

    fn ended(&self, id: u64) -> Option<Outcome> {
        let state = self.state.lock();
        let mut ended = state.ended.iter();
        ended
            .find(|(ended, _)| *ended == id)
            .map(|(_, outcome)| outcome.clone())
    }

    /// Reports how things stand.
    pub fn stand(&self, standing: Standing) {
        self.standing.send_if_modified(|known| {
            let changed = **known != standing;
            if changed {
                *known = Arc::new(standing);
            }
            changed
        });
    }

    /// How things stand.
    pub fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standing.borrow())
    }

    /// Tells people something that happened by itself.
    pub fn tell(&self, kind: &'static str, text: String) {
        self.tell_of(kind, text, "", None);
    }

    /// Tells people something of a failover or switchover: whose doing, and how long after it began.
    pub fn tell_of(&self, kind: &'static str, text: String, by: &str, after: Option<Duration>) {
        let mut state = self.state.lock();
        state.next_event += 1;
        let told = Told {
            number: state.next_event,
            at_ms: unix_ms(),
            kind,
            text,
            by: by.to_owned(),
            after_ms: after.map(|after| after.as_millis() as u64),
        };
        state.events.push_back(told);
        if state.events.len() > EVENTS {
            state.events.pop_front();
        }
    }

    /// Says what is wrong with a node, or that nothing of this kind is any more. Whether that is news:
    /// the same kind of trouble is told once, though its words may change.
    pub fn trouble(&self, node: &str, kind: &'static str, text: Option<String>) -> bool {
        let mut state = self.state.lock();
        let key = (node.to_owned(), kind);
        match text {
            Some(text) => state.troubles.insert(key, text).is_none(),
            None => state.troubles.remove(&key).is_some(),
        }
    }

    /// What is wrong at present, by node.
    pub fn troubles(&self) -> Vec<Trouble> {
        let state = self.state.lock();
        let troubles = state.troubles.iter();
        let troubles = troubles.map(|((node, kind), text)| Trouble {
            node: node.clone(),
            kind,
            text: text.clone(),
        });
        troubles.collect()
    }

    /// What people were told, oldest first.
    pub fn events(&self) -> Vec<Told> {
        self.state.lock().events.iter().cloned().collect()
    }
}

/// Milliseconds of the Unix epoch.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
