//! With the feature `module`: compiles the C shim against the same nginx headers that nginx-sys
//! used, and pins the library in memory. Without it there is nothing to do.

fn main() {
    #[cfg(feature = "module")]
    module();
}

#[cfg(feature = "module")]
fn module() {
    const SHIM: &str = "src/nginx/shim.c";
    println!("cargo::rerun-if-changed={SHIM}");
    for name in ["DEP_NGINX_INCLUDE", "DEP_NGINX_CFLAGS", "DEP_NGINX_VERSION_NUMBER"] {
        println!("cargo::rerun-if-env-changed={name}");
    }

    let mut cc = cc::Build::new();
    cc.file(SHIM).warnings(true).extra_warnings(true);
    // nginx's own headers have unused parameters.
    cc.flag_if_supported("-Wno-unused-parameter");
    if let Ok(include) = std::env::var("DEP_NGINX_INCLUDE") {
        cc.includes(std::env::split_paths(&include));
    }
    if let Ok(flags) = std::env::var("DEP_NGINX_CFLAGS") {
        for flag in flags.split_whitespace().filter(|flag| keeps_layout(flag)) {
            cc.flag(flag);
        }
    }
    // Set by `make`, which has the Rust of the module instrumented in the same way.
    println!("cargo::rerun-if-env-changed=TEST_SANITIZER");
    if let Ok(sanitizer) = std::env::var("TEST_SANITIZER") {
        cc.compiler("clang")
            .flag(format!("-fsanitize={sanitizer}"))
            .flag("-fno-omit-frame-pointer");
    }
    cc.compile("ngx_http_wasm_shim");

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

/// Definitions and include folders decide the layout of nginx's structures; warnings and
/// optimisation are the compiler's own business here.
#[cfg(feature = "module")]
fn keeps_layout(flag: &str) -> bool {
    flag.starts_with("-D") || flag.starts_with("-I")
}
