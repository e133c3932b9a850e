//! The agent's door: HTTPS, each caller within bounds, each proven. Who has proven nothing yet takes
//! nothing away from those who have: a lease is renewed however many strangers are at the door.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use serde::Serialize;
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::api::{
    self, AnnounceRequest, LeaseRequest, PromiseRequest, Refusal, RefusalCode, RejoinRequest,
    ReleaseRequest, StartRequest, StopRequest, UpstreamRequest,
};
use super::operations::{Agent, Failure};
use crate::descriptors::Descriptors;
use crate::strangers::{Stranger, Strangers};

/// Callers at once that are known.
const CALLERS: usize = 64;
/// And that are not. An own proxy takes a few milliseconds to say who it is: only that many newcomers in that
/// time would send it away.
const STRANGERS: usize = 128;
/// Bound on a handshake.
const HANDSHAKE: Duration = Duration::from_secs(1);
/// Bound on a stranger's whole first request.
const INTRODUCTION: Duration = Duration::from_secs(2);
/// Bound on a request's head, and on the pause before it: longer than between two questions of other agents
/// (`peers`), whose connections stay open.
const HEAD: Duration = Duration::from_secs(30);
/// Bound on a request's body.
const BODY: Duration = Duration::from_secs(5);
/// Bytes of a request's body.
const BODY_BYTES: usize = 64 * 1024;
/// Pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bound on a connection as a whole; longer than the longest request that is reasonable.
const CONNECTION: Duration = Duration::from_secs(2 * 3_600);

