//! Who may log in to a cluster.

/// A user, its password, and the database it works in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    /// Its password, in the clear.
    pub password: String,
    pub database: String,
}

impl Login {
    pub fn new(user: &str, password: &str, database: &str) -> Self {
        Self {
            user: user.into(),
            password: password.into(),
            database: database.into(),
        }
    }
}

/// Who may log in to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `postgres`.
    pub superuser: Login,
    /// `causeway`, which may do what scripts/grants.sql grants it.
    pub monitor: Login,
    /// `replicator`, as whom standbys replicate.
    pub replication: Login,
    /// `demo` with password `demo`, the owner of database `demo`; and what the builder was given.
    pub applications: Vec<Login>,
}

impl Default for Credentials {
    fn default() -> Self {
        Self {
            superuser: Login::new("postgres", "postgres", "postgres"),
            monitor: Login::new("causeway", "causeway", "postgres"),
            replication: Login::new("replicator", "replicator", "postgres"),
            applications: vec![Login::new("demo", "demo", "demo")],
        }
    }
}
