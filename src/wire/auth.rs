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
use pgwire::error::PgWireError;

use crate::error::{Kind, Problem};

/// What pgwire says of a client that has seen another certificate.
const BINDING_MISMATCH: &str = "Channel binding mismatch";

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

/// What binds a SCRAM login to the TLS it comes by: the certificate that the client has seen
/// (`tls-server-end-point`, RFC 5929).
#[derive(Clone)]
pub struct Binding(ScramServerAuth);

impl Binding {
    /// To this certificate, in DER; none where its signature says by no hash that is known what stands for
    /// it, as Ed25519's does not.
    pub fn to(certificate: &[u8]) -> Option<Self> {
        let text = STANDARD.encode(certificate);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        let mut bound = ScramServerAuth::new();
        bound.configure_certificate(pem.as_bytes()).ok()?;
        Some(Self(bound))
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Binding")
    }
}

/// The mechanisms that are offered, the strongest first.
pub fn mechanisms(binding: Option<&Binding>) -> Vec<String> {
    let plus = binding.map(|_| SCRAM_SHA_256_PLUS.to_owned());
    plus.into_iter().chain([SCRAM_SHA_256.to_owned()]).collect()
}

/// The names of the mechanisms.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Why a client's proof is none.
#[derive(Debug, PartialEq, Eq)]
pub enum Unproved {
    /// It is another password's, or nobody's.
    Wrong,
    /// Something else is wrong with it.
    Malformed(Problem),
}

/// A SCRAM exchange after the client's first message.
pub struct ScramExchange {
    state: ScramServerAuthWaitingForClientFinal,
    /// An unknown user goes through the motions, so that it cannot be told from a wrong password.
    doomed: bool,
    /// It is bound to a certificate.
    bound: bool,
}

impl ScramExchange {
    /// Takes the client's first message by a mechanism that was offered; gives the exchange and the
    /// server's first message.
    pub fn begin(
        verifier: Option<&Verifier>,
        binding: Option<&Binding>,
        mechanism: &str,
        first: &[u8],
    ) -> Result<(Self, String), Problem> {
        let malformed = || Problem::fatal(Kind::ProtocolViolation, "malformed SCRAM message");
        let bound = mechanism == SCRAM_SHA_256_PLUS;
        // RFC 5802, section 6, in PostgreSQL's words.
        match first.first() {
            Some(b'n' | b'y') if bound => {
                return Err(malformed().with_detail(
                    "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include \
                     channel binding data.",
                ));
            }
            Some(b'p') if !bound => {
                return Err(malformed().with_detail(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message \
                     includes channel binding data.",
                ));
            }
            // Somebody in between has taken the offer away.
            Some(b'y') if binding.is_some() => {
                let what = "SCRAM channel binding negotiation error";
                return Err(
                    Problem::fatal(Kind::InvalidAuthorization, what).with_detail(
                        "The client supports SCRAM channel binding but thinks the server does not. \
                     However, this server does support channel binding.",
                    ),
                );
            }
            _ => {}
        }
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
        let (answer, state) = match binding {
            Some(Binding(bound)) => bound.on_client_first_message_with_secret(first, secret),
            None => ScramServerAuth::new().on_client_first_message_with_secret(first, secret),
        }
        .map_err(|_| malformed())?;
        let begun = Self {
            state,
            doomed,
            bound,
        };
        Ok((begun, answer))
    }

