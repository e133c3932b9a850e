//! A server becomes a standby of another, whatever it has been: the steps and their order.
//!
//! From the first change on the data directory counts as unfinished, on disk, until it is a whole
//! standby again; a rejoin that is killed anywhere in between starts over and ends well.
//!
//! It takes long, and what was decided meanwhile is stronger: right before each step that stops the server
//! or changes its data it is asked again whether it may ([`Agent::permit`]).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::api::{Job, JobKind, JobState, RefusalCode, RejoinRequest, Role, Source};
use super::control_file::Control;
use super::files;
use super::operations::{Agent, Failure};
use super::rejoin_error::RejoinError;
use super::rejoin_plan::{self, First, Stage};
use super::swap::DataDirectories;
use super::tablespaces::{self, Tablespaces, WalDirectory};
use super::tools::{Tool, ToolError};
use super::upstream::{self, SystemIdentity, Upstream};
use crate::clock;

/// How long the source may take to become a primary that answers.
const SOURCE: Duration = Duration::from_secs(60);
/// How long a standby that lets readers in may stand still, and stream nothing.
const STREAM: Duration = Duration::from_secs(60);
/// The same for one that may well be unable to stream.
const QUICK: Duration = Duration::from_secs(5);
/// A receiver that streams for so long is not ended by its server; that looks at it ten times a
/// second, or each `wal_retrieve_retry_interval`, 5 s at its default.
const STEADY: Duration = Duration::from_secs(7);
/// Bound on the end of a job that something newer replaces.
const REPLACED: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// Bound on one look at our own server.
const ANSWER: Duration = Duration::from_secs(1);

