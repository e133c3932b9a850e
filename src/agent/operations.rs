//! What the agent does when asked: lease, stop, start, and what it says of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::api::{
    AnnounceAnswer, AnnounceRequest, Failsafe, Lease, LeaseAnswer, LeaseRequest, Postmaster,
    Promise, PromiseAnswer, PromiseRequest, RefusalCode, ReleaseAnswer, ReleaseRequest, Role,
    StartAnswer, StartRequest, Status, StopAnswer, StopMode, StopRequest, UpstreamAnswer,
    UpstreamRequest,
};
use super::enforcer::LatestLook;
use super::fencing_lease::{Denied, Grant, Ledger, Runs};
use super::inquiry::Inquiry;
use super::jobs::Jobs;
use super::postmaster::{Server, ServerError};
use super::state::{AgentState, ChangeError};
use super::{files, upstream};
use crate::clock;
use crate::config::AgentConfig;

/// The longest lease: a longer one is a mistake in a unit.
const LONGEST_LEASE: Duration = Duration::from_secs(3_600);
/// The longest that a caller may make a request last.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Bound on what the server itself is asked for a status.
const ANSWER: Duration = Duration::from_millis(300);

/// Everything that requests work with.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) config: AgentConfig,
    pub(super) version: String,
    pub(super) server: Arc<Server>,
    pub(super) state: Arc<AgentState>,
    pub(super) watch: Arc<LatestLook>,
    pub(super) inquiry: Inquiry,
    pub(super) jobs: Jobs,
    /// Stops asked for so far: a start that began before one must not end after it.
    pub(super) stops: AtomicU64,
    /// Starts as a primary that are under way.
    pub(super) leading: AtomicU64,
}

/// Why something was not done, for the caller.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: RefusalCode,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        let code = match denied {
            Denied::StaleEpoch { .. } | Denied::Stopped(_) => RefusalCode::StaleEpoch,
            Denied::OtherHolder { .. } => RefusalCode::OtherHolder,
            Denied::Expired => RefusalCode::Expired,
            Denied::Late => RefusalCode::Late,
            Denied::Promised { .. } => RefusalCode::Promised,
            Denied::HasLease => RefusalCode::NotFollowing,
            Denied::Rejoining => RefusalCode::Busy,
            Denied::LeaseRequired => RefusalCode::LeaseRequired,
        };
        Self::new(code, denied.to_string())
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Denied(denied) => denied.into(),
            ChangeError::Io(_) => Self::new(RefusalCode::Failed, error.to_string()),
        }
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        let code = match error {
            ServerError::TooLate { .. } => RefusalCode::TooLate,
            ServerError::Overtaken => RefusalCode::StaleEpoch,
            _ => RefusalCode::Failed,
        };
        Self::new(code, error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(RefusalCode::Failed, error.to_string())
    }
}

impl Agent {
    /// Whether somebody else is meant: the node's name, and the system identifier, as a request says them.
    pub(super) fn is_meant(
        &self,
        node: Option<&[u8]>,
        system: Option<&[u8]>,
    ) -> Result<(), Failure> {
        let refuse = |text: String| Err(Failure::new(RefusalCode::OtherNode, text));
        let own = &self.config.name;
        if let Some(meant) = node.filter(|meant| *meant != own.as_bytes()) {
            let meant = String::from_utf8_lossy(meant);
            return refuse(format!(
                "this is the agent of {own}, and that of {meant} is meant"
            ));
        }
        let control = self.watch.last().0.control;
        let own = control.map(|control| control.system_identifier.to_string());
        match (own, system) {
            (Some(own), Some(meant)) if own.as_bytes() != meant => {
                let meant = String::from_utf8_lossy(meant);
                refuse(format!(
                    "its server is of another cluster: its system identifier is {own}, and {meant} is meant"
                ))
            }
            _ => Ok(()),
        }
    }

