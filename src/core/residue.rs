//! What is left on a server connection: the question that tells it, and its answer.
//!
//! Asked after something ran of which the text does not tell what it leaves: a function that sets
//! configuration, DO, CALL, a text that was not examined. `pg_settings` does not show custom settings
//! (those with a dot in their names), which are therefore asked for by name.

use std::fmt;

use super::duration::same;
use super::statement::PinReason;

/// Reasons for a pin, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u16);

impl Pins {
    /// Adds one.
    pub fn insert(&mut self, reason: PinReason) {
        self.0 |= 1 << reason as u16;
    }

    /// Takes one away.
    pub fn remove(&mut self, reason: PinReason) {
        self.0 &= !(1 << reason as u16);
    }

    /// Whether it is there.
    pub fn contains(self, reason: PinReason) -> bool {
        self.0 & 1 << reason as u16 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether any of them can end without the session's doing, which the server can be asked for.
    pub fn may_have_ended(self) -> bool {
        ASKED.iter().any(|reason| self.contains(*reason))
    }

    /// Whether something is left that ends with the server process alone, whatever is discarded.
    pub fn stay_in_process(self) -> bool {
        PinReason::ALL
            .into_iter()
            .any(|reason| reason.stays_in_process() && self.contains(reason))
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = PinReason> {
        PinReason::ALL
            .into_iter()
            .filter(move |reason| self.contains(*reason))
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, reason) in self.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{}", reason.label())?;
        }
        Ok(())
    }
}

/// What the server can be asked for; the others stay until DISCARD ALL, or for good.
const ASKED: [PinReason; 7] = [
    PinReason::Unanswered,
    PinReason::Listen,
    PinReason::TemporaryObject,
    PinReason::SqlPrepare,
    PinReason::HoldCursor,
    PinReason::AdvisoryLock,
    PinReason::Authorization,
];

/// What a server connection was found to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Residue {
    /// Settings that the session has made, each as the server shows it, in the client's encoding.
    pub settings: Vec<(Box<str>, Box<[u8]>)>,
    /// The role in force; none for the login role.
    pub role: Option<Box<[u8]>>,
    /// What keeps the session on this connection.
    pub pins: Pins,
    /// What it listens to, in the client's encoding; also among the pins.
    pub channels: Vec<Box<[u8]>>,
    /// `idle_session_timeout` in force.
    pub silence: Option<Box<str>>,
    /// How many statements of the protocol the server knows by a name.
    pub statements: Option<usize>,
    /// Values and names are in the database's encoding, and not in the client's.
    pub raw: bool,
}

/// What is in force for a statement of our own, whatever the session has set for its own: nobody's lock is waited
/// for longer than a client can be let wait, and the server gives up before we do.
const OWN: [(&str, &str); 2] = [("lock_timeout", "250ms"), ("statement_timeout", "4s")];
/// No conversion at all.
const RAW: (&str, &str) = ("client_encoding", "SQL_ASCII");

/// A row of the answer: what it tells, of what, and its value.
type Row = Vec<Option<Box<[u8]>>>;

