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
    /// Functions that casts and domains call.
    everywhere: Vec<usize>,
}

/// What a graph comes to.
pub(super) struct Settled {
    pub(super) functions: Map<Function>,
    pub(super) relations: Map<Arc<Relation>>,
    pub(super) operators: Map<Function>,
    /// See [`super::Catalog::everywhere`].
    pub(super) everywhere: Conduct,
    /// See [`super::Catalog::anything`].
    pub(super) anything: Conduct,
}

impl<'a> Graph<'a> {
    pub(super) fn of(rows: &'a Rows) -> Self {
        let mut graph = Self {
            rows,
            nodes: Vec::new(),
            edges: Vec::new(),
            everywhere: Vec::new(),
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
                Dependency::Everywhere => {
                    // Compiled ones are an extension's, which sets nothing behind anybody's back.
                    let seen = |at: &usize| !rows.functions[*at].is_compiled();
                    let called = functions.get(&row.on).copied();
                    self.everywhere.extend(
                        called.filter(|at| seen(at) || rows.functions[*at].oid < FIRST_USER_OID),
                    );
                    [(None, None), (None, None)]
                }
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
    pub(super) fn settle(mut self) -> Settled {
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
        let anything = self.anything();
        for node in &mut self.nodes {
            if node.conduct.makes_up {
                node.conduct.merge(&anything);
            }
        }
        let mut everywhere = Conduct::default();
        for at in &self.everywhere {
            everywhere.merge(&self.nodes[*at].conduct);
        }
        everywhere.of_node = false;
        let operators = self.operators();
        // Of what bodies say, their casts and operators are not looked at.
        let mut unseen = everywhere.clone();
        operators.values().for_each(|operator| {
            unseen.merge(&operator.conduct);
        });
        for (row, node) in self.rows.functions.iter().zip(&mut self.nodes) {
            if row.oid >= FIRST_USER_OID && !row.is_compiled() {
                node.conduct.merge(&unseen);
            }
        }
        Settled {
            functions: self.functions(),
            relations: self.relations(),
            operators,
            everywhere,
            anything,
        }
    }

    /// What all that users have defined may leave on a session: by custom settings of known names.
    fn anything(&self) -> Conduct {
        let own = |at: usize| match self.rows.functions.get(at) {
            Some(row) => row.oid >= FIRST_USER_OID,
            None => self.rows.relations[(at - self.rows.functions.len()) / 2].oid >= FIRST_USER_OID,
        };
        let mut anything = Conduct::default();
        for (_, node) in self.nodes.iter().enumerate().filter(|(at, _)| own(*at)) {
            anything.draws |= node.conduct.draws || !node.numbered.is_empty();
            if let Some(opaque) = &node.conduct.opaque {
                anything.merge_opaque(&Arc::new(Opaque {
                    any_name: false,
                    ..Opaque::clone(opaque)
                }));
            }
        }
        anything
    }

    fn operators(&self) -> Map<Function> {
        let functions: HashMap<u32, usize, ahash::RandomState> = self
            .rows
            .functions
            .iter()
            .enumerate()
            .map(|(at, row)| (row.oid, at))
            .collect();
        let mut found: Map<Function> = Map::default();
        for row in &self.rows.operators {
            let Some(node) = functions
                .get(&row.function)
                .and_then(|at| self.nodes.get(*at))
            else {
                continue;
            };
            let known = found.entry(row.name.as_str().into()).or_default();
            known.volatile |= node.volatile;
            known.user_defined |= node.commits_async;
            known.conduct.merge(&node.conduct);
        }
        found
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
        makes_up: runs_any_text(name),
    }
}

/// How a relation is read, and how it is written to, by what it is.
fn relation(row: &RelationRow) -> (Node, Node) {
    let (mut reading, mut changing) = (Node::default(), Node::default());
    // An UPDATE of it is a SET (manual, "pg_settings").
    if row.oid < FIRST_USER_OID && row.name == "pg_settings" {
        changing.conduct = Conduct::unknown();
    }
    // A standby shows a sequence up to 32 numbers ahead, refuses unlogged tables, and what a foreign
    // table shows may be on the server's own disk.
    reading.conduct.of_node = matches!(row.kind, 'S' | 'f')
        || row.unlogged
        || (row.oid < FIRST_USER_OID && is_of_node(&row.name));
    (reading, changing)
}

fn is_harmless(row: &FunctionRow) -> bool {
    let name = row.name.as_str();
    if row.oid < FIRST_USER_OID {
        HARMLESS.contains(&name)
    } else {
        row.is_compiled() && HARMLESS_COMPILED.contains(&name)
    }
}
