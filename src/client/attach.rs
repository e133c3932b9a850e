//! Giving a session the server connection that a batch needs: placed, and made ready for its settings.

use std::sync::Arc;

use super::batch::Batch;
use super::place::{Failure, Need};
use super::session::{OWN_BOUND, Session, Unit};
use crate::backend::own_query::OwnQueryError;
use crate::backend::settings;
use crate::config::PoolMode;
use crate::core::route::NodeSet;
use crate::core::statement::{Access, WriteReason};
use crate::error::{Kind, Problem};
use crate::wire::reply::Reply;

impl Session {
    /// Places a batch and makes the server connection ready for this session.
    pub(super) async fn attach(&mut self, batch: &Batch, exclude: NodeSet) -> Result<(), Failure> {
        let level = batch.level.unwrap_or_else(|| self.track.level());
        let (mut access, mut write_reason) = (batch.access, batch.write_reason);
        if let Some(read_only) = batch.read_only_transaction()
            && (write_reason.is_none() || write_reason == Some(WriteReason::Transaction))
        {
            (access, write_reason) = if read_only {
                (Access::Read, None)
            } else {
                (Access::Write, Some(WriteReason::Transaction))
            };
        }
        if self.worker.common.start.pool_mode == PoolMode::Session {
            // The connection is kept for good, so it must be able to do everything.
            access = Access::Write;
        }
        let need = Need {
            access,
            write_reason,
            level,
            exclude,
        };
        let (mut lease, last) = loop {
            if !self.may_go_on() {
                self.wait_at_gate().await?;
            }
            let (places, seen) = (&mut self.places, &mut self.seen);
            match places.place(&self.worker, seen, need).await {
                Ok(placed) if self.may_go_on() => break placed,
                // It was waited for in a queue.
                Ok((lease, _)) => lease.discard(),
                Err(Failure::Paused) => {}
                Err(failure) => return Err(failure),
            }
        };
        if let Some(warning) = self.places.take_warning() {
            let reply = Reply::new().warning(&warning);
            // A client that is gone shows when its answer is due.
            let _ = self.tell(reply.as_bytes()).await;
        }
        let server = lease.server();
        let applied = server.applied.as_ref();
        if !applied.is_some_and(|applied| settings::same(applied, &self.track.settings)) {
            let sql = self
                .track
                .settings
                .sync_sql(applied.map(|applied| &**applied));
            match server.run_own(&sql, OWN_BOUND).await {
                Ok(_) => server.applied = Some(Arc::clone(&self.track.settings)),
                Err(OwnQueryError::Refused(frame)) => {
                    let node = server.origin.node;
                    lease.discard();
                    return Err(if last.route.primary {
                        Failure::Refused(frame)
                    } else {
                        // It may not have replayed yet what they name, such as a new role.
                        Failure::Unfit(node)
                    });
                }
                Err(OwnQueryError::Io(error)) => {
                    let node = lease.pool().node_name().clone();
                    lease.discard();
                    let what = format!("cannot prepare a connection to node {node}: {error}");
                    return Err(Problem::error(Kind::CannotConnectNow, what).into());
                }
            }
        }
        self.slot.attach(&lease.server().cancel);
        self.worker.common.metrics.routing.routed(
            last.route.node.0,
            last.route.primary,
            last.route.reason,
        );
        self.last_route = Some(last);
        self.unit = Unit {
            level,
            just_placed: true,
            ..Unit::default()
        };
        self.held = Some(lease);
        Ok(())
    }

    fn may_go_on(&self) -> bool {
        self.worker.common.pause.is_open(&self.database.name)
    }

    /// Waits until its database is paused no longer, for as long as the client does.
    async fn wait_at_gate(&mut self) -> Result<(), Failure> {
        let common = &self.worker.common;
        self.entry.pause(true);
        let waited = tokio::select! {
            () = common.pause.opened(&self.database.name) => Ok(()),
            () = self.slot.cancelled() => Err(Problem::error(
                Kind::QueryCanceled,
                "canceling statement due to user request",
            )),
            // Nobody will read it.
            () = self.client.socket.closed() => Err(Problem::error(
                Kind::ConnectionFailure,
                "the client is gone",
            )),
            () = common.draining.cancelled() => Err(Problem::error(
                Kind::AdminShutdown,
                "the database was paused, and causeway is shutting down",
            )),
        };
        self.entry.pause(false);
        Ok(waited?)
    }
}
