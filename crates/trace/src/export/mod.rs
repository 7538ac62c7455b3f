//! To a collector: [`settings`] from the environment, [`send`] over gRPC or HTTP.

mod send;
mod settings;

pub(crate) use send::Exporter;
pub use settings::{ExportSettings, SettingsError};
