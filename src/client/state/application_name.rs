//! `application_name`: the one default that server connections do not have from their startup packet, since
//! they are shared by clients that differ in it.

pub(super) const APPLICATION_NAME: &str = "application_name";

/// The client's own default, and what it believes to be in force.
#[derive(Debug)]
pub(in crate::client) struct ApplicationName {
    own: Option<String>,
    told: String,
}

impl ApplicationName {
    /// As the startup packet said.
    pub(super) fn new(own: Option<String>) -> Self {
        let told = own.clone().unwrap_or_default();
        Self { own, told }
    }

    /// The client's default, if it has one.
    pub(super) fn own(&self) -> Option<&str> {
        self.own.as_deref()
    }

    /// What the client is told in place of a server's word about the application's name: the server's own
    /// default is not the client's. None for the word itself, an empty text for nothing.
    pub(in crate::client) fn in_place_of(&mut self, name: &str, value: &str) -> Option<String> {
        if name != APPLICATION_NAME {
            return None;
        }
        let default = self.own.clone()?;
        let shown = if value.is_empty() {
            default
        } else {
            value.to_owned()
        };
        let told = std::mem::replace(&mut self.told, shown.clone());
        match (told == shown, value.is_empty()) {
            (true, _) => Some(String::new()),
            (false, true) => Some(shown),
            (false, false) => None,
        }
    }
}

/// The statement that sets it, for the transaction alone where `local` says `LOCAL `.
pub(super) fn set(name: &str, local: &str) -> String {
    let value = name.replace('\\', "\\\\").replace('\'', "''");
    format!("SET {local}{APPLICATION_NAME} = E'{value}'")
}
