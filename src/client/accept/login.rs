//! From an accepted connection to a session: encryption requests, startup packet, authentication,
//! the server's greeting.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pgwire::messages::startup::Authentication;
use tokio::net::TcpStream;

use super::encryption::{self, Encryption, HANDSHAKE};
use super::refusal::Refusal;
use super::{console, greeting, replication};
use crate::client::attachment::context::Context;
use crate::client::attachment::routing::Places;
use crate::client::cancels::Slot;
use crate::client::connection::{Connection, OWN_BOUND};
use crate::client::outcome::told::{Consequence, told};
use crate::client::relay::LookAfter;
use crate::client::session::Session;
use crate::client::session::local;
use crate::client::state::State;
use crate::client::worker::Worker;
use crate::config::{AuthMethod, Secret};
use crate::core::exchange::TransactionStatus;
use crate::core::tag::frontend;
use crate::error::{Kind, Problem};
use crate::shared::connections::Entry;
use crate::sql::Lexical;
use crate::strangers::Stranger;
use crate::wire::auth::{self, ScramExchange, Unproved};
use crate::wire::frame;
use crate::wire::reply::Reply;
use crate::wire::socket::Socket;
use crate::wire::startup::{self, Hello, MAX_PACKET, NEWEST_MINOR, Startup};

/// Bound on everything up to authentication, PostgreSQL's `authentication_timeout`.
const LOGIN_BOUND: Duration = Duration::from_secs(60);
/// At a shutdown, who has not said yet who it is may do so for this long.
const LAST_WORD: Duration = Duration::from_secs(1);
/// A password or SASL message is never longer, in bytes (PostgreSQL's `PG_MAX_AUTH_TOKEN_LENGTH`).
const MAX_AUTH_MESSAGE: usize = 65_535;
/// A cancel request can overtake the statement that it means, on another connection: for so long it waits.
const OVERTAKEN: Duration = Duration::from_millis(2);
/// A server passes over a request that reaches it before the statement does: it is repeated after this.
const CANCEL_AGAIN: Duration = Duration::from_millis(30);
/// Bytes in a cancel key under protocol 3.2.
const LONG_KEY: usize = 32;

fn invalid_length() -> Problem {
    Problem::fatal(Kind::ProtocolViolation, "invalid length of startup packet")
}

fn key_length(minor: u16) -> usize {
    if minor >= 2 { LONG_KEY } else { 4 }
}

/// Serves one accepted connection to its end.
pub(super) async fn serve(worker: Arc<Worker>, stream: TcpStream, stranger: Stranger) {
    let Ok(socket) = Socket::new(stream) else {
        return;
    };
    let mut login = Login {
        worker: &worker,
        socket,
        encryption: Encryption::default(),
    };
    let session = match tokio::time::timeout(LOGIN_BOUND, login.run(stranger)).await {
        Ok(Ok(Some(Welcome::Session(ready)))) => Ok(ready),
        Ok(Ok(Some(Welcome::Console { user }))) => {
            return console::serve(&worker, login.socket, &user).await;
        }
        Ok(Ok(Some(Welcome::Replication(stream)))) => return stream.run(login.socket).await,
        Ok(Ok(None)) => return,
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::Silent),
    };
    match session {
        Ok(ready) => {
            let mut session = ready.into_session(login.socket, Arc::clone(&worker));
            session.run().await;
            worker.common.cancels.unregister(&session.context.slot);
        }
        Err(refusal) => {
            worker.common.metrics.clients.refused.inc();
            let reply = match refusal {
                Refusal::Problem(problem) => {
                    told(
                        &worker.common,
                        Consequence::Refused,
                        &problem,
                        &login.socket,
                    );
                    Reply::new().error(&problem)
                }
                Refusal::Frame(frame) => Reply::new().raw(&frame),
                Refusal::Handshake(reason) => {
                    let client = login.socket.peer().ok().map(tracing::field::display);
                    tracing::info!(client, reason, "refuse a client: its TLS came to nothing");
                    return;
                }
                Refusal::Silent => return,
            };
            let _ = tokio::time::timeout(OWN_BOUND, login.socket.write_all(reply.as_bytes())).await;
        }
    }
}

/// Drivers that know of several proxies try another.
fn shutting_down() -> Problem {
    Problem::fatal(Kind::AdminShutdown, "causeway is shutting down")
}

struct Login<'a> {
    worker: &'a Arc<Worker>,
    socket: Socket,
    encryption: Encryption,
}

/// Whom a client has come to speak to.
enum Welcome {
    Session(Box<Ready>),
    Console { user: String },
    Replication(Box<replication::Stream>),
}

