//! Sessions share server connections and notice nothing of it: what drivers do every day, while other
//! sessions keep the connections changing hands.

mod pinned;
mod pipelines;
mod prepared;
mod settings;
mod statements;
mod strangers;
mod traffic;
