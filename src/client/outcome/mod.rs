//! What becomes of a batch that cannot be answered: refused, cut off from its server, or left by its
//! client. The client can tell the fates apart by their SQLSTATEs.

pub(super) mod aborted;
pub(super) mod resolve;
pub(super) mod told;

use self::told::{Consequence, told};
use super::attachment::Attachment;
use super::attachment::context::Context;
use super::attachment::routing::Failure;
use super::connection::batch::{Batch, End};
use super::connection::{Connection, Ending};
use super::state::State;
use super::state::lost::Aborted;
use crate::core::commit::Verdict;
use crate::core::exchange::{Finished, TransactionStatus};
use crate::core::session::{Cover, Level};
use crate::core::statement::{Access, Effect};
use crate::core::tag::frontend;
use crate::error::{Kind, Problem};
use crate::sql::Lexical;
use crate::wire::frame::HEADER;
use crate::wire::reply::{Reply, error_text};

/// The server connection broke while a batch was under way, or right before any of it was sent.
pub(super) async fn server_lost(
    client: &mut Connection,
    state: &mut State,
    context: &mut Context,
    mut held: Attachment,
    batch: &Batch,
    sent: bool,
) -> Result<(), Ending> {
    let node = held.node_name().clone();
    let primary = held.is_primary();
    let unit = std::mem::take(&mut held.unit);
    let server = held.server();
    let in_transaction = server.talk.exchange.status() != TransactionStatus::Idle;
    let owed: Vec<_> = server.talk.exchange.owed().collect();
    let pending = unit.pending.filter(|_| sent);
    // What stands beside a ROLLBACK commits by itself.
    let ended = |effect: &Effect| match effect {
        Effect::End { .. } => true,
        Effect::Rollback { .. } => batch.statements > 1,
        _ => false,
    };
    let may_have_committed = sent
        && primary
        && unit.access == Some(Access::Write)
        && (!in_transaction || batch.effects().any(ended));
    if primary {
        // Whatever became of it, what the session may have written must not go missing.
        let node = server.origin.node;
        state
            .seen
            .ended_on_primary(node, server.life(), Cover::Unknown);
    } else if unit.access == Some(Access::Read) && unit.level != Level::Eventual {
        // Rows may have reached the client before it broke.
        state
            .seen
            .read_on_standby(server.origin.node, server.life());
    }
    let cut = server.talk.walker.is_inside();
    let farewell = server.talk.farewell.take();
    held.discard(context);
    let committed_unheard = state.channels.is_unsure();
    let lost_pin = !state.pins().is_empty();
    let verdict = match (may_have_committed, pending) {
        (false, _) => Verdict::RolledBack,
        (true, None) => Verdict::Unknown,
        (true, Some(pending)) => resolve::resolve(state, context, pending).await,
    };
    let problem = lost(&node, verdict);
    if cut {
        // Whatever were said now would stand in the middle of a message.
        told(
            &context.worker.common,
            Consequence::Closed,
            &problem,
            &client.socket,
        );
        return Err(Ending::Quiet);
    }
    let own_doing = farewell.is_some() && batch.effects().any(|e| *e == Effect::Terminates);
    if lost_pin || context.is_session_pooled() || own_doing {
        // The client has lost more than a transaction, or has asked for it: the server's own words say why.
        return Err(match farewell {
            Some(frame) if verdict != Verdict::Committed => Ending::Said(frame),
            _ => Ending::Problem(problem),
        });
    }
    if verdict == Verdict::Committed && committed_unheard {
        // What it listens to since then, nobody can be asked any more.
        return Err(Ending::Problem(problem));
    }
    if verdict == Verdict::Committed {
        client.consume(batch.length);
        committed(state, batch);
        if resolve::answer_committed(client, state, batch, &owed).await? {
            return Ok(());
        }
        return Err(Ending::Problem(problem));
    }
    state.server_lost();
    let ends = |effect: &Effect| matches!(effect, Effect::End { .. } | Effect::Rollback { .. });
    if in_transaction && !batch.effects().any(ends) {
        // A driver may close a statement by itself and pass the answer on to nobody.
        state.aborted = match batch.runs_nothing() {
            true => Aborted::Untold,
            false => Aborted::Told,
        };
    }
    let status = state.aborted.status();
    refuse(
        client,
        state,
        context,
        batch,
        Failure::Problem(problem),
        status,
    )
    .await
}

