//! Targets on the nginx side are linked with nginx's own objects, packed by `make`, as the unit
//! tests of that side are.

fn main() {
    println!("cargo::rerun-if-env-changed=TEST_NGINX_ARCHIVE");
    if std::env::var_os("CARGO_FEATURE_NGINX").is_none() {
        return;
    }
    let archive = std::env::var("TEST_NGINX_ARCHIVE")
        .expect("TEST_NGINX_ARCHIVE names nginx's objects: run make fuzz or make fuzz-smoke");
    println!("cargo::rerun-if-changed={archive}");
    println!("cargo::rustc-link-arg-bins={archive}");
    for library in ["crypt", "pcre2-8", "ssl", "crypto", "z"] {
        println!("cargo::rustc-link-arg-bins=-l{library}");
    }
}
