//! Sessions share server connections and notice nothing of it: what drivers do every day, while other
//! sessions keep the connections changing hands.

mod asked;
mod constants;
mod crowded;
mod encodings;
mod found;
mod handed_over;
mod hidden;
mod long;
mod pinned;
mod pipelines;
mod plans;
mod prepared;
mod processes;
mod renewed;
mod settings;
mod shapes;
mod statements;
mod strangers;
mod temporary;
mod traffic;
mod unanswered;
mod unread;
mod withheld;
mod within;

use pgcauseway::rig::Login;

use crate::support::Proxy;
use crate::{cluster, on_primary};

/// Sessions that share one connection to the primary.
fn proxy() -> Proxy {
    Proxy::start(
        cluster(),
        "pool: { size: 1, wait_timeout: 20s }\nrouting: { consistency: primary }\n",
    )
}

/// A login to a database of its own: what is defined in it would be everybody's.
fn apart(name: &str) -> Login {
    on_primary(
        cluster(),
        &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
    );
    on_primary(
        cluster(),
        &format!("CREATE DATABASE {name} OWNER demo TEMPLATE template0"),
    );
    Login::new("demo", "demo", name)
}