    /// What the agent knows.
    pub(super) async fn status(self: Arc<Self>) -> Status {
        let (look, _, gone) = self.watch.last();
        let ask = !look.frozen && look.ready;
        let answer = match ask {
            true => {
                let inquiry = &self.inquiry;
                inquiry.standing(&self.config, &self.server, ANSWER).await
            }
            false => None,
        };
        if let Some(answer) = answer {
            self.watch.note_replayed(answer.replayed);
        }
        let ledger = self.state.ledger();
        let now = clock::now();
        let control = look.control;
        Status {
            node: self.config.name.clone(),
            clock_ms: clock::milliseconds(now),
            postmaster: Postmaster {
                running: look.postmaster.is_some(),
                pid: look.postmaster.map(|process| process.pid),
                since: look.postmaster.map_or(gone, |_| look.started),
                ready: look.ready,
                frozen: look.frozen,
                still_ms: look
                    .postmaster
                    .map(|_| clock::milliseconds(self.watch.still())),
            },
            role: answer.map(|answer| answer.role).or(look.role),
            cluster_state: control.map(|control| control.state().to_owned()),
            shutdown_checkpoint: control
                .and_then(|control| control.shutdown_checkpoint())
                .map(|lsn| lsn.to_string()),
            timeline: answer
                .and_then(|answer| answer.timeline)
                .or(look.wrote)
                .or(control.map(|control| control.timeline)),
            answers: answer.is_some(),
            system_identifier: control.map(|control| control.system_identifier.to_string()),
            version: self.version.clone(),
            lease: lease_view(&ledger, now),
            highest_epoch: ledger.highest_epoch(),
            governed: ledger.is_governed(),
            job: self.jobs.last(),
            unfinished_rejoin: self.state.rejoin().is_some(),
            failsafe: Some(self.failsafe(&ledger, now)),
        }
    }

    fn failsafe(&self, ledger: &Ledger, now: Duration) -> Failsafe {
        let unable = self.config.peers.is_none().then(|| {
            "its configuration names no authority for their certificates (peers.ca_file)".to_owned()
        });
        Failsafe {
            unable,
            rule: ledger.failsafe().cloned(),
            promise: ledger.promised(now).map(|(promise, left)| Promise {
                to: promise.to.clone(),
                remaining_ms: clock::milliseconds(left),
            }),
            trouble: self.state.trouble(),
        }
    }

    /// Promises another node's agent that its own server is granted no lease for a while.
    pub(super) async fn promise(
        self: Arc<Self>,
        asked: PromiseRequest,
    ) -> Result<PromiseAnswer, Failure> {
        let received = clock::now();
        let lasts = Duration::from_millis(asked.promise_ms);
        if lasts > LONGEST_LEASE * 2 {
            let text = format!("promise_ms is at most {}", (LONGEST_LEASE * 2).as_millis());
            return Err(Failure::new(RefusalCode::BadRequest, text));
        }
        if asked.to != self.config.name || asked.from == asked.to {
            let text = format!("this is the agent of {}", self.config.name);
            return Err(Failure::new(RefusalCode::BadRequest, text));
        }
        let followed = self.follows(&asked).await?;
        self.blocking(move |agent| {
            let stands_by = || match followed {
                Followed::Streams => Ok(()),
                Followed::Nobody => agent.cannot_lead(&asked),
            };
            stands_by()?;
            if lasts.is_zero() {
                agent.state.ledger().may_promise(asked.epoch, received)?;
            } else {
                // Whatever may have changed since it was looked at was a lease, or came with an epoch.
                agent.state.change(|ledger, _| {
                    ledger.promise(&asked.from, asked.epoch, lasts, received)
                })?;
                // A start that did not see the promise is seen now.
                stands_by()?;
            }
            Ok(PromiseAnswer {
                promise_ms: asked.promise_ms,
            })
        })
        .await
    }

