//! Connection strings of the keyword form (manual, "Connection Strings"), such as `primary_conninfo`.
//!
//! They are libpq's, and read here because tokio_postgres refuses every key that it does not know.

/// Host and port.
pub(crate) fn address(conninfo: &str) -> Option<(String, u16)> {
    let mut host = None;
    let mut port = 5432;
    for (key, value) in pairs(conninfo) {
        match key.as_str() {
            "host" | "hostaddr" => host = Some(value),
            "port" => port = value.parse().ok()?,
            _ => {}
        }
    }
    Some((host?, port))
}

/// A connection string in the making.
#[derive(Debug, Default)]
pub(crate) struct Conninfo(String);

impl Conninfo {
    pub(crate) fn with(self, key: &str, value: &str) -> Self {
        let value = value.replace('\\', "\\\\").replace('\'', "\\'");
        self.and(&format!("{key}='{value}'"))
    }

    /// Goes on with what is written as a connection string already, or with nothing.
    pub(crate) fn and(mut self, text: &str) -> Self {
        if !self.0.is_empty() && !text.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(text);
        self
    }
}

impl From<Conninfo> for String {
    fn from(conninfo: Conninfo) -> Self {
        conninfo.0
    }
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut characters = text.chars().peekable();
    loop {
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        let mut key = String::new();
        while let Some(c) = characters.next_if(|c| !c.is_whitespace() && *c != '=') {
            key.push(c);
        }
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        if key.is_empty() || characters.next() != Some('=') {
            return found;
        }
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = characters.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        while let Some(c) = characters.next() {
            match c {
                '\\' => value.extend(characters.next()),
                '\'' if quoted => break,
                c if c.is_whitespace() && !quoted => break,
                c => value.push(c),
            }
        }
        found.push((key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let text = Conninfo::default()
            .with("host", "10.0.0.1")
            .with("password", r"it's \ port=1")
            .and("")
            .and("port=5501");
        let text = String::from(text);
        assert_eq!(
            text,
            r"host='10.0.0.1' password='it\'s \\ port=1' port=5501"
        );
        assert_eq!(address(&text), Some(("10.0.0.1".to_owned(), 5501)));
        let values: Vec<String> = pairs(&text).into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, ["10.0.0.1", r"it's \ port=1", "5501"]);
    }

    #[test]
    fn a_connection_string_tells_where_it_points() {
        for (text, expected) in [
            ("host=10.0.0.1 port=5501 user=u", Some(("10.0.0.1", 5501))),
            ("host = 'a b' port = '1'", Some(("a b", 1))),
            ("user=u host=h", Some(("h", 5432))),
            (r"password='it\'s host=x' host=h\ h", Some(("h h", 5432))),
            ("", None),
            ("user=u", None),
            ("host=h port=nine", None),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(address(text), expected, "{text}");
        }
    }
}
