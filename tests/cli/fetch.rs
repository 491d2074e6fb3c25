//! `http-wasm fetch` from real servers.

use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::servers::{nginx, push, push_manifest, registry, sha256};
use crate::support::{Program, Ran, built_guest, folder, names};

const WASM: &str = "application/vnd.wasm.content.layer.v1+wasm";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// bcrypt of "open sesame".
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW";
const BASIC: &str = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";

fn guest() -> Vec<u8> {
    std::fs::read(built_guest("c-teapot.wasm")).expect("a guest")
}

fn fetch(source: &str, digest: &str, out: &Path) -> Program {
    Program::new("fetch").arg(source).arg("--sha256").arg(digest).arg("-o").arg(out)
}

/// Fetches into a folder of its own and looks at what is there afterwards.
fn fetched(source: &str, digest: &str, args: &[&str]) -> (Ran, Vec<String>) {
    let folder = folder();
    let out = folder.path().join("guest.wasm");
    let ran = fetch(source, digest, &out).args(args).input(b"open sesame\n").run();
    if ran.status == Some(0) {
        assert_eq!(std::fs::read(&out).expect("a file"), guest());
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&out).expect("a file").permissions(),
        );
        assert_eq!(mode & 0o777, 0o644);
    }
    let names = names(folder.path());
    (ran, names)
}

#[track_caller]
fn arrives(source: &str, args: &[&str]) {
    let (ran, names) = fetched(source, &sha256(&guest()), args);
    ran.succeeds();
    assert_eq!(names, ["guest.wasm"]);
}

#[track_caller]
fn is_refused(source: &str, digest: &str, args: &[&str], error: &str) {
    let (ran, names) = fetched(source, digest, args);
    ran.fails(1, error);
    assert_eq!(names, [""; 0]);
}

fn tar_gz(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, bytes) in [("./other", &b"other"[..]), (name, bytes)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).expect("an entry");
    }
    archive.into_inner().and_then(GzEncoder::finish).expect("an archive")
}

#[test]
fn a_file_is_copied_when_it_is_the_one() {
    let path = built_guest("c-teapot.wasm");
    let path = path.to_str().expect("text");
    arrives(path, &[]);
    arrives(&format!("file://{path}"), &[]);
    let wrong = "0".repeat(64);
    is_refused(path, &wrong, &[], &format!("expected {wrong}: nothing was written"));
    is_refused(path, &wrong, &["--max-size=10"], "larger than 10 bytes (--max-size)");
    is_refused("/nowhere", &wrong, &[], "cannot read \"/nowhere\": No such file");
}

#[test]
fn what_is_there_is_not_fetched_again_and_never_lost() {
    let folder = folder();
    let out = folder.path().join("guest.wasm");
    std::fs::write(&out, b"mine").expect("a file");
    let ran = fetch("/nowhere", &sha256(b"mine"), &out).run().succeeds();
    assert!(ran.out.contains("already there"), "{}", ran.out);

    let source = built_guest("c-teapot.wasm");
    let source = source.to_str().expect("text");
    fetch(source, &"0".repeat(64), &out).run().fails(1, "nothing was written");
    assert_eq!(std::fs::read(&out).expect("a file"), b"mine");
    fetch(source, &sha256(&guest()), &out).run().succeeds();
    assert_eq!(std::fs::read(&out).expect("a file"), guest());
    assert_eq!(names(folder.path()), ["guest.wasm"]);
}

