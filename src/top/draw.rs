//! How the model looks: which parts find room in a window of this size, and what each is drawn as.
//! Colours only underline what words say already.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, Wrap};

use super::format::{NONE, bars, bytes, count, long, span, time_of_day};
use super::model::{Link, Model, View, Weight};
use super::status::{Node, Standing, Status, Told};

/// Below this lag in milliseconds a bar is not full.
const LEAST_LAG_MS: f64 = 5.0;

/// Lines of the part about latency.
const LATENCY_LINES: u16 = 6;

pub fn draw(frame: &mut Frame<'_>, model: &Model, now: Duration) {
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(frame, head, model, now);
    match (&model.status, model.view) {
        (Some(status), View::Overview) => overview(frame, body, model, status),
        (Some(_), View::Events) => events(frame, body, model, true),
        (None, _) => {}
    }
    let keys = "q quit   Tab events or overview   ↑ ↓ PgUp PgDn Home End scroll the events";
    frame.render_widget(Line::from(keys).dim(), foot);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, model: &Model, now: Duration) {
    let (weight, connection) = model.connection(now);
    let mut first = vec!["causeway".bold(), format!(" {}", model.address).into()];
    if let Some(status) = &model.status {
        let clients = model.point().map_or(0, |point| point.clients);
        let pinned = match status.pinned.sessions {
            0 => String::new(),
            sessions => format!(", {sessions} pinned"),
        };
        first.push(
            format!(
                "  {}, up {}, {clients} clients{pinned}",
                status.version,
                long(status.uptime_seconds)
            )
            .into(),
        );
    }
    first.push("  ".into());
    let live = matches!(model.link, Link::Live(_));
    if live || model.status.is_none() {
        first.push(Span::styled(connection.clone(), style(weight)));
    }
    // What is shown below is old while nobody answers, so that nothing else is said of it.
    let (weight, text) = if live {
        model.verdict()
    } else {
        (weight, connection)
    };
    let second = Span::styled(text, style(weight).add_modifier(Modifier::BOLD));
    let lines = vec![Line::from(first), Line::from(second)];
    frame.render_widget(Paragraph::new(lines), area);
}

/// In a low window the parts give way in this order: routes, failover, events; the nodes stay.
fn overview(frame: &mut Frame<'_>, area: Rect, model: &Model, status: &Status) {
    let nodes = u16::try_from(status.nodes.len()).unwrap_or(u16::MAX);
    let nodes_high = nodes.saturating_add(3).min(area.height.max(4));
    let standing = standing(status, usize::from(area.width.saturating_sub(4)));
    let standing_high = u16::try_from(standing.len()).unwrap_or(u16::MAX) + 2;
    let left = area.height.saturating_sub(nodes_high);
    let events_high = left.min(4);
    let left = left - events_high;
    let standing_high = if left >= standing_high {
        standing_high
    } else {
        0
    };
    let left = left - standing_high;
    let routes = u16::try_from(model.routes().len()).unwrap_or(u16::MAX);
    let wanted = routes.clamp(LATENCY_LINES, 10) + 2;
    let routes_high = if left >= 6 { left.min(wanted) } else { 0 };
    let [top, middle, bottom, last] = Layout::vertical([
        Constraint::Length(nodes_high),
        Constraint::Length(routes_high),
        Constraint::Length(standing_high),
        Constraint::Fill(1),
    ])
    .areas(area);
    draw_nodes(frame, top, model, status);
    if routes_high > 0 {
        let halves = [Constraint::Fill(1), Constraint::Fill(1)];
        let [left, right] = Layout::horizontal(halves).areas(middle);
        draw_routes(frame, left, model);
        draw_latency(frame, right, model, status);
    }
    if standing_high > 0 {
        let block = Block::bordered().title(" Failover, and what is wrong ");
        let text = Paragraph::new(standing).wrap(Wrap { trim: true });
        frame.render_widget(text.block(block), bottom);
    }
    events(frame, last, model, false);
}

