//! `camflow annotate`: the main job. Here is the flow; [`args`] has the flags, [`job`] what they come to.

mod args;
mod job;

use anyhow::Context;

use super::{
    Exit, Failure,
    cam::Model,
    signals::cancel_on_signals,
    target::{check_output, class_names, described, resolve_targets},
};
use crate::{
    explain::TorchExplainer,
    media::{ExifPolicy, ImageLimits},
    names::backticked,
    pipeline::{
        BatchLimit, Decoder, Encoder, Event, NpyFormat, Parts, RunOptions, SkipReason, Source, Store, note_dataset, run, survey,
    },
    program::device_name,
    report::Reporter,
};
use args::BatchSize;
pub use args::{Args, DatabaseArgs};
pub use job::output_folder;
use job::{
    DatasetSide, check_dataset, check_model, check_schema, check_writable, describe_fields, field_names, fields, job_fingerprint,
    selection,
};

/// Runs the subcommand.
pub fn main(args: Args) -> Result<Exit, Failure> {
    let reporter = Reporter::new(args.format);
    let cancellation = cancel_on_signals()?;

    // Both sides are checked before either's faults are reported: one look, all mistakes.
    let (model_side, dataset_side) = match (check_model(&args, &reporter), check_dataset(&args)) {
        (Ok(model), Ok(dataset)) => (model, dataset),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error.into()),
        (Err(first), Err(second)) => return Err(anyhow::anyhow!("{first:#}\nerror: {second:#}").into()),
    };
    let Model { program, layers, devices } = model_side;
    let DatasetSide { dataset, label, mask_targets, notices } = dataset_side;
    notices.iter().for_each(|notice| reporter.notice(notice));

    let targets =
        resolve_targets(&args.target, &args.cam.classes, &program, &dataset, label.as_ref(), mask_targets.as_deref(), &reporter)?;
    let class_names = class_names(&targets, label.as_ref());
    let options = args.cam.explain_options(&program, layers);
    let columns = options.columns();
    let names = field_names(&args, &class_names, &options.methods, &columns)?;
    let folder = output_folder(args.out.as_deref(), dataset.name())?;
    let writes_files = args.store == Store::Path || args.npy != NpyFormat::None;
    if writes_files && !(args.dry_run || args.explain_plan) {
        check_writable(&folder)?;
    }

    let fields = fields(&names, &targets, &columns);
    let heatmap_fields = describe_fields(&names, &columns, &program);
    let selection = selection(&args, label.clone(), &heatmap_fields)?;
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
        "dataset `{}`: {num_samples} samples, target {}; model `{}` on {}; fields {fields_text}",
        dataset.name(),
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
        fingerprint: job_fingerprint(&args, &program, label.as_ref()),
        overwrite: args.overwrite,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let num_workers = args.workers.unwrap_or(cores);
    if args.dry_run || args.explain_plan {
        let tell = |event| match event {
            Event::SampleFailed(_) => reporter.tell(event),
            Event::SampleStale { .. } if args.explain_plan => reporter.tell(event),
            _ => {}
        };
        let survey = survey(&mut source, &decoder, num_workers, &cancellation, &tell).map_err(Failure::aborted)?;
        reporter.surveyed(&survey, columns.len());
        return Ok(if survey.interrupted { Exit::Interrupted } else { Exit::Done });
    }
    sink.lock().map_err(Failure::from_lock)?;
    if writes_files {
        note_dataset(&folder, &dataset.id()).with_context(|| format!("cannot write to the folder `{}`", folder.display()))?;
    }
    // A clone of the dataset may refer to the files that this run replaces.
    let keep_superseded = dataset.shares_heatmaps(&fields.names().collect::<Vec<_>>()).map_err(Failure::aborted)?;
    let encoder = Encoder { folder, fields, store: args.store, npy: args.npy, class_names: program.metadata.classes.clone() };
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
    if let Some(fault) = fault {
        return Err(Failure::aborted(fault));
    }
    // Without a heatmap in any sample there is nothing to declare.
    if summary.num_committed > 0 || summary.skipped.contains_key(&SkipReason::UpToDate) {
        check_schema(&sink, &reporter).map_err(Failure::aborted)?;
    }
    if summary.num_committed > 0 {
        reporter.notice(&format!(
            "look at them with `fiftyone app launch {}`; a Python that has the dataset open sees them after `dataset.reload()`",
            dataset.name()
        ));
    }
    Ok(match (summary.interrupted, summary.num_failed) {
        (true, _) => Exit::Interrupted,
        (false, 0) => Exit::Done,
        (false, _) => Exit::SomeFailed,
    })
}
