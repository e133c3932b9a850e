//! Figures as people read them.

/// Bytes with a unit, in PostgreSQL's sense: powers of two.
pub(super) fn bytes(count: Option<u64>) -> String {
    let Some(count) = count else {
        return NONE.to_owned();
    };
    let units = [("TB", 40), ("GB", 30), ("MB", 20), ("kB", 10)];
    match units.iter().find(|(_, power)| count >> power > 0) {
        Some((unit, power)) => {
            let value = count as f64 / (1_u64 << power) as f64;
            let digits = if value < 10.0 { 1 } else { 0 };
            format!("{value:.digits$} {unit}")
        }
        None => format!("{count} B"),
    }
}

/// Milliseconds with a unit that suits them.
pub(super) fn span(ms: Option<f64>) -> String {
    match ms {
        None => NONE.to_owned(),
        Some(ms) if ms < 0.0995 => format!("{:.0} us", ms * 1000.0),
        Some(ms) if ms < 9.95 => format!("{ms:.1} ms"),
        Some(ms) if ms < 9_950.0 => format!("{ms:.0} ms"),
        Some(ms) => long(ms / 1000.0),
    }
}

/// Seconds, in the largest unit of which there is at least one.
pub(super) fn long(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A count, or a rate.
pub(super) fn count(value: Option<f64>) -> String {
    match value {
        None => NONE.to_owned(),
        Some(value) if value >= 1e6 => format!("{:.1}M", value / 1e6),
        Some(value) if value >= 1e4 => format!("{:.1}k", value / 1e3),
        Some(value) if value >= 10.0 || value.fract() == 0.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.1}"),
    }
}

/// The time of day of a moment, in UTC, as logs have it.
pub(super) fn time_of_day(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000 % 86_400;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

/// Values as a line of bars, the highest at full height; `least` is what a full bar stands for at
/// least, so that noise looks like noise.
pub(super) fn bars(values: &[Option<f64>], least: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let highest = values.iter().flatten().copied().fold(least, f64::max);
    let bar = |value: &Option<f64>| match value {
        None => ' ',
        Some(value) => {
            let step = (value / highest * (BARS.len() - 1) as f64).round() as usize;
            BARS[step.min(BARS.len() - 1)]
        }
    };
    values.iter().map(bar).collect()
}

/// Where there is no figure.
pub(super) const NONE: &str = "-";
