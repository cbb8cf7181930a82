//! A job with its model loaded and its database open: `annotate` runs it once, a worker shard by shard.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;

use super::{
    Args,
    args::BatchSize,
    job::{
        DatasetSide, check_dataset, check_model, check_paths, check_schema, connect, describe_fields, destination, field_names,
        fields, job_fingerprint, preceding, selection,
    },
    labels::check_labels,
    note::{Computed, note_run},
    page::Page,
    present::check_present,
};
use crate::{
    cli::{
        Exit, Failure,
        cam::Model,
        collect::remove_replaced,
        dataset::listed_ids,
        failure::diagnosed,
        signals::cancel_on_signals,
        target::{Labels, check_output, class_names, class_names_of, described, one_channel_notice, resolve_targets},
    },
    diagnostic::Diagnose,
    explain::{Column, ExplainOptions, TorchExplainer},
    fiftyone::{Database, Dataset, HeatmapField, LabelField, LabelKind, SampleSource, SavedView, Shard, View},
    media::{ExifPolicy, ImageLimits, shown},
    names::{backticked, word},
    pipeline::{
        BatchLimit, Cancellation, Decoder, Encoder, Event, HeatmapFields, LabelNames, Parts, RunError, RunOptions, SeenMasks,
        SkipReason, Source, Targets, run, survey,
    },
    program::{PlanOptions, Program, device_name},
    report::{Reporter, RunRecord, error_text},
    storage::{FolderLease, Journal, OutputFolder, Sharing},
};

/// What stays from one run of the job to the next.
pub struct Session<'a> {
    args: &'a Args,
    pub reporter: &'a Reporter,
    pub cancellation: Cancellation,
    pub database: Database,
    pub program: Program,
    devices: Vec<PlanOptions>,
    options: ExplainOptions,
    columns: Vec<Column>,
    /// None before the first run.
    explainers: Vec<TorchExplainer>,
    /// What was found when the session began, until it is used.
    found: Option<DatasetSide>,
    /// The ids in the file of `--ids`, read once: all shards are parts of the same list.
    listed: Option<Vec<String>>,
    /// Whether it was looked what labels and fields hold: that is of the whole dataset, and takes a look at every sample.
    is_checked: bool,
}

/// What the job comes to on the dataset as it is now.
pub struct Work {
    pub dataset: Dataset,
    pub label: Option<LabelField>,
    /// Until its samples are asked for: a view may have very many.
    pub view: Option<SavedView>,
    pub targets: Targets,
    labels: LabelNames,
    class_names: Vec<String>,
    pub names: Vec<Vec<String>>,
    pub fields: HeatmapFields,
    heatmap_fields: Vec<HeatmapField>,
    /// `None` where nothing is written to disk.
    pub folder: Option<std::path::PathBuf>,
}

