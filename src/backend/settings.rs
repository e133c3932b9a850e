//! The settings that a session has chosen, and how to give them to another server connection.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use ahash::AHasher;

use crate::core::duration::duration;
use crate::core::mutant::{Rule, holds};

/// The role, which is a setting by its syntax only: it decides what may be set, and RESET ALL keeps it.
pub const ROLE: &str = "role";
const ENCODING: &str = "client_encoding";
const STRINGS: &str = "standard_conforming_strings";

/// Where names are looked for: when that changes, PostgreSQL parses a prepared statement anew, and reads its
/// constants by what is in force then (`RevalidateCachedQuery`).
const LOOKS: [&str; 3] = [ROLE, "search_path", "session_authorization"];

/// How constants are read: of a prepared statement, when it is parsed.
pub(super) const READS: [&str; 11] = [
    "array_nulls",
    "backslash_quote",
    ENCODING,
    "datestyle",
    "intervalstyle",
    "lc_monetary",
    STRINGS,
    "timezone",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmloption",
];

/// What functions give that a plan may have as constants, because somebody calls them immutable.
const SHOWS: [&str; 5] = [
    "bytea_output",
    "default_text_search_config",
    "extra_float_digits",
    "lc_numeric",
    "lc_time",
];

/// Settings whose values are lists of names, of which SET would take a literal for one name.
const NAME_LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Takes all settings away, and takes no snapshot for it.
pub(super) const RESET_ALL: &[u8] = b"RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; ";

/// The longest identifier, in bytes: of a longer one the parser drops the rest.
const LONGEST_IDENTIFIER: usize = 63;

/// How a statement is understood that was parsed under other settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reread {
    /// As it was.
    Same,
    /// By those of its Parse, wherever it is parsed.
    AsOfThen,
    /// As it would be now.
    Now,
}

/// Settings by name, each as the complete statement that makes it so, in the bytes of the session's
/// client encoding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    by_name: BTreeMap<Box<str>, Box<[u8]>>,
    /// Of names and statements.
    bytes: usize,
}

impl Settings {
    /// Remembers a `SET`.
    pub fn set(&mut self, name: &str, sql: &[u8]) {
        self.put(name, sql);
    }

    fn put(&mut self, name: &str, sql: &[u8]) {
        self.reset(name);
        self.bytes += name.len() + sql.len();
        self.by_name.insert(name.into(), sql.into());
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Remembers a setting by its value, as the server shows it.
    pub fn set_value(&mut self, name: &str, value: &[u8]) {
        if is_set_by_value(name, value) {
            let mut sql = b"SET ".to_vec();
            push_name(&mut sql, name);
            sql.extend_from_slice(b" = ");
            push_literal(&mut sql, value);
            return self.put(name, &sql);
        }
        // A query, which takes a snapshot, but takes lists and any name.
        let mut sql = b"SELECT pg_catalog.set_config(".to_vec();
        push_literal(&mut sql, name.as_bytes());
        sql.extend_from_slice(b", ");
        push_literal(&mut sql, value);
        sql.extend_from_slice(b", false)");
        self.put(name, &sql);
    }

    /// The same of a value in the database's own encoding, for which the client's may have no letters.
    pub fn set_value_of_database(&mut self, name: &str, value: &[u8]) {
        if value.is_ascii() {
            return self.set_value(name, value);
        }
        let mut sql = b"SELECT pg_catalog.set_config(".to_vec();
        push_literal(&mut sql, name.as_bytes());
        sql.extend_from_slice(b", ");
        push_bytes(&mut sql, value, "pg_catalog.getdatabaseencoding()");
        // The value itself cannot be said.
        sql.extend_from_slice(b", false) IS NULL");
        self.put(name, &sql);
    }

    /// Those of `others` as they are there.
    pub fn take_from(&mut self, others: &Self) {
        for (name, sql) in &others.by_name {
            self.put(name, sql);
        }
    }

    /// Forgets one.
    pub fn reset(&mut self, name: &str) {
        if let Some(sql) = self.by_name.remove(name) {
            self.bytes -= name.len() + sql.len();
        }
    }

    /// `RESET ALL`: the role stays.
    pub fn reset_all(&mut self) {
        self.by_name
            .retain(|name, _| &**name == ROLE && holds(Rule::ResetKeepsTheRole));
        let each = self.by_name.iter();
        self.bytes = each.map(|(name, sql)| name.len() + sql.len()).sum();
    }

    /// Whether none was chosen.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether a setting was chosen.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The statement that makes a setting so.
    pub(super) fn statement(&self, name: &str) -> Option<&[u8]> {
        self.by_name.get(name).map(|sql| &**sql)
    }

    /// The value that a setting was given, as it was written, without quotes.
    pub fn value(&self, name: &str) -> Option<String> {
        let sql = String::from_utf8_lossy(self.by_name.get(name)?).into_owned();
        let value = match sql.strip_prefix("SELECT pg_catalog.set_config(") {
            Some(arguments) => arguments.split(", ").nth(1)?.to_owned(),
            None => {
                let rest = sql.split_once('=').map(|(_, value)| value.to_owned());
                rest.or_else(|| sql.split_whitespace().nth(3).map(str::to_owned))?
            }
        };
        Some(value.trim().trim_matches('\'').to_owned())
    }

    /// A setting that is a time; none when it was not chosen.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        duration(&self.value(name)?)
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(|name| &**name)
    }

