//! What is declared and then forgotten, scattered, or named twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{code, hold, is_test, room, sources};

/// Public items that nobody uses, and yet stand: the table of message tags is the protocol's, whole.
const UNUSED: &[&str] = &[];
/// Metrics that are registered and never set.
const UNSET: &[&str] = &[];
/// Types that are made of `impl`s in more than two files.
const SCATTERED: &[&str] = &[];
/// Names of two public types, each with its reason.
const HOMONYMS: &[&str] = &[
    // One for each command, as clap has it.
    "Args",
    // Sections of the configuration are called as they are written there, and what is made of them as
    // the field calls it: a pool, a node of the rig, an etcd that the rig runs.
    "Durability",
    "Etcd",
    "Node",
    "Pool",
    // The words of the agent's API are its own: what an agent says is not yet what others make of it.
    "Lease",
    "Postmaster",
    "Role",
    "Status",
    "StopMode",
];

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The text's first word.
fn word(text: &str) -> &str {
    text.split(|letter| !is_word(letter))
        .next()
        .unwrap_or_default()
}

/// What makes an item public, within its room or beyond it.
const PUBLIC: &[&str] = &[
    "pub ",
    "pub(crate) ",
    "pub(super) ",
    "pub(in crate::client) ",
];

/// The declarations of a file: the keyword and the name of what is public.
fn declared<'a>(code: &'a str, public: &'a [&str]) -> Vec<(&'a str, &'a str)> {
    let public = code.lines().filter_map(|line| {
        let line = line.trim_start();
        let mut rest = public.iter().find_map(|word| line.strip_prefix(word))?;
        for word in ["async ", "unsafe "] {
            rest = rest.strip_prefix(word).unwrap_or(rest);
        }
        rest = match rest.strip_prefix("const ") {
            Some(function) if function.starts_with("fn ") => function,
            _ => rest,
        };
        let (keyword, name) = rest.split_once(' ')?;
        let kinds = ["fn", "struct", "enum", "const", "static", "trait", "type"];
        kinds.contains(&keyword).then(|| (keyword, word(name)))
    });
    public.collect()
}

fn production() -> impl Iterator<Item = PathBuf> {
    sources(Path::new("src"))
        .into_iter()
        .filter(|path| !is_test(path))
}

/// How often each word stands in the code of the crate, its tests and its benches.
fn words() -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for root in ["src", "tests", "benches"] {
        for path in sources(Path::new(root)) {
            // This room names what it looks for.
            if path.starts_with("tests/pure/tidy") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            for name in lines.flat_map(|line| line.split(|c| !is_word(c))) {
                *count.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    count
}

#[test]
fn what_is_public_is_used() {
    let words = words();
    let mut found = BTreeMap::new();
    for path in production() {
        for (keyword, name) in declared(&code(&path), PUBLIC) {
            if words[name] == 1 {
                found.insert(name.to_owned(), format!("{keyword} in {}", path.display()));
            }
        }
    }
    hold("is used by nobody", &found, UNUSED);
}

/// The metrics that the structs of the room hold.
fn metrics(code: &str) -> BTreeSet<&str> {
    const KINDS: [&str; 5] = ["Counter", "Gauge", "Histogram", "Latency", "CounterVec"];
    let fields = code.lines().filter_map(|line| {
        let line = line.trim().strip_suffix(',')?;
        let line = PUBLIC
            .iter()
            .find_map(|word| line.strip_prefix(word))
            .unwrap_or(line);
        let (name, kind) = line.split_once(": ")?;
        let is_metric = KINDS.iter().any(|word| kind.contains(word)) && !kind.contains('(');
        (is_metric && name.chars().all(is_word)).then_some(name)
    });
    fields.collect()
}

#[test]
fn what_is_measured_is_measured_somewhere() {
    let inside: Vec<_> = production()
        .filter(|path| room(path) == "metrics")
        .collect();
    let of: Vec<_> = inside.iter().map(|path| (path, code(path))).collect();
    let all: Vec<_> = production().map(|path| code(&path)).collect();
    let mut found = BTreeMap::new();
    let mut count = 0;
    for (path, code) in &of {
        for name in metrics(code) {
            count += 1;
            let used = format!(".{name}");
            let is_used = |code: &String| {
                let mut hits = code.match_indices(&used);
                hits.any(|(at, _)| !code[at + used.len()..].starts_with(is_word))
            };
            if !all.iter().any(is_used) {
                found.insert(name.to_owned(), path.display().to_string());
            }
        }
    }
    assert!(count > 30, "only {count} metrics are seen");
    hold("is registered and never set", &found, UNSET);
}

/// The type of an inherent `impl` that begins in this line.
fn implemented(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl")?;
    let rest = match rest.strip_prefix('<') {
        Some(generics) => {
            let mut depth = 1;
            let end = generics.find(|letter| {
                depth += match letter {
                    '<' => 1,
                    '>' => -1,
                    _ => 0,
                };
                depth == 0
            })?;
            &generics[end + 1..]
        }
        None => rest,
    };
    let rest = rest.strip_prefix(' ')?;
    let path = rest.split(['<', ' ', '{']).next()?;
    let name = path.rsplit("::").next()?;
    (!rest.contains(" for ")).then(|| word(name))
}

#[test]
fn a_type_is_made_in_one_place() {
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in production() {
        for name in code(&path).lines().filter_map(implemented) {
            let name = format!("{}::{name}", room(&path));
            places
                .entry(name)
                .or_default()
                .insert(path.display().to_string());
        }
    }
    let scattered = places.into_iter().filter(|(_, files)| files.len() > 2);
    let found = scattered.map(|(name, files)| {
        let files: Vec<_> = files.into_iter().collect();
        (name, files.join(", "))
    });
    hold(
        "has `impl`s in more than two files",
        &found.collect(),
        SCATTERED,
    );
}

#[test]
fn a_name_is_one_type() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in production() {
        for (keyword, name) in declared(&code(&path), &PUBLIC[..2]) {
            if ["struct", "enum", "trait", "type"].contains(&keyword) {
                let places = places.entry(name.to_owned()).or_default();
                places.push(path.display().to_string());
            }
        }
    }
    let twice = places.into_iter().filter(|(_, files)| files.len() > 1);
    let found = twice.map(|(name, files)| (name, files.join(", ")));
    hold("is the name of several types", &found.collect(), HOMONYMS);
}

#[test]
fn nothing_is_left_of_debugging() {
    let left = concat!("dbg", "!(");
    let roots = ["src", "tests", "benches"].map(Path::new);
    let all = roots.into_iter().flat_map(sources);
    let found = all.filter(|path| std::fs::read_to_string(path).unwrap().contains(left));
    assert_eq!(found.collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

#[test]
fn declarations_are_read_as_they_are_written() {
    let text = "pub const fn one() {}\n    pub(crate) async fn two<T>() {}\npub struct Three<'a>;\n\
                pub const FOUR: u8 = 4;\nfn five() {}\npub use six;";
    let names: Vec<_> = declared(text, PUBLIC)
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    assert_eq!(names, ["one", "two", "Three", "FOUR"]);
    assert_eq!(
        implemented("impl<'a, T: Into<u8>> a::Walker<'a, T> {"),
        Some("Walker")
    );
    assert_eq!(implemented("impl Session {"), Some("Session"));
    assert_eq!(implemented("impl Drop for Session {"), None);
}