impl Residue {
    /// The question. `names` are custom settings that the connection may hold.
    pub fn question<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
        // Who logged in is told by the server's activity alone, once `session_user` was changed. What is in
        // the temporary schema, of whatever kind, depends on it, as a row of pg_namespace (class 2615);
        // DISCARD TEMP goes by the same.
        let mut sql = String::from(
            "SELECT CASE WHEN name OPERATOR(pg_catalog.=) ANY ('{lock_timeout,statement_timeout}'::pg_catalog.text[]) THEN 'default' \
             WHEN pg_catalog.octet_length(v) OPERATOR(pg_catalog.>) 30000 THEN 'long' \
             WHEN (context OPERATOR(pg_catalog.=) 'superuser') AND NOT pg_catalog.current_setting('is_superuser')::pg_catalog.bool \
             THEN 'fixed' ELSE 'setting' END, name, pg_catalog.left(v, 30000) \
             FROM (SELECT name, context, CASE WHEN name OPERATOR(pg_catalog.=) ANY ('{lock_timeout,statement_timeout}'::pg_catalog.text[]) \
             THEN reset_val ELSE pg_catalog.current_setting(name) END FROM pg_catalog.pg_settings \
             WHERE (source OPERATOR(pg_catalog.=) 'session') AND NOT (name \
             OPERATOR(pg_catalog.=) ANY ('{transaction_isolation,transaction_read_only,transaction_deferrable}'::pg_catalog.text[]))) \
             s(name, context, v) \
             UNION ALL SELECT 'role', '', pg_catalog.current_setting('role') \
             UNION ALL SELECT 'silence', '', pg_catalog.current_setting('idle_session_timeout', true) \
             UNION ALL SELECT 'authorization', '', '' WHERE session_user OPERATOR(pg_catalog.<>) (SELECT r.rolname \
             FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a \
             JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) a.usesysid) \
             UNION ALL SELECT 'lock', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_lock_status() \
             WHERE (locktype OPERATOR(pg_catalog.=) 'advisory') AND (pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())) \
             UNION ALL SELECT 'temporary', '', '' WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND \
             EXISTS (SELECT FROM pg_catalog.pg_depend WHERE (refclassid OPERATOR(pg_catalog.=) 2615) \
             AND (refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())) \
             UNION ALL SELECT 'cursor', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
             UNION ALL SELECT 'channel', '', channel FROM pg_catalog.pg_listening_channels() channel \
             UNION ALL SELECT 'prepared', pg_catalog.bool_or(from_sql)::pg_catalog.text, \
             pg_catalog.count(*) FILTER (WHERE NOT from_sql)::pg_catalog.text FROM pg_catalog.pg_prepared_statements",
        );
        for name in names {
            let name = name.replace('\'', "''").replace('\\', "\\\\");
            sql.push_str(
                " UNION ALL SELECT CASE WHEN pg_catalog.octet_length(v) OPERATOR(pg_catalog.>) 30000 \
                 THEN 'long' ELSE 'custom' END, E'",
            );
            sql.push_str(&name);
            sql.push_str("', pg_catalog.left(v, 30000) FROM (SELECT pg_catalog.current_setting(E'");
            sql.push_str(&name);
            sql.push_str("', true)) s(v)");
        }
        sql
    }

    /// The question as it is put: what it is put under counts for nothing else, and what the session has set
    /// instead is shown first. `raw`, the answer is in the database's encoding.
    pub fn put(question: &str, raw: bool) -> String {
        let own = || OWN.iter().chain(raw.then_some(&RAW));
        let shown: String = own().map(|(name, _)| format!("SHOW {name}; ")).collect();
        undisturbed(&shown, own(), question)
    }

    /// A statement of our own that the session's settings are not to disturb.
    pub fn aside(sql: &str) -> String {
        undisturbed("", OWN.iter(), sql)
    }

    /// The answer. A row that makes no sense is passed over.
    pub fn read(rows: &[Row]) -> Self {
        let mut residue = Self::default();
        let mut shown = Vec::new();
        for row in rows {
            if let [Some(value)] = row.as_slice() {
                shown.push(String::from_utf8_lossy(value).into_owned());
                continue;
            }
            let field = |at: usize| row.get(at).and_then(Option::as_deref);
            let (Some(kind), Some(value)) = (field(0), field(2)) else {
                continue;
            };
            // The server shows some names with capitals (`DateStyle`); by what a SET says they are the same.
            let name = || {
                std::str::from_utf8(field(1).unwrap_or_default())
                    .map(|name| Box::from(name.to_ascii_lowercase()))
            };
            match kind {
                b"setting" | b"fixed" | b"custom" => {
                    let Ok(name) = name() else { continue };
                    if kind == b"fixed" {
                        residue.pins.insert(PinReason::Settings);
                    }
                    // A custom setting that was reset shows nothing, as one that was never made.
                    if kind != b"custom" || !value.is_empty() {
                        residue.settings.push((name, value.into()));
                    }
                }
                b"role" if value != b"none" => residue.role = Some(value.into()),
                // What is longer than a message that is looked at whole stays where it is.
                b"long" => residue.pins.insert(PinReason::Settings),
                b"default" => {
                    let Ok(name) = name() else { continue };
                    let mut own = OWN.iter().zip(&shown);
                    let set = own.find(|((own, _), _)| **own == *name);
                    if let Some((_, set)) = set.filter(|(_, set)| !same(set, &text(value))) {
                        residue.settings.push((name, set.as_bytes().into()));
                    }
                }
                b"silence" => residue.silence = std::str::from_utf8(value).ok().map(Box::from),
                b"authorization" => residue.pins.insert(PinReason::Authorization),
                b"lock" => residue.pins.insert(PinReason::AdvisoryLock),
                b"temporary" => residue.pins.insert(PinReason::TemporaryObject),
                b"cursor" => residue.pins.insert(PinReason::HoldCursor),
                b"channel" => {
                    residue.pins.insert(PinReason::Listen);
                    residue.channels.push(value.into());
                }
                b"prepared" => {
                    if field(1) == Some(b"true") {
                        residue.pins.insert(PinReason::SqlPrepare);
                    }
                    let count = std::str::from_utf8(value).ok();
                    residue.statements = count.and_then(|count| count.parse().ok());
                }
                _ => {}
            }
        }
        if let Some(encoding) = shown.get(OWN.len()) {
            residue.raw = true;
            // What was found behind it is that of the question alone.
            residue.settings.retain(|(name, _)| &**name != RAW.0);
            residue
                .settings
                .push((RAW.0.into(), encoding.as_bytes().into()));
        }
        residue
    }

    /// The pins of a session that had `before`: what was asked for is as it was found, the rest stays.
    pub fn pins_after(&self, before: Pins) -> Pins {
        let mut pins = before;
        for reason in ASKED {
            pins.remove(reason);
        }
        for reason in self.pins.iter() {
            pins.insert(reason);
        }
        pins
    }
}

