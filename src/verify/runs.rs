//! A set of numbers that are mostly consecutive, as runs of them: what was acknowledged to a session.

/// Runs of consecutive numbers, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs(Vec<(i64, i64)>);

impl Runs {
    /// Adds a number that is greater than every one before.
    pub(super) fn push(&mut self, number: i64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => self.0.push((number, number)),
        }
    }

    /// The first and the last number of each run.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        self.0.iter().copied()
    }

    /// The greatest number, 0 if there is none.
    pub(super) fn last(&self) -> i64 {
        self.0.last().map_or(0, |(_, last)| *last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_end_runs() {
        let mut runs = Runs::default();
        assert_eq!(runs.last(), 0);
        for number in [1, 2, 3, 5, 9, 10] {
            runs.push(number);
        }
        let all: Vec<_> = runs.iter().collect();
        assert_eq!(all, [(1, 3), (5, 5), (9, 10)]);
        assert_eq!(runs.last(), 10);
    }
}
