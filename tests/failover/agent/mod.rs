//! `causeway agent` beside real servers: who may ask it, what it does, and that it fences.

mod access;
mod lease;
mod promises;
mod recovery;
mod rejoin;
mod stop;
mod supervise;
pub(crate) mod support;
mod unable;
