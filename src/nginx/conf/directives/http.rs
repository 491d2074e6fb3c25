//! The directives of the http block alone: what all guests of a worker have in common.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{number, once, size, time};
use crate::nginx::conf::cf::{Cf, ConfError};
use crate::nginx::conf::load::CachePath;
use crate::nginx::conf::settings::MainConf;
use crate::nginx::ngx::log::Escaped;

/// `http_wasm_cache_path DIR | off;`
pub(super) fn cache_path(cf: &Cf, main: &mut MainConf) -> Result<(), ConfError> {
    let value = match cf.argument()? {
        b"off" => CachePath::Off,
        dir => {
            let dir = cf.full_name(dir)?;
            CachePath::Dir(Path::new(std::ffi::OsStr::from_bytes(&dir)).to_path_buf())
        }
    };
    once(cf, &mut main.cache, value)
}

/// `http_wasm_compile_timeout TIME;`
pub(super) fn compile_timeout(cf: &Cf, main: &mut MainConf) -> Result<(), ConfError> {
    let value = time(cf.argument()?)?;
    once(cf, &mut main.compile_timeout, value)
}

/// `http_wasm_instances N;`
pub(super) fn instances(cf: &Cf, main: &mut MainConf) -> Result<(), ConfError> {
    let arg = cf.argument()?;
    let value = number(arg, arg, 1)?;
    let value = u32::try_from(value).ok().filter(|&value| value <= MainConf::INSTANCES_MAX);
    let value = value.ok_or_else(|| {
        let (arg, max) = (Escaped(arg), MainConf::INSTANCES_MAX);
        ConfError::new(format!("invalid value \"{arg}\": expected 1 to {max}"))
    })?;
    once(cf, &mut main.instances, value)
}

/// `http_wasm_profile perfmap | off;`
pub(super) fn profile(cf: &Cf, main: &mut MainConf) -> Result<(), ConfError> {
    let value = match cf.argument()? {
        b"perfmap" => true,
        b"off" => false,
        other => {
            let other = Escaped(other);
            let text = format!("invalid value \"{other}\": expected \"perfmap\" or \"off\"");
            return Err(ConfError::new(text));
        }
    };
    once(cf, &mut main.profile, value)
}

/// `http_wasm_stack_limit SIZE;`
pub(super) fn stack_limit(cf: &Cf, main: &mut MainConf) -> Result<(), ConfError> {
    let arg = cf.argument()?;
    let bytes = size(arg, arg)?;
    if !(64 << 10..=64 << 20).contains(&bytes) {
        return Err(ConfError::new(format!(
            "invalid value \"{}\": expected 64k to 64m",
            Escaped(arg)
        )));
    }
    once(cf, &mut main.stack_bytes, usize::try_from(bytes).unwrap_or(usize::MAX))
}
