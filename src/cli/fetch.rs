//! `http-wasm fetch`: a guest from elsewhere into a file, when it is the one that was meant.
//!
//! The digest decides, not where the bytes came from; so nothing else is trusted, and nothing is put
//! in place before it is right.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use ureq::http::header::AUTHORIZATION;

use super::args::Fetch;
use super::place::{Draft, cannot_write};
use super::registry::{Reference, Registry};
use super::{Failure, print, progress};
use crate::escaped::Escaped;
use crate::runtime::precompiled::{Sha256Digest, hex};

/// Time to reach a server.
const CONNECT: Duration = Duration::from_secs(10);

/// Name and password.
pub(crate) struct Credentials {
    name: String,
    password: String,
}

impl Credentials {
    /// The value of an Authorization field (RFC 7617).
    pub(crate) fn basic(&self) -> String {
        http_auth::basic::encode_credentials(&self.name, &self.password)
    }
}

/// Takes a guest in, piece by piece.
pub(crate) struct Intake {
    draft: Draft,
    digest: Sha256,
    taken: u64,
    max: u64,
    output: std::path::PathBuf,
}

impl Intake {
    fn new(output: &Path, max: u64) -> Result<Self, Failure> {
        let draft = Draft::beside(output)?;
        Ok(Intake { draft, digest: Sha256::new(), taken: 0, max, output: output.to_owned() })
    }

    /// Everything that `from` has.
    pub(crate) fn take(&mut self, from: &mut dyn Read, total: Option<u64>) -> Result<(), Failure> {
        if total.is_some_and(|total| total > self.max) {
            return Err(self.too_large());
        }
        let bar = progress::bytes(total);
        let result = self.copy(from, &bar);
        bar.finish_and_clear();
        result
    }

    fn copy(&mut self, from: &mut dyn Read, bar: &ProgressBar) -> Result<(), Failure> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let len = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::new(format!("cannot read the guest: {error}"))),
            };
            let bytes = &buffer[..len];
            self.taken += len as u64;
            if self.taken > self.max {
                return Err(self.too_large());
            }
            self.digest.update(bytes);
            let written = self.draft.file().write_all(bytes);
            written.map_err(|error| cannot_write(&self.output, &error))?;
            bar.inc(len as u64);
        }
    }

    fn too_large(&self) -> Failure {
        Failure::new(format!("the guest is larger than {} bytes (--max-size)", self.max))
    }

    /// Puts the guest in place if it is the one.
    fn finish(self, expected: &Sha256Digest) -> Result<u64, Failure> {
        let found: Sha256Digest = self.digest.finalize().into();
        if found != *expected {
            return Err(wrong_digest(&hex(&found), expected));
        }
        self.draft.put(&self.output)?;
        Ok(self.taken)
    }
}

/// Another guest than the one that was meant.
pub(crate) fn wrong_digest(found: &str, expected: &Sha256Digest) -> Failure {
    let expected = hex(expected);
    Failure::new(format!("the guest has sha256 {found}, expected {expected}: nothing was written"))
}

/// Fetches a guest, unless it is there.
pub(crate) fn fetch(args: &Fetch) -> Result<(), Failure> {
    let output = &args.output;
    if digest_of(output).is_ok_and(|digest| digest == args.sha256) {
        print(&format!("{}: already there\n", output.display()));
        return Ok(());
    }
    let credentials = credentials(args)?;
    let mut intake = Intake::new(output, args.max_size)?;
    let source = args.source.as_str();
    match source.split_once("://") {
        Some(("oci", reference)) => {
            let reference = Reference::parse(reference).map_err(Failure::usage)?;
            let agent = agent(args.timeout);
            let registry = Registry::new(&agent, &reference, credentials, args.plain_http);
            registry.fetch(&mut intake, &args.sha256, args.max_size)?;
        }
        Some(("http" | "https", _)) => {
            let mut request = agent(args.timeout).get(source);
            if let Some(credentials) = credentials {
                request = request.header(AUTHORIZATION, credentials.basic());
            }
            let failed = |error: &dyn std::fmt::Display| {
                Failure::new(format!("cannot fetch \"{}\": {error}", Escaped(source.as_bytes())))
            };
            let mut response = request.call().map_err(|error| failed(&error))?;
            if response.status() != 200 {
                return Err(failed(&format!("status {}, expected 200", response.status())));
            }
            let total = response.body().content_length();
            intake.take(&mut response.body_mut().as_reader(), total)?;
        }
        Some(("file", path)) => take_file(&mut intake, Path::new(path))?,
        Some((scheme, _)) => {
            return Err(Failure::usage(format!(
                "cannot fetch by \"{}\", expected a file, http, https or oci",
                scheme.escape_default()
            )));
        }
        None => take_file(&mut intake, Path::new(source))?,
    }
    let size = intake.finish(&args.sha256)?;
    print(&format!("{}: {size} bytes of sha256 {}\n", output.display(), hex(&args.sha256)));
    Ok(())
}

fn take_file(intake: &mut Intake, path: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot read \"{}\": {error}", path.display()))
    };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    intake.take(&mut file, Some(size))
}

fn digest_of(path: &Path) -> std::io::Result<Sha256Digest> {
    let mut digest = Sha256::new();
    std::io::copy(&mut std::fs::File::open(path)?, &mut digest)?;
    Ok(digest.finalize().into())
}

fn credentials(args: &Fetch) -> Result<Option<Credentials>, Failure> {
    let Some(name) = args.username.clone() else { return Ok(None) };
    let password = std::io::read_to_string(std::io::stdin()).map_err(|error| {
        Failure::usage(format!("cannot read the password from standard input: {error}"))
    })?;
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    Ok(Some(Credentials { name, password }))
}

/// An HTTP client that trusts whom this machine trusts.
fn agent(timeout: Duration) -> ureq::Agent {
    let tls = ureq::tls::TlsConfig::builder();
    let tls = tls.root_certs(ureq::tls::RootCerts::PlatformVerifier).build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_connect(Some(CONNECT))
        .timeout_global(Some(timeout))
        .user_agent(concat!("http-wasm/", env!("CARGO_PKG_VERSION")))
        // A redirect may lead to another host: credentials stay behind.
        .redirect_auth_headers(ureq::config::RedirectAuthHeaders::Never)
        .http_status_as_error(false)
        .build();
    config.into()
}
