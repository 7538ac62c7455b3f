//! From a state to a layer archive.

mod walk;
mod writer;

use std::io::Write;
use std::path::Path;

use rbuild_oci::layer::LayerWriter;
use rbuild_sys::Root;

use self::walk::{Form, Walk};
use self::writer::Writer;
use crate::{Result, SnapshotError};

/// Which extended attributes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attributes {
    /// File capabilities alone, as layers have them: they do not depend on the host.
    #[default]
    Capabilities,
    /// Capabilities and `user.*`, for archives of files.
    Users,
}

/// How a diff is written.
#[derive(Debug, Clone, Default)]
pub struct DiffOptions {
    /// Times later than this (seconds since 1970) become this.
    pub source_date_epoch: Option<i64>,
    /// Which extended attributes are written.
    pub attributes: Attributes,
}

/// What a diff found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiffStats {
    /// Entries written, whiteouts and parents included.
    pub entries: u64,
    /// Bytes of file content.
    pub content_bytes: u64,
}

/// Writes the difference between two states as an uncompressed OCI layer archive.
///
/// Entries come depth first, names in byte order; the parents of whatever changed are included; sockets are not. What
/// looks the same in both states is left out. Times are in whole seconds and of attributes only [`Attributes`]
/// are kept, so that the archive of a state does not depend on the host.
#[derive(Debug)]
pub struct Differ<'a> {
    base: Option<&'a Root>,
    options: DiffOptions,
}

impl<'a> Differ<'a> {
    /// A differ against `base`: the file system as it was before (a view of all lower layers), `None` if nothing was.
    pub fn new(base: Option<&'a Root>, options: DiffOptions) -> Self {
        Self { base, options }
    }

    /// `upper` is the upper directory of an overlay over the base: only what is in it is looked at.
    ///
    /// Whiteouts of things that the base does not have are left out. An opaque directory is compared with the base's,
    /// so that the archive names what was removed. Errors: [`crate::SnapshotError::OverlayFeature`].
    pub fn diff_overlay(&self, upper: &Root, out: impl Write) -> Result<DiffStats> {
        self.run(upper, out, Form::Overlay)
    }

    /// `upper` is a whole file system: both trees are walked and compared.
    pub fn diff_trees(&self, upper: &Root, out: impl Write) -> Result<DiffStats> {
        self.run(upper, out, Form::Full)
    }

    /// As [`Differ::diff_trees`], into an archive that was begun, below the directory `below` of it. The archive is
    /// given back without its end mark.
    pub fn append_tree<W: Write>(
        &self,
        upper: &Root,
        below: &Path,
        archive: LayerWriter<W>,
    ) -> Result<(DiffStats, LayerWriter<W>)> {
        self.append(upper, below, archive, Form::Full)
    }

    fn run(&self, upper: &Root, out: impl Write, form: Form) -> Result<DiffStats> {
        let (stats, archive) = self.append(upper, Path::new(""), LayerWriter::new(out), form)?;
        archive.finish().map_err(SnapshotError::Write)?;
        Ok(stats)
    }

    fn append<W: Write>(
        &self,
        upper: &Root,
        below: &Path,
        archive: LayerWriter<W>,
        form: Form,
    ) -> Result<(DiffStats, LayerWriter<W>)> {
        let mut writer = Writer::new(archive, below, upper, &self.options);
        Walk::new(self.base, upper, &mut writer).run(form)?;
        Ok(writer.done())
    }
}

#[cfg(test)]
mod tests;
