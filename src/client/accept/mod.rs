//! From a connection at the door to a session: dealing it out to a worker, the startup packet,
//! authentication, the greeting; and the console, replication connections and cancel
//! requests, which come through the same door.

mod console;
pub mod dispatcher;
mod encryption;
mod greeting;
mod login;
mod refusal;
mod replication;
