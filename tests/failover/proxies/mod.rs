//! Several proxies on a real etcd, and random chaos under `durability: quorum`: every server and every
//! proxy is a process on a host of its own, and a history of every write is checked when the dust has
//! settled.

mod cable;
mod chaos;
mod deciders;
mod failsafe;
mod faults;
mod healthy;
mod late;
mod orders;
mod world;
