//! Locks and tasks of the flights: the usual ones, or with the feature `shuttle` those of a model checker, which decides
//! at each of them who goes on (see `flight/model.rs`).

#[cfg(not(feature = "shuttle"))]
mod usual {
    use std::future::Future;

    pub(crate) use parking_lot::Mutex;
    use tokio_util::task::TaskTracker;

    /// Tasks that run to their end.
    #[derive(Debug, Default)]
    pub(crate) struct Tasks(TaskTracker);

    impl Tasks {
        pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            self.0.spawn(task);
        }
    }
}

#[cfg(feature = "shuttle")]
mod model {
    use std::future::Future;

    /// As the usual one: without poison, because a model run ends at its first panic.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().expect("a model run ends at its first panic")
        }
    }

    /// Tasks of the run.
    #[derive(Debug, Default)]
    pub(crate) struct Tasks(());

    impl Tasks {
        pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            // The run ends when all its tasks have.
            drop(shuttle::future::spawn(task));
        }
    }
}

#[cfg(feature = "shuttle")]
pub(crate) use model::{Mutex, Tasks};
#[cfg(not(feature = "shuttle"))]
pub(crate) use usual::{Mutex, Tasks};
