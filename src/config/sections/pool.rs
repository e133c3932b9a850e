//! The section `pool`: how server connections are shared.

use std::time::Duration;

use crate::config::section::{Read, Section};
use crate::config::units::{HOUR, WEEK, minutes, ms};
use crate::config::values::{one_of, span, whole};

/// When a server connection is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// At the end of each transaction.
    Transaction,
    /// When the client disconnects.
    Session,
}

/// The pool of server connections kept for each node, database and user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// When a server connection is given back.
    pub mode: PoolMode,
    /// Server connections per node, database and user.
    pub size: usize,
    /// A client that waits longer than this for a server connection gets SQLSTATE 53300.
    pub wait_timeout: Duration,
    /// Bound on TCP connect and login together.
    pub connect_timeout: Duration,
    /// Idle server connections are closed after this.
    pub idle_timeout: Duration,
    /// Named prepared statements kept on one server connection.
    pub max_prepared: usize,
}

pub(super) fn pool(section: &mut Section<'_>) -> Read<Pool> {
    let modes = [
        ("transaction", PoolMode::Transaction),
        ("session", PoolMode::Session),
    ];
    let mode = section.or("mode", PoolMode::Transaction, one_of(&modes));
    let size = section.or("size", 20, whole(1..=10_000));
    let wait_timeout = section.or("wait_timeout", ms(5_000), span(ms(1)..=HOUR));
    let connect_timeout = section.or("connect_timeout", ms(3_000), span(ms(10)..=minutes(5)));
    let idle_timeout = section.or("idle_timeout", minutes(10), span(ms(1_000)..=WEEK));
    let max_prepared = section.or("max_prepared", 500, whole(1..=100_000));
    Ok(Pool {
        mode: mode?,
        size: size?,
        wait_timeout: wait_timeout?,
        connect_timeout: connect_timeout?,
        idle_timeout: idle_timeout?,
        max_prepared: max_prepared?,
    })
}