/// Everything that a session starts with.
struct Ready {
    database: Arc<str>,
    places: Places,
    state: State,
    slot: Arc<Slot>,
    entry: Entry,
}

impl Login<'_> {
    async fn run(&mut self, stranger: Stranger) -> Result<Option<Welcome>, Refusal> {
        let draining = self.worker.common.draining.clone();
        let overdue = async {
            draining.cancelled().await;
            tokio::time::sleep(LAST_WORD).await;
        };
        let known = tokio::select! {
            known = self.introduce() => known?,
            () = stranger.turned_out().cancelled() => return Err(Refusal::Silent),
            () = overdue => return Err(shutting_down().into()),
        };
        drop(stranger);
        let Some((hello, newest, password)) = known else {
            return Ok(None);
        };
        if let Some(kind) = &hello.replication {
            self.find_room()?;
            let key = key_length(newest);
            let stream =
                replication::open(self.worker, &mut self.socket, &hello, kind, key, password);
            return Ok(Some(Welcome::Replication(Box::new(stream.await?))));
        }
        let rules = self.worker.common.rules.load_full();
        let admins = &rules.config.admin.users;
        if hello.database == crate::shared::admin::DATABASE && !admins.is_empty() {
            console::admit(admins, &hello.user)?;
            return Ok(Some(Welcome::Console { user: hello.user }));
        }
        self.find_room()?;
        let ready = self.open(&hello, newest, password).await?;
        Ok(Some(Welcome::Session(Box::new(ready))))
    }

    /// Who it is, proven; none after a cancel request.
    async fn introduce(&mut self) -> Result<Option<(Hello, u16, Option<Secret>)>, Refusal> {
        let Some(hello) = self.startup().await? else {
            return Ok(None);
        };
        if self.worker.common.draining.is_cancelled() {
            return Err(shutting_down().into());
        }
        let newest = NEWEST_MINOR.min(hello.minor);
        if hello.minor > NEWEST_MINOR || !hello.unknown_extensions.is_empty() {
            let reply = Reply::new().negotiate(newest, &hello.unknown_extensions);
            self.socket.write_all(reply.as_bytes()).await?;
        }
        let wanted = self.worker.common.rules.load().client_leg.clone();
        encryption::check(wanted.as_deref(), &self.socket, &hello)?;
        let password = self.authenticate(&hello.user).await?;
        Ok(Some((hello, newest, password)))
    }

    /// Cancel requests and the console are served however many clients there are.
    fn find_room(&self) -> Result<(), Refusal> {
        if self.worker.common.is_full() {
            let what = "sorry, too many clients already";
            let hint = "Raise max_clients in causeway's configuration.";
            return Err(Problem::fatal(Kind::TooManyConnections, what)
                .with_hint(hint)
                .into());
        }
        Ok(())
    }

    /// Answers requests for encryption until the startup packet comes; none after a cancel request.
    async fn startup(&mut self) -> Result<Option<Hello>, Refusal> {
        loop {
            let first = self.encryption.may_begin();
            let body = self.startup_packet(first).await?;
            let offered = self.worker.common.rules.load().client_leg.clone();
            let (encryption, socket) = (&mut self.encryption, &mut self.socket);
            let Some(body) = body else {
                let leg = offered.ok_or_else(invalid_length)?;
                encryption.begin(socket, leg).await?;
                continue;
            };
            match startup::decode(&body)? {
                Startup::Ssl => encryption.answer_ssl(socket, offered).await?,
                Startup::GssEncryption => encryption.answer_gss(socket).await?,
                Startup::Cancel { process, key } => {
                    if let Some(slot) = self.worker.common.cancels.find(process, &key) {
                        self.cancel(slot).await;
                    }
                    return Ok(None);
                }
                Startup::Session(hello) => return Ok(Some(hello)),
            }
        }
    }

    /// Ends what a session is doing at this moment.
    async fn cancel(&self, slot: Arc<Slot>) {
        for _ in 0..5 {
            if slot.batch().is_some() {
                break;
            }
            tokio::time::sleep(OVERTAKEN).await;
        }
        let Some(batch) = slot.batch() else { return };
        let bound = self.worker.common.rules.load().config.pool.connect_timeout;
        deliver(&slot, bound).await;
        // Whoever asked need not wait for what follows.
        tokio::spawn(async move {
            tokio::time::sleep(CANCEL_AGAIN).await;
            if slot.batch() == Some(batch) {
                deliver(&slot, bound).await;
            }
        });
    }

    /// The body of a packet; none where TLS begins in its place, which only the first may do.
    async fn startup_packet(&mut self, first: bool) -> Result<Option<Vec<u8>>, Refusal> {
        let read = self.socket.read_buffered(|bytes| {
            if first && bytes.first() == Some(&HANDSHAKE) {
                return (0, Some(Ok(None)));
            }
            let Some(length) = bytes.first_chunk::<4>() else {
                return (0, None);
            };
            let length = u32::from_be_bytes(*length) as usize;
            if !(8..=MAX_PACKET).contains(&length) {
                return (bytes.len(), Some(Err(invalid_length())));
            }
            let body = bytes.get(4..length);
            (length, body.map(|body| Ok(Some(body.to_vec()))))
        });
        Ok(read.await?.ok_or(Refusal::Silent)??)
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
                let binding = self.encryption.binding().cloned();
                let binding = binding.as_ref();
                let offered = auth::mechanisms(binding);
                self.ask(&Authentication::SASL(offered.clone())).await?;
                let first = self.answer().await?;
                let malformed =
                    || Problem::fatal(Kind::ProtocolViolation, "malformed SASL message");
                let (mechanism, rest) = frame::cstr(&first).ok_or_else(malformed)?;
                let chosen = offered.iter().find(|name| name.as_bytes() == mechanism);
                let chosen = chosen.ok_or_else(|| {
                    let what = "client selected an invalid SASL authentication mechanism";
                    Problem::fatal(Kind::ProtocolViolation, what)
                })?;
                let first = rest.get(4..).ok_or_else(malformed)?;
                let verifier = account.map(|account| &account.verifier);
                let (exchange, challenge) = ScramExchange::begin(verifier, binding, chosen, first)?;
                self.ask(&Authentication::SASLContinue(challenge.into()))
                    .await?;
                let proof = self.answer().await?;
                let last = exchange.finish(&proof).map_err(|why| match why {
                    Unproved::Wrong => wrong(),
                    Unproved::Malformed(problem) => problem,
                })?;
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
            Ok(Some((frontend::PASSWORD, size))) if size <= MAX_AUTH_MESSAGE => {
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
        let rules = common.rules.load_full();
        let routing = &rules.config.routing;
        let configured = routing
            .users
            .get(&*user)
            .or_else(|| routing.databases.get(&*database));
        let mut level = configured.copied().unwrap_or(routing.consistency);
        let mut startup = Vec::new();
        let mut application_name = None;
        for (name, value) in &hello.settings {
            if let Some(own_name) = name.strip_prefix("causeway.") {
                level = local::startup_level(own_name, value).map_err(|problem| Problem {
                    fatal: true,
                    ..problem
                })?;
            } else if name.eq_ignore_ascii_case("application_name") && value.is_ascii() {
                // Every process of an application may have its own: server connections are shared.
                application_name = Some(value.clone());
            } else {
                startup.push((name.clone(), value.clone()));
            }
        }
        let mut places = Places::new(
            Arc::clone(&database),
            Arc::clone(&user),
            password,
            Arc::from(startup),
            rand::random(),
            &common.rules,
        );
        let mut parameters = greeting::greeting(worker, &mut places, &database, &user)
            .await?
            .to_vec();
        if let Some(name) = &application_name
            && let Some((_, known)) = parameters
                .iter_mut()
                .find(|(known, _)| known == "application_name")
        {
            known.clone_from(name);
        }

        let slot = common.cancels.register(key_length(minor));
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
        let mut lexical = Lexical::default();
        for (name, value) in &parameters {
            lexical.reported(name, value);
        }
        let own_meaning = u64::from(slot.process().unsigned_abs()) << 1 | 1 << 63;
        let state = State::new(level, own_meaning, lexical, application_name);
        let (from, encryption) = (self.socket.peer().ok(), self.socket.encryption());
        let entry = common.connections.enter(&user, &database, from, encryption);
        Ok(Ready {
            entry,
            database,
            places,
            state,
            slot,
        })
    }
}

impl Ready {
    fn into_session(self, socket: Socket, worker: Arc<Worker>) -> Session {
        let context = Context {
            database: worker.database(&self.database),
            slot: self.slot,
            entry: self.entry,
            places: self.places,
            look_after: LookAfter::new(),
            draining: Box::pin(worker.common.draining.clone().cancelled_owned()),
            worker,
        };
        let share = context.worker.common.memory.share();
        Session::new(Connection::new(socket, share), self.state, context)
    }
}

async fn deliver(slot: &Slot, bound: Duration) {
    if let Some(target) = slot.request()
        && let Err(error) = crate::backend::cancel::send(&target, bound).await
    {
        tracing::info!(%error, server = %target.address, "deliver a cancel request");
    }
}
