//! Where timelines fork: which part of an earlier timeline the present one goes on from.

use super::lsn::{Lsn, Timeline};

/// The end of one timeline in the history of a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The timeline that was left.
    pub timeline: Timeline,
    /// What of it is part of the later one's history ends here.
    pub end: Lsn,
}

/// The history of one timeline, oldest first. That of timeline 1 is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(pub Vec<Fork>);

impl History {
    /// Where an earlier timeline ends in this history; none if it is no part of it.
    pub fn end_of(&self, timeline: Timeline) -> Option<Lsn> {
        let mut forks = self.0.iter();
        forks
            .find(|fork| fork.timeline == timeline)
            .map(|fork| fork.end)
    }

    /// Reads a timeline history file: lines of timeline, position and reason (manual, "Timelines").
    pub fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim);
        let entries = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let forks = entries.map(|line| {
            let mut fields = line.split_whitespace();
            Some(Fork {
                timeline: Timeline(fields.next()?.parse().ok()?),
                end: fields.next()?.parse().ok()?,
            })
        });
        forks.collect::<Option<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_gives_the_end_of_each_timeline() {
        let text =
            "1\t0/5000A38\tno recovery target specified\n\n2\t0/7000060\tbefore 2000-01-01\n";
        let history = History::parse(text).unwrap();
        assert_eq!(history.end_of(Timeline(1)), "0/5000A38".parse().ok());
        assert_eq!(history.end_of(Timeline(2)), "0/7000060".parse().ok());
        assert_eq!(history.end_of(Timeline(3)), None);
        assert_eq!(History::parse(""), Some(History::default()));
        assert_eq!(History::parse("what is this"), None);
    }
}
