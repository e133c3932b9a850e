//! Asking an agent over HTTPS, proven, within a deadline: for proxies, and for other agents. The status is
//! asked for, leases are renewed, and promises are asked for, on a connection each that is kept; every
//! other order has one of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::api::{
    self, AnnounceAnswer, AnnounceRequest, Job, LeaseAnswer, LeaseRequest, PeerRule, PromiseAnswer,
    PromiseRequest, Refusal, RefusalCode, RejoinRequest, ReleaseAnswer, ReleaseRequest, Source,
    StartAnswer, StartRequest, Status, StopAnswer, StopMode, StopRequest, UpstreamAnswer,
    UpstreamRequest,
};
use crate::config::{AgentUrl, Agents, Secret};
use crate::http::{self, Asked, Carried, Sender};
use crate::tls::{self, TlsError};

/// More than any answer.
const ANSWER_BYTES: usize = 64 * 1024;
/// What a deadline leaves for the way there and back, beyond what the agent itself is given.
pub const ROUND_TRIP: Duration = Duration::from_secs(1);

/// How one node's agent is reached. Cheap to clone; all clones share what they know of its clock.
#[derive(Clone)]
pub struct AgentClient {
    url: AgentUrl,
    name: ServerName<'static>,
    tls: TlsConnector,
    secret: Option<Secret>,
    /// Whose agent it is to be; any node's if not given.
    node: Option<String>,
    /// The system identifier of the cluster that it is to be of; 0 while that is not known.
    system: Arc<AtomicU64>,
    /// The agent's clock in an answer, and when that answer arrived here.
    clock: Arc<Mutex<Option<(u64, Instant)>>>,
    /// The connection on which the status is asked for, many times a second.
    kept: Line,
    /// That on which leases are renewed, or prolonged by promises: nothing else holds them up.
    leases: Line,
}

/// A connection for one purpose, once it is open.
type Line = Arc<tokio::sync::Mutex<Option<Kept>>>;

/// An open connection, which ends with this.
struct Kept {
    sender: Sender,
    _carried: Carried,
}

impl std::fmt::Debug for AgentClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AgentClient({})", self.url)
    }
}

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No answer within the bound: it is unknown whether it was or will be done.
    #[error("the agent at {url} did not answer within {within:?}")]
    TooLate { url: AgentUrl, within: Duration },
    /// No connection, or one that broke: in the second case it is unknown whether it was done.
    #[error("the agent at {url} cannot be reached: {reason}")]
    Unreachable {
        url: AgentUrl,
        reason: String,
        /// Whether nothing listens there: with its machine alive, the agent does not run.
        refused: bool,
    },
    /// The agent has decided not to, or has failed; it says why.
    #[error("the agent at {url} says: {}", refusal.text)]
    Refused {
        url: AgentUrl,
        /// Its reason, with the highest epoch that it has seen.
        refusal: Refusal,
    },
    /// What came back is no answer of an agent.
    #[error("the agent at {url} gave no proper answer: {reason}")]
    BadAnswer {
        url: AgentUrl,
        /// What is wrong with it.
        reason: String,
    },
}

impl AgentError {
    /// The agent's reason, where it gave one.
    pub fn refusal(&self) -> Option<RefusalCode> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.code),
            _ => None,
        }
    }
}

impl AgentClient {
    /// Prepares to reach an agent; connects to nobody yet.
    pub fn new(url: &AgentUrl, agents: &Agents) -> Result<Self, TlsError> {
        let tls = TlsConnector::from(Arc::new(tls::client(agents)?));
        let name = ServerName::try_from(url.host.clone());
        // A name that cannot be in a certificate matches none: the handshake says so.
        let name = name.unwrap_or_else(|_| ServerName::from(IpAddr::from(Ipv4Addr::UNSPECIFIED)));
        Ok(Self {
            url: url.clone(),
            name,
            tls,
            secret: agents.secret.clone(),
            node: None,
            system: Arc::default(),
            clock: Arc::default(),
            kept: Arc::default(),
            leases: Arc::default(),
        })
    }

    /// The same, where it must be the agent of this node: another's answer is none, and does nothing.
    pub fn of(self, node: &str) -> Self {
        Self {
            node: Some(node.to_owned()),
            ..self
        }
    }

    /// From now on orders are for a server of this cluster.
    pub fn expect(&self, system: u64) {
        self.system.store(system, Ordering::Relaxed);
    }

    /// See [`AgentClient::expect`].
    pub fn expected(&self) -> Option<u64> {
        let system = self.system.load(Ordering::Relaxed);
        (system != 0).then_some(system)
    }

    /// Where it is.
    pub fn url(&self) -> &AgentUrl {
        &self.url
    }