    /// Whether our server streams from the timeline that the asker's writes, or from nobody at present.
    async fn follows(&self, asked: &PromiseRequest) -> Result<Followed, Failure> {
        let refuse = |text: String| Err(Failure::new(RefusalCode::NotFollowing, text));
        let (look, ..) = self.watch.last();
        let Some(control) = look.control else {
            return refuse("its pg_control cannot be read".to_owned());
        };
        if control.system_identifier.to_string() != asked.system_identifier {
            return refuse("its server is of another cluster".to_owned());
        }
        if look.postmaster.is_none() {
            return Ok(Followed::Nobody);
        }
        let inquiry = &self.inquiry;
        let Some(answer) = inquiry.standing(&self.config, &self.server, ANSWER).await else {
            // It starts, recovers from a crash, or hangs.
            return Ok(Followed::Nobody);
        };
        match (answer.role, answer.streams, answer.timeline) {
            (Role::Primary, ..) => refuse("its server leads".to_owned()),
            (_, None, _) => Ok(Followed::Nobody),
            (_, Some(_), Some(timeline)) if timeline == asked.timeline => Ok(Followed::Streams),
            (_, Some(_), timeline) => {
                let timeline = timeline.map_or_else(|| "none".to_owned(), |t| t.to_string());
                let asked = asked.timeline;
                refuse(format!(
                    "its server streams timeline {timeline}, and not {asked}"
                ))
            }
        }
    }

    /// Whether our server, which streams from nobody, is a standby that holds nothing of a later timeline, be it
    /// stopped, starting, or between two receivers: it leads nothing, since it is started or promoted as a primary
    /// only under a lease, or by this agent. Blocks on the disk.
    fn cannot_lead(&self, asked: &PromiseRequest) -> Result<(), Failure> {
        let refuse = |text: &str| Err(Failure::new(RefusalCode::NotFollowing, text));
        let (look, data) = (self.watch.look(&self.server), &self.server.data);
        let standby = look.role == Some(Role::Standby);
        let control = look.control.filter(|control| !control.in_production());
        let Some(control) = control.filter(|_| standby) else {
            return refuse("its server does not stream, and is no standby");
        };
        if control.timeline > asked.timeline {
            return refuse("its server holds a later timeline");
        }
        if look.postmaster.is_some() {
            // A decision that this agent may not have heard of.
            if files::follows_nobody(data)? {
                return refuse("its server has been told to follow nobody");
            }
            if files::is_promoted(data) || files::newest_timeline(data) > asked.timeline {
                return refuse("its server is being promoted, or holds a later timeline");
            }
        }
        if self.leading.load(Ordering::SeqCst) > 0 {
            return refuse("its server is being started as a primary");
        }
        match self.jobs.is_running() || self.state.rejoin().is_some() {
            true => refuse("its server streams from nobody, and is being rejoined"),
            false => Ok(()),
        }
    }

    /// Takes note of an epoch.
    pub(super) fn announce(&self, asked: &AnnounceRequest) -> Result<AnnounceAnswer, Failure> {
        let ledger = self.state.change(|ledger, _| ledger.admit(asked.epoch))?;
        Ok(AnnounceAnswer {
            highest_epoch: ledger.highest_epoch(),
        })
    }

    /// Grants or renews a lease.
    pub(super) fn lease(&self, asked: &LeaseRequest) -> Result<LeaseAnswer, Failure> {
        let ttl = Duration::from_millis(asked.ttl_ms);
        if ttl.is_zero() || ttl > LONGEST_LEASE {
            let text = format!("ttl_ms must be between 1 and {}", LONGEST_LEASE.as_millis());
            return Err(Failure::new(RefusalCode::BadRequest, text));
        }
        if asked.holder.is_empty() || asked.holder.len() > 255 {
            let text = "holder must have 1 to 255 bytes";
            return Err(Failure::new(RefusalCode::BadRequest, text));
        }
        if self.state.ledger().forbids_primary(clock::now()) {
            // The last look may be older than the end of the server.
            self.watch.look(&self.server);
        }
        let sent = asked.clock_ms.map(Duration::from_millis);
        let ledger = self.state.change(|ledger, now| {
            let grant = Grant {
                epoch: asked.epoch,
                holder: asked.holder.clone(),
                ttl,
            };
            let runs = match self.state.held() {
                Some(since) => Runs::Held(since),
                None => self.watch.may_lead(Duration::ZERO).into(),
            };
            let granted = ledger.grant(grant, sent, now, runs)?;
            Ok(granted.with_failsafe(asked.failsafe.clone()))
        })?;
        // Whoever may lead is not made a standby.
        self.jobs.cancel();
        let now = clock::now();
        let lease = lease_view(&ledger, now);
        Ok(LeaseAnswer {
            // Persisting it may have taken longer than it lasts.
            lease: lease.ok_or(Denied::Late)?,
            clock_ms: clock::milliseconds(now),
        })
    }

