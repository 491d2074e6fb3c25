//! Guests in OCI registries: the part of the distribution API that it takes to pull one.
//!
//! A guest is a layer of a WebAssembly type, or the file `plugin.wasm` in a layer of a container
//! image, which is how proxies of the Envoy family publish theirs.

use std::cell::RefCell;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use ureq::http::header::{ACCEPT, AUTHORIZATION, WWW_AUTHENTICATE};
use ureq::{Agent, Body};

use super::Failure;
use super::fetch::{Credentials, Intake, wrong_digest};
use crate::escaped::Escaped;
use crate::runtime::precompiled::{Sha256Digest, digest, hex};

/// Layers that are a guest.
const GUEST_LAYERS: [&str; 3] = [
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/wasm",
];
/// Layers that may have one inside.
const TAR_LAYERS: [&str; 3] = [
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.oci.image.layer.v1.tar",
];
/// What it is called there.
const FILE: &str = "plugin.wasm";
/// What a registry may answer when it is asked for a manifest.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json";
/// Largest manifest or token, as the specification of the API recommends it.
const JSON_MAX: u64 = 4 << 20;

/// Where a guest is: `REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST]`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    host: String,
    repository: String,
    /// Tag or digest.
    version: String,
}

impl Reference {
    /// Reads what follows `oci://`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "\"oci://{}\" is no reference, expected \
                 oci://REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST]",
                Escaped(text.as_bytes())
            )
        };
        let (host, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        let is_word = |word: &str, more: &str| {
            !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let is_digest = |digest: &str| {
            digest.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && is_word(hex, ""))
        };
        let fits = is_word(host, ".-:[]")
            && repository.split('/').all(|part| is_word(part, "._-"))
            && tag.is_none_or(|tag| is_word(tag, "._-"))
            && digest.is_none_or(is_digest);
        if !fits {
            return Err(wrong());
        }
        // The name that everybody uses is not the host that answers.
        let (host, library) = match host {
            "docker.io" => ("registry-1.docker.io", !repository.contains('/')),
            host => (host, false),
        };
        Ok(Reference {
            host: host.to_owned(),
            repository: if library {
                format!("library/{repository}")
            } else {
                repository.to_owned()
            },
            version: digest.or(tag).unwrap_or("latest").to_owned(),
        })
    }

    /// Nobody has a certificate for their own machine.
    fn is_local(&self) -> bool {
        let name = match self.host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => &self.host,
        };
        matches!(name, "localhost" | "127.0.0.1" | "[::1]")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
    /// Of an index: one for each platform.
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// A repository at a registry.
pub(crate) struct Registry<'a> {
    agent: &'a Agent,
    reference: &'a Reference,
    scheme: &'static str,
    credentials: Option<Credentials>,
    /// The Authorization that the registry has asked for.
    authorization: RefCell<Option<String>>,
}

impl<'a> Registry<'a> {
    pub(crate) fn new(
        agent: &'a Agent,
        reference: &'a Reference,
        credentials: Option<Credentials>,
        plain: bool,
    ) -> Self {
        let scheme = if plain || reference.is_local() { "http" } else { "https" };
        Registry { agent, reference, scheme, credentials, authorization: RefCell::default() }
    }