fn draw_nodes(frame: &mut Frame<'_>, area: Rect, model: &Model, status: &Status) {
    let with_position = area.width >= 96;
    let names = status.nodes.iter().map(|node| node.name.chars().count());
    let longest = names.max().unwrap_or(0).clamp(4, 20) as u16;
    let mut head = vec!["node", "role", "state", "tl"];
    let mut widths = vec![longest, 7, 6, 3];
    if with_position {
        head.push("position");
        widths.push(13);
    }
    head.extend(["lag", "lag time", "stmt/s", "pool"]);
    widths.extend([8, 8, 7, 9]);
    // What the others, the gaps and the border leave.
    let taken: u16 = widths.iter().map(|wide| wide + 1).sum::<u16>() + 2;
    let bars_wide = area.width.saturating_sub(taken).min(40);
    let at = head.len() - 2;
    head.insert(at, "");
    widths.insert(at, bars_wide);
    let rows = status.nodes.iter().enumerate().map(|(index, node)| {
        let lags = bars(&model.lags(index, usize::from(bars_wide)), LEAST_LAG_MS);
        row(model, node, index, lags, with_position)
    });
    let block = Block::bordered().title(" Nodes (pool: in use/idle/waiting) ");
    let table = Table::new(rows, widths.into_iter().map(Constraint::Length))
        .header(Row::new(head).dim())
        .block(block);
    frame.render_widget(table, area);
}

fn row<'a>(
    model: &Model,
    node: &'a Node,
    index: usize,
    lags: String,
    with_position: bool,
) -> Row<'a> {
    let state = match node.state.as_str() {
        "up" => Weight::Good,
        "down" => Weight::Bad,
        _ => Weight::Warn,
    };
    let role = node.role.as_deref().unwrap_or(NONE);
    let standby = role == "standby";
    let pool = node.pool;
    let mut cells = vec![
        Cell::from(node.name.as_str()).bold(),
        Cell::from(role),
        Cell::from(Span::styled(node.state.as_str(), style(state))),
        Cell::from(node.timeline.map_or(NONE.to_owned(), |tl| tl.to_string())),
    ];
    if with_position {
        cells.push(Cell::from(node.position.as_deref().unwrap_or(NONE)));
    }
    let lag = |text: String| if standby { text } else { NONE.to_owned() };
    cells.extend([
        Cell::from(lag(bytes(node.lag_bytes))),
        Cell::from(lag(span(node.lag_ms))),
        Cell::from(lags).cyan(),
        Cell::from(count(model.node_rate(index))),
        Cell::from(format!("{}/{}/{}", pool.active, pool.idle, pool.waiting)),
    ]);
    Row::new(cells)
}

fn draw_routes(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let (standby, primary) = (model.side("standby."), model.side("primary."));
    let share = match (standby, primary) {
        (Some(standby), Some(primary)) if standby + primary > 0.0 => {
            format!("{:.0} %", 100.0 * standby / (standby + primary))
        }
        _ => NONE.to_owned(),
    };
    let title = format!(" Where statements go: {share} to standbys ");
    let routes = model.routes();
    let room = usize::from(area.height.saturating_sub(2));
    let hidden = routes.len().saturating_sub(room);
    let shown = if hidden > 0 { room - 1 } else { room };
    let mut rows: Vec<Row<'_>> = routes
        .into_iter()
        .take(shown)
        .map(|(name, rate, share)| {
            let share = share.map_or(NONE.to_owned(), |share| format!("{:.0} %", 100.0 * share));
            Row::new([name, format!("{}/s", count(rate)), share])
        })
        .collect();
    if hidden > 0 {
        rows.push(Row::new([format!("{} more", hidden + 1)]).dim());
    }
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(6),
    ];
    let table = Table::new(rows, widths).block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn draw_latency(frame: &mut Frame<'_>, area: Rect, model: &Model, status: &Status) {
    let percentiles = |name: &str, side: usize| {
        let latency = model.latency(side);
        let [p50, p95, p99] = [latency.p50, latency.p95, latency.p99].map(span);
        Line::from(format!("{name:<9}{p50:>9}{p95:>9}{p99:>9}"))
    };
    let waits = model.rate(|point| point.waits as f64);
    let waited = model.rate(|point| point.wait_seconds);
    let average = match (waits, waited) {
        (Some(waits), Some(waited)) if waits > 0.0 => {
            format!(", {} each", span(Some(1000.0 * waited / waits)))
        }
        _ => String::new(),
    };
    let prevented = model.rate(|point| point.stale_reads_prevented as f64);
    let so_far = model.point().map_or(0, |point| point.stale_reads_prevented);
    let waiting: i64 = status.nodes.iter().map(|node| node.pool.waiting).sum();
    let lines = vec![
        Line::from(format!("{:<9}{:>9}{:>9}{:>9}", "", "p50", "p95", "p99")).dim(),
        percentiles("standbys", 1),
        percentiles("primary", 0),
        Line::from(format!(
            "stale reads prevented {so_far}, {}/s",
            count(prevented)
        )),
        Line::from(format!("waits for a standby {}/s{average}", count(waits))),
        Line::from(format!("clients waiting for a connection {waiting}")),
    ];
    let block = Block::bordered().title(" Latency, and the promise ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// The lines of the part about failover, and what is wrong, in a width.
fn standing(status: &Status, wide: usize) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut more = Vec::new();
    match &status.failover {
        None => lines.push(Line::from("not configured; roles are followed")),
        Some(failover) => {
            lines.push(decision(failover));
            if !failover.why.is_empty() {
                more.push(failover.why.clone());
            }
            for (node, why) in &failover.quarantine {
                more.push(format!("{node} serves nobody: {why}"));
            }
        }
    }
    for trouble in &status.troubles {
        more.push(format!(
            "{} ({}): {}",
            trouble.node, trouble.kind, trouble.text
        ));
    }
    for text in more {
        lines.extend(wrapped(&text, wide).into_iter().map(Line::from));
    }
    lines
}

fn decision(failover: &Standing) -> Line<'_> {
    let weight = match failover.phase.as_str() {
        "steady" => Weight::Good,
        _ => Weight::Warn,
    };
    let decides = match (failover.leads, &failover.leader) {
        (true, _) => "this proxy decides".to_owned(),
        (false, Some(leader)) => format!("{leader} decides"),
        (false, None) => "another proxy decides".to_owned(),
    };
    let text = format!(
        ", epoch {}, primary {}, {}, {}, {decides}",
        failover.epoch,
        failover.primary.as_deref().unwrap_or("none"),
        failover.mode,
        failover.durability
    );
    Line::from(vec![
        Span::styled(failover.phase.as_str(), style(weight)),
        text.into(),
    ])
}

