//! Connection strings of the keyword form (manual, "Connection Strings"), such as `primary_conninfo`.
//!
//! They are libpq's, and read here because tokio_postgres refuses every key that it does not know.

/// Where a server is, as a connection string has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// What is connected to, first, and the name that it has. None means a Unix socket.
    pub(crate) hosts: Vec<String>,
    pub(crate) port: u16,
}

/// Where a connection string points; none if it does not say, or names several.
pub(crate) fn address(conninfo: &str) -> Option<Address> {
    let (mut host, mut address, mut port) = (None, None, None);
    for (key, value) in pairs(conninfo) {
        match key.as_str() {
            "host" => host = Some(value),
            "hostaddr" => address = Some(value),
            "port" => port = Some(value),
            _ => {}
        }
    }
    if host.is_none() && address.is_none() && port.is_none() {
        return None;
    }
    let several = |value: &&String| value.contains(',');
    if [&host, &address, &port]
        .into_iter()
        .flatten()
        .any(|value| several(&value))
    {
        return None;
    }
    let port = port.filter(|port| !port.is_empty());
    Some(Address {
        hosts: address
            .into_iter()
            .chain(host)
            .filter(|host| !host.is_empty())
            .collect(),
        port: port.map_or(Some(5432), |port| port.parse().ok())?,
    })
}

/// The same connection string pointing to another server.
pub(crate) fn pointing(conninfo: &str, host: &str, port: u16) -> String {
    let begun = Conninfo::default()
        .with("host", host)
        .with("port", &port.to_string());
    let others = pairs(conninfo)
        .into_iter()
        .filter(|(key, _)| !["host", "hostaddr", "port"].contains(&key.as_str()));
    others
        .fold(begun, |conninfo, (key, value)| conninfo.with(&key, &value))
        .into()
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
        let address = address(&text).unwrap();
        assert_eq!((&*address.hosts[0], address.port), ("10.0.0.1", 5501));
        let values: Vec<String> = pairs(&text).into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, ["10.0.0.1", r"it's \ port=1", "5501"]);
    }

    #[test]
    fn it_points_elsewhere_with_all_else_as_it_was() {
        let text = r"user=u host=a hostaddr=10.0.0.1 passfile='/a b/it\'s' port=1";
        assert_eq!(
            pointing(text, "c", 2),
            r"host='c' port='2' user='u' passfile='/a b/it\'s'"
        );
    }

    #[test]
    fn a_connection_string_tells_where_it_points() {
        for (text, expected) in [
            (
                "host=10.0.0.1 port=5501 user=u",
                Some((&["10.0.0.1"][..], 5501)),
            ),
            ("host = 'a b' port = '1'", Some((&["a b"], 1))),
            ("user=u host=h", Some((&["h"], 5432))),
            (r"password='it\'s host=x' host=h\ h", Some((&["h h"], 5432))),
            ("host=h hostaddr=10.0.0.1", Some((&["10.0.0.1", "h"], 5432))),
            ("port=5433 user=u", Some((&[], 5433))),
            ("", None),
            ("user=u", None),
            ("host=h port=nine", None),
            ("host=a,b", None),
        ] {
            let expected = expected.map(|(hosts, port)| Address {
                hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
                port,
            });
            assert_eq!(address(text), expected, "{text}");
        }
    }
}
