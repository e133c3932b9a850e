//! Has a plan's commands carried out in their order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::background::Background;
use super::event_log::EventLog;
use super::executor::Executor;
use super::panics::propagate;
use crate::control::store::Claim;
use crate::core::failover::Record;
use crate::core::failover::command::{Act, Command};

pub(super) struct CommandRunner {
    pub(super) executor: Arc<Executor>,
    background: Background,
    /// Whose lease the plans of this epoch have had renewed: it is, also while commands are waited for.
    kept: Option<Command>,
    /// When it was sent last.
    sent: Option<Instant>,
}

impl CommandRunner {
    pub(super) fn new(executor: Executor) -> Self {
        Self {
            executor: Arc::new(executor),
            background: Background::default(),
            kept: None,
            sent: None,
        }
    }

    /// Tells of what has failed in the background.
    pub(super) fn tell_failures(&mut self, log: &mut EventLog) {
        for (doing, error) in self.background.failed() {
            log.fail(&doing, &error);
        }
    }

    /// Carries out commands in order, neighbours of one kind at the same time, while the claim holds. One
    /// that fails holds up none behind it. `stall` is for how long statements were held the last time.
    pub(super) async fn run(
        &mut self,
        commands: &[Command],
        claim: &Claim,
        log: &mut EventLog,
        stall: Duration,
    ) {
        self.note_leases(commands);
        let kind = |command: &Command| std::mem::discriminant(&command.act);
        for group in commands.chunk_by(|a, b| kind(a) == kind(b)) {
            if !claim.holds() {
                return;
            }
            let mut all = JoinSet::new();
            for command in group {
                if let Act::Report(event) = &command.act {
                    log.event(event, stall);
                    continue;
                }
                let (executor, command) = (Arc::clone(&self.executor), command.clone());
                if command.act.is_errand() {
                    let doing = command.act.describe(&executor.policy);
                    self.background.send(executor, command, doing);
                } else {
                    all.spawn(async move { (executor.carry_out(&command).await, command) });
                }
            }
            while let Some(ended) = self.next_end(&mut all, claim).await {
                let (outcome, command) = match ended {
                    Ok(ended) => ended,
                    Err(error) => {
                        propagate(error);
                        continue;
                    }
                };
                if let Err(error) = outcome {
                    let doing = command.act.describe(&self.executor.policy);
                    log.fail(&doing, &error.to_string());
                }
            }
        }
    }

    fn note_leases(&mut self, commands: &[Command]) {
        let Some(first) = commands.first() else {
            return;
        };
        self.kept = self.kept.take().filter(|kept| kept.epoch == first.epoch);
        let renews = |command: &&Command| matches!(command.act, Act::RenewLease { .. });
        if let Some(latest) = commands.iter().rfind(renews) {
            self.kept = Some(latest.clone());
            self.sent = Some(Instant::now());
        }
    }

    /// What this record, which is stored, justifies whatever becomes of what is planned on it.
    pub(super) fn justified(&mut self, record: &Record, renewal: Option<Command>) {
        let leads = record.leading();
        self.kept = self.kept.take().filter(|kept| {
            kept.epoch == record.epoch
                && matches!(kept.act, Act::RenewLease { node, .. } if Some(node) == leads)
        });
        if renewal.is_some() {
            (self.kept, self.sent) = (renewal, None);
        }
    }

    /// Another may have decided.
    pub(super) fn forget_leases(&mut self) {
        self.kept = None;
    }

    /// Renews the lease that is kept, when it is time to.
    pub(super) fn keep(&mut self, claim: &Claim) {
        let is_due = self.sent.is_none_or(|sent| sent.elapsed() >= self.pause());
        if let Some(renewal) = self.kept.clone().filter(|_| is_due && claim.holds()) {
            self.sent = Some(Instant::now());
            let executor = Arc::clone(&self.executor);
            self.background
                .send(executor, renewal, "renew a lease".to_owned());
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_micros(self.executor.policy.lease_us / 4)
    }

    /// Waits for what may take long, such as a disk, and the lease that is kept does not run out meanwhile.
    pub(super) async fn meanwhile<T>(&mut self, claim: &Claim, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            self.keep(claim);
            let wait = self.pause() / 4;
            if let Ok(done) = tokio::time::timeout(wait, &mut work).await {
                return done;
            }
        }
    }

    /// The next command that ends. A server that hangs holds up the plan, and no lease.
    async fn next_end<T: 'static>(
        &mut self,
        all: &mut JoinSet<T>,
        claim: &Claim,
    ) -> Option<Result<T, tokio::task::JoinError>> {
        self.meanwhile(claim, all.join_next()).await
    }
}
