//! What a script is: steps of several sessions, one at a time, and how it is printed.

use std::fmt;

use crate::statements::{LOOK, LOOK_BEHIND};
use crate::wire::{message, query};

/// Some sessions' steps in the order in which they are taken.
#[derive(Clone, Debug)]
pub struct Script {
    pub steps: Vec<Step>,
}

/// One thing that one session does.
#[derive(Clone, Debug)]
pub struct Step {
    pub session: usize,
    pub act: Act,
}

#[derive(Clone, Debug)]
pub enum Act {
    /// Logs in with these startup parameters.
    Connect(Vec<(String, String)>),
    /// Ends the connection, with or without a Terminate.
    Leave { politely: bool },
    /// One text of the simple protocol.
    Simple {
        statements: Vec<String>,
        copy: CopyIn,
    },
    /// Messages of the extended protocol, in one write.
    Extended {
        messages: Vec<Message>,
        copy: CopyIn,
    },
}

/// What is sent when the server asks for the data of a COPY.
#[derive(Clone, Debug, Default)]
pub struct CopyIn {
    pub lines: Vec<String>,
    pub fails: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Parse {
        name: String,
        sql: String,
    },
    Bind {
        portal: String,
        name: String,
        values: Vec<String>,
    },
    Describe {
        kind: u8,
        name: String,
    },
    Execute {
        portal: String,
        rows: u32,
    },
    Close {
        kind: u8,
        name: String,
    },
    Sync,
    Flush,
}

impl Script {
    /// How many sessions have a step.
    pub fn sessions(&self) -> usize {
        let last = self.steps.iter().map(|step| step.session).max();
        last.map_or(0, |last| last + 1)
    }

    /// The script without everything that has one of these words, to look past what is known.
    pub fn without(mut self, words: &[&str]) -> Self {
        let known = |text: &str| words.iter().any(|word| text.contains(word));
        for step in &mut self.steps {
            match &mut step.act {
                Act::Connect(options) => {
                    options.retain(|(name, value)| !known(&format!("{name}={value}")));
                }
                Act::Simple { statements, .. } => statements.retain(|text| !known(text)),
                Act::Leave { .. } | Act::Extended { .. } => {}
            }
        }
        self.steps.retain(|step| match &step.act {
            Act::Simple { statements, .. } => !statements.is_empty(),
            Act::Extended { .. } => !known(&step.act.to_string()),
            Act::Connect(_) | Act::Leave { .. } => true,
        });
        self
    }
}

impl CopyIn {
    /// The messages, in one write.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in &self.lines {
            bytes.extend(message(b'd', &[line.as_bytes(), b"\n"]));
        }
        bytes.extend(match self.fails {
            true => message(b'f', &[b"the client has changed its mind\0"]),
            false => message(b'c', &[]),
        });
        bytes
    }
}

impl Message {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Parse { sql, .. } => Some(sql),
            _ => None,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Parse { name, sql } => {
                let parts: [&[u8]; 5] = [name.as_bytes(), b"\0", sql.as_bytes(), b"\0", &[0, 0]];
                message(b'P', &parts)
            }
            Self::Bind {
                portal,
                name,
                values,
            } => {
                let mut body = [portal.as_bytes(), b"\0", name.as_bytes(), b"\0", &[0, 0]].concat();
                body.extend_from_slice(&(values.len() as u16).to_be_bytes());
                for value in values {
                    body.extend_from_slice(&(value.len() as u32).to_be_bytes());
                    body.extend_from_slice(value.as_bytes());
                }
                body.extend_from_slice(&[0, 0]);
                message(b'B', &[&body])
            }
            Self::Describe { kind, name } => message(b'D', &[&[*kind], name.as_bytes(), b"\0"]),
            Self::Execute { portal, rows } => {
                message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()])
            }
            Self::Close { kind, name } => message(b'C', &[&[*kind], name.as_bytes(), b"\0"]),
            Self::Sync => message(b'S', &[]),
            Self::Flush => message(b'H', &[]),
        }
    }
}

impl Act {
    /// What is sent for it, but for the data of a COPY.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Connect(_) | Self::Leave { .. } => Vec::new(),
            Self::Simple { statements, .. } => query(&statements.join("; ")),
            Self::Extended { messages, .. } => {
                let bytes: Vec<_> = messages.iter().map(Message::bytes).collect();
                bytes.concat()
            }
        }
    }

    /// The SQL in it.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Self::Connect(_) | Self::Leave { .. } => Vec::new(),
            Self::Simple { statements, .. } => statements.iter().map(String::as_str).collect(),
            Self::Extended { messages, .. } => messages.iter().filter_map(Message::text).collect(),
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {index:>3}  {step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}  {}", self.session, self.act)
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copied = |f: &mut fmt::Formatter<'_>, copy: &CopyIn| {
            if copy.lines.is_empty() && !copy.fails {
                return Ok(());
            }
            let end = if copy.fails { "CopyFail" } else { "CopyDone" };
            write!(f, "   <- {:?} {end}", copy.lines)
        };
        match self {
            Self::Connect(options) if options.is_empty() => f.write_str("connect"),
            Self::Connect(options) => {
                let options = options
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"));
                let options: Vec<_> = options.collect();
                write!(f, "connect with {}", options.join(", "))
            }
            Self::Leave { politely: true } => f.write_str("Terminate"),
            Self::Leave { politely: false } => f.write_str("close the socket"),
            Self::Simple { statements, copy } => {
                write!(f, "Query {}", short(&statements.join("; ")))?;
                copied(f, copy)
            }
            Self::Extended { messages, copy } => {
                let messages: Vec<_> = messages.iter().map(ToString::to_string).collect();
                f.write_str(&messages.join(" · "))?;
                copied(f, copy)
            }
        }
    }
}

/// Without what is long and always the same.
fn short(text: &str) -> String {
    let text = text.replace(LOOK, "SELECT «every setting»");
    text.replace(
        LOOK_BEHIND,
        "SELECT «locks, temporary, prepared, cursors, channels»",
    )
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse { name, sql } => write!(f, "Parse {name:?} {}", short(sql)),
            Self::Bind {
                portal,
                name,
                values,
            } => write!(f, "Bind {portal:?} of {name:?} {values:?}"),
            Self::Describe { kind, name } => {
                write!(f, "Describe {} {name:?}", char::from(*kind))
            }
            Self::Execute { portal, rows } => write!(f, "Execute {portal:?} {rows}"),
            Self::Close { kind, name } => write!(f, "Close {} {name:?}", char::from(*kind)),
            Self::Sync => f.write_str("Sync"),
            Self::Flush => f.write_str("Flush"),
        }
    }
}
