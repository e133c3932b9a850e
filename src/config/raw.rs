//! What the file says before anyone asks what it means: YAML as a tree of texts with their lines.
//!
//! Deserialising straight into structs would stop at the first fault and would lose how a value was
//! written (`0123` is a fine password and no number), so the tree is built from parser events.

use granit_parser::{Event, Parser, ScalarStyle, ScanError, StrInput};

/// A value and the line on which it starts.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) line: usize,
    pub(super) content: Content,
}

impl Raw {
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self.content, Content::Nothing)
    }
}

/// What a value is made of.
#[derive(Debug)]
pub(super) enum Content {
    /// Nothing, `~` or `null`.
    Nothing,
    /// Any other scalar, as written.
    Text(String),
    List(Vec<Raw>),
    /// In the order of the file; a key may be there twice.
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: Raw,
}

/// Why there is no tree.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) line: usize,
    pub(super) text: String,
}

impl SyntaxError {
    fn new(line: usize, text: impl Into<String>) -> Self {
        Self {
            line,
            text: text.into(),
        }
    }
}

/// No section lies this deep, and the tree is built by recursion.
const MAX_DEPTH: usize = 16;

/// Reads one YAML document.
pub(super) fn read(text: &str) -> Result<Raw, SyntaxError> {
    let mut events = Events {
        parser: Parser::new_from_str(text),
        text,
    };
    let mut document = None;
    while let Some((event, line)) = events.next()? {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(..) if document.is_some() => {
                return Err(SyntaxError::new(
                    line,
                    "a second document starts: expected one",
                ));
            }
            Event::DocumentStart(..) => {}
            event => document = Some(events.value(event, line, 0)?),
        }
    }
    Ok(document.unwrap_or(Raw {
        line: 1,
        content: Content::Nothing,
    }))
}

struct Events<'a> {
    parser: Parser<'a, StrInput<'a>>,
    text: &'a str,
}

impl<'a> Events<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, usize)>, SyntaxError> {
        match self.parser.next() {
            Some(Ok((event, span))) => Ok(Some((event, span.start.line()))),
            Some(Err(error)) => Err(self.explain(&error)),
            None => Ok(None),
        }
    }

    fn expect_next(&mut self, line: usize) -> Result<(Event<'a>, usize), SyntaxError> {
        self.next()?
            .ok_or_else(|| SyntaxError::new(line, "not valid YAML: the file ends too early"))
    }

    fn value(&mut self, event: Event<'a>, line: usize, depth: usize) -> Result<Raw, SyntaxError> {
        if depth > MAX_DEPTH {
            return Err(SyntaxError::new(line, "nested too deeply"));
        }
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(_, anchor, tag)
            | Event::MappingStart(_, anchor, tag) => (*anchor != 0, tag.is_some()),
            Event::Alias(_) => (true, false),
            _ => (false, false),
        };
        // A password that starts with one of these signs looks like this: not a word of it here.
        if anchor || tag {
            let what = if tag {
                "tags (`!`)"
            } else {
                "anchors and aliases (`&`, `*`)"
            };
            let text = format!("YAML {what} are not supported: put such a text in quotes");
            return Err(SyntaxError::new(line, text));
        }
        let content = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..)
                if matches!(&*text, "" | "~" | "null" | "Null" | "NULL") =>
            {
                Content::Nothing
            }
            Event::Scalar(text, ..) => Content::Text(text.into_owned()),
            Event::SequenceStart(..) => self.list(line, depth)?,
            Event::MappingStart(..) => self.map(line, depth)?,
            _ => return Err(SyntaxError::new(line, "not valid YAML")),
        };
        Ok(Raw { line, content })
    }

    fn list(&mut self, start: usize, depth: usize) -> Result<Content, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.expect_next(start)? {
                (Event::SequenceEnd, _) => return Ok(Content::List(items)),
                (event, line) => items.push(self.value(event, line, depth + 1)?),
            }
        }
    }

    fn map(&mut self, start: usize, depth: usize) -> Result<Content, SyntaxError> {
        let mut entries = Vec::new();
        loop {
            let (event, line) = self.expect_next(start)?;
            if event == Event::MappingEnd {
                return Ok(Content::Map(entries));
            }
            let Event::Scalar(key, ..) = event else {
                return Err(SyntaxError::new(line, "a key must be a plain text"));
            };
            let (event, value_line) = self.expect_next(line)?;
            let value = self.value(event, value_line, depth + 1)?;
            // A value that is not there has no place of its own in the file.
            let value = match value.content {
                Content::Nothing => Raw { line, ..value },
                _ => value,
            };
            entries.push(Entry {
                key: key.into_owned(),
                line,
                value,
            });
        }
    }

    fn explain(&self, error: &ScanError) -> SyntaxError {
        let mut line = error.marker().line();
        let mut text = format!("not valid YAML: {}", error.info());
        let source = |line: usize| {
            self.text
                .lines()
                .nth(line.wrapping_sub(1))
                .unwrap_or_default()
        };
        let tab = |line: &usize| source(*line).trim_start_matches(' ').starts_with('\t');
        // A tab ends the value on the line before it, and that line is then named as the culprit.
        if let Some(with_tab) = [line, line + 1].into_iter().find(tab) {
            line = with_tab;
            text.push_str("; the line is indented with a tab: use spaces");
        } else if source(line).contains('{') && source(line).contains("${") {
            text.push_str("; between braces, put `${NAME}` in quotes");
        }
        SyntaxError::new(line, text)
    }
}
