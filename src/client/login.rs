//! From an accepted connection to a session: encryption requests, startup packet, authentication,
//! the server's greeting.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pgwire::messages::startup::Authentication;
use tokio::net::TcpStream;

use super::aborted::Aborted;
use super::batch::Batch;
use super::console;
use super::names::Names;
use super::own;
use super::place::Places;
use super::relay::{Client, LookAfter};
use super::session::{Session, Unit};
use super::told::{Fate, told};
use super::track::Track;
use super::worker::{Greeting, Worker};
use crate::backend::own_query::OwnQueryError;
use crate::backend::pool::{AcquireError, Lease, Pool};
use crate::backend::settings::Settings;
use crate::config::{AuthMethod, Secret};
use crate::core::exchange::TransactionStatus;
use crate::core::session::Seen;
use crate::core::topology::NodeId;
use crate::error::{Kind, Problem};
use crate::wire::auth::ScramExchange;
use crate::wire::frame;
use crate::wire::reply::Reply;
use crate::wire::socket::Socket;
use crate::wire::startup::{self, Hello, MAX_PACKET, NEWEST_MINOR, Startup};

/// Bound on everything up to authentication, PostgreSQL's `authentication_timeout`.
const LOGIN_BOUND: Duration = Duration::from_secs(60);
/// A password or SASL message is never longer, in bytes (PostgreSQL's `PG_MAX_AUTH_TOKEN_LENGTH`).
const MAX_AUTH_MESSAGE: usize = 65_535;
/// Bound on statements of our own.
const OWN_BOUND: Duration = Duration::from_secs(10);
/// Bytes in a cancel key under protocol 3.2.
const LONG_KEY: usize = 32;

/// Serves one accepted connection to its end.
pub(super) async fn serve(worker: Arc<Worker>, stream: TcpStream) {
    let Ok(socket) = Socket::new(stream) else {
        return;
    };
    let mut login = Login {
        worker: &worker,
        socket,
    };
    let session = match tokio::time::timeout(LOGIN_BOUND, login.run()).await {
        Ok(Ok(Some(Welcome::Session(ready)))) => Ok(ready),
        Ok(Ok(Some(Welcome::Console { user }))) => {
            return console::serve(&worker, login.socket, &user).await;
        }
        Ok(Ok(None)) => return,
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::Silent),
    };
    match session {
        Ok(ready) => {
            let mut session = ready.into_session(login.socket, Arc::clone(&worker));
            session.run().await;
            worker.common.cancels.unregister(&session.slot);
        }
        Err(refusal) => {
            worker.common.metrics.clients.refused.inc();
            let reply = match refusal {
                Refusal::Problem(problem) => {
                    told(&worker.common, Fate::Refused, &problem, &login.socket);
                    Reply::new().error(&problem)
                }
                Refusal::Frame(frame) => Reply::new().raw(&frame),
                Refusal::Silent => return,
            };
            let _ = tokio::time::timeout(OWN_BOUND, login.socket.write_all(reply.as_bytes())).await;
        }
    }
}

/// Why a client gets no session.
enum Refusal {
    Problem(Problem),
    /// In a server's words.
    Frame(Vec<u8>),
    /// It is gone, or not worth an answer.
    Silent,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}

struct Login<'a> {
    worker: &'a Arc<Worker>,
    socket: Socket,
}

/// Whom a client has come to speak to.
enum Welcome {
    Session(Box<Ready>),
    Console { user: String },
}

/// Everything that a session starts with.
struct Ready {
    database: Arc<str>,
    places: Places,
    track: Track,
    slot: Arc<super::cancels::Slot>,
    entry: crate::shared::registry::Entry,
}

