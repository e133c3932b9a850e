//! Has a plan's commands carried out in their order.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::background::{self, Background};
use super::event_log::EventLog;
use super::executor::Executor;
use crate::control::store::Claim;
use crate::core::failover::command::{Act, Command};

pub(super) struct CommandRunner {
    pub(super) executor: Arc<Executor>,
    background: Background,
}

impl CommandRunner {
    pub(super) fn new(executor: Executor) -> Self {
        Self {
            executor: Arc::new(executor),
            background: Background::default(),
        }
    }

    /// Tells of what has failed in the background.
    pub(super) fn tell_failures(&mut self, log: &mut EventLog) {
        for (doing, error) in self.background.failed() {
            log.fail(&doing, &error);
        }
    }

    /// Carries out commands in order, neighbours of one kind at the same time, up to the first that
    /// fails, and while the claim holds. `stall` is for how long statements were held the last time.
    pub(super) async fn run(
        &mut self,
        commands: &[Command],
        claim: &Claim,
        log: &mut EventLog,
        stall: Duration,
    ) {
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
                if background::takes(&command.act) {
                    let doing = command.act.describe(&executor.policy);
                    self.background.send(executor, command, doing);
                } else {
                    all.spawn(async move { (executor.carry_out(&command).await, command) });
                }
            }
            let mut failed = false;
            while let Some(ended) = all.join_next().await {
                if let Ok((Err(error), command)) = ended {
                    failed = true;
                    let doing = command.act.describe(&self.executor.policy);
                    log.fail(&doing, &error.to_string());
                }
            }
            if failed {
                return;
            }
        }
    }
}
