//! What an agent cannot do without: where it panics the process ends, and whoever runs the agent starts it
//! again. One that grants leases which nobody enforces is worse than none.

/// As `EX_SOFTWARE` of sysexits.h.
const SOFTWARE: i32 = 70;

/// Held by such work, by its name, for as long as it goes on.
pub(super) struct Vital(pub(super) &'static str);

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(work = self.0, "it panicked: the agent ends");
            std::process::exit(SOFTWARE);
        }
    }
}