impl Login<'_> {
    async fn run(&mut self) -> Result<Option<Welcome>, Refusal> {
        let Some(hello) = self.startup().await? else {
            return Ok(None);
        };
        let newest = NEWEST_MINOR.min(hello.minor);
        if hello.minor > NEWEST_MINOR || !hello.unknown_extensions.is_empty() {
            let reply = Reply::new().negotiate(newest, &hello.unknown_extensions);
            self.socket.write_all(reply.as_bytes()).await?;
        }
        let password = self.authenticate(&hello.user).await?;
        let rules = self.worker.common.rules.load_full();
        let admins = &rules.config.admin_users;
        if hello.database == crate::shared::admin::DATABASE && !admins.is_empty() {
            console::admit(admins, &hello.user)?;
            return Ok(Some(Welcome::Console { user: hello.user }));
        }
        let ready = self.open(&hello, newest, password).await?;
        Ok(Some(Welcome::Session(Box::new(ready))))
    }

    /// Answers requests for encryption until the startup packet comes; none after a cancel request.
    async fn startup(&mut self) -> Result<Option<Hello>, Refusal> {
        // One request of each kind may precede the packet.
        for _ in 0..3 {
            let body = self.startup_packet().await?;
            match startup::decode(&body)? {
                Startup::Ssl | Startup::GssEncryption => self.socket.write_all(b"N").await?,
                Startup::Cancel { process, key } => {
                    if let Some(target) = self.worker.common.cancels.request(process, &key) {
                        let rules = self.worker.common.rules.load_full();
                        let bound = rules.config.pool.connect_timeout;
                        if let Err(error) = crate::backend::cancel::send(&target, bound).await {
                            tracing::info!(%error, server = %target.address, "deliver a cancel request");
                        }
                    }
                    return Ok(None);
                }
                Startup::Session(hello) => return Ok(Some(hello)),
            }
        }
        Err(Problem::fatal(Kind::ProtocolViolation, "too many encryption requests").into())
    }

    async fn startup_packet(&mut self) -> Result<Vec<u8>, Refusal> {
        let read = self.socket.read_buffered(|bytes| {
            let Some(length) = bytes.first_chunk::<4>() else {
                return (0, None);
            };
            let length = u32::from_be_bytes(*length) as usize;
            if !(8..=MAX_PACKET).contains(&length) {
                return (bytes.len(), Some(None));
            }
            let body = bytes.get(4..length);
            (length, body.map(|body| Some(body.to_vec())))
        });
        let invalid =
            || Problem::fatal(Kind::ProtocolViolation, "invalid length of startup packet");
        let body = read.await?.ok_or(Refusal::Silent)?;
        Ok(body.ok_or_else(invalid)?)
    }

    async fn authenticate(&mut self, user: &str) -> Result<Option<Secret>, Refusal> {
        let rules = self.worker.common.rules.load_full();
        let account = rules.users.get(user);
        let wrong = || {
            Problem::fatal(
                Kind::InvalidPassword,
                format!("password authentication failed for user \"{user}\""),
            )
        };
        match rules.config.auth.method {
            AuthMethod::Trust => {
                if account.is_none() && !rules.users.is_empty() {
                    let what = format!("role \"{user}\" is not known to causeway");
                    return Err(Problem::fatal(Kind::InvalidAuthorization, what).into());
                }
            }
            AuthMethod::Md5 => {
                let salt: [u8; 4] = rand::random();
                self.ask(&Authentication::MD5Password(salt.to_vec()))
                    .await?;
                let answer = self.answer().await?;
                let answer = frame::cstr(&answer).map_or(&answer[..], |(text, _)| text);
                if !account.is_some_and(|account| account.verifier.md5_matches(answer, salt)) {
                    return Err(wrong().into());
                }
            }
            AuthMethod::ScramSha256 => {
                self.ask(&Authentication::SASL(vec!["SCRAM-SHA-256".to_owned()]))
                    .await?;
                let first = self.answer().await?;
                let malformed =
                    || Problem::fatal(Kind::ProtocolViolation, "malformed SASL message");
                let (mechanism, rest) = frame::cstr(&first).ok_or_else(malformed)?;
                if mechanism != b"SCRAM-SHA-256" {
                    let what = "client selected an invalid SASL authentication mechanism";
                    return Err(Problem::fatal(Kind::ProtocolViolation, what).into());
                }
                let first = rest.get(4..).ok_or_else(malformed)?;
                let verifier = account.map(|account| &account.verifier);
                let (exchange, challenge) = ScramExchange::begin(verifier, first)?;
                self.ask(&Authentication::SASLContinue(challenge.into()))
                    .await?;
                let proof = self.answer().await?;
                let last = exchange.finish(&proof).ok_or_else(wrong)?;
                self.ask(&Authentication::SASLFinal(last.into())).await?;
            }
        }
        Ok(account.and_then(|account| account.server_password.clone()))
    }

    async fn ask(&mut self, request: &Authentication) -> io::Result<()> {
        self.socket
            .write_all(Reply::new().authentication(request).as_bytes())
            .await
    }

    /// The body of a password or SASL message.
    async fn answer(&mut self) -> Result<Vec<u8>, Refusal> {
        let read = self.socket.read_buffered(|bytes| match frame::peek(bytes) {
            Ok(None) => (0, None),
            Ok(Some((b'p', size))) if size <= MAX_AUTH_MESSAGE => {
                let body = bytes.get(frame::HEADER..size);
                (size, body.map(|body| Some(body.to_vec())))
            }
            _ => (bytes.len(), Some(None)),
        });
        let unexpected = || Problem::fatal(Kind::ProtocolViolation, "expected password response");
        let body = read.await?.ok_or(Refusal::Silent)?;
        Ok(body.ok_or_else(unexpected)?)
    }

    /// Greets the client as a server would, with the settings that it asked for in force.
    async fn open(
        &mut self,
        hello: &Hello,
        minor: u16,
        password: Option<Secret>,
    ) -> Result<Ready, Refusal> {
        let worker = self.worker;
        let common = &worker.common;
        let (database, user): (Arc<str>, Arc<str>) =
            (hello.database.as_str().into(), hello.user.as_str().into());
        let salt = rand::random();
        let mut places = Places::new(
            Arc::clone(&database),
            Arc::clone(&user),
            password,
            salt,
            &common.rules,
        );
        let mut parameters = greeting(worker, &mut places, &database, &user)
            .await?
            .to_vec();

        let rules = common.rules.load_full();
        let routing = &rules.config.routing;
        let configured = routing
            .users
            .get(&*user)
            .or_else(|| routing.databases.get(&*database));
        let mut level = configured.copied().unwrap_or(routing.consistency);
        let mut settings = Settings::default();
        let mut must_ask = false;
        for (name, value) in &hello.settings {
            if let Some(own_name) = name.strip_prefix("causeway.") {
                let mut track = Track::new(level, Settings::default());
                own::set(&mut track, own_name, Some(value), false).map_err(|problem| Problem {
                    fatal: true,
                    ..problem
                })?;
                level = track.level();
                continue;
            }
            let known = parameters
                .iter_mut()
                .find(|(known, _)| known.eq_ignore_ascii_case(name));
            match known {
                Some((_, known)) if known == value => {}
                Some((_, known)) if name == "application_name" && value.is_ascii() => {
                    known.clone_from(value);
                    settings.set_value(name, value);
                }
                _ => {
                    settings.set_value(name, value);
                    must_ask = true;
                }
            }
        }
        if must_ask {
            for (name, value) in ask_server(worker, &mut places, &database, &settings).await? {
                match parameters.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, known)) => *known = value,
                    None => parameters.push((name, value)),
                }
            }
        }

        let slot = common
            .cancels
            .register(if minor >= 2 { LONG_KEY } else { 4 });
        let mut reply = Reply::new().authentication(&Authentication::Ok);
        for (name, value) in &parameters {
            reply = reply.parameter(name, value);
        }
        reply = reply
            .key_data(slot.process(), slot.key())
            .ready(TransactionStatus::Idle);
        if let Err(error) = self.socket.write_all(reply.as_bytes()).await {
            common.cancels.unregister(&slot);
            return Err(error.into());
        }
        let mut track = Track::new(level, settings);
        parameters.retain(|(name, _)| track.settings.contains(&name.to_ascii_lowercase()));
        track.greeted = parameters;
        let entry = common
            .connections
            .enter(&user, &database, self.socket.peer().ok());
        Ok(Ready {
            entry,
            database,
            places,
            track,
            slot,
        })
    }
}

