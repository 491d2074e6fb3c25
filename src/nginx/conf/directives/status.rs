//! `http_wasm_status`: where the figures are shown.

use crate::nginx::conf::cf::{Cf, ConfError};
use crate::nginx::conf::settings::LocConf;
use crate::nginx::guests::status::page;

/// `http_wasm_status;`
pub(super) fn status(cf: &Cf, _loc: &mut LocConf) -> Result<(), ConfError> {
    match cf.set_handler(page::handler) {
        true => Ok(()),
        false => Err(ConfError::new(
            "\"http_wasm_status\" directive is duplicate, or another one answers the requests of this \
             location",
        )),
    }
}