    /// What a statement means may depend on these, so that it is prepared for them alone. Zero when
    /// nothing of the kind was chosen.
    pub fn meaning(&self) -> u64 {
        let mut hasher = AHasher::default();
        let mut any = false;
        for (name, sql) in self.by_name.iter().filter(|(name, _)| has_meaning(name)) {
            any = true;
            (name, sql).hash(&mut hasher);
        }
        if any { hasher.finish() | 1 } else { 0 }
    }

    /// What constants are read by, as a hash, and by what functions give some that are called immutable.
    pub fn constants(&self) -> u64 {
        let mut hasher = AHasher::default();
        READS.map(|name| self.by_name.get(name)).hash(&mut hasher);
        SHOWS.map(|name| self.by_name.get(name)).hash(&mut hasher);
        hasher.finish()
    }

    /// Those by which a text is understood when it is parsed: where names are looked for, and how its
    /// constants are read.
    pub fn reading(&self) -> Self {
        let mut reading = Self::default();
        let deciding = |name: &str| READS.contains(&name) || LOOKS.contains(&name);
        for (name, sql) in self.by_name.iter().filter(|(name, _)| deciding(name)) {
            reading.put(name, sql);
        }
        reading
    }

    /// What becomes of a statement that was parsed under `then`, now that these are in force.
    pub fn rereads(&self, then: &Self) -> Reread {
        let differ = |names: &[&str]| {
            let differs = |name: &&str| match (self.by_name.get(*name), then.by_name.get(*name)) {
                (Some(now), Some(then)) if now != then => {
                    let list = schemas(now);
                    list.is_none() || list != schemas(then)
                }
                (now, then) => now != then,
            };
            names.iter().any(differs)
        };
        match (differ(&LOOKS), differ(&READS)) {
            (true, _) => Reread::Now,
            (false, true) => Reread::AsOfThen,
            (false, false) => Reread::Same,
        }
    }

    /// These, but with the constants' settings as they were `then`.
    pub fn with_constants_of(&self, then: &Self) -> Self {
        let mut settings = self.clone();
        for name in READS {
            match then.by_name.get(name) {
                Some(sql) => settings.put(name, sql),
                None => settings.reset(name),
            }
        }
        settings
    }

