//! Real servers on free ports of this machine, gone with the test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// A server that answers.
pub struct Server {
    child: Child,
    pub addr: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone if it cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody uses.
fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

fn start(mut command: Command, addr: SocketAddr) -> Server {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{name} does not start ({error}): make deps deps-test"));
    let end = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(addr).is_err() {
        let ended = child.try_wait().expect("a child");
        assert!(ended.is_none() && Instant::now() < end, "{name} does not listen: {ended:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Server { child, addr }
}

/// The nginx that is tested, or that of the system.
pub fn nginx_binary() -> String {
    std::env::var("TEST_NGINX_BINARY").unwrap_or_else(|_| "/usr/sbin/nginx".to_owned())
}

/// nginx with the folder `folder/html`; `server` is what its server block says besides.
pub fn nginx(folder: &Path, listen: &str, server: &str) -> Server {
    nginx_with(folder, "", listen, server)
}

/// The same with global directives.
pub fn nginx_with(folder: &Path, globals: &str, listen: &str, server: &str) -> Server {
    let addr = free();
    let conf = format!(
        "{globals} pid {0}/nginx.pid; error_log {0}/error.log; daemon off; master_process off;
         events {{}}
         http {{
             access_log off;
             client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;
             fastcgi_temp_path {0}/fcgi; uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;
             server {{ listen {addr} {listen}; root {0}/html; {server} }}
         }}",
        folder.display()
    );
    let path = folder.join("nginx.conf");
    std::fs::write(&path, conf).expect("a file");
    let mut command = Command::new(nginx_binary());
    command.arg("-p").arg(folder).arg("-c").arg(path).arg("-e").arg(folder.join("error.log"));
    start(command, addr)
}

/// docker-registry; with a password for the name "Aladdin" if there is one.
pub fn registry(folder: &Path, password_hash: Option<&str>) -> Server {
    let addr = free();
    let mut conf = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}/registry\nhttp:\n  addr: {addr}\n",
        folder.display()
    );
    if let Some(hash) = password_hash {
        let passwords = folder.join("passwords");
        std::fs::write(&passwords, format!("Aladdin:{hash}\n")).expect("a file");
        let path = passwords.display();
        conf += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {path}\n");
    }
    let path = folder.join("registry.yml");
    std::fs::write(&path, conf).expect("a file");
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(path);
    start(command, addr)
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Pushes an image of one layer, and returns the digest of its manifest.
pub fn push(addr: SocketAddr, authorization: Option<&str>, layer: &str, bytes: &[u8]) -> String {
    let config = blob(addr, authorization, b"{}");
    let layer_digest = blob(addr, authorization, bytes);
    let manifest = format!(
        r#"{{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
             "config": {{"mediaType": "application/vnd.oci.image.config.v1+json",
                         "digest": "{config}", "size": 2}},
             "layers": [{{"mediaType": "{layer}", "digest": "{layer_digest}", "size": {}}}]}}"#,
        bytes.len()
    );
    let kind = "application/vnd.oci.image.manifest.v1+json";
    push_manifest(addr, authorization, "v1", kind, &manifest)
}

/// Pushes a manifest or an index under a tag.
pub fn push_manifest(
    addr: SocketAddr,
    authorization: Option<&str>,
    tag: &str,
    kind: &str,
    manifest: &str,
) -> String {
    let request = client().put(format!("http://{addr}/v2/test/guest/manifests/{tag}"));
    let request = request.header("Content-Type", kind);
    let request = request.header("Authorization", authorization.unwrap_or("none"));
    request.send(manifest).expect("the manifest is taken");
    format!("sha256:{}", sha256(manifest.as_bytes()))
}

/// For servers on this machine, whatever proxies it is set to.
fn client() -> ureq::Agent {
    ureq::Agent::config_builder().proxy(None).build().into()
}

fn blob(addr: SocketAddr, authorization: Option<&str>, bytes: &[u8]) -> String {
    let digest = format!("sha256:{}", sha256(bytes));
    let authorization = authorization.unwrap_or("none");
    let client = client();
    let begin = client.post(format!("http://{addr}/v2/test/guest/blobs/uploads/"));
    let begun = begin.header("Authorization", authorization).send_empty().expect("an upload");
    let location = begun.headers().get("Location").expect("a location").to_str().expect("text");
    let upload = client.put(location).query("digest", &digest);
    let upload = upload.header("Authorization", authorization);
    upload.header("Content-Type", "application/octet-stream").send(bytes).expect("is taken");
    digest
}
