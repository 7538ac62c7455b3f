use rbuild_oci::Descriptor;

use crate::RefId;

/// Told how far the work on a layer is. Called often and from several threads: must return at once.
pub trait LayerProgress: Send + Sync + std::fmt::Debug {
    /// `current` of `total` bytes of a blob are here.
    fn bytes(&self, layer: &Descriptor, current: u64, total: u64) {
        let (_, _, _) = (layer, current, total);
    }

    /// A blob is being unpacked.
    fn extracting(&self, layer: &Descriptor) {
        let _ = layer;
    }

    /// A blob was unpacked.
    fn extracted(&self, layer: &Descriptor) {
        let _ = layer;
    }

    /// So many bytes of a layer archive that is being made have gone through the compressor.
    fn packing(&self, layer: &RefId, bytes: u64) {
        let (_, _) = (layer, bytes);
    }

    /// A layer archive was made.
    fn packed(&self, layer: &RefId, blob: &Descriptor) {
        let (_, _) = (layer, blob);
    }
}
