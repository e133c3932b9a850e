//! What is said to servers and to clients about listening.

use crate::core::fanout::Channel;
use crate::error::{Kind, Problem};

/// A statement for each channel. No encoding has a quotation mark within a character.
pub(in crate::client) fn statements(text: &mut Vec<u8>, command: &[u8], channels: &[Channel]) {
    for channel in channels {
        text.extend_from_slice(command);
        text.push(b'"');
        for byte in channel.iter() {
            text.extend(std::iter::repeat_n(*byte, 1 + usize::from(*byte == b'"')));
        }
        text.extend_from_slice(b"\";");
    }
}

/// What a session is told that has not heard everything.
pub(in crate::client) fn missed_some() -> Problem {
    Problem::error(Kind::Warning, "notifications may have been missed")
        .with_detail("The connection that they come by was lost, and another has been opened.")
        .with_hint("Look for what they would have told; from now on they come again.")
}
