//! The dashboard's files, built into the program, and the headers that keep the page to itself.

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::State;

/// Path, type and text of each file.
const FILES: [(&str, &str, &str); 7] = [
    ("/", HTML, include_str!("dashboard/index.html")),
    (
        "/dashboard/style.css",
        CSS,
        include_str!("dashboard/style.css"),
    ),
    ("/dashboard/main.js", JS, include_str!("dashboard/main.js")),
    (
        "/dashboard/chart.js",
        JS,
        include_str!("dashboard/chart.js"),
    ),
    (
        "/dashboard/topology.js",
        JS,
        include_str!("dashboard/topology.js"),
    ),
    (
        "/dashboard/orders.js",
        JS,
        include_str!("dashboard/orders.js"),
    ),
    (
        "/dashboard/icon.svg",
        SVG,
        include_str!("dashboard/icon.svg"),
    ),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Nothing but these files, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Router<State> {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, text)| {
            router.route(path, get(move || async move { file(kind, text) }))
        })
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 6] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // After an upgrade the page must be the new program's.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}
