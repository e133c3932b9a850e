//! The process itself: its version, its start, and the configuration in force.

use std::time::SystemTime;

use prometheus::{Gauge, IntCounterVec};
use strum::{IntoStaticStr, VariantArray};

use super::make::{Made, Maker};

/// How a reload of the configuration ended.
#[derive(Clone, Copy, Debug, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum ReloadOutcome {
    Applied,
    Refused,
}

#[derive(Debug)]
pub struct ProcessMetrics {
    reloads: IntCounterVec,
    config_read: Gauge,
}

impl ProcessMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Made<Self> {
        make.gauge(
            "start_time_seconds",
            "When the process started, in seconds of the Unix epoch.",
        )?
        .set(unix_seconds() as i64);
        make.gauges("build_info", "The version that runs.", &["version"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        let reloads = make.counters(
            "config_reloads_total",
            "Reloads of the configuration, by whether it was taken over.",
            &["outcome"],
        )?;
        for outcome in ReloadOutcome::VARIANTS {
            reloads.with_label_values(&[<&str>::from(outcome)]);
        }
        Ok(Self {
            reloads,
            config_read: make.fraction(
                "config_last_reload_success_timestamp_seconds",
                "When the configuration in force was read, in seconds of the Unix epoch.",
            )?,
        })
    }

    pub fn reloaded(&self, outcome: ReloadOutcome) {
        self.reloads
            .with_label_values(&[<&str>::from(outcome)])
            .inc();
    }

    /// The configuration in force was read just now.
    pub fn config_was_read(&self) {
        self.config_read.set(unix_seconds());
    }
}

fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}
