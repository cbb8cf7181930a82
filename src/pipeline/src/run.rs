//! The run: every stage named once, with the channel between each two.
//!
//! ```text
//! read --> decode --> batch --> device --> encode --> commit
//! ```
//!
//! Each arrow is a bounded channel, so the slowest stage sets the pace and memory does not grow with the dataset. The end of
//! the input travels downstream by closing channels; a fault closes them upstream as well, and what is already complete is
//! still committed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, Scope},
    time::Instant,
};

use crossbeam_channel::{Receiver, bounded};
use rayon::iter::{IntoParallelIterator, ParallelBridge, ParallelIterator};

use super::{
    BatchLimit, DecodedSample, Decoder, Encoder, Event, ExplainedSample, Explainer, InputBatch, KnownFailures, MaxFailures,
    RunError, SampleUpdate, Sink, Source, Stage, StaleSample, Summary,
    ledger::{Ledger, lock},
    stages::{
        batch::Batcher,
        check::Checked,
        commit::{Committed, commit, next_bulk},
        decode::Decoded,
        encode::Encoded,
    },
    timing::{Clock, Inlet, Outlet},
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
}

/// Asks a run to stop reading, finish what is in flight and commit it.
#[derive(Clone, Debug, Default)]
pub struct Cancellation(Arc<AtomicBool>);

impl Cancellation {
    /// Asks.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
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
    let workers = options.num_workers.max(1);
    let num_devices = explainers.len();
    let num_samples = source.num_samples();
    let ledger = &Ledger::new(decoder, known, num_samples, options.max_failures, tell);
    tell(Event::RunStarted { num_samples });

    // Two stale samples for each decoder: the next one is at hand, and masks in documents (up to 16 MiB each) do not pile up.
    let (stale_out, stale_in) = bounded::<StaleSample>(2 * workers);
    // One decoded sample for each decoder; with the look-ahead of the batcher this bounds the images in memory.
    let (decoded_out, decoded_in) = bounded::<Box<DecodedSample>>(workers);
    // One batch waits for each that is on a device, so that no device ever does.
    let (batch_out, batch_in) = bounded::<InputBatch>(num_devices);
    // The heatmaps of one batch wait for encoders while the device makes the next.
    let (explained_out, explained_in) = bounded::<Vec<ExplainedSample>>(num_devices);
    // Complete files that wait for the database hold no pixels, only names (or inline maps).
    let (written_out, written_in) = bounded::<SampleUpdate>(64);

    let clocks = Stage::ALL.map(|stage| {
        let num_threads = match stage {
            Stage::Decode | Stage::Encode => workers,
            Stage::Device => num_devices,
            Stage::Read | Stage::Batch | Stage::Commit => 1,
        };
        (stage, Clock::new(num_threads))
    });
    let clock = |stage: Stage| &clocks[stage as usize].1;

    // What each explainer takes; until it has had a batch, in this run or an earlier one, one sample.
    let limits = Mutex::new(explainers.iter().map(|explainer| explainer.batch_limit()).collect::<Vec<_>>());
    let limits = &limits;
    let smallest = || lock(limits).iter().copied().fold(BatchLimit::samples(usize::MAX), BatchLimit::and);
    let limit = move || options.batch_limit.unwrap_or_else(smallest);