fn events(frame: &mut Frame<'_>, area: Rect, model: &Model, whole: bool) {
    let scrolled = match model.scrolled {
        0 => String::new(),
        lines => format!(", {lines} newer below"),
    };
    let block = Block::bordered().title(format!(" Events (UTC){scrolled} "));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let (room, wide) = (usize::from(inner.height), usize::from(inner.width));
    let mut lines: Vec<Line<'_>> = Vec::new();
    // From the latest in view upwards, so that the latest is always seen.
    for event in model.events.iter().rev().skip(model.scrolled) {
        if lines.len() >= room {
            break;
        }
        lines.extend(told(event, wide, whole).into_iter().rev());
    }
    lines.truncate(room);
    lines.reverse();
    if model.events.is_empty() {
        lines.push(Line::from("nothing so far").dim());
    }
    frame.render_widget(Text::from(lines), inner);
}

fn told(event: &Told, wide: usize, whole: bool) -> Vec<Line<'static>> {
    let weight = match event.kind.as_str() {
        "primary_failed" | "impostor" => style(Weight::Bad),
        "quarantined" | "fenced" | "called_off" | "request_refused" => style(Weight::Warn),
        "promoted" | "primary_found" | "rejoined" | "restored" | "request_done" => {
            style(Weight::Good)
        }
        _ => Style::new(),
    };
    let kind = event.kind.replace('_', " ");
    let time = time_of_day(event.at_ms);
    let indent = 27;
    if !whole || wide < 2 * indent {
        return vec![Line::from(vec![
            format!("{time} ").into(),
            Span::styled(format!("{kind:<16} "), weight),
            event.text.clone().into(),
        ])];
    }
    let mut parts = wrapped(&event.text, wide - indent).into_iter();
    let mut lines = vec![Line::from(vec![
        format!("{time}  ").into(),
        Span::styled(format!("{kind:<16} "), weight),
        parts.next().unwrap_or_default().into(),
    ])];
    lines.extend(parts.map(|part| Line::from(format!("{:indent$}{part}", ""))));
    lines
}

/// A text in lines of at most so many characters, broken between words where that is possible.
fn wrapped(text: &str, wide: usize) -> Vec<String> {
    let wide = wide.max(1);
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        if length > 0 && length + 1 + word.len() > wide {
            lines.push(String::new());
            length = 0;
        }
        while word.len() > wide {
            let rest = word.split_off(wide);
            if let Some(line) = lines.last_mut() {
                line.extend(word);
            }
            lines.push(String::new());
            word = rest;
        }
        if let Some(line) = lines.last_mut() {
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            length += word.len();
            line.extend(word);
        }
    }
    lines
}

fn style(weight: Weight) -> Style {
    Style::new().fg(match weight {
        Weight::Good => Color::Green,
        Weight::Warn => Color::Yellow,
        Weight::Bad => Color::Red,
    })
}
