//! The HTTP pages: the dashboard, `/metrics`, `/livez`, `/readyz`, `/api/status`, `/api/events`, and the
//! operator's orders.

use axum::extract::State as Held;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{State, events, gauges, orders, page, requests, sampler, status};

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
        .route("/api/reload", post(requests::reload))
        .route("/api/drain", post(requests::drain))
        .route("/api/undrain", post(requests::undrain))
        .with_state(state.clone())
        .into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, pages);
    // Not gracefully: a scraper that keeps its connection open must not hold up the end.
    tokio::select! {
        result = async { served.await } => {
            if let Err(error) = result {
                tracing::error!(%error, "serve HTTP");
            }
        }
        () = sampler::run(Arc::clone(&state.sources), Arc::clone(&state.sampler)) => {}
        () = gauges::sample(state) => {}
        () = shutdown.cancelled() => {}
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
    if state.cluster.topology().primary().is_some() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no primary is available\n").into_response()
    }
}
