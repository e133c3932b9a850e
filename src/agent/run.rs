//! Puts the agent together and runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::{fmt, io};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::enforcer::{self, LatestLook};
use super::inquiry::Inquiry;
use super::jobs::Jobs;
use super::operations::Agent;
use super::owner;
use super::postmaster::Server;
use super::state::AgentState;
use super::swap::DataDirectories;
use super::{peers, server, supervise};
use crate::config::AgentConfig;
use crate::{process, tls};

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system refused something.
    #[error("could not {doing}: {source}")]
    Io {
        /// What was attempted, as a verb phrase.
        doing: String,
        source: io::Error,
    },
    /// The certificates do not serve.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
}

impl StartError {
    fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing: doing.into(),
            source,
        }
    }
}

/// An agent that has its place and its memory, and already keeps its server's lease.
pub struct PreparedAgent {
    agent: Arc<Agent>,
    tls: TlsAcceptor,
    /// Asks the agent to end.
    asked: CancellationToken,
    /// Ends it; later than asked where the server is stopped first.
    shutdown: CancellationToken,
}

impl fmt::Debug for PreparedAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedAgent({})", self.agent.config.name)
    }
}

/// Becomes the data directory's owner, remembers, and begins to keep the lease.
///
/// To be called before there are other threads.
pub fn prepare(config: AgentConfig, asked: CancellationToken) -> Result<PreparedAgent, StartError> {
    let tls = tls::server(&config.identity, config.client_ca.as_ref())?;
    let data =
        resolve(&config.data).map_err(StartError::io(format!("find {}", config.data.display())))?;
    let owned = match data.exists() {
        true => data.clone(),
        // A swap was cut short: the parent's owner is the best that is known.
        false => data.parent().map_or_else(|| data.clone(), Path::to_owned),
    };
    owner::become_owner(&owned).map_err(StartError::io(format!("use {}", data.display())))?;
    let open = format!("open {}", config.state_dir.display());
    let state = AgentState::open(&config.state_dir).map_err(StartError::io(open))?;
    DataDirectories::new(&data, &config.state_dir)
        .finish_swap()
        .map_err(StartError::io("end the replacement of the data directory"))?;
    let server =
        Server::new(&config).map_err(StartError::io(format!("find {}", data.display())))?;
    let version = version(&config.bin).map_err(StartError::io("ask postgres for its version"))?;
    // What a killed agent left at work would write into what the next rejoin writes.
    let tools = process::working_in(&server.data, &["pg_rewind", "pg_basebackup"]);
    process::kill_all(&tools);

    let (server, state) = (Arc::new(server), Arc::new(state));
    let watch = Arc::new(LatestLook::new(&server));
    // The lease is kept until the server has stopped.
    let shutdown = match config.supervise {
        true => CancellationToken::new(),
        false => asked.clone(),
    };
    enforcer::start(&server, &state, &watch, &shutdown)
        .map_err(StartError::io("start the threads that keep the lease"))?;
    let agent = Arc::new(Agent {
        config,
        version,
        server,
        state,
        watch,
        inquiry: Inquiry::default(),
        jobs: Jobs::default(),
        stops: AtomicU64::new(0),
        leading: AtomicU64::new(0),
    });
    Ok(PreparedAgent {
        agent,
        tls: TlsAcceptor::from(Arc::new(tls)),
        asked,
        shutdown,
    })
}

impl PreparedAgent {
    /// Serves until it is asked to end. The PostgreSQL server is left as it is, unless it is supervised.
    pub async fn run(self) -> Result<(), StartError> {
        let listen = self.agent.config.listen;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(StartError::io(format!("listen on {listen}")))?;
        tracing::info!(
            node = self.agent.config.name,
            %listen,
            data = %self.agent.server.data.display(),
            version = self.agent.version,
            "the agent serves"
        );
        if self.agent.config.supervise {
            let (agent, asked, shutdown) = (self.agent.clone(), self.asked, self.shutdown.clone());
            tokio::spawn(async move {
                let _ = asked
                    .run_until_cancelled(supervise::keep_running(agent.clone()))
                    .await;
                supervise::stop_with_agent(agent).await;
                shutdown.cancel();
            });
        }
        // It ends with this.
        let mut asking = JoinSet::new();
        match self.agent.config.peers.clone() {
            Some(trust) => {
                asking.spawn(peers::keep_asking(self.agent.clone(), trust));
            }
            None => tracing::info!(
                "no failsafe: peers.ca_file does not say who signed the certificates of the other nodes' \
                 agents, and a lease that no proxy renews ends"
            ),
        }
        server::serve(listener, self.tls, self.agent, self.shutdown).await;
        Ok(())
    }
}

/// The path without symbolic links, also while nothing is there.
fn resolve(data: &Path) -> io::Result<PathBuf> {
    match (data.canonicalize(), data.parent(), data.file_name()) {
        (Ok(path), _, _) => Ok(path),
        (Err(_), Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        (Err(error), _, _) => Err(error),
    }
}

fn version(bin: &Path) -> io::Result<String> {
    let output = Command::new(bin.join("postgres"))
        .arg("--version")
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = text.split_whitespace().nth(2);
    word.map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("it answered {text:?}")))
}
