//! `http_wasm_status`: where the figures are shown.

use super::super::cf::{Cf, ConfError};
use super::super::conf::LocConf;
use super::super::status::page;

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