    /// Pulls the guest.
    pub(crate) fn fetch(
        &self,
        intake: &mut Intake,
        expected: &Sha256Digest,
        max: u64,
    ) -> Result<(), Failure> {
        let manifest = self.manifest()?;
        let of = |types: &'static [&str]| {
            manifest.layers.iter().rev().filter(move |layer| types.contains(&&*layer.media_type))
        };
        if let Some(layer) = of(&GUEST_LAYERS).next() {
            // The layer is the guest: another one need not be fetched.
            if let Some(found) = layer.digest.strip_prefix("sha256:")
                && found != hex(expected)
            {
                return Err(wrong_digest(&Escaped(found.as_bytes()).to_string(), expected));
            }
            let mut blob = self.blob(layer)?;
            let total = blob.content_length();
            return intake.take(&mut blob.as_reader(), total);
        }
        for layer in of(&TAR_LAYERS) {
            let mut blob = self.blob(layer)?;
            let packed = blob.as_reader();
            let mut unpacked: Box<dyn Read> = match layer.media_type.ends_with("gzip") {
                true => Box::new(MultiGzDecoder::new(packed)),
                false => Box::new(packed),
            };
            // A few bytes can unpack to any number.
            if take_from_tar(&mut unpacked.as_mut().take(max), intake)? {
                return Ok(());
            }
        }
        let mut types: Vec<_> = manifest.layers.iter().map(|layer| &*layer.media_type).collect();
        types.dedup();
        let types = Escaped(types.join(", ").as_bytes()).to_string();
        Err(self.failed(&format!(
            "no layer is a guest or has a file \"{FILE}\" (of at most {max} bytes, --max-size); it \
             has layers of {types}"
        )))
    }

    /// The manifest of the guest; of several platforms WebAssembly's.
    fn manifest(&self) -> Result<Manifest, Failure> {
        let manifest = self.manifest_of(&self.reference.version)?;
        let chosen = match manifest.manifests.as_slice() {
            [] => return Ok(manifest),
            [only] => only,
            several => {
                let is_wasm = |descriptor: &&Descriptor| {
                    let platform = descriptor.platform.as_ref();
                    platform.is_some_and(|platform| platform.architecture.starts_with("wasm"))
                };
                several.iter().find(is_wasm).ok_or_else(|| {
                    self.failed(&"it is an index of several images, expected one of wasm")
                })?
            }
        };
        self.manifest_of(&chosen.digest)
    }

    fn manifest_of(&self, version: &str) -> Result<Manifest, Failure> {
        let mut body = self.get(&format!("manifests/{version}"), Some(MANIFESTS))?;
        let json = body
            .with_config()
            .limit(JSON_MAX)
            .read_to_vec()
            .map_err(|error| self.failed(&error))?;
        if let Some(expected) = version.strip_prefix("sha256:") {
            let found = hex(&digest(&json));
            if found != expected {
                return Err(self.failed(&format!("the manifest has sha256 {found}")));
            }
        }
        serde_json::from_slice(&json)
            .map_err(|error| self.failed(&format!("the manifest is not as expected: {error}")))
    }

    fn blob(&self, layer: &Descriptor) -> Result<Body, Failure> {
        self.get(&format!("blobs/{}", layer.digest), None)
    }

    /// Asks, and once more with what the registry wants to be shown.
    fn get(&self, path: &str, accept: Option<&str>) -> Result<Body, Failure> {
        let Reference { host, repository, .. } = self.reference;
        let url = format!("{}://{host}/v2/{repository}/{path}", self.scheme);
        let mut asked = false;
        loop {
            let mut request = self.agent.get(&url);
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(authorization) = &*self.authorization.borrow() {
                request = request.header(AUTHORIZATION, authorization);
            }
            let response = request.call().map_err(|error| self.failed(&error))?;
            match response.status().as_u16() {
                200 => return Ok(response.into_body()),
                401 if !asked => {
                    asked = true;
                    let challenge = response.headers().get(WWW_AUTHENTICATE);
                    let challenge = challenge.and_then(|value| value.to_str().ok());
                    let authorization = self.authorize(challenge.unwrap_or_default())?;
                    *self.authorization.borrow_mut() = Some(authorization);
                }
                401 | 403 => {
                    let what = match self.credentials {
                        Some(_) => "it refuses name and password",
                        None => "it wants a name and a password (--username, --password-stdin)",
                    };
                    return Err(self.failed(&what));
                }
                404 => return Err(self.failed(&format!("it has no {}", Escaped(path.as_bytes())))),
                status => return Err(self.failed(&format!("status {status}, expected 200"))),
            }
        }
    }

    /// What a challenge asks for: name and password, or a token that is given for them (or to
    /// anybody).
    fn authorize(&self, challenge: &str) -> Result<String, Failure> {
        let challenges = http_auth::parse_challenges(challenge)
            .map_err(|_| self.failed(&"it wants to be shown something that it does not name"))?;
        let called = |scheme: &str| {
            challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme))
        };
        if let Some(bearer) = called("Bearer") {
            let param = |wanted: &str| {
                let mut params = bearer.params.iter();
                let found = params.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
                found.map(|(_, value)| value.to_unescaped())
            };
            return self.token(param("realm"), param("service"), param("scope"));
        }
        match (&self.credentials, called("Basic")) {
            (Some(credentials), Some(_)) => Ok(credentials.basic()),
            (None, Some(_)) => {
                Err(self.failed(&"it wants a name and a password (--username, --password-stdin)"))
            }
            _ => Err(self.failed(&"it wants to be shown neither Basic nor Bearer credentials")),
        }
    }

    fn token(
        &self,
        realm: Option<String>,
        service: Option<String>,
        scope: Option<String>,
    ) -> Result<String, Failure> {
        let realm = realm.unwrap_or_default();
        let shown = Escaped(realm.as_bytes());
        let in_the_clear = self.scheme == "http" && realm.starts_with("http://");
        if !(realm.starts_with("https://") || in_the_clear) {
            let text = format!("its tokens come from \"{shown}\", expected an https URL");
            return Err(self.failed(&text));
        }
        let scope =
            scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository));
        let mut request = self.agent.get(&realm).query("scope", scope);
        if let Some(service) = service {
            request = request.query("service", service);
        }
        if let Some(credentials) = &self.credentials {
            request = request.header(AUTHORIZATION, credentials.basic());
        }
        let failed = |error: &dyn std::fmt::Display| {
            self.failed(&format!("no token from \"{shown}\": {error}"))
        };
        let mut response = request.call().map_err(|error| failed(&error))?;
        if response.status() != 200 {
            return Err(failed(&format!("status {}", response.status())));
        }
        let body = response.body_mut().with_config().limit(JSON_MAX).read_to_vec();
        let body = body.map_err(|error| failed(&error))?;
        let token: Token = serde_json::from_slice(&body).map_err(|error| failed(&error))?;
        let token = token.token.or(token.access_token).ok_or_else(|| failed(&"there is none"))?;
        Ok(format!("Bearer {token}"))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Failure {
        let Reference { host, repository, version } = self.reference;
        let between = if version.contains(':') { '@' } else { ':' };
        Failure::new(format!(
            "cannot fetch \"oci://{host}/{repository}{between}{version}\": {error}"
        ))
    }
}

