//! `camflow annotate`: the main job. Here is the flow; [`args`] has the flags, [`job`] what they come to,
//! [`record`] what is left of the run.

mod args;
mod config;
mod job;
mod note;
mod record;

use std::collections::BTreeMap;

use anyhow::Context;
use clap::ArgMatches;
use serde_json::{Map, Value};

use super::{
    Exit, Failure,
    cam::Model,
    error_text,
    signals::cancel_on_signals,
    target::{check_output, class_names, described, resolve_targets},
};
use crate::{
    explain::{ExplainOptions, TorchExplainer},
    fiftyone::{Database, Shard},
    media::{ExifPolicy, ImageLimits},
    names::backticked,
    pipeline::{
        BatchLimit, Decoder, Encoder, Event, NpyFormat, Parts, RunError, RunOptions, SkipReason, Source, Store, note_dataset,
        run, survey,
    },
    program::device_name,
    report::{Reporter, RunRecord},
};
use args::BatchSize;
pub use args::{Args, DatabaseArgs};
pub use config::settings;
pub use job::output_folder;
use job::{
    DatasetSide, check_dataset, check_model, check_schema, check_writable, describe_fields, field_names, fields, job_fingerprint,
    preceding, selection,
};
use note::{Computed, note_run};
use record::RecordFiles;

/// One job: its arguments, and what there is to say about them.
pub struct Invocation {
    /// The arguments.
    pub args: Args,
    /// Every setting by the name of its flag, without secrets.
    pub config: Map<String, Value>,
    /// The job's number and how many there are.
    pub position: (usize, usize),
}

impl Invocation {
    /// The only job of the process, from the command line.
    pub fn from_matches(args: Args, matches: &ArgMatches) -> Self {
        Invocation { args, config: config::settings(matches, &BTreeMap::new()), position: (1, 1) }
    }
}

/// Runs a job to its end, and reports how it ended. The database stays in `open` until the next one is, because a service that
/// camflow started would end between two jobs.
pub fn main(invocation: Invocation, open: &mut Option<Database>) -> Exit {
    let Invocation { args, config, position } = invocation;
    let reporter = Reporter::for_job(args.format, args.quiet, args.name.as_deref(), &args.dataset);
    // Whoever asks what would be done wants to hear it.
    let reporter = if args.is_dry() { reporter } else { reporter.holding_back() };
    reporter.job_started(position);
    let mut record = RunRecord::begin(args.job_name().to_owned(), args.dataset.clone(), config);
    let files = RecordFiles::check(&args);
    let result = match &files {
        Ok(_) => annotate(&args, &reporter, &mut record, open),
        Err(error) => Err(anyhow::anyhow!("{error}").into()),
    };
    let mut exit = result.unwrap_or_else(|failure| {
        let text = error_text(&failure.error);
        reporter.error(&text, failure.exit.code());
        record.error = Some(text);
        failure.exit
    });
    if let Err(error) = files.map_or(Ok(()), |files| files.write(&record, exit)) {
        exit = exit.max(Exit::Aborted);
        reporter.error(&error_text(&error), exit.code());
    }
    reporter.job_finished(exit.ending());
    exit
}

