//! What `causeway top` shows: the proxy's feed as text (`feed`), what it says (`status`), what is shown of it
//! and how fast it changes (`model`), and how that looks (`draw`). Nothing here reads a clock, a socket or
//! a keyboard; `cli/top.rs` does.

mod draw;
mod feed;
mod format;
mod model;
mod status;
#[cfg(test)]
mod tests;

pub use draw::draw;
pub use feed::{EventReader, ServerSentEvent};
pub use model::{Happening, Key, Model};