    /// Everything the agent knows.
    pub async fn status(&self, within: Duration) -> Result<Status, AgentError> {
        let asked = self.ask_on(&self.kept, Method::GET, api::STATUS, Bytes::new());
        let status: Status = self.within(within, asked).await?;
        // An agent of an older version does not refuse what is meant for another.
        if let Some(meant) = self.node.as_ref().filter(|meant| **meant != status.node) {
            let found = &status.node;
            return Err(self.bad(format!(
                "it is the agent of {found}, and that of {meant} is meant"
            )));
        }
        self.note_clock(status.clock_ms);
        Ok(status)
    }

    /// Grants or renews a lease of `ttl`, which agents do not prolong; see [`Self::lease_with`].
    pub async fn lease(
        &self,
        epoch: u64,
        holder: &str,
        ttl: Duration,
        within: Duration,
    ) -> Result<LeaseAnswer, AgentError> {
        self.lease_with(epoch, holder, ttl, None, within).await
    }

    /// Grants or renews a lease of `ttl`, with the rule by which agents may prolong it; it ends within `ttl` of the moment at which the request
    /// was sent, however late it is read. So whatever became of this call, its lease has ended
    /// `within + ttl` after the call began, and [`api::FENCE_WITHIN_MS`] later the server too, as
    /// long as the agent lives. A server that is about to be promoted must be given its lease first.
    pub async fn lease_with(
        &self,
        epoch: u64,
        holder: &str,
        ttl: Duration,
        failsafe: Option<PeerRule>,
        within: Duration,
    ) -> Result<LeaseAnswer, AgentError> {
        // Without its clock a request that waits somewhere would count from whenever it is read.
        let clock_ms = match self.clock_now() {
            Some(clock) => clock,
            None => self.status(within).await?.clock_ms,
        };
        let request = LeaseRequest {
            epoch,
            holder: holder.to_owned(),
            ttl_ms: milliseconds(ttl),
            clock_ms: Some(clock_ms),
            failsafe,
        };
        let body = serde_json::to_vec(&request).map_err(|error| self.bad(error))?;
        let asked = self.ask_on(&self.leases, Method::POST, api::LEASE, body.into());
        let answer: Result<LeaseAnswer, _> = self.within(within, asked).await;
        match &answer {
            Ok(answer) => self.note_clock(answer.clock_ms),
            // Its machine may have been restarted, with its clock.
            Err(_) => *self.clock.lock() = None,
        }
        answer
    }

    /// Has the server left alone from now on, whatever it runs as.
    pub async fn release(&self, epoch: u64, within: Duration) -> Result<ReleaseAnswer, AgentError> {
        self.post(api::RELEASE, &ReleaseRequest { epoch }, within)
            .await
    }

    /// Asks for a promise; the connection is kept for the next one.
    pub async fn promise(
        &self,
        request: &PromiseRequest,
        within: Duration,
    ) -> Result<PromiseAnswer, AgentError> {
        let body = serde_json::to_vec(request).map_err(|error| self.bad(error))?;
        let asked = self.ask_on(&self.leases, Method::POST, api::PROMISE, body.into());
        self.within(within, asked).await
    }

    /// Tells it an epoch.
    pub async fn announce(
        &self,
        epoch: u64,
        within: Duration,
    ) -> Result<AnnounceAnswer, AgentError> {
        self.post(api::ANNOUNCE, &AnnounceRequest { epoch }, within)
            .await
    }

    /// Stops the server; returns once no process of it is left. The agent is given `within`.
    pub async fn stop(
        &self,
        epoch: u64,
        mode: StopMode,
        within: Duration,
    ) -> Result<StopAnswer, AgentError> {
        let request = StopRequest {
            epoch,
            mode,
            timeout_ms: milliseconds(within),
        };
        self.post(api::STOP, &request, within + ROUND_TRIP).await
    }

    /// Starts the server; returns once it accepts connections. The agent is given `within`.
    pub async fn start(
        &self,
        epoch: u64,
        role: api::Role,
        source: Option<Source>,
        within: Duration,
    ) -> Result<StartAnswer, AgentError> {
        let request = StartRequest {
            epoch,
            role,
            source,
            timeout_ms: Some(milliseconds(within)),
        };
        self.post(api::START, &request, within + ROUND_TRIP).await
    }

    /// What the server's `primary_conninfo` must say for it to follow `source`, without any secret.
    pub async fn upstream(
        &self,
        epoch: u64,
        source: Source,
        within: Duration,
    ) -> Result<UpstreamAnswer, AgentError> {
        let request = UpstreamRequest { epoch, source };
        self.post(api::UPSTREAM, &request, within).await
    }

    /// Begins to make the server a standby of `source`; [`Status::job`] tells how it goes on.
    pub async fn rejoin(
        &self,
        epoch: u64,
        source: Source,
        copy: bool,
        within: Duration,
    ) -> Result<Job, AgentError> {
        let request = RejoinRequest {
            epoch,
            source,
            copy,
        };
        self.post(api::REJOIN, &request, within).await
    }

