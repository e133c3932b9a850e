//! A read whose node has no connection to spare: it stands in the queue of each node that would do.

use std::future::poll_fn;
use std::task::Poll;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::routing::{Failure, Need, Places};
use crate::backend::pool::{Granted, Lease, Place, Turn};
use crate::backend::want::AcquireError;
use crate::client::rules::Bounds;
use crate::client::state::last_route::LastRoute;
use crate::client::worker::Worker;
use crate::core::route::Reason;
use crate::core::session::Seen;

/// The part of the longest wait after which a read may burden the primary, as a divisor.
const PATIENCE: u32 = 5;

/// Places in queues, and why the read may be run there.
#[derive(Debug)]
struct Queues {
    first: (Place, LastRoute),
    others: Vec<(Place, LastRoute)>,
}

/// One of them has had its turn.
type Turned = (Place, Granted, LastRoute);

impl Queues {
    /// Waits for whichever turn comes first.
    async fn turn(&mut self) -> (usize, Granted) {
        poll_fn(|context| {
            let places = std::iter::once(&mut self.first).chain(&mut self.others);
            for (at, (place, _)) in places.enumerate() {
                if let Poll::Ready(granted) = place.poll_granted(context) {
                    return Poll::Ready((at, granted));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The place whose turn has come; the others are given up.
    fn leave(mut self, (at, granted): (usize, Granted)) -> Turned {
        let (place, last) = match at.checked_sub(1) {
            Some(other) if other < self.others.len() => self.others.swap_remove(other),
            _ => self.first,
        };
        (place, granted, last)
    }
}

impl Places {
    /// Waits in turn where all connections are in use. Other standbys that are fit are tried at once, and
    /// again now and then; the primary when a fifth of the longest wait is over. No place in a queue is
    /// given up for another.
    pub(super) async fn stand(
        &mut self,
        worker: &Worker,
        seen: &mut Seen,
        mut need: Need,
        place: Place,
        last: LastRoute,
    ) -> Result<(Result<Lease, AcquireError>, LastRoute), Failure> {
        let (cluster, bounds) = (&*worker.common.cluster, self.bounds());
        let (longest, mut asks_primary) = (place.pool().wait_timeout(), !last.route.primary);
        let deadline = Instant::now() + longest;
        need.exclude.insert(last.route.node);
        let mut queues = Queues {
            first: (place, last),
            others: Vec::new(),
        };
        loop {
            while let Some(last) = self.another_standby(cluster, bounds, seen, &need)? {
                need.exclude.insert(last.route.node);
                if let Some(lease) = self.join(worker, last, &mut queues).await? {
                    return Ok((Ok(lease), last));
                }
            }
            let wait_until = deadline.min(Instant::now() + longest / PATIENCE);
            let turn = timeout_at(wait_until, queues.turn()).await;
            if let Ok(turn) = turn {
                return Ok(self.take(worker, queues.leave(turn)).await);
            }
            if Instant::now() >= deadline {
                let (place, last) = queues.first;
                return Ok((Err(place.give_up()), last));
            }
            if !asks_primary {
                continue;
            }
            // Without a primary there is nothing else to wait for than these turns.
            let bounds = Bounds {
                hold_timeout: longest,
                ..bounds
            };
            let began_us = cluster.now_us();
            let mut last = tokio::select! {
                biased;
                turn = queues.turn() => return Ok(self.take(worker, queues.leave(turn)).await),
                () = sleep_until(deadline) => continue,
                last = self.route(&worker.common, bounds, seen, &need, began_us) => last?,
            };
            need.exclude.insert(last.route.node);
            if last.route.primary {
                asks_primary = false;
                last.route.reason = Reason::StandbysFull;
            }
            if let Some(lease) = self.join(worker, last, &mut queues).await? {
                return Ok((Ok(lease), last));
            }
        }
    }

    /// A connection of another node; where there is none to spare, a place in its queue. What is wrong
    /// there concerns nobody who has a place elsewhere.
    async fn join(
        &mut self,
        worker: &Worker,
        last: LastRoute,
        queues: &mut Queues,
    ) -> Result<Option<Lease>, Failure> {
        let pool = self.known_pool(&worker.common, last.route.node)?;
        match pool.take_or_queue(worker.index, self.want()).await {
            Ok(Turn::Now(lease)) => return Ok(Some(lease)),
            Ok(Turn::Later(place)) => queues.others.push((place, last)),
            Err(error) => tracing::debug!(%error, "take a server connection elsewhere"),
        }
        Ok(None)
    }

    async fn take(
        &self,
        worker: &Worker,
        (place, granted, last): Turned,
    ) -> (Result<Lease, AcquireError>, LastRoute) {
        let lease = place.redeem(granted, worker.index, self.want()).await;
        (lease, last)
    }
}