impl Ready {
    fn into_session(self, mut socket: Socket, worker: Arc<Worker>) -> Session {
        // A client need not wait for its greeting before it goes on.
        let inbox = socket.take_rest();
        Session {
            client: Client {
                socket,
                inbox,
                out: Vec::new(),
                ended: false,
            },
            database: worker.database(&self.database),
            slot: self.slot,
            entry: self.entry,
            places: self.places,
            track: self.track,
            seen: Seen::default(),
            names: Names::default(),
            held: None,
            unit: Unit::default(),
            aborted: Aborted::default(),
            last_route: None,
            look_after: LookAfter::new(),
            draining: Box::pin(worker.common.draining.clone().cancelled_owned()),
            spare: Batch::default(),
            skipping: false,
            drop_bytes: 0,
            worker,
        }
    }
}

/// For so long after its start the proxy looks for the primary before a standby may say hello, in
/// microseconds.
const FIRST_LOOK_US: u64 = 1_000_000;

/// ParameterStatus as the primary gives it, or any standby while there is no primary.
async fn greeting(
    worker: &Worker,
    places: &mut Places,
    database: &Arc<str>,
    user: &Arc<str>,
) -> Result<Arc<[(String, String)]>, Refusal> {
    let common = &worker.common;
    let key = (Arc::clone(database), Arc::clone(user));
    let (node, incarnation) = best_node(worker).await?;
    if let Some(known) = common.greetings.read().get(&key)
        && known.incarnation == incarnation
    {
        return Ok(Arc::clone(&known.parameters));
    }
    let Some(pool) = places.pool(common, node) else {
        return Err(Refusal::Silent);
    };
    let mut lease = acquire(worker, &pool, database).await?;
    let parameters: Arc<[_]> = lease
        .server()
        .parameters
        .iter()
        .map(|(name, value)| match name.as_str() {
            // Writes are possible here, whichever node said hello.
            "in_hot_standby" => (name.clone(), "off".to_owned()),
            _ => (name.clone(), value.clone()),
        })
        .collect();
    let greeting = Greeting {
        incarnation,
        parameters: Arc::clone(&parameters),
    };
    common.greetings.write().insert(key, greeting);
    Ok(parameters)
}

