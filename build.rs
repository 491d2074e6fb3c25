//! With the feature `module`: compiles the C shim against the same nginx headers that nginx-sys
//! used, declares in Rust what it defines, and pins the library in memory. Without the feature there
//! is nothing to do.

fn main() {
    #[cfg(feature = "module")]
    module();
}

#[cfg(feature = "module")]
fn module() {
    println!("cargo::rerun-if-changed={SHIM}.c");
    println!("cargo::rerun-if-changed={SHIM}.h");
    for name in ["DEP_NGINX_INCLUDE", "DEP_NGINX_CFLAGS", "DEP_NGINX_VERSION_NUMBER"] {
        println!("cargo::rerun-if-env-changed={name}");
    }

    let includes: Vec<_> = std::env::var("DEP_NGINX_INCLUDE")
        .map(|include| std::env::split_paths(&include).collect())
        .unwrap_or_default();
    let flags = std::env::var("DEP_NGINX_CFLAGS").unwrap_or_default();
    let flags: Vec<_> = flags.split_whitespace().filter(|flag| keeps_layout(flag)).collect();
    compile(&includes, &flags);
    declare(&includes, &flags);

    // A Rust thread-local with a destructor keeps the library loaded anyway once it was touched:
    // say so openly, so that taking the module out of the configuration behaves the same always.
    println!("cargo::rustc-link-arg=-Wl,-z,nodelete");

    // Unit tests of the nginx side run against nginx's own objects, packed by `make`; inside nginx
    // the server itself has those symbols.
    println!("cargo::rerun-if-env-changed=TEST_NGINX_ARCHIVE");
    if let Ok(archive) = std::env::var("TEST_NGINX_ARCHIVE") {
        println!("cargo::rerun-if-changed={archive}");
        println!("cargo::rustc-link-arg={archive}");
        for library in ["crypt", "pcre2-8", "ssl", "crypto", "z"] {
            println!("cargo::rustc-link-arg=-l{library}");
        }
    }
}

#[cfg(feature = "module")]
const SHIM: &str = "src/nginx/ngx/shim";

#[cfg(feature = "module")]
fn compile(includes: &[std::path::PathBuf], flags: &[&str]) {
    let mut cc = cc::Build::new();
    cc.file(format!("{SHIM}.c")).warnings(true).extra_warnings(true).includes(includes);
    // nginx's own headers have unused parameters.
    cc.flag_if_supported("-Wno-unused-parameter");
    for flag in flags {
        cc.flag(flag);
    }
    // Set by `make`, which has the Rust of the module instrumented in the same way.
    println!("cargo::rerun-if-env-changed=TEST_SANITIZER");
    if let Ok(sanitizer) = std::env::var("TEST_SANITIZER") {
        cc.compiler("clang")
            .flag(format!("-fsanitize={sanitizer}"))
            .flag("-fno-omit-frame-pointer");
    }
    cc.compile("ngx_http_wasm_shim");
}

/// Writes `shim.rs`: the shim's functions, with nginx-sys's types.
#[cfg(feature = "module")]
fn declare(includes: &[std::path::PathBuf], flags: &[&str]) {
    let out = std::env::var_os("OUT_DIR").expect("OUT_DIR is set by cargo");
    bindgen::Builder::default()
        .header(format!("{SHIM}.h"))
        .clang_args(includes.iter().map(|path| format!("-I{}", path.display())))
        .clang_args(flags)
        .allowlist_function("ngx_http_wasm_.*")
        .allowlist_var("ngx_http_wasm_.*")
        .allowlist_recursively(false)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .generate()
        .expect("the declarations of shim.h are made")
        .write_to_file(std::path::Path::new(&out).join("shim.rs"))
        .expect("the declarations of shim.h are written");
}

/// Definitions and include folders decide the layout of nginx's structures; warnings and
/// optimisation are the compiler's own business here.
#[cfg(feature = "module")]
fn keeps_layout(flag: &str) -> bool {
    flag.starts_with("-D") || flag.starts_with("-I")
}
