//! Reading a section key by key: what is asked for is what is known, and every fault is noted.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use super::faults::{Fault, nearest};
use super::raw::{Content, Entry, Raw};
use super::secret::{self, Secret};

/// The fault has been noted already; whoever meets this has nothing to add.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reported;

/// A value, or a fault that has been noted.
pub(super) type Read<T> = Result<T, Reported>;

/// Where faults gather, and what values may refer to.
pub(super) struct Reader<'a> {
    file: &'a str,
    env: &'a dyn Fn(&str) -> Option<String>,
    faults: RefCell<Vec<Fault>>,
    is_open: bool,
    /// A secret stands in the file itself.
    holds_secrets: Cell<bool>,
}

impl<'a> Reader<'a> {
    /// `is_open` when everybody on the machine can read the file.
    pub(super) fn new(
        file: &'a str,
        env: &'a dyn Fn(&str) -> Option<String>,
        is_open: bool,
    ) -> Self {
        Self {
            file,
            env,
            is_open,
            faults: RefCell::default(),
            holds_secrets: Cell::default(),
        }
    }

    pub(super) fn fault(&self, line: Option<usize>, key: String, text: String) -> Reported {
        let file = self.file.to_owned();
        self.faults.borrow_mut().push(Fault {
            file,
            line,
            key,
            text,
        });
        Reported
    }

    /// Reads the whole document as one section.
    pub(super) fn document<T>(
        &self,
        raw: &Raw,
        read: impl FnOnce(&mut Section<'_>) -> Read<T>,
    ) -> Read<T> {
        Section::open(self, String::new(), raw)?.read(read)
    }

    pub(super) fn into_faults(self) -> Vec<Fault> {
        self.faults.into_inner()
    }

    /// Paths in the file are relative to the file.
    fn resolve(&self, path: &str) -> PathBuf {
        let directory = Path::new(self.file).parent().unwrap_or(Path::new(""));
        directory.join(path)
    }
}

/// A mapping that is being read.
pub(super) struct Section<'a> {
    reader: &'a Reader<'a>,
    path: String,
    line: usize,
    entries: &'a [Entry],
    known: Vec<&'static str>,
}

/// A secret and the key that gave it.
pub(super) struct GivenSecret {
    pub(super) secret: Secret,
    pub(super) key: &'static str,
}

impl<'a> Section<'a> {
    fn open(reader: &'a Reader<'a>, path: String, raw: &'a Raw) -> Read<Self> {
        let entries = match &raw.content {
            Content::Map(entries) => entries.as_slice(),
            // A section with every line commented out.
            Content::Nothing => &[],
            other => {
                let text = format!("must be a mapping of keys to values, not {}", kind(other));
                return Err(reader.fault(Some(raw.line), path, text));
            }
        };
        Ok(Self {
            reader,
            path,
            line: raw.line,
            entries,
            known: Vec::new(),
        })
    }

    /// Speaks of the line of the section's key rather than of the first line inside.
    fn at(self, entry: &Entry) -> Self {
        Self {
            line: entry.line,
            ..self
        }
    }

