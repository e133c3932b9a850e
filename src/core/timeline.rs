//! Timelines as branches: where each was left for a later one, and whether what a server holds is part
//! of another's history.

use super::lsn::{Lsn, Timeline};

/// Where a timeline ended and a later one goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimelineSwitch {
    /// The timeline that was left.
    pub timeline: Timeline,
    /// What of it is part of the later one's history ends here.
    pub end: Lsn,
}

/// The history of one timeline, oldest first. That of timeline 1 is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TimelineHistory(pub Vec<TimelineSwitch>);

/// How the WAL that a server holds stands to a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ancestry {
    /// All of it is part of that history.
    Shared,
    /// It goes on beyond the point at which the history left its timeline.
    Diverged,
    /// Its timeline is no part of that history.
    Unrelated,
    /// The history has not been read yet.
    Unknown,
}

impl TimelineHistory {
    /// Where an earlier timeline ends in this history; none if it is no part of it.
    pub fn end_of(&self, timeline: Timeline) -> Option<Lsn> {
        let mut switches = self.0.iter();
        switches
            .find(|switch| switch.timeline == timeline)
            .map(|switch| switch.end)
    }

    /// How WAL that ends at `end` of an earlier timeline stands to this history.
    pub fn ancestry(&self, timeline: Timeline, end: Lsn) -> Ancestry {
        match self.end_of(timeline) {
            None => Ancestry::Unrelated,
            Some(left) if end > left => Ancestry::Diverged,
            Some(_) => Ancestry::Shared,
        }
    }

    /// Reads a timeline history file: lines of timeline, position and reason (manual, "Timelines").
    pub fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim);
        let entries = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let switches = entries.map(|line| {
            let mut fields = line.split_whitespace();
            Some(TimelineSwitch {
                timeline: Timeline(fields.next()?.parse().ok()?),
                end: fields.next()?.parse().ok()?,
            })
        });
        switches.collect::<Option<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_gives_the_end_of_each_timeline() {
        let text =
            "1\t0/5000A38\tno recovery target specified\n\n2\t0/7000060\tbefore 2000-01-01\n";
        let history = TimelineHistory::parse(text).unwrap();
        assert_eq!(history.end_of(Timeline(1)), "0/5000A38".parse().ok());
        assert_eq!(history.end_of(Timeline(2)), "0/7000060".parse().ok());
        assert_eq!(history.end_of(Timeline(3)), None);
        assert_eq!(TimelineHistory::parse(""), Some(TimelineHistory::default()));
        assert_eq!(TimelineHistory::parse("what is this"), None);
    }

    #[test]
    fn wal_is_shared_up_to_the_point_where_its_timeline_was_left() {
        let end = Lsn(0x5000);
        let timeline = Timeline(1);
        let history = TimelineHistory(vec![TimelineSwitch { timeline, end }]);
        let ancestry = |timeline, end| history.ancestry(Timeline(timeline), Lsn(end));
        assert_eq!(ancestry(1, 0x5000), Ancestry::Shared);
        assert_eq!(ancestry(1, 0x5001), Ancestry::Diverged);
        assert_eq!(ancestry(2, 0x1000), Ancestry::Unrelated);
    }
}
