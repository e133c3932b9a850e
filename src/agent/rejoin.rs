//! A server becomes a standby of another, whatever it has been: the steps and their order.
//!
//! From the first change on the data directory counts as unfinished, on disk, until it is a whole
//! standby again; a rejoin that is killed anywhere in between starts over and ends well.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::api::{Job, JobKind, JobState, RefusalCode, RejoinRequest, Role, Source};
use super::control_file::Control;
use super::files;
use super::operations::{Agent, Failure};
use super::postmaster::ServerError;
use super::rejoin_plan::{self, First, Stage};
use super::swap::DataDirectories;
use super::tools::{Tool, ToolError};
use super::upstream::{self, SystemIdentity, Upstream};
use crate::clock;

/// How long the source may take to become a primary that answers.
const SOURCE: Duration = Duration::from_secs(60);
/// How long a standby that has started may take to stream.
const STREAM: Duration = Duration::from_secs(60);
/// The same for one that may well be unable to.
const QUICK: Duration = Duration::from_secs(5);
/// A receiver that streams for so long is not ended by its server; that looks at it ten times a
/// second, or each `wal_retrieve_retry_interval`, 5 s at its default.
const STEADY: Duration = Duration::from_secs(7);
/// Bound on the end of a job that something newer replaces.
const REPLACED: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// Bound on one look at our own server.
const ANSWER: Duration = Duration::from_secs(1);

/// Why a rejoin was given up.
#[derive(Debug, thiserror::Error)]
enum RejoinError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Text(String),
}

impl RejoinError {
    fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Tool(ToolError::Cancelled) | Self::Server(ServerError::Overtaken)
        )
    }
}

impl Agent {
    /// Begins a rejoin and returns at once; one with the same words that is under way goes on.
    pub(super) async fn rejoin(self: Arc<Self>, asked: RejoinRequest) -> Result<Job, Failure> {
        let epoch = asked.epoch;
        let admitted = move |agent: &Self| {
            let ledger = agent.state.change(|ledger, _| ledger.admit(epoch))?;
            let look = agent.watch.look(&agent.server);
            if look.leads() && ledger.lease(clock::now()).is_some() {
                let text = "it is a primary under a lease: stop it first";
                return Err(Failure::new(RefusalCode::OtherRole, text));
            }
            Ok(())
        };
        self.clone().blocking(admitted).await?;
        if let Some(job) = self.jobs.same(&asked) {
            return Ok(job);
        }
        self.jobs.cancel();
        let job = Job {
            epoch,
            kind: JobKind::Rejoin,
            state: JobState::Running,
            started: clock::unix_seconds(),
            detail: "begins".to_owned(),
        };
        let cancel = CancellationToken::new();
        let waited = Instant::now();
        while !self.jobs.begin(&asked, &job, &cancel) {
            if waited.elapsed() > REPLACED {
                let text = "an earlier rejoin does not end";
                return Err(Failure::new(RefusalCode::Busy, text));
            }
            tokio::time::sleep(PAUSE).await;
        }
        tokio::spawn(self.work(asked, cancel));
        Ok(job)
    }

    async fn work(self: Arc<Self>, asked: RejoinRequest, cancel: CancellationToken) {
        let (epoch, begun) = (asked.epoch, Instant::now());
        tracing::info!(epoch, source = ?asked.source, "rejoin begins");
        let outcome = self.clone().steps(&asked, &cancel).await;
        match outcome {
            Ok(how) => {
                let detail = format!("{how}; took {} ms", begun.elapsed().as_millis());
                tracing::info!(epoch, %detail, "rejoined");
                self.jobs.tell(JobState::Done, detail);
            }
            Err(error) => {
                tracing::warn!(epoch, %error, "could not rejoin");
                self.jobs.tell(JobState::Failed, error.to_string());
            }
        }
    }

    async fn steps(
        self: Arc<Self>,
        asked: &RejoinRequest,
        cancel: &CancellationToken,
    ) -> Result<&'static str, RejoinError> {
        let step = |detail: &str| {
            tracing::info!(detail, "rejoin");
            self.jobs.tell(JobState::Running, detail);
        };
        let log = self.state.directory().join("rejoin.log");
        files::remove_if_there(&log)?;
        let upstream = Upstream::new(&self.config, &self.server, &log, &asked.source);

        // Before anything is touched: a source of another cluster is none.
        step("ask the source who it is");
        let to = self.identify(&upstream, cancel).await?;

        step("stop the server");
        self.clone()
            .blocking_step(|agent| Ok(agent.stop_to_rejoin()?))
            .await?;

