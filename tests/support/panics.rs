//! Counts the panics of the proxy's own threads, which it survives and must never have.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Counts from now on.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current()
                .name()
                .is_some_and(|name| name.starts_with("causeway"))
            {
                COUNT.fetch_add(1, Ordering::Relaxed);
            }
            before(panic);
        }));
    });
}

/// How many there were.
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}
