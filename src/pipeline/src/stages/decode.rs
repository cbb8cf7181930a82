//! Decode: image files to pixels, labels to targets.

use rayon::iter::{ParallelBridge, ParallelIterator};

use super::{Context, StageLoop};
use crate::{
    decoding::{Decoder, decode},
    message::{Decoded, DecodedSample, SampleUpdate, StaleSample},
    stage::Stage,
    timing::{Inlet, Outlet},
};

/// Decodes samples as they come, each on a thread of a pool.
pub(crate) struct Decode<'a> {
    pub(crate) decoder: &'a Decoder,
    pub(crate) input: Inlet<'a, StaleSample>,
    pub(crate) out: Outlet<'a, Box<DecodedSample>>,
    /// For samples that only lose heatmaps: there is nothing for the stages between.
    pub(crate) withdrawn: Outlet<'a, SampleUpdate>,
}

impl StageLoop for Decode<'_> {
    const STAGE: Stage = Stage::Decode;

    fn run(self, context: Context<'_, '_>) {
        let Decode { decoder, input, out, withdrawn } = self;
        let Context { clock, ledger, .. } = context;
        let Some(pool) = context.pool(Self::STAGE, context.num_threads) else { return };
        let decode_one = |stale| {
            if ledger.is_aborted() {
                return;
            }
            match ledger.next(clock.busy(|| decode(decoder, stale))) {
                Some(Decoded::Ready(sample)) => {
                    ledger.decoded(&sample);
                    drop(out.send(sample));
                }
                Some(Decoded::Withdrawn(update)) => drop(withdrawn.send(*update)),
                None => {}
            }
        };
        pool.install(|| input.iter().par_bridge().for_each(decode_one));
    }
}
