//! The control plane: measuring the nodes and reading the catalogue. It publishes on the board.

pub mod catalogs;
pub mod monitor;
mod pace;
mod probe;
