//! Orders over HTTP: a planned switchover, or a failover by an operator's word.

use std::net::{IpAddr, SocketAddr};

use axum::Json;
use axum::extract::{ConnectInfo, Query, State as Held};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::State;
use super::command::{Refused, carry_out};
use crate::core::failover::record::RequestKind;

/// What an order may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Who is to lead; the best if not given.
    to: Option<String>,
}

/// How an order ended.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// It was carried out.
    done: bool,
    /// Why not, or how it went.
    text: String,
    /// For how long clients' statements were held.
    #[serde(skip_serializing_if = "Option::is_none")]
    stall_ms: Option<f64>,
}

/// Why an order is not taken from somebody.
pub(super) const NOT_ALLOWED: &str = "orders need `Authorization: Bearer` with admin.secret; without \
    that setting they are taken from this machine only, and not from a proxy on it";

type Answered = (StatusCode, Json<Answer>);

pub(super) async fn switchover(
    state: Held<State>,
    peer: ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    wanted: Query<Wanted>,
) -> Answered {
    order(state, peer, &headers, wanted, RequestKind::Switchover).await
}

pub(super) async fn failover(
    state: Held<State>,
    peer: ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    wanted: Query<Wanted>,
) -> Answered {
    order(state, peer, &headers, wanted, RequestKind::Failover).await
}

pub(super) async fn pause(
    state: Held<State>,
    peer: ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    wanted: Query<Wanted>,
) -> Answered {
    order(state, peer, &headers, wanted, RequestKind::Pause).await
}

pub(super) async fn resume(
    state: Held<State>,
    peer: ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    wanted: Query<Wanted>,
) -> Answered {
    order(state, peer, &headers, wanted, RequestKind::Resume).await
}

async fn order(
    Held(state): Held<State>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: &HeaderMap,
    Query(wanted): Query<Wanted>,
    kind: RequestKind,
) -> Answered {
    if !may_order(&state, peer, headers) {
        return refuse(StatusCode::UNAUTHORIZED, NOT_ALLOWED.to_owned());
    }
    let from = peer.to_string();
    match carry_out(&state, kind, wanted.to.as_deref(), &from).await {
        Ok(stall) => {
            let answer = Answer {
                done: true,
                text: "done".to_owned(),
                stall_ms: Some(stall.as_secs_f64() * 1000.0),
            };
            (StatusCode::OK, Json(answer))
        }
        Err(refused) => {
            let code = match refused {
                Refused::NoSuchNode(_) => StatusCode::NOT_FOUND,
                Refused::TooLong => StatusCode::GATEWAY_TIMEOUT,
                Refused::NoFailover | Refused::Busy(_) | Refused::Not(_) => StatusCode::CONFLICT,
            };
            refuse(code, refused.text())
        }
    }
}

fn refuse(code: StatusCode, text: String) -> Answered {
    let answer = Answer {
        done: false,
        text,
        stall_ms: None,
    };
    (code, Json(answer))
}

/// What a viewer must do to give orders: `open`, nothing; `secret`, show admin.secret; `closed`, come
/// from this machine.
pub(super) fn access(state: &State, peer: SocketAddr, headers: &HeaderMap) -> &'static str {
    match &state.live.load().admin.secret {
        Some(_) => "secret",
        None if is_forwarded(headers) => "closed",
        None if peer.ip().to_canonical().is_loopback() => "open",
        None => "closed",
    }
}

pub(super) fn may_order(state: &State, peer: SocketAddr, headers: &HeaderMap) -> bool {
    let config = state.live.load();
    let Some(secret) = &config.admin.secret else {
        return peer.ip().to_canonical().is_loopback()
            && !is_forwarded(headers)
            && !from_a_strange_page(headers);
    };
    let shown = headers.get(header::AUTHORIZATION);
    let shown = shown.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    shown.is_some_and(|shown| bool::from(shown.ct_eq(secret.reveal().as_bytes())))
}

/// Headers by which a proxy on this machine says for whom it asks.
const FORWARDED: [&str; 8] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-original-forwarded-for",
    "x-envoy-external-address",
    "x-real-ip",
];

/// A request that was handed on comes from this machine whoever sent it.
fn is_forwarded(headers: &HeaderMap) -> bool {
    FORWARDED.iter().any(|name| headers.contains_key(*name))
}

/// A page in a browser on this machine could be anybody's. Browsers say with every POST which page it
/// comes from; ours is one that was loaded from this very address, and under a name that no foreign
/// name server can give out.
fn from_a_strange_page(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .map(|value: &HeaderValue| value.to_str().unwrap_or("?"))
    };
    match (text(header::ORIGIN), text(header::HOST)) {
        (None, _) => text(HeaderName::from_static("sec-fetch-site"))
            .is_some_and(|site| site != "same-origin" && site != "none"),
        (Some(origin), Some(host)) => {
            origin.strip_prefix("http://") != Some(host) || !is_this_machine(host)
        }
        (Some(_), None) => true,
    }
}

/// Whether a Host header names this machine by an address, or by the one name that means it everywhere.
fn is_this_machine(host: &str) -> bool {
    let port_is_good = |port: &str| port.parse::<u16>().is_ok();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port_is_good(port) => name,
        _ => host,
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let address = bare.unwrap_or(name).parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strange(pairs: &[(&'static str, &str)]) -> bool {
        let pairs = pairs.iter().map(|(name, value)| {
            let value = HeaderValue::from_str(value);
            (
                HeaderName::from_static(name),
                value.unwrap_or_else(|error| panic!("{error}")),
            )
        });
        from_a_strange_page(&pairs.collect())
    }

    #[test]
    fn who_asks_for_somebody_else_is_known() {
        let asks = |name: &'static str| {
            let name = HeaderName::from_static(name);
            is_forwarded(
                &[(name, HeaderValue::from_static("x"))]
                    .into_iter()
                    .collect(),
            )
        };
        assert!(asks("x-forwarded-for") && asks("forwarded") && asks("via"));
        assert!(!asks("host") && !asks("origin"));
    }

    #[test]
    fn only_our_own_page_may_give_orders() {
        let ours = |host: &str| strange(&[("host", host), ("origin", &format!("http://{host}"))]);
        assert!(!strange(&[("host", "127.0.0.1:9432")]), "a command line");
        assert!(!ours("127.0.0.1:9432"));
        assert!(!ours("localhost:9432"));
        assert!(!ours("localhost"));
        assert!(!ours("[::1]:9432"));
        // Its name server says that it is this machine.
        assert!(ours("rebound.example:9432"));
        assert!(ours("localhost.example:9432"));
        let host = ("host", "127.0.0.1:9432");
        for origin in [
            "http://evil.example",
            "http://127.0.0.1:8000",
            "https://127.0.0.1:9432",
            "null",
            "",
        ] {
            assert!(strange(&[host, ("origin", origin)]), "{origin}");
        }
        assert!(strange(&[("origin", "http://127.0.0.1:9432")]), "no host");
        assert!(strange(&[host, ("sec-fetch-site", "cross-site")]));
        assert!(strange(&[host, ("sec-fetch-site", "same-site")]));
        assert!(!strange(&[host, ("sec-fetch-site", "same-origin")]));
    }
}
