//! The first packet of a client: what it asks for (manual, "Message Formats": StartupMessage).

use crate::error::{Kind, Problem};

/// PostgreSQL's own bound on the packet, in bytes (`MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_PACKET: usize = 10_000;
/// Cancel keys are at most this long under protocol 3.2, in bytes.
const MAX_CANCEL_KEY: usize = 256;

/// The newest minor version of protocol 3 that is spoken.
pub const NEWEST_MINOR: u16 = 2;

/// What a client's first packet asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Startup {
    /// To switch to TLS.
    Ssl,
    /// To switch to GSSAPI encryption.
    GssEncryption,
    /// To cancel what another connection is running.
    Cancel {
        /// The process id that BackendKeyData gave.
        process: i32,
        /// The key that came with it.
        key: Vec<u8>,
    },
    Session(Hello),
}

/// The parameters of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Minor version of protocol 3 that the client asked for.
    pub minor: u16,
    pub user: String,
    /// Database name; the user's name when none was given.
    pub database: String,
    /// Settings, in order, `options` taken apart into `-c name=value`.
    pub settings: Vec<(String, String)>,
    /// What `replication` asks for, unless it is an ordinary session.
    pub replication: Option<String>,
    /// Names of protocol extensions (`_pq_.…`) that are not known here.
    pub unknown_extensions: Vec<String>,
}

/// Decodes the packet's body: what follows its length word.
pub fn decode(body: &[u8]) -> Result<Startup, Problem> {
    let refuse = |what: &str| Problem::fatal(Kind::ProtocolViolation, what);
    let Some((code, rest)) = body.split_first_chunk::<4>() else {
        return Err(refuse("invalid length of startup packet"));
    };
    let code = u32::from_be_bytes(*code);
    match (code >> 16, code & 0xffff) {
        (1234, 5679) => Ok(Startup::Ssl),
        (1234, 5680) => Ok(Startup::GssEncryption),
        (1234, 5678) => {
            let Some((process, key)) = rest.split_first_chunk::<4>() else {
                return Err(refuse("invalid length of cancel request"));
            };
            if !(4..=MAX_CANCEL_KEY).contains(&key.len()) {
                return Err(refuse("invalid length of cancel key"));
            }
            Ok(Startup::Cancel {
                process: i32::from_be_bytes(*process),
                key: key.to_vec(),
            })
        }
        (3, minor) => session(minor as u16, rest).map(Startup::Session),
        (major, minor) => Err(Problem::fatal(
            Kind::FeatureNotSupported,
            format!("unsupported frontend protocol {major}.{minor}: causeway supports 3.0 to 3.2"),
        )),
    }
}

fn session(minor: u16, mut rest: &[u8]) -> Result<Hello, Problem> {
    let broken = || {
        Problem::fatal(
            Kind::ProtocolViolation,
            "invalid startup packet layout: expected terminator as last byte",
        )
    };
    let mut hello = Hello {
        minor,
        user: String::new(),
        database: String::new(),
        settings: Vec::new(),
        replication: None,
        unknown_extensions: Vec::new(),
    };
    loop {
        let (name, after) = string(rest).ok_or_else(broken)?;
        if name.is_empty() {
            if !after.is_empty() {
                return Err(broken());
            }
            break;
        }
        let (value, after) = string(after).ok_or_else(broken)?;
        rest = after;
        match name {
            "user" => hello.user = value.to_owned(),
            "database" => hello.database = value.to_owned(),
            "options" => hello.settings.extend(options(value)?),
            "replication" => {
                hello.replication = is_replication(value)?.then(|| value.to_owned());
            }
            _ if name.starts_with("_pq_.") => hello.unknown_extensions.push(name.to_owned()),
            _ => hello
                .settings
                .push((name.to_ascii_lowercase(), value.to_owned())),
        }
    }
    if hello.user.is_empty() {
        return Err(Problem::fatal(
            Kind::InvalidAuthorization,
            "no PostgreSQL user name specified in startup packet",
        ));
    }
    if hello.database.is_empty() {
        hello.database = hello.user.clone();
    }
    Ok(hello)
}

/// `database`, or a boolean in any of PostgreSQL's spellings.
fn is_replication(value: &str) -> Result<bool, Problem> {
    let lower = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| lower.len() >= least && word.starts_with(&lower);
    if value == "database"
        || begins("true", 1)
        || begins("yes", 1)
        || begins("on", 2)
        || lower == "1"
    {
        return Ok(true);
    }
    if begins("false", 1) || begins("no", 1) || begins("off", 2) || lower == "0" {
        return Ok(false);
    }
    let what = format!("invalid value for parameter \"replication\": \"{value}\"");
    Err(Problem::fatal(Kind::InvalidParameterValue, what)
        .with_hint("Valid values are: \"false\", 0, \"true\", 1, \"database\"."))
}

