//! What a session's statements have brought about that others are still to act upon.

use super::noted::Noted;
use crate::core::statement::Renew;

/// What statements have brought about beyond the session's own state, since it was last dealt with.
#[derive(Debug, Default)]
pub(in crate::client) struct Aftermath {
    /// The settings differ from what the connection is known to have.
    pub(in crate::client) settings_changed: bool,
    /// Definitions changed, for everybody.
    pub(in crate::client) ddl: bool,
    /// Nobody knows what the connection has: everything is reset before it is used again.
    pub(in crate::client) scrub: bool,
    /// A notification came with an answer.
    pub(in crate::client) told: bool,
    /// A number was drawn from a sequence.
    pub(in crate::client) drew: bool,
    /// The connection's sequence numbers are gone.
    pub(in crate::client) discarded_numbers: bool,
    /// The server has gone back to its own default of the application's name.
    pub(in crate::client) renamed: bool,
    /// Idle connections of before are to be renewed.
    pub(in crate::client) renew: Vec<Renew>,
}

/// What ran that cannot be told: the server is asked before the connection serves anybody else.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Doubt {
    /// Custom settings that may have been made.
    pub(super) names: Noted<str>,
    /// A name may have been made up.
    pub(super) any_name: bool,
    /// Code ran that may have left something, and did not only fail or end otherwise than expected.
    pub(super) code: bool,
}
