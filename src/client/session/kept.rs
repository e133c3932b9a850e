//! A server connection that a session keeps between its transactions, because of what it has left there or
//! because connections are lent for a session's life: when it may begin something, when it is asked whether
//! it still has a reason, and when it must be given up.
//!
//! Idle, it counts as nobody's work: a switchover, a pause and the proxy's end do not wait for it.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::client::attachment::context::Context;
use crate::client::attachment::routing::{Failure, no_primary};
use crate::client::attachment::{Attachment, canceled};
use crate::client::connection::{Connection, Ending};
use crate::client::relay::is_fatal;
use crate::core::tag::backend;
use crate::core::topology::{PATIENCE_US, Topology, Writer};
use crate::error::{Kind, Problem};

/// An idle session's server is asked after so much silence whether anything is left on it, then after twice
/// as much, and so on.
const FIRST_LOOK: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Between two looks of one that waits for a primary.
const LOOK: Duration = Duration::from_millis(500);

/// An idle session's silence.
#[derive(Debug)]
pub(super) struct Vigil {
    since: Instant,
    pause: Duration,
    next: Instant,
}

impl Vigil {
    /// Silence begins.
    pub(super) fn new(since: Instant) -> Self {
        Self {
            since,
            pause: FIRST_LOOK,
            next: since + FIRST_LOOK,
        }
    }

    /// Whether the server is to be asked.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next <= now
    }

    /// It is asked.
    pub(super) fn look(&mut self, now: Instant) {
        self.pause = LONGEST_PAUSE.min(self.pause * 2);
        self.next = now + self.pause;
    }

    /// When the session has been silent for as long as its server bears. Our questions are no silence to the
    /// server, which counts anew from each.
    pub(super) fn ends(&self, borne: Option<Duration>) -> Option<Instant> {
        let has_looked = self.pause > FIRST_LOOK;
        borne.filter(|_| has_looked).map(|borne| self.since + borne)
    }
}

/// Why a kept connection begins nothing.
pub(super) enum Stop {
    /// The statement is refused.
    Refused(Failure),
    /// The session is over.
    Over(Ending),
}

/// A transaction is about to begin on a connection that was kept: it counts as work from here on, unless
/// new work is held or the connection is not to be used any more.
pub(super) async fn begin(
    client: &Connection,
    context: &mut Context,
    held: &mut Attachment,
) -> Result<(), Stop> {
    if may_begin(context, held) {
        return Ok(());
    }
    // Whoever cancels now means what waits here.
    context.slot.detach();
    let waited = wait(client, context, held).await;
    if context.slot.attach(&held.server().cancel) && waited.is_ok() {
        held.server().set_busy(false);
        return Err(Stop::Refused(canceled().into()));
    }
    waited
}

/// Whether something may begin on it at this moment; then it counts as work.
pub(super) fn may_begin(context: &Context, held: &mut Attachment) -> bool {
    // Counted first: whoever holds new work and then counts none may rely on it.
    held.server().set_busy(true);
    let topology = context.worker.common.cluster.topology();
    let is_held = topology.writer == Writer::Nobody && held.is_primary();
    let may = !is_held && is_over(held, &topology).is_none();
    if !may {
        held.server().set_busy(false);
    }
    may
}

async fn wait(
    client: &Connection,
    context: &mut Context,
    held: &mut Attachment,
) -> Result<(), Stop> {
    let cluster = &context.worker.common.cluster;
    let bound = context.places.bounds().hold_timeout;
    let began = Instant::now();
    loop {
        let changed = cluster.turned();
        held.server().set_busy(true);
        let topology = cluster.topology();
        if let Some(problem) = is_over(held, &topology) {
            drop(topology);
            return Err(Stop::Over(last_words(held, problem).await));
        }
        if topology.writer != Writer::Nobody || !held.is_primary() {
            return Ok(());
        }
        drop(topology);
        held.server().set_busy(false);
        let left = bound.saturating_sub(began.elapsed());
        if left.is_zero() {
            context.worker.common.metrics.routing.hold_timeouts.inc();
            let problem = no_primary(began.elapsed(), &cluster.why());
            return Err(Stop::Refused(problem.into()));
        }
        tokio::select! {
            biased;
            () = changed => {}
            // Silence grows into an end without a word.
            () = tokio::time::sleep(left.min(LOOK)) => {}
            () = context.slot.cancelled() => return Err(Stop::Refused(canceled().into())),
            () = client.socket.closed() => return Err(Stop::Refused(Failure::ClientGone)),
        }
    }
}

/// Why a session is over that keeps an idle connection, if it is.
pub(super) fn is_over(held: &mut Attachment, topology: &Topology) -> Option<Problem> {
    let server = held.server();
    // A node that is silent for a while is not dead, and what is left there is there alone.
    if server.may_go_on(topology, PATIENCE_US) {
        return None;
    }
    let (node, incarnation) = (server.origin.node, server.origin.incarnation);
    let name = held.node_name();
    let view = topology.node(node);
    let life = view.and_then(|view| view.life.as_ref());
    Some(match life {
        // Its server is there, and another is about to lead or does.
        Some(life) if life.incarnation == incarnation => ended(format!(
            "terminating connection: node {name} is not to be used any more"
        )),
        _ => lost(name),
    })
}

/// How a session ends that has kept a connection: where that was lost, in its server's own words, if there are any.
/// A server that was shut down has said so, and its proxy may hear of it later.
pub(super) async fn last_words(held: &mut Attachment, problem: Problem) -> Ending {
    if problem.kind != Kind::ConnectionFailure {
        return Ending::Problem(problem);
    }
    let socket = &mut held.server().socket;
    let words = async {
        while let Ok((tag, frame)) = socket.next_frame().await {
            if tag == backend::ERROR && is_fatal(&frame) {
                return Some(frame);
            }
        }
        None
    };
    match timeout(LOOK, words).await {
        Ok(Some(frame)) => Ending::Said(frame),
        _ => Ending::Problem(problem),
    }
}

/// The session's node has failed, or its connection.
pub(super) fn lost(node: &str) -> Problem {
    Problem::fatal(
        Kind::ConnectionFailure,
        format!("the server connection to node {node} that this session held was lost"),
    )
}

/// Operators have paused the database.
pub(super) fn paused(database: &str) -> Problem {
    ended(format!(
        "terminating connection: database \"{database}\" is paused"
    ))
}

fn ended(what: String) -> Problem {
    Problem::fatal(Kind::AdminShutdown, what)
        .with_hint("What the session had left on its server connection is gone; connect again.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rare_and_do_not_prolong_the_silence() {
        let began = Instant::now();
        let (mut vigil, mut now) = (Vigil::new(began), began);
        let borne = Some(Duration::from_secs(12));
        assert_eq!(vigil.ends(borne), None, "the server sees to that itself");
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert!(!vigil.is_due(now));
            pauses.push((vigil.next - now).as_secs());
            now = vigil.next;
            assert!(vigil.is_due(now));
            vigil.look(now);
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(vigil.ends(borne), Some(began + Duration::from_secs(12)));
        assert_eq!(vigil.ends(None), None);
    }
}