    /// Leaves the server alone from now on.
    pub(super) fn release(&self, asked: &ReleaseRequest) -> Result<ReleaseAnswer, Failure> {
        let was_governed = self.state.ledger().is_governed();
        self.state.change(|ledger, _| ledger.release(asked.epoch))?;
        tracing::info!(
            epoch = asked.epoch,
            was_governed,
            "the server is governed by no lease any more"
        );
        Ok(ReleaseAnswer { was_governed })
    }

    /// Fences and stops the server.
    pub(super) fn stop(&self, asked: &StopRequest) -> Result<StopAnswer, Failure> {
        let begun = Instant::now();
        match asked.mode {
            StopMode::Immediate => self.state.fence(asked.epoch)?,
            // A lease in force goes on: fenced, the server would not be left its time to stop in
            // good order.
            StopMode::Fast => {
                self.state.change(|ledger, _| ledger.admit(asked.epoch))?;
            }
        }
        self.stops.fetch_add(1, Ordering::SeqCst);
        self.jobs.cancel();
        let within = Duration::from_millis(asked.timeout_ms).min(LONGEST);
        let stopped = self.server.stop(asked.mode, within);
        match (&stopped, asked.mode) {
            (Ok(_), StopMode::Fast) => self.state.stopped(asked.epoch)?,
            (Ok(_), StopMode::Immediate) => self.state.fence(asked.epoch)?,
            (Err(_), _) => {}
        }
        // What was promised is on disk before it is answered, whether or not the server obeyed.
        self.state.persist()?;
        self.watch.look(&self.server);
        let stopped = stopped?;
        let elapsed_ms = clock::milliseconds(begun.elapsed());
        tracing::info!(epoch = asked.epoch, ?stopped, elapsed_ms, "stopped");
        Ok(StopAnswer {
            stopped,
            elapsed_ms,
        })
    }

    pub(super) fn start(&self, asked: &StartRequest) -> Result<StartAnswer, Failure> {
        match asked.role {
            Role::Standby => self.start_as(asked),
            Role::Primary => {
                // Known before promises are looked at: either this sees one, or whoever gives one sees this.
                self.leading.fetch_add(1, Ordering::SeqCst);
                let started = self.start_as(asked);
                self.leading.fetch_sub(1, Ordering::SeqCst);
                started
            }
        }
    }

    fn start_as(&self, asked: &StartRequest) -> Result<StartAnswer, Failure> {
        let begun = Instant::now();
        let epoch = asked.epoch;
        let stops = self.stops.load(Ordering::SeqCst);
        if self.jobs.is_running() {
            let text = "a rejoin is under way: wait for its end, or stop";
            return Err(Failure::new(RefusalCode::Busy, text));
        }
        self.state.change(|ledger, now| match asked.role {
            Role::Primary => ledger.admit_primary(epoch, now),
            Role::Standby => ledger.admit(epoch),
        })?;
        let look = self.watch.look(&self.server);
        let running = look.postmaster.is_some();
        if running && look.role != Some(asked.role) {
            let text = format!("it runs as the other role ({:?}): stop it first", look.role);
            return Err(Failure::new(RefusalCode::OtherRole, text));
        }
        if self.state.rejoin().is_some() {
            let text = "a rejoin was cut short: the data directory must be rejoined again";
            return Err(Failure::new(RefusalCode::UnfinishedRejoin, text));
        }
        if !running {
            files::set_standby(&self.server.data, asked.role == Role::Standby)?;
        }
        if let (Role::Standby, Some(source)) = (asked.role, &asked.source) {
            let changed = upstream::set(&self.config, &self.server.data, source)?;
            if changed && running {
                self.server.reload()?;
            }
        }
        let within = asked
            .timeout_ms
            .map_or(self.config.start_timeout, Duration::from_millis)
            .min(LONGEST);
        let started = self.start_server(epoch, asked.role, within, || {
            self.stops.load(Ordering::SeqCst) == stops
        })?;
        self.watch.look(&self.server);
        if asked.role == Role::Standby {
            self.stands_by(epoch)?;
        }
        let elapsed_ms = clock::milliseconds(begun.elapsed());
        tracing::info!(epoch, role = ?asked.role, elapsed_ms, "started");
        Ok(StartAnswer {
            pid: started,
            already: running,
            elapsed_ms,
        })
    }

