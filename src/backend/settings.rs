//! The settings that a session has chosen, and how to give them to another server connection.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Settings by name, each as the complete `SET` statement that makes it so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    by_name: BTreeMap<Box<str>, Box<str>>,
}

impl Settings {
    /// Remembers a `SET`.
    pub fn set(&mut self, name: &str, sql: &str) {
        self.by_name.insert(name.into(), sql.into());
    }

    /// Remembers a setting by its value.
    pub fn set_value(&mut self, name: &str, value: &str) {
        self.set(
            name,
            &format!("SET {} TO {}", quote_name(name), quote_literal(value)),
        );
    }

    /// Forgets one.
    pub fn reset(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    /// Takes one over from `initial`; true when there was one.
    pub fn restore(&mut self, name: &str, initial: &Self) -> bool {
        match initial.by_name.get(name) {
            Some(sql) => self.by_name.insert(name.into(), sql.clone()).is_none(),
            None => false,
        }
    }

    /// Whether a setting was chosen.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The statements that turn a connection with `applied` into one with these settings, or an
    /// empty text. Without knowledge of what is applied everything is reset first.
    pub fn sync_sql(&self, applied: Option<&Self>) -> String {
        let mut sql = String::new();
        let nothing = Self::default();
        let applied = match applied {
            Some(applied) => applied,
            None => {
                sql.push_str("RESET ROLE; RESET ALL; ");
                &nothing
            }
        };
        for name in applied.by_name.keys().filter(|name| !self.contains(name)) {
            let _ = write!(sql, "RESET {}; ", quote_name(name));
        }
        for (name, statement) in &self.by_name {
            if applied.by_name.get(name) != Some(statement) {
                let _ = write!(sql, "{statement}; ");
            }
        }
        sql
    }
}

/// Whether two handles mean the same settings; nearly always answered by the pointers.
pub fn same(left: &Arc<Settings>, right: &Arc<Settings>) -> bool {
    Arc::ptr_eq(left, right) || left == right
}

/// A setting's name, part by part, safe to put into a statement.
fn quote_name(name: &str) -> String {
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && !part.as_bytes()[0].is_ascii_digit()
    };
    let quoted = |part: &str| format!("\"{}\"", part.replace('"', "\"\""));
    name.split('.')
        .map(|part| {
            if plain(part) && part != "all" {
                part.to_owned()
            } else {
                quoted(part)
            }
        })
        .collect::<Vec<_>>()
        .join(".")
}

/// A value as a string literal that means the same whatever `standard_conforming_strings` is.
fn quote_literal(value: &str) -> String {
    let doubled = value.replace('\'', "''");
    if doubled.contains('\\') {
        format!(" E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_sent() {
        let mut wanted = Settings::default();
        wanted.set("search_path", "SET search_path = a, b");
        wanted.set_value("application_name", "it's\\me");
        let mut applied = Settings::default();
        assert_eq!(
            wanted.sync_sql(Some(&applied)),
            "SET application_name TO  E'it''s\\\\me'; SET search_path = a, b; "
        );
        applied.set("search_path", "SET search_path = a, b");
        applied.set_value("work_mem", "1MB");
        wanted.reset("application_name");
        assert_eq!(wanted.sync_sql(Some(&applied)), "RESET work_mem; ");
        assert_eq!(wanted.sync_sql(Some(&wanted)), "");
        assert!(
            wanted
                .sync_sql(None)
                .starts_with("RESET ROLE; RESET ALL; SET search_path")
        );
    }

    #[test]
    fn names_cannot_break_out() {
        let mut wanted = Settings::default();
        wanted.set_value("x; drop table t", "1");
        wanted.set_value("my.Setting", "2");
        let sql = wanted.sync_sql(Some(&Settings::default()));
        assert_eq!(
            sql,
            "SET my.\"Setting\" TO '2'; SET \"x; drop table t\" TO '1'; "
        );
    }
}
