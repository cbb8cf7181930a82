//! A job with its model loaded and its database open: it is run once, or shard by shard.

use std::{collections::BTreeMap, num::NonZeroUsize, path::Path};

use bytesize::ByteSize;

use super::{
    BatchSize, Engine, Exit, Job, JobSpec, Model, Observer, Outcome, aborted,
    asked::{Asked, decoder, exif},
    chosen::listed_ids,
    collect::remove_replaced,
    job::Reference,
    labels::check_labels,
    layer_trial::{LayerTrial, MAX_SEEN},
    note::{Computed, note_run},
    outlook::most_bytes,
    page::Page,
    predictions::{check_predictions, mask_names, prediction_field},
    present::check_present,
    record::recorded,
    reference::{self, FoundReference, embedded, similarity_of},
    resolve::{
        AttentionSide, DatasetSide, check_dataset, check_model, check_paths, check_schema, describe_fields, destination,
        field_names, fields, is_predicted, preceding, selection, written_field,
    },
    target::{check_output, described},
};
use camflow_diagnostic::{Diagnose, Diagnostic};
use camflow_fiftyone::{
    AppView, Database, Dataset, HeatmapField, LabelField, SampleSource, SavedView, Selection, Shard, Ticked, UpdateSink,
    failure_key, known_failures, note_failures, note_folder, renew_views, shown_in,
};
use camflow_media::shown;
use camflow_names::backticked;
use camflow_pipeline::{
    AttentionOn, BatchLimit, Decoder, Encoder, Event, HeatmapFields, LabelNames, NpyFormat, Parts, PredictionField, RunError,
    RunOptions, SkipReason, Source, SpaceCheck, Targets, run, survey,
};
use camflow_report::{RunRecord, error_text};
use camflow_storage::{FolderLease, Journal, OutputFolder, Sharing};
use camflow_torch::explain::{Column, ExplainOptions, TorchExplainer};
use camflow_torch::program::{PlanOptions, Program, device_name};

/// What stays from one run of the job to the next.
pub struct Session<'a> {
    engine: &'a Engine,
    job: &'a Job,
    observer: &'a dyn Observer,
    /// The database that the dataset is in.
    pub database: Database,
    /// The model.
    pub program: Program,
    devices: Vec<PlanOptions>,
    options: ExplainOptions,
    columns: Vec<Column>,
    /// What images are compared with, where that is asked.
    references: Vec<FoundReference>,
    /// None before the first run.
    explainers: Vec<TorchExplainer>,
    /// What was found when the session began, until it is used.
    found: Option<DatasetSide>,
    /// The ids in the job's file of ids, read once: all shards are parts of the same list.
    listed: Option<Vec<String>>,
    /// Whether it was looked what labels and fields hold: that is of the whole dataset, and takes a look at every sample.
    is_checked: bool,
    is_broken: bool,
}

/// What the job comes to on the dataset as it is now.
pub struct Work {
    /// The dataset.
    pub dataset: Dataset,
    /// The field with the labels that say what is explained.
    pub(super) label: Option<LabelField>,
    /// The field whose classes heatmaps are measured on.
    attention: Option<AttentionSide>,
    /// Until its samples are asked for: a view may have very many.
    pub(super) view: Option<SavedView>,
    pub(super) targets: Targets,
    labels: LabelNames,
    class_names: Vec<String>,
    pub(super) names: Vec<Vec<String>>,
    /// The fields that get the heatmaps.
    pub fields: HeatmapFields,
    heatmap_fields: Vec<HeatmapField>,
    /// The field that gets what the model predicts.
    predictions: Option<PredictionField>,
    /// Where files go; `None` where nothing is written to disk.
    pub folder: Option<std::path::PathBuf>,
}

impl Work {
    /// The fields that the run reads and writes beside its predictions, with what each is.
    fn other_fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let label = self.label.iter().map(|label| (label.name.as_str(), "the label"));
        let attention = self.attention.iter().map(|attention| (attention.field.name.as_str(), "`--attention-on`"));
        label.chain(attention).chain(self.fields.names().map(|name| (name, "a field of heatmaps")))
    }
}

