//! What becomes of a batch that cannot be answered: refused, cut off from its server, or left by its
//! client. The client can tell the fates apart by their SQLSTATEs.

use super::aborted::Aborted;
use super::batch::{Batch, End};
use super::place::Failure;
use super::session::{Ending, OWN_BOUND, Session};
use super::told::{Fate, told};
use crate::config::PoolMode;
use crate::core::commit::Verdict;
use crate::core::exchange::TransactionStatus;
use crate::core::session::{Cover, Level};
use crate::core::statement::{Access, Effect};
use crate::error::{Kind, Problem};
use crate::wire::reply::{Reply, error_text};

impl Session {
    /// The server connection broke while a batch was under way, or right before any of it was sent.
    pub(super) async fn server_lost(&mut self, batch: &Batch, sent: bool) -> Result<(), Ending> {
        let node = self.held_node_name();
        let Some(mut lease) = self.held.take() else {
            return Ok(());
        };
        self.slot.detach();
        let server = lease.server();
        let in_transaction = server.exchange.status() != TransactionStatus::Idle;
        let primary = self.last_route.is_some_and(|last| last.route.primary);
        let owed: Vec<_> = server.exchange.owed().collect();
        let pending = self.unit.pending.take().filter(|_| sent);
        // What stands beside a ROLLBACK commits by itself.
        let ended = |effect: &Effect| match effect {
            Effect::End { .. } => true,
            Effect::Rollback { .. } => batch.statements > 1,
            _ => false,
        };
        let may_have_committed = sent
            && primary
            && self.unit.access == Some(Access::Write)
            && (!in_transaction || batch.effects.iter().any(ended));
        if primary {
            // Whatever became of it, what the session may have written must not go missing.
            self.seen
                .ended_on_primary(server.origin.node, server.life(), Cover::Unknown);
        } else if self.unit.access == Some(Access::Read) && self.unit.level != Level::Eventual {
            // Rows may have reached the client before it broke.
            self.seen.read_on_standby(server.origin.node, server.life());
        }
        let cut = server.walker.is_inside();
        lease.discard();
        self.unit.access = None;
        let lost_pin = self.track.pinned.is_some();
        let verdict = match (may_have_committed, pending) {
            (false, _) => Verdict::RolledBack,
            (true, None) => Verdict::Unknown,
            (true, Some(pending)) => self.resolve(pending).await,
        };
        let problem = lost(&node, verdict);
        if cut || lost_pin || self.worker.common.config.pool.mode == PoolMode::Session {
            // The client stands in the middle of a message, or has lost more than a transaction.
            return Err(Ending::Problem(problem));
        }
        if verdict == Verdict::Committed {
            self.client.consume(batch.length);
            self.track
                .batch_ended(&batch.effects, false, false, TransactionStatus::Idle);
            if self.answer_committed(batch, &owed).await? {
                return Ok(());
            }
            return Err(Ending::Problem(problem));
        }
        self.track
            .batch_ended(&[], true, true, TransactionStatus::Idle);
        let ends = |effect: &Effect| matches!(effect, Effect::End { .. } | Effect::Rollback { .. });
        if in_transaction && !batch.effects.iter().any(ends) {
            // A driver may close a statement by itself and pass the answer on to nobody.
            self.aborted = match batch.runs_nothing() {
                true => Aborted::Untold,
                false => Aborted::Told,
            };
        }
        self.refuse(batch, Failure::Problem(problem)).await
    }

    /// Answers a batch with an error; the session goes on.
    pub(super) async fn refuse(&mut self, batch: &Batch, failure: Failure) -> Result<(), Ending> {
        self.client.consume(batch.length);
        self.names.failed();
        let reply = match failure {
            Failure::Problem(problem) => {
                self.told(Fate::StatementRefused, &problem);
                Reply::new().error(&problem)
            }
            Failure::Said(frame) => Reply::new().raw(&frame),
            // Placing waits until it is let go on.
            Failure::Paused => Reply::new().error(&Problem::error(
                Kind::CannotConnectNow,
                "the database is paused",
            )),
            Failure::Unfit(_) | Failure::Lost => Reply::new().error(&Problem::error(
                Kind::CannotConnectNow,
                "no node accepts this session's settings",
            )),
            Failure::Refused(frame) => {
                tracing::info!(
                    reason = %error_text(&frame),
                    "close a client connection: a server refused its login"
                );
                let reply = Reply::new().raw(&frame);
                self.tell(reply.as_bytes()).await?;
                // It was the server's refusal of a login: fatal in its own words.
                return Err(Ending::Quiet);
            }
        };
        let status = self.status();
        let reply = match batch.end {
            End::Query | End::Sync => reply.ready(status),
            End::Flush | End::Part => {
                self.skipping = true;
                reply
            }
            End::Large(missing) => {
                self.drop_bytes = missing;
                self.drop_data();
                self.skipping = !batch.is_simple();
                if self.skipping {
                    reply
                } else {
                    reply.ready(status)
                }
            }
        };
        self.tell(reply.as_bytes()).await
    }

    /// Ends the session with an error.
    pub(super) async fn dismiss(&mut self, problem: Problem) {
        self.told(Fate::Closed, &problem);
        let fatal = Problem {
            fatal: true,
            ..problem
        };
        let reply = Reply::new().error(&fatal);
        let told = self.client.socket.write_all(reply.as_bytes());
        let _ = tokio::time::timeout(OWN_BOUND, told).await;
    }

    fn told(&self, fate: Fate, problem: &Problem) {
        told(&self.worker.common, fate, problem, &self.client.socket);
    }

    /// Gives up on a statement whose client is gone.
    pub(super) async fn abandon(&mut self) {
        self.slot.detach();
        let Some(mut lease) = self.held.take() else {
            return;
        };
        let target = lease.server().cancel.clone();
        let busy = !lease.server().exchange.owes_nothing();
        let reads_only = self.unit.access == Some(Access::Read);
        lease.discard();
        if busy && reads_only {
            // Nobody will read the answer; a write is left to end as it would without us.
            let bound = self.worker.common.rules.load().config.pool.connect_timeout;
            let _ = crate::backend::cancel::send(&target, bound).await;
        }
    }
}

/// What the client is told of a batch whose server connection was lost.
fn lost(node: &str, verdict: Verdict) -> Problem {
    let (kind, fate, hint) = match verdict {
        Verdict::RolledBack => (
            Kind::SerializationFailure,
            "; the transaction was rolled back",
            "It is safe to run the transaction again.",
        ),
        Verdict::Committed => (
            Kind::TransactionResolutionUnknown,
            " while a statement ran; the transaction was committed, the rest of the answer is lost",
            "Do not run the transaction again.",
        ),
        Verdict::Unknown | Verdict::Wait => (
            Kind::TransactionResolutionUnknown,
            " while a statement ran; it may have been committed",
            "Look whether its effects are there before you run it again.",
        ),
    };
    let what = format!("the connection to node {node} was lost{fate}");
    Problem::error(kind, what).with_hint(hint)
}
