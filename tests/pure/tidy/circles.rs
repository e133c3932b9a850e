//! No circle of imports inside a room: the arrows run one way there as well, from file to file and from
//! one room inside it to another.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{code, hold, is_test, sources};

/// Files that lie on a circle as yet.
const KNOWN: &[&str] = &[];
/// Rooms inside a room that do.
const KNOWN_ROOMS: &[&str] = &[];

/// A file's module, as a path: `src/core/failover/plan.rs` is `["core", "failover", "plan"]`.
fn module(path: &Path) -> Vec<String> {
    let path = path.strip_prefix("src").unwrap().with_extension("");
    let mut names: Vec<_> = path
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if names.last().is_some_and(|name| name == "mod") {
        names.pop();
    }
    names
}

type Names = Vec<String>;

/// What one file brings in: the paths that it names, and the names that it hands on.
#[derive(Default)]
struct File {
    named: Vec<Names>,
    handed_on: BTreeMap<String, Names>,
}

/// Every path of a tree such as `a::{b::{c, d as e}, f::*}`, with the name that it gets.
fn leaves(tree: &str, before: &[String], found: &mut Vec<(Names, String)>) {
    let mut depth = 0;
    let mut start = 0;
    let mut parts = Vec::new();
    for (at, letter) in tree.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    for part in parts
        .iter()
        .map(|part| part.trim())
        .filter(|part| !part.is_empty())
    {
        let (front, inner) = match part.split_once('{') {
            Some((front, rest)) => (front, Some(rest.trim_end().trim_end_matches('}'))),
            None => (part, None),
        };
        let (front, name) = front.split_once(" as ").unwrap_or((front, ""));
        let names = front.split("::").map(str::trim);
        let mut path = before.to_vec();
        path.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
        match inner {
            // The last brace alone is the group's own.
            Some(_) => {
                let rest = part.split_once('{').unwrap().1;
                let rest = &rest[..rest.rfind('}').unwrap_or(rest.len())];
                leaves(rest, &path, found);
            }
            None => {
                if path.last().is_some_and(|last| last == "self") {
                    path.pop();
                }
                let own = path.last().cloned().unwrap_or_default();
                let name = if name.is_empty() {
                    own
                } else {
                    name.trim().to_owned()
                };
                found.push((path, name));
            }
        }
    }
}

/// The path from the crate's root, if it begins in this crate.
fn from_root(path: &[String], here: &[String], children: &BTreeSet<String>) -> Option<Names> {
    let first = path.first()?;
    let mut base = match first.as_str() {
        "crate" => Vec::new(),
        "self" => here.to_vec(),
        "super" => here[..here.len().checked_sub(1)?].to_vec(),
        child if children.contains(child) => {
            let mut base = here.to_vec();
            base.push(child.to_owned());
            base
        }
        _ => return None,
    };
    for name in &path[1..] {
        if name == "super" {
            base.pop();
        } else {
            base.push(name.clone());
        }
    }
    Some(base)
}

fn read(text: &str, here: &[String], modules: &BTreeSet<Names>) -> File {
    let below = |module: &&Names| module.len() == here.len() + 1 && module.starts_with(here);
    let children = modules.iter().filter(below);
    let children: BTreeSet<_> = children.map(|module| module[here.len()].clone()).collect();
    let mut file = File::default();
    let mut rest = String::new();
    for statement in text.split_inclusive(';') {
        let Some(at) = statement.find("use ").filter(|at| {
            let before = statement[..*at].trim_end();
            let line = before.rsplit('\n').next().unwrap_or_default().trim();
            line.is_empty() || line.starts_with("pub")
        }) else {
            rest.push_str(statement);
            continue;
        };
        let before = statement[..at].rsplit('\n').next().unwrap_or_default();
        rest.push_str(&statement[..at]);
        let tree = statement[at + 4..].trim_end_matches(';');
        let mut found = Vec::new();
        leaves(tree, &[], &mut found);
        for (path, name) in found {
            let Some(path) = from_root(&path, here, &children) else {
                continue;
            };
            if before.contains("pub") {
                file.handed_on.insert(name, path);
            } else {
                file.named.push(path);
            }
        }
    }
    // Paths that are named in full where they are used.
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in rest.match_indices(start) {
            let begun = rest[..at].chars().next_back();
            if begun.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let path: String = rest[at..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
                .collect();
            let path: Names = path
                .split("::")
                .filter(|n| !n.is_empty())
                .map(str::to_owned)
                .collect();
            file.named.extend(from_root(&path, here, &children));
        }
    }
    file
}

/// The file in which what a path names stands: what a module hands on is its origin's.
fn home(path: &[String], files: &BTreeMap<Names, File>, hops: usize) -> Option<Names> {
    let length = (1..=path.len())
        .rev()
        .find(|n| files.contains_key(&path[..*n]))?;
    let (module, rest) = path.split_at(length);
    let handed_on = rest
        .first()
        .and_then(|name| files[module].handed_on.get(name));
    match handed_on {
        Some(origin) if hops > 0 => {
            let mut onward = origin.clone();
            onward.extend_from_slice(&rest[1..]);
            home(&onward, files, hops - 1)
        }
        _ => Some(module.to_vec()),
    }
}

