//! Secrets: a text that is never printed, and where it comes from, `${NAME}` in a value or a file of its
//! own. No message made here shows one.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that must send or check it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// More than any password, and a bound on what a mistaken path can make us read.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Fills in every `${NAME}` from the environment; `$$` stands for one `$`.
pub(super) fn fill_in(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        filled.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            filled.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let (name, after) = after
                .split_once('}')
                .filter(|(name, _)| is_variable_name(name))
                .ok_or(
                    "`${` must be followed by a variable's name and `}`; a `$` is written `$$`",
                )?;
            let value =
                env(name).ok_or_else(|| format!("the environment variable `{name}` is not set"))?;
            filled.push_str(&value);
            rest = after;
        } else {
            filled.push('$');
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A secret that can be one: neither empty nor beyond what the protocol can carry.
pub(super) fn checked(text: String) -> Result<Secret, String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.contains('\0') {
        return Err("must not contain a zero byte".to_owned());
    }
    Ok(Secret::new(text))
}

/// Whether every account of the machine can read a file.
pub(super) fn is_open(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o004 != 0)
}

/// The content of a file without its final newline.
///
/// A file that every account of the machine can read is refused. Reading by a group is allowed:
/// that is how orchestrators hand secrets to a process that does not own them.
pub(super) fn from_file(path: &Path) -> Result<Secret, String> {
    let name = path.display();
    let unreadable = |error| format!("`{name}` cannot be read: {error}");
    let meta = fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() || meta.len() > MAX_FILE_BYTES {
        return Err(format!("`{name}` must be a regular file of at most 64 kB"));
    }
    if is_open(path) {
        return Err(format!(
            "`{name}` can be read by everyone: run chmod o-rwx on it"
        ));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| format!("`{name}` must hold UTF-8 text"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    checked(line.to_owned()).map_err(|fault| format!("the content of `{name}` {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_once() {
        let env = |name: &str| match name {
            "A" => Some("${B}$$".to_owned()),
            _ => None,
        };
        let fill = |text| fill_in(text, &env);
        assert_eq!(fill("x${A}y"), Ok("x${B}$$y".to_owned()));
        assert_eq!(fill("$${A}"), Ok("${A}".to_owned()));
        assert_eq!(fill("a$b$"), Ok("a$b$".to_owned()));
        assert_eq!(
            fill("${B}"),
            Err("the environment variable `B` is not set".to_owned())
        );
        for text in ["${", "${}", "${A", "${1}", "${A:-x}", "${ A }"] {
            let fault = fill(text).unwrap_err();
            assert!(fault.contains("must be followed by"), "{text}: {fault}");
        }
    }
}