    /// The messages that turn a connection with `applied` into one with these settings, in order; none
    /// when there is nothing to do. Without knowledge of what is applied everything is reset first.
    ///
    /// What is taken away comes in a message of its own: the others are not to run under it, such as in a
    /// transaction that is SERIALIZABLE by default. So does the encoding, since it decides how the others are
    /// read. The role comes last: the settings may take a privilege that it lacks.
    pub fn sync(&self, applied: Option<&Self>) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let nothing = Self::default();
        let known = applied.unwrap_or(&nothing);
        let role_differs = known.by_name.get(ROLE) != self.by_name.get(ROLE);
        let others_differ = known
            .by_name
            .iter()
            .any(|(name, sql)| &**name != ROLE && self.by_name.get(name) != Some(sql))
            || self.by_name.keys().any(|name| !known.contains(name));
        let leave_role = known.contains(ROLE) && (role_differs || others_differ);
        let mut sql = Vec::new();
        if applied.is_none() {
            sql.extend_from_slice(RESET_ALL);
        }
        if leave_role {
            sql.extend_from_slice(b"RESET ROLE; ");
        }
        let given_up = |name: &str| !matches!(name, ROLE | STRINGS) && !self.contains(name);
        for name in known.by_name.keys().filter(|name| given_up(name)) {
            sql.extend_from_slice(b"RESET ");
            push_name(&mut sql, name);
            sql.extend_from_slice(b"; ");
        }
        if !sql.is_empty() {
            messages.push(std::mem::take(&mut sql));
        }
        if let Some(encoding) = self.by_name.get(ENCODING)
            && known.by_name.get(ENCODING) != Some(encoding)
        {
            messages.push(encoding.to_vec());
        }
        // What a text with a backslash meant when it was sent, it is to mean again.
        if known.contains(STRINGS) || self.contains(STRINGS) {
            messages.push(b"SET standard_conforming_strings = on".to_vec());
        }
        let plain = |name: &str| !matches!(name, ROLE | ENCODING | STRINGS);
        for (name, statement) in self.by_name.iter().filter(|(name, _)| plain(name)) {
            if known.by_name.get(name) != Some(statement) {
                sql.extend_from_slice(statement);
                sql.extend_from_slice(b"; ");
            }
        }
        if let Some(role) = self.by_name.get(ROLE)
            && (role_differs || leave_role || applied.is_none())
        {
            sql.extend_from_slice(role);
        }
        if !sql.is_empty() {
            messages.push(sql);
        }
        if let Some(strings) = self.by_name.get(STRINGS) {
            messages.push(strings.to_vec());
        } else if known.contains(STRINGS) {
            messages.push(b"RESET standard_conforming_strings".to_vec());
        }
        messages
    }
}

/// What a `search_path` names, as it was written or as the server has shown it; none where that cannot be
/// told: a string may have a comma in it.
fn schemas(sql: &[u8]) -> Option<Vec<&str>> {
    let text = std::str::from_utf8(sql).ok()?;
    let list = match text.strip_prefix("SELECT pg_catalog.set_config('search_path', '") {
        Some(shown) => shown.strip_suffix("', false)")?,
        None => text.split_once('=')?.1,
    };
    (!list.contains('\'')).then(|| list.split(',').map(str::trim).collect())
}

/// Whether two handles mean the same settings; nearly always answered by the pointers.
pub fn same(left: &Arc<Settings>, right: &Arc<Settings>) -> bool {
    Arc::ptr_eq(left, right) || left == right
}

/// Whether literals of a text are read by the setting of that name.
pub fn reads_literals(name: &str) -> bool {
    READS.contains(&name)
}

/// Whether constants are read by the setting of that name.
pub fn reads_constants(name: &str) -> bool {
    READS.contains(&name) || SHOWS.contains(&name)
}

/// Settings that applications change all day and that no statement's meaning or plan depends on; of the
/// others it is not asked. A custom setting is read when a statement runs.
fn has_meaning(name: &str) -> bool {
    !name.contains('.')
        && !name.starts_with("log_")
        && !matches!(
            name,
            "application_name"
                | "client_min_messages"
                | "deadlock_timeout"
                | "idle_in_transaction_session_timeout"
                | "idle_session_timeout"
                | "lock_timeout"
                | "statement_timeout"
                | "synchronous_commit"
                | "tcp_user_timeout"
                | "transaction_timeout"
        )
}

