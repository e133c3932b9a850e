//! `global/pg_control`: what the server last said of itself (src/include/catalog/pg_control.h).
//!
//! Only fields that have kept their places from version 11 to 18 are read. It is read as a file
//! since `pg_controldata` would be a process for every look.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::core::lsn::Lsn;

/// More than its fields take in any version.
const LONGEST: u64 = 1024;

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
    /// When the file was written, in seconds.
    written: u64,
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

    /// Whether the file's checksum is right: PostgreSQL starts by no other. It stands behind fields that differ
    /// from version to version, and is found by its being right.
    pub(super) fn is_intact(data: &Path) -> bool {
        let file = File::open(data.join("global/pg_control"));
        let mut bytes = Vec::new();
        let read = file.and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
        read.is_ok() && has_checksum(&bytes)
    }

    pub(super) fn parse(bytes: &[u8; 52]) -> Option<Self> {
        let word = |at: usize| {
            let word = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(word))
        };
        let control = Self {
            system_identifier: u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?),
            state: word(16)?,
            written: u64::from_ne_bytes(bytes.get(24..32)?.try_into().ok()?),
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

/// Whether the CRC-32C of a beginning follows it.
fn has_checksum(bytes: &[u8]) -> bool {
    let mut crc = u32::MAX;
    bytes.chunks_exact(4).enumerate().any(|(index, word)| {
        let found = word.try_into().map(u32::from_ne_bytes).ok();
        let is_it = index > 12 && found == Some(!crc);
        for byte in word {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
            }
        }
        is_it
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_found_wherever_it_stands() {
        for length in [52, 288, 296] {
            let mut bytes: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
                (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
                    1 => (crc >> 1) ^ 0x82F6_3B78,
                    _ => crc >> 1,
                })
            });
            bytes.extend((!crc).to_ne_bytes());
            bytes.resize(1024, 0);
            assert!(has_checksum(&bytes));
            bytes[20] ^= 1;
            assert!(!has_checksum(&bytes));
        }
        assert!(!has_checksum(&[0; 1024]) && !has_checksum(&[]));
    }

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
