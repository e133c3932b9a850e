//! What a decision is made from: the facts of one moment, and what they say of the primary.

pub mod observation;
pub mod primary_health;
mod view;

pub use observation::Observation;
pub use view::View;
