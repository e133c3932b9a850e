//! The planner, tried.
