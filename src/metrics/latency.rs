//! How long units took. Each event loop records into a histogram of its own, whose lock only a reader
//! ever contends for; readers add the loops up, and take percentiles of a span of time as the difference
//! of two sums. Why so, and what it costs: docs/adr/0009-latency.md.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, Bucket, LabelPair, Metric, MetricFamily, MetricType};

use super::make::Made;

/// A value is known to 1 %.
const DIGITS: u8 = 2;
/// What took longer than a day counts as a day.
const MOST_US: u64 = 86_400_000_000;

#[derive(Clone, Debug)]
pub struct Latency {
    /// By event loop.
    loops: Arc<[Mutex<Recorded>]>,
}

/// What had been recorded at one moment, in microseconds.
#[derive(Clone, Debug)]
pub struct Recorded {
    histogram: Histogram<u64>,
    sum_us: u64,
}

impl Latency {
    pub(super) fn new(workers: usize) -> Made<Self> {
        let recorded = Recorded {
            histogram: Histogram::new_with_max(MOST_US, DIGITS)
                .map_err(|error| prometheus::Error::Msg(error.to_string()))?,
            sum_us: 0,
        };
        let loops = (0..workers.max(1)).map(|_| Mutex::new(recorded.clone()));
        Ok(Self {
            loops: loops.collect(),
        })
    }

    /// Records one duration, for an event loop.
    pub fn record(&self, worker: usize, took: Duration) {
        let us = took.as_micros() as u64;
        if let Some(own) = self.loops.get(worker) {
            let mut own = own.lock();
            own.histogram.saturating_record(us);
            own.sum_us += us;
        }
    }

    /// What has been recorded so far, by all event loops.
    pub fn recorded(&self) -> Recorded {
        // There is at least one.
        let mut all = self.loops[0].lock().clone();
        for own in &self.loops[1..] {
            let own = own.lock();
            // All are of one size, so that nothing is refused.
            let _ = all.histogram.add(&own.histogram);
            all.sum_us += own.sum_us;
        }
        all
    }
}

impl Recorded {
    /// What was recorded since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut span = self.clone();
        // An earlier moment of the same loops has no more of anything.
        let _ = span.histogram.subtract(&earlier.histogram);
        span.sum_us = span.sum_us.saturating_sub(earlier.sum_us);
        span
    }

    /// The duration that a share (0 to 1) of all did not exceed, in milliseconds; none of none.
    pub fn percentile_ms(&self, share: f64) -> Option<f64> {
        let any = !self.histogram.is_empty();
        any.then(|| self.histogram.value_at_quantile(share) as f64 / 1000.0)
    }

    /// How many took no longer than each of these, in seconds and rising.
    fn within(&self, bounds: &[f64]) -> Vec<u64> {
        let mut counts = vec![0; bounds.len()];
        for value in self.histogram.iter_recorded() {
            let longest = value.value_iterated_to() as f64 / 1e6;
            if let Some(at) = bounds.iter().position(|bound| longest <= *bound) {
                counts[at] += value.count_at_value();
            }
        }
        let mut sum = 0;
        for count in &mut counts {
            sum += *count;
            *count = sum;
        }
        counts
    }
}

/// Shows latencies to Prometheus, as one histogram with a label.
#[derive(Clone, Debug)]
pub(super) struct Exported {
    desc: Desc,
    label: &'static str,
    shown: Vec<(&'static str, Latency)>,
    /// Upper bounds in seconds.
    bounds: &'static [f64],
}

impl Exported {
    pub(super) fn new(
        name: &str,
        help: &str,
        label: &'static str,
        shown: Vec<(&'static str, Latency)>,
        bounds: &'static [f64],
    ) -> Made<Self> {
        let labels = vec![label.to_owned()];
        Ok(Self {
            desc: Desc::new(name.to_owned(), help.to_owned(), labels, Default::default())?,
            label,
            shown,
            bounds,
        })
    }

    fn metric(&self, value: &str, latency: &Latency) -> Metric {
        let recorded = latency.recorded();
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_sum(recorded.sum_us as f64 / 1e6);
        histogram.set_sample_count(recorded.histogram.len());
        let counts = recorded.within(self.bounds);
        let buckets = self.bounds.iter().zip(counts).map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        let mut label = LabelPair::default();
        label.set_name(self.label.to_owned());
        label.set_value(value.to_owned());
        let mut metric = Metric::default();
        metric.set_label(vec![label]);
        metric.set_histogram(histogram);
        metric
    }
}

impl Collector for Exported {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = self.shown.iter();
        let metrics = metrics.map(|(value, latency)| self.metric(value, latency));
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
    fn percentiles_of_a_span_of_time_over_all_event_loops() {
        let latency = Latency::new(3).unwrap();
        latency.record(0, Duration::from_secs(9));
        let before = latency.recorded();
        for ms in 1..=100 {
            latency.record(ms as usize % 3, Duration::from_millis(ms));
        }
        let span = latency.recorded().since(&before);
        assert_eq!(span.histogram.len(), 100);
        assert_eq!(span.sum_us, 5_050_000);
        let near = |share, ms: f64| {
            let found = span.percentile_ms(share).unwrap_or_default();
            assert!((found - ms).abs() <= ms * 0.01, "{found} for {ms}");
        };
        near(0.5, 50.0);
        near(0.99, 99.0);
        assert_eq!(before.since(&before).percentile_ms(0.5), None);
    }

    #[test]
    fn what_is_exported_rises_over_the_bounds_and_leaves_out_what_is_longer() {
        let latency = Latency::new(1).unwrap();
        for ms in [1, 3, 4, 400] {
            latency.record(0, Duration::from_millis(ms));
        }
        let within = latency.recorded().within(&[0.0005, 0.002, 0.005, 0.1]);
        assert_eq!(within, [0, 1, 3, 3]);
        assert_eq!(latency.recorded().histogram.len(), 4);
    }

    #[test]
    fn nothing_is_too_short_or_too_long() {
        let latency = Latency::new(1).unwrap();
        latency.record(0, Duration::ZERO);
        latency.record(0, Duration::from_secs(1 << 40));
        assert_eq!(latency.recorded().histogram.len(), 2);
    }
}
