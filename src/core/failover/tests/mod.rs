//! The planner, tried: in every order of events, and by examples.

mod explorer;
mod quorum;
