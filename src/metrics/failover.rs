//! Failovers as counted, and how failover stands: the phase and since when, who decides, who could take
//! over, and whether the store answers. Nothing of the latter is shown without a failover section, and
//! what only the deciding proxy knows is shown by that one alone.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use strum::{IntoStaticStr, VariantArray};

use super::make::{Made, Maker};
use crate::core::failover::record::Phase;

/// Upper bounds of the buckets for the time without a primary, in seconds.
const GAP: [f64; 12] = [
    0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0,
];

/// How replacing a primary ended.
#[derive(Clone, Copy, Debug, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Ended {
    Promoted,
    SwitchedOver,
    Restored,
    CalledOff,
}

#[derive(Debug)]
pub struct FailoverMetrics {
    pub state: FailoverState,
    pub epoch: IntGauge,
    pub write_gap: Histogram,
    pub lost_write_bytes: IntCounter,
    ended: IntCounterVec,
}

impl FailoverMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Made<Self> {
        let ended = make.counters(
            "failovers_total",
            "Replacements of the primary that have ended.",
            &["outcome"],
        )?;
        // A counter that first appears with 1 has not increased, to Prometheus.
        for outcome in Ended::VARIANTS {
            ended.with_label_values(&[<&str>::from(outcome)]);
        }
        Ok(Self {
            state: FailoverState::new(make)?,
            epoch: make.gauge(
                "failover_epoch",
                "Rises with every decision about who leads.",
            )?,
            write_gap: make.seconds(
                "failover_write_gap_seconds",
                "For how long statements that need a primary were held.",
                &GAP,
            )?,
            lost_write_bytes: make.counter(
                "lost_write_bytes_total",
                "WAL of old primaries that a promotion left behind.",
            )?,
            ended,
        })
    }

    pub fn ended(&self, how: Ended) {
        self.ended.with_label_values(&[<&str>::from(how)]).inc();
    }
}

/// How failover stands at this moment.
#[derive(Clone, Debug)]
pub struct FailoverState {
    known: Arc<Mutex<Known>>,
    descs: Arc<[Desc]>,
}

#[derive(Debug, Default)]
struct Known {
    /// With the epoch and the moment since which it lasts.
    phase: Option<(&'static str, u64, Instant)>,
    leads: bool,
    promotable: Option<usize>,
    coordination_up: Option<bool>,
}

/// In the order of `FailoverState::descs`: name, help, labels.
const SHOWN: [(&str, &str, &[&str]); 5] = [
    (
        "failover_phase",
        "1 for the phase that the failover record is in.",
        &["phase"],
    ),
    (
        "failover_phase_seconds",
        "For how long this proxy has known the record to be in its phase.",
        &[],
    ),
    (
        "failover_leads",
        "1 while this proxy decides who leads.",
        &[],
    ),
    (
        "failover_promotable_standbys",
        "Standbys of which each would be promoted without an operator if the primary failed now; shown by the proxy that decides.",
        &[],
    ),
    (
        "coordination_up",
        "1 while the store of the failover record answers.",
        &[],
    ),
];

impl FailoverState {
    fn new(make: &Maker<'_>) -> Made<Self> {
        let descs = SHOWN.iter().map(|(name, help, labels)| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(
                (*name).to_owned(),
                (*help).to_owned(),
                labels,
                Default::default(),
            )
        });
        let shown = Self {
            known: Arc::default(),
            descs: descs.collect::<Result<_, _>>()?,
        };
        make.keep(shown)
    }

    /// The record's phase and epoch, and whether this proxy decides.
    pub fn stand(&self, phase: &'static str, epoch: u64, leads: bool) {
        let mut known = self.known.lock();
        if known
            .phase
            .is_none_or(|(was, then, _)| (was, then) != (phase, epoch))
        {
            known.phase = Some((phase, epoch, Instant::now()));
        }
        known.leads = leads;
        if !leads {
            known.promotable = None;
        }
    }

    /// How many standbys could be promoted; none where nobody here would promote one.
    pub fn promotable(&self, standbys: Option<usize>) {
        self.known.lock().promotable = standbys;
    }

    /// Whether the store of the record answers.
    pub fn coordination(&self, up: bool) {
        self.known.lock().coordination_up = Some(up);
    }
}

impl Collector for FailoverState {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let known = self.known.lock();
        let single = |value: f64| vec![gauge(None, value)];
        let phases = known.phase.map(|(phase, _, _)| {
            let one = |label: &&'static str| {
                gauge(Some(("phase", label)), f64::from(u8::from(*label == phase)))
            };
            Phase::LABELS.iter().map(one).collect()
        });
        let lasts = known.phase.map(|(_, _, since)| since.elapsed());
        let metrics: [Option<Vec<Metric>>; SHOWN.len()] = [
            phases,
            lasts.map(|lasts| single(lasts.as_secs_f64())),
            known
                .phase
                .map(|_| single(f64::from(u8::from(known.leads)))),
            known.promotable.map(|standbys| single(standbys as f64)),
            known
                .coordination_up
                .map(|up| single(f64::from(u8::from(up)))),
        ];
        let families = self
            .descs
            .iter()
            .zip(metrics)
            .filter_map(|(desc, metrics)| {
                let mut family = MetricFamily::default();
                family.set_name(desc.fq_name.clone());
                family.set_help(desc.help.clone());
                family.set_field_type(MetricType::GAUGE);
                family.set_metric(metrics?);
                Some(family)
            });
        families.collect()
    }
}

fn gauge(label: Option<(&str, &str)>, value: f64) -> Metric {
    let pair = label.map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    let mut shown = Gauge::default();
    shown.set_value(value);
    let mut metric = Metric::default();
    metric.set_label(pair.into_iter().collect());
    metric.set_gauge(shown);
    metric
}
