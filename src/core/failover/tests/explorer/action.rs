//! What may happen next.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Tick,
    /// A proxy looks, plans and stores.
    Think(usize),
    /// It runs its next command.
    Run(usize),
    /// A command of a proxy that no longer leads arrives.
    Late(usize),
    Write(usize),
    Stream(usize),
    /// kill -9 of a postmaster.
    Kill(usize),
    /// A standby is restarted, and begins to replay what it holds.
    Restart(usize),
    Freeze(usize),
    Thaw(usize),
    FreezeHost(usize),
    CrashHost(usize),
    CutFromProxies(usize),
    Isolate(usize),
    CutPeers(usize),
    Mend,
    /// The deciding proxy is killed and started again.
    RestartProxy,
    /// Another proxy is elected; the first does not know yet.
    Elect(usize),
    AskSwitchover,
    /// An operator names the third node, whatever is lost.
    AskFailover,
    /// A primary's agent asks the others to promise.
    Ask(usize),
    /// The same, and nothing is late.
    Confer(usize),
    /// A question of an agent is read, or its answer.
    Deliver(usize),
    RestartAgent(usize),
    KillAgent(usize),
    StartAgent(usize),
    /// A clean stop, or a crash's recovery, comes to its end.
    Complete(usize),
    /// From now on a standby takes an order to lead and does not follow it.
    Obstruct(usize),
    /// It follows the order, however late.
    Unblock(usize),
}

impl Action {
    /// Whether it is a mishap.
    pub(super) fn is_mishap(self) -> bool {
        !matches!(
            self,
            Self::Tick
                | Self::Think(_)
                | Self::Run(_)
                | Self::Late(_)
                | Self::Write(_)
                | Self::Stream(_)
                | Self::Thaw(_)
                | Self::Mend
                | Self::AskSwitchover
                | Self::AskFailover
                | Self::Ask(_)
                | Self::Confer(_)
                | Self::StartAgent(_)
                | Self::Deliver(_)
                | Self::Complete(_)
                | Self::Unblock(_)
        )
    }
}