fn string(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (text, rest) = super::frame::cstr(bytes)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

/// Takes `-c name=value` and `--name=value` out of `options`, where a backslash escapes a space
/// (manual, "libpq: Parameter Key Words").
fn options(text: &str) -> Result<Vec<(String, String)>, Problem> {
    let mut words = vec![String::new()];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => words
                .last_mut()
                .into_iter()
                .for_each(|word| word.extend(letters.next())),
            ' ' | '\t' | '\n' | '\r' => words.push(String::new()),
            _ => words
                .last_mut()
                .into_iter()
                .for_each(|word| word.push(letter)),
        }
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let assignment = if word == "-c" {
            words.next().unwrap_or_default()
        } else if let Some(rest) = word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            rest.to_owned()
        } else {
            String::new()
        };
        let Some((name, value)) = assignment
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
        else {
            return Err(Problem::fatal(
                Kind::FeatureNotSupported,
                format!("option \"{word}\" in the startup packet is not supported"),
            )
            .with_hint("Use options of the form -c name=value."));
        };
        settings.push((
            name.replace('-', "_").to_ascii_lowercase(),
            value.to_owned(),
        ));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(major: u16, minor: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = major.to_be_bytes().to_vec();
        bytes.extend_from_slice(&minor.to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn a_session_with_options() {
        let body =
            b"user\0ann\0options\0-c causeway.consistency=eventual --work-mem=1MB -cx=a\\ b\0\
            application_name\0psql\0_pq_.wait\x001\0\0";
        let Ok(Startup::Session(hello)) = decode(&packet(3, 2, body)) else {
            panic!()
        };
        assert_eq!(
            (hello.user.as_str(), hello.database.as_str(), hello.minor),
            ("ann", "ann", 2)
        );
        let settings: Vec<_> = hello
            .settings
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            settings,
            [
                ("causeway.consistency", "eventual"),
                ("work_mem", "1MB"),
                ("x", "a b"),
                ("application_name", "psql")
            ]
        );
        assert_eq!(hello.unknown_extensions, ["_pq_.wait"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let fault = |bytes: &[u8]| decode(bytes).unwrap_err().kind;
        assert_eq!(fault(b"\0\x03"), Kind::ProtocolViolation);
        assert_eq!(
            fault(&packet(3, 0, b"user\0ann\0")),
            Kind::ProtocolViolation
        );
        assert_eq!(
            fault(&packet(3, 0, b"user\0ann\0\0x")),
            Kind::ProtocolViolation
        );
        assert_eq!(fault(&packet(3, 0, b"\0")), Kind::InvalidAuthorization);
        assert_eq!(fault(&packet(2, 0, b"")), Kind::FeatureNotSupported);
        assert_eq!(
            fault(&packet(3, 0, b"user\0a\0options\0-B 7\0\0")),
            Kind::FeatureNotSupported
        );
        assert_eq!(
            fault(&packet(3, 0, b"user\0a\0replication\0o\0\0")),
            Kind::InvalidParameterValue
        );
        assert_eq!(
            fault(&packet(1234, 5678, b"\0\0\0\x01abc")),
            Kind::ProtocolViolation
        );
    }

    #[test]
    fn replication_in_all_its_spellings() {
        let asked = |value: &str| {
            let body = format!("user\0a\0replication\0{value}\0\0");
            match decode(&packet(3, 0, body.as_bytes())) {
                Ok(Startup::Session(hello)) => Ok(hello.replication),
                other => Err(other),
            }
        };
        for value in ["database", "true", "T", "on", "yes", "y", "1"] {
            assert_eq!(asked(value), Ok(Some(value.to_owned())));
        }
        for value in ["false", "F", "off", "OF", "no", "n", "0"] {
            assert_eq!(asked(value), Ok(None), "{value}");
        }
        for value in ["", "o", "Database", "databases", "truest", "2"] {
            assert!(asked(value).is_err(), "{value}");
        }
    }

    #[test]
    fn requests_without_a_session() {
        assert_eq!(decode(&packet(1234, 5679, b"")), Ok(Startup::Ssl));
        assert_eq!(decode(&packet(1234, 5680, b"")), Ok(Startup::GssEncryption));
        let cancel = Startup::Cancel {
            process: 7,
            key: b"abcd".to_vec(),
        };
        assert_eq!(decode(&packet(1234, 5678, b"\0\0\0\x07abcd")), Ok(cancel));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
            let _ = decode(&packet(3, 0, &bytes));
        }
    }
}
