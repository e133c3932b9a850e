//! The reference of all keys, `keys.txt`, held against the code that reads them and against the shipped
//! files, and printed as docs/configuration.md.
//!
//! The code is asked by its own messages: an unknown key makes a section list the keys that it knows, and
//! a value that cannot be right makes a key say what would be. A default is proved by giving it: the
//! configuration must be what it is without.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::raw::{self, Content, Raw};
use crate::config::{AgentConfig, Config, Faults};

const KEYS: &str = include_str!("../keys.txt");
const PRINTED: &str = "docs/configuration.md";

/// One line of `keys.txt`.
struct Key {
    path: &'static str,
    /// The value that is meant where the key is not given.
    default: Option<&'static str>,
    /// What is told of it.
    default_text: &'static str,
    value: &'static str,
    does: &'static str,
}

/// A section of the reference: its title, and its keys.
type Part = (&'static str, Vec<Key>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Document {
    Config,
    Agent,
}

impl Document {
    const ALL: [Self; 2] = [Self::Config, Self::Agent];

    fn file(self) -> &'static str {
        match self {
            Self::Config => "config.yaml",
            Self::Agent => "agent.yaml",
        }
    }

    fn shipped(self) -> &'static str {
        match self {
            Self::Config => super::SHIPPED,
            Self::Agent => include_str!("../../../agent.yaml"),
        }
    }

    /// What a text means, printed; JSON is YAML.
    fn read(self, text: &str) -> Result<String, Faults> {
        let env = |_: &str| Some("from-the-environment".to_owned());
        match self {
            Self::Config => Config::parse("config.yaml", text, &env).map(|c| format!("{c:?}")),
            Self::Agent => AgentConfig::parse("agent.yaml", text, &env).map(|a| format!("{a:?}")),
        }
    }

    /// The text of the last fault at this key.
    fn fault(self, document: &Value, key: &str) -> Option<String> {
        let faults = self.read(&document.to_string()).err()?;
        let at_key = faults.iter().filter(|fault| fault.key == key);
        at_key.last().map(|fault| fault.text.clone())
    }
}

fn parts(document: Document) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for line in KEYS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(title) = line.strip_prefix("@ ") {
            parts.push((title, Vec::new()));
            continue;
        }
        let fields: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let fields: [&str; 4] = match fields.as_slice() {
            [path, default, value, does] => [path, default, value, does],
            // An empty value leaves its bars next to each other.
            _ => {
                let (head, does) = line.split_once(" | | ").expect(line);
                let (path, default) = head.split_once(" | ").expect(line);
                [path, default, "", does]
            }
        };
        let [path, default_text, value, does] = fields;
        let default = default_text.split(" (").next().unwrap();
        let default = (!["none", "needed"].contains(&default)).then_some(default);
        assert!(does.ends_with('.'), "{line}");
        let part = parts.last_mut().expect("a section comes first");
        part.1.push(Key {
            path,
            default,
            default_text,
            value,
            does,
        });
    }
    parts.retain(|(title, _)| title.starts_with(document.file()));
    parts
}

fn keys(document: Document) -> Vec<Key> {
    parts(document)
        .into_iter()
        .flat_map(|(_, keys)| keys)
        .collect()
}

/// A document with nothing but a value at this path.
fn alone(path: &str, value: Value) -> Value {
    let mut document = json!({});
    put(&mut document, path, value);
    document
}

/// Puts a value at a path such as `nodes[].port` or `auth.users.NAME.password`.
fn put(document: &mut Value, path: &str, value: Value) {
    let mut at = document;
    for step in path.split('.') {
        at = match step.strip_suffix("[]") {
            Some(name) => {
                let list = &mut at[name];
                if list.is_null() {
                    *list = json!([{}]);
                }
                &mut list[0]
            }
            None => &mut at[step],
        };
    }
    *at = value;
}

/// As faults spell it.
fn spelt(path: &str) -> String {
    path.replace("[]", "[0]")
}

/// Every key that the code knows in this section and in those inside.
fn known(document: Document, section: &str) -> Vec<String> {
    let below = |key: &str| match section {
        "" => key.to_owned(),
        _ => format!("{section}.{key}"),
    };
    let unknown = |path: &str| {
        let text = document.fault(&alone(path, json!("1")), &spelt(path))?;
        let (_, known) = text.split_once("valid keys: ")?;
        Some(known.split(", ").map(str::to_owned).collect::<Vec<_>>())
    };
    let own = unknown(&below("zzz")).unwrap_or_else(|| panic!("{section} is no section"));
    let mut found = Vec::new();
    for key in own {
        let path = below(&key);
        // A section, a list of sections, or sections by name; otherwise a value.
        let forms = [path.clone(), format!("{path}[]"), format!("{path}.NAME")];
        let inside = forms
            .iter()
            .find(|form| unknown(&format!("{form}.zzz")).is_some());
        match inside {
            Some(inside) => found.extend(known(document, inside)),
            None => found.push(path),
        }
    }
    found
}

