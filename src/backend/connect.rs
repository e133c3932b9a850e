//! Opening a server connection: TCP, startup, authentication, until it is ready.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

use super::server::{CancelTarget, Origin, Server, StartupSettings};
use crate::config::Secret;
use crate::core::tag::{backend, field};
use crate::descriptors::Descriptors;
use crate::shared::cluster::ClusterState;
use crate::wire::frame;
use crate::wire::reply::error_field;
use crate::wire::socket::Socket;

/// Where to connect and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// Node name, for messages.
    pub node: Arc<str>,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database.
    pub database: Arc<str>,
    /// Role.
    pub user: Arc<str>,
    /// Plain password, if there is one.
    pub password: Option<Secret>,
}

/// Why no server connection could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP failed, or the connection broke during login.
    #[error("cannot reach node {node}: {source}")]
    Io {
        /// Which node.
        node: Arc<str>,
        /// What the system said.
        source: io::Error,
    },
    /// The server did not finish the login in time.
    #[error("node {node} did not complete a login within {bound:?}")]
    TimedOut {
        /// Which node.
        node: Arc<str>,
        /// The bound.
        bound: Duration,
    },
    /// The server refused, in its own words.
    #[error("node {node} refused the login: {message} (SQLSTATE {sqlstate})")]
    Refused {
        /// Which node.
        node: Arc<str>,
        /// Its SQLSTATE.
        sqlstate: String,
        /// Its message.
        message: String,
        /// The ErrorResponse frame, to be passed on.
        frame: Vec<u8>,
    },
    /// The server wants an authentication that is not offered, or no password is configured.
    #[error("cannot log in to node {node}: {what}")]
    Unsupported {
        /// Which node.
        node: Arc<str>,
        /// What it wants.
        what: String,
    },
}

impl ConnectError {
    /// Whether another node might do better: the node is down, starting, stopping or full.
    pub fn is_about_the_node(&self) -> bool {
        match self {
            Self::Io { .. } | Self::TimedOut { .. } => true,
            Self::Refused { sqlstate, .. } => {
                matches!(sqlstate.as_str(), "57P01" | "57P02" | "57P03" | "53300")
                    || sqlstate.starts_with("08")
            }
            Self::Unsupported { .. } => false,
        }
    }

    /// Whether it refused because it does not know the database, the role or its password: a
    /// standby may just not have replayed them yet.
    pub fn is_about_what_is_not_replayed(&self) -> bool {
        matches!(self, Self::Refused { sqlstate, .. }
            if matches!(sqlstate.as_str(), "3D000" | "28000" | "28P01"))
    }
}

/// A connection that has just become ready.
#[derive(Debug)]
pub struct Opened {
    pub socket: Socket,
    pub cancel: CancelTarget,
    /// ParameterStatus messages.
    pub parameters: Vec<(String, String)>,
}

/// Opens a server connection in the given life of a node, within `bound`.
pub async fn connect(
    target: &Target,
    startup: &StartupSettings,
    origin: Origin,
    worker: usize,
    cluster: Arc<ClusterState>,
    bound: Duration,
) -> Result<Server, ConnectError> {
    let open = async {
        let mut opened = login(target, startup).await?;
        let commits_async = commits_async(target, &mut opened.socket).await?;
        Ok(Server::new(
            opened.socket,
            origin,
            opened.cancel,
            Arc::from(opened.parameters),
            commits_async,
            Arc::clone(startup),
            worker,
            cluster,
        ))
    };
    within(target, bound, open).await
}

/// Opens a connection that nothing is asked on, and that belongs to no pool, within `bound`.
pub async fn open(
    target: &Target,
    startup: &[(String, String)],
    bound: Duration,
) -> Result<Opened, ConnectError> {
    within(target, bound, login(target, startup)).await
}

async fn within<T>(
    target: &Target,
    bound: Duration,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    match tokio::time::timeout(bound, work).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::TimedOut {
            node: Arc::clone(&target.node),
            bound,
        }),
    }
}

async fn login(target: &Target, startup: &[(String, String)]) -> Result<Opened, ConnectError> {
    let io = |source| target.io(source);
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(io)?;
    if Descriptors::present().is_of_reserve(&stream) {
        let what = "the limit of open files leaves no room for it";
        return Err(io(io::Error::other(what)));
    }
    let address = stream.peer_addr().map_err(io)?;
    let mut socket = Socket::new(stream).map_err(io)?;

    let mut out = BytesMut::new();
    let fixed = [("user", &*target.user), ("database", &*target.database)];
    let asked = startup.iter().map(|(name, value)| (&**name, &**value));
    frontend::startup_message(fixed.into_iter().chain(asked), &mut out).map_err(io)?;
    socket.write_all(&out).await.map_err(io)?;

    let mut login = Login {
        target,
        scram: None,
    };
    let mut parameters = Vec::new();
    let mut cancel = CancelTarget {
        address,
        process: 0,
        key: 0,
    };
    loop {
        let (sent, frame) = socket.next_frame().await.map_err(io)?;
        let body = &frame[frame::HEADER..];
        match sent {
            backend::AUTHENTICATION => {
                login.prove(body).await?;
                if let Some(answer) = login.answer(body)? {
                    socket.write_all(&answer).await.map_err(io)?;
                }
            }
            backend::PARAMETER_STATUS => parameters.extend(frame::parameter(body)),
            backend::KEY_DATA => {
                if let Some((process, key)) = body.split_first_chunk::<4>() {
                    cancel.process = i32::from_be_bytes(*process);
                    cancel.key = key.first_chunk().map_or(0, |key| i32::from_be_bytes(*key));
                }
            }
            backend::ERROR => return Err(refused(target, frame)),
            backend::READY => break,
            backend::NOTICE => {}
            other => return Err(target.unexpected(other)),
        }
    }
    Ok(Opened {
        socket,
        cancel,
        parameters,
    })
}

