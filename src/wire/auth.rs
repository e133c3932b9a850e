//! How a client proves who it is: SCRAM-SHA-256 by pgwire's state machine, MD5, or trust.
//!
//! SCRAM keys are derived once per user when the configuration is read, never at a login.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pgwire::api::auth::sasl::scram::{
    SCRAM_ITERATIONS, ScramSecret, ScramServerAuth, ScramServerAuthWaitingForClientFinal,
    gen_salted_password,
};

use crate::error::{Kind, Problem};

/// What is kept of a password to check a client's proof.
#[derive(Clone)]
pub enum Verifier {
    /// Nothing is asked.
    Trust,
    /// `md5` and 32 hexadecimal digits: MD5 of password and user name.
    Md5(String),
    /// The four parts of PostgreSQL's `SCRAM-SHA-256$…`.
    Scram {
        iterations: usize,
        salt: Vec<u8>,
        /// SHA-256 of the client key.
        stored_key: Vec<u8>,
        /// Key that proves the server.
        server_key: Vec<u8>,
    },
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trust => "trust",
            Self::Md5(_) => "md5 <secret>",
            Self::Scram { .. } => "scram-sha-256 <secret>",
        })
    }
}

impl Verifier {
    /// For `scram-sha-256`, from a plain password or PostgreSQL's stored form.
    pub fn scram(password: &str) -> Option<Self> {
        if let Some(stored) = password.strip_prefix("SCRAM-SHA-256$") {
            let (head, keys) = stored.split_once('$')?;
            let (iterations, salt) = head.split_once(':')?;
            let (stored_key, server_key) = keys.split_once(':')?;
            let decode = |text: &str| STANDARD.decode(text).ok();
            return Some(Self::Scram {
                iterations: iterations.parse().ok()?,
                salt: decode(salt)?,
                stored_key: decode(stored_key)?,
                server_key: decode(server_key)?,
            });
        }
        let salt: [u8; 16] = rand::random();
        let salted = gen_salted_password(password, &salt, SCRAM_ITERATIONS);
        let secret =
            ScramSecret::verifier_from_salted_password(salt.to_vec(), salted, SCRAM_ITERATIONS);
        match secret {
            ScramSecret::Verifier {
                salt,
                iterations,
                stored_key,
                server_key,
            } => Some(Self::Scram {
                iterations,
                salt,
                stored_key,
                server_key,
            }),
            ScramSecret::SaltedPassword { .. } => None,
        }
    }

    /// For `md5`, from a plain password or PostgreSQL's stored form.
    pub fn md5(user: &str, password: &str) -> Self {
        let stored = password.strip_prefix("md5").filter(|digits| {
            digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        Self::Md5(match stored {
            Some(digits) => digits.to_ascii_lowercase(),
            None => md5_hex(format!("{password}{user}").as_bytes()),
        })
    }

    /// Checks the answer to an MD5 challenge.
    pub fn md5_matches(&self, answer: &[u8], salt: [u8; 4]) -> bool {
        let Self::Md5(stored) = self else {
            return false;
        };
        let expected = format!("md5{}", md5_hex(&[stored.as_bytes(), &salt].concat()));
        // The salt is fresh, so that the time of this comparison tells nothing of use.
        expected.as_bytes() == answer
    }
}

/// `md5_hash` computes MD5(MD5(password + user) + salt); its inner half is what is needed here.
fn md5_hex(bytes: &[u8]) -> String {
    use md5::{Digest, Md5};
    Md5::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A SCRAM exchange after the client's first message.
pub struct ScramExchange {
    state: ScramServerAuthWaitingForClientFinal,
    /// An unknown user goes through the motions, so that it cannot be told from a wrong password.
    doomed: bool,
}

impl ScramExchange {
    /// Takes the client's first message; gives the exchange and the server's first message.
    pub fn begin(verifier: Option<&Verifier>, first: &[u8]) -> Result<(Self, String), Problem> {
        let malformed = |_| Problem::fatal(Kind::ProtocolViolation, "malformed SCRAM message");
        let (secret, doomed) = match verifier {
            Some(Verifier::Scram {
                iterations,
                salt,
                stored_key,
                server_key,
            }) => (
                ScramSecret::Verifier {
                    salt: salt.clone(),
                    iterations: *iterations,
                    stored_key: stored_key.clone(),
                    server_key: server_key.clone(),
                },
                false,
            ),
            _ => (
                ScramSecret::Verifier {
                    salt: rand::random::<[u8; 16]>().to_vec(),
                    iterations: SCRAM_ITERATIONS,
                    stored_key: vec![0; 32],
                    server_key: vec![0; 32],
                },
                true,
            ),
        };
        let (answer, state) = ScramServerAuth::new()
            .on_client_first_message_with_secret(first, secret)
            .map_err(malformed)?;
        Ok((Self { state, doomed }, answer))
    }

    /// Takes the client's proof; gives the server's, or none when the proof is wrong.
    pub fn finish(&self, last: &[u8]) -> Option<String> {
        self.state
            .on_client_final_message(last)
            .ok()
            .filter(|_| !self.doomed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::authentication::{md5_hash, sasl};

    fn login(verifier: Option<&Verifier>, password: &str) -> bool {
        let mut client =
            sasl::ScramSha256::new(password.as_bytes(), sasl::ChannelBinding::unsupported());
        let (exchange, first) = ScramExchange::begin(verifier, client.message()).unwrap();
        client.update(first.as_bytes()).unwrap();
        match exchange.finish(client.message()) {
            Some(last) => client.finish(last.as_bytes()).is_ok(),
            None => false,
        }
    }

    #[test]
    fn scram_takes_the_right_password_only() {
        let verifier = Verifier::scram("sesame").unwrap();
        assert!(login(Some(&verifier), "sesame"));
        assert!(!login(Some(&verifier), "Sesame"));
        assert!(!login(None, "sesame"), "an unknown user");
    }

    #[test]
    fn scram_takes_the_form_that_postgresql_stores() {
        // PostgreSQL: pg_authid.rolpassword.
        let Verifier::Scram {
            iterations,
            salt,
            stored_key,
            server_key,
        } = Verifier::scram("demo").unwrap()
        else {
            panic!()
        };
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let stored = format!(
            "SCRAM-SHA-256${iterations}:{}${}:{}",
            encode(&salt),
            encode(&stored_key),
            encode(&server_key)
        );
        assert!(login(Verifier::scram(&stored).as_ref(), "demo"));
        assert!(Verifier::scram("SCRAM-SHA-256$nonsense").is_none());
    }

    #[test]
    fn md5_takes_the_right_password_only() {
        let salt = [1, 2, 3, 4];
        let stored = format!("md5{}", md5_hex(b"sesameann"));
        for verifier in [
            Verifier::md5("ann", "sesame"),
            Verifier::md5("ann", &stored),
        ] {
            let answer = |password: &[u8]| md5_hash(b"ann", password, salt);
            assert!(verifier.md5_matches(answer(b"sesame").as_bytes(), salt));
            assert!(!verifier.md5_matches(answer(b"other").as_bytes(), salt));
        }
    }
}