/// The server was lost before it could say what is left on it; what ran is answered all the same. A
/// session that has left nothing there goes on, and learns at its next statement what became of its
/// writes. One to which the connection was lent for life does not.
pub(super) fn unanswered(
    mut held: Attachment,
    state: &mut State,
    context: &Context,
) -> Result<(), Ending> {
    held.transaction_ended(state, context);
    held.discard(context);
    if state.forget_doubt() && !context.is_session_pooled() {
        return Ok(());
    }
    let what = "the server connection was lost, and with it what the session had left on it";
    Err(Problem::fatal(Kind::ConnectionFailure, what).into())
}

/// The COMMIT has succeeded, as the next primary says: what the transaction has set holds.
fn committed(state: &mut State, batch: &Batch) {
    let mut talk = Default::default();
    for message in &batch.messages {
        if let Some(effects) = &message.effects {
            let finished = Finished {
                effects: effects.clone(),
                statement: 0,
                completed: true,
            };
            state.finished(&finished, b"COMMIT", &mut talk);
        }
    }
    state.ready(TransactionStatus::Idle, &talk);
}

/// Answers a batch with an error; the session goes on.
pub(super) async fn refuse(
    client: &mut Connection,
    state: &mut State,
    context: &Context,
    batch: &Batch,
    failure: Failure,
    status: TransactionStatus,
) -> Result<(), Ending> {
    client.consume(batch.length);
    match status {
        TransactionStatus::Failed => state.failed(),
        _ => state.names.failed(),
    }
    let reply = match failure {
        Failure::Problem(problem) => {
            told(
                &context.worker.common,
                Consequence::StatementRefused,
                &problem,
                &client.socket,
            );
            Reply::new().error(&problem)
        }
        Failure::Said(frame) => Reply::new().raw(&frame),
        Failure::ClientGone => return Err(Ending::Quiet),
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
            // It was the server's refusal of a login: fatal in its own words.
            return Err(Ending::Said(frame));
        }
    };
    let reply = match batch.end {
        End::Query | End::Sync => reply.ready(status),
        End::Flush | End::Part => {
            client.skipping = true;
            reply
        }
        End::Large(missing) => {
            client.drop_next(missing);
            client.skipping = !batch.is_simple();
            if client.skipping {
                reply
            } else {
                reply.ready(status)
            }
        }
    };
    client.tell(reply.as_bytes()).await
}

/// The last words to a client, if it is to be told any.
pub(super) async fn dismiss(client: &mut Connection, context: &Context, ending: Ending) {
    let reply = match ending {
        Ending::Quiet => return,
        Ending::Said(frame) => Reply::new().raw(&frame),
        Ending::Problem(problem) => {
            told(
                &context.worker.common,
                Consequence::Closed,
                &problem,
                &client.socket,
            );
            Reply::new().error(&Problem {
                fatal: true,
                ..problem
            })
        }
    };
    // A client that is gone needs no farewell.
    let _ = client.tell(reply.as_bytes()).await;
}

/// Gives up on a statement whose client is gone.
pub(super) async fn abandon(mut held: Attachment, context: &Context) {
    let reads_only = held.unit.access == Some(Access::Read);
    let server = held.server();
    let target = server.cancel.clone();
    let busy = !server.talk.exchange.owes_nothing();
    held.discard(context);
    if busy && reads_only {
        // Nobody will read the answer; a write is left to end as it would without us.
        let bound = context
            .worker
            .common
            .rules
            .load()
            .config
            .pool
            .connect_timeout;
        let _ = crate::backend::cancel::send(&target, bound).await;
    }
}

/// What the client is told of a batch whose server connection was lost.
fn lost(node: &str, verdict: Verdict) -> Problem {
    let (kind, consequence, hint) = match verdict {
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
    let what = format!("the connection to node {node} was lost{consequence}");
    Problem::error(kind, what).with_hint(hint)
}

/// A standby has refused a batch as a write: the same goes to the primary from now on.
pub(super) fn remember_refusal(
    client: &Connection,
    context: &Context,
    lexical: Lexical,
    batch: &Batch,
) {
    for message in &batch.messages {
        if let Some(prepared) = &message.prepared {
            prepared.refuse();
        } else if message.tag == frontend::QUERY
            && let Some(text) = client.inbox.get(message.start + HEADER..message.end - 1)
        {
            context.database.refused_by_standby(text, lexical);
        }
    }
}
