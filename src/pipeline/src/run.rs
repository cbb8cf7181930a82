//! The run: every stage named once, with the channels that it is at. `flow.rs` says what these are.
//!
//! Each channel is bounded, so the slowest stage sets the pace and memory does not grow with the dataset. The end of the input
//! travels downstream by closing channels; a fault closes them upstream as well, and what is already complete is still committed.

use std::{
    iter::repeat_n,
    panic::{AssertUnwindSafe, catch_unwind},
    thread::{Builder, Scope},
    time::Instant,
};

use crate::{
    cancellation::Cancellation,
    decoding::Decoder,
    encoder::Encoder,
    error::RunError,
    event::{Event, Summary},
    flow::{BATCHES, DECODED, EXPLAINED, Flow, STALE, UPDATES},
    forecast::{Forecaster, SpaceCheck},
    known::KnownFailures,
    ledger::Ledger,
    max_failures::MaxFailures,
    seams::{BatchLimit, Explainer, Sink, Source},
    stage::Stage,
    stages::{Batch, BatchLimits, Commit, Context, Decode, Device, Encode, Read, StageLoop},
};
use camflow_storage::Journal;

/// How a run is to go.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// How large batches are, at most; `None`: as the explainers say.
    pub batch_limit: Option<BatchLimit>,
    /// Threads for decoding, and as many for encoding.
    pub num_workers: usize,
    /// Abort when more samples than this fail.
    pub max_failures: Option<MaxFailures>,
    /// Whether to end a run whose files will not fit on the disk.
    pub space_check: SpaceCheck,
    /// Bytes that the files of a sample take at most, where that is known before its image is read.
    pub most_bytes: Option<u64>,
}

/// What a run is made of: the stages that are not the pipeline's own.
pub struct Parts<'a> {
    /// Where samples come from.
    pub source: &'a mut dyn Source,
    /// Files to pixels and masks.
    pub decoder: &'a Decoder,
    /// Pixels to heatmaps; one thread for each of them takes batches from the same queue.
    pub explainers: Vec<&'a mut dyn Explainer>,
    /// Heatmaps to files.
    pub encoder: &'a Encoder,
    /// Where references to them go.
    pub sink: &'a mut dyn Sink,
    /// Where the files are noted that are left over; `None` if nothing is written to disk.
    pub orphans: Option<&'a mut Journal>,
    /// What failed in earlier runs of the job.
    pub known: &'a mut KnownFailures,
}

/// Runs all stages to the end of the source. The summary is complete in either case; the fault says why a run was aborted.
pub fn run(
    parts: Parts<'_>,
    options: RunOptions,
    cancellation: &Cancellation,
    tell: &(dyn Fn(Event) + Sync),
) -> (Summary, Option<RunError>) {
    let Parts { source, decoder, explainers, encoder, sink, orphans, known } = parts;
    let started = Instant::now();
    let num_workers = options.num_workers.max(1);
    let num_samples = source.num_samples();
    let folder = orphans.is_some().then_some(encoder.folder.as_path());
    let forecaster = Forecaster::new(folder, options.space_check, num_samples);
    let mut outlook = forecaster.outlook(&decoder.fields, options.most_bytes);
    if decoder.per_detection {
        // How many detections there are, only the labels say.
        (outlook.num_heatmaps, outlook.num_bytes) = (None, None);
    }
    let ledger = &Ledger::new(&decoder.fields, decoder.fingerprint, known, num_samples, options.max_failures, forecaster, tell);
    tell(Event::RunStarted(outlook));

    let flow = &Flow::new(num_workers, explainers.len());
    let limits = explainers.iter().map(|explainer| explainer.batch_limit()).collect();
    let limits = &BatchLimits::new(options.batch_limit, limits);
    let (stale_out, stale_in) = flow.open(STALE);
    let (decoded_out, decoded_in) = flow.open(DECODED);
    let (batches_out, batches_in) = flow.open(BATCHES);
    let (explained_out, explained_in) = flow.open(EXPLAINED);
    let (updates_out, updates_in) = flow.open(UPDATES);
    let withdrawn = updates_out.also_at(flow.clock(Stage::Decode));

    std::thread::scope(|scope| {
        start(scope, flow, ledger, Read { source, decoder, num_workers, cancellation, out: stale_out });
        start(scope, flow, ledger, Decode { decoder, input: stale_in, out: decoded_out, withdrawn });
        start(scope, flow, ledger, Batch { limits, input: decoded_in, out: batches_out });
        // The last device takes the ends themselves: a channel closes when all of them are gone.
        let ends = repeat_n((batches_in, explained_out), explainers.len());
        for (index, (explainer, (input, out))) in explainers.into_iter().zip(ends).enumerate() {
            start(scope, flow, ledger, Device { explainer, index, limits, input, out });
        }
        start(scope, flow, ledger, Encode { encoder, input: explained_in, out: updates_out });
        start(scope, flow, ledger, Commit { sink, orphans, input: updates_in });
    });

    let (mut summary, fault) = ledger.close(cancellation.is_cancelled());
    summary.elapsed = started.elapsed();
    summary.stages = flow.times();
    (summary, fault)
}

/// One thread for a stage; a panic in it aborts the run instead of hanging it.
fn start<'scope, S: StageLoop + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    flow: &'scope Flow,
    ledger: &'scope Ledger<'_>,
    stage: S,
) {
    let context = Context { num_threads: flow.num_threads(S::STAGE), clock: flow.clock(S::STAGE), ledger };
    let guarded = move || {
        if catch_unwind(AssertUnwindSafe(|| stage.run(context))).is_err() {
            ledger.abort(RunError::Bug(S::STAGE));
        }
    };
    if Builder::new().name(S::STAGE.to_string()).spawn_scoped(scope, guarded).is_err() {
        ledger.abort(RunError::Bug(S::STAGE));
    }
}
