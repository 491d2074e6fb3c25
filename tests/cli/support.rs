//! `Program` reads like a command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A file of the repository.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A guest that `make guests` has built.
pub fn built_guest(name: &str) -> PathBuf {
    let path = file("target/guests").join(name);
    assert!(path.is_file(), "{} is not built: make guests", path.display());
    path
}

/// A folder for one test, empty, gone with the test.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// What is in a folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// `http-wasm` with arguments.
pub struct Program(Command, Vec<u8>);

impl Program {
    pub fn new(command: &str) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_http-wasm"));
        program.arg(command);
        // Those of the tests are on this machine.
        for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
            program.env_remove(proxy).env_remove(proxy.to_uppercase());
        }
        Program(program, Vec::new())
    }

    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.arg(arg);
        self
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.0.args(args);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.1 = bytes.to_vec();
        self
    }

    pub fn run(mut self) -> Ran {
        use std::io::Write as _;
        self.0.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.0.spawn().expect("http-wasm starts");
        let mut input = child.stdin.take().expect("a pipe");
        // A program that does not read its input has closed it.
        let _ = input.write_all(&self.1);
        drop(input);
        let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Ran { status: status.code(), out: text(stdout), err: text(stderr) }
    }
}

/// What became of it.
#[derive(Debug)]
pub struct Ran {
    /// None for a signal.
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// It did what it was asked.
    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.status, Some(0), "{self:#?}");
        self
    }

    /// It ended with this status and said so in one line.
    #[track_caller]
    pub fn fails(self, status: i32, error: &str) -> Self {
        assert_eq!(self.status, Some(status), "{self:#?}");
        let line = self.err.lines().find(|line| line.starts_with("error: "));
        assert!(line.is_some_and(|line| line.contains(error)), "expected {error:?} in {self:#?}");
        self
    }
}

/// A guest in text form whose `handle_request` has this body.
pub fn guest(folder: &Path, imports: &str, body: &str) -> PathBuf {
    let path = folder.join("guest.wat");
    let text = format!(
        r#"(module {imports} (memory (export "memory") 1)
             (func (export "handle_request") (result i64) {body} (i64.const 1))
             (func (export "handle_response") (param i32 i32)))"#
    );
    std::fs::write(&path, text).expect("a file");
    path
}