impl<'a> Session<'a> {
    /// Opens the model and the dataset. Both sides are checked before either's faults are reported: one look, all mistakes. But
    /// a model is exported only for a job that could begin: that takes a while. The database stays in `open` until the next one
    /// is, because a service that camflow started would end between two jobs.
    pub fn open(args: &'a Args, reporter: &'a Reporter, open: &mut Option<Database>) -> Result<Self, Failure> {
        if let Some(text) = args.contradiction() {
            return Err(anyhow::anyhow!("{text}").into());
        }
        let cancellation = cancel_on_signals()?;
        let mut dataset_side = || {
            let connected = connect(args, open)?;
            let mut side = check_dataset(args, &connected.database)?;
            side.notices.splice(0..0, connected.notices);
            Ok((connected.database, side))
        };
        let mut side = dataset_side();
        if args.cam.needs_export() {
            let (database, found) = side?;
            destination(args, &found.dataset)?;
            side = Ok((database, found));
        }
        let (model, (database, found)) = match (check_model(args, reporter), side) {
            (Ok(model), Ok(dataset)) => (model, dataset),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error.into()),
            (Err(first), Err(second)) => {
                return Err(diagnosed(&first).and(diagnosed(&second)).into());
            }
        };
        let Model { program, layers, devices } = model;
        let options = ExplainOptions { faithfulness: args.faithfulness, ..args.cam.explain_options(&program, layers) };
        let columns = options.columns();
        let (explainers, found) = (Vec::new(), Some(found));
        let listed = args.ids.as_deref().map(listed_ids).transpose()?;
        let is_checked = false;
        Ok(Session {
            args,
            reporter,
            cancellation,
            database,
            program,
            devices,
            options,
            columns,
            explainers,
            found,
            listed,
            is_checked,
        })
    }

    /// Looks what there is to do: somebody may have changed fields, classes or mask targets since the last run.
    pub fn prepare(&mut self) -> Result<Work, Failure> {
        let args = self.args;
        let side = match self.found.take() {
            Some(found) => found,
            None => check_dataset(args, &self.database)?,
        };
        let DatasetSide { dataset, label, mask_targets, notices } = side;
        notices.iter().for_each(|notice| self.reporter.notice(notice));
        let view = args.view.as_deref().map(View::Saved).or(args.view_stages.as_deref().map(View::Stages));
        let view = view.map(|view| dataset.view(view, label.as_ref(), args.cam.python.clone()));
        let view = view.transpose().map_err(|error| match self.cancellation.is_cancelled() {
            // Ctrl-C ends the Python that resolves a view, too.
            true => Failure { exit: Exit::Interrupted, error: error.into() },
            false => error.into(),
        })?;
        view.iter().flat_map(|view| &view.notices).for_each(|notice| self.reporter.notice(notice));
        let (program, classes) = (&self.program, &args.cam.classes);
        let mask_targets = mask_targets.as_deref();
        let labels = Labels { dataset: &dataset, field: label.as_ref(), view: view.as_ref(), mask_targets };
        let names_of_classes = class_names_of(program, &args.mappings, self.reporter)?;
        let targets = resolve_targets(&args.target, classes, program, &names_of_classes, labels, self.reporter)?;
        let from_masks = label.as_ref().is_some_and(|label| label.kind == LabelKind::Segmentation);
        let is_unnamed = from_masks && mask_targets.is_none();
        one_channel_notice(program, is_unnamed).iter().for_each(|notice| self.reporter.notice(notice));
        let class_names = class_names(&targets, label.as_ref(), program);
        let names = field_names(args, &class_names, &self.options.methods, &self.columns, &program.metadata.name)?;
        let folder = destination(args, &dataset)?;
        if let Some(folder) = folder.as_deref() {
            check_paths(folder, names.iter().flatten().map(String::as_str))?;
        }
        let fields = fields(&names, &targets, &self.columns);
        let heatmap_fields = describe_fields(&names, &self.columns, program);
        let labels = LabelNames::new(names_of_classes.clone());
        let work = Work { dataset, label, view, targets, labels, class_names, names, fields, heatmap_fields, folder };
        if !self.is_checked {
            // Those were taken from the labels.
            if !classes.iter().any(|class| class == "all") {
                check_labels(&work, &names_of_classes, self.reporter)?;
            }
            check_present(args, program, &self.columns, &work, self.reporter)?;
            self.is_checked = true;
        }
        Ok(work)
    }

    /// The samples of a shard of the selection, no more than `limit` of the first ones if that is given.
    pub fn source(&self, work: &mut Work, shard: Shard, limit: Option<u64>) -> Result<SampleSource, Failure> {
        let (label, view) = (work.label.clone(), work.view.take());
        let mut selection = selection(self.args, &work.dataset, label, &work.heatmap_fields, view, self.listed.clone())?;
        selection.shard = Some(shard);
        if let Some(limit) = limit {
            selection.limit = Some(selection.limit.map_or(limit, |most| most.min(limit)));
            selection.shuffle = None;
        }
        Ok(work.dataset.source(selection)?)
    }

    /// Brings the model to its devices, if it is not there yet.
    pub fn load(&mut self) -> Result<(), Failure> {
        if self.explainers.is_empty() {
            let explainer = |device: &PlanOptions| TorchExplainer::new(&self.program, *device, self.options.clone());
            let mut explainers = self.devices.iter().map(explainer).collect::<Result<Vec<_>, _>>()?;
            for (explainer, options) in explainers.iter_mut().zip(&self.devices) {
                explainer.share_memory(self.devices.iter().filter(|other| other.device == options.device).count());
            }
            check_output(&self.program, explainers[0].plan(), &self.args.target)?;
            self.explainers = explainers;
        }
        Ok(())
    }

    /// Where the model runs.
    pub fn device_names(&self) -> Vec<String> {
        self.devices.iter().map(|options| device_name(options.device)).collect()
    }

    /// Makes sure that the devices still compute: one that has had a fault may fail at whatever it is given from then on.
    pub fn check_devices(&self) -> anyhow::Result<()> {
        for explainer in &self.explainers {
            let (device, shape) = (explainer.plan().device(), &self.program.metadata.input.example[..]);
            let zeros = tch::Tensor::f_zeros(shape, (tch::Kind::Float, device)).map_err(anyhow::Error::from);
            let run = zeros.and_then(|zeros| Ok(explainer.plan().run(&zeros)?));
            run.with_context(|| format!("device `{}` does not compute any more", device_name(device)))?;
        }
        Ok(())
    }

    /// Holds the output folder for writing, and notes whose it is.
    fn hold(&self, dataset: &Dataset, path: &Path) -> Result<FolderLease, Failure> {
        let folder = OutputFolder::create(path).map_err(Failure::aborted)?;
        let what = format!("camflow annotate of dataset `{}`", dataset.name());
        let lease = FolderLease::acquire(&folder, Sharing::Shared, &what).map_err(Failure::from_storage)?;
        folder.note_dataset(&dataset.id()).map_err(Failure::aborted)?;
        dataset.note_folder(folder.identity(), path).map_err(Failure::aborted)?;
        Ok(lease)
    }

    /// Removes what runs have replaced, once its grace period is over. The next run will, if it cannot be done now.
    fn tidy(&self, dataset: &Dataset, folder: &Path) {
        match remove_replaced(folder, dataset, self.args.grace, &self.cancellation) {
            Ok(removed) => {
                if removed.kept > 0 {
                    self.reporter.notice(&format!(
                        "{} files that runs had replaced stay: `{}` also notes datasets that this database does not have; `camflow clean` names them",
                        removed.kept,
                        shown(folder)
                    ));
                }
                if removed.count > 0 {
                    let (count, mib) = (removed.count, removed.bytes as f64 / f64::from(1 << 20));
                    self.reporter.notice(&format!("removed {count} files, {mib:.1} MiB, that runs had replaced"));
                }
                if let Some((name, error)) = removed.stuck.first() {
                    let count = removed.stuck.len();
                    self.reporter
                        .warning(&format!("cannot remove {count} files that runs had replaced, such as {name}: {error}"));
                }
            }
            Err(error) => self.reporter.warning(&format!("what runs had replaced was not removed: {error}")),
        }
    }

    /// Does the work on a shard of the selection.
    pub fn run(&mut self, shard: Shard, record: &mut RunRecord) -> Result<Exit, Failure> {
        let (args, reporter) = (self.args, self.reporter);
        let page = Page::check(args, shard, reporter)?;
        let mut work = self.prepare()?;
        let mut source = self.source(&mut work, shard, None)?;
        source.notices().iter().for_each(|notice| reporter.notice(notice));
        let mut sink = work.dataset.sink(work.heatmap_fields.clone())?;
        self.load()?;
        let part = Some(shard).filter(|shard| !shard.is_whole());
        reporter.step(&format!(
            "dataset `{}`: {} samples{}, target {}; model `{}` on {}; fields {}",
            work.dataset.name(),
            source.num_samples().map_or_else(|| "?".into(), |count| count.to_string()),
            part.map(|shard| format!(" in shard {shard}")).unwrap_or_default(),
            described(&args.target, work.label.as_ref()),
            self.program.metadata.name,
            self.device_names().join(", "),
            backticked(work.fields.names()),
        ));
        let Work { dataset, label, targets, labels, class_names, names, fields, folder, .. } = work;
        let tell_taken = || labels.take_notices().iter().for_each(|notice| reporter.notice(notice));
        let decoder = Decoder {
            preprocess: self.program.metadata.preprocess.clone(),
            targets,
            labels: labels.clone(),
            fields: fields.clone(),
            limits: ImageLimits::default(),
            exif: if args.apply_exif { ExifPolicy::Apply } else { ExifPolicy::Ignore },
            fingerprint: job_fingerprint(args, &self.program, label.as_ref()),
            overwrite: args.overwrite,
            masks: SeenMasks::default(),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let num_workers = args.workers.unwrap_or(cores);
        let field_names: Vec<String> = fields.names().map(ToOwned::to_owned).collect();
        let failures = dataset.failure_key(args.name.as_deref(), &field_names);
        let mut known = dataset.known_failures(failures).map_err(Failure::aborted)?;
        if args.is_dry() {
            let tell = |event| match event {
                Event::SampleFailed { .. } => reporter.tell(event),
                Event::SampleStale { .. } if args.explain_plan => reporter.tell(event),
                _ => {}
            };
            let survey =
                survey(&mut source, &decoder, &known, num_workers, &self.cancellation, &tell).map_err(Failure::aborted)?;
            tell_taken();
            reporter.surveyed(&survey, self.columns.len());
            if survey.num_stale() == 0 {
                explain_absence(&decoder, label.as_ref(), &survey.skipped, reporter);
            }
            return Ok(if survey.interrupted { Exit::Interrupted } else { Exit::Done });
        }
        sink.lock(shard).map_err(Failure::from_lock)?;
        if let Some(deepest) = names.first().and_then(|row| row.last()).filter(|_| !args.no_app_config) {
            sink.show_in_app(deepest.clone());
        }
        let mut orphans = None;
        if let Some(path) = &folder {
            sink.hold(self.hold(&dataset, path)?);
            orphans = Some(Journal::new(path));
        }
        let encoder = Encoder {
            folder: folder.clone().unwrap_or_default(),
            fields: fields.clone(),
            preceding: preceding(&self.columns),
            store: args.store,
            npy: args.npy,
            class_names: self.program.metadata.classes.clone(),
        };
        let options = RunOptions {
            batch_limit: match args.batch_size {
                BatchSize::Samples(samples) => Some(BatchLimit::samples(samples.get())),
                BatchSize::Auto => None,
            },
            num_workers,
            max_failures: args.max_failures,
        };
        let tell = |event| reporter.tell(event);
        self.explainers.iter_mut().for_each(TorchExplainer::begin);
        let parts = Parts {
            source: &mut source,
            decoder: &decoder,
            explainers: self.explainers.iter_mut().map(|explainer| explainer as _).collect(),
            encoder: &encoder,
            sink: &mut sink,
            orphans: orphans.as_mut(),
            known: &mut known,
        };
        let (summary, fault) = run(parts, options, &self.cancellation, &tell);
        tell_taken();
        reporter.finish(&summary, fault.as_ref());
        record.summary = Some(summary.clone());
        if summary.num_committed == 0 {
            explain_absence(&decoder, label.as_ref(), &summary.skipped, reporter);
        }
        let num_failed = if args.accept_known_failures { summary.num_newly_failed() } else { summary.num_failed };
        let exit = match (&fault, summary.interrupted, num_failed) {
            (Some(_), ..) => Exit::Aborted,
            (None, true, _) => Exit::Interrupted,
            (None, false, 0) => Exit::Done,
            (None, false, _) => Exit::SomeFailed,
        };
        let (program, columns, label) = (&self.program, &self.columns[..], label.as_ref());
        let computed = Computed { program, columns, classes: &class_names, label, fields: &fields, folder: folder.clone(), part };
        let is_complete = fault.is_none() && !summary.interrupted;
        let note = || {
            dataset.note_failures(failures, &known, is_complete)?;
            note_run(args, &dataset, computed, record, &summary, exit)
        };
        match fault {
            // A database that is lost takes no notes, and the next run makes up for it.
            Some(fault @ RunError::Database { .. }) => return Err(Failure::aborted(fault)),
            Some(fault) => {
                if let Err(error) = note() {
                    reporter.warning(&error_text(&error.diagnose()));
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
        // Gives the folder back.
        drop(sink);
        // Of the shards of a job, one.
        if let Some(folder) = folder.as_ref().filter(|_| shard.index() == shard.count()) {
            self.tidy(&dataset, folder);
        }
        if let Some(page) = page.filter(|_| is_complete) {
            page.write(&dataset, &fields, &self.cancellation, reporter)?;
            if self.cancellation.is_cancelled() {
                return Ok(Exit::Interrupted);
            }
        }
        if summary.num_committed > 0 {
            reporter.notice(&format!(
                "look at them with `fiftyone app launch {}{}`; a Python that has the dataset open sees them after `dataset.reload()`",
                if dataset.name().starts_with('-') { "-- " } else { "" },
                word(dataset.name())
            ));
        }
        Ok(exit)
    }
}

/// Where no sample has anything to explain: what is in the masks instead of the classes.
fn explain_absence(decoder: &Decoder, label: Option<&LabelField>, skipped: &BTreeMap<SkipReason, u64>, reporter: &Reporter) {
    let (Targets::Classes(classes), Some(field)) = (&decoder.targets, label) else { return };
    let Some((num_masks, values)) = decoder.masks.without_classes() else { return };
    if skipped.contains_key(&SkipReason::UpToDate) {
        return;
    }
    let wanted = classes.iter().filter_map(|class| Some(format!("`{}` ({})", class.name, class.mask_value?)));
    let (wanted, name) = (wanted.collect::<Vec<_>>().join(", "), &field.name);
    reporter.warning(&format!(
        "no mask in field `{name}` holds {wanted}; the first {num_masks} hold {values}\nhint: name their values in FiftyOne, as in `dataset.mask_targets = {{\"{name}\": {{255: \"{}\"}}}}`, and save the dataset",
        classes.first().map_or("class", |class| class.name.as_str())
    ));
}
