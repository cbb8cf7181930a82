//! Device: batches to heatmaps.

use super::{BatchLimits, Context, StageLoop};
use crate::{
    error::RunError,
    message::{ExplainedSample, HeatmapBatch, InputBatch},
    seams::Explainer,
    stage::Stage,
    timing::{Inlet, Outlet},
};

/// One device; several take batches from the same channel.
pub(crate) struct Device<'a> {
    pub(crate) explainer: &'a mut dyn Explainer,
    /// Which of the explainers it is.
    pub(crate) index: usize,
    pub(crate) limits: &'a BatchLimits,
    pub(crate) input: Inlet<'a, InputBatch>,
    pub(crate) out: Outlet<'a, Vec<ExplainedSample>>,
}

impl StageLoop for Device<'_> {
    const STAGE: Stage = Stage::Device;

    fn run(self, context: Context<'_, '_>) {
        let Device { explainer, index, limits, input, out } = self;
        let Context { clock, ledger, .. } = context;
        // False where the run is over.
        let hand_on = |made: Result<HeatmapBatch, RunError>| match made {
            Ok(HeatmapBatch { explained, failed }) => {
                failed.into_iter().for_each(|failure| ledger.failed(failure));
                explained.is_empty() || out.send(explained).is_ok()
            }
            Err(fault) => {
                ledger.abort(fault);
                false
            }
        };
        loop {
            let ready = limits.next_rest().or_else(|| input.next_if_ready());
            // While nothing else is there to do, the device ends what it has.
            if ready.is_none() && !hand_on(clock.busy(|| explainer.finish())) {
                return;
            }
            let Some(batch) = ready.or_else(|| input.next()).or_else(|| limits.next_rest()) else { return };
            if ledger.is_aborted() {
                return;
            }
            let batch = limits.share(index, batch);
            let made = clock.busy(|| explainer.explain(batch));
            limits.set(index, explainer.batch_limit());
            if !hand_on(made) {
                return;
            }
            while let Some(part) = clock.busy(|| explainer.next_part()).transpose() {
                if !hand_on(part) || ledger.is_aborted() {
                    return;
                }
            }
        }
    }
}
