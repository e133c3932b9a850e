//! While no proxy renews the lease of a primary, the agents of other nodes are asked for promises, and the
//! lease is prolonged by them (docs/adr/0013-failsafe-among-agents.md).
//!
//! While it is renewed they are asked now and then whether they would, so that connections stand, and what
//! is wrong is known before it matters.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::api::{Peer, PeerRule, PromiseRequest};
use super::client::{AgentClient, AgentError};
use super::failsafe::{Collected, is_due, promise_for};
use super::operations::Agent;
use super::vital::Vital;
use crate::clock;
use crate::config::{AgentUrl, Agents};

/// Between two looks at the lease, and after a round in which too few have promised.
const PACE: Duration = Duration::from_millis(50);
/// Between questions whether they would.
const CALM: Duration = Duration::from_secs(10);
/// Bound on one question; shorter for a short lease.
const BOUND: Duration = Duration::from_secs(1);
/// Bound on what our own server is asked.
const ANSWER: Duration = Duration::from_millis(300);

/// Asks whenever it is time. Never ends.
pub(super) async fn keep_asking(agent: Arc<Agent>, trust: Agents) {
    let _vital = Vital("ask for promises");
    let mut asker = Asker {
        agent,
        trust,
        clients: HashMap::new(),
        collected: Collected::default(),
        timeline: None,
        asked: (Duration::ZERO, 0),
        prolonging: false,
    };
    loop {
        sleep(PACE).await;
        asker.turn().await;
    }
}

struct Asker {
    agent: Arc<Agent>,
    trust: Agents,
    /// By what the rule says of a peer.
    clients: HashMap<(String, String, u16), AgentClient>,
    collected: Collected,
    /// The latest that our own server said it writes.
    timeline: Option<u32>,
    /// When they were last asked, and by which version of the rule.
    asked: (Duration, u64),
    /// The lease lasts by promises.
    prolonging: bool,
}

/// The lease that is to be prolonged.
struct Wanted {
    epoch: u64,
    ttl: Duration,
    rule: PeerRule,
    system_identifier: String,
    timeline: u32,
}

impl Asker {
    async fn turn(&mut self) {
        let ledger = self.agent.state.ledger();
        let now = clock::now();
        let (look, ..) = self.agent.watch.last();
        let is_held = self.agent.state.held().is_some();
        let lapsed = ledger.lapsed(Duration::ZERO, now).filter(|_| is_held);
        let lease = ledger
            .lease(now)
            .or(lapsed.map(|grant| (grant, Duration::ZERO)));
        let Some((grant, left)) = lease.filter(|_| look.leads()) else {
            self.prolonging = false;
            return;
        };
        if self.prolonging && !ledger.is_prolonged() {
            self.prolonging = false;
            tracing::info!(holder = grant.holder, "a proxy renews the lease again");
        }
        let due = is_due(left, grant.ttl);
        let version = ledger.failsafe().map_or(0, |rule| rule.version);
        let rested = now.saturating_sub(self.asked.0) >= CALM || version != self.asked.1;
        let calm = rested && !ledger.is_prolonged();
        if !due && !calm {
            return;
        }
        let rule = ledger.failsafe().filter(|rule| !rule.peers.is_empty());
        let Some(rule) = rule else {
            // Why not, the proxies say.
            return self.say(match due {
                true => "the proxy has named no agents that could be asked",
                false => "",
            });
        };
        // Another decision is being carried out here.
        if ledger.highest_epoch() != grant.epoch {
            return;
        }
        let Some(system) = look.control.map(|control| control.system_identifier) else {
            return;
        };
        // What stands still answers nothing.
        let told = match is_held {
            true => None,
            false => {
                let (agent, within) = (&self.agent, ANSWER.min(grant.ttl / 8));
                let asked = agent.inquiry.standing(&agent.config, &agent.server, within);
                asked.await.and_then(|answer| answer.timeline)
            }
        };
        self.timeline = told.or(self.timeline);
        let timeline = self
            .timeline
            .or(look.control.map(|control| control.timeline));
        let wanted = Wanted {
            epoch: grant.epoch,
            ttl: grant.ttl,
            rule: rule.clone(),
            system_identifier: system.to_string(),
            timeline: timeline.unwrap_or_default(),
        };
        self.asked = (now, version);
        self.round(&wanted, due).await;
    }

