//! The section `auth`: which stored passwords can serve which method.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::config::secret::Secret;
use crate::config::section::{GivenSecret, Read, Section};
use crate::config::values::one_of;

/// How clients prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// SCRAM-SHA-256.
    ScramSha256,
    /// MD5 challenge.
    Md5,
    /// No proof.
    Trust,
}

/// Who may connect, and how they prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Method asked of clients.
    pub method: AuthMethod,
    pub users: HashMap<String, User>,
}

/// One user: what a client must prove and what is shown to the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Plain password, `SCRAM-SHA-256$…` verifier or `md5…` hash; none only under `trust`.
    pub password: Option<Secret>,
    /// Plain password for the servers, filled in from `password` where that is a plain one.
    pub server_password: Option<Secret>,
}

const METHODS: [(&str, AuthMethod); 3] = [
    ("scram-sha-256", AuthMethod::ScramSha256),
    ("md5", AuthMethod::Md5),
    ("trust", AuthMethod::Trust),
];

pub(super) fn auth(section: &mut Section<'_>) -> Read<Auth> {
    let method = section.or("method", AuthMethod::ScramSha256, one_of(&METHODS));
    // With the method unknown, users are still checked for what holds under any.
    let users = section.named("users", |section| user(section, method.ok()));
    let (method, users) = (method?, users?);
    if users.is_empty() && method != AuthMethod::Trust {
        return Err(section.fault("users", "nobody could log in: name at least one user"));
    }
    let users = users.into_iter().collect::<HashMap<_, _>>();
    Ok(Auth { method, users })
}

fn user(section: &mut Section<'_>, method: Option<AuthMethod>) -> Read<User> {
    let password = section.secret("password", "password_file");
    let server = section.secret("server_password", "server_password_file");
    let (password, server) = (
        password.and_then(|given| client_password(section, given, method)),
        server.and_then(|given| match given {
            Some(given) => plain(section, given).map(Some),
            None => Ok(None),
        }),
    );
    let (password, mut server_password) = (password?, server?);
    if server_password.is_none() {
        server_password = password
            .clone()
            .filter(|text| PasswordKind::of(text.reveal()).is_plain());
    }
    Ok(User {
        password,
        server_password,
    })
}

fn client_password(
    section: &Section<'_>,
    given: Option<GivenSecret>,
    method: Option<AuthMethod>,
) -> Read<Option<Secret>> {
    let Some(GivenSecret { secret, key }) = given else {
        return match method {
            Some(AuthMethod::ScramSha256 | AuthMethod::Md5) => Err(section.fault(
                "password",
                "missing: give `password` or `password_file`, or set auth.method to trust",
            )),
            Some(AuthMethod::Trust) | None => Ok(None),
        };
    };
    let fault = match (PasswordKind::of(secret.reveal()), method) {
        (PasswordKind::BrokenVerifier, _) => {
            "must be `SCRAM-SHA-256$iterations:salt$stored key:server key` with base64 parts, as \
             pg_authid.rolpassword shows it: this verifier has another shape"
        }
        (PasswordKind::Md5, Some(AuthMethod::ScramSha256)) => {
            "an md5 hash cannot check a SCRAM login, which needs what the hash does not hold: give \
             the plain password or a SCRAM-SHA-256 verifier, or set auth.method to md5"
        }
        (PasswordKind::Verifier, Some(AuthMethod::Md5)) => {
            "a SCRAM verifier cannot check an md5 login: give the plain password or its md5 hash, \
             or set auth.method to scram-sha-256"
        }
        _ => return Ok(Some(secret)),
    };
    Err(section.fault(key, fault))
}

/// The keys `password` and `password_file` where the password is itself sent to a server.
pub(super) fn plain_password(section: &mut Section<'_>) -> Read<Option<Secret>> {
    match section.secret("password", "password_file")? {
        Some(given) => plain(section, given).map(Some),
        None => Ok(None),
    }
}

/// A password that is itself sent to the servers or used to answer them.
fn plain(section: &Section<'_>, given: GivenSecret) -> Read<Secret> {
    if PasswordKind::of(given.secret.reveal()).is_plain() {
        return Ok(given.secret);
    }
    Err(section.fault(
        given.key,
        "must be a plain password: servers accept no hash or verifier",
    ))
}

/// What a stored password is, by its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PasswordKind {
    Plain,
    Verifier,
    BrokenVerifier,
    Md5,
}

impl PasswordKind {
    fn of(text: &str) -> Self {
        if let Some(rest) = text.strip_prefix("SCRAM-SHA-256$") {
            return if is_verifier(rest) {
                Self::Verifier
            } else {
                Self::BrokenVerifier
            };
        }
        match text.strip_prefix("md5") {
            Some(hash) if hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Self::Md5
            }
            _ => Self::Plain,
        }
    }

    fn is_plain(self) -> bool {
        self == Self::Plain
    }
}

/// What follows the mechanism's name: `iterations:salt$stored key:server key`.
fn is_verifier(text: &str) -> bool {
    let Some((setup, keys)) = text.split_once('$') else {
        return false;
    };
    let (Some((iterations, salt)), Some((stored, server))) =
        (setup.split_once(':'), keys.split_once(':'))
    else {
        return false;
    };
    let bytes = |text: &str| BASE64_STANDARD.decode(text).map_or(0, |bytes| bytes.len());
    iterations.parse::<u32>().is_ok_and(|count| count > 0)
        && bytes(salt) > 0
        && bytes(stored) == 32
        && bytes(server) == 32
}

/// Users whose clients can log in but who have nothing to show to a server that asks.
pub(super) fn without_server_password(auth: &Auth) -> Vec<&str> {
    let mut names: Vec<&str> = auth
        .users
        .iter()
        .filter(|(_, user)| user.server_password.is_none())
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    names
}
