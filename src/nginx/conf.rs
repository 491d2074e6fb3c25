//! Configurations: directives, what levels inherit, and loading guests while nginx reads them.

pub(crate) mod cache;
pub(crate) mod cf;
pub(crate) mod child;
pub(crate) mod directives;
pub(crate) mod line;
pub(crate) mod load;
pub(crate) mod rights;
pub(crate) mod said;
pub(crate) mod settings;
