//! The command line: commands, options, and how values are written (as in nginx where nginx has
//! them).

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::abi::Level;
use crate::host::connect::{BadRule, Outbound, Rule};
use crate::runtime::Limits;
use crate::runtime::guest::{Dir, Settings};
use crate::runtime::precompiled::Sha256Digest;

/// Tests, runs, compiles and fetches http-wasm guests without nginx.
///
/// A guest finds the same host here as in nginx's module ngx_http_wasm_handler_module: what this
/// program refuses nginx refuses, in the same words.
#[derive(Debug, Parser)]
#[command(name = "http-wasm", version, max_term_width = 100, after_help = EXIT)]
pub(crate) struct Cli {
    /// When to use colours.
    #[arg(long, global = true, value_name = "WHEN", default_value_t = clap::ColorChoice::Auto)]
    pub(crate) color: clap::ColorChoice,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT: &str = "Exit status: 0 done; 1 the guest cannot be used or failed, or a file could not \
                    be fetched or written; 2 the arguments or the messages are wrong; 3 the result \
                    is not that of --golden.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Says what `nginx -t` would say of a guest, and what there is to know about it.
    Check(Check),
    /// Sends a request through a guest, and shows what became of it.
    Run(Box<Run>),
    /// Compiles a guest ahead of time, for this machine and this version.
    ///
    /// The result holds native code: keep it as safe as nginx's own binary. It is checked for
    /// damage, not for who made it.
    Compile(Compile),
    /// Fetches a guest of a known digest into a file.
    Fetch(Fetch),
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page.
    Man,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// A guest and what an operator would configure for it.
#[derive(Debug, Args)]
pub(crate) struct GuestArgs {
    /// The guest: a WebAssembly module or its text form.
    #[arg(value_name = "GUEST")]
    pub(crate) path: PathBuf,
    /// What the guest is called in its log; the file's name without its ending if absent.
    #[arg(long)]
    name: Option<String>,
    /// What the guest reads with get_config.
    #[arg(long, value_name = "TEXT")]
    config: Option<String>,
    /// A file with what the guest reads with get_config.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    config_file: Option<PathBuf>,
    /// An environment variable of the guest; without a value the one of this process. May be
    /// repeated.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = env)]
    env: Vec<(String, Option<String>)>,
    /// Clocks and random numbers that are the same in every run, as `http_wasm_strict` has it.
    #[arg(long)]
    strict: bool,
    /// A directory for the guest, and what it calls it; read-only unless `:rw` is given. May be
    /// repeated.
    #[arg(long, value_name = "HOST:GUEST[:rw]", value_parser = dir)]
    dir: Vec<Dir>,
    /// What the guest may connect to, as `http_wasm_connect` has it: an address or a network with or
    /// without a port, HOST:PORT or unix:PATH. May be repeated.
    #[arg(long, value_name = "WHERE", value_parser = rule)]
    connect: Vec<Rule>,
    /// Sockets of an instance.
    #[arg(long, value_name = "NUMBER", default_value = "16", value_parser = clap::value_parser!(u32).range(1..))]
    sockets: u32,
    /// Time that a connection may take to come about.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    connect_timeout: Duration,
    /// Time that each other wait for a socket may take.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    socket_timeout: Duration,
    /// Linear memory of an instance.
    #[arg(long, value_name = "SIZE", default_value = "128m", value_parser = memory)]
    memory_limit: u64,
    /// Time that one call of the guest may run.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time)]
    timeout: Duration,
    /// Time that its start functions may run.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    start_timeout: Duration,
}

impl GuestArgs {
    /// Everything but the guest's bytes. The error names the file that could not be read.
    pub(crate) fn settings(&self) -> Result<Settings, super::Failure> {
        let config = match (&self.config, &self.config_file) {
            (Some(config), _) => config.clone().into_bytes(),
            (None, Some(file)) => super::read(file, "--config-file")?,
            (None, None) => Vec::new(),
        };
        let env = self.env.iter().filter_map(|(name, value)| {
            let value = value.clone().or_else(|| std::env::var(name).ok())?;
            Some((name.clone(), value))
        });
        let limits = Limits {
            memory_bytes: usize::try_from(self.memory_limit).unwrap_or(usize::MAX),
            timeout: self.timeout,
            start_timeout: self.start_timeout,
            ..Limits::default()
        };
        let name = self.name.clone().unwrap_or_else(|| stem(&self.path));
        Ok(Settings {
            name,
            config: config.into(),
            limits,
            env: env.collect(),
            dirs: self.dir.clone(),
            strict: self.strict,
            outbound: self.outbound(),
        })
    }

