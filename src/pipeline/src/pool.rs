//! Threads for the stages that work on many samples at once.

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{error::RunError, stage::Stage};

/// Named threads for a stage.
pub(crate) fn thread_pool(stage: Stage, num_threads: usize) -> Result<ThreadPool, RunError> {
    let pool = ThreadPoolBuilder::new().num_threads(num_threads).thread_name(move |k| format!("{stage} {k}")).build();
    pool.map_err(|_| RunError::Bug(stage))
}
