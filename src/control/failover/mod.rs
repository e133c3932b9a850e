//! Failover: watch, plan, store, act. The decisions are `core::failover`'s; here they meet the world.
//!
//! `watch` and `tend` gather facts, `controller` asks for a plan, stores what it says and has it
//! carried out by `hands`. What clients may do follows from the stored record alone (`ruling`).

mod conninfo;
pub mod controller;
mod errands;
mod facts;
mod flow;
mod hands;
mod holder;
pub mod policy;
mod reporter;
mod ruling;
mod sync_names;
mod tell;
mod tend;
mod watch;
