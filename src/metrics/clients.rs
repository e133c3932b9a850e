//! Who is connected, who was refused, and which errors clients were told.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::make::{Made, Maker};
use crate::core::statement::PinReason;

#[derive(Debug)]
pub struct ClientMetrics {
    pub connections: IntGauge,
    pub connections_max: IntGauge,
    /// By reason.
    pub pinned: IntGaugeVec,
    /// Those to which notifications come by a connection that they share.
    pub listening: IntGauge,
    pub listening_connections: IntGauge,
    /// Bytes that sessions make the proxy hold.
    pub memory: IntGauge,
    pub memory_max: IntGauge,
    pub refused: IntCounter,
    /// By SQLSTATE.
    pub errors: IntCounterVec,
}

impl ClientMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Made<Self> {
        let pinned = make.gauges(
            "pinned_sessions",
            "Sessions that keep a server connection outside of transactions.",
            &["reason"],
        )?;
        for reason in PinReason::ALL {
            pinned.with_label_values(&[reason.label()]);
        }
        Ok(Self {
            connections: make.gauge("client_connections", "Client connections that are open.")?,
            connections_max: make.gauge(
                "client_connections_max",
                "Client connections that are let in at most.",
            )?,
            pinned,
            listening: make.gauge(
                "listening_sessions",
                "Sessions that listen, and keep no server connection for that.",
            )?,
            listening_connections: make.gauge(
                "listening_connections",
                "Server connections that listen for them, outside of the pools.",
            )?,
            memory: make.gauge(
                "memory_bytes",
                "What sessions make the proxy hold: messages, answers, texts, settings.",
            )?,
            memory_max: make.gauge("memory_max_bytes", "What they may make it hold.")?,
            refused: make.counter("clients_refused_total", "Client connections refused.")?,
            errors: make.counters(
                "errors_total",
                "Errors of Causeway's own making that clients were told.",
                &["sqlstate"],
            )?,
        })
    }
}
