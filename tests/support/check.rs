//! The consistency checker pointed at a proxy, and how its figures are read.

use std::time::Duration;

use pgcauseway::verify::{Endpoint, Options, Report};

use super::Proxy;

impl Proxy {
    /// A check through it of so many seconds, in a schema of its own.
    pub fn check(&self, schema: &str, seconds: u64) -> Options {
        Options {
            duration: Some(Duration::from_secs(seconds)),
            schema: schema.to_owned(),
            ..Options::new(self.url().parse::<Endpoint>().unwrap())
        }
    }

    /// A check through it of so many reads, however long they take; or of as many seconds as
    /// `CAUSEWAY_TEST_SECONDS` says.
    pub fn check_reads(&self, schema: &str, reads: u64) -> Options {
        match long() {
            Some(seconds) => self.check(schema, seconds),
            None => Options {
                reads: Some(reads),
                ..self.check(schema, 120)
            },
        }
    }
}

/// How long a check lasts: a few seconds, or what `CAUSEWAY_TEST_SECONDS` says.
pub fn seconds(short: u64) -> u64 {
    long().unwrap_or(short)
}

fn long() -> Option<u64> {
    std::env::var("CAUSEWAY_TEST_SECONDS").ok()?.parse().ok()
}

/// Share of the autocommit reads that standbys answered. Reads between BEGIN and COMMIT run on the
/// primary: this version does not know beforehand that nothing will be written.
pub fn autocommit_share(report: &Report) -> f64 {
    let autocommit = report
        .forms
        .iter()
        .filter(|(form, _)| form.ends_with("autocommit"));
    let (replica, all) = autocommit.fold((0, 0), |(replica, all), (_, count)| {
        (replica + count.replica_reads, all + count.reads)
    });
    replica as f64 / all.max(1) as f64
}
