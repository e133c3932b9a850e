//! Replication slots as `core::failover::slots` wants them, on every server in service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Error};

use super::executor::{CREATE_SLOT, CommandError, Executor, RELOAD, SLOTS, alter, bounded};
use super::panics::propagate;
use crate::core::failover::slots::{self, NodeSlot, ServerSlots, SlotAct, SlotPolicy};
use crate::core::failover::{Phase, View};
use crate::core::lsn::Lsn;
use crate::core::topology::NodeId;

/// Between two looks.
const PACE: Duration = Duration::from_secs(5);
/// The same where there are to be no slots: there may have been.
const IDLE: Duration = Duration::from_secs(60);
/// What is done at one look may make more possible.
const MOST_ROUNDS: usize = 3;

const SERVER: &str = "\
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END,
       (SELECT redo_lsn FROM pg_control_checkpoint()), current_setting('primary_slot_name')";
const OWN: &str = "\
SELECT slot_name::text, restart_lsn, active, wal_status IS NOT DISTINCT FROM 'lost',
       greatest(age(xmin), age(catalog_xmin))
  FROM pg_replication_slots
 WHERE slot_type = 'physical' AND NOT temporary AND starts_with(slot_name::text, $1)";
const ADVANCE: &str = "SELECT pg_replication_slot_advance($1::text::name, $2::pg_lsn)";
const DROP: &str = "\
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
 WHERE slot_name = $1::text::name AND NOT active";

/// Looks at a steady pace while a primary serves, and soon after it has changed.
#[derive(Default)]
pub(super) struct SlotKeeper {
    looked: Option<(u64, Instant)>,
    looking: Option<JoinHandle<()>>,
}

impl SlotKeeper {
    /// Has the slots looked at if it is time.
    pub(super) fn turn(&mut self, executor: &Arc<Executor>, view: View<'_, '_>) {
        let serves = matches!(view.record.phase, Phase::Steady | Phase::Following);
        let Some(primary) = view.record.primary.filter(|_| serves) else {
            return;
        };
        let epoch = view.record.epoch;
        let pace = executor.failover.slots.map_or(IDLE, |_| PACE);
        let is_due = self
            .looked
            .is_none_or(|(looked_in, at)| looked_in != epoch || at.elapsed() >= pace);
        let is_idle = self.looking.as_ref().is_none_or(JoinHandle::is_finished);
        if !is_due || !is_idle {
            return;
        }
        self.looked = Some((epoch, Instant::now()));
        let in_service = |node: &NodeId| {
            let answer = view.answer(*node);
            answer.is_some_and(|answer| view.is_ours(answer)) && !view.is_quarantined(*node)
        };
        let nodes: Vec<NodeId> = view.policy.ids().filter(in_service).collect();
        if nodes.contains(&primary) {
            let executor = Arc::clone(executor);
            let looking = async move { keep(&executor, primary, nodes).await };
            self.looking = Some(tokio::spawn(looking));
        }
    }
}

impl Drop for SlotKeeper {
    fn drop(&mut self) {
        if let Some(looking) = &self.looking {
            looking.abort();
        }
    }
}

fn policy(executor: &Executor) -> SlotPolicy {
    let names = executor
        .policy
        .nodes
        .iter()
        .map(|node| slots::name(&node.name));
    SlotPolicy {
        names: names.collect(),
        most_bytes: executor.failover.slots,
    }
}

async fn keep(executor: &Arc<Executor>, primary: NodeId, nodes: Vec<NodeId>) {
    let mut failed = BTreeMap::new();
    for _ in 0..MOST_ROUNDS {
        let servers = all(executor, &nodes).await;
        let acts = slots::acts(&policy(executor), primary, &servers);
        if acts.is_empty() || !failed.is_empty() {
            break;
        }
        let mut at_work = JoinSet::new();
        for (node, acts) in acts {
            let executor = Arc::clone(executor);
            at_work.spawn(async move { (node, act_on(&executor, node, &acts).await) });
        }
        while let Some(ended) = at_work.join_next().await {
            match ended {
                Ok((node, Err(error))) => {
                    failed.insert(node, error);
                }
                Ok((_, Ok(()))) => {}
                Err(error) => propagate(error),
            }
        }
    }
    for node in nodes {
        let error = failed.remove(&node);
        let text = error.map(|error| format!("replication slots: {error}"));
        let name = executor.policy.name(node);
        let problems = &executor.operator.problems;
        match (problems.report(&name, "slots", text.clone()), text) {
            (true, Some(text)) => tracing::warn!(node = %name, "{text}"),
            (true, None) => tracing::info!(node = %name, "replication slots are as they should be"),
            (false, _) => {}
        }
    }
}