    /// Takes the client's proof; gives the server's.
    pub fn finish(&self, last: &[u8]) -> Result<String, Unproved> {
        match self.state.on_client_final_message(last) {
            Ok(answer) if !self.doomed => Ok(answer),
            // The only one whose name tells it.
            Err(PgWireError::InvalidScramMessage(what)) if what == BINDING_MISMATCH => {
                Err(Unproved::Malformed(match self.bound {
                    true => Problem::fatal(
                        Kind::InvalidAuthorization,
                        "SCRAM channel binding check failed",
                    ),
                    false => Problem::fatal(
                        Kind::ProtocolViolation,
                        "unexpected SCRAM channel-binding attribute in client-final-message",
                    ),
                }))
            }
            Err(PgWireError::InvalidScramMessage(_)) => Err(Unproved::Malformed(Problem::fatal(
                Kind::ProtocolViolation,
                "malformed SCRAM message",
            ))),
            Ok(_) | Err(_) => Err(Unproved::Wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::authentication::{md5_hash, sasl};

    fn login(verifier: Option<&Verifier>, password: &str) -> bool {
        bound_login(
            verifier,
            password,
            None,
            sasl::ChannelBinding::unsupported(),
        )
        .is_ok()
    }

    /// A login by the mechanism that goes with what the client binds it to.
    fn bound_login(
        verifier: Option<&Verifier>,
        password: &str,
        binding: Option<&Binding>,
        seen: sasl::ChannelBinding,
    ) -> Result<(), Unproved> {
        let mut client = sasl::ScramSha256::new(password.as_bytes(), seen);
        let mechanism = match client.message().first() {
            Some(b'p') => SCRAM_SHA_256_PLUS,
            _ => SCRAM_SHA_256,
        };
        let begun = ScramExchange::begin(verifier, binding, mechanism, client.message());
        let (exchange, first) = begun.map_err(Unproved::Malformed)?;
        client.update(first.as_bytes()).unwrap();
        let last = exchange.finish(client.message())?;
        client.finish(last.as_bytes()).unwrap();
        Ok(())
    }

    /// A certificate, signed by a key of this kind.
    fn certificate(kind: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(kind).unwrap();
        let made = rcgen::CertificateParams::new(["here".to_owned()]).unwrap();
        made.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_login_is_bound_to_the_certificate_that_was_seen() {
        use sasl::ChannelBinding as Seen;
        let verifier = Verifier::scram("sesame").unwrap();
        let [own, other] = [(); 2].map(|()| certificate(&rcgen::PKCS_ECDSA_P256_SHA256));
        let binding = Binding::to(&own);
        assert!(binding.is_some());
        let sha256 = |bytes: &[u8]| {
            use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
            let rustls::SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 else {
                panic!()
            };
            let hash = suite.common.hash_provider.hash(bytes);
            Seen::tls_server_end_point(hash.as_ref().to_vec())
        };
        let try_login = |password: &str, seen| match bound_login(
            Some(&verifier),
            password,
            binding.as_ref(),
            seen,
        ) {
            Ok(()) => "in".to_owned(),
            Err(Unproved::Wrong) => "wrong".to_owned(),
            Err(Unproved::Malformed(problem)) => problem.to_string(),
        };
        assert_eq!(try_login("sesame", sha256(&own)), "in");
        assert_eq!(try_login("other", sha256(&own)), "wrong");
        assert_eq!(try_login("sesame", Seen::unsupported()), "in");
        assert_eq!(
            try_login("sesame", sha256(&other)),
            "SCRAM channel binding check failed (SQLSTATE 28000)"
        );
        // It would have bound, had it been offered.
        assert_eq!(
            try_login("sesame", Seen::unrequested()),
            "SCRAM channel binding negotiation error (SQLSTATE 28000)"
        );
        let without = bound_login(Some(&verifier), "sesame", None, Seen::unrequested());
        assert_eq!(without, Ok(()));
    }

    #[test]
    fn a_mechanism_and_its_first_message_belong_together() {
        let own = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        let binding = Binding::to(&own);
        for (mechanism, first) in [
            (SCRAM_SHA_256_PLUS, &b"n,,n=,r=abc"[..]),
            (SCRAM_SHA_256_PLUS, b"y,,n=,r=abc"),
            (SCRAM_SHA_256, b"p=tls-server-end-point,,n=,r=abc"),
            (SCRAM_SHA_256_PLUS, b"p=tls-unique,,n=,r=abc"),
            (SCRAM_SHA_256_PLUS, b""),
        ] {
            let begun = ScramExchange::begin(None, binding.as_ref(), mechanism, first);
            assert_eq!(begun.err().unwrap().kind, Kind::ProtocolViolation);
        }
    }

    #[test]
    fn what_no_hash_stands_for_binds_nothing() {
        assert!(Binding::to(&certificate(&rcgen::PKCS_ED25519)).is_none());
        assert!(Binding::to(&certificate(&rcgen::PKCS_ECDSA_P384_SHA384)).is_some());
        assert!(Binding::to(b"no certificate").is_none());
        assert_eq!(mechanisms(None), [SCRAM_SHA_256]);
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
