//! The section `routing`: where reads may go, and at which level.

use std::collections::HashMap;
use std::time::Duration;

use crate::config::section::{Read, Section};
use crate::config::units::{DAY, minutes, ms};
use crate::config::values::{level, short_name, span};
use crate::core::session::Level;

/// Where reads may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Level of a session that asks for none.
    pub consistency: Level,
    /// Overrides by database name.
    pub databases: HashMap<String, Level>,
    /// Overrides by user name; stronger than the database's.
    pub users: HashMap<String, Level>,
    /// Longest time a read waits for a standby to catch up before it goes to the primary.
    pub catchup_wait: Duration,
    /// A standby further behind than this serves no reads, and neither does one that has replayed nothing
    /// at all for a fifth of it although there was something to replay.
    pub max_lag: Duration,
    /// This proxy's failure domain: standbys of the same one are preferred.
    pub zone: Option<String>,
}

pub(super) fn routing(section: &mut Section<'_>) -> Read<Routing> {
    let consistency = section.or("consistency", Level::Session, level);
    let catchup_wait = section.or("catchup_wait", ms(10), span(ms(0)..=minutes(1)));
    let max_lag = section.or("max_lag", ms(10_000), span(ms(1)..=DAY));
    let renamed = if section.has("primary_wait") {
        section.known("primary_wait");
        let text = "is called failover.hold_timeout now: move it there";
        Err(section.fault("primary_wait", text))
    } else {
        Ok(())
    };
    let zone = section.optional("zone", short_name);
    let databases = levels(section, "databases");
    let users = levels(section, "users");
    renamed?;
    Ok(Routing {
        consistency: consistency?,
        databases: databases?,
        users: users?,
        catchup_wait: catchup_wait?,
        max_lag: max_lag?,
        zone: zone?,
    })
}

fn levels(section: &mut Section<'_>, key: &'static str) -> Read<HashMap<String, Level>> {
    let levels = section.named(key, |section| section.required("consistency", level))?;
    Ok(levels.into_iter().collect())
}
