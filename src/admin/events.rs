//! `/api/events`: the dashboard's feed as server-sent events. First `past`, with the points that are
//! kept, then `now` twice a second.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::extract::{ConnectInfo, State as Held};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::{State, orders, status};

pub(super) async fn stream(
    Held(state): Held<State>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    let Some(feed) = state.sampler.view(&status::take(&state)) else {
        let text = "too many are looking already\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let access = Event::default()
        .event("access")
        .data(orders::access(&state, peer, &headers));
    let frames =
        ReceiverStream::new(feed).map(|(name, json)| Event::default().event(name).data(&*json));
    let events = tokio_stream::once(access).chain(frames);
    Sse::new(events.map(Ok::<_, Infallible>))
        .keep_alive(KeepAlive::default())
        .into_response()
}
