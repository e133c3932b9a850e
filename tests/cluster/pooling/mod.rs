//! Sessions share server connections and notice nothing of it: what drivers do every day, while other
//! sessions keep the connections changing hands.

mod encodings;
mod found;
mod hidden;
mod long;
mod pinned;
mod pipelines;
mod prepared;
mod renewed;
mod settings;
mod statements;
mod strangers;
mod temporary;
mod traffic;
