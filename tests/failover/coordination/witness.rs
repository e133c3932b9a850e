//! Who claimed to lead, and when, by one clock for all processes of this machine.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use pgcauseway::control::store::Claim;

use crate::support::becomes;

/// Somebody's claim was seen to hold in this term at this moment, to within a millisecond.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sample {
    pub(crate) at_us: u64,
    pub(crate) term: u64,
    pub(crate) id: String,
}

pub(crate) fn now_us() -> u64 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_micros() as u64
}

/// Asks a claim once. None as well when the answer cannot be dated, because the process stood
/// still meanwhile.
pub(crate) fn sample(id: &str, claim: &Claim) -> Option<Sample> {
    let at_us = now_us();
    let term = claim.term()?;
    let id = id.to_owned();
    (now_us() - at_us < 1_000).then_some(Sample { at_us, term, id })
}

/// Terms only grow with time, and each is one proxy's: then there never were two leaders.
pub(crate) fn assert_one_leader_at_a_time(mut samples: Vec<Sample>) {
    samples.sort();
    let mut whose: HashMap<u64, &str> = HashMap::new();
    let mut highest = 0;
    for sample in &samples {
        let owner = whose.entry(sample.term).or_insert(&sample.id);
        assert_eq!(*owner, sample.id, "two proxies in term {}", sample.term);
        assert!(sample.term >= highest, "{sample:?} after term {highest}");
        highest = sample.term;
    }
}

/// A thread that asks claims over and over.
pub(crate) struct Witness {
    stop: Arc<AtomicBool>,
    /// Samples so far.
    count: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Vec<Sample>>>,
}

impl Witness {
    pub(crate) fn of(claims: Vec<(String, Claim)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let thread = std::thread::spawn(move || {
            let mut samples = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                samples.extend(claims.iter().filter_map(|(id, claim)| sample(id, claim)));
                counted.store(samples.len(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(500));
            }
            samples
        });
        Self {
            stop,
            count,
            thread: Some(thread),
        }
    }

    /// Ends it, and checks what it has seen; that must be something, and on a busy machine few looks can
    /// be dated.
    pub(crate) async fn assert_one_leader_at_a_time(mut self) {
        becomes("much has been seen", async || {
            self.count.load(Ordering::Relaxed) > 100
        })
        .await;
        self.stop.store(true, Ordering::Relaxed);
        let samples = self.thread.take().unwrap().join().unwrap();
        assert_one_leader_at_a_time(samples);
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
