//! The program `http-wasm`: tests, runs, compiles and fetches guests without nginx.
//!
//! It hosts guests with the same rings as the module. What the module takes from nginx (requests,
//! an event loop, a configuration) comes from files and arguments here.

mod args;
mod check;
mod compile;
mod exchange;
mod fetch;
mod flow;
mod load;
mod message;
mod outbound;
mod path;
mod place;
mod progress;
mod registry;
mod run;
mod text;
mod trace;
mod turns;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Style};
use clap::{CommandFactory, Parser};

use crate::abi::Level;
use crate::escaped::Escaped;
use args::{Cli, Command};

/// The guest cannot be used or failed, or a file could not be fetched or written.
const FAILED: u8 = 1;
/// The arguments or the messages are wrong; clap's own.
const USAGE: u8 = 2;
/// The result is not the golden one.
const DIFFERENT: u8 = 3;

/// Why a command did not do what it was asked.
struct Failure {
    /// One line.
    text: String,
    status: u8,
    /// Where it was a guest's.
    guest: Option<Box<GuestFailure>>,
}

/// What else is known of a guest that cannot be used or failed.
#[derive(Default)]
struct GuestFailure {
    /// Why, without its name.
    reason: String,
    /// Its frames, a line each.
    backtrace: Option<String>,
    /// What it logged before.
    log: Vec<(Level, String)>,
    /// What follows from it.
    note: Option<String>,
}

impl Failure {
    fn new(text: String) -> Self {
        Failure { text, status: FAILED, guest: None }
    }

    fn usage(text: String) -> Self {
        Failure { status: USAGE, ..Failure::new(text) }
    }

    fn eprint(&self) {
        let (red, bold) = (AnsiColor::Red.on_default().bold(), Style::new().bold());
        let none = GuestFailure::default();
        let guest = self.guest.as_deref().unwrap_or(&none);
        anstream::eprint!("{}", text::log_lines(&guest.log));
        anstream::eprintln!("{red}error:{red:#} {}", self.text);
        for frame in guest.backtrace.iter().flat_map(|frames| frames.lines()) {
            anstream::eprintln!("  {}", Escaped(frame.as_bytes()));
        }
        if let Some(note) = &guest.note {
            anstream::eprintln!("{bold}note:{bold:#} {note}");
        }
    }
}

/// Reads the arguments and does what they say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.color {
        clap::ColorChoice::Auto => anstream::ColorChoice::Auto,
        clap::ColorChoice::Always => anstream::ColorChoice::Always,
        clap::ColorChoice::Never => anstream::ColorChoice::Never,
    }
    .write_global();
    let result = match cli.command {
        Command::Check(args) => check::check(&args),
        Command::Run(args) => run::run(&args),
        Command::Compile(args) => compile::compile(&args),
        Command::Fetch(args) => fetch::fetch(&args),
        Command::Completions { shell } => completions(shell),
        Command::Man => manual(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.eprint();
            ExitCode::from(failure.status)
        }
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    // In bash's script a hyphen in the name of a program is taken for one before a command
    // (clap_complete 4.6.11), and no option is completed: it is made for another name.
    const PLAIN: &str = "httpwasm";
    let mut script = Vec::new();
    let mut command = Cli::command().name(PLAIN);
    clap_complete::generate(shell, &mut command, PLAIN, &mut script);
    let script = String::from_utf8_lossy(&script).replace(PLAIN, "http-wasm");
    print_bytes(script.as_bytes());
    Ok(())
}

/// One page for the program and each of its commands.
fn manual() -> Result<(), Failure> {
    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    let failed = |error| Failure::new(format!("cannot write the manual page: {error}"));
    clap_mangen::Man::new(command.clone()).render(&mut page).map_err(failed)?;
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let man = clap_mangen::Man::new(command.clone());
        let name = command.get_name();
        // Writing to a vector does not fail.
        let _ = writeln!(page, ".SH \"HTTP-WASM {}\"", name.to_uppercase());
        man.render_synopsis_section(&mut page).map_err(failed)?;
        man.render_description_section(&mut page).map_err(failed)?;
        man.render_options_section(&mut page).map_err(failed)?;
    }
    print_bytes(&page);
    Ok(())
}

/// Prints a result, with colours where somebody sees them.
fn print(text: &str) {
    // Whoever closed standard output does not want to know more.
    let _ = anstream::stdout().write_all(text.as_bytes());
}

fn print_bytes(bytes: &[u8]) {
    // As in `print`.
    let _ = std::io::stdout().write_all(bytes);
}

/// A file that was named in an argument.
fn read(path: &Path, what: &str) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        Failure::usage(format!("cannot read {what} \"{}\": {error}", path.display()))
    })
}
