//! Statements that define something, or that say to the server what is neither query nor setting.

use std::sync::Arc;

use pg_raw_parse::Node;
use pg_raw_parse::nodes::{
    AlterDatabaseStmt, CreatedbStmt, DefElem, DropStmt, RangeVar, RenameStmt, RoleSpec,
};
use pg_raw_parse::raw::{DiscardMode, ObjectType, OnCommitAction, RoleSpecType};

use crate::core::statement::{Effect, PinReason, Renew, WriteReason};

use super::verdict::Verdict;

/// Roles that are told apart when they are dropped together.
const MOST_ROLES: usize = 16;

/// What is left to look into.
pub(super) enum Created<'a> {
    Nothing,
    /// The query that fills what was created.
    Query(Node<'a>),
    /// Rows are filled by defaults.
    Filled,
}

/// Adds what a statement means that is no query.
pub(super) fn note<'a>(node: Node<'a>, verdict: &mut Verdict) -> Created<'a> {
    match node {
        Node::DiscardStmt(statement) => verdict.effect(match statement.target {
            DiscardMode::DISCARD_ALL => Effect::DiscardAll,
            DiscardMode::DISCARD_TEMP => Effect::DiscardTemp,
            DiscardMode::DISCARD_SEQUENCES => Effect::DiscardSequences,
            _ => Effect::DiscardPlans,
        }),
        Node::DeallocateStmt(statement) => {
            let name = statement.name().filter(|_| !statement.isall);
            if name.is_some() {
                verdict.effect(Effect::NamesStatements);
            }
            verdict.effect(Effect::Deallocate(name.map(Box::from)));
            verdict.effect(Effect::Unpin(PinReason::SqlPrepare));
        }
        Node::LoadStmt(_) => pin(PinReason::Library, verdict),
        Node::ListenStmt(_) => {
            verdict.write(WriteReason::SessionState);
            verdict.effect(Effect::Listen);
        }
        Node::UnlistenStmt(_) => {
            verdict.write(WriteReason::SessionState);
            verdict.effect(Effect::Unpin(PinReason::Listen));
            verdict.effect(Effect::Unlisten);
        }
        Node::NotifyStmt(_) => {
            verdict.write(WriteReason::Command);
            verdict.effect(Effect::Notify);
        }
        Node::AlterSystemStmt(_)
        | Node::CheckPointStmt(_)
        | Node::ClusterStmt(_)
        | Node::CommentStmt(_)
        | Node::ConstraintsSetStmt(_)
        | Node::CreateRoleStmt(_)
        | Node::GrantRoleStmt(_)
        | Node::GrantStmt(_)
        | Node::LockStmt(_)
        | Node::RefreshMatViewStmt(_)
        | Node::ReindexStmt(_)
        | Node::SecLabelStmt(_)
        | Node::VacuumStmt(_) => verdict.write(WriteReason::Command),
        _ if of_everybody(node, verdict) => {}
        _ => return definition(node, verdict),
    }
    Created::Nothing
}

/// Whether it calls nothing of anybody's, neither by itself nor by a trigger on events.
pub(super) fn runs_nothing(node: Node<'_>) -> bool {
    matches!(
        node,
        Node::DiscardStmt(_)
            | Node::DeallocateStmt(_)
            | Node::ListenStmt(_)
            | Node::UnlistenStmt(_)
            | Node::NotifyStmt(_)
            | Node::LockStmt(_)
            | Node::CheckPointStmt(_)
            // Of what triggers it runs, it is known that they were put off.
            | Node::ConstraintsSetStmt(_)
    )
}

fn pin(reason: PinReason, verdict: &mut Verdict) {
    verdict.write(WriteReason::SessionState);
    verdict.effect(Effect::Pin(reason));
}

