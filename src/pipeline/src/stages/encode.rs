//! Encode: heatmaps to files.

use std::sync::Mutex;

use rayon::iter::{ParallelBridge, ParallelIterator};

use super::{Context, StageLoop};
use crate::{
    encoder::{Encoder, Unfinished},
    lock::lock,
    message::{ExplainedSample, SampleUpdate},
    stage::Stage,
    timing::{Inlet, Outlet},
};

/// Encodes samples as they come, each on a thread of a pool.
pub(crate) struct Encode<'a> {
    pub(crate) encoder: &'a Encoder,
    pub(crate) input: Inlet<'a, Vec<ExplainedSample>>,
    pub(crate) out: Outlet<'a, SampleUpdate>,
}

impl StageLoop for Encode<'_> {
    const STAGE: Stage = Stage::Encode;

    fn run(self, context: Context<'_, '_>) {
        let Encode { encoder, input, out } = self;
        let Context { clock, ledger, .. } = context;
        let Some(pool) = context.pool(Self::STAGE, context.num_threads) else { return };
        let unfinished = Mutex::<Unfinished>::default();
        let encode_one = |explained: ExplainedSample| {
            // What was computed is still written and committed after a fault elsewhere, unless writing is what failed.
            if ledger.cannot_write() {
                return;
            }
            ledger.explained(&explained);
            match clock.busy(|| encoder.write(explained)) {
                Ok(part) => {
                    let Some(whole) = lock(&unfinished).add(part) else { return };
                    if let Some(update) = ledger.next(encoder.update(whole)) {
                        ledger.wrote(update.num_new_bytes());
                        drop(out.send(update));
                    }
                }
                Err(fault) => ledger.abort(fault),
            }
        };
        pool.install(|| input.iter().flatten().par_bridge().for_each(encode_one));
    }
}
