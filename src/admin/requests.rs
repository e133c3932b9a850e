//! Upkeep over HTTP: reload, drain and undrain. Whoever may order a switchover may ask for these.

use std::net::SocketAddr;

use axum::Json;
use axum::extract::{ConnectInfo, Query, State as Held};
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::State;
use super::orders::{NOT_ALLOWED, may_order};
use super::upkeep::{self, Drain, Refused};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    node: String,
}

/// How it went.
#[derive(Debug, Default, Serialize)]
pub(super) struct Answer {
    done: bool,
    /// Why not, or how it went.
    text: String,
    /// Of a reload: the keys whose new values are in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Vec<String>>,
    /// Of a reload: the keys that keep their old values until a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    restart: Option<Vec<String>>,
    /// Of a reload that changed nothing: each fault with file, line and key.
    #[serde(skip_serializing_if = "Option::is_none")]
    faults: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drain: Option<Drain>,
}

type Answered = (StatusCode, Json<Answer>);

pub(super) async fn reload(
    Held(state): Held<State>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Answered {
    if !may_order(&state, peer, &headers) {
        return refuse(StatusCode::UNAUTHORIZED, NOT_ALLOWED.to_owned());
    }
    match upkeep::reload(&state, &peer.to_string()).await {
        Ok(reloaded) => {
            let answer = Answer {
                done: true,
                text: reloaded.to_string(),
                applied: Some(reloaded.applied),
                restart: Some(reloaded.restart),
                ..Answer::default()
            };
            (StatusCode::OK, Json(answer))
        }
        Err(not) => {
            let answer = Answer {
                text: format!("not reloaded; nothing has changed\n{not}"),
                faults: Some(not.faults),
                ..Answer::default()
            };
            (StatusCode::UNPROCESSABLE_ENTITY, Json(answer))
        }
    }
}

pub(super) async fn drain(
    state: Held<State>,
    peer: ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    which: Query<Which>,
) -> Answered {
    set_drain(state, peer, &headers, which, true)
}

pub(super) async fn undrain(
    state: Held<State>,
    peer: ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    which: Query<Which>,
) -> Answered {
    set_drain(state, peer, &headers, which, false)
}

fn set_drain(
    Held(state): Held<State>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: &HeaderMap,
    Query(Which { node }): Query<Which>,
    on: bool,
) -> Answered {
    if !may_order(&state, peer, headers) {
        return refuse(StatusCode::UNAUTHORIZED, NOT_ALLOWED.to_owned());
    }
    match upkeep::drain(&state, &node, on, &peer.to_string()) {
        Ok(drain) => {
            let text = match drain {
                Some(Drain {
                    state,
                    connections: 0,
                }) => format!("{node} is {state}"),
                Some(Drain {
                    state,
                    connections: 1,
                }) => format!("{node} is {state}: 1 connection is left"),
                Some(Drain { state, connections }) => {
                    format!("{node} is {state}: {connections} connections are left")
                }
                None => format!("{node} takes reads"),
            };
            let answer = Answer {
                done: true,
                text,
                drain,
                ..Answer::default()
            };
            (StatusCode::OK, Json(answer))
        }
        Err(refused) => {
            let code = match refused {
                Refused::NoSuchNode(_) => StatusCode::NOT_FOUND,
                _ => StatusCode::CONFLICT,
            };
            let hint = refused.hint().map(|hint| format!("; {hint}"));
            refuse(
                code,
                format!("{}{}", refused.text(), hint.unwrap_or_default()),
            )
        }
    }
}

fn refuse(code: StatusCode, text: String) -> Answered {
    let answer = Answer {
        text,
        ..Answer::default()
    };
    (code, Json(answer))
}
