//! How long statements took: a histogram that costs one relaxed addition to record, and from which
//! percentiles of any span of time are read as the difference of two snapshots.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// Each power of two of microseconds is divided into so many buckets: a value is known to 12.5 %.
const PARTS: u64 = 8;
/// The last bucket begins at about 19 hours.
const BUCKETS: usize = 272;

/// Durations, counted by their size.
#[derive(Debug)]
pub struct Latency {
    counts: Vec<AtomicU64>,
    sum_us: AtomicU64,
}

/// The counts of a `Latency` at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(Vec<u64>);

impl Default for Latency {
    fn default() -> Self {
        Self {
            counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum_us: AtomicU64::new(0),
        }
    }
}

impl Latency {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let us = took.as_micros() as u64;
        if let Some(count) = self.counts.get(index(us)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What has been counted so far.
    pub fn counts(&self) -> Counts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts(self.counts.iter().map(load).collect())
    }

    /// All durations together, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.load(Ordering::Relaxed)
    }
}

impl Counts {
    /// What was counted since an earlier moment.
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.0.iter().zip(&earlier.0);
        Self(pairs.map(|(now, then)| now.saturating_sub(*then)).collect())
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The duration that a share (0 to 1) of all did not exceed, in milliseconds; none of none.
    pub fn percentile_ms(&self, share: f64) -> Option<f64> {
        let rank = (self.total() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let at = self.0.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some((floor_us(at) + floor_us(at + 1)) as f64 / 2000.0)
    }
}

fn index(us: u64) -> usize {
    if us < PARTS {
        return us as usize;
    }
    let power = u64::from(us.ilog2());
    let part = (us >> (power - 3)) & (PARTS - 1);
    (((power - 2) * PARTS + part) as usize).min(BUCKETS - 1)
}

/// Where a bucket begins, in microseconds.
fn floor_us(index: usize) -> u64 {
    let index = index as u64;
    if index < PARTS {
        return index;
    }
    let power = index / PARTS + 2;
    (1 << power) + ((index % PARTS) << (power - 3))
}

/// Shows latencies to Prometheus, by route.
#[derive(Debug)]
pub(super) struct Shown {
    desc: Desc,
    routes: Vec<(&'static str, std::sync::Arc<Latency>)>,
    /// Upper bounds in seconds.
    bounds: &'static [f64],
}

impl Shown {
    pub(super) fn new(
        routes: Vec<(&'static str, std::sync::Arc<Latency>)>,
        bounds: &'static [f64],
    ) -> Result<Self, prometheus::Error> {
        let desc = Desc::new(
            "statement_seconds".to_owned(),
            "From a unit's arrival to the end of its answer, waiting included, by where it ran."
                .to_owned(),
            vec!["route".to_owned()],
            Default::default(),
        )?;
        Ok(Self {
            desc,
            routes,
            bounds,
        })
    }
}

impl Collector for Shown {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = self.routes.iter().map(|(route, latency)| {
            let counts = latency.counts();
            let mut histogram = Histogram::default();
            histogram.set_sample_sum(latency.sum_us() as f64 / 1e6);
            histogram.set_sample_count(counts.total());
            let mut buckets = Vec::with_capacity(self.bounds.len());
            for bound in self.bounds {
                let within = |at: usize| floor_us(at + 1) as f64 <= bound * 1e6;
                let counted = counts.0.iter().enumerate();
                let counted = counted.filter(|(at, _)| within(*at));
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(counted.map(|(_, count)| count).sum());
                buckets.push(bucket);
            }
            histogram.set_bucket(buckets);
            let mut label = LabelPair::default();
            label.set_name("route".to_owned());
            label.set_value((*route).to_owned());
            let mut metric = Metric::default();
            metric.set_label(vec![label]);
            metric.set_histogram(histogram);
            metric
        });
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(metrics.collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_its_bucket() {
        for us in (0..5000).chain((0..36).map(|power| 3_u64 << power)) {
            let at = index(us);
            assert!(floor_us(at) <= us, "{us} is before bucket {at}");
            assert!(at == BUCKETS - 1 || us < floor_us(at + 1), "{us} {at}");
        }
    }

    #[test]
    fn percentiles_of_a_span_of_time() {
        let latency = Latency::default();
        latency.record(Duration::from_secs(9));
        let before = latency.counts();
        for ms in 1..=100 {
            latency.record(Duration::from_millis(ms));
        }
        let span = latency.counts().since(&before);
        assert_eq!(span.total(), 100);
        let near = |share, ms: f64| {
            let found = span.percentile_ms(share).unwrap_or_default();
            assert!((found - ms).abs() <= ms * 0.13, "{found} for {ms}");
        };
        near(0.5, 50.0);
        near(0.99, 99.0);
        assert_eq!(before.since(&before).percentile_ms(0.5), None);
    }
}