fn annotate(args: &Args, reporter: &Reporter, record: &mut RunRecord, open: &mut Option<Database>) -> Result<Exit, Failure> {
    let cancellation = cancel_on_signals()?;

    // Both sides are checked before either's faults are reported: one look, all mistakes.
    let (model_side, dataset_side) = match (check_model(args, reporter), check_dataset(args, open)) {
        (Ok(model), Ok(dataset)) => (model, dataset),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error.into()),
        (Err(first), Err(second)) => return Err(anyhow::anyhow!("{first:#}\nerror: {second:#}").into()),
    };
    let Model { program, layers, devices } = model_side;
    let DatasetSide { dataset, label, mask_targets, notices } = dataset_side;
    notices.iter().for_each(|notice| reporter.notice(notice));

    let targets =
        resolve_targets(&args.target, &args.cam.classes, &program, &dataset, label.as_ref(), mask_targets.as_deref(), reporter)?;
    let class_names = class_names(&targets, label.as_ref());
    let options = ExplainOptions { faithfulness: args.faithfulness, ..args.cam.explain_options(&program, layers) };
    let columns = options.columns();
    let names = field_names(args, &class_names, &options.methods, &columns)?;
    let folder = output_folder(args.out.as_deref(), dataset.name())?;
    let writes_files = args.store == Store::Path || args.npy != NpyFormat::None;
    if writes_files && !args.is_dry() {
        check_writable(&folder)?;
    }

    let fields = fields(&names, &targets, &columns);
    let heatmap_fields = describe_fields(&names, &columns, &program);
    let selection =
        selection(args, &dataset, label.clone(), &heatmap_fields).map_err(|error| match cancellation.is_cancelled() {
            // Ctrl-C ends the Python that resolves a view, too.
            true => Failure { exit: Exit::Interrupted, error },
            false => error.into(),
        })?;
    let mut source = dataset.source(selection)?;
    source.notices().iter().for_each(|notice| reporter.notice(notice));
    let mut sink = dataset.sink(heatmap_fields)?;

    let explainers = devices.iter().map(|device| TorchExplainer::new(&program, *device, options.clone()));
    let mut explainers = explainers.collect::<Result<Vec<_>, _>>()?;
    for (explainer, options) in explainers.iter_mut().zip(&devices) {
        explainer.share_memory(devices.iter().filter(|other| other.device == options.device).count());
    }
    check_output(&program, explainers[0].plan(), &args.target)?;
    let num_samples = source.num_samples().map_or_else(|| "?".into(), |count| count.to_string());
    let fields_text = backticked(fields.names());
    reporter.step(&format!(
        "dataset `{}`: {num_samples} samples{}, target {}; model `{}` on {}; fields {fields_text}",
        dataset.name(),
        args.part().map(|shard| format!(" in shard {shard}")).unwrap_or_default(),
        described(&args.target, label.as_ref()),
        program.metadata.name,
        devices.iter().map(|options| device_name(options.device)).collect::<Vec<_>>().join(", "),
    ));
    let decoder = Decoder {
        preprocess: program.metadata.preprocess.clone(),
        targets,
        fields: fields.clone(),
        limits: ImageLimits::default(),
        exif: if args.apply_exif { ExifPolicy::Apply } else { ExifPolicy::Ignore },
        fingerprint: job_fingerprint(args, &program, label.as_ref()),
        overwrite: args.overwrite,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let num_workers = args.workers.unwrap_or(cores);
    if args.is_dry() {
        let tell = |event| match event {
            Event::SampleFailed(_) => reporter.tell(event),
            Event::SampleStale { .. } if args.explain_plan => reporter.tell(event),
            _ => {}
        };
        let survey = survey(&mut source, &decoder, num_workers, &cancellation, &tell).map_err(Failure::aborted)?;
        reporter.surveyed(&survey, columns.len());
        return Ok(if survey.interrupted { Exit::Interrupted } else { Exit::Done });
    }
    sink.lock(args.shard.unwrap_or(Shard::WHOLE)).map_err(Failure::from_lock)?;
    if let Some(deepest) = names.first().and_then(|row| row.last()).filter(|_| !args.no_app_config) {
        sink.show_in_app(deepest.clone());
    }
    if writes_files {
        note_dataset(&folder, &dataset.id()).with_context(|| format!("cannot write to the folder `{}`", folder.display()))?;
    }
    // A clone of the dataset may refer to the files that this run replaces.
    let keep_superseded = dataset.shares_heatmaps(&fields.names().collect::<Vec<_>>()).map_err(Failure::aborted)?;
    let encoder = Encoder {
        folder: folder.clone(),
        fields: fields.clone(),
        preceding: preceding(&columns),
        store: args.store,
        npy: args.npy,
        class_names: program.metadata.classes.clone(),
    };
    let options = RunOptions {
        batch_limit: match args.batch_size {
            BatchSize::Samples(samples) => Some(BatchLimit::samples(samples.get())),
            BatchSize::Auto => None,
        },
        num_workers,
        max_failures: args.max_failures,
        keep_superseded,
    };
    let tell = |event| reporter.tell(event);
    let parts = Parts {
        source: &mut source,
        decoder: &decoder,
        explainers: explainers.iter_mut().map(|explainer| explainer as _).collect(),
        encoder: &encoder,
        sink: &mut sink,
    };
    let (summary, fault) = run(parts, options, &cancellation, &tell);
    reporter.finish(&summary, fault.as_ref());
    record.summary = Some(summary.clone());
    let exit = match (&fault, summary.interrupted, summary.num_failed) {
        (Some(_), ..) => Exit::Aborted,
        (None, true, _) => Exit::Interrupted,
        (None, false, 0) => Exit::Done,
        (None, false, _) => Exit::SomeFailed,
    };
    let folder = writes_files.then_some(folder);
    let label = label.as_ref();
    let computed = Computed { program: &program, columns: &columns, classes: &class_names, label, fields: &fields, folder };
    let note = || note_run(args, &dataset, computed, record, &summary, exit, args.part());
    match fault {
        // A database that is lost takes no notes, and the next run makes up for it.
        Some(fault @ RunError::Database { .. }) => return Err(Failure::aborted(fault)),
        Some(fault) => {
            if let Err(error) = note() {
                reporter.warning(&error.to_string());
            }
            return Err(Failure::aborted(fault));
        }
        None => {}
    }
    // Without a heatmap in any sample there is nothing to declare.
    if summary.num_committed > 0 || summary.skipped.contains_key(&SkipReason::UpToDate) {
        check_schema(&sink, summary.num_committed > 0, reporter).map_err(Failure::aborted)?;
    }
    note().map_err(Failure::aborted)?;
    if summary.num_committed > 0 {
        reporter.notice(&format!(
            "look at them with `fiftyone app launch {}`; a Python that has the dataset open sees them after `dataset.reload()`",
            dataset.name()
        ));
    }
    Ok(exit)
}
