//! Measuring one node, for ever. A life begins with a connection; it goes on with the next one if that
//! finds the same run of the server.
//!
//! At most one probe is under way. At rest probes keep the configured pace; while somebody waits
//! for a measurement they follow each other with a short gap, and all who wait share the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::probe::{Probe, ProbeError};
use crate::config::{Live, Monitor, Node};
use crate::core::fitness::{self, Unfit};
use crate::core::gauge::{Gauge, Measurement};
use crate::core::lsn::Timeline;
use crate::core::topology::{Incarnation, Life, NodeId, NodeView, Role};
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;
use crate::shared::logins::Changed;
use crate::shared::operator::OperatorState;

/// Pause before a lost node is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Incarnations are numbered over all nodes, so that none is ever taken for another.
static NEXT_INCARNATION: AtomicU64 = AtomicU64::new(1);

/// What the monitor of one node works with.
#[derive(Debug)]
pub struct NodeMonitor {
    /// The node's place in the configuration.
    pub id: NodeId,
    pub node: Node,
    pub live: Arc<Live>,
    pub cluster: Arc<ClusterState>,
    pub metrics: Arc<Metrics>,
    /// Where to say why the node is down.
    pub operator: Arc<OperatorState>,
}

impl NodeMonitor {
    /// Monitors until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = self.lives() => {}
            () = shutdown.cancelled() => {}
        }
    }

    fn monitor(&self) -> Monitor {
        self.live.load().monitor.clone()
    }

    async fn lives(&self) {
        let name = self.node.name.as_str();
        let mut reported = String::new();
        self.metrics.nodes.up.with_label_values(&[name]).set(0);
        self.show_role(None);
        // Of the server in the life that was measured last.
        let mut run = None;
        loop {
            let begun = Instant::now();
            let mut lived = false;
            let error = match Probe::open(&self.node, &self.monitor()).await {
                Ok(mut probe) => {
                    let goes_on = self.silent_life();
                    let goes_on = goes_on.filter(|life| probe.continues(run.as_ref(), life));
                    let asked = probe.run().cloned();
                    let error = self.live(probe, goes_on, &mut reported).await;
                    lived = self.lose_life(&error);
                    if lived {
                        run = asked;
                    }
                    error
                }
                Err(error) => error,
            };
            if !matches!(error, ProbeError::Changed(_)) {
                let failures = &self.metrics.nodes.probe_failures;
                failures.with_label_values(&[name]).inc();
            }
            // Once for each different reason, not once for each attempt.
            let reason = error.to_string();
            self.operator
                .problems
                .report(name, "down", Some(reason.clone()));
            if reason != reported {
                tracing::warn!(node = name, %reason, "node is not available");
                reported = reason;
            }
            // A promoted standby is there already, and so is a server that has only lost this connection.
            let changed = matches!(error, ProbeError::Changed(_));
            let at_once = changed || lived && begun.elapsed() > RETRY;
            if !at_once {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// The life that may go on.
    fn silent_life(&self) -> Option<Life> {
        let topology = self.cluster.topology();
        let silence = topology.node(self.id)?.silent.as_ref();
        silence.map(|silence| silence.life.clone())
    }

    /// One life, or as much of it as one connection tells: from the first answer to the first failure.
    async fn live(
        &self,
        mut probe: Probe,
        goes_on: Option<Life>,
        reported: &mut String,
    ) -> ProbeError {
        let mut asynchronous = goes_on.as_ref().map(|life| life.latest.asynchronous);
        let (incarnation, gauge) = match goes_on {
            Some(life) => (life.incarnation, life.gauge),
            None => {
                let number = NEXT_INCARNATION.fetch_add(1, Ordering::Relaxed);
                (Incarnation(number), Arc::new(Gauge::default()))
            }
        };
        let mut pace = Pace::new();
        let mut began = false;
        let mut said = None;
        let mut asked_alive = Instant::now();
        let mut followed = Timeline::default();
        loop {
            // Taken before the probe leaves, so that whoever asks from now on gets another.
            self.cluster.demands.take(self.id);
            let running = self.running_on_primary();
            let number = gauge.next_probe();
            let sent = Instant::now();
            let bound = self.live.load().monitor.timeout;
            let answer = match probe.ask(&running, bound).await {
                Ok(answer) => answer,
                Err(error) => return error,
            };
            let took = self
                .metrics
                .nodes
                .probe
                .with_label_values(&[&self.node.name]);
            took.observe(sent.elapsed().as_secs_f64());
            let latest = Measurement {
                probe: number,
                position: answer.position,
                at_us: self.cluster.now_us(),
                timeline: probe.timeline(),
                asynchronous: answer.asynchronous,
            };
            gauge.record(latest);
            if asynchronous.replace(answer.asynchronous) == Some(!answer.asynchronous) {
                self.commits_otherwise(answer.asynchronous);
            }
            let life = Life {
                incarnation,
                role: answer.role,
                timeline: probe.timeline(),
                history: probe.history(),
                system: probe.run().map(|run| run.system),
                latest,
                gauge: Arc::clone(&gauge),
            };
            if followed != life.timeline {
                followed = life.timeline;
                self.metrics
                    .nodes
                    .timeline
                    .with_label_values(&[&self.node.name])
                    .set(i64::from(followed.0));
                if began {
                    tracing::info!(
                        node = self.node.name,
                        timeline = followed.0,
                        "node follows another timeline"
                    );
                }
            }
            if !began {
                began = true;
                reported.clear();
                self.operator.problems.report(&self.node.name, "down", None);
                self.report_begin(&life);
            }
            self.cluster.publish(self.id, |view| {
                if view.live(life) {
                    self.count_end();
                }
            });
            self.judge(&mut said);

            let abandoned = gauge.abandoned();
            if !abandoned.is_empty() && asked_alive.elapsed() > RETRY {
                asked_alive = Instant::now();
                match probe.alive(&abandoned, bound).await {
                    Ok(alive) => gauge.still_there(&abandoned, &alive),
                    Err(error) => return error,
                }
            }
            self.rest(sent, &mut pace).await;
        }
    }

    /// Says why the node serves no reads, if it does not, whenever that is not what was said last.
    fn judge(&self, said: &mut Option<Option<Unfit>>) {
        let max_lag_us = self.live.load().routing.max_lag.as_micros() as u64;
        let topology = self.cluster.topology();
        let standby = topology.node(self.id).and_then(NodeView::as_standby);
        let unfit = standby.and_then(|(life, _)| {
            let now_us = self.cluster.now_us();
            fitness::unfit(&topology, life, max_lag_us, now_us)
        });
        if said.replace(unfit) == Some(unfit) {
            return;
        }
        let node = self.node.name.as_str();
        let reason = unfit.map(|unfit| unfit.to_string());
        let problems = &self.operator.problems;
        match (problems.report(node, "unfit", reason.clone()), reason) {
            (true, Some(reason)) => tracing::warn!(node, reason, "standby serves no reads"),
            (true, None) => tracing::info!(node, "what kept it from serving reads is over"),
            (false, _) => {}
        }
    }

    /// The server's `synchronous_commit` has changed to off, or from it: what connections were told at their
    /// logins no longer holds.
    fn commits_otherwise(&self, asynchronous: bool) {
        let node = self.node.name.as_str();
        tracing::info!(
            node,
            asynchronous,
            "synchronous_commit has changed: connections are renewed"
        );
        self.cluster.logins.tell([Changed {
            node: self.id,
            database: None,
            role: None,
        }]);
    }

    /// Until the next probe is due, or one is asked for, but never less than the gap.
    async fn rest(&self, sent: Instant, pace: &mut Pace) {
        let (interval, busy_interval) = {
            let config = self.live.load();
            (config.monitor.interval, config.monitor.busy_interval)
        };
        if !self.cluster.demands.is_pending(self.id) {
            let pause = interval.saturating_sub(sent.elapsed());
            let _ = tokio::time::timeout(pause, self.cluster.demands.asked(self.id)).await;
        }
        pace.sleep(busy_interval.saturating_sub(sent.elapsed()))
            .await;
    }

    /// Transactions that the primary had running when it was last asked.
    fn running_on_primary(&self) -> Arc<[u64]> {
        let topology = self.cluster.topology();
        match topology.primary().and_then(NodeView::as_primary) {
            Some((_, snapshot)) => Arc::clone(&snapshot.running),
            None => Arc::from([]),
        }
    }

    fn report_begin(&self, life: &Life) {
        let name = self.node.name.as_str();
        let role = match life.role {
            Role::Primary(_) => "primary",
            Role::Standby(_) => "standby",
        };
        tracing::info!(
            node = name,
            role,
            timeline = life.timeline.0,
            position = %life.latest.position.flush,
            "node is available"
        );
        self.metrics.nodes.up.with_label_values(&[name]).set(1);
        self.show_role(Some(role));
    }

    fn show_role(&self, role: Option<&str>) {
        for known in ["primary", "standby"] {
            let roles = &self.metrics.nodes.role;
            roles
                .with_label_values(&[self.node.name.as_str(), known])
                .set(i64::from(Some(known) == role));
        }
    }

    /// The node does not answer any more, or is another than before; false when it never answered.
    fn lose_life(&self, error: &ProbeError) -> bool {
        let mut lived = false;
        let now_us = self.cluster.now_us();
        self.cluster.publish(self.id, |view| {
            lived = view.life.is_some();
            match error {
                ProbeError::Changed(_) => {
                    if view.end_life() {
                        self.count_end();
                    }
                }
                _ => view.fall_silent(now_us),
            }
        });
        let name = self.node.name.as_str();
        self.metrics.nodes.up.with_label_values(&[name]).set(0);
        self.show_role(None);
        lived
    }

    fn count_end(&self) {
        let ended = &self.metrics.nodes.incarnations_ended;
        ended.with_label_values(&[&self.node.name]).inc();
    }
}
