//! Device: batches to heatmaps.

use super::{BatchLimits, Context, StageLoop};
use crate::{
    message::{ExplainedSample, InputBatch},
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
        let mut next = None;
        while let Some(batch) = next.take().or_else(|| limits.next_rest()).or_else(|| input.next()).or_else(|| limits.next_rest())
        {
            if ledger.is_aborted() {
                return;
            }
            let batch = limits.share(index, batch);
            if explainer.prefetches() {
                next = limits.next_rest().or_else(|| input.next_if_ready()).map(|next| limits.share(index, next));
            }
            match clock.busy(|| explainer.explain(batch, next.as_ref())) {
                Ok(batch) => {
                    limits.set(index, explainer.batch_limit());
                    batch.failed.into_iter().for_each(|failure| ledger.failed(failure));
                    if out.send(batch.explained).is_err() {
                        return;
                    }
                }
                Err(fault) => return ledger.abort(fault),
            }
        }
    }
}