    /// Asks all at once; the lease goes on as soon as enough have promised.
    async fn round(&mut self, wanted: &Wanted, due: bool) {
        self.collected.keep_for(wanted.epoch, &wanted.rule);
        let lasts = match due {
            true => promise_for(wanted.ttl),
            false => Duration::ZERO,
        };
        let within = BOUND.min(wanted.ttl / 4);
        let mut answers = JoinSet::new();
        let mut words = Vec::new();
        for peer in &wanted.rule.peers {
            let client = match self.client(peer) {
                Ok(client) => client,
                Err(error) => {
                    words.push(format!("{}: {error}", peer.node));
                    continue;
                }
            };
            let request = PromiseRequest {
                from: self.agent.config.name.clone(),
                to: peer.node.clone(),
                epoch: wanted.epoch,
                system_identifier: wanted.system_identifier.clone(),
                timeline: wanted.timeline,
                promise_ms: clock::milliseconds(lasts),
            };
            let node = peer.node.clone();
            answers.spawn(async move {
                // Counted from before it can have left.
                let sent = clock::now();
                let answer = client.promise(&request, within).await;
                (node, sent, answer.map(drop))
            });
        }
        while let Some(answer) = answers.join_next().await {
            let Ok((node, sent, answer)) = answer else {
                continue;
            };
            match answer {
                Ok(()) if due => {
                    self.collected.note(&node, sent, wanted.ttl);
                    self.prolong(wanted);
                }
                Ok(()) => {}
                Err(error) => words.push(format!("{node}: {}", reason(&error))),
            }
        }
        words.sort_unstable();
        let promising = wanted.rule.peers.len() - words.len();
        match promising >= wanted.rule.needed {
            true => self.say(""),
            false => self.say(&words.join("; ")),
        }
    }

    fn prolong(&mut self, wanted: &Wanted) {
        let Some(until) = self.collected.until(&wanted.rule) else {
            return;
        };
        let prolonged = self.agent.state.prolong(wanted.epoch, until);
        match prolonged {
            Ok(()) if !self.prolonging => {
                self.prolonging = true;
                let peers: Vec<&str> = wanted.rule.peers.iter().map(|p| p.node.as_str()).collect();
                tracing::warn!(
                    peers = peers.join(", "),
                    "no proxy renews the lease: the primary goes on by what the agents of the others promise"
                );
            }
            Ok(()) => {}
            // It has run out meanwhile, or something else was decided.
            Err(error) => tracing::debug!(%error, "the lease is not prolonged"),
        }
    }

    /// Notes what is wrong, if anything is.
    fn say(&self, trouble: &str) {
        match (self.agent.state.set_trouble(trouble), trouble) {
            (false, _) => {}
            (true, "") => tracing::info!("enough agents of other nodes would prolong the lease"),
            (true, _) => tracing::warn!(
                trouble,
                "too few agents of other nodes would prolong the lease if no proxy renewed it"
            ),
        }
    }

    fn client(&mut self, peer: &Peer) -> Result<AgentClient, String> {
        let place = (peer.node.clone(), peer.host.clone(), peer.port);
        if let Some(client) = self.clients.get(&place) {
            return Ok(client.clone());
        }
        let url = AgentUrl {
            host: peer.host.clone(),
            port: peer.port,
        };
        let client = AgentClient::new(&url, &self.trust).map_err(|error| error.to_string())?;
        let client = client.of(&peer.node);
        self.clients.insert(place, client.clone());
        Ok(client)
    }
}

/// Without the address, which says nothing to somebody who reads the node's name before it.
fn reason(error: &AgentError) -> String {
    match error {
        AgentError::Refused { refusal, .. } => refusal.text.clone(),
        AgentError::TooLate { within, .. } => format!("no answer within {within:?}"),
        AgentError::Unreachable { reason, .. } => format!("cannot be reached: {reason}"),
        AgentError::BadAnswer { reason, .. } => format!("no proper answer: {reason}"),
    }
}
