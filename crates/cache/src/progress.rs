use std::collections::HashMap;

use parking_lot::Mutex;
use rbuild_oci::Descriptor;
use rbuild_progress::{Reporter, StatusHandle};
use rbuild_store::LayerProgress;

/// Shows layers that have to be fetched while a cache is put together.
#[derive(Debug)]
pub(crate) struct LayerStatus {
    reporter: Reporter,
    shown: Mutex<HashMap<String, StatusHandle>>,
}

impl LayerStatus {
    pub(crate) fn new(reporter: Reporter) -> Self {
        Self { reporter, shown: Mutex::default() }
    }
}

impl LayerProgress for LayerStatus {
    fn bytes(&self, layer: &Descriptor, current: u64, total: u64) {
        let id = layer.digest.to_string();
        let mut shown = self.shown.lock();
        let status = shown.entry(id.clone()).or_insert_with(|| self.reporter.status(&id, "downloading"));
        status.set(current, total);
        if current >= total {
            status.done();
        }
    }
}
