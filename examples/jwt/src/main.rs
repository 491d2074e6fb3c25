//! A guest that lets only requests with a valid JSON Web Token pass: `Authorization: Bearer TOKEN`. It tells the next
//! handler the token's subject in a request header, and removes what a client has sent under that name.
//!
//! The configuration is JSON. Its `keys` are those of a JSON Web Key Set (RFC 7517), as identity providers publish them:
//!
//! ```json
//! {
//!   "keys": [{ "kid": "2026-08", "kty": "RSA", "alg": "RS256", "n": "…", "e": "AQAB" }],
//!   "issuer": "https://id.example.com",
//!   "audience": "orders",
//!   "header": "x-user"
//! }
//! ```
//!
//! | name | default | meaning |
//! |---|---|---|
//! | `keys` | | 1 to 16 keys; those with `"use": "enc"` are left out. A key is for its own `alg` alone |
//! | `algorithm` | | `alg` of keys that have none |
//! | `issuer` | any | what `iss` of a token has to be |
//! | `audience` | none | what `aud` of a token has to be or to contain; without it tokens with an `aud` are refused |
//! | `leeway` | 30 | seconds by which clocks may differ, at most 600 |
//! | `header` | `x-jwt-subject` | the request header that gets `sub` |
//!
//! A token needs `exp` and `sub`; `nbf` counts if it is there. The reason of a refusal is in error_log (level info), and
//! in the variables `$wasm_log_jwt` and `$wasm_log_sub`. The clock has to be right: not with `http_wasm_strict on`.

use std::str::FromStr;

use http_wasm_guest::host::{Bytes, Request, Response, admin, log};
use http_wasm_guest::{Guest, register};
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

const INFO: i32 = 0;
const ERROR: i32 = 2;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    keys: Vec<serde_json::Value>,
    algorithm: Option<Algorithm>,
    issuer: Option<String>,
    audience: Option<String>,
    #[serde(default = "default_leeway")]
    leeway: u64,
    #[serde(default = "default_header")]
    header: String,
}

fn default_leeway() -> u64 {
    30
}

fn default_header() -> String {
    "x-jwt-subject".into()
}

/// A key, and what is asked of the tokens that it has signed.
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    validation: Validation,
}

