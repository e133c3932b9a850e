//! Who calls and reads whom: what a function or a relation does is also what those do that it names.

use std::collections::HashMap;
use std::sync::Arc;

use crate::core::statement::Opaque;

use super::entries::{Function, Map, Relation};
use super::rows::{Dependency, FunctionRow, RelationRow, Rows};
use crate::sql::body::{self, Body};
use crate::sql::conduct::Conduct;
use crate::sql::system::{asks_about_node, is_of_node, runs_any_text};

/// The first object identifier that is not PostgreSQL's own.
const FIRST_USER_OID: u32 = 16384;

/// Volatile functions of PostgreSQL itself that write nothing and answer as well on a standby:
/// clocks, chance, sleep. Whatever asks about the node (`pg_is_in_recovery`, `pg_lock_status`) is
/// not here, nor are sizes: a standby has no unlogged rows, and free space maps of its own.
const HARMLESS: &[&str] = &[
    "clock_timestamp",
    "gen_random_uuid",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "random",
    "random_normal",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

/// The same for compiled functions of `uuid-ossp` and `pgcrypto`; a function of that name written
/// in another language is somebody's own.
const HARMLESS_COMPILED: &[&str] = &[
    "gen_random_bytes",
    "gen_random_uuid",
    "gen_salt",
    "pgp_pub_encrypt",
    "pgp_pub_encrypt_bytea",
    "pgp_sym_encrypt",
    "pgp_sym_encrypt_bytea",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
];

/// Compiled functions that leave the session as it was, apart from the harmless ones: triggers that
/// come with PostgreSQL.
const QUIET_COMPILED: &[&str] = &[
    "check_foreign_key",
    "check_primary_key",
    "insert_username",
    "lo_manage",
    "moddatetime",
];

/// A function, or a relation as it is read, or as it is written to.
#[derive(Clone, Debug, Default)]
struct Node {
    conduct: Conduct,
    volatile: bool,
    commits_async: bool,
    numbered: Vec<Box<str>>,
}

/// Functions stand in front; of each relation, reading it is followed by changing it.
pub(super) struct Graph<'a> {
    rows: &'a Rows,
    nodes: Vec<Node>,
    /// Whoever comes first does what the other does.
    edges: Vec<(usize, usize)>,
}

impl<'a> Graph<'a> {
    pub(super) fn of(rows: &'a Rows) -> Self {
        let mut graph = Self {
            rows,
            nodes: Vec::new(),
            edges: Vec::new(),
        };
        let mut bodies = Vec::new();
        for (at, row) in rows.functions.iter().enumerate() {
            let (node, body) = function(row);
            graph.nodes.push(node);
            bodies.extend(body.map(|body| (at, body)));
        }
        for row in &rows.relations {
            let (reading, changing) = relation(row);
            graph.nodes.extend([reading, changing]);
        }
        graph.link();
        graph.link_bodies(&bodies);
        graph
    }

    fn reading(&self, relation: usize) -> usize {
        self.rows.functions.len() + 2 * relation
    }

    fn link(&mut self) {
        let rows = self.rows;
        let functions: HashMap<u32, usize, ahash::RandomState> = rows
            .functions
            .iter()
            .enumerate()
            .map(|(at, row)| (row.oid, at))
            .collect();
        let relations: HashMap<u32, usize, ahash::RandomState> = rows
            .relations
            .iter()
            .enumerate()
            .map(|(at, row)| (row.oid, at))
            .collect();
        for row in &rows.numbered {
            if let Some(relation) = relations.get(&row.relation) {
                let changing = self.reading(*relation) + 1;
                self.nodes[changing]
                    .numbered
                    .push(row.column.clone().into());
            }
        }
        for row in &rows.dependencies {
            let relation = |oid| relations.get(&oid).map(|at| self.reading(*at));
            let reads = |oid: u32| match row.on_function {
                true => functions.get(&oid).copied(),
                false => relation(oid),
            };
            let changes = |oid: u32| match row.on_function {
                true => None,
                false => relation(oid).map(|reading| reading + 1),
            };
            let (from, to) = (relation(row.of), reads(row.on));
            let edges = match row.kind {
                Dependency::Reads => [(from, to), (None, None)],
                Dependency::View => [(from, to), (from.map(|at| at + 1), changes(row.on))],
                Dependency::Writes => [(from.map(|at| at + 1), to), (None, None)],
                Dependency::Rule => [
                    (from.map(|at| at + 1), to),
                    (from.map(|at| at + 1), changes(row.on)),
                ],
                Dependency::Body => {
                    let from = functions.get(&row.of).copied();
                    [(from, to), (from, changes(row.on))]
                }
            };
            for edge in edges {
                if let (Some(from), Some(to)) = edge {
                    self.edges.push((from, to));
                }
            }
        }
    }

    /// By names, as bodies have nothing else.
    fn link_bodies(&mut self, bodies: &[(usize, Body)]) {
        let mut functions: Map<Vec<usize>> = Map::default();
        for (at, row) in self.rows.functions.iter().enumerate() {
            if row.oid >= FIRST_USER_OID {
                functions
                    .entry(row.name.as_str().into())
                    .or_default()
                    .push(at);
            }
        }
        let mut relations: Map<Vec<usize>> = Map::default();
        for (at, row) in self.rows.relations.iter().enumerate() {
            let reading = self.reading(at);
            relations
                .entry(row.name.as_str().into())
                .or_default()
                .push(reading);
        }
        for (at, body) in bodies {
            let at = *at;
            let called = body
                .calls
                .iter()
                .filter_map(|name| functions.get(name))
                .flatten();
            self.edges.extend(called.map(|function| (at, *function)));
            let read = body
                .words
                .iter()
                .filter_map(|name| relations.get(name))
                .flatten();
            self.edges.extend(read.map(|reading| (at, *reading)));
            let changed = body
                .changes
                .iter()
                .filter_map(|name| relations.get(name))
                .flatten();
            self.edges.extend(changed.map(|reading| (at, reading + 1)));
            let inserted = body
                .inserts
                .iter()
                .filter_map(|name| relations.get(name))
                .flatten();
            for reading in inserted {
                let draws = !self.nodes[reading + 1].numbered.is_empty();
                self.nodes[at].conduct.draws |= draws;
            }
        }
    }