impl<'a> Session<'a> {
    /// Opens the model and the dataset. Both sides are checked before either's faults are reported: one look, all mistakes. But
    /// a model is exported only for a job that could begin: that takes a while.
    pub(super) fn open(engine: &'a Engine, job: &'a Job, observer: &'a dyn Observer) -> Result<Self, Diagnostic> {
        let spec = &job.spec;
        spec.check()?;
        let cam = spec.cam();
        let dataset_side = || {
            let connected = engine.connect(spec)?;
            let mut side = check_dataset(spec, &connected.database)?;
            side.notices.splice(0..0, connected.notices);
            Ok::<_, Diagnostic>((connected.database, side))
        };
        let mut side = dataset_side();
        if engine.needs_export(&cam.model, cam.part()) {
            let (database, found) = side?;
            destination(spec, engine, &found.dataset)?;
            side = Ok((database, found));
        }
        let of_dataset = side.as_ref().ok().map(|(_, found)| found);
        let model = check_model(spec, &cam, of_dataset, engine, observer);
        let (model, (database, found)) = match (model, side) {
            (Ok(model), Ok(dataset)) => (model, dataset),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error),
            (Err(first), Err(second)) => return Err(first.and(second)),
        };
        let Model { program, layers, devices } = model;
        let options = cam.explain_options(&program, layers, spec.target());
        let options = ExplainOptions {
            faithfulness: spec.faithfulness,
            counterfactuals: spec.counterfactuals.0,
            // What is no score of a class has no probability.
            confidence: !options.reading.is_value,
            predictions: !options.reading.is_value && options.reading.detections.is_none(),
            detections: spec.predictions.is_some(),
            with_layer_maps: spec.npy == NpyFormat::Layer,
            slice_batch: match spec.batch_size {
                BatchSize::Samples(samples) => Some(samples.get()),
                BatchSize::Auto => None,
            },
            ..options
        };
        let references = references(spec, &program, &found.dataset)?;
        let columns = options.columns();
        let listed = spec.ids.as_deref().map(listed_ids).transpose()?;
        let mut session = Session {
            engine,
            job,
            observer,
            database,
            program,
            devices,
            options,
            columns,
            references,
            explainers: Vec::new(),
            found: Some(found),
            listed,
            is_checked: false,
            is_broken: false,
        };
        if cam.chooses_layer()? {
            session.choose_layer()?;
        }
        Ok(session)
    }

    /// Keeps the layer that is best on the first samples.
    fn choose_layer(&mut self) -> Result<(), Diagnostic> {
        let (spec, observer) = (self.spec(), self.observer);
        let side = check_dataset(spec, &self.database)?;
        destination(spec, self.engine, &side.dataset)?;
        let Asked { dataset, label, view, targets, names_of_classes, class_names, .. } =
            Asked::of(side, spec, self.engine, &self.program, &self.references, &())?;
        let selection = selection(spec, &dataset, label.clone(), None, Vec::new(), view, self.listed.clone())?;
        let num_seen = selection.limit.map_or(MAX_SEEN as u64, |limit| limit.min(MAX_SEEN as u64));
        let samples =
            SampleSource::new(&dataset, Selection { limit: Some(num_seen), ..selection })?.next_samples().map_err(aborted)?;
        self.embed()?;
        let mut options = self.options.clone();
        let mut trial = LayerTrial::new(&mut options);
        observer.step(&format!("layers {} are tried", backticked(options.layers.iter().map(|layer| layer.label.as_str()))));
        let names: Vec<Vec<String>> =
            class_names.iter().map(|class| (0..self.columns.len()).map(|column| format!("{class} {column}")).collect()).collect();
        let fields = fields(&names, &targets, &self.columns);
        let decoder = decoder(spec, &self.program, targets, LabelNames::new(names_of_classes), fields, label.as_ref());
        let mut explainer = TorchExplainer::new(&self.program, self.devices[0], options)?;
        trial.run(samples, decoder, &mut explainer, &self.engine.cancellation)?;
        let (best, sentence) = trial.best()?;
        observer.notice(&sentence);
        self.options.layers = vec![self.options.layers.swap_remove(best)];
        self.columns = self.options.columns();
        Ok(())
    }

    fn spec(&self) -> &'a JobSpec {
        &self.job.spec
    }

    /// Looks what there is to do: somebody may have changed fields, classes or mask targets since the last run.
    ///
    /// # Errors
    /// The job does not fit the dataset any more, or the dataset is lost.
    pub fn prepare(&mut self) -> Result<Work, Diagnostic> {
        let spec = self.spec();
        let side = match self.found.take() {
            Some(found) => found,
            None => check_dataset(spec, &self.database)?,
        };
        let Asked { dataset, label, attention, view, targets, names_of_classes, class_names } =
            Asked::of(side, spec, self.engine, &self.program, &self.references, self.observer)?;
        let program = &self.program;
        let shown = field_names(spec, &class_names, &self.columns, &program.metadata.name)?;
        let names: Vec<Vec<String>> =
            shown.iter().map(|row| row.iter().map(|name| written_field(spec, name)).collect()).collect();
        let folder = destination(spec, self.engine, &dataset)?;
        if let Some(folder) = folder.as_deref() {
            let written = names.iter().flatten().chain(&spec.predictions);
            check_paths(folder, written.map(String::as_str))?;
        }
        let fields = fields(&names, &targets, &self.columns);
        let heatmap_fields = describe_fields(spec, &shown, &self.columns, program);
        let labels = LabelNames::new(names_of_classes.clone());
        let predictions = prediction_field(spec, program)?;
        let work = Work {
            dataset,
            label,
            attention,
            view,
            targets,
            labels,
            class_names,
            names,
            fields,
            heatmap_fields,
            predictions,
            folder,
        };
        if !self.is_checked {
            // Those were taken from the labels.
            if !spec.class.has("all") {
                check_labels(&work, &names_of_classes, self.observer)?;
            }
            check_present(spec, program, &self.columns, &work, self.observer)?;
            if let Some(field) = &work.predictions {
                check_predictions(spec, program, &work.dataset, field, work.other_fields(), self.observer)?;
            }
            self.is_checked = true;
        }
        Ok(work)
    }

    /// The samples of a shard of the selection, no more than `limit` of the first ones if that is given.
    ///
    /// # Errors
    /// The selection is wrong, or the dataset is lost.
    pub fn source(&self, work: &mut Work, shard: Shard, limit: Option<u64>) -> Result<SampleSource, Diagnostic> {
        let (label, view) = (work.label.clone(), work.view.take());
        let attention = work.attention.as_ref().map(|attention| attention.field.clone());
        let listed = self.listed.clone();
        let predictions = work.predictions.iter().map(|field| &field.name);
        let fields = work.heatmap_fields.iter().map(|field| &field.name).chain(predictions).cloned().collect();
        let mut selection = selection(self.spec(), &work.dataset, label, attention, fields, view, listed)?;
        selection.shard = Some(shard);
        if let Some(limit) = limit {
            selection.limit = Some(selection.limit.map_or(limit, |most| most.min(limit)));
            selection.shuffle = None;
        }
        Ok(SampleSource::new(&work.dataset, selection)?)
    }

    /// Brings the model to its devices, if it is not there yet.
    ///
    /// # Errors
    /// A device has no room for it.
    pub fn load(&mut self) -> Result<(), Diagnostic> {
        if self.explainers.is_empty() {
            self.embed()?;
            let explainer = |device: &PlanOptions| TorchExplainer::new(&self.program, *device, self.options.clone());
            let mut explainers = self.devices.iter().map(explainer).collect::<Result<Vec<_>, _>>()?;
            for (explainer, options) in explainers.iter_mut().zip(&self.devices) {
                explainer.share_memory(self.devices.iter().filter(|other| other.device == options.device).count());
            }
            check_output(&self.program, explainers[0].plan(), self.spec().target())?;
            self.explainers = explainers;
        }
        Ok(())
    }

    /// Has the references embedded, if they are not yet.
    fn embed(&mut self) -> Result<(), Diagnostic> {
        if let (None, Some(similarity)) = (&self.options.references, similarity_of(self.job.spec.target())) {
            let (reading, cancellation) = (reading(self.spec(), &self.program), &self.engine.cancellation);
            let made = embedded(&self.references, similarity, reading, self.devices[0], cancellation, self.observer)?;
            self.options.references = Some(made);
        }
        Ok(())
    }

    /// Where the model runs.
    pub fn device_names(&self) -> Vec<String> {
        self.devices.iter().map(|options| device_name(options.device)).collect()
    }

    /// Makes sure that this process can go on: a device that has had a fault may fail at whatever it is given from then on.
    ///
    /// # Errors
    /// It cannot.
    pub fn check_sound(&self) -> Result<(), Diagnostic> {
        if self.is_broken {
            return Err(Diagnostic::aborted("a stage stopped unexpectedly, so nothing more can be done in this process"));
        }
        for explainer in &self.explainers {
            let plan = explainer.plan();
            plan.output_shape(&self.program.metadata.input.example).map_err(|error| {
                let device = device_name(plan.device());
                Diagnostic::aborted(format!("device `{device}` does not compute any more")).because(&error)
            })?;
        }
        Ok(())
    }

    /// Whether somebody asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.engine.cancellation.is_cancelled()
    }

    /// Does the work on a shard of the selection, and leaves report and metrics of it.
    pub fn run_shard(&mut self, shard: Shard) -> (Result<Outcome, Diagnostic>, RunRecord) {
        let mut settings = self.job.settings.clone();
        settings.insert("shard".to_owned(), shard.to_string().into());
        // The job was right when the session began.
        recorded(self.job, settings, shard, |record| self.run(shard, record).map_err(aborted))
    }

    /// Holds the output folder for writing, and notes whose it is.
    fn hold(&self, dataset: &Dataset, path: &Path) -> Result<FolderLease, Diagnostic> {
        let folder = OutputFolder::create(path).map_err(aborted)?;
        let what = format!("camflow annotate of dataset `{}`", dataset.name());
        let lease = FolderLease::acquire(&folder, Sharing::Shared, &what).map_err(aborted)?;
        folder.note_dataset(&dataset.id()).map_err(aborted)?;
        note_folder(dataset, folder.identity(), path).map_err(aborted)?;
        Ok(lease)
    }

    /// Removes what runs have replaced, once its grace period is over. The next run will, if it cannot be done now.
    fn tidy(&self, dataset: &Dataset, folder: &Path) {
        match remove_replaced(folder, dataset, self.spec().grace, &self.engine.cancellation) {
            Ok(removed) => {
                if removed.kept > 0 {
                    self.observer.notice(&format!(
                        "{} files that runs had replaced stay: `{}` also notes datasets that this database does not have; `camflow clean` names them",
                        removed.kept,
                        shown(folder)
                    ));
                }
                if removed.count > 0 {
                    let (count, bytes) = (removed.count, ByteSize(removed.bytes).display().iec());
                    self.observer.notice(&format!("removed {count} files, {bytes}, that runs had replaced"));
                }
                if let Some((name, error)) = removed.stuck.first() {
                    let count = removed.stuck.len();
                    self.observer
                        .warning(&format!("cannot remove {count} files that runs had replaced, such as {name}: {error}"));
                }
            }
            Err(error) => self.observer.warning(&format!("what runs had replaced was not removed: {error}")),
        }
    }

    /// Does the work on a shard of the selection.
    pub(super) fn run(&mut self, shard: Shard, record: &mut RunRecord) -> Result<Outcome, Diagnostic> {
        let (spec, observer, cancellation) = (self.spec(), self.observer, &self.engine.cancellation);
        let page = Page::check(spec, shard, observer)?;
        let mut work = self.prepare()?;
        let mut source = self.source(&mut work, shard, None)?;
        // A night that finds nothing to do tells these, too: it may do so for ever.
        source.warnings().iter().for_each(|warning| observer.warning(warning));
        source.notices().iter().for_each(|notice| observer.notice(notice));
        let mut sink = UpdateSink::new(&work.dataset, work.heatmap_fields.clone())?;
        if let Some(predictions) = &work.predictions {
            sink = sink.with_predictions(predictions.clone())?;
            let names = mask_names(predictions, &self.program);
            if !names.is_empty() {
                sink.name_masks(&predictions.name, names);
            }
        }
        self.load()?;
        record.fields = work.fields.names().map(ToOwned::to_owned).collect();
        let part = Some(shard).filter(|shard| !shard.is_whole());
        observer.step(&format!(
            "dataset `{}`: {} samples{}, target {}; model `{}` on {}; fields {}{}",
            work.dataset.name(),
            source.num_samples().map_or_else(|| "?".into(), |count| count.to_string()),
            part.map(|shard| format!(" in shard {shard}")).unwrap_or_default(),
            described(spec.target(), work.label.as_ref()),
            self.program.metadata.name,
            self.device_names().join(", "),
            backticked(&record.fields),
            work.predictions.as_ref().map(|field| format!("; predictions `{}`", field.name)).unwrap_or_default(),
        ));
        let Work { dataset, label, attention, targets, labels, class_names, names, fields, predictions, folder, .. } = work;
        let tell_taken = || labels.take_notices().iter().for_each(|notice| observer.notice(notice));
        let decoder = decoder(spec, &self.program, targets, labels.clone(), fields.clone(), label.as_ref());
        let attention = attention.map(|AttentionSide { field, names }| AttentionOn::new(field.name, names));
        let decoder = Decoder { attention, predictions: predictions.clone(), ..decoder };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let num_workers = spec.workers.map_or(cores, NonZeroUsize::get);
        let failures = failure_key(&dataset, spec.name.as_deref(), &record.fields);
        let mut known = known_failures(&dataset, failures).map_err(aborted)?;
        if spec.is_dry() {
            let tell = |event| match event {
                Event::SampleFailed { .. } => observer.tell(event),
                Event::SampleStale { .. } if spec.explain_plan => observer.tell(event),
                _ => {}
            };
            let survey = survey(&mut source, &decoder, &known, num_workers, cancellation, &tell).map_err(aborted)?;
            tell_taken();
            observer.surveyed(&survey, self.columns.len());
            if survey.num_stale() == 0 {
                explain_absence(&decoder, label.as_ref(), &survey.skipped, observer);
            }
            tell_doubts(&decoder, observer);
            let exit = if survey.interrupted { Exit::Interrupted } else { Exit::Done };
            return Ok(Outcome { exit, summary: None });
        }
        sink.lock(shard).map_err(aborted)?;
        if !spec.no_app_config {
            let deepest = names.iter().filter_map(|row| row.last());
            let ticked = |deepest: &String| match shown_in(deepest).filter(|_| spec.per_detection) {
                Some(shown) => Ticked { field: shown.to_owned(), detections: Some(deepest.clone()) },
                None => Ticked { field: deepest.clone(), detections: None },
            };
            sink.show_in_app(AppView { candidates: deepest.map(ticked).collect(), colors: spec.app_colors });
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
            store: spec.store,
            npy: spec.npy,
            // Of a label, the box of a detector means no prediction, or of the mask nothing is left at the output's resolution.
            absence: match decoder.is_detector || is_predicted(spec, label.as_ref()) {
                _ if decoder.targets == Targets::Wrong => SkipReason::ClassifiedCorrectly,
                true => SkipReason::NotPredicted,
                false => SkipReason::ClassUnseen,
            },
            predictions: predictions.clone(),
            class_names: match self.references.is_empty() {
                true => self.program.metadata.classes.clone(),
                false => (0..).zip(&self.references).map(|(index, found)| (index, found.name.clone())).collect(),
            },
        };
        let options = RunOptions {
            batch_limit: match spec.batch_size {
                BatchSize::Samples(samples) => Some(BatchLimit::samples(samples.get())),
                BatchSize::Auto => None,
            },
            num_workers,
            max_failures: spec.max_failures,
            space_check: if spec.no_space_check { SpaceCheck::Off } else { SpaceCheck::Refuse },
            most_bytes: most_bytes(spec, &self.program.metadata, &self.columns).map(|bytes| bytes * names.len() as u64),
        };
        let tell = |event| observer.tell(event);
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
        let (summary, fault) = run(parts, options, cancellation, &tell);
        tell_taken();
        observer.finish(&summary, fault.as_ref());
        record.summary = Some(summary.clone());
        if summary.num_heatmaps + summary.num_withdrawn == 0 {
            explain_absence(&decoder, label.as_ref(), &summary.skipped, observer);
        }
        tell_doubts(&decoder, observer);
        decoder.attention.iter().flat_map(AttentionOn::notices).for_each(|notice| observer.notice(&notice));
        let num_failed = if spec.accept_known_failures { summary.num_newly_failed() } else { summary.num_failed };
        let exit = match (&fault, summary.interrupted, num_failed) {
            (Some(_), ..) => Exit::Aborted,
            (None, true, _) => Exit::Interrupted,
            (None, false, 0) => Exit::Done,
            (None, false, _) => Exit::SomeFailed,
        };
        let (program, columns, label) = (&self.program, &self.columns[..], label.as_ref());
        let computed = Computed {
            program,
            columns,
            classes: &class_names,
            label,
            fields: &fields,
            predictions: predictions.as_ref(),
            folder: folder.clone(),
            part,
        };
        let is_complete = fault.is_none() && !summary.interrupted;
        let note = || {
            note_failures(&dataset, failures, &known, is_complete)?;
            note_run(spec, &dataset, computed, record, &summary, exit)
        };
        match fault {
            Some(fault @ RunError::Bug(_)) => {
                self.is_broken = true;
                return Err(aborted(fault));
            }
            // A database that is lost takes no notes, and the next run makes up for it.
            Some(fault @ RunError::Database { .. }) => return Err(aborted(fault)),
            Some(fault) => {
                if let Err(error) = note() {
                    observer.warning(&error_text(&error.diagnose()));
                }
                return Err(aborted(fault));
            }
            None => {}
        }
        // Without a heatmap in any sample there is nothing to declare.
        if summary.num_committed > 0 || summary.skipped.contains_key(&SkipReason::UpToDate) {
            check_schema(&sink, summary.num_committed > 0, observer).map_err(aborted)?;
        }
        if spec.per_detection && summary.num_committed > 0 {
            renew_views(&dataset, &record.fields).map_err(aborted)?;
        }
        note().map_err(aborted)?;
        // Gives the folder back.
        drop(sink);
        // Of the shards of a job, one.
        if let Some(folder) = folder.as_ref().filter(|_| shard.index() == shard.count()) {
            self.tidy(&dataset, folder);
        }
        if let Some(page) = page.filter(|_| is_complete) {
            page.write(&dataset, &fields, cancellation, observer)?;
            if cancellation.is_cancelled() {
                return Ok(Outcome { exit: Exit::Interrupted, summary: Some(summary) });
            }
        }
        if summary.num_committed > 0 {
            observer.annotated(dataset.name());
        }
        Ok(Outcome { exit, summary: Some(summary) })
    }
}

