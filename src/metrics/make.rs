//! Making a metric and registering it, in one step.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

/// Upper bounds of the buckets for short waits, in seconds.
pub(super) const SHORT: [f64; 15] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0,
    5.0,
];

/// Makes metrics for a registry, and for nodes of these names.
pub(super) struct Maker<'a> {
    pub(super) registry: &'a Registry,
    pub(super) nodes: &'a [String],
}

pub(super) type Made<T> = Result<T, prometheus::Error>;

impl Maker<'_> {
    pub(super) fn counter(&self, name: &str, help: &str) -> Made<IntCounter> {
        self.keep(IntCounter::new(name, help)?)
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Made<IntCounterVec> {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    /// A counter for each node, at zero from the start.
    pub(super) fn counters_by_node(&self, name: &str, help: &str) -> Made<IntCounterVec> {
        let counters = self.counters(name, help, &["node"])?;
        for node in self.nodes {
            counters.with_label_values(&[node]);
        }
        Ok(counters)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Made<IntGauge> {
        self.keep(IntGauge::new(name, help)?)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Made<IntGaugeVec> {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn fraction(&self, name: &str, help: &str) -> Made<Gauge> {
        self.keep(Gauge::new(name, help)?)
    }

    pub(super) fn fractions(&self, name: &str, help: &str, labels: &[&str]) -> Made<GaugeVec> {
        self.keep(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    /// A histogram of seconds with these upper bounds.
    pub(super) fn seconds(&self, name: &str, help: &str, bounds: &[f64]) -> Made<Histogram> {
        let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        self.keep(Histogram::with_opts(options)?)
    }

    /// A histogram of seconds for each node.
    pub(super) fn seconds_by_node(
        &self,
        name: &str,
        help: &str,
        bounds: &[f64],
    ) -> Made<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        let histograms = self.keep(HistogramVec::new(options, &["node"])?)?;
        for node in self.nodes {
            histograms.with_label_values(&[node]);
        }
        Ok(histograms)
    }

    pub(super) fn keep<T: Collector + Clone + 'static>(&self, metric: T) -> Made<T> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}