/// Whether commits are flushed by default decides which position covers them.
async fn commits_async(target: &Target, socket: &mut Socket) -> Result<bool, ConnectError> {
    let io = |source| target.io(source);
    let mut ask = BytesMut::new();
    frontend::query("SHOW synchronous_commit", &mut ask).map_err(io)?;
    socket.write_all(&ask).await.map_err(io)?;
    let mut found = true;
    loop {
        let (sent, frame) = socket.next_frame().await.map_err(io)?;
        match sent {
            backend::DATA_ROW => found = frame.ends_with(b"off"),
            backend::ERROR => return Err(refused(target, frame)),
            backend::READY => return Ok(found),
            backend::NOTICE
            | backend::PARAMETER_STATUS
            | backend::ROW_DESCRIPTION
            | backend::COMMAND_COMPLETE => {}
            other => return Err(target.unexpected(other)),
        }
    }
}

impl Target {
    fn io(&self, source: io::Error) -> ConnectError {
        ConnectError::Io {
            node: Arc::clone(&self.node),
            source,
        }
    }

    fn unexpected(&self, tag: u8) -> ConnectError {
        ConnectError::Unsupported {
            node: Arc::clone(&self.node),
            what: format!("it sent an unexpected message {:?}", char::from(tag)),
        }
    }
}

/// Begins AuthenticationSASLContinue.
const SASL_CONTINUE: [u8; 4] = 11_i32.to_be_bytes();

struct Login<'a> {
    target: &'a Target,
    scram: Option<sasl::ScramSha256>,
}

impl Login<'_> {
    /// Before the answer to a SASL challenge: thousands of HMACs, not where sessions are served.
    async fn prove(&mut self, body: &[u8]) -> Result<(), ConnectError> {
        let Some(asked) = body.strip_prefix(&SASL_CONTINUE) else {
            return Ok(());
        };
        let Some(mut scram) = self.scram.take() else {
            return Ok(());
        };
        let asked = asked.to_vec();
        let proof = spawn_blocking(move || scram.update(&asked).map(|()| scram)).await;
        let proof = proof.unwrap_or_else(|error| Err(io::Error::other(error)));
        self.scram = Some(proof.map_err(|source| self.target.io(source))?);
        Ok(())
    }

    /// The answer to an authentication request (manual, "Message Formats": Authentication…).
    fn answer(&mut self, body: &[u8]) -> Result<Option<BytesMut>, ConnectError> {
        let node = || Arc::clone(&self.target.node);
        let io = |source| ConnectError::Io {
            node: node(),
            source,
        };
        let unsupported = |what: String| ConnectError::Unsupported { node: node(), what };
        let (code, rest) = body
            .split_first_chunk::<4>()
            .ok_or_else(|| unsupported("it sent a malformed authentication request".to_owned()))?;
        let password = || {
            let password = self.target.password.as_ref().map(Secret::reveal);
            password.ok_or_else(|| {
                let user = &self.target.user;
                unsupported(format!(
                    "it asks for a password, and none is configured for user {user}"
                ))
            })
        };
        let mut out = BytesMut::new();
        match u32::from_be_bytes(*code) {
            0 => return Ok(None),
            3 => {
                return Err(unsupported(
                    "it asks for the password in clear text, which is not sent; use scram-sha-256"
                        .to_owned(),
                ));
            }
            5 => {
                let salt = rest.first_chunk::<4>().copied().unwrap_or_default();
                let hash = md5_hash(self.target.user.as_bytes(), password()?.as_bytes(), salt);
                frontend::password_message(hash.as_bytes(), &mut out).map_err(io)?;
            }
            10 if rest
                .split(|byte| *byte == 0)
                .any(|name| name == sasl::SCRAM_SHA_256.as_bytes()) =>
            {
                let unbound = sasl::ChannelBinding::unsupported();
                let scram = sasl::ScramSha256::new(password()?.as_bytes(), unbound);
                frontend::sasl_initial_response(sasl::SCRAM_SHA_256, scram.message(), &mut out)
                    .map_err(io)?;
                self.scram = Some(scram);
            }
            11 | 12 => {
                let scram = self.scram.as_mut().ok_or_else(|| {
                    unsupported("it went on with a SASL exchange never begun".to_owned())
                })?;
                if code[3] == 12 {
                    scram.finish(rest).map_err(io)?;
                    return Ok(None);
                }
                frontend::sasl_response(scram.message(), &mut out).map_err(io)?;
            }
            other => {
                return Err(unsupported(format!(
                    "it asks for authentication method {other}"
                )));
            }
        }
        Ok(Some(out))
    }
}

fn refused(target: &Target, frame: Vec<u8>) -> ConnectError {
    let of = |code| {
        error_field(&frame, code)
            .map_or_else(String::new, |v| String::from_utf8_lossy(v).into_owned())
    };
    ConnectError::Refused {
        node: Arc::clone(&target.node),
        sqlstate: of(field::SQLSTATE),
        message: of(field::MESSAGE),
        frame,
    }
}
