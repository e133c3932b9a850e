//! The section `memory`: how much sessions may make the proxy hold.

use crate::config::section::{Read, Section};
use crate::config::units::Bytes;
use crate::config::values::bytes_between;

const KB: u64 = 1 << 10;
const MB: u64 = 1 << 20;
const TB: u64 = 1 << 40;

/// How much sessions may make the proxy hold, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of them together; beyond it is SQLSTATE 53200.
    pub total: usize,
    /// Each of them; beyond it is SQLSTATE 54000.
    pub session: usize,
}

pub(super) fn memory(section: &mut Section<'_>) -> Read<Memory> {
    let bounds = || bytes_between(Bytes(64 * KB)..=Bytes(TB));
    let total = section.or("total", 1024 * MB as usize, bounds());
    let session = section.or("session", 256 * MB as usize, bounds());
    Ok(Memory {
        total: total?,
        session: session?,
    })
}