/// Takes the guest out of an archive, if it is there.
fn take_from_tar(archive: &mut dyn Read, intake: &mut Intake) -> Result<bool, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot unpack the layer: {error}"));
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let path = entry.path().map_err(failed)?;
        let path = path.strip_prefix(".").unwrap_or(&path);
        if path == Path::new(FILE) && entry.header().entry_type().is_file() {
            let size = entry.size();
            intake.take(&mut entry, Some(size))?;
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> [String; 3] {
        let Reference { host, repository, version } = Reference::parse(text).expect(text);
        [host, repository, version]
    }

    #[test]
    fn references_read_as_everywhere() {
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(parsed("ghcr.io/a/b"), ["ghcr.io", "a/b", "latest"]);
        assert_eq!(parsed("localhost:5000/a:v1"), ["localhost:5000", "a", "v1"]);
        assert_eq!(parsed(&format!("h/a:v1@{digest}")), ["h", "a", &digest]);
        assert_eq!(parsed("docker.io/a"), ["registry-1.docker.io", "library/a", "latest"]);
        assert_eq!(parsed("docker.io/a/b"), ["registry-1.docker.io", "a/b", "latest"]);
        for bad in ["", "host", "/a", "h/", "h/a:", "h/a//b", "h/a@md5:0", "h/a?b", "u@h/a", "h/\n"]
        {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        for (host, local) in [
            ("localhost:5000", true),
            ("127.0.0.1", true),
            ("[::1]:80", true),
            ("localhost.example.com", false),
            ("10.0.0.1:5000", false),
        ] {
            let reference = Reference::parse(&format!("{host}/a")).expect(host);
            assert_eq!(reference.is_local(), local, "{host}");
        }
    }
}