#[test]
fn every_key_that_the_code_reads_is_described_and_no_other() {
    for document in Document::ALL {
        let mut described: Vec<&str> = keys(document).iter().map(|key| key.path).collect();
        let mut known = known(document, "");
        described.sort_unstable();
        known.sort_unstable();
        let file = document.file();
        for key in &known {
            assert!(
                described.contains(&key.as_str()),
                "{file}: {key} lacks its line in src/config/keys.txt"
            );
        }
        assert_eq!(described, known, "{file}");
    }
}

/// A valid document in which this key can be given.
fn valid(document: Document, path: &str, files: &Path) -> Value {
    let path_of = |name: &str| files.join(name).display().to_string();
    match document {
        Document::Agent => json!({
            "name": "pg1", "secret": "s",
            "tls": { "cert_file": path_of("cert.pem"), "key_file": path_of("key.pem") },
            "postgres": { "data": path_of("data"), "bin": path_of("bin") },
        }),
        Document::Config => {
            let mut config = json!({
                "nodes": [{ "name": "pg1", "host": "db1" }],
                "auth": { "users": { "demo": { "password": "demo" } } },
                "failover": { "mode": "automatic" },
            });
            if path.starts_with("failover.etcd") {
                config["failover"]["coordination"] = json!("etcd");
                config["failover"]["etcd"] = json!({ "endpoints": ["http://127.0.0.1:2379"] });
            }
            config
        }
    }
}

#[test]
fn every_default_is_the_one_in_force() {
    let files = files();
    let mut proved = 0;
    for document in Document::ALL {
        for key in keys(document) {
            let Some(default) = key.default else { continue };
            let mut with = valid(document, key.path, &files);
            let without = document
                .read(&with.to_string())
                .unwrap_or_else(|f| panic!("{f}"));
            put(&mut with, key.path, json!(default));
            let with = document.read(&with.to_string());
            let with = with.unwrap_or_else(|faults| panic!("{faults}"));
            assert_eq!(with, without, "{} is not {default}", key.path);
            proved += 1;
        }
    }
    std::fs::remove_dir_all(&files).unwrap();
    assert!(proved > 30, "{proved}");
}

/// What an agent's configuration names.
fn files() -> PathBuf {
    let files = std::env::temp_dir().join(format!("causeway-reference-{}", std::process::id()));
    std::fs::create_dir_all(files.join("bin")).unwrap();
    for program in ["postgres", "pg_basebackup", "pg_rewind", "psql"] {
        std::fs::write(files.join("bin").join(program), "").unwrap();
    }
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(files.join("cert.pem"), made.cert.pem()).unwrap();
    let key = files.join("key.pem");
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    files
}

/// The shipped file with every key that is commented out put in force.
fn shown(document: Document) -> String {
    let on = |line: &str| {
        let rest = line.trim_start();
        match rest.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => {
                format!("{}{key}\n", &line[..line.len() - rest.len()])
            }
            _ => format!("{line}\n"),
        }
    };
    document.shipped().lines().map(on).collect()
}

/// The values of a tree by path: of a list its first section counts, and names are `NAME`.
fn values<'a>(raw: &'a Raw, path: &str, names: &[String], found: &mut Vec<(String, &'a Raw)>) {
    match &raw.content {
        Content::Map(entries) => {
            for entry in entries {
                let step = match path.is_empty() {
                    true => entry.key.clone(),
                    false => format!("{path}.{}", entry.key),
                };
                let named = format!("{path}.NAME");
                let step = match names.contains(&named) {
                    true => named,
                    false => step,
                };
                values(&entry.value, &step, names, found);
            }
        }
        Content::List(items)
            if matches!(
                items.first().map(|item| &item.content),
                Some(Content::Map(_))
            ) =>
        {
            values(&items[0], &format!("{path}[]"), names, found);
        }
        _ => found.push((path.to_owned(), raw)),
    }
}