#[test]
fn a_web_server_gives_a_guest() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("html")).expect("a folder");
    std::fs::write(folder.path().join("html/guest.wasm"), guest()).expect("a file");
    let server = nginx(
        folder.path(),
        "",
        "location = /moved { return 302 /guest.wasm; }
         location = /cut { default_type application/wasm; add_header Content-Length 9999;
                           return 200 short; }
         location /private/ { if ($http_authorization != \"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\") {
                                  return 401; }
                              rewrite ^/private(.*) $1 break; }",
    );
    let url = |path: &str| format!("http://{}{path}", server.addr);
    let digest = sha256(&guest());
    arrives(&url("/guest.wasm"), &[]);
    arrives(&url("/moved"), &[]);
    arrives(&url("/private/guest.wasm"), &["--username=Aladdin", "--password-stdin"]);
    is_refused(&url("/private/guest.wasm"), &digest, &[], "status 401 Unauthorized, expected 200");
    is_refused(&url("/none"), &digest, &[], "status 404 Not Found, expected 200");
    is_refused(&url("/guest.wasm"), &"0".repeat(64), &[], &format!("has sha256 {digest}"));
    is_refused(&url("/guest.wasm"), &digest, &["--max-size=99"], "larger than 99 bytes");
    let addr = server.addr;
    drop(server);
    is_refused(&format!("http://{addr}/"), &digest, &[], "Connection refused");
}

#[test]
fn a_server_is_trusted_as_far_as_the_machine_trusts_it() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir(path("html")).expect("a folder");
    std::fs::write(path("html/guest.wasm"), guest()).expect("a file");
    let names = "[req]\ndistinguished_name=name\nx509_extensions=own\n[name]\n\
                 [own]\nbasicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\n";
    std::fs::write(path("openssl.cnf"), names).expect("a file");
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=test", "-config", &path("openssl.cnf")])
        .args(["-keyout", &path("key.pem"), "-out", &path("cert.pem")])
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{made:?}");
    let conf =
        format!("ssl_certificate {}; ssl_certificate_key {};", path("cert.pem"), path("key.pem"));
    let server = nginx(folder.path(), "ssl", &conf);
    let url = format!("https://{}/guest.wasm", server.addr);
    let digest = sha256(&guest());
    is_refused(&url, &digest, &[], "certificate");
    let out = folder.path().join("out.wasm");
    fetch(&url, &digest, &out).env("SSL_CERT_FILE", path("cert.pem")).run().succeeds();
    assert_eq!(std::fs::read(out).expect("a file"), guest());
}

#[test]
fn a_registry_gives_a_guest_in_any_usual_wrapping() {
    let folder = folder();
    let server = registry(folder.path(), None);
    let at = |version: &str| format!("oci://{}/test/guest{version}", server.addr);
    let digest = sha256(&guest());
    for kind in [WASM, "application/vnd.module.wasm.content.layer.v1+wasm", "application/wasm"] {
        let manifest = push(server.addr, None, kind, &guest());
        arrives(&at(":v1"), &[]);
        arrives(&at(&format!("@{manifest}")), &[]);
        arrives(&at(&format!(":other@{manifest}")), &[]);
    }
    is_refused(&at(":v1"), &"0".repeat(64), &[], &format!("has sha256 {digest}, expected 000"));
    is_refused(&at(":none"), &digest, &[], "it has no manifests/none");
    is_refused(&at(":v1"), &digest, &["--max-size=99"], "larger than 99 bytes");

    for kind in [TAR, "application/vnd.docker.image.rootfs.diff.tar.gzip"] {
        push(server.addr, None, kind, &tar_gz("./plugin.wasm", &guest()));
        arrives(&at(":v1"), &[]);
    }
    is_refused(&at(":v1"), &"0".repeat(64), &[], "nothing was written");
    push(server.addr, None, TAR, &tar_gz("./module.wasm", &guest()));
    is_refused(&at(":v1"), &digest, &[], "no layer is a guest or has a file \"plugin.wasm\"");
    push(server.addr, None, "text/plain", &guest());
    is_refused(&at(":v1"), &digest, &[], "it has layers of text/plain");
}

#[test]
fn a_layer_cannot_unpack_to_more_than_was_allowed() {
    let folder = folder();
    let server = registry(folder.path(), None);
    push(server.addr, None, TAR, &tar_gz("./plugin.wasm", &vec![0; 32 << 20]));
    let url = format!("oci://{}/test/guest:v1", server.addr);
    is_refused(&url, &"0".repeat(64), &["--max-size=1m"], "larger than 1048576 bytes");
}