/// Serves until `shutdown`.
pub(super) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    agent: Arc<Agent>,
    shutdown: CancellationToken,
) {
    let pages = pages(agent);
    let known = Arc::new(Semaphore::new(CALLERS));
    // Nobody who comes is waited for, whoever else is at the door.
    let strangers = Strangers::with_grace(STRANGERS, Duration::ZERO);
    let descriptors = Descriptors::present();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            // Its descriptor is closed at once.
            Ok((stream, _)) if descriptors.is_of_reserve(&stream) => {}
            Ok((stream, from)) => {
                let stranger = strangers.admit(from.ip()).await;
                let (tls, caller) = (tls.clone(), Caller::new(stranger, &known));
                let pages = pages.clone().layer(Extension(caller.clone()));
                tokio::spawn(async move {
                    tokio::select! {
                        _ = timeout(CONNECTION, converse(stream, tls, pages)) => {}
                        () = caller.overstays() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone)]
struct Caller {
    known: Arc<Semaphore>,
    standing: Arc<Mutex<Standing>>,
    turned_out: CancellationToken,
}

enum Standing {
    /// It has proven nothing yet.
    Stranger {
        _place: Stranger,
    },
    Known {
        _permit: OwnedSemaphorePermit,
    },
}

impl Caller {
    fn new(stranger: Stranger, known: &Arc<Semaphore>) -> Self {
        Self {
            known: known.clone(),
            turned_out: stranger.turned_out().clone(),
            standing: Arc::new(Mutex::new(Standing::Stranger { _place: stranger })),
        }
    }

    /// It has proven who it is; false if there are too many who have.
    fn introduced(&self) -> bool {
        let mut standing = self.standing.lock();
        if let Standing::Stranger { .. } = &*standing {
            let Ok(_permit) = self.known.clone().try_acquire_owned() else {
                return false;
            };
            *standing = Standing::Known { _permit };
        }
        true
    }

    fn is_known(&self) -> bool {
        matches!(*self.standing.lock(), Standing::Known { .. })
    }

    /// Resolves when a stranger must go: for another, or because it takes too long.
    async fn overstays(self) {
        let in_time = timeout(INTRODUCTION, self.turned_out.cancelled()).await;
        // Once it is known it is in nobody's way.
        if in_time.is_err() && self.is_known() {
            std::future::pending::<()>().await;
        }
    }
}

/// One caller, who may be anybody: what goes wrong is said in the log for debugging only.
async fn converse(stream: TcpStream, tls: TlsAcceptor, pages: Router) {
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke off");
    }
}

fn pages(agent: Arc<Agent>) -> Router {
    Router::new()
        .route(api::STATUS, get(status))
        .route(api::LEASE, post(lease))
        .route(api::RELEASE, post(release))
        .route(api::PROMISE, post(promise))
        .route(api::ANNOUNCE, post(announce))
        .route(api::STOP, post(stop))
        .route(api::START, post(start))
        .route(api::UPSTREAM, post(upstream))
        .route(api::REJOIN, post(rejoin))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        // Outermost: who has not proven anything learns nothing, not even which paths there are.
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(middleware::from_fn_with_state(agent.clone(), authenticate))
        .with_state(agent)
}

async fn authenticate(
    State(agent): State<Arc<Agent>>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let proceed = async |request: Request| {
        if !caller.introduced() {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let meant = is_meant(&agent, request.headers());
        match meant {
            Ok(()) => next.run(request).await,
            Err(failure) => answer::<()>(&agent, Err(failure)),
        }
    };
    let Some(secret) = &agent.config.secret else {
        // The certificate has been checked by the handshake.
        return proceed(request).await;
    };
    let shown = request.headers().get(header::AUTHORIZATION);
    let shown = shown.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let right = shown.is_some_and(|shown| shown.ct_eq(secret.reveal().as_bytes()).into());
    if right {
        return proceed(request).await;
    }
    let text = "the secret is missing or wrong";
    tracing::warn!(code = ?RefusalCode::Unauthorized, reason = text, "refused");
    let refusal = Refusal {
        code: RefusalCode::Unauthorized,
        text: text.to_owned(),
        highest_epoch: 0,
    };
    (StatusCode::UNAUTHORIZED, Json(refusal)).into_response()
}

fn is_meant(agent: &Agent, head: &HeaderMap) -> Result<(), Failure> {
    let says = |name: &str| head.get(name).map(HeaderValue::as_bytes);
    agent.is_meant(says(api::NODE), says(api::SYSTEM))
}

async fn status(State(agent): State<Arc<Agent>>) -> Response {
    Json(agent.status().await).into_response()
}

async fn lease(State(agent): State<Arc<Agent>>, Body(asked): Body<LeaseRequest>) -> Response {
    answer(
        &agent,
        agent
            .clone()
            .blocking(move |agent| agent.lease(&asked))
            .await,
    )
}

async fn release(State(agent): State<Arc<Agent>>, Body(asked): Body<ReleaseRequest>) -> Response {
    answer(
        &agent,
        agent
            .clone()
            .blocking(move |agent| agent.release(&asked))
            .await,
    )
}

async fn promise(State(agent): State<Arc<Agent>>, Body(asked): Body<PromiseRequest>) -> Response {
    let outcome = agent.clone().promise(asked).await;
    answer(&agent, outcome)
}

async fn announce(State(agent): State<Arc<Agent>>, Body(asked): Body<AnnounceRequest>) -> Response {
    answer(
        &agent,
        agent
            .clone()
            .blocking(move |agent| agent.announce(&asked))
            .await,
    )
}

async fn stop(State(agent): State<Arc<Agent>>, Body(asked): Body<StopRequest>) -> Response {
    answer(
        &agent,
        agent
            .clone()
            .blocking(move |agent| agent.stop(&asked))
            .await,
    )
}

async fn start(State(agent): State<Arc<Agent>>, Body(asked): Body<StartRequest>) -> Response {
    answer(
        &agent,
        agent
            .clone()
            .blocking(move |agent| agent.start(&asked))
            .await,
    )
}

async fn upstream(State(agent): State<Arc<Agent>>, Body(asked): Body<UpstreamRequest>) -> Response {
    answer(
        &agent,
        agent
            .clone()
            .blocking(move |agent| agent.upstream(&asked))
            .await,
    )
}

async fn rejoin(State(agent): State<Arc<Agent>>, Body(asked): Body<RejoinRequest>) -> Response {
    // In a task of its own: a caller that goes away half-way must not leave half a beginning.
    let beginning = tokio::spawn(agent.clone().rejoin(asked)).await;
    let begun =
        beginning.unwrap_or_else(|error| Err(Failure::new(RefusalCode::Failed, error.to_string())));
    answer(&agent, begun)
}

fn answer<T: Serialize>(agent: &Agent, outcome: Result<T, Failure>) -> Response {
    let Failure { code, text } = match outcome {
        Ok(value) => return Json(value).into_response(),
        Err(failure) => failure,
    };
    tracing::info!(?code, reason = %text, "refused");
    let refusal = Refusal {
        code,
        text,
        highest_epoch: agent.state.ledger().highest_epoch(),
    };
    (status_of(code), Json(refusal)).into_response()
}

fn status_of(code: RefusalCode) -> StatusCode {
    match code {
        RefusalCode::StaleEpoch
        | RefusalCode::OtherHolder
        | RefusalCode::Expired
        | RefusalCode::Late
        | RefusalCode::LeaseRequired
        | RefusalCode::Promised
        | RefusalCode::NotFollowing
        | RefusalCode::OtherRole
        | RefusalCode::Busy
        | RefusalCode::UnfinishedRejoin => StatusCode::CONFLICT,
        RefusalCode::OtherNode => StatusCode::MISDIRECTED_REQUEST,
        RefusalCode::TooLate => StatusCode::GATEWAY_TIMEOUT,
        RefusalCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        RefusalCode::BadRequest => StatusCode::BAD_REQUEST,
        RefusalCode::Unauthorized => StatusCode::UNAUTHORIZED,
    }
}

/// A JSON body; what is wrong with it is said in our own shape, without repeating it.
struct Body<T>(T);

impl<T, S> FromRequest<S> for Body<T>
where
    T: serde::de::DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let read = timeout(BODY, Json::<T>::from_request(request, state)).await;
        let text = match read {
            Ok(Ok(Json(value))) => return Ok(Self(value)),
            Ok(Err(JsonRejection::JsonDataError(error))) => error.body_text(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the body took too long".to_owned(),
        };
        let refusal = Refusal {
            code: RefusalCode::BadRequest,
            text,
            highest_epoch: 0,
        };
        Err((StatusCode::BAD_REQUEST, Json(refusal)).into_response())
    }
}