#[test]
fn the_shipped_files_show_every_key_with_its_default() {
    for document in Document::ALL {
        let (file, text) = (document.file(), shown(document));
        let keys = keys(document);
        let named = keys.iter().filter_map(|key| key.path.split_once(".NAME"));
        let names: Vec<String> = named.map(|(before, _)| format!("{before}.NAME")).collect();
        let raw = raw::read(&text).unwrap_or_else(|error| panic!("{file}: {}", error.text));
        let mut values_there = Vec::new();
        values(&raw, "", &names, &mut values_there);
        for key in &keys {
            let there = values_there.iter().find(|(path, _)| path == key.path);
            let (_, raw) = there.unwrap_or_else(|| panic!("{file} lacks {}", key.path));
            let (Some(default), Content::Text(value)) = (key.default, &raw.content) else {
                continue;
            };
            // `500us` may be written `0.5ms`, and a line may name the default beside its value.
            let line = text.lines().nth(raw.line - 1).unwrap();
            let same = value == default
                || line.contains(&format!("default {default}"))
                || matches!(
                    (value.parse::<crate::config::Span>(), default.parse()),
                    (Ok(one), Ok(other)) if one == other
                );
            assert!(
                same,
                "{file}: {} is {value}, its default {default}",
                key.path
            );
        }
        for (path, _) in &values_there {
            let known = keys.iter().any(|key| key.path == path);
            assert!(known, "{file} shows {path}, which is not a key");
        }
    }
}

/// What may be written, in the words of the code.
fn value(document: Document, key: &Key) -> String {
    let at = spelt(key.path);
    let told = ["", "\u{1}", "99999d", "-"]
        .into_iter()
        .filter_map(|wrong| document.fault(&alone(key.path, json!(wrong)), &at))
        .filter_map(|fault| {
            let (text, _) = fault.split_once(", not ")?;
            let text = ["must be ", "must have ", "must "]
                .iter()
                .find_map(|must| text.strip_prefix(must))?;
            Some(text.to_owned())
        });
    let told: Vec<String> = told.collect();
    // That a time needs a unit is said once for all of them; its bounds are told by one beyond them.
    let span = told.iter().find(|text| text.starts_with("between "));
    match (span, told.last()) {
        _ if !key.value.is_empty() => key.value.to_owned(),
        (Some(span), _) => format!("a time {span}"),
        (None, Some(text)) => text.clone(),
        (None, None) => panic!("{}: the code does not say what may be written", key.path),
    }
}

fn print() -> String {
    let mut text = String::from(
        "# Configuration reference\n\n\
         Printed by `src/config/tests/reference.rs` from `src/config/keys.txt` and from the code that \
         reads the files; do not edit. [`config.yaml`](../config.yaml) and [`agent.yaml`](../agent.yaml) \
         show the same keys in place, with comments.\n\n\
         A time is a number with one of the units us, ms, s, m, h, d; a number of bytes has one of B, \
         kB, MB, GB, TB. Any value may hold `${NAME}`, filled in from the environment; `$$` stands for \
         one `$`. A file is named relative to the configuration; one that holds a secret must not be \
         readable by everyone. Of a key and its `_file` only one is given. Unknown keys are errors.\n",
    );
    for document in Document::ALL {
        for (title, keys) in parts(document) {
            let _ = match title.split_once(": ") {
                None => write!(text, "\n## {title}\n"),
                Some((_, section)) => write!(text, "\n### {section}\n"),
            };
            text.push_str("\n| key | value | default | what it does |\n|---|---|---|---|\n");
            for key in keys {
                let name = key
                    .path
                    .rsplit_once("[].")
                    .map_or(key.path, |(_, name)| name);
                let name = match title.split_once(": ") {
                    Some((_, section)) => name.strip_prefix(&format!("{section}.")).unwrap_or(name),
                    None => name,
                };
                let default = match key.default {
                    Some(default) => key
                        .default_text
                        .replacen(default, &format!("`{default}`"), 1),
                    None => key.default_text.to_owned(),
                };
                let value = value(document, &key).replace('|', "\\|");
                let _ = writeln!(text, "| `{name}` | {value} | {default} | {} |", key.does);
            }
        }
    }
    text
}

#[test]
fn the_printed_reference_is_up_to_date() {
    let text = print();
    if std::env::var_os("CAUSEWAY_WRITE_DOCS").is_some() {
        std::fs::write(PRINTED, &text).unwrap();
    }
    let file = std::fs::read_to_string(PRINTED).unwrap_or_default();
    assert!(
        file == text,
        "{PRINTED} is stale: CAUSEWAY_WRITE_DOCS=1 cargo test --lib config"
    );
}