/// Roles and databases: sessions that begin later find them changed. False if it is about neither.
fn of_everybody(node: Node<'_>, verdict: &mut Verdict) -> bool {
    let renewals = match node {
        Node::AlterRoleSetStmt(statement) => vec![match statement.database() {
            Some(database) => Renew::Database(database.into()),
            None => Renew::Role(statement.role().and_then(role)),
        }],
        Node::AlterRoleStmt(statement) => vec![Renew::Role(statement.role().and_then(role))],
        Node::DropRoleStmt(statement) if statement.roles().len() > MOST_ROLES => {
            vec![Renew::Role(None)]
        }
        Node::DropRoleStmt(statement) => {
            let roles = statement.roles().iter().filter_map(|node| match node {
                Node::RoleSpec(spec) => Some(Renew::Role(role(spec))),
                _ => None,
            });
            roles.collect()
        }
        Node::AlterDatabaseSetStmt(statement) => statement
            .dbname()
            .map(|name| Renew::Database(name.into()))
            .into_iter()
            .collect(),
        Node::AlterDatabaseStmt(statement) => moved(statement),
        Node::DropdbStmt(statement) => close(statement.dbname()),
        Node::CreatedbStmt(statement) => copied(statement),
        Node::RenameStmt(statement) => match renamed(statement) {
            Some(renew) => vec![renew],
            None => return false,
        },
        _ => return false,
    };
    verdict.write(WriteReason::Command);
    for renew in renewals {
        verdict.effect(Effect::Renew(renew));
    }
    true
}

/// A role by its name; `CURRENT_USER` and its kin have none here.
fn role(spec: &RoleSpec) -> Option<Box<str>> {
    let named = spec.roletype == RoleSpecType::ROLESPEC_CSTRING;
    spec.rolename().filter(|_| named).map(Box::from)
}

fn close(database: Option<&str>) -> Vec<Renew> {
    database
        .map(|name| Renew::Close(name.into()))
        .into_iter()
        .collect()
}

fn renamed(statement: &RenameStmt) -> Option<Renew> {
    let name = Box::from(statement.subname()?);
    match statement.rename_type {
        ObjectType::OBJECT_DATABASE => Some(Renew::Close(name)),
        ObjectType::OBJECT_ROLE => Some(Renew::Role(Some(name))),
        _ => None,
    }
}

/// `CREATE DATABASE … TEMPLATE name`: nobody may be connected to what is copied.
fn copied(statement: &CreatedbStmt) -> Vec<Renew> {
    let template = option(statement.options().iter(), "template");
    close(template.and_then(|option| match option.arg() {
        Node::String(name) => name.sval(),
        _ => None,
    }))
}

/// `ALTER DATABASE name SET TABLESPACE` moves its files; other options are for who comes next.
fn moved(statement: &AlterDatabaseStmt) -> Vec<Renew> {
    match option(statement.options().iter(), "tablespace") {
        Some(_) => close(statement.dbname()),
        None => Vec::new(),
    }
}

fn option<'a>(mut options: impl Iterator<Item = &'a DefElem>, name: &str) -> Option<&'a DefElem> {
    options.find(|option| option.defname() == Some(name))
}

/// Everything else changes definitions.
fn definition<'a>(node: Node<'a>, verdict: &mut Verdict) -> Created<'a> {
    verdict.write(WriteReason::Command);
    let mut left = Created::Nothing;
    match node {
        Node::CreateStmt(statement) => {
            created(statement.relation(), statement.oncommit, verdict);
            return left;
        }
        Node::ViewStmt(statement) => {
            created(statement.view(), OnCommitAction::ONCOMMIT_NOOP, verdict);
            return left;
        }
        Node::CreateSeqStmt(statement) => {
            created(statement.sequence(), OnCommitAction::ONCOMMIT_NOOP, verdict);
            return left;
        }
        Node::CreateTableAsStmt(statement) => {
            if let Some(into) = statement.into() {
                created(into.rel(), into.on_commit, verdict);
            }
            return Created::Query(statement.query());
        }
        Node::DropStmt(statement) => {
            verdict.effect(Effect::Unpin(PinReason::TemporaryObject));
            if drops_temporary(statement) {
                return left;
            }
        }
        Node::AlterTableStmt(_) => left = Created::Filled,
        _ => match schema_of(node) {
            // What is no relation can be temporary too, and says so by its schema alone.
            Some(Some(schema)) if is_temporary_schema(schema) => {
                verdict.effect(Effect::Pin(PinReason::TemporaryObject));
                return left;
            }
            // Goes where `search_path` says, which may be `pg_temp`.
            Some(None) => verdict.opaque(&Arc::default()),
            _ => {}
        },
    }
    verdict.effect(Effect::Ddl);
    left
}