async fn best_node(
    worker: &Worker,
) -> Result<(NodeId, crate::core::topology::Incarnation), Refusal> {
    let cluster = &worker.common.cluster;
    let find = || {
        let topology = cluster.topology();
        let mut standbys = topology
            .nodes
            .iter()
            .filter(|node| node.usable().is_some() && !node.drained);
        // At first the primary may just not have answered yet, and a standby may not know the
        // database yet.
        let any = || {
            standbys
                .next()
                .filter(|_| cluster.now_us() >= FIRST_LOOK_US)
        };
        let node = topology.primary().or_else(any)?;
        Some((node.id, node.usable()?.incarnation))
    };
    let wait = async {
        loop {
            let changed = cluster.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = find() {
                return found;
            }
            changed.await;
        }
    };
    let bound = worker.common.rules.load().bounds.hold_timeout;
    tokio::time::timeout(bound, wait).await.map_err(|_| {
        let what = format!(
            "no node is available: waited {:.1} s for one",
            bound.as_secs_f64()
        );
        Refusal::Problem(Problem::fatal(Kind::CannotConnectNow, what))
    })
}

/// A server connection for a login, which a paused database holds up as it does statements.
async fn acquire(worker: &Worker, pool: &Arc<Pool>, database: &Arc<str>) -> Result<Lease, Refusal> {
    let pause = &worker.common.pause;
    loop {
        pause.opened(database).await;
        match pool.acquire(worker.index).await {
            Ok(lease) if pause.is_open(database) => return Ok(lease),
            Ok(lease) => lease.discard(),
            Err(AcquireError::Paused { .. }) => {}
            Err(error) => return Err(refusal(error)),
        }
    }
}

/// Has a server check the settings of a startup packet, and report them in its own spelling.
async fn ask_server(
    worker: &Worker,
    places: &mut Places,
    database: &Arc<str>,
    settings: &Settings,
) -> Result<Vec<(String, String)>, Refusal> {
    let (node, _) = best_node(worker).await?;
    let Some(pool) = places.pool(&worker.common, node) else {
        return Err(Refusal::Silent);
    };
    let mut lease = acquire(worker, &pool, database).await?;
    let server = lease.server();
    let sql = settings.sync_sql(server.applied.as_deref());
    match server.run_own(&sql, OWN_BOUND).await {
        Ok(reported) => {
            server.applied = Some(Arc::new(settings.clone()));
            Ok(reported)
        }
        Err(OwnQueryError::Refused(mut frame)) => {
            server.applied = None;
            fatal(&mut frame);
            Err(Refusal::Frame(frame))
        }
        Err(OwnQueryError::Io(_)) => {
            lease.discard();
            let what = "a server connection was lost while the session was being set up";
            Err(Problem::fatal(Kind::CannotConnectNow, what).into())
        }
    }
}

/// At startup an error is fatal. Both words have five letters.
fn fatal(frame: &mut [u8]) {
    for at in 0..frame.len().saturating_sub(6) {
        if matches!(&frame[at..at + 7], b"SERROR\0" | b"VERROR\0") {
            frame[at + 1..at + 6].copy_from_slice(b"FATAL");
        }
    }
}

fn refusal(error: AcquireError) -> Refusal {
    use crate::backend::connect::ConnectError;
    match error {
        AcquireError::Connect(ConnectError::Refused { frame, .. }) => Refusal::Frame(frame),
        AcquireError::Exhausted { .. } => {
            Refusal::Problem(Problem::fatal(Kind::TooManyConnections, error.to_string()))
        }
        other => Refusal::Problem(Problem::fatal(Kind::CannotConnectNow, other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_at_startup_becomes_fatal() {
        let mut frame = b"E\0\0\0\x20SERROR\0VERROR\0C22023\0Minvalid\0\0".to_vec();
        fatal(&mut frame);
        assert_eq!(frame, b"E\0\0\0\x20SFATAL\0VFATAL\0C22023\0Minvalid\0\0");
    }
}