    /// Reads the section, then refuses what was not asked for and what is there twice.
    fn read<T>(mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        let value = read(&mut self);
        let repeated = self.refuse_repeated();
        let unknown: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|entry| !self.known.contains(&entry.key.as_str()))
            .collect();
        for entry in &unknown {
            let hint = match nearest(&entry.key, &self.known) {
                Some(known) => format!("; did you mean `{known}`?"),
                None => ";".to_owned(),
            };
            let text = format!(
                "unknown key `{}`{hint} valid keys: {}",
                entry.key.escape_debug(),
                self.known.join(", "),
            );
            self.reader
                .fault(Some(entry.line), self.path_of(&entry.key), text);
        }
        if repeated || !unknown.is_empty() {
            return Err(Reported);
        }
        value
    }

    fn refuse_repeated(&self) -> bool {
        let mut found = false;
        for (index, entry) in self.entries.iter().enumerate() {
            let earlier = self
                .entries
                .iter()
                .take(index)
                .find(|other| other.key == entry.key);
            if let Some(earlier) = earlier {
                let text = format!("given twice; first on line {}: remove one", earlier.line);
                self.reader
                    .fault(Some(entry.line), self.path_of(&entry.key), text);
                found = true;
            }
        }
        found
    }

    fn path_of(&self, key: &str) -> String {
        let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let key = if !key.is_empty() && key.chars().all(plain) {
            key.to_owned()
        } else {
            format!("\"{}\"", key.escape_debug())
        };
        if self.path.is_empty() {
            key
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn entry(&mut self, key: &'static str) -> Option<&'a Entry> {
        self.known.push(key);
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The line of a key, or of its section where the key is not given.
    pub(super) fn line_of(&self, key: &str) -> usize {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        entry.map_or(self.line, |entry| match entry.value.content {
            Content::Text(_) => entry.value.line,
            _ => entry.line,
        })
    }

    /// Notes a fault of one of this section's keys.
    pub(super) fn fault(&self, key: &str, text: impl Into<String>) -> Reported {
        self.reader
            .fault(Some(self.line_of(key)), self.path_of(key), text.into())
    }

    /// A section inside; one that is not given is read as an empty one.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Self) -> Read<T>,
    ) -> Read<T> {
        let path = self.path_of(key);
        match self.entry(key) {
            Some(entry) => Section::open(self.reader, path, &entry.value)?
                .at(entry)
                .read(read),
            None => {
                let (reader, line) = (self.reader, self.line);
                Section {
                    reader,
                    path,
                    line,
                    entries: &[],
                    known: Vec::new(),
                }
                .read(read)
            }
        }
    }

    /// A section inside; none if it is not given.
    pub(super) fn optional_section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Self) -> Read<T>,
    ) -> Read<Option<T>> {
        if self.has(key) {
            return self.section(key, read).map(Some);
        }
        self.known.push(key);
        Ok(None)
    }

    /// Whether a key is there, whatever its value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Makes a key known without reading it.
    pub(super) fn known(&mut self, key: &'static str) {
        self.known.push(key);
    }

    /// A list of texts, at least one.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Read<Vec<T>> {
        let items = match self.entry(key).map(|entry| &entry.value.content) {
            Some(Content::List(items)) if !items.is_empty() => items,
            Some(Content::List(_) | Content::Nothing) | None => {
                return Err(self.fault(key, "missing: name at least one"));
            }
            Some(other) => {
                let text = format!("must be a list, such as [a, b], not {}", kind(other));
                return Err(self.fault(key, text));
            }
        };
        let mut values = Vec::new();
        let mut faulty = false;
        for (index, item) in items.iter().enumerate() {
            let fault = |text| {
                let path = format!("{}[{index}]", self.path_of(key));
                self.reader.fault(Some(item.line), path, text)
            };
            let Content::Text(written) = &item.content else {
                fault(format!("must be one value, not {}", kind(&item.content)));
                faulty = true;
                continue;
            };
            let filled = secret::fill_in(written, self.reader.env);
            let explain = |text| format!("{text}, not {}", shown(written));
            match filled.and_then(|text| parse(&text).map_err(explain)) {
                Ok(value) => values.push(value),
                Err(text) => {
                    fault(text);
                    faulty = true;
                }
            }
        }
        if faulty { Err(Reported) } else { Ok(values) }
    }

    /// The path of a file, relative to the configuration's.
    pub(super) fn path(&mut self, key: &'static str) -> Read<Option<PathBuf>> {
        let given = self.optional(key, |text| {
            let some = (!text.is_empty()).then(|| text.to_owned());
            some.ok_or_else(|| "must be the path of a file".to_owned())
        })?;
        Ok(given.map(|path| self.reader.resolve(&path)))
    }

    /// The configuration's own path.
    pub(super) fn file(&self) -> PathBuf {
        PathBuf::from(self.reader.file)
    }

    /// Another path relative to the configuration's.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.reader.resolve(name)
    }

    /// A list of sections.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Self) -> Read<T>,
    ) -> Read<Vec<T>> {
        let path = self.path_of(key);
        let items = match self.entry(key).map(|entry| (&entry.value.content, entry)) {
            None | Some((Content::Nothing, _)) => return Ok(Vec::new()),
            Some((Content::List(items), _)) => items,
            Some((other, _)) => {
                let text = format!("must be a list of mappings, not {}", kind(other));
                return Err(self.fault(key, text));
            }
        };
        let read_item = |(index, raw)| {
            Section::open(self.reader, format!("{path}[{index}]"), raw)?.read(&mut read)
        };
        // All of them are read, also after a faulty one.
        let values: Vec<Read<T>> = items.iter().enumerate().map(read_item).collect();
        values.into_iter().collect()
    }

    /// A mapping whose keys are names that the user chose.
    pub(super) fn named<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Self) -> Read<T>,
    ) -> Read<Vec<(String, T)>> {
        let path = self.path_of(key);
        let Some(entry) = self.entry(key) else {
            return Ok(Vec::new());
        };
        let names = Section::open(self.reader, path, &entry.value)?;
        let repeated = names.refuse_repeated();
        let read_entry = |entry: &'a Entry| {
            // PostgreSQL cuts longer names off, so such a one could never match.
            if entry.key.is_empty() || entry.key.len() > 63 || entry.key.contains('\0') {
                return Err(names.fault(&entry.key, "a name must have 1 to 63 bytes"));
            }
            let section = Section::open(names.reader, names.path_of(&entry.key), &entry.value)?;
            Ok((entry.key.clone(), section.at(entry).read(&mut read)?))
        };
        let values: Vec<Read<(String, T)>> = names.entries.iter().map(read_entry).collect();
        if repeated {
            Err(Reported)
        } else {
            values.into_iter().collect()
        }
    }

    /// A value that may be left out.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Read<Option<T>> {
        let Some((written, value)) = self.text(key)? else {
            return Ok(None);
        };
        // What was written is shown, not what it stands for: that could be a secret.
        let explain = |text| self.fault(key, format!("{text}, not {}", shown(written)));
        parse(&value).map(Some).map_err(explain)
    }

    /// A value with a default.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Read<T> {
        Ok(self.optional(key, parse)?.unwrap_or(default))
    }

    /// A value that must be given.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Read<T> {
        match self.optional(key, parse)? {
            Some(value) => Ok(value),
            None => Err(self.fault(key, "missing: this key is needed")),
        }
    }

    /// A secret that stands here or in a file of its own.
    pub(super) fn secret(
        &mut self,
        key: &'static str,
        file_key: &'static str,
    ) -> Read<Option<GivenSecret>> {
        let (here, in_file) = (self.text(key), self.text(file_key));
        match (here?, in_file?) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(self.fault(
                file_key,
                format!("`{key}` is given as well: remove one of them"),
            )),
            (Some((written, text)), None) => match secret::checked(text) {
                Ok(secret) => {
                    let is_here = !written.contains("${");
                    self.reader
                        .holds_secrets
                        .set(is_here || self.reader.holds_secrets.get());
                    Ok(Some(GivenSecret { secret, key }))
                }
                Err(text) => Err(self.fault(key, text)),
            },
            (None, Some((_, path))) => match secret::from_file(&self.reader.resolve(&path)) {
                Ok(secret) => Ok(Some(GivenSecret {
                    secret,
                    key: file_key,
                })),
                Err(text) => Err(self.fault(file_key, text)),
            },
        }
    }

    /// Whether everybody on the machine can read a secret in the file, as far as it has been read.
    pub(super) fn shows_secrets(&self) -> bool {
        self.reader.holds_secrets.get() && self.reader.is_open
    }

    /// What a path leads to.
    pub(super) fn found<T>(
        &mut self,
        key: &'static str,
        find: impl FnOnce(PathBuf) -> Result<T, String>,
    ) -> Read<Option<T>> {
        let path = self.path(key)?;
        let found = path.map(find).transpose();
        found.map_err(|text| self.fault(key, text))
    }

    /// A scalar as it was written, and with its `${…}` filled in.
    fn text(&mut self, key: &'static str) -> Read<Option<(&'a str, String)>> {
        let Some(entry) = self.entry(key) else {
            return Ok(None);
        };
        let written = match &entry.value.content {
            Content::Text(text) => text,
            Content::Nothing => {
                return Err(self.fault(key, "has no value: give one or remove the key"));
            }
            other => {
                return Err(self.fault(key, format!("must be one value, not {}", kind(other))));
            }
        };
        match secret::fill_in(written, self.reader.env) {
            Ok(value) => Ok(Some((written, value))),
            Err(text) => Err(self.fault(key, text)),
        }
    }
}

fn kind(content: &Content) -> &'static str {
    match content {
        Content::Nothing => "nothing",
        Content::Text(_) => "a single value",
        Content::List(_) => "a list",
        Content::Map(_) => "a mapping",
    }
}

/// A value in a message: numbers bare, texts set off, nothing endless.
fn shown(written: &str) -> String {
    if written.is_empty() {
        return "an empty text".to_owned();
    }
    if written.len() <= 20 && written.bytes().all(|b| b.is_ascii_digit()) {
        return written.to_owned();
    }
    let cut: String = written.chars().take(60).collect();
    let more = if cut.len() < written.len() { "…" } else { "" };
    format!("`{}{more}`", cut.escape_debug())
}
