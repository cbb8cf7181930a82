//! Read: pages of samples from the source, and what of them is stale.

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::{Context, StageLoop};
use crate::{
    cancellation::Cancellation,
    decoding::{Decoder, check},
    message::StaleSample,
    seams::Source,
    stage::Stage,
    timing::Outlet,
};

/// Reads page by page, and checks a page's samples at once: most of them end here when a job is repeated, and a channel would
/// cost more than the check.
pub(crate) struct Read<'a> {
    pub(crate) source: &'a mut dyn Source,
    pub(crate) decoder: &'a Decoder,
    /// Threads for the check.
    pub(crate) num_workers: usize,
    pub(crate) cancellation: &'a Cancellation,
    pub(crate) out: Outlet<'a, StaleSample>,
}

impl StageLoop for Read<'_> {
    const STAGE: Stage = Stage::Read;

    fn run(self, context: Context<'_, '_>) {
        let Read { source, decoder, num_workers, cancellation, out } = self;
        let Context { clock, ledger, .. } = context;
        let Some(pool) = context.pool(Self::STAGE, num_workers) else { return };
        while !ledger.is_aborted() {
            if cancellation.is_cancelled() {
                ledger.draining();
                return;
            }
            let samples = match clock.busy(|| source.next_samples()) {
                Ok(samples) if samples.is_empty() => return,
                Ok(samples) => samples,
                Err(fault) => return ledger.abort(fault),
            };
            let checked: Vec<_> =
                clock.busy(|| pool.install(|| samples.into_par_iter().map(|sample| check(decoder, sample)).collect()));
            for checked in checked {
                if cancellation.is_cancelled() || ledger.is_aborted() {
                    break;
                }
                if let Some(stale) = ledger.read(checked)
                    && out.send(stale).is_err()
                {
                    return;
                }
            }
        }
    }
}
