//! WAL positions and timelines, and the one correction that makes them comparable between nodes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A byte position in the write-ahead log (PostgreSQL manual, "pg_lsn Type").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Lsn(pub u64);

/// A timeline: the branch of WAL history that a node follows (manual, "Timelines").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timeline(pub u32);

/// Sizes, in bytes, that decide where WAL headers stand; fixed when a cluster is initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalGeometry {
    /// `wal_segment_size`, in bytes.
    pub segment_bytes: u64,
    /// `wal_block_size`, in bytes.
    pub block_bytes: u64,
}

impl Default for WalGeometry {
    fn default() -> Self {
        Self {
            segment_bytes: 16 * 1024 * 1024,
            block_bytes: 8192,
        }
    }
}

/// Header in front of a segment's first page (`SizeOfXLogLongPHD`), in bytes.
const LONG_HEADER: u64 = 40;
/// Header in front of every other page (`SizeOfXLogShortPHD`), in bytes.
const SHORT_HEADER: u64 = 24;

impl Lsn {
    /// Bytes from `earlier` to here; zero when `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Takes back the page header that an insert position already counts.
    ///
    /// `pg_current_wal_insert_lsn()` may stand just past the header of a page that holds no record
    /// yet (`XLogBytePosToRecPtr`, xlog.c), where the replay of an idle standby never arrives. No
    /// record can end there, so nothing is lost by stepping back.
    pub fn without_page_header(self, wal: WalGeometry) -> Self {
        let in_segment = self.0 % wal.segment_bytes;
        if in_segment == LONG_HEADER {
            Self(self.0 - LONG_HEADER)
        } else if in_segment > LONG_HEADER && self.0 % wal.block_bytes == SHORT_HEADER {
            Self(self.0 - SHORT_HEADER)
        } else {
            self
        }
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The text was not of the form `16/B374D848`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a WAL position: expected two hexadecimal numbers with a slash, such as 16/B374D848")]
pub struct InvalidLsn;

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let (high, low) = text.split_once('/').ok_or(InvalidLsn)?;
        let half = |digits: &str| match digits.len() {
            1..=8 if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u64::from_str_radix(digits, 16).map_err(|_| InvalidLsn)
            }
            _ => Err(InvalidLsn),
        };
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_both_ways() {
        for text in ["0/0", "0/4044018", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(
                text.parse::<Lsn>().map(|lsn| lsn.to_string()),
                Ok(text.into())
            );
        }
        for text in [
            "",
            "/",
            "0",
            "0/",
            "/0",
            "x/1",
            "0/123456789",
            "+1/2",
            "0/-1",
        ] {
            assert_eq!(text.parse::<Lsn>(), Err(InvalidLsn), "{text}");
        }
    }

    #[test]
    fn a_page_header_is_taken_back_and_nothing_else() {
        let wal = WalGeometry::default();
        let at = |text: &str| {
            text.parse::<Lsn>()
                .unwrap()
                .without_page_header(wal)
                .to_string()
        };
        // Both seen on a real server: a record that ended on a page, and a switched segment.
        assert_eq!(at("0/4044018"), "0/4044000");
        assert_eq!(at("0/5000028"), "0/5000000");
        for unchanged in [
            "0/4044000",
            "0/4044020",
            "0/5000000",
            "0/5000018",
            "0/5000030",
        ] {
            assert_eq!(at(unchanged), unchanged);
        }
    }
}
