//! The section `monitor`: as whom and how often nodes are measured.

use std::time::Duration;

use super::auth;
use crate::config::secret::Secret;
use crate::config::section::{Read, Section};
use crate::config::units::{Span, minutes, ms, us};
use crate::config::values::{identifier, span};

/// The monitoring role and its pace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// Role to log in as; needs `pg_monitor`.
    pub user: String,
    /// Its password, if it has one.
    pub password: Option<Secret>,
    /// Database to connect to.
    pub database: String,
    /// Pause between probes while nobody waits for one.
    pub interval: Duration,
    /// A node whose probe is unanswered for this long gets nothing new until it answers again.
    pub timeout: Duration,
    /// Pause between probes while somebody waits for one.
    pub busy_interval: Duration,
}

pub(super) fn monitor(section: &mut Section<'_>) -> Read<Monitor> {
    let user = section.or("user", "causeway".to_owned(), identifier);
    let password = auth::plain_password(section);
    let database = section.or("database", "postgres".to_owned(), identifier);
    let interval = section.or("interval", ms(100), span(ms(1)..=minutes(1)));
    let busy_interval = section.or("busy_interval", us(500), span(us(50)..=minutes(1)));
    let timeout = section.or("timeout", ms(1000), span(ms(10)..=minutes(5)));
    if let (Ok(interval), Ok(timeout), Ok(busy_interval)) = (interval, timeout, busy_interval) {
        pace(section, interval, timeout, busy_interval)?;
    }
    Ok(Monitor {
        user: user?,
        password: password?,
        database: database?,
        interval: interval?,
        timeout: timeout?,
        busy_interval: busy_interval?,
    })
}

fn pace(
    section: &Section<'_>,
    interval: Duration,
    timeout: Duration,
    busy_interval: Duration,
) -> Read<()> {
    let interval_text = Span(interval);
    if timeout <= interval {
        let text = format!("must be longer than monitor.interval, {interval_text}");
        return Err(section.fault("timeout", format!("{text}, not {}", Span(timeout))));
    }
    if busy_interval > interval {
        let text = format!("must not be longer than monitor.interval, {interval_text}");
        return Err(section.fault(
            "busy_interval",
            format!("{text}, not {}", Span(busy_interval)),
        ));
    }
    Ok(())
}