impl Agent {
    /// Begins a rejoin and returns at once; one with the same words that is under way goes on.
    pub(super) async fn rejoin(self: Arc<Self>, asked: RejoinRequest) -> Result<Job, Failure> {
        let epoch = asked.epoch;
        let admitted = move |agent: &Self| {
            let ledger = agent.state.change(|ledger, _| ledger.admit(epoch))?;
            let look = agent.watch.look(&agent.server);
            let lease = ledger.lease(clock::now());
            if lease.is_some_and(|(grant, _)| look.leads() || grant.epoch >= epoch) {
                let text = "it is, or is about to become, a primary under a lease: stop it first";
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
        self.state.end_rejoin();
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

        let follow = Follow { asked, to, cancel };
        let (request, token) = (asked.clone(), cancel.clone());
        let goes_on = self
            .clone()
            .blocking_step(move |agent| {
                agent.permit(request.epoch, &token)?;
                Ok(agent.recovers(&request))
            })
            .await?;
        if !goes_on {
            step("stop the server");
            self.stop_for(&follow).await?;
        }

        let directories = DataDirectories::new(&self.server.data, self.state.directory());
        let before = self.state.rejoin();
        let held = directories.clone();
        self.clone()
            .blocking_step(move |_| Ok(held.save_settings(before.is_some())?))
            .await?;

        if goes_on || self.first_step(asked, before, to) == First::Follow {
            // What was made a moment ago has everything to replay, and is able to stream unless it says so.
            let is_whole = before == Some(Stage::Whole);
            let (text, still) = match (goes_on, is_whole) {
                (true, _) => ("let it recover as a standby", STREAM),
                (false, true) => ("start as a standby", STREAM),
                (false, false) => ("start as a standby", QUICK),
            };
            step(text);
            let noted = before.filter(|_| is_whole);
            match self.follow(&follow, still, noted).await {
                Ok(()) => return Ok("streams as it was"),
                Err(error) if error.is_final() => return Err(error),
                // To copy it anew would lead to the same.
                Err(error @ RejoinError::Stuck(_)) if is_whole => return Err(error),
                Err(error) => tracing::warn!(%error, "it does not follow as it is"),
            }
            self.stop_for(&follow).await?;
        }
        let first = self.first_step(asked, self.state.rejoin(), to);
        if matches!(first, First::Recover | First::Rewind) {
            let rewound = async {
                if first == First::Recover {
                    step("recover from the crash in single-user mode");
                    self.recover(&upstream, &follow).await?;
                }
                // pg_rewind would make it where the source has it, whatever is there on this machine.
                let theirs = upstream.tablespaces(cancel).await?;
                let ours = tablespaces::locations(&self.server.data)?;
                if theirs.keys().any(|oid| !ours.contains_key(oid)) {
                    return Err(RejoinError::Text("a tablespace is new".to_owned()));
                }
                step("rewind");
                self.rewind(&upstream, &directories, &follow).await?;
                step("start as a standby after pg_rewind");
                self.follow(&follow, STREAM, None).await
            };
            match rewound.await {
                Ok(()) => {
                    directories.forget_settings()?;
                    return Ok("rewound and streams");
                }
                Err(error) if error.is_final() => return Err(error),
                Err(error) => tracing::warn!(%error, "pg_rewind does not serve"),
            }
            self.stop_for(&follow).await?;
        }
        step("take a base backup");
        self.copy(&upstream, &directories, &follow).await?;
        step("start as a standby after a base backup");
        self.follow(&follow, STREAM, Some(Stage::Whole)).await?;
        directories.forget_settings()?;
        Ok("copied by a base backup and streams")
    }

    /// Whether a job of this epoch may stop the server or change its data now. From then on, and until the
    /// server runs as a standby, nothing lets it lead. Blocks on the disk.
    fn permit(&self, epoch: u64, cancel: &CancellationToken) -> Result<(), RejoinError> {
        let leads = self.watch.look(&self.server).leads();
        self.state
            .change(|ledger, now| ledger.begin_rejoin(epoch, now, leads))?;
        // Whoever cancels it first does what it must give way to.
        match cancel.is_cancelled() {
            true => Err(ToolError::Cancelled.into()),
            false => Ok(()),
        }
    }

    /// The same for a step that changes the data, which nothing may be at work in. Blocks on the disk.
    fn permit_change(&self, epoch: u64, cancel: &CancellationToken) -> Result<(), RejoinError> {
        self.permit(epoch, cancel)?;
        match self.server.occupant(&self.server.data) {
            Some(process) => Err(RejoinError::Started(process.pid)),
            None => Ok(()),
        }
    }

    async fn stop_for(self: &Arc<Self>, follow: &Follow<'_>) -> Result<(), RejoinError> {
        let (epoch, cancel) = (follow.asked.epoch, follow.cancel.clone());
        self.clone()
            .blocking_step(move |agent| {
                agent.permit(epoch, &cancel)?;
                Ok(agent.stop_to_rejoin()?)
            })
            .await
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
        let mut control = Control::read(data);
        if let Some(control) = control
            .as_mut()
            .filter(|control| !control.in_archive_recovery())
        {
            // A primary's may have begun after the latest checkpoint.
            control.timeline = control.timeline.max(files::newest_timeline(data));
        }
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
                Err(error) if error.is_final() || Instant::now() > until => return Err(error),
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
        follow: &Follow<'_>,
    ) -> Result<(), RejoinError> {
        let data = &self.server.data;
        self.permit_change(follow.asked.epoch, follow.cancel)?;
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
        single.run(follow.cancel).await?;
        Ok(())
    }

    /// Takes the data back to where both histories agree, and further along the source's.
    async fn rewind(
        &self,
        upstream: &Upstream<'_>,
        directories: &DataDirectories,
        follow: &Follow<'_>,
    ) -> Result<(), RejoinError> {
        let data = &self.server.data;
        let within = self.config.copy_timeout;
        upstream.checkpoint(within, follow.cancel).await?;
        self.permit_change(follow.asked.epoch, follow.cancel)?;
        self.state.set_rejoin(Some(Stage::Rewriting))?;
        let mut rewind = upstream.tool("pg_rewind", within);
        rewind.arg("--no-ensure-shutdown");
        rewind.arg("--target-pgdata");
        rewind.arg(data);
        rewind.arg(format!("--source-server={}", upstream.conninfo()));
        rewind.run(follow.cancel).await?;
        if self.server.occupant(data).is_some() {
            let text = "another hand has started the server while pg_rewind was at work";
            return Err(RejoinError::Text(text.to_owned()));
        }
        directories.restore_settings(data)?;
        self.state.set_rejoin(Some(Stage::Whole))?;
        Ok(())
    }

    /// Copies the source's data and puts it in the place of ours once it is whole.
    async fn copy(
        self: &Arc<Self>,
        upstream: &Upstream<'_>,
        directories: &DataDirectories,
        follow: &Follow<'_>,
    ) -> Result<(), RejoinError> {
        let (epoch, cancel) = (follow.asked.epoch, follow.cancel);
        let theirs = upstream.tablespaces(cancel).await?;
        let ours = tablespaces::locations(&self.server.data)?;
        let spaces = Tablespaces::of(&theirs, &ours, &self.config.tablespace_mapping);
        let wal = WalDirectory::of(&self.server.data)?;
        let (held, room, volume) = (directories.clone(), spaces.clone(), wal.clone());
        let token = cancel.clone();
        self.clone()
            .blocking_step(move |agent| {
                agent.permit_change(epoch, &token)?;
                // First what only refuses.
                held.prepare()?;
                volume.prepare(&agent.server.data)?;
                Ok(room.prepare(&agent.server.data)?)
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
        for argument in spaces.mapping().chain(wal.argument()) {
            backup.arg(argument);
        }
        backup.run(cancel).await?;
        let (held, token) = (directories.clone(), cancel.clone());
        self.clone()
            .blocking_step(move |agent| {
                held.restore_settings(&held.backup)?;
                files::set_standby(&held.backup, true)?;
                agent.permit_change(epoch, &token)?;
                // Until now nothing of what was there has been touched.
                let before = agent.state.rejoin();
                agent.state.set_rejoin(Some(Stage::Rewriting))?;
                if let Some(process) = held.swap(|old| agent.server.occupant(old))? {
                    agent.state.set_rejoin(before)?;
                    return Err(RejoinError::Started(process.pid));
                }
                spaces.settle(&agent.server.data)?;
                wal.settle(&agent.server.data)?;
                Ok(agent.state.set_rejoin(Some(Stage::Whole))?)
            })
            .await
    }

    /// Makes the data a standby's, starts it unless it runs, and waits until it follows the source's timeline,
    /// for as long as it gets on; `still`: for how long it may not, once it lets readers in. `noted` stays so
    /// until it follows.
    ///
    /// A receiver that streams proves little: one whose server cannot replay what it receives is
    /// ended and begins again. So either the server has replayed what the source had written
    /// before, or, with replay delayed or far behind, the same receiver has streamed for a while.
    async fn follow(
        self: &Arc<Self>,
        follow: &Follow<'_>,
        still: Duration,
        noted: Option<Stage>,
    ) -> Result<(), RejoinError> {
        let Follow { asked, to, cancel } = follow;
        let (epoch, source) = (asked.epoch, asked.source.clone());
        let token = CancellationToken::clone(cancel);
        self.clone()
            .blocking_step(move |agent| {
                let changed = agent.make_standby(&source)?;
                agent.state.set_rejoin(noted)?;
                let runs = agent.server.postmaster().is_some();
                agent.launch_standby(epoch, || !token.is_cancelled())?;
                if runs && changed {
                    agent.server.reload()?;
                }
                agent.watch.look(&agent.server);
                Ok(())
            })
            .await?;
        let mut up = false;
        let mut steady: Option<(i32, Instant)> = None;
        let mut restores = None;
        loop {
            let (look, ..) = self.watch.last();
            if cancel.is_cancelled() {
                return Err(ToolError::Cancelled.into());
            }
            // Who is to lead, or to follow whom, may have been decided anew.
            self.state.ledger().admit(epoch)?;
            if look.postmaster.is_none() {
                let ended = self.server.ended();
                let looked = self.server.has_begun() || !Control::is_intact(&self.server.data);
                return Err(match looked {
                    true => ended.into(),
                    false => RejoinError::Unstarted(ended),
                });
            }
            if look.up && !up {
                up = true;
                self.clone()
                    .blocking_step(move |agent| {
                        agent.watch.look(&agent.server);
                        agent.stands_by(epoch)?;
                        agent.state.end_rejoin();
                        Ok(())
                    })
                    .await?;
            }
            let standing = match look.ready {
                true => {
                    let inquiry = &self.inquiry;
                    inquiry.standing(&self.config, &self.server, ANSWER).await
                }
                false => None,
            };
            if let Some(standing) = standing {
                self.watch.note_replayed(standing.replayed);
            }
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
                self.clone()
                    .blocking_step(|agent| Ok(agent.state.set_rejoin(None)?))
                    .await?;
                return Ok(());
            }
            let unmoved = self.watch.still();
            let stands_still = match look.up {
                false => unmoved > self.config.start_timeout,
                true => steady.is_none() && unmoved > still,
            };
            if !stands_still {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            if self.clone().waits_for_archive(&mut restores).await? {
                continue;
            }
            return Err(match look.up {
                false => RejoinError::Stuck(self.config.start_timeout),
                true => RejoinError::NotStreaming {
                    bound: still,
                    timeline: to.timeline,
                    standing,
                },
            });
        }
    }

    /// Whether the server, which stands still, may wait for a `restore_command` that does not end: the first that
    /// is seen is watched. Err: it does not.
    async fn waits_for_archive(
        self: Arc<Self>,
        watched: &mut Option<(i32, Instant)>,
    ) -> Result<bool, RejoinError> {
        let within = self.config.start_timeout / 2;
        let agent = self.clone();
        let restores = agent
            .blocking_step(|agent| Ok(agent.server.restores()))
            .await?;
        let Some(now) = restores else {
            return Ok(false);
        };
        let (first, since) = *watched.get_or_insert((now, Instant::now()));
        if first == now && since.elapsed() >= within {
            return Err(RejoinError::Archive(since.elapsed()));
        }
        tokio::time::sleep(PAUSE * 4).await;
        Ok(first == now)
    }

    /// Whether the server recovers as a standby and gets on with it: to stop it would throw away what it has
    /// replayed. Blocks on the disk.
    fn recovers(&self, asked: &RejoinRequest) -> bool {
        let look = self.watch.look(&self.server);
        let is_to_follow = match self.state.rejoin() {
            None => !asked.copy,
            stage => stage == Some(Stage::Whole),
        };
        let runs = look.postmaster.is_some() && look.role == Some(Role::Standby);
        let recovers = runs && !look.up && !look.frozen;
        is_to_follow && recovers && self.watch.still() <= self.config.start_timeout
    }

    /// Whether it is to follow another than before.
    fn make_standby(&self, source: &Source) -> io::Result<bool> {
        let changed = upstream::set(&self.config, &self.server.data, source)?;
        files::set_standby(&self.server.data, true)?;
        Ok(changed)
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