struct Jwt {
    keys: Vec<Key>,
    header: String,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl Guest for Jwt {
    fn handle_request(&self, request: &Request, response: &Response) -> (bool, i32) {
        // Also x_user for x-user: many backends see the same name in both.
        for name in request.header.names() {
            if same_name(&name, self.header.as_bytes()) {
                request.header.remove(&name);
            }
        }

        let (status, challenge, reason) = match token(&request.header.values(b"authorization")) {
            Ok(None) => (401, "Bearer", "no token".into()),
            Ok(Some(token)) => match self.subject(&token) {
                Ok(subject) => {
                    request.header.set(self.header.as_bytes(), subject.as_bytes());
                    say(&serde_json::json!({ "jwt": "ok", "sub": subject }));
                    return (true, 0);
                }
                Err(reason) => (401, r#"Bearer error="invalid_token""#, reason),
            },
            Err(reason) => (400, r#"Bearer error="invalid_request""#, reason.into()),
        };
        say(&serde_json::json!({ "jwt": "refused", "reason": reason }));
        response.set_status(status);
        response.header.set(b"www-authenticate", challenge.as_bytes());
        (false, 0)
    }
}

impl Jwt {
    /// The subject of a token that is valid, or why it is not.
    fn subject(&self, token: &[u8]) -> Result<String, String> {
        let header = decode_header(token).map_err(|e| e.to_string())?;
        // What must be understood (RFC 7515, 4.1.11) is not understood here.
        if header.crit.is_some() {
            return Err("critical extensions".into());
        }
        let mut reason = "no key for it".to_string();
        // The token chooses among keys, and never how a key is used.
        for key in self.keys.iter().filter(|key| {
            key.algorithm == header.alg
                && (header.kid.is_none() || key.id.is_none() || header.kid == key.id)
        }) {
            match decode::<Claims>(token, &key.key, &key.validation) {
                Ok(data) if is_plain(&data.claims.sub) => return Ok(data.claims.sub),
                Ok(_) => reason = "a subject that does not fit into a header".into(),
                Err(e) => reason = e.to_string(),
            }
        }
        Err(reason)
    }
}

/// The token of a request's only `Authorization`; none if it has none, or another scheme.
fn token(values: &[Bytes]) -> Result<Option<Bytes>, &'static str> {
    let value = match values {
        [] => return Ok(None),
        [value] => value,
        _ => return Err("several Authorization headers"),
    };
    let Some((scheme, rest)) = value.split_at_checked("Bearer ".len()) else { return Ok(None) };
    Ok(scheme.eq_ignore_ascii_case(b"Bearer ").then(|| value.slice_ref(rest.trim_ascii())))
}

fn same_name(a: &[u8], b: &[u8]) -> bool {
    let plain = |c: &u8| if *c == b'_' { b'-' } else { c.to_ascii_lowercase() };
    a.iter().map(plain).eq(b.iter().map(plain))
}

/// Whether a header can have this value, and its reader gets it as it is.
fn is_plain(subject: &str) -> bool {
    !subject.is_empty()
        && subject.trim_ascii() == subject
        && subject.bytes().all(|c| c == b' ' || c.is_ascii_graphic())
}

fn say(fields: &serde_json::Value) {
    log::write(INFO, fields.to_string().as_bytes());
}

fn configure(text: &[u8]) -> Result<Jwt, String> {
    let config: Config = serde_json::from_slice(text)
        .map_err(|e| format!("expected JSON with \"keys\" and \"audience\": {e}"))?;
    if config.leeway > 600 {
        return Err(format!("invalid leeway {}: expected 0 to 600 seconds", config.leeway));
    }
    let is_token = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    if config.header.is_empty() || !config.header.bytes().all(is_token) {
        return Err(format!("invalid header {:?}: expected letters, digits and -", config.header));
    }

    let mut keys = Vec::new();
    for (i, value) in config.keys.iter().enumerate() {
        if let Some(key) = read_key(value, &config).map_err(|e| format!("keys[{i}]: {e}"))? {
            keys.push(key);
        }
    }
    if keys.is_empty() || keys.len() > 16 {
        return Err(format!("{} keys for signatures: expected 1 to 16", keys.len()));
    }
    Ok(Jwt { keys, header: config.header })
}

fn read_key(value: &serde_json::Value, config: &Config) -> Result<Option<Key>, String> {
    let jwk: Jwk = Jwk::deserialize(value).map_err(|e| format!("expected a JSON Web Key: {e}"))?;
    if jwk.common.public_key_use == Some(PublicKeyUse::Encryption) {
        return Ok(None);
    }
    let algorithm = match jwk.common.key_algorithm {
        Some(name) => Algorithm::from_str(&name.to_string()).ok(),
        None => config.algorithm,
    }
    .ok_or("expected an \"alg\" for signatures, for example RS256")?;
    // Shorter ones can be guessed (RFC 7518, 3.2 and 3.3), and longer ones take too long.
    match &jwk.algorithm {
        AlgorithmParameters::OctetKey(key) if key.value.len() < 43 => {
            return Err("expected a secret of 32 bytes or more".into());
        }
        AlgorithmParameters::RSA(key) if !(342..=683).contains(&key.n.len()) => {
            return Err("expected an RSA key of 2048 to 4096 bits".into());
        }
        AlgorithmParameters::OctetKeyPair(key) if key.x.len() != 43 => {
            return Err("expected an Ed25519 key of 32 bytes".into());
        }
        _ => {}
    }
    let key = DecodingKey::from_jwk(&jwk).map_err(|e| e.to_string())?;

    let mut validation = Validation::new(algorithm);
    let mut required = vec!["exp", "sub"];
    validation.validate_nbf = true;
    validation.leeway = config.leeway;
    if let Some(issuer) = &config.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    if let Some(audience) = &config.audience {
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);

    // A key for another algorithm, or a point that is not on the curve, is found out by a signature that is none.
    match jsonwebtoken::crypto::verify("AAAA", b"", &key, algorithm) {
        Ok(false) => Ok(Some(Key { id: jwk.common.key_id, algorithm, key, validation })),
        _ => Err(format!("the key is not one for {algorithm:?}")),
    }
}

fn main() {
    match configure(&admin::config()) {
        Ok(jwt) => register(jwt),
        Err(reason) => {
            log::write(ERROR, format!("jwt: {reason}").as_bytes());
            std::process::exit(1);
        }
    }
}