    fn outbound(&self) -> Outbound {
        Outbound {
            rules: self.connect.clone().into(),
            max: usize::try_from(self.sockets).unwrap_or(usize::MAX),
            connect_timeout: self.connect_timeout,
            timeout: self.socket_timeout,
            ..Outbound::default()
        }
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// Time that compiling and starting the guest may take; nginx gives it as much.
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = time)]
    pub(crate) load_timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    #[command(flatten)]
    pub(crate) request: RequestArgs,
    #[command(flatten)]
    pub(crate) response: ResponseArgs,
    /// Shows every call of a host function on standard error.
    #[arg(long, help_heading = "Output")]
    pub(crate) trace: bool,
    /// Counts the instructions that the guest executes, which makes it slower by a quarter.
    #[arg(long, help_heading = "Output")]
    pub(crate) count: bool,
    /// The least severe level of the guest's log that is shown.
    #[arg(long, value_enum, default_value_t = LogLevel::Info, help_heading = "Output")]
    pub(crate) log_level: LogLevel,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Text, help_heading = "Output")]
    pub(crate) format: Format,
    /// Compares the result with that in a file, and says no more than whether it is the same.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) golden: Option<PathBuf>,
    /// Writes the file of --golden instead.
    #[arg(long, requires = "golden", help_heading = "Output")]
    pub(crate) update: bool,
    /// Sends the request this many times, one after the other, and shows what became of the last.
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeat: u32,
    /// Whether repeated requests share an instance of the guest.
    #[arg(long, value_enum, default_value_t = Isolation::Worker)]
    pub(crate) isolation: Isolation,
    /// The client, as the guest is told.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:50000")]
    pub(crate) source_addr: std::net::SocketAddr,
    /// Largest request body that the guest may write.
    #[arg(long, value_name = "SIZE", default_value = "1m", value_parser = size)]
    pub(crate) client_max_body_size: u64,
    /// A field that the guest finds among the request's instead of what the client has sent, and the
    /// next handler does not get, as `http_wasm_field` has it. May be repeated.
    #[arg(long, value_name = "NAME: VALUE", value_parser = field)]
    pub(crate) field: Vec<(String, String)>,
    /// A type of responses that a guest with buffer_response gets whole, as `http_wasm_buffer_types`
    /// has it; all if absent. May be repeated.
    #[arg(long, value_name = "MIME-TYPE")]
    pub(crate) buffer_type: Vec<String>,
    /// Largest response body that is kept for the guest, or that it may write.
    #[arg(long, value_name = "SIZE", default_value = "64m", value_parser = size)]
    pub(crate) response_buffer: u64,
}

/// A request, from a file or put together as curl does it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Request")]
pub(crate) struct RequestArgs {
    /// The request as an HTTP/1.1 message.
    #[arg(long = "request", value_name = "FILE", conflicts_with_all = ["url", "method", "header", "data"])]
    pub(crate) request_file: Option<PathBuf>,
    /// The URL, or its path and query alone.
    #[arg(required_unless_present = "request_file")]
    pub(crate) url: Option<String>,
    /// The method; POST if there is a body and GET if not.
    #[arg(short = 'X', long)]
    pub(crate) method: Option<String>,
    /// A field line of the request. May be repeated.
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = field)]
    pub(crate) header: Vec<(String, String)>,
    /// The body; `@FILE` takes it from a file.
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) data: Option<String>,
}