    /// How the server is to be told whom to follow.
    pub(super) fn upstream(&self, asked: &UpstreamRequest) -> Result<UpstreamAnswer, Failure> {
        self.state.change(|ledger, _| ledger.admit(asked.epoch))?;
        let conninfo = upstream::primary_conninfo(&self.config, &asked.source)?;
        Ok(UpstreamAnswer { conninfo })
    }

    /// Starts the server under an epoch, unless something newer is decided meanwhile or `also` says
    /// no.
    pub(super) fn start_server(
        &self,
        epoch: u64,
        role: Role,
        within: Duration,
        also: impl Fn() -> bool,
    ) -> Result<i32, ServerError> {
        let permitted = || {
            let ledger = self.state.ledger();
            also()
                && ledger.highest_epoch() == epoch
                && (role == Role::Standby || !ledger.forbids_primary(clock::now()))
        };
        let postmaster = self.server.start(within, permitted)?;
        Ok(postmaster.pid)
    }

    /// Starts the server as a standby under an epoch unless it runs, and waits for nothing.
    pub(super) fn launch_standby(
        &self,
        epoch: u64,
        also: impl Fn() -> bool,
    ) -> Result<(), ServerError> {
        let permitted = || also() && self.state.ledger().highest_epoch() == epoch;
        self.server.launch(&permitted).map(drop)
    }

    /// Notes that the server runs as a standby, if a look says so.
    pub(super) fn stands_by(&self, epoch: u64) -> std::io::Result<()> {
        if self.watch.last().0.role != Some(Role::Standby) {
            return Ok(());
        }
        match self
            .state
            .change(|ledger, now| ledger.stands_by(epoch, now))
        {
            Err(ChangeError::Io(error)) => Err(error),
            // Something newer has been decided.
            _ => Ok(()),
        }
    }

    /// Stops the server for a rejoin: in good order if that is quick and it is a standby.
    pub(super) fn stop_to_rejoin(&self) -> Result<(), ServerError> {
        const GOOD_ORDER: Duration = Duration::from_secs(20);
        let look = self.watch.look(&self.server);
        let in_order = look.postmaster.is_some() && !look.leads() && !look.frozen;
        if in_order && self.server.stop(StopMode::Fast, GOOD_ORDER).is_ok() {
            return Ok(());
        }
        self.server.stop(StopMode::Immediate, LONGEST).map(drop)
    }

    /// Runs something that blocks, to its end even if the caller goes away.
    pub(super) async fn blocking<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let joined = spawn_blocking(move || work(&self)).await;
        joined.map_err(|error| Failure::new(RefusalCode::Failed, error.to_string()))?
    }
}

/// Why a server leads nothing at present.
enum Followed {
    /// It streams from the timeline of whoever does.
    Streams,
    /// It streams from nobody: it does not run, or not yet, or has lost its receiver.
    Nobody,
}

fn lease_view(ledger: &Ledger, now: Duration) -> Option<Lease> {
    ledger.lease(now).map(|(grant, left)| Lease {
        epoch: grant.epoch,
        holder: grant.holder.clone(),
        remaining_ms: clock::milliseconds(left),
        prolonged: ledger.is_prolonged(),
    })
}