/// Whether SET with the value as a literal does what `set_config` does with it.
fn is_set_by_value(name: &str, value: &[u8]) -> bool {
    let is_plain = |part: &str| {
        let mut bytes = part.bytes();
        !part.is_empty()
            && part.len() <= LONGEST_IDENTIFIER
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    name.split('.').all(is_plain)
        && !NAME_LISTS.contains(&name)
        && (value.is_ascii() || !value.contains(&b'\\'))
}

/// A setting's name, part by part, safe to put into a statement.
fn push_name(sql: &mut Vec<u8>, name: &str) {
    for (index, part) in name.split('.').enumerate() {
        if index > 0 {
            sql.push(b'.');
        }
        sql.push(b'"');
        sql.extend(
            part.bytes()
                .flat_map(|byte| std::iter::repeat_n(byte, 1 + usize::from(byte == b'"'))),
        );
        sql.push(b'"');
    }
}

/// A value as a string literal that means the same whatever `standard_conforming_strings` is.
fn push_literal(sql: &mut Vec<u8>, value: &[u8]) {
    if value.contains(&b'\\') && !value.is_ascii() {
        // In some client encodings a backslash can be half of a character.
        return push_bytes(sql, value, "pg_catalog.current_setting('client_encoding')");
    }
    if value.contains(&b'\\') {
        sql.extend_from_slice(b" E");
    }
    sql.push(b'\'');
    for byte in value {
        if matches!(byte, b'\'' | b'\\') {
            sql.push(*byte);
        }
        sql.push(*byte);
    }
    sql.push(b'\'');
}

/// A value by its bytes, in the encoding that an expression names.
fn push_bytes(sql: &mut Vec<u8>, value: &[u8], encoding: &str) {
    sql.extend_from_slice(b"pg_catalog.convert_from(pg_catalog.decode('");
    for byte in value {
        sql.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    sql.extend_from_slice(format!("', 'hex'), {encoding})").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(wanted: &Settings, applied: Option<&Settings>) -> String {
        let messages = wanted.sync(applied);
        let parts = messages
            .iter()
            .map(|part| String::from_utf8_lossy(part).into_owned());
        parts.collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn only_what_differs_is_sent() {
        let mut wanted = Settings::default();
        wanted.set("search_path", b"SET search_path = a, b");
        wanted.set_value("application_name", b"it's\\me");
        let mut applied = Settings::default();
        assert_eq!(
            text(&wanted, Some(&applied)),
            "SET \"application_name\" =  E'it''s\\\\me'; SET search_path = a, b; "
        );
        applied.set("search_path", b"SET search_path = a, b");
        applied.set_value("work_mem", b"1MB");
        wanted.reset("application_name");
        assert_eq!(text(&wanted, Some(&applied)), "RESET \"work_mem\"; ");
        assert_eq!(text(&wanted, Some(&wanted)), "");
        assert!(
            text(&wanted, None).starts_with(
                "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL;  | SET search_path"
            )
        );
    }

    #[test]
    fn the_role_comes_last_and_the_encoding_by_itself_in_front() {
        let mut wanted = Settings::default();
        wanted.set("role", b"SET ROLE a");
        wanted.set(
            "session_replication_role",
            b"SET session_replication_role = replica",
        );
        wanted.set("client_encoding", b"SET client_encoding = latin1");
        assert_eq!(
            text(&wanted, Some(&Settings::default())),
            "SET client_encoding = latin1 | SET session_replication_role = replica; SET ROLE a"
        );
        let mut other = wanted.clone();
        other.reset("client_encoding");
        assert_eq!(
            text(&other, Some(&wanted)),
            "RESET ROLE; RESET \"client_encoding\";  | SET ROLE a"
        );
        wanted.reset_all();
        assert!(wanted.contains("role") && !wanted.contains("session_replication_role"));
        assert_eq!(text(&wanted, Some(&wanted)), "");
        assert_eq!(text(&Settings::default(), Some(&wanted)), "RESET ROLE; ");
    }

    #[test]
    fn a_value_is_found_again() {
        let mut settings = Settings::default();
        for sql in ["SET a = '7 s'", "SET a TO '7 s'", "set a to\n'7 s' "] {
            settings.set("a", sql.as_bytes());
            let expected = if sql.contains('=') { "7 s" } else { "7" };
            assert!(settings.value("a").unwrap().starts_with(expected), "{sql}");
        }
        settings.set_value("a", b"700ms");
        assert_eq!(settings.value("a").unwrap(), "700ms");
        assert_eq!(settings.duration("a"), Some(Duration::from_millis(700)));
        settings.set_value("a", b"0");
        assert_eq!(settings.duration("a"), None);
    }

    #[test]
    fn what_is_no_literal_for_set_is_left_to_set_config() {
        let long = format!("a.{}", "b".repeat(64));
        for (by_set, name, value) in [
            (true, "datestyle", "ISO, DMY"),
            (true, "work_mem", "7MB"),
            (true, "My.App_1", "it's"),
            (true, "a.b", "\u{e9}"),
            (false, "search_path", "a, \"B\""),
            (false, "temp_tablespaces", ""),
            (false, "a.b", "\\\u{e9}"),
            (false, "a..b", "x"),
            (false, "a.b c", "x"),
            (false, &long, "x"),
        ] {
            let mut settings = Settings::default();
            settings.set_value(name, value.as_bytes());
            let sql = text(&settings, Some(&Settings::default()));
            assert_eq!(sql.starts_with("SET "), by_set, "{sql}");
        }
    }

    #[test]
    fn names_cannot_break_out() {
        let mut applied = Settings::default();
        applied.set_value("x\"; drop table t", b"1");
        applied.set_value("my.Setting", b"2");
        assert_eq!(
            text(&Settings::default(), Some(&applied)),
            "RESET \"my\".\"Setting\"; RESET \"x\"\"; drop table t\"; "
        );
    }

    #[test]
    fn constants_are_as_of_parse_until_names_are_looked_for_elsewhere() {
        let mut then = Settings::default();
        then.set("datestyle", b"SET datestyle = 'ISO, DMY'");
        then.set("work_mem", b"SET work_mem = '1MB'");
        let read = then.reading();
        assert!(read.contains("datestyle") && !read.contains("work_mem"));
        let mut now = then.clone();
        now.set("work_mem", b"SET work_mem = '2MB'");
        assert_eq!(now.rereads(&read), Reread::Same);
        now.set("datestyle", b"SET datestyle = 'ISO, MDY'");
        now.set("timezone", b"SET TIME ZONE 'UTC'");
        assert_eq!(now.rereads(&read), Reread::AsOfThen);
        let as_then = now.with_constants_of(&read);
        assert_eq!(
            text(&as_then, Some(&now)),
            "RESET \"timezone\";  | SET datestyle = 'ISO, DMY'; "
        );
        now.set("search_path", b"SET search_path = a, \"B\"");
        assert_eq!(now.rereads(&read), Reread::Now);
        let read = now.reading();
        now.set_value("search_path", b"a, \"B\"");
        assert_eq!(now.rereads(&read), Reread::Same);
        now.set_value("search_path", b"\"a, B\"");
        assert_eq!(now.rereads(&read), Reread::Now);
    }

    #[test]
    fn a_statement_is_prepared_for_the_settings_that_it_depends_on() {
        let mut one = Settings::default();
        assert_eq!(one.meaning(), 0);
        one.set("statement_timeout", b"SET statement_timeout = 1");
        one.set("app.tenant", b"SET app.tenant = 1");
        assert_eq!(one.meaning(), 0);
        one.set("search_path", b"SET search_path = a");
        let mut two = one.clone();
        two.set("search_path", b"SET search_path = b");
        assert!(one.meaning() != 0 && one.meaning() != two.meaning());
    }
}
