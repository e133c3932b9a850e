//! A file of one kind: from its path or its text to what it means, or to every fault in it.

use std::path::Path;

use super::faults::{Fault, Faults};
use super::raw;
use super::secret;
use super::section::{Read, Reader, Reported, Section};

pub(super) struct Document<T> {
    /// What a file that says nothing lacks.
    pub(super) needed: &'static str,
    pub(super) read: fn(&mut Section<'_>) -> Read<T>,
}

impl<T> Document<T> {
    /// Reads and checks a file, with the environment of this process.
    pub(super) fn load(&self, path: &Path) -> Result<T, Faults> {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let env = |variable: &str| std::env::var(variable).ok();
                let reader = Reader::new(&name, &env, secret::is_open(path));
                self.check(reader, &text)
            }
            Err(error) => Err(Faults::new(vec![Fault {
                file: name,
                line: None,
                key: String::new(),
                text: format!("cannot be read: {error}"),
            }])),
        }
    }

    /// Checks a text; `name` is its file's path, to which paths inside it are relative.
    pub(super) fn parse(
        &self,
        name: &str,
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<T, Faults> {
        self.check(Reader::new(name, env, false), text)
    }

    fn check(&self, reader: Reader<'_>, text: &str) -> Result<T, Faults> {
        let checked = match raw::read(text) {
            Ok(raw) if raw.is_nothing() => {
                let needed = self.needed;
                let text = format!("the file says nothing: it needs at least {needed}");
                Err(reader.fault(Some(1), String::new(), text))
            }
            Ok(raw) => reader.document(&raw, self.read),
            Err(error) => Err(reader.fault(Some(error.line), String::new(), error.text)),
        };
        checked.map_err(|Reported| Faults::new(reader.into_faults()))
    }
}
