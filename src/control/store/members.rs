//! Calls to etcd: one member at a time, each attempt with a deadline, the next member after it.
//!
//! Balancing over the members would give a frozen one its share of the calls. Here a member keeps
//! all of them until it fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::rpc::Connection;
use super::{OpenError, Unavailable, claim};
use crate::config::{self, Secret};
use crate::core::leader_lease::Micros;

/// Between rounds over all members.
const PAUSE: Duration = Duration::from_millis(100);

/// The members of an etcd cluster.
pub(super) struct Members {
    endpoints: Vec<Endpoint>,
    login: Option<(String, Secret)>,
    /// Bound on one attempt on one member, connecting included.
    attempt: Duration,
    /// Which member the next call goes to.
    current: AtomicUsize,
    /// The connection to it, if there is one.
    connection: Mutex<Option<(usize, Connection)>>,
}

/// A call that was answered.
pub(super) struct Answered<T> {
    pub(super) value: T,
    /// When the attempt that was answered began.
    pub(super) sent: Micros,
    /// When the first attempt began: one that was not answered may have had its effect all the same.
    pub(super) first_sent: Micros,
}

impl Members {
    pub(super) fn new(settings: &config::Etcd, attempt: Duration) -> Result<Self, OpenError> {
        let tls = tls(settings)?;
        let endpoint = |url: &String| {
            let faulty = |error| OpenError::Etcd(format!("{url}: {error}"));
            let endpoint = Endpoint::from_shared(url.clone()).map_err(faulty)?;
            let endpoint = endpoint.connect_timeout(attempt);
            match &tls {
                Some(tls) => endpoint.tls_config(tls.clone()).map_err(faulty),
                None => Ok(endpoint),
            }
        };
        let endpoints: Result<Vec<Endpoint>, OpenError> =
            settings.endpoints.iter().map(endpoint).collect();
        Ok(Self {
            endpoints: endpoints?,
            login: settings.login.clone(),
            attempt,
            current: AtomicUsize::new(0),
            connection: Mutex::new(None),
        })
    }

    /// Makes a call until it is answered, on one member after the other, or until `bound` is over.
    pub(super) async fn call<T, F>(
        &self,
        bound: Duration,
        call: impl Fn(Connection) -> F,
    ) -> Result<Answered<T>, Unavailable>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let until = Instant::now() + bound;
        let first_sent = claim::now();
        let mut failed = 0;
        let mut reason = String::new();
        loop {
            let index = self.current.load(Ordering::Relaxed) % self.endpoints.len();
            let left = until.saturating_duration_since(Instant::now());
            let sent = claim::now();
            let attempt = self.attempt.min(left);
            match timeout(attempt, self.attempt_on(index, &call)).await {
                Ok(Ok(value)) => {
                    return Ok(Answered {
                        value,
                        sent,
                        first_sent,
                    });
                }
                Ok(Err(status)) => reason = status.message().to_owned(),
                // One that was cut short says less than one before.
                Err(_) if attempt < self.attempt && !reason.is_empty() => {}
                Err(_) => reason = format!("no answer within {} ms", attempt.as_millis()),
            }
            self.give_up(index);
            failed += 1;
            let pause = if failed % self.endpoints.len() == 0 {
                PAUSE
            } else {
                Duration::ZERO
            };
            if Instant::now() + pause >= until {
                return Err(Unavailable(format!(
                    "etcd at {}: {reason}",
                    self.endpoints[index].uri()
                )));
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt_on<T, F>(
        &self,
        index: usize,
        call: &impl Fn(Connection) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let known = self.connection.lock().clone();
        let connection = match known {
            Some((at, connection)) if at == index => connection,
            _ => {
                let login = self.login.as_ref();
                let connection = Connection::open(&self.endpoints[index], login).await?;
                *self.connection.lock() = Some((index, connection.clone()));
                connection
            }
        };
        call(connection).await
    }

    /// Leaves a member that failed, and its connection, unless somebody else has done so already.
    fn give_up(&self, index: usize) {
        let mut connection = self.connection.lock();
        if connection.as_ref().is_some_and(|(at, _)| *at == index) {
            *connection = None;
        }
        let next = (index + 1) % self.endpoints.len();
        let _ = self
            .current
            .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Members")
            .field("endpoints", &self.endpoints.len())
            .finish_non_exhaustive()
    }
}

fn tls(settings: &config::Etcd) -> Result<Option<ClientTlsConfig>, OpenError> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|source| OpenError::Io {
            doing: format!("read {}", path.display()),
            source,
        })
    };
    let Some(ca_file) = &settings.ca_file else {
        return Ok(None);
    };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca_file)?));
    if let Some((certificate, key)) = &settings.client_cert {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(Some(tls))
}
