//! Commits whose answer was lost (`failover.resolve_commits`): before a COMMIT is sent the transaction's
//! id is asked for, and afterwards the primary is asked what became of it. What is not known by then
//! stays SQLSTATE 08007.

use std::time::Duration;

use crate::backend::own_query::OwnQueryError;
use crate::client::attachment::Attachment;
use crate::client::attachment::context::Context;
use crate::client::attachment::routing::{Failure, Need};
use crate::client::connection::batch::{Batch, End};
use crate::client::connection::{Connection, Ending, OWN_BOUND};
use crate::client::state::State;
use crate::core::commit::{Credit, Pending, Verdict, Witness, XidStatus};
use crate::core::exchange::{Owed, TransactionStatus};
use crate::core::session::{Cover, Level, Seen};
use crate::core::statement::{Access, Effect};
use crate::core::tag::field;
use crate::core::topology::NodeSet;
use crate::wire::frame;
use crate::wire::reply::{Reply, error_field};

/// Between two looks at a transaction that still runs.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const IDENTIFY: &str =
    "SELECT pg_catalog.pg_current_xact_id_if_assigned(), pg_catalog.pg_current_wal_insert_lsn()";
/// A commit that was cut off may not have been waited for by its standbys: a later one is, and what is
/// before it in the WAL with it.
const BARRIER: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'causeway', '')";
/// `pg_xact_status`: the id is in the future.
const NOT_YET_GIVEN: &[u8] = b"22023";

/// Before a batch that ends a writing transaction: notes which one it is.
pub(in crate::client) async fn identify(
    held: &mut Attachment,
    batch: &Batch,
    resolves: bool,
) -> Result<(), Failure> {
    held.unit.pending = None;
    if !resolves || !held.is_primary() || held.unit.access != Some(Access::Write) {
        return Ok(());
    }
    if !batch
        .effects()
        .any(|effect| *effect == Effect::End { chain: false })
    {
        return Ok(());
    }
    let server = held.server();
    let open = server.talk.exchange.status() == TransactionStatus::InTransaction;
    if !open || !server.talk.exchange.is_quiet() {
        return Ok(());
    }
    let row = match server.ask_own(IDENTIFY, OWN_BOUND).await {
        Ok(row) => row,
        // It leaves the transaction failed, which the COMMIT will find.
        Err(OwnQueryError::Refused(frame)) => return Err(Failure::Said(frame)),
        Err(OwnQueryError::Io(_)) => return Err(Failure::Lost),
    };
    let mut fields = row.iter().flatten();
    let xid = fields.next().and_then(|text| text.parse().ok());
    let written = fields.next().and_then(|text| text.parse().ok());
    let pending = xid.zip(written).map(|(xid, written)| Pending {
        xid,
        written,
        node: server.origin.node,
        incarnation: server.origin.incarnation,
        timeline: server.origin.gauge.timeline(),
    });
    held.unit.pending = pending;
    Ok(())
}

/// After the loss of the server connection: asks the primary that is there then.
pub(super) async fn resolve(state: &mut State, context: &mut Context, pending: Pending) -> Verdict {
    let bound = context.places.bounds().hold_timeout;
    let asking = ask_until_known(state, context, pending);
    tokio::time::timeout(bound, asking)
        .await
        .unwrap_or(Verdict::Unknown)
}

async fn ask_until_known(state: &mut State, context: &mut Context, pending: Pending) -> Verdict {
    loop {
        let verdict = ask_once(state, context, pending).await;
        match verdict.unwrap_or(Verdict::Unknown) {
            Verdict::Wait => tokio::time::sleep(LOOK_AGAIN).await,
            known => return known,
        }
    }
}

async fn ask_once(state: &mut State, context: &mut Context, pending: Pending) -> Option<Verdict> {
    let need = Need {
        access: Access::Write,
        write_reason: None,
        level: Level::Primary,
        exclude: NodeSet::default(),
    };
    // The question has nothing to do with what the session has seen.
    let mut nothing = Seen::default();
    let placed = context
        .places
        .place(&context.worker, &mut nothing, need)
        .await;
    let (mut lease, _) = placed.ok()?;
    let server = lease.server();
    let credit = {
        let topology = context.worker.common.cluster.topology();
        let node = topology.node(server.origin.node)?;
        let life = node.usable()?;
        if life.incarnation != server.origin.incarnation {
            return Some(Verdict::Wait);
        }
        pending.credit(Witness {
            node: node.id,
            incarnation: life.incarnation,
            timeline: life.timeline,
            history: life.history.as_deref(),
        })
    };
    if matches!(credit, Credit::RolledBack | Credit::None) {
        return Some(credit.verdict(XidStatus::Forgotten));
    }
    let sql = format!("SELECT pg_catalog.pg_xact_status('{}')", pending.xid);
    let status = match server.ask_own(&sql, OWN_BOUND).await {
        Ok(row) => match row.first().and_then(Option::as_deref) {
            Some("committed") => XidStatus::Committed,
            Some("aborted") => XidStatus::Aborted,
            Some("in progress") => XidStatus::InProgress,
            _ => XidStatus::Forgotten,
        },
        Err(OwnQueryError::Refused(frame))
            if error_field(&frame, field::SQLSTATE) == Some(NOT_YET_GIVEN) =>
        {
            XidStatus::NeverBegun
        }
        Err(OwnQueryError::Refused(_)) => XidStatus::Forgotten,
        Err(OwnQueryError::Io(_)) => {
            lease.discard();
            return Some(Verdict::Wait);
        }
    };
    let verdict = credit.verdict(status);
    if verdict == Verdict::Committed {
        if server.ask_own(BARRIER, OWN_BOUND).await.is_err() {
            lease.discard();
            return Some(Verdict::Wait);
        }
        // It was the session's last word, and the commit is part of what this primary shows.
        state
            .seen
            .ended_on_primary(server.origin.node, server.life(), Cover::Flush);
    }
    Some(verdict)
}

/// Answers a COMMIT that is known to have succeeded as its server would have. False when what the
/// client is owed cannot be known.
pub(super) async fn answer_committed(
    client: &mut Connection,
    state: &mut State,
    batch: &Batch,
    owed: &[Owed],
) -> Result<bool, Ending> {
    let mut effects = batch.effects();
    let alone = batch.statements == 1
        && effects.next() == Some(&Effect::End { chain: false })
        && effects.next().is_none();
    if !alone || !matches!(batch.end, End::Query | End::Sync) {
        return Ok(false);
    }
    let ready = TransactionStatus::Idle;
    let reply = owed.iter().fold(Reply::new(), |reply, owed| match owed {
        Owed::Query(_) => reply.complete("COMMIT").ready(ready),
        Owed::Parse | Owed::FakeParse => reply.raw(frame::PARSE_COMPLETE),
        Owed::Bind => reply.raw(frame::BIND_COMPLETE),
        Owed::Describe | Owed::DescribeNamed => reply.raw(frame::NO_DATA),
        Owed::Execute(_) => reply.complete("COMMIT"),
        Owed::Close | Owed::FakeClose => reply.raw(frame::CLOSE_COMPLETE),
        Owed::Sync => reply.ready(ready),
        Owed::OwnQuery | Owed::OwnParse | Owed::OwnClose | Owed::OwnSync => reply,
    });
    state.names.confirm_all();
    client.tell(reply.as_bytes()).await?;
    Ok(true)
}