    /// Until nobody learns anything more.
    pub(super) fn settle(mut self) -> (Map<Function>, Map<Arc<Relation>>) {
        let functions = self.rows.functions.len();
        let mut news = true;
        while news {
            news = false;
            for (from, to) in &self.edges {
                if from == to {
                    continue;
                }
                let Ok([from_node, to_node]) = self.nodes.get_disjoint_mut([*from, *to]) else {
                    continue;
                };
                news |= from_node.conduct.merge(&to_node.conduct);
                // What a function is, is declared; a relation is what it calls.
                if *from >= functions {
                    news |= to_node.volatile && !from_node.volatile;
                    news |= to_node.commits_async && !from_node.commits_async;
                    from_node.volatile |= to_node.volatile;
                    from_node.commits_async |= to_node.commits_async;
                    for column in &to_node.numbered {
                        if !from_node.numbered.contains(column) {
                            from_node.numbered.push(column.clone());
                            news = true;
                        }
                    }
                }
            }
        }
        (self.functions(), self.relations())
    }

    fn functions(&self) -> Map<Function> {
        let mut found: Map<Function> = Map::default();
        for (row, node) in self.rows.functions.iter().zip(&self.nodes) {
            let known = found.entry(row.name.as_str().into()).or_default();
            known.volatile |= node.volatile;
            known.user_defined |= node.commits_async;
            // PostgreSQL's own are known by name, and by what they are called with.
            if row.oid >= FIRST_USER_OID {
                known.conduct.merge(&node.conduct);
            }
        }
        found
    }

    fn relations(&self) -> Map<Arc<Relation>> {
        let plain = Arc::new(Relation::default());
        let mut found: Map<Arc<Relation>> = Map::default();
        for (at, row) in self.rows.relations.iter().enumerate() {
            let reading = &self.nodes[self.reading(at)];
            let changing = &self.nodes[self.reading(at) + 1];
            let known = found
                .entry(row.name.as_str().into())
                .or_insert_with(|| Arc::clone(&plain));
            let mut relation = Relation::clone(known);
            relation.reading.merge(&reading.conduct);
            relation.changing.merge(&changing.conduct);
            relation.volatile |= reading.volatile;
            relation.commits_async |= reading.commits_async;
            relation.numbered.extend(changing.numbered.iter().cloned());
            if relation != **known {
                *known = Arc::new(relation);
            }
        }
        found
    }
}

fn function(row: &FunctionRow) -> (Node, Option<Body>) {
    let own = row.oid >= FIRST_USER_OID;
    let volatile = row.volatile && !is_harmless(row);
    let mut node = Node {
        volatile,
        commits_async: volatile && own,
        ..Node::default()
    };
    if !own {
        node.conduct = of_system(&row.name);
        return (node, None);
    }
    let body = match (&row.source, row.is_compiled()) {
        // What an aggregate is made of is looked at by itself.
        (Some(source), true) if source == "aggregate_dummy" => None,
        (_, true) => {
            if volatile && !QUIET_COMPILED.contains(&row.name.as_str()) {
                node.conduct = Conduct::unknown();
            }
            None
        }
        (None, false) => {
            node.conduct = Conduct::unknown();
            None
        }
        (Some(source), false) => {
            let mut body = body::read(&row.language, source);
            node.conduct = std::mem::take(&mut body.conduct);
            Some(body)
        }
    };
    (node, body)
}

/// What PostgreSQL's own functions do where they are called by a view, a default or a policy.
fn of_system(name: &str) -> Conduct {
    let lock = name.starts_with("pg_advisory_lock") || name.starts_with("pg_try_advisory_lock");
    let changes = lock || runs_any_text(name) || matches!(name, "set_config" | "setseed");
    Conduct {
        opaque: changes.then(|| {
            Arc::new(Opaque {
                names: Box::default(),
                any_name: name == "set_config",
                ..Opaque::default()
            })
        }),
        of_node: asks_about_node(name) || name == "pg_is_in_recovery",
        draws: matches!(name, "nextval" | "setval"),
        asks: matches!(name, "currval" | "lastval"),
        asks_channels: name == "pg_listening_channels",
        notifies: name == "pg_notify",
        defines: false,
        names: false,
    }
}

/// How a relation is read, and how it is written to, by what it is.
fn relation(row: &RelationRow) -> (Node, Node) {
    let mut reading = Node::default();
    // A standby shows a sequence up to 32 numbers ahead, refuses unlogged tables, and what a foreign
    // table shows may be on the server's own disk.
    reading.conduct.of_node = matches!(row.kind, 'S' | 'f')
        || row.unlogged
        || (row.oid < FIRST_USER_OID && is_of_node(&row.name));
    (reading, Node::default())
}

fn is_harmless(row: &FunctionRow) -> bool {
    let name = row.name.as_str();
    if row.oid < FIRST_USER_OID {
        HARMLESS.contains(&name)
    } else {
        row.is_compiled() && HARMLESS_COMPILED.contains(&name)
    }
}
