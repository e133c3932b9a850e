//! The data plane towards clients: accepting, logging in, gathering what they send, placing it on a
//! server, relaying the answer.

mod aborted;
mod attach;
pub mod batch;
pub mod cancels;
mod console;
mod digest;
mod fate;
mod listen;
pub mod listener;
mod login;
mod names;
mod own;
mod place;
mod relay;
mod render;
mod resolve;
pub mod rules;
mod session;
mod shapes;
mod timing;
mod told;
mod track;
pub mod worker;