        let directories = DataDirectories::new(&self.server.data, self.state.directory());
        let before = self.state.rejoin();
        let held = directories.clone();
        self.clone()
            .blocking_step(move |_| Ok(held.save_settings(before.is_some())?))
            .await?;

        let follow = Follow { asked, to, cancel };
        if self.first_step(asked, before, to) == First::Follow {
            step("start as a standby");
            match self.follow(&follow, QUICK).await {
                Ok(()) => return Ok("streams as it was"),
                Err(error) if error.is_cancelled() => return Err(error),
                Err(error) => tracing::warn!(%error, "it does not follow as it is"),
            }
            self.clone()
                .blocking_step(|agent| Ok(agent.stop_to_rejoin()?))
                .await?;
        }
        let first = self.first_step(asked, self.state.rejoin(), to);
        if matches!(first, First::Recover | First::Rewind) {
            let rewound = async {
                if first == First::Recover {
                    step("recover from the crash in single-user mode");
                    self.recover(&upstream, cancel).await?;
                }
                step("rewind");
                self.rewind(&upstream, &directories, cancel).await?;
                step("start as a standby after pg_rewind");
                self.follow(&follow, STREAM).await
            };
            match rewound.await {
                Ok(()) => {
                    directories.forget_settings()?;
                    return Ok("rewound and streams");
                }
                Err(error) if error.is_cancelled() => return Err(error),
                Err(error) => tracing::warn!(%error, "pg_rewind does not serve"),
            }
            self.clone()
                .blocking_step(|agent| Ok(agent.stop_to_rejoin()?))
                .await?;
        }
        step("take a base backup");
        self.copy(&upstream, &directories, cancel).await?;
        step("start as a standby after a base backup");
        self.follow(&follow, STREAM).await?;
        directories.forget_settings()?;
        Ok("copied by a base backup and streams")
    }

    fn first_step(
        &self,
        asked: &RejoinRequest,
        before: Option<Stage>,
        to: SystemIdentity,
    ) -> First {
        if asked.copy && before != Some(Stage::Whole) {
            return First::Copy;
        }
        let data = &self.server.data;
        let control = Control::read(data);
        rejoin_plan::first(before, control, has_backup_label(data), to.timeline)
    }

    /// Waits until the source is a primary of our own cluster; its timeline.
    async fn identify(
        &self,
        upstream: &Upstream<'_>,
        cancel: &CancellationToken,
    ) -> Result<SystemIdentity, RejoinError> {
        let until = Instant::now() + SOURCE;
        let identity = loop {
            let asked = async {
                if upstream.is_standby(cancel).await? {
                    return Err(RejoinError::Text(
                        "the source is a standby itself".to_owned(),
                    ));
                }
                Ok(upstream.identify(cancel).await?)
            };
            match asked.await {
                Ok(identity) => break identity,
                Err(error) if error.is_cancelled() || Instant::now() > until => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE * 4).await,
            }
        };
        let ours = Control::read(&self.server.data).map(|control| control.system_identifier);
        match ours {
            Some(ours) if ours != identity.system_identifier => Err(RejoinError::Text(format!(
                "the source is of another cluster: its system identifier is {}, ours is {ours}; \
                 nothing was changed",
                identity.system_identifier
            ))),
            _ => Ok(identity),
        }
    }

    /// Ends the history of a primary that crashed, as pg_rewind needs it.
    async fn recover(
        &self,
        upstream: &Upstream<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), RejoinError> {
        let data = &self.server.data;
        self.state.set_rejoin(Some(Stage::Recovering))?;
        // Signal files would keep a single-user server from starting.
        files::set_standby(data, false)?;
        let mut single = Tool::new(
            &self.server,
            "postgres",
            upstream.log,
            self.config.copy_timeout,
        );
        single.args(["--single", "-F", "-D"]);
        single.arg(data);
        if let Some(file) = &self.server.config_file {
            single.arg("-c");
            single.arg(format!("config_file={}", file.display()));
        }
        // No archive and no standby may hold up, or keep, the end of a history that is given up.
        single.args(["-c", "archive_mode=off"]);
        single.args(["-c", "synchronous_standby_names="]);
        single.arg("template1");
        single.run(cancel).await?;
        Ok(())
    }

    /// Takes the data back to where both histories agree, and further along the source's.
    async fn rewind(
        &self,
        upstream: &Upstream<'_>,
        directories: &DataDirectories,
        cancel: &CancellationToken,
    ) -> Result<(), RejoinError> {
        let data = &self.server.data;
        let within = self.config.copy_timeout;
        upstream.checkpoint(within, cancel).await?;
        self.state.set_rejoin(Some(Stage::Rewriting))?;
        let mut rewind = upstream.tool("pg_rewind", within);
        rewind.arg("--no-ensure-shutdown");
        rewind.arg("--target-pgdata");
        rewind.arg(data);
        rewind.arg(format!("--source-server={}", upstream.conninfo()));
        rewind.run(cancel).await?;
        directories.restore_settings(data)?;
        self.state.set_rejoin(Some(Stage::Whole))?;
        Ok(())
    }

    /// Copies the source's data and puts it in the place of ours once it is whole.
    async fn copy(
        self: &Arc<Self>,
        upstream: &Upstream<'_>,
        directories: &DataDirectories,
        cancel: &CancellationToken,
    ) -> Result<(), RejoinError> {
        let held = directories.clone();
        self.clone()
            .blocking_step(move |agent| {
                agent.state.set_rejoin(Some(Stage::Rewriting))?;
                Ok(held.prepare()?)
            })
            .await?;
        let mut backup = upstream.tool("pg_basebackup", self.config.copy_timeout);
        backup.args([
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-password",
            "--pgdata",
        ]);
        backup.arg(&directories.backup);
        backup.arg(format!("--dbname={}", upstream.conninfo()));
        backup.run(cancel).await?;
        let held = directories.clone();
        self.clone()
            .blocking_step(move |agent| {
                held.restore_settings(&held.backup)?;
                files::set_standby(&held.backup, true)?;
                held.swap()?;
                Ok(agent.state.set_rejoin(Some(Stage::Whole))?)
            })
            .await
    }

    /// Makes the data a standby's, starts it, and waits until it follows the source's timeline.
    ///
    /// A receiver that streams proves little: one whose server cannot replay what it receives is
    /// ended and begins again. So either the server has replayed what the source had written
    /// before, or, with replay delayed or far behind, the same receiver has streamed for a while.
    async fn follow(
        self: &Arc<Self>,
        follow: &Follow<'_>,
        within: Duration,
    ) -> Result<(), RejoinError> {
        let Follow { asked, to, cancel } = follow;
        let (epoch, source) = (asked.epoch, asked.source.clone());
        let token = CancellationToken::clone(cancel);
        self.clone()
            .blocking_step(move |agent| {
                agent.make_standby(&source)?;
                agent.state.set_rejoin(None)?;
                let within = agent.config.start_timeout.min(within);
                let permitted = || !token.is_cancelled();
                agent.start_server(epoch, Role::Standby, within, permitted)?;
                agent.watch.look(&agent.server);
                Ok(())
            })
            .await?;
        let until = Instant::now() + within;
        let mut steady: Option<(i32, Instant)> = None;
        loop {
            if cancel.is_cancelled() {
                return Err(ToolError::Cancelled.into());
            }
            let inquiry = &self.inquiry;
            let standing = inquiry.standing(&self.config, &self.server, ANSWER).await;
            // The source may have followed another primary meanwhile.
            let there = standing.filter(|standing| {
                standing.role == Role::Standby && standing.timeline >= Some(to.timeline)
            });
            let streams = there.and_then(|standing| standing.streams);
            steady = match (streams, steady) {
                (Some(now), Some((before, since))) if now == before => Some((now, since)),
                (Some(now), _) => Some((now, Instant::now())),
                (None, _) => None,
            };
            let replayed = there.is_some_and(|standing| standing.replayed >= to.written);
            if steady.is_some_and(|(_, since)| replayed || since.elapsed() > STEADY) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(RejoinError::Text(format!(
                    "it does not stream on timeline {} within {within:?}; asked, it says \
                     {standing:?}",
                    to.timeline
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn make_standby(&self, source: &Source) -> io::Result<()> {
        let conninfo = upstream::primary_conninfo(&self.config, source);
        files::set_auto(&self.server.data, "primary_conninfo", &conninfo)?;
        files::set_standby(&self.server.data, true)
    }

    async fn blocking_step<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, RejoinError> + Send + 'static,
    ) -> Result<T, RejoinError> {
        let joined = tokio::task::spawn_blocking(move || work(&self)).await;
        joined.map_err(|error| RejoinError::Text(error.to_string()))?
    }
}

/// What a standby is to follow, and how far at least.
struct Follow<'a> {
    asked: &'a RejoinRequest,
    to: SystemIdentity,
    cancel: &'a CancellationToken,
}

fn has_backup_label(data: &Path) -> bool {
    data.join("backup_label").exists()
}
