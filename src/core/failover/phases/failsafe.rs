//! While a primary is well: by whose promises its agent may prolong its lease, should nobody renew it.

use std::collections::BTreeSet;

use crate::core::failover::consent::{Consent, consent};
use crate::core::failover::step::Step;
use crate::core::topology::NodeId;

/// Writes down the rule that goes with the next renewal.
pub(super) fn maintain(step: &mut Step<'_>, primary: NodeId) {
    // What an agent goes by that does not answer can wait.
    if step.agent(primary).is_none() {
        return;
    }
    let Consent { needed, members } = match consent(step.view(), primary) {
        Ok(consent) => consent,
        Err(_) if step.next.failsafe.wanted(primary).is_none() => return,
        Err(_) => Consent {
            needed: 1,
            members: BTreeSet::new(),
        },
    };
    step.next.failsafe.want(primary, needed, members);
}
