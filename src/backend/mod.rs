//! Server connections: opening them, sharing them, what is prepared and set on each.

pub mod cancel;
pub mod connect;
pub mod locally;
pub mod own_query;
pub mod pool;
pub mod pools;
pub mod prepared;
pub mod senders;
pub mod server;
pub mod settings;
pub mod want;