/// What the next handler answers.
#[derive(Debug, Args)]
#[command(next_help_heading = "Response of the next handler")]
pub(crate) struct ResponseArgs {
    /// The response as an HTTP/1.1 message.
    #[arg(long = "response", value_name = "FILE", conflicts_with_all = ["status", "response_header", "response_body"])]
    pub(crate) response_file: Option<PathBuf>,
    /// Its status.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=999))]
    pub(crate) status: u16,
    /// A field line of it. May be repeated.
    #[arg(long, value_name = "NAME: VALUE", value_parser = field)]
    pub(crate) response_header: Vec<(String, String)>,
    /// Its body; `@FILE` takes it from a file.
    #[arg(long, value_name = "TEXT")]
    pub(crate) response_body: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Isolation {
    /// They do.
    Worker,
    /// Each has its own.
    Request,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Level {
        match level {
            LogLevel::Debug => Level::Debug,
            LogLevel::Info => Level::Info,
            LogLevel::Warn => Level::Warn,
            LogLevel::Error => Level::Error,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Compile {
    /// The guest: a WebAssembly module or its text form.
    #[arg(value_name = "GUEST")]
    pub(crate) path: PathBuf,
    /// Where the compiled guest goes.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// As `http_wasm_slice` has it where the guest is used: "off" leaves out the checks with which a
    /// guest is stopped and made to give way.
    #[arg(long, value_enum)]
    pub(crate) slice: Option<Slice>,
}

/// What becomes of the checks in a compiled guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Slice {
    /// There are none.
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// A file, an http:// or https:// URL, or oci://REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST].
    pub(crate) source: String,
    /// The SHA-256 of the guest, in hexadecimal. Nothing else is put in place.
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub(crate) sha256: Sha256Digest,
    /// Where the guest goes.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Largest guest that is taken in.
    #[arg(long, value_name = "SIZE", default_value = "256m", value_parser = size)]
    pub(crate) max_size: u64,
    /// Time for the whole of it.
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = time)]
    pub(crate) timeout: Duration,
    /// Name at the registry or server.
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    pub(crate) username: Option<String>,
    /// Reads the password from standard input.
    #[arg(long, requires = "username")]
    pub(crate) password_stdin: bool,
    /// Speaks HTTP without TLS to a registry; one on this machine is spoken to so anyway.
    #[arg(long)]
    pub(crate) plain_http: bool,
}

fn env(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    match name.is_empty() {
        true => Err("expected NAME or NAME=VALUE".to_owned()),
        false => Ok((name.to_owned(), value)),
    }
}

fn rule(text: &str) -> Result<Rule, BadRule> {
    Rule::parse(text.as_bytes())
}

fn dir(text: &str) -> Result<Dir, String> {
    let expected = || "expected HOST:GUEST or HOST:GUEST:rw".to_owned();
    let (rest, writable) = match text.strip_suffix(":rw") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let (host, guest) = rest.rsplit_once(':').ok_or_else(expected)?;
    match host.is_empty() || guest.is_empty() {
        true => Err(expected()),
        false => Ok(Dir { host: host.into(), guest: guest.to_owned(), writable }),
    }
}

/// A size as nginx writes them.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return Err("expected a size such as 64k, 128m or 1g".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a size such as 64k, 128m or 1g")?;
    number.checked_mul(1 << shift).ok_or_else(|| "is too large".to_owned())
}

fn memory(text: &str) -> Result<u64, String> {
    match size(text) {
        Ok(bytes @ 0x1_0000..=0x1_0000_0000) => Ok(bytes),
        Ok(_) => Err("expected 64k (one page) to 4g".to_owned()),
        Err(error) => Err(error),
    }
}

/// A time as nginx writes them, of one unit.
fn time(text: &str) -> Result<Duration, String> {
    let expected = || "expected a time such as 500ms, 1s or 2m".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| expected())?;
    let ms = match &text[digits.len()..] {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        _ => return Err(expected()),
    };
    match ms {
        Some(ms @ 1..) if ms < 1 << 40 => Ok(Duration::from_millis(ms)),
        _ => Err(expected()),
    }
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME: VALUE")?;
    let value = value.trim();
    if !crate::http::is_token(name.as_bytes()) {
        Err(format!("expected a token as name, got \"{}\"", name.escape_default()))
    } else if !crate::http::is_field_value(value.as_bytes()) {
        Err("expected a value without CR, LF and NUL".to_owned())
    } else {
        Ok((name.to_owned(), value.to_owned()))
    }
}

fn sha256(text: &str) -> Result<Sha256Digest, String> {
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    let mut digest = Sha256Digest::default();
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("expected 64 hexadecimal digits, got {} bytes", text.len()));
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|e| e.to_string())?;
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn values_are_written_as_in_nginx() {
        assert_eq!(size("64k"), Ok(64 << 10));
        assert_eq!(size("1G"), Ok(1 << 30));
        assert_eq!(memory("4g"), Ok(4 << 30));
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2"), Ok(Duration::from_secs(2)));
        for bad in ["", "k", "1x", "-1", "99999999999g", "ä"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for bad in ["", "0", "s", "1h2", "99999999999999999s"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        assert!(memory("1k").is_err());
        assert!(memory("5g").is_err());
    }

    #[test]
    fn directories_are_read_only_unless_asked() {
        let lent = dir("/a:b:/c:rw").expect("a directory");
        assert_eq!((lent.host.to_str(), &*lent.guest, lent.writable), (Some("/a:b"), "/c", true));
        assert!(!dir("/a:/c").expect("a directory").writable);
        for bad in ["", "/a", ":/c", "/a:", ":rw"] {
            assert!(dir(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn digests_are_whole() {
        let digest = "00".repeat(31) + "fF";
        assert_eq!(sha256(&digest).map(|digest| digest[31]), Ok(255));
        assert!(sha256(&format!("sha256:{digest}")).is_ok());
        for bad in ["", "00", &"0g".repeat(32), &"+1".repeat(32)] {
            assert!(sha256(bad).is_err(), "{bad}");
        }
    }
}
