//! Failover: watch, plan, store, act. The decisions are `core::failover`'s; here they meet the world.
//!
//! `server_poller` and `agent_poller` gather `facts`. The `controller` asks for a plan, has what it says
//! stored (`record_keeper`), shown to clients (`publisher`) and carried out (`command_runner`, with the
//! `executor`). What clients may do follows from the stored record alone (`write_permission`).

mod agent_poller;
mod background;
mod command_runner;
mod commit_rule;
mod conninfo;
mod control_sessions;
mod controller;
mod early_poller;
mod event_log;
mod executor;
mod facts;
mod hosts;
mod identity;
mod life;
mod login;
mod orders;
mod panics;
pub mod policy;
mod publisher;
mod readers;
mod record_keeper;
mod server_poller;
mod shared;
mod shell;
mod slot_keeper;
mod sync_names;
mod wal_flow;
mod wal_senders;
mod write_permission;

pub use controller::Controller;
pub use shared::Shared;