fn reading<'a>(spec: &JobSpec, program: &'a Program) -> reference::Reading<'a> {
    reference::Reading { program, exif: exif(spec) }
}

/// What the job compares images with.
fn references(spec: &JobSpec, program: &Program, dataset: &Dataset) -> Result<Vec<FoundReference>, Diagnostic> {
    match similarity_of(spec.target()).map(|similarity| &similarity.to) {
        None => Ok(Vec::new()),
        Some(Reference::File(file)) => Ok(vec![reference::in_file(file, reading(spec, program))?]),
        Some(Reference::Field(field)) => reference::in_field(dataset, field, &spec.class),
    }
}

/// Says what is odd about the masks of a run.
fn tell_doubts(decoder: &Decoder, observer: &dyn Observer) {
    for (doubt, todo) in decoder.masks.doubts() {
        observer.warning(&error_text(&Diagnostic::invalid(doubt).hint(todo)));
    }
}

/// Where no sample has anything to explain: what is in the masks instead of the classes.
fn explain_absence(decoder: &Decoder, label: Option<&LabelField>, skipped: &BTreeMap<SkipReason, u64>, observer: &dyn Observer) {
    let (Targets::Classes(classes), Some(field)) = (&decoder.targets, label) else { return };
    let Some((num_masks, values)) = decoder.masks.without_classes() else { return };
    if skipped.contains_key(&SkipReason::UpToDate) {
        return;
    }
    let wanted = classes.iter().filter_map(|class| Some(format!("`{}` ({})", class.name, class.mask_value?)));
    let (wanted, name) = (wanted.collect::<Vec<_>>().join(", "), &field.name);
    let example = classes.first().map_or("class", |class| class.name.as_str());
    let absent = Diagnostic::invalid(format!("no mask in field `{name}` holds {wanted}; the first {num_masks} hold {values}")).hint(format!(
        "name their values in FiftyOne, as in `dataset.mask_targets = {{\"{name}\": {{255: \"{example}\"}}}}`, and save the dataset"
    ));
    observer.warning(&error_text(&absent));
}
