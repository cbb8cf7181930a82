//! The stages, one file each: a type that has the ends of the stage's channels and what it works with, and its loop.

mod batch;
mod commit;
mod decode;
mod device;
mod encode;
mod read;

use rayon::ThreadPool;

pub(crate) use batch::{Batch, BatchLimits};
pub(crate) use commit::Commit;
pub(crate) use decode::Decode;
pub(crate) use device::Device;
pub(crate) use encode::Encode;
pub(crate) use read::Read;

use crate::{ledger::Ledger, pool::thread_pool, stage::Stage, timing::Clock};

/// One thread of a stage.
pub(crate) trait StageLoop: Send {
    /// Which stage.
    const STAGE: Stage;

    /// Works until the stage before has closed, or the run is aborted.
    fn run(self, context: Context<'_, '_>);
}

/// What each stage has of the run that it is in.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a, 'b> {
    pub(crate) num_threads: usize,
    pub(crate) clock: &'a Clock,
    pub(crate) ledger: &'a Ledger<'b>,
}

impl Context<'_, '_> {
    /// So many threads for a stage; `None` if the system has none, which aborts the run.
    fn pool(&self, stage: Stage, num_threads: usize) -> Option<ThreadPool> {
        thread_pool(stage, num_threads).map_err(|fault| self.ledger.abort(fault)).ok()
    }
}
