//! What the data plane and the control plane share, so that neither knows the other: the cluster as it is
//! seen, who is connected, who is paused, and what operators ask and are told.

pub mod admin;
pub mod catalogs;
pub mod cluster;
pub mod connections;
pub mod load;
pub mod logins;
pub mod maintenance;
pub mod memory;
pub mod operator;
pub mod pause;
pub mod signals;
