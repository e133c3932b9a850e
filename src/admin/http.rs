//! The HTTP pages: the dashboard, `/metrics`, `/livez`, `/readyz`, `/api/status`, `/api/events`, and the
//! operator's orders.

use axum::extract::{ConnectInfo, State as Held};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::descriptors::Descriptors;
use crate::strangers::Strangers;

use super::{State, events, gauges, orders, page, requests, sampler, status};

/// Connections at once: nobody says who it is, so the oldest goes when there are more.
const CALLERS: usize = 64;
/// A connection that asks nothing for this long is closed.
const SILENT: Duration = Duration::from_secs(75);
/// Pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown`.
pub async fn serve(listener: TcpListener, state: State, shutdown: CancellationToken) {
    let pages = Router::new()
        .merge(page::routes())
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route(
            "/api/status",
            get(|held: Held<State>| async move { Json(status::take(&held)) }),
        )
        .route("/api/events", get(events::stream))
        .route("/api/switchover", post(orders::switchover))
        .route("/api/failover", post(orders::failover))
        .route("/api/failover/pause", post(orders::pause))
        .route("/api/failover/resume", post(orders::resume))
        .route("/api/reload", post(requests::reload))
        .route("/api/drain", post(requests::drain))
        .route("/api/undrain", post(requests::undrain))
        .with_state(state.clone());
    // Not gracefully: a scraper that keeps its connection open must not hold up the end.
    tokio::select! {
        () = accept(listener, pages) => {}
        () = sampler::run(Arc::clone(&state.sources), Arc::clone(&state.sampler)) => {}
        () = gauges::sample(state) => {}
        () = shutdown.cancelled() => {}
    }
}

/// Serves everybody who comes; its connections end with it.
async fn accept(listener: TcpListener, pages: Router) {
    let (strangers, descriptors) = (Strangers::new(CALLERS), Descriptors::present());
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if descriptors.is_of_reserve(&stream) {
            continue;
        }
        let stranger = strangers.admit(from.ip()).await;
        let pages = pages.clone().layer(Extension(ConnectInfo(from)));
        connections.spawn(async move {
            tokio::select! {
                () = converse(stream, pages) => {}
                () = stranger.turned_out().cancelled() => {}
            }
        });
    }
}

async fn converse(stream: TcpStream, pages: Router) {
    let _ = stream.set_nodelay(true);
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection broke off");
    }
}

async fn metrics(Held(state): Held<State>) -> Response {
    gauges::refresh(&state);
    match state.metrics.render() {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "render the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn ready(Held(state): Held<State>) -> Response {
    if state.shutdown.is_cancelled() {
        // Whoever deals clients out is to look elsewhere, before anybody is turned away.
        let refusal = (
            StatusCode::SERVICE_UNAVAILABLE,
            "causeway is shutting down\n",
        );
        return refusal.into_response();
    }
    if state.cluster.topology().primary().is_some() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no primary is available\n").into_response()
    }
}
