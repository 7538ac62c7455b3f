use std::sync::atomic::{AtomicUsize, Ordering};

/// What all texts of one pass may cost: a file of some MiB whose values multiply line by line must end as an
/// error before it fills the memory. Real files stay far below one MiB.
const MAX_TOTAL: usize = 128 << 20;

/// What a pass has spent on texts and variables, in bytes read or written.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    // Atomic only so that plans can be shared; nobody counts concurrently.
    spent: AtomicUsize,
}

impl Budget {
    /// Counts `cost`. Errors: the pass has spent all it may.
    pub(crate) fn spend(&self, cost: usize) -> Result<(), String> {
        let spent = self.spent.load(Ordering::Relaxed).saturating_add(cost);
        self.spent.store(spent, Ordering::Relaxed);
        if spent > MAX_TOTAL {
            return Err(format!("the variables of this file expand to more than {MAX_TOTAL} bytes in all"));
        }
        Ok(())
    }
}