    std::thread::scope(|scope| {
        let (out, time) = (Outlet::new(stale_out, clock(Stage::Read)), clock(Stage::Read));
        spawn(scope, Stage::Read, ledger, move || read(source, decoder, workers, out, time, cancellation, ledger));
        let (input, out) = (Inlet::new(stale_in, clock(Stage::Decode)), Outlet::new(decoded_out, clock(Stage::Decode)));
        let withdrawn_out = Outlet::new(written_out.clone(), clock(Stage::Decode));
        spawn(scope, Stage::Decode, ledger, move || {
            decode(decoder, workers, input, out, withdrawn_out, clock(Stage::Decode), ledger);
        });
        let (input, out) = (Inlet::new(decoded_in, clock(Stage::Batch)), Outlet::new(batch_out, clock(Stage::Batch)));
        spawn(scope, Stage::Batch, ledger, move || batch(limit, input, out));
        for (index, explainer) in explainers.into_iter().enumerate() {
            let set_limit = move |limit| lock(limits)[index] = limit;
            let (input, out) = (batch_in.clone(), explained_out.clone());
            let (input, out) = (Inlet::new(input, clock(Stage::Device)), Outlet::new(out, clock(Stage::Device)));
            spawn(scope, Stage::Device, ledger, move || explain(explainer, input, out, set_limit, clock(Stage::Device), ledger));
        }
        // The stages' own ends are the last ones: a channel closes when they are gone.
        drop((batch_in, explained_out));
        let (input, out) = (Inlet::new(explained_in, clock(Stage::Encode)), Outlet::new(written_out, clock(Stage::Encode)));
        spawn(scope, Stage::Encode, ledger, move || encode(encoder, workers, input, out, clock(Stage::Encode), ledger));
        spawn(scope, Stage::Commit, ledger, move || commit_all(sink, orphans, &written_in, clock(Stage::Commit), ledger));
    });

    let (mut summary, fault) = ledger.close(cancellation.is_cancelled());
    summary.elapsed = started.elapsed();
    summary.stages = clocks.iter().map(|(stage, clock)| (*stage, clock.times())).collect();
    (summary, fault)
}

/// One thread for a stage; a panic in it aborts the run instead of hanging it.
fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    stage: Stage,
    ledger: &'scope Ledger<'_>,
    body: impl FnOnce() + Send + 'scope,
) {
    let guarded = move || {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            ledger.abort(RunError::Bug(stage));
        }
    };
    if Builder::new().name(stage.to_string()).spawn_scoped(scope, guarded).is_err() {
        ledger.abort(RunError::Bug(stage));
    }
}

/// Reads page by page, and checks a page's samples at once: most of them end here when a job is repeated, and a channel would
/// cost more than the check.
fn read(
    source: &mut dyn Source,
    decoder: &Decoder,
    workers: usize,
    out: Outlet<'_, StaleSample>,
    clock: &Clock,
    cancellation: &Cancellation,
    ledger: &Ledger<'_>,
) {
    let Some(pool) = pool(Stage::Read, workers, ledger) else { return };
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
            clock.busy(|| pool.install(|| samples.into_par_iter().map(|sample| decoder.check(sample)).collect()));
        for checked in checked {
            if cancellation.is_cancelled() || ledger.is_aborted() {
                break;
            }
            ledger.read(&checked);
            match checked {
                Checked::Stale(sample) => {
                    if out.send(*sample).is_err() {
                        return;
                    }
                }
                Checked::Skipped(skip) => ledger.skipped(skip),
                Checked::Failed(failure) => ledger.failed(failure),
            }
        }
    }
}

fn decode(
    decoder: &Decoder,
    workers: usize,
    input: Inlet<'_, StaleSample>,
    out: Outlet<'_, Box<DecodedSample>>,
    withdrawn_out: Outlet<'_, SampleUpdate>,
    clock: &Clock,
    ledger: &Ledger<'_>,
) {
    in_parallel(Stage::Decode, workers, ledger, || {
        input.iter().par_bridge().for_each(|stale| {
            if ledger.is_aborted() {
                return;
            }
            match clock.busy(|| decoder.decode(stale)) {
                Decoded::Ready(sample) => {
                    ledger.clipped(sample.is_clipped);
                    drop(out.send(sample));
                }
                Decoded::Moved(sample) => {
                    ledger.clipped(sample.is_clipped);
                    ledger.moved(&sample.sample);
                    drop(out.send(sample));
                }
                Decoded::Withdrawn(update) => drop(withdrawn_out.send(update)),
                Decoded::Skipped(skip) => ledger.skipped(skip),
                Decoded::Failed(failure) => ledger.failed(failure),
            }
        });
    });
}