/// In a transaction that waits for no others to end, and reads what is there now.
fn undisturbed<'a>(
    before: &str,
    own: impl Iterator<Item = &'a (&'a str, &'a str)>,
    sql: &str,
) -> String {
    let set: String = own
        .map(|(name, value)| format!("SET LOCAL {name} = '{value}'; "))
        .collect();
    format!("SET TRANSACTION ISOLATION LEVEL READ COMMITTED; {before}{set}{sql}")
}

fn text(value: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: &str, name: &str, value: Option<&str>) -> Row {
        [Some(kind), Some(name), value]
            .map(|field| field.map(|text| Box::from(text.as_bytes())))
            .into()
    }

    #[test]
    fn an_answer_tells_settings_role_and_pins() {
        let rows = [
            row("setting", "work_mem", Some("7MB")),
            row("setting", "DateStyle", Some("ISO, MDY")),
            row("fixed", "log_statement", Some("all")),
            row("custom", "app.tenant", Some("a")),
            row("custom", "app.none", None),
            row("custom", "app.reset", Some("")),
            row("role", "", Some("none")),
            row("lock", "", Some("")),
            row("prepared", "false", Some("3")),
            row("channel", "", Some("ch")),
            row("long", "app.long", Some("x")),
            row("nonsense", "", Some("")),
            Row::new(),
        ];
        let residue = Residue::read(&rows);
        let names: Vec<_> = residue.settings.iter().map(|(name, _)| &**name).collect();
        assert_eq!(
            names,
            ["work_mem", "datestyle", "log_statement", "app.tenant"]
        );
        assert_eq!(residue.role, None);
        let pins: Vec<_> = residue.pins.iter().collect();
        assert_eq!(
            pins,
            [
                PinReason::Listen,
                PinReason::AdvisoryLock,
                PinReason::Settings
            ]
        );
        assert_eq!(residue.pins.to_string(), "listen,advisory_lock,setting");
        assert_eq!(residue.channels, [Box::from(&b"ch"[..])]);
        assert_eq!(residue.statements, Some(3));
        let in_sql = Residue::read(&[row("prepared", "true", Some("0"))]);
        assert!(in_sql.pins.contains(PinReason::SqlPrepare));
    }

    #[test]
    fn what_the_question_is_put_under_is_not_what_the_session_has_set() {
        let shown = |value: &str| vec![Some(Box::from(value.as_bytes()))];
        let found = |rows: &[Row]| {
            let residue = Residue::read(rows);
            let settings = residue.settings.iter();
            let text = |(name, value): &(Box<str>, Box<[u8]>)| {
                format!("{name}={}", String::from_utf8_lossy(value))
            };
            (
                settings.map(text).collect::<Vec<_>>().join(","),
                residue.raw,
            )
        };
        let defaults = [
            row("default", "lock_timeout", Some("90000")),
            row("default", "statement_timeout", Some("0")),
            row("setting", "client_encoding", Some("SQL_ASCII")),
        ];
        let rows = [&[shown("90s"), shown("0")], &defaults[..2]].concat();
        assert_eq!(found(&rows), (String::new(), false));
        let rows = [&[shown("0"), shown("7ms"), shown("LATIN1")], &defaults[..]].concat();
        let expected = "lock_timeout=0,statement_timeout=7ms,client_encoding=LATIN1";
        assert_eq!(found(&rows), (expected.to_owned(), true));
        assert_eq!(
            Residue::put("q", true),
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; \
             SHOW lock_timeout; SHOW statement_timeout; SHOW client_encoding; \
             SET LOCAL lock_timeout = '250ms'; SET LOCAL statement_timeout = '4s'; \
             SET LOCAL client_encoding = 'SQL_ASCII'; q"
        );
    }

    #[test]
    fn what_cannot_be_asked_for_stays() {
        let mut before = Pins::default();
        before.insert(PinReason::Library);
        before.insert(PinReason::Listen);
        let after = Residue::default().pins_after(before);
        assert!(after.contains(PinReason::Library) && !after.contains(PinReason::Listen));
    }

    #[test]
    fn names_cannot_break_out_of_the_question() {
        let sql = Residue::question(["a.b", "x'y\\"]);
        assert!(sql.ends_with("(SELECT pg_catalog.current_setting(E'x''y\\\\', true)) s(v)"));
    }
}
