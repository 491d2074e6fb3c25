//! `http-wasm compile`.

use crate::support::{Program, built_guest, folder, guest, names};

#[test]
fn a_compiled_guest_is_checked_for_damage_and_not_run() {
    let folder = folder();
    let out = folder.path().join("guest.cwasm");
    let source = built_guest("c-teapot.wasm");
    let compile = || Program::new("compile").arg(&source).arg("-o").arg(&out);
    let ran = compile().run().succeeds();
    let digest = crate::servers::sha256(&std::fs::read(&source).expect("a file"));
    assert!(ran.out.contains(&digest), "{}", ran.out);

    let ran = Program::new("check").arg(&out).run().succeeds();
    assert!(ran.out.contains(&format!("sha256 {digest}")), "{}", ran.out);

    let mut bytes = std::fs::read(&out).expect("a file");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&out, &bytes).expect("a file");
    Program::new("check").arg(&out).run().fails(1, "guest.cwasm\": is damaged: its digest is ");
    bytes.truncate(last);
    std::fs::write(&out, &bytes).expect("a file");
    Program::new("check").arg(&out).run().fails(1, "guest.cwasm\": is damaged: it has ");
    Program::new("compile").arg(&out).arg("-o").arg(&out).run().fails(1, "is compiled already");

    compile().run().succeeds();
    Program::new("check").arg(&out).run().succeeds();
    assert_eq!(names(folder.path()), ["guest.cwasm"]);
}

#[test]
fn a_guest_is_compiled_without_checks_where_that_is_asked_for() {
    let folder = folder();
    let out = folder.path().join("guest.cwasm");
    let compile = Program::new("compile").arg(built_guest("c-teapot.wasm")).arg("-o").arg(&out);
    compile.arg("--slice=off").run().succeeds();
    let ran = Program::new("check").arg(&out).run().succeeds();
    assert!(ran.out.contains("for this machine and version, for \"http_wasm_slice off\"\n"));
    let ran = Program::new("check").arg("--format=json").arg(&out).run().succeeds();
    assert!(ran.out.contains("\"slice\": \"off\""), "{}", ran.out);
}

#[test]
fn what_is_no_guest_is_not_compiled() {
    let folder = folder();
    let path = guest(folder.path(), r#"(import "env" "abort" (func))"#, "");
    let ran = Program::new("compile").arg(path).arg("-o").arg(folder.path().join("out")).run();
    ran.fails(1, "guest.wat\": imports what this host does not provide: \"env\".\"abort\"");
    assert_eq!(names(folder.path()), ["guest.wat"]);
}
