//! What becomes of a batch that cannot be answered: refused, cut off from its server, or left by its
//! client. The client can tell the fates apart by their SQLSTATEs.

use super::aborted::Aborted;
use super::batch::{Batch, End};
use super::place::Failure;
use super::session::{Ending, Session};
use crate::config::PoolMode;
use crate::core::exchange::TransactionStatus;
use crate::core::session::{Cover, Level};
use crate::core::statement::{Access, Effect};
use crate::error::{Kind, Problem};
use crate::wire::reply::{Reply, error_text};

impl Session {
    /// The server connection broke while a batch was under way.
    pub(super) async fn server_lost(&mut self, batch: &Batch) -> Result<(), Ending> {
        let node = self.held_node_name();
        let Some(mut lease) = self.held.take() else {
            return Ok(());
        };
        self.slot.detach();
        let server = lease.server();
        let in_transaction = server.exchange.status() != TransactionStatus::Idle;
        let primary = self.last_route.is_some_and(|last| last.route.primary);
        let may_have_committed = primary
            && self.unit.access == Some(Access::Write)
            && (!in_transaction || batch.effects.iter().any(|e| matches!(e, Effect::End)));
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
        let problem = if may_have_committed {
            Problem::error(
                Kind::TransactionResolutionUnknown,
                format!("the connection to node {node} was lost while a statement ran; it may have been committed"),
            )
            .with_hint("Look whether its effects are there before you run it again.")
        } else {
            Problem::error(
                Kind::SerializationFailure,
                format!("the connection to node {node} was lost; the transaction was rolled back"),
            )
            .with_hint("It is safe to run the transaction again.")
        };
        if cut || lost_pin || self.worker.common.config.pool.mode == PoolMode::Session {
            // The client stands in the middle of a message, or has lost more than a transaction.
            return Err(Ending::Problem(problem));
        }
        self.track
            .batch_ended(&[], true, true, TransactionStatus::Idle);
        let ends = |effect: &Effect| matches!(effect, Effect::End | Effect::Rollback);
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
                tracing::debug!(%problem, "refuse a batch");
                Reply::new().error(&problem)
            }
            Failure::Said(frame) => Reply::new().raw(&frame),
            // Placing waits until it is let go on.
            Failure::Paused => Reply::new().error(&Problem::error(
                Kind::CannotConnectNow,
                "the database is paused",
            )),
            Failure::Unfit(_) => Reply::new().error(&Problem::error(
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