    fn note_clock(&self, clock_ms: u64) {
        *self.clock.lock() = Some((clock_ms, Instant::now()));
    }

    /// The agent's clock, or a little less.
    fn clock_now(&self) -> Option<u64> {
        let known = *self.clock.lock();
        known.map(|(clock, at)| clock.saturating_add(milliseconds(at.elapsed())))
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, AgentError> {
        let body = serde_json::to_vec(body).map_err(|error| self.bad(error))?;
        self.ask(Method::POST, path, body.into(), within).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<T, AgentError> {
        self.within(within, self.exchange(method, path, body)).await
    }

    /// Asks on a connection that is kept, or on a new one if that has broken. What is asked may be
    /// repeated.
    async fn ask_on(
        &self,
        line: &Line,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), AgentError> {
        let mut kept = line.lock().await;
        // Taken out: one that does not answer in time must not be asked again.
        if let Some(mut connection) = kept.take()
            && let Ok(answer) = self
                .send(&mut connection.sender, method.clone(), path, body.clone())
                .await
        {
            *kept = Some(connection);
            return Ok(answer);
        }
        let stream = self.open().await?;
        let opened = http::open(stream).await;
        let (mut sender, carrier) = opened.map_err(|error| self.unreachable(error, false))?;
        let carried = http::carry(carrier);
        let answer = self.send(&mut sender, method, path, body).await?;
        *kept = Some(Kept {
            sender,
            _carried: carried,
        });
        Ok(answer)
    }

    async fn within<T: DeserializeOwned>(
        &self,
        within: Duration,
        asked: impl Future<Output = Result<(StatusCode, Bytes), AgentError>>,
    ) -> Result<T, AgentError> {
        let (status, body) = match tokio::time::timeout(within, asked).await {
            Ok(answer) => answer?,
            Err(_) => {
                return Err(AgentError::TooLate {
                    url: self.url.clone(),
                    within,
                });
            }
        };
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| self.bad(error));
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => Err(AgentError::Refused {
                url: self.url.clone(),
                refusal,
            }),
            Err(_) => Err(self.bad(status)),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), AgentError> {
        let stream = self.open().await?;
        let opened = http::open(stream).await;
        let (mut sender, carrier) = opened.map_err(|error| self.unreachable(error, false))?;
        let broken = |error: &dyn std::fmt::Display| self.unreachable(error, false);
        let answer = self.send(&mut sender, method, path, body);
        tokio::pin!(answer);
        // The connection is driven here and dropped with the request: nothing outlives a deadline.
        // It goes first, since it knows why it ended: a certificate that the agent refuses is told
        // only after the handshake.
        tokio::select! {
            biased;
            ended = carrier => match (answer.await, ended) {
                (Err(_), Err(error)) => Err(broken(&deepest(&error))),
                (answer, _) => answer,
            },
            answer = &mut answer => answer,
        }
    }

    async fn open(&self) -> Result<TlsStream<TcpStream>, AgentError> {
        let address = (self.url.host.as_str(), self.url.port);
        let stream = TcpStream::connect(address).await.map_err(|error| {
            let refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
            self.unreachable(error, refused)
        })?;
        let broken = |error| self.unreachable(error, false);
        stream.set_nodelay(true).map_err(broken)?;
        let stream = self.tls.connect(self.name.clone(), stream).await;
        stream.map_err(broken)
    }

    async fn send(
        &self,
        sender: &mut Sender,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), AgentError> {
        let mut headers = Vec::new();
        headers.extend(self.node.clone().map(|node| (api::NODE, node)));
        let system = self.expected().filter(|_| method == Method::POST);
        headers.extend(system.map(|system| (api::SYSTEM, system.to_string())));
        let asked = Asked {
            method,
            headers: &headers,
            path,
            host: &self.url.host,
            secret: self.secret.as_ref().map(Secret::reveal),
            body,
        };
        let request = asked.request().map_err(|error| self.bad(error))?;
        let answer = sender.send(request).await;
        let answer = answer.map_err(|error| self.unreachable(deepest(&error), false))?;
        let status = answer.status();
        let body = http::read(answer.into_body(), ANSWER_BYTES).await;
        let body = body.map_err(|error| self.unreachable(deepest(&*error), false))?;
        Ok((status, body))
    }

    fn unreachable(&self, reason: impl std::fmt::Display, refused: bool) -> AgentError {
        AgentError::Unreachable {
            url: self.url.clone(),
            reason: reason.to_string(),
            refused,
        }
    }

    fn bad(&self, reason: impl std::fmt::Display) -> AgentError {
        AgentError::BadAnswer {
            url: self.url.clone(),
            reason: reason.to_string(),
        }
    }
}

/// What an error goes back to: the outer ones only say that a connection broke.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