/// The schema that something new which is no relation is given, if it is given one; none for what creates
/// nothing that is in a schema of its own.
fn schema_of(node: Node<'_>) -> Option<Option<&str>> {
    fn first<'a>(mut names: impl ExactSizeIterator<Item = Node<'a>>) -> Option<&'a str> {
        let qualified = names.len() > 1;
        names.next().and_then(Node::as_str).filter(|_| qualified)
    }
    Some(match node {
        Node::CreateFunctionStmt(statement) => first(statement.funcname().iter()),
        Node::CreateEnumStmt(statement) => first(statement.type_name().iter().map(Node::String)),
        Node::CreateDomainStmt(statement) => first(statement.domainname().iter().map(Node::String)),
        Node::CreateRangeStmt(statement) => first(statement.type_name().iter().map(Node::String)),
        Node::DefineStmt(statement) => first(statement.defnames().iter().map(Node::String)),
        Node::CompositeTypeStmt(statement) => {
            statement.typevar().and_then(|name| name.schemaname())
        }
        Node::CreateStatsStmt(statement) => first(statement.defnames().iter().map(Node::String)),
        Node::CreateOpClassStmt(statement) => {
            first(statement.opclassname().iter().map(Node::String))
        }
        Node::CreateOpFamilyStmt(statement) => {
            first(statement.opfamilyname().iter().map(Node::String))
        }
        Node::CreateConversionStmt(statement) => first(statement.conversion_name().iter()),
        Node::ImportForeignSchemaStmt(statement) => statement.local_schema(),
        // Their scripts create what they like; and what the parser has no name for (a foreign table) may.
        Node::CreateExtensionStmt(_) | Node::AlterExtensionStmt(_) | Node::Invalid(_) => None,
        _ => return None,
    })
}

/// A relation was created.
pub(super) fn created(
    relation: Option<&RangeVar>,
    on_commit: OnCommitAction::Type,
    verdict: &mut Verdict,
) {
    let Some(relation) = relation else { return };
    match is_temporary(relation) {
        // Gone with its transaction, if there is one: that is asked for afterwards.
        true if on_commit == OnCommitAction::ONCOMMIT_DROP => verdict.opaque(&Arc::default()),
        true => verdict.effect(Effect::Pin(PinReason::TemporaryObject)),
        false => {
            if relation.schemaname().is_none() {
                verdict.opaque(&Arc::default());
            }
            verdict.effect(Effect::Ddl);
        }
    }
}

/// Whether everything that is dropped is in `pg_temp`, and says so.
fn drops_temporary(statement: &DropStmt) -> bool {
    let temporary = |node: Node<'_>| {
        let schema = match node {
            Node::NodeList(names) => names.iter().next().and_then(Node::as_str),
            Node::ObjectWithArgs(object) => object.objname().iter().next().and_then(Node::as_str),
            Node::TypeName(name) => name.names().iter().next().and_then(|n| n.sval()),
            _ => None,
        };
        schema.is_some_and(is_temporary_schema)
    };
    !statement.objects().is_empty() && statement.objects().iter().all(temporary)
}

/// Whether a relation lives in one server session only.
pub(super) fn is_temporary(relation: &RangeVar) -> bool {
    relation.relpersistence as u8 == b't' || relation.schemaname().is_some_and(is_temporary_schema)
}

/// Whether a schema is one session's own: `pg_temp`, or what the server calls it (`pg_temp_3`).
pub(super) fn is_temporary_schema(name: &str) -> bool {
    name.starts_with("pg_temp")
}
