//! Settings until the end of a transaction, one by one: in the middle of a pipeline nothing else can be
//! made and taken back.

use super::settings::{READS, Settings};

/// Statements of the extended protocol, each by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locally {
    /// They make settings.
    pub make: Vec<Vec<u8>>,
    /// They bring back what was in force.
    pub restore: Vec<Vec<u8>>,
}

impl Locally {
    /// What constants are read by is to be as it was `then`, and after that as it is `now`.
    pub fn constants(then: &Settings, now: &Settings) -> Self {
        let differs = |name: &&str| then.statement(name) != now.statement(name);
        let names: Vec<_> = READS.into_iter().filter(differs).collect();
        let each = |settings: &Settings| {
            let statements = names.iter().map(|name| local(settings, name));
            statements.collect()
        };
        Self {
            make: each(then),
            restore: each(now),
        }
    }
}

fn local(settings: &Settings, name: &str) -> Vec<u8> {
    let Some(sql) = settings.statement(name) else {
        return format!("SET LOCAL {name} TO DEFAULT").into_bytes();
    };
    let (call, shown) = match sql.strip_suffix(b" IS NULL") {
        Some(call) => (call, &b" IS NULL"[..]),
        None => (sql, &b""[..]),
    };
    if let Some(call) = call.strip_suffix(b", false)") {
        return [call, b", true)", shown].concat();
    }
    let mut rest = sql.get(4..).unwrap_or_default();
    const SESSION: &[u8] = b"SESSION ";
    if let Some((word, behind)) = rest.split_at_checked(SESSION.len())
        && word.eq_ignore_ascii_case(SESSION)
    {
        rest = behind;
    }
    [b"SET LOCAL ", rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_made_and_taken_back() {
        let (mut then, mut now) = (Settings::default(), Settings::default());
        then.set("datestyle", b"SET SESSION datestyle = DMY");
        then.set("timezone", b"SET TIME ZONE 'UTC'");
        then.set("work_mem", b"SET work_mem = '1MB'");
        now.set("timezone", b"SET TIME ZONE 'UTC'");
        now.set("xmloption", b"set xmloption to document");
        let locally = Locally::constants(&then, &now);
        assert_eq!(
            locally.make,
            [
                &b"SET LOCAL datestyle = DMY"[..],
                b"SET LOCAL xmloption TO DEFAULT"
            ]
        );
        assert_eq!(
            locally.restore,
            [
                &b"SET LOCAL datestyle TO DEFAULT"[..],
                b"SET LOCAL xmloption to document"
            ]
        );
        now.set_value("datestyle", b"a\\\xc3\xa9");
        let locally = Locally::constants(&then, &now);
        assert!(locally.restore[0].starts_with(b"SELECT pg_catalog.set_config('datestyle', "));
        assert!(locally.restore[0].ends_with(b", true)"));
        now.set_value_of_database("datestyle", b"\xd0\xb6");
        let locally = Locally::constants(&then, &now);
        assert_eq!(
            String::from_utf8_lossy(&locally.restore[0]),
            "SELECT pg_catalog.set_config('datestyle', pg_catalog.convert_from(pg_catalog.decode('d0b6', 'hex'), \
             pg_catalog.getdatabaseencoding()), true) IS NULL"
        );
    }
}
