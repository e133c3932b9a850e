//! Whether the transaction that ended last on a server connection has flushed the WAL, as its statements'
//! command tags tell.
//!
//! A commit record that is flushed before it is acknowledged has everything before it on disk: all that the
//! transaction has seen, whoever committed it. A transaction that changed nothing flushes nothing, and what
//! it saw may be somebody's asynchronous commit. What VACUUM and ANALYZE write in place is no transaction's:
//! neither its commit record nor a snapshot tells of it, and no ROLLBACK takes it back.

/// The transactions on one server connection, as far as they have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushes {
    /// The present transaction has changed rows.
    wrote: bool,
    /// The one that ended last had, and nothing has run since.
    flushed: bool,
    /// Something was written in place.
    in_place: bool,
}

/// How a transaction has left what it saw and wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// All of it on disk, unless commits are asynchronous or its rows are not logged.
    pub flushed: bool,
    /// It, or one before, has written in place.
    pub in_place: bool,
}

impl Flushes {
    /// A statement has completed: the body of its CommandComplete.
    pub fn completed(&mut self, tag: &[u8]) {
        let tag = tag.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut words = tag.split(|byte| *byte == b' ');
        let verb = words.next().unwrap_or_default();
        let rows = words.next_back();
        self.in_place |= matches!(verb, b"VACUUM" | b"ANALYZE");
        match (verb, rows) {
            (b"INSERT" | b"UPDATE" | b"DELETE" | b"MERGE", Some(rows)) if rows != b"0" => {
                (self.wrote, self.flushed) = (true, false);
            }
            (b"COMMIT", None) => {
                self.flushed = std::mem::take(&mut self.wrote);
            }
            // A savepoint's is not told from a transaction's.
            (b"ROLLBACK", None) => self.failed(),
            _ => self.flushed = false,
        }
    }

    /// A statement has failed.
    pub fn failed(&mut self) {
        (self.wrote, self.flushed) = (false, false);
    }

    /// ReadyForQuery outside of a transaction: what ran without one is committed.
    pub fn committed(&mut self) {
        self.flushed |= std::mem::take(&mut self.wrote);
    }

    /// How the transaction that ended last has left all that it has seen.
    pub fn take(&mut self) -> Left {
        let Self {
            flushed, in_place, ..
        } = std::mem::take(self);
        Left { flushed, in_place }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tags, separated by semicolons; `error` for an error, `Z` for ReadyForQuery outside of a transaction.
    fn left(history: &str) -> Left {
        let mut flushes = Flushes::default();
        for event in history.split("; ") {
            match event {
                "error" => flushes.failed(),
                "Z" => flushes.committed(),
                tag => flushes.completed(format!("{tag}\0").as_bytes()),
            }
        }
        flushes.take()
    }

    #[test]
    fn the_last_transaction_counts_if_it_changed_rows() {
        for (history, expected) in [
            ("INSERT 0 1; Z", true),
            ("UPDATE 3; Z", true),
            ("DELETE 0; Z", false),
            ("INSERT 0 0; Z", false),
            ("SELECT 1; Z", false),
            ("BEGIN; UPDATE 1; SELECT 7; COMMIT; Z", true),
            ("BEGIN; SELECT 7; COMMIT; Z", false),
            ("BEGIN; UPDATE 1; ROLLBACK; Z", false),
            ("BEGIN; UPDATE 1; error; ROLLBACK; Z", false),
            ("UPDATE 1; error; Z", false),
            // One transaction, as nothing ends it in between.
            ("INSERT 0 1; SELECT 1; Z", true),
            // The second has read after the first was flushed.
            ("BEGIN; UPDATE 1; COMMIT; SELECT 1; Z", false),
            ("INSERT 0 1; Z; SELECT 1; Z", false),
            ("BEGIN; UPDATE 1; COMMIT; BEGIN; SELECT 1; COMMIT; Z", false),
            ("COMMIT PREPARED; Z", false),
        ] {
            assert_eq!(left(history).flushed, expected, "{history}");
        }
    }

    #[test]
    fn what_is_written_in_place_stays() {
        for history in [
            "VACUUM; Z",
            "BEGIN; ANALYZE; ROLLBACK; Z",
            "ANALYZE; INSERT 0 1; Z",
        ] {
            assert!(left(history).in_place, "{history}");
        }
    }
}