async fn all(executor: &Arc<Executor>, nodes: &[NodeId]) -> Vec<Option<ServerSlots>> {
    let mut asked = JoinSet::new();
    for node in nodes.iter().copied() {
        let executor = Arc::clone(executor);
        asked.spawn(async move { (node, slots_of(&executor, node).await) });
    }
    let mut servers = vec![None; executor.policy.nodes.len()];
    while let Some(ended) = asked.join_next().await {
        match ended {
            Ok((node, Ok(found))) => servers[usize::from(node.0)] = Some(found),
            Ok((node, Err(error))) => {
                let node = executor.policy.name(node);
                tracing::debug!(%node, %error, "replication slots");
            }
            Err(error) => propagate(error),
        }
    }
    servers
}

async fn slots_of(executor: &Executor, node: NodeId) -> Result<ServerSlots, CommandError> {
    let client = executor.connect(node, SLOTS).await?;
    bounded(async { Ok(read(&client).await?) }).await
}

/// Does what can be done, and tells the first that could not be: a slot that cannot be made is no reason
/// for others to hold WAL back.
async fn act_on(executor: &Executor, node: NodeId, acts: &[SlotAct]) -> Result<(), CommandError> {
    let client = executor.connect(node, SLOTS).await?;
    let name = executor.policy.name(node);
    let mut done = Ok(());
    for act in acts {
        let carried_out = bounded(async { Ok(carry_out(&client, act).await?) }).await;
        match carried_out {
            Ok(()) => tell(&name, act),
            Err(error) => {
                let error = CommandError::new(format!("{act}: {error}"));
                done = done.and(Err(error));
            }
        }
    }
    done
}

async fn carry_out(client: &Client, act: &SlotAct) -> Result<(), Error> {
    match act {
        SlotAct::Create(slot) => {
            client.execute(CREATE_SLOT, &[slot]).await?;
        }
        SlotAct::Remake(slot) => {
            client.execute(DROP, &[slot]).await?;
            client.execute(CREATE_SLOT, &[slot]).await?;
        }
        SlotAct::Advance { slot, to } => {
            client.execute(ADVANCE, &[slot, &PgLsn::from(to.0)]).await?;
        }
        SlotAct::Drop { slot, .. } => {
            client.execute(DROP, &[slot]).await?;
        }
        SlotAct::Use(slot) => {
            let set = alter("primary_slot_name", slot);
            client.batch_execute(&set).await?;
            client.batch_execute(RELOAD).await?;
        }
    }
    Ok(())
}

fn tell(node: &str, act: &SlotAct) {
    match act {
        SlotAct::Advance { .. } => {}
        SlotAct::Drop { why, .. } => tracing::warn!(%node, "{act}: {why}"),
        _ => tracing::info!(%node, "{act}"),
    }
}

async fn read(client: &Client) -> Result<ServerSlots, Error> {
    let lsn = |lsn: Option<PgLsn>| lsn.map(|lsn| Lsn(lsn.into()));
    let row = client.query_one(SERVER, &[]).await?;
    let rows = client.query(OWN, &[&slots::PREFIX]).await?;
    let slot = |row: &tokio_postgres::Row| {
        Ok(NodeSlot {
            name: row.try_get(0)?,
            restart: lsn(row.try_get(1)?),
            rows: row
                .try_get::<_, Option<i32>>(4)?
                .map(|age| age.max(0).unsigned_abs().into()),
            active: row.try_get(2)?,
            lost: row.try_get(3)?,
        })
    };
    Ok(ServerSlots {
        end: lsn(row.try_get(0)?).unwrap_or_default(),
        redo: lsn(row.try_get(1)?).unwrap_or_default(),
        uses: row.try_get(2)?,
        slots: rows.iter().map(slot).collect::<Result<_, Error>>()?,
    })
}
