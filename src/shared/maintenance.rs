//! What operators ask of the proxy as a whole: `admin` asks, and `app` answers, who alone can reach all
//! that a reload changes.

use std::fmt;
use std::pin::Pin;

use crate::core::topology::NodeId;

/// Who carries it out.
pub trait Maintenance: Send + Sync + fmt::Debug {
    /// Reads the configuration file again and goes by it, or changes nothing; `from` says in the log
    /// who asked. Ends within a bound.
    fn reload<'a>(&'a self, from: &'a str) -> Reloading<'a>;

    /// Closes the idle server connections of a database, or all; gives the number of those that are in
    /// use at this moment.
    fn close_idle(&self, database: Option<&str>) -> usize;

    /// Server connections to a node at this moment, in use or not.
    fn open_on(&self, node: NodeId) -> usize;

    /// Closes at once what would be closed soon.
    fn tidy(&self);
}

/// A reload under way.
pub type Reloading<'a> = Pin<Box<dyn Future<Output = Result<Reloaded, NotReloaded>> + Send + 'a>>;

/// How a reload went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// The keys whose new values are in force.
    pub applied: Vec<String>,
    /// The keys that differ, and keep their old values until a restart.
    pub restart: Vec<String>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.applied.as_slice() {
            [] => f.write_str("nothing has changed that a reload applies")?,
            applied => write!(f, "applied: {}", applied.join(", "))?,
        }
        match self.restart.as_slice() {
            [] => Ok(()),
            restart => write!(f, "; needs a restart: {}", restart.join(", ")),
        }
    }
}

/// Why nothing was changed: each fault of the file in a line, with file, line and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReloaded {
    /// At least one.
    pub faults: Vec<String>,
}

impl fmt::Display for NotReloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.faults.join("\n"))
    }
}