fn batch(limit: impl Fn() -> BatchLimit, input: Inlet<'_, Box<DecodedSample>>, out: Outlet<'_, InputBatch>) {
    let mut batcher = Batcher::default();
    for sample in input.iter() {
        if let Some(batch) = batcher.push(*sample, limit())
            && out.send(batch).is_err()
        {
            return;
        }
    }
    while let Some(batch) = batcher.flush() {
        if out.send(batch).is_err() {
            return;
        }
    }
}

fn explain(
    explainer: &mut dyn Explainer,
    input: Inlet<'_, InputBatch>,
    out: Outlet<'_, Vec<ExplainedSample>>,
    set_limit: impl Fn(BatchLimit),
    clock: &Clock,
    ledger: &Ledger<'_>,
) {
    let mut next = None;
    while let Some(batch) = next.take().or_else(|| input.next()) {
        if ledger.is_aborted() {
            return;
        }
        if explainer.prefetches() {
            next = input.next_if_ready();
            next.iter().for_each(|next| clock.busy(|| explainer.prefetch(next)));
        }
        match clock.busy(|| explainer.explain(batch)) {
            Ok(batch) => {
                set_limit(explainer.batch_limit());
                batch.failed.into_iter().for_each(|failure| ledger.failed(failure));
                if out.send(batch.explained).is_err() {
                    return;
                }
            }
            Err(fault) => return ledger.abort(fault),
        }
    }
}

fn encode(
    encoder: &Encoder,
    workers: usize,
    input: Inlet<'_, Vec<ExplainedSample>>,
    out: Outlet<'_, SampleUpdate>,
    clock: &Clock,
    ledger: &Ledger<'_>,
) {
    in_parallel(Stage::Encode, workers, ledger, || {
        input.iter().flatten().par_bridge().for_each(|explained| {
            // What was computed is still written and committed after a fault elsewhere, unless writing is what failed.
            if ledger.cannot_write() {
                return;
            }
            match clock.busy(|| encoder.encode(explained)) {
                Ok(Encoded::Written(written)) => drop(out.send(written)),
                Ok(Encoded::Skipped(skip)) => ledger.skipped(skip),
                Err(fault) => ledger.abort(fault),
            }
        });
    });
}

fn commit_all(
    sink: &mut dyn Sink,
    mut orphans: Option<&mut Journal>,
    input: &Receiver<SampleUpdate>,
    clock: &Clock,
    ledger: &Ledger<'_>,
) {
    while let Some(bulk) = clock.starved(|| next_bulk(input)) {
        match clock.busy(|| commit(sink, orphans.as_deref_mut(), bulk)) {
            Ok(ended) => {
                for outcome in ended {
                    match outcome {
                        Committed::Done { sample, num_heatmaps, num_withdrawn } => {
                            ledger.committed(sample, num_heatmaps, num_withdrawn)
                        }
                        Committed::Skipped(skip) => ledger.skipped(skip),
                        Committed::Failed(failure) => ledger.failed(failure),
                    }
                }
            }
            Err(fault) => return ledger.abort(fault),
        }
    }
}

/// Runs the body in a pool of its own: blocked decoders must not hold up encoders.
fn in_parallel(stage: Stage, workers: usize, ledger: &Ledger<'_>, body: impl FnOnce() + Send) {
    if let Some(pool) = pool(stage, workers, ledger) {
        pool.install(body);
    }
}

fn pool(stage: Stage, workers: usize, ledger: &Ledger<'_>) -> Option<rayon::ThreadPool> {
    thread_pool(stage, workers).map_err(|fault| ledger.abort(fault)).ok()
}

/// Named threads for a stage.
pub(super) fn thread_pool(stage: Stage, workers: usize) -> Result<rayon::ThreadPool, RunError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(workers).thread_name(move |k| format!("{stage} {k}")).build();
    pool.map_err(|_| RunError::Bug(stage))
}
