//! Builds definitions: a [`State`] is a place in a graph (an output of a vertex, or scratch) together with
//! what the next process would see (environment, directory, user…). States are values; every method gives a
//! new one, and nothing happens before [`State::marshal`].
//!
//! Digests depend on the [`MarshalOptions`] (default platform, unique id of local sources), so ops are
//! encoded only then. Vertices are shared: marshalling visits each one once.

mod constraints;
mod exec;
mod file;
mod marshal;
pub(crate) mod paths;
mod source;
mod state;
mod vertex;

pub use constraints::{Constraints, DefaultPath, MarshalOptions};
pub use exec::{Attached, ExecOptions, ExecState, MountOptions, SecretOptions, SshOptions};
pub use file::FileActions;
pub use source::{
    GitOptions, HttpOptions, ImageOptions, ImageResolveMode, LocalDiffer, LocalOptions, OciLayoutOptions,
};
pub use state::State;
