//! Bytes to frames and back: framing, startup packets, messages of our own, authentication.

pub mod auth;
pub mod frame;
pub mod reply;
pub mod socket;
pub mod startup;
pub mod stream;
mod tls;
