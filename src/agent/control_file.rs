//! `global/pg_control`: what the server last said of itself (src/include/catalog/pg_control.h).
//!
//! Only fields that have kept their places from version 11 to 18 are read. It is read as a file
//! since `pg_controldata` would be a process for every look.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::core::lsn::Lsn;

/// The server's state, as `pg_controldata` words it.
const STATES: [&str; 7] = [
    "starting up",
    "shut down",
    "shut down in recovery",
    "shutting down",
    "in crash recovery",
    "in archive recovery",
    "in production",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) system_identifier: u64,
    state: u32,
    /// Where the latest checkpoint's record begins.
    checkpoint: u64,
    /// Of the last checkpoint: stale between a promotion and its checkpoint.
    pub(super) timeline: u32,
}

impl Control {
    /// Reads the file of a data directory; none when there is none or it makes no sense.
    pub(super) fn read(data: &Path) -> Option<Self> {
        let mut bytes = [0; 52];
        let mut file = File::open(data.join("global/pg_control")).ok()?;
        file.read_exact(&mut bytes).ok()?;
        Self::parse(&bytes)
    }

    pub(super) fn parse(bytes: &[u8; 52]) -> Option<Self> {
        let word = |at: usize| {
            let word = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(word))
        };
        let control = Self {
            system_identifier: u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?),
            state: word(16)?,
            checkpoint: u64::from_ne_bytes(bytes.get(32..40)?.try_into().ok()?),
            timeline: word(48)?,
        };
        let known = usize::try_from(control.state).is_ok_and(|state| state < STATES.len());
        (known && control.timeline > 0).then_some(control)
    }

    /// The state's name.
    pub(super) fn state(self) -> &'static str {
        let index = usize::try_from(self.state).unwrap_or_default();
        STATES.get(index).copied().unwrap_or("unknown")
    }

    /// Whether a server that runs takes writes by this file.
    pub(super) fn in_production(self) -> bool {
        self.state() == "in production"
    }

    /// Where the record of the shutdown checkpoint of a primary begins, after a clean stop.
    pub(super) fn shutdown_checkpoint(self) -> Option<Lsn> {
        (self.state() == "shut down").then_some(Lsn(self.checkpoint))
    }

    /// Whether the server was, or is, recovering as a standby.
    pub(super) fn in_archive_recovery(self) -> bool {
        matches!(
            self.state(),
            "in archive recovery" | "shut down in recovery"
        )
    }

    /// Whether the server was stopped in good order.
    pub(super) fn shut_down(self) -> bool {
        matches!(self.state(), "shut down" | "shut down in recovery")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_their_places() {
        let mut bytes = [0; 52];
        bytes[..8].copy_from_slice(&7_000_000_000_000_000_001_u64.to_ne_bytes());
        bytes[16..20].copy_from_slice(&6_u32.to_ne_bytes());
        bytes[48..52].copy_from_slice(&3_u32.to_ne_bytes());
        let control = Control::parse(&bytes).unwrap();
        assert_eq!(control.system_identifier, 7_000_000_000_000_000_001);
        assert_eq!((control.state(), control.timeline), ("in production", 3));
        assert!(control.in_production() && !control.shut_down());
        bytes[16] = 9;
        assert_eq!(Control::parse(&bytes), None);
    }
}
