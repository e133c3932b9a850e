//! Code that stands in the statement itself, and what it does with what it calls.

use pg_raw_parse::Node;
use pg_raw_parse::nodes::DoStmt;

use crate::core::statement::Opaque;

use super::body::{Body, read};
use super::catalog::Catalog;
use super::conduct::Conduct;
use super::skim::Skim;

/// What a DO statement does.
pub(super) fn of_do(statement: &DoStmt, catalog: &Catalog) -> Conduct {
    let option = |name: &str| {
        let mut options = statement.args().iter();
        let found = options.find(|option| option.defname() == Some(name))?;
        match found.arg() {
            Node::String(text) => text.sval(),
            _ => None,
        }
    };
    let language = option("language").unwrap_or("plpgsql").to_ascii_lowercase();
    match option("as") {
        Some(source) => resolved(read(&language, source), catalog),
        None => Conduct::unknown(),
    }
}

/// What the expressions in a definition do, which run at once.
pub(super) fn of_definition(source: &str, catalog: &Catalog) -> Conduct {
    let mut body = read("sql", source);
    let draws = ["serial", "bigserial", "smallserial", "identity"];
    body.conduct.draws |= draws.iter().any(|word| body.words.contains(*word));
    body.conduct.defines = false;
    resolved(body, catalog)
}

/// What a text may do that is not parsed: by its words, it may name custom settings.
pub(super) fn of_unread(text: &[u8], catalog: &Catalog) -> Opaque {
    let mut skim = Skim::new(catalog);
    skim.feed(text);
    skim.finish().into_opaque()
}

fn resolved(body: Body, catalog: &Catalog) -> Conduct {
    let mut conduct = body.conduct;
    if !catalog.is_loaded() {
        conduct.merge(&Conduct::unknown());
        conduct.of_node = false;
        return conduct;
    }
    if conduct.makes_up {
        conduct.merge(catalog.anything());
    }
    conduct.merge(catalog.unseen());
    let functions = body.calls.iter().filter_map(|name| catalog.function(name));
    functions.for_each(|function| {
        conduct.merge(&function.conduct);
    });
    for relation in body.words.iter().filter_map(|name| catalog.relation(name)) {
        conduct.merge(&relation.reading);
    }
    for relation in body
        .changes
        .iter()
        .filter_map(|name| catalog.relation(name))
    {
        conduct.merge(&relation.changing);
    }
    let inserts = body.inserts.iter();
    let mut inserts = inserts.filter_map(|name| catalog.relation(name));
    conduct.draws |= inserts.any(|relation| relation.draws());
    // Whatever it runs, it runs on the primary already.
    conduct.of_node = false;
    conduct
}