#[test]
fn an_index_leads_to_the_guest() {
    let folder = folder();
    let server = registry(folder.path(), None);
    let image = push(server.addr, None, WASM, &guest());
    let entry = |platform: &str| {
        format!(
            r#"{{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "{image}",
                 "size": 1, "platform": {{"architecture": "{platform}", "os": "linux"}}}}"#
        )
    };
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = |tag: &str, platforms: &[&str]| {
        let entries: Vec<_> = platforms.iter().map(|platform| entry(platform)).collect();
        let entries = entries.join(", ");
        let index =
            format!(r#"{{"schemaVersion": 2, "mediaType": "{kind}", "manifests": [{entries}]}}"#);
        push_manifest(server.addr, None, tag, kind, &index)
    };
    let at = |version: &str| format!("oci://{}/test/guest{version}", server.addr);
    let one = index("one", &["amd64"]);
    index("several", &["amd64", "wasm"]);
    index("none", &["amd64", "arm64"]);
    arrives(&at(":one"), &[]);
    arrives(&at(&format!("@{one}")), &[]);
    arrives(&at(":several"), &[]);
    is_refused(&at(":none"), &sha256(&guest()), &[], "an index of several images");
}

#[test]
fn a_registry_gets_a_password_when_it_asks_for_one() {
    let folder = folder();
    let server = registry(folder.path(), Some(HASH));
    push(server.addr, Some(BASIC), WASM, &guest());
    let url = format!("oci://{}/test/guest:v1", server.addr);
    let digest = sha256(&guest());
    arrives(&url, &["--username=Aladdin", "--password-stdin"]);
    is_refused(&url, &digest, &[], "it wants a name and a password (--username,");
    let wrong = ["--username=Ali", "--password-stdin"];
    is_refused(&url, &digest, &wrong, "it refuses name and password");
}

#[test]
fn a_registry_gets_a_token_when_it_asks_for_one() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("front")).expect("a folder");
    let server = registry(folder.path(), None);
    push(server.addr, None, WASM, &guest());
    // A registry that gives tokens: nginx in front of one that does not.
    let front = |password: &str| {
        nginx(
            &folder.path().join("front"),
            "",
            &format!(
                r#"set $ask 'Bearer realm="http://$http_host/token?a=b",service="s p",scope="pull:x"';
                   location /v2/ {{
                       error_page 401 = @ask;
                       if ($http_authorization != "Bearer t0ken") {{ return 401; }}
                       proxy_pass http://{};
                   }}
                   location @ask {{ add_header WWW-Authenticate $ask always; return 401; }}
                   location = /token {{
                       if ($args !~ "^a=b&scope=pull(:|%3A)x&service=s(%20|\+)p$") {{ return 400; }}
                       if ($http_authorization != "{password}") {{ return 403; }}
                       return 200 '{{"access_token": "t0ken"}}';
                   }}"#,
                server.addr
            ),
        )
    };
    let digest = sha256(&guest());
    let anonymous = front("");
    let url = format!("oci://{}/test/guest:v1", anonymous.addr);
    arrives(&url, &[]);
    drop(anonymous);
    let named = front(BASIC);
    let url = format!("oci://{}/test/guest:v1", named.addr);
    arrives(&url, &["--username=Aladdin", "--password-stdin"]);
    is_refused(&url, &digest, &[], "/token?a=b\": status 403");
}

#[test]
fn wrong_arguments_say_what_was_expected() {
    let digest = "0".repeat(64);
    for (source, digest, expected) in [
        ("x", "0", "expected 64 hexadecimal digits"),
        ("ftp://h/x", &*digest, "cannot fetch by \"ftp\", expected a file, http, https or oci"),
        ("oci://host", &digest, "is no reference, expected oci://REGISTRY/REPOSITORY"),
    ] {
        let folder = folder();
        let ran = fetch(source, digest, &folder.path().join("out")).run();
        assert_eq!(ran.status, Some(2), "{ran:#?}");
        assert!(ran.err.contains(expected), "{ran:#?}");
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
