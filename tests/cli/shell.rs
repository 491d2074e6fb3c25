//! What a shell and its user get: completions, a manual page, help.

use crate::support::{Program, folder};

const COMMANDS: [&str; 6] = ["check", "run", "compile", "fetch", "completions", "man"];

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Program::new("completions").arg(shell).run().succeeds().out;
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    Program::new("completions").arg("csh").run().fails(2, "invalid value 'csh'");
}

#[test]
fn bash_completes_the_options_of_a_command() {
    let folder = folder();
    let path = folder.path().join("http-wasm.bash");
    let script = Program::new("completions").arg("bash").run().succeeds().out;
    std::fs::write(&path, script).expect("a file");
    let complete = r#". "$1"; function=$(complete -p http-wasm | sed 's/.*-F \([^ ]*\).*/\1/')
                      COMP_WORDS=(http-wasm fetch --sha); COMP_CWORD=2
                      "$function" http-wasm --sha fetch; echo "${COMPREPLY[@]}""#;
    let mut bash = std::process::Command::new("bash");
    let output = bash.args(["-c", complete, "bash"]).arg(path).output().expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "--sha256\n", "{output:?}");
}

#[test]
fn the_manual_page_has_every_command_with_its_options() {
    let page = Program::new("man").run().succeeds().out;
    for command in COMMANDS {
        let heading = format!(".SH \"HTTP-WASM {}\"\n", command.to_uppercase());
        assert!(page.contains(&heading), "{command}");
    }
    for option in ["\\-\\-golden", "\\-\\-sha256", "\\-\\-memory\\-limit"] {
        assert!(page.contains(option), "{option}");
    }
}

#[test]
fn help_names_the_exit_statuses() {
    let help = Program::new("--help").run().succeeds().out;
    assert!(help.contains("Exit status: 0 done; 1 "), "{help}");
}
