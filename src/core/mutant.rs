//! The rules that keep a session whole while its server connection changes, by name: the fuzzer switches
//! one off at a time and has to notice.
//!
//! Only a build with debug assertions can; in every other [`holds`] is `true` and no code is left of it.

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU8, Ordering};

use strum::VariantArray;

/// A rule that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, VariantArray)]
#[repr(u8)]
pub enum Rule {
    /// An error takes back what its text or pipeline has set before it.
    ErrorTakesBack,
    /// ROLLBACK takes back what its transaction has set.
    RollbackTakesBack,
    /// ROLLBACK TO takes back what was set since its savepoint.
    RollbackToTakesBack,
    /// COMMIT AND CHAIN makes hold what was set before it.
    ChainIsABoundary,
    /// SET LOCAL ends with its transaction.
    LocalEnds,
    /// What no ROLLBACK takes back may have happened although its statement failed.
    LocksOutliveErrors,
    /// DEALLOCATE ALL and DISCARD ALL drop what other sessions have prepared on the connection.
    DeallocateDropsAll,
    /// DISCARD ALL ends every setting.
    DiscardEndsSettings,
    /// A pipeline keeps its server connection up to its Sync.
    SyncEndsAPipeline,
    /// What cannot be told from the text is asked.
    OpaqueIsAsked,
    /// Custom settings are asked for by name.
    CustomSettingsAreAsked,
    /// What is left on a connection keeps its session there.
    PinsHold,
    /// A pin ends when nothing is left.
    PinsEnd,
    /// What a session has left goes with it.
    LeaversTakeAll,
    /// Settings follow their session to another connection.
    SettingsFollow,
    /// Settings of a startup packet are the defaults that RESET goes back to.
    StartupIsTheDefault,
    /// RESET ALL keeps the role.
    ResetKeepsTheRole,
    /// The same text under other settings is another statement.
    SettingsGiveMeaning,
    /// Notifications bear the process id of their sender's login.
    OwnProcessId,
    /// What a session listens to is what any server connection shows that it uses.
    ChannelsFollow,
    /// Notifications come before the end of the next answer.
    NotificationsComeFirst,
    /// `lastval` and `currval` never speak of another session's number.
    NumbersAreOwn,
    /// A READ ONLY transaction goes to the primary when a statement in it needs that.
    ReadOnlyMoves,
    /// What only the primary has or knows is asked there.
    NodeStateIsThePrimarys,
}

#[cfg(debug_assertions)]
static OFF: AtomicU8 = AtomicU8::new(u8::MAX);

/// Whether a rule is in force.
#[cfg(debug_assertions)]
pub fn holds(rule: Rule) -> bool {
    OFF.load(Ordering::Relaxed) != rule as u8
}

/// Whether a rule is in force: it is.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn holds(_: Rule) -> bool {
    true
}

/// Whether no rule is switched off: what would catch another rule's failures is left out while one is.
#[cfg(debug_assertions)]
pub fn all_hold() -> bool {
    OFF.load(Ordering::Relaxed) == u8::MAX
}

/// Whether no rule is switched off: none is.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn all_hold() -> bool {
    true
}

/// Switches a rule off in this process, and the one before on again; none puts all in force.
#[cfg(debug_assertions)]
pub fn switch_off(rule: Option<Rule>) {
    OFF.store(rule.map_or(u8::MAX, |rule| rule as u8), Ordering::Relaxed);
}