/// For each file the files of the crate that it imports, and with `handed_on` those of which it hands
/// something on.
fn all_arrows(handed_on: bool) -> BTreeMap<Names, BTreeSet<Names>> {
    let paths: Vec<_> = sources(Path::new("src"))
        .into_iter()
        .filter(|path| !is_test(path))
        .collect();
    let modules: BTreeSet<Names> = paths.iter().map(|path| module(path)).collect();
    let files: BTreeMap<Names, File> = paths
        .iter()
        .map(|path| {
            let here = module(path);
            let file = read(&code(path), &here, &modules);
            (here, file)
        })
        .collect();
    let of = |(here, file): (&Names, &File)| {
        let handed_on = file.handed_on.values().filter(|_| handed_on);
        let named = file.named.iter().chain(handed_on);
        let homes = named.filter_map(|path| home(path, &files, 8));
        (here.clone(), homes.filter(|home| home != here).collect())
    };
    files.iter().map(of).collect()
}

/// For each file the files of its room that it imports.
fn arrows() -> BTreeMap<Names, BTreeSet<Names>> {
    let mut arrows = all_arrows(false);
    for (here, to) in &mut arrows {
        to.retain(|home| home.first() == here.first());
    }
    arrows
}

/// For each room the other rooms that it imports.
pub(super) fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let mut rooms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (here, to) in all_arrows(true) {
        let room = &here[0];
        if matches!(room.as_str(), "lib" | "main") {
            continue;
        }
        let others = to.into_iter().map(|home| home[0].clone());
        let others = others.filter(|other| other != room);
        rooms.entry(room.clone()).or_default().extend(others);
    }
    rooms
}

/// The shortest way along the arrows from a file back to itself.
fn circle(from: &Names, arrows: &BTreeMap<Names, BTreeSet<Names>>) -> Option<Vec<Names>> {
    let mut ways = vec![vec![from.clone()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in &arrows[way.last().unwrap()] {
                let mut way = way.clone();
                way.push(next.clone());
                if next == from {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}

/// Each name that lies on a circle, and the way back to it.
fn circles(arrows: &BTreeMap<Names, BTreeSet<Names>>) -> BTreeMap<String, String> {
    let ways = arrows.keys().filter_map(|from| {
        let way = circle(from, arrows)?;
        let way: Vec<_> = way.iter().map(|module| module.join("::")).collect();
        Some((from.join("::"), way.join(" -> ")))
    });
    ways.collect()
}

#[test]
fn no_room_has_a_circle_inside() {
    let arrows = arrows();
    let count: usize = arrows.values().map(BTreeSet::len).sum();
    assert!(count > 200, "only {count} arrows are seen");
    hold("lies on a circle", &circles(&arrows), KNOWN);
}

#[test]
fn the_rooms_inside_a_room_have_no_circle() {
    let mut rooms: BTreeMap<Names, BTreeSet<Names>> = BTreeMap::new();
    let room = |file: &Names| file[..file.len().min(2)].to_vec();
    for (file, to) in arrows() {
        let others = to.iter().map(room).filter(|other| *other != room(&file));
        rooms.entry(room(&file)).or_default().extend(others);
    }
    hold("lies on a circle", &circles(&rooms), KNOWN_ROOMS);
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let mut found = Vec::new();
    leaves("crate::a::{self, b::{C, D as E}, f::*}", &[], &mut found);
    let found: Vec<_> = found
        .iter()
        .map(|(path, name)| format!("{} {name}", path.join("::")))
        .collect();
    assert_eq!(
        found,
        [
            "crate::a a",
            "crate::a::b::C C",
            "crate::a::b::D E",
            "crate::a::f::* *"
        ]
    );
    let path = |text: &str| text.split("::").map(str::to_owned).collect::<Names>();
    let modules: BTreeSet<_> = ["a", "a::b", "a::c"].map(path).into();
    let origin = read("pub use b::Thing;\nuse c::go;", &path("a"), &modules);
    let user = read(
        "use super::Thing;\nfn f() { super::other() }",
        &path("a::c"),
        &modules,
    );
    let files: BTreeMap<_, _> = [
        (path("a"), origin),
        (path("a::b"), File::default()),
        (path("a::c"), user),
    ]
    .into();
    let homes = |of: &str| {
        let named = files[&path(of)].named.iter();
        named
            .map(|named| home(named, &files, 8).unwrap().join("::"))
            .collect::<Vec<_>>()
    };
    assert_eq!(homes("a"), ["a::c"]);
    assert_eq!(homes("a::c"), ["a::b", "a"]);
}
