//! Steps that reading a text takes, counted for tests alone: a text of twice the length may take twice as many.

#[cfg(test)]
thread_local! {
    static TAKEN: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// So many steps more. Nothing but in a test.
pub(super) fn took(steps: usize) {
    #[cfg(test)]
    TAKEN.set(TAKEN.get() + steps);
    #[cfg(not(test))]
    let _ = steps;
}

/// Steps that this thread takes in there.
#[cfg(test)]
pub(super) fn of(what: impl FnOnce()) -> usize {
    TAKEN.set(0);
    what();
    TAKEN.get()
}
