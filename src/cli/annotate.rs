//! `camflow annotate`: the main job.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Context;

use super::{
    Exit, Failure,
    cam::{CamArgs, Model},
    choice,
    target::{check_class_flag, check_output, check_task, class_names, described, resolve_targets},
};
use crate::{
    explain::{Column, Method, TorchExplainer},
    fiftyone::{
        ConnectOptions, Database, DatabaseConfig, DatabaseFlags, Dataset, HeatmapField, LabelField, LabelKind, Selection,
        UpdateSink,
    },
    job::{FieldTemplate, TargetSpec},
    media::{ExifPolicy, ImageLimits, MaskValue},
    names::{Choice, backticked},
    pipeline::{
        BatchLimit, Cancellation, Decoder, Encoder, Fingerprint, HeatmapFields, NpyFormat, Parts, RunOptions, SkipReason, Source,
        Store, TargetClass, Targets, run,
    },
    program::{Dynamic, Program, device_name},
    report::{Format, Reporter},
};

/// Add heatmaps to the samples of a FiftyOne dataset
// A flag given twice takes its last value, so that scripts can put defaults before `"$@"`.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// Name of the dataset
    #[arg(long)]
    dataset: String,
    #[command(flatten)]
    cam: CamArgs,
    /// What is explained: the classes where a label has them (`labels` or `labels:FIELD`) or where the model predicts them
    /// (`predicted`), at one pixel (`pixel=X,Y`), or the class that the model itself puts first (`top`)
    #[arg(long, default_value = "labels")]
    target: TargetSpec,
    /// How fields are named; default: `{class}_grad_layer_{layer}`, for other methods than gradcam `{class}_{method}_layer_{layer}`
    #[arg(long, value_name = "TEMPLATE")]
    field: Option<FieldTemplate>,
    /// Folder for the heatmaps; default: a folder for this dataset in the user's data folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Exact floats beside the picture
    #[arg(long, default_value = NpyFormat::F32.name(), value_parser = choice::<NpyFormat>())]
    npy: NpyFormat,
    /// Where the App finds the picture: an 8-bit PNG on disk (`path`) or the array in the document (`inline`)
    #[arg(long, default_value = Store::Path.name(), value_parser = choice::<Store>())]
    store: Store,
    /// Samples per batch: a number, or `auto`, by the size of the images and the memory that is free
    #[arg(long, value_name = "N", default_value = "auto")]
    batch_size: BatchSize,
    /// Threads that read images, and as many that write heatmaps; default: one per core
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Only samples with one of these tags
    #[arg(long, value_delimiter = ',', value_name = "TAG")]
    tags: Vec<String>,
    /// Only samples that match this MongoDB query (JSON)
    #[arg(long = "match", value_name = "QUERY")]
    matching: Option<String>,
    /// Only the samples whose ids stand in this file, one a line
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Only these slices of a grouped dataset; default: all that hold images
    #[arg(long, value_delimiter = ',', value_name = "SLICE")]
    slices: Vec<String>,
    /// No more than this many samples
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Turn images upright by their EXIF data, as the App shows them; FiftyOne's models see them as stored
    #[arg(long)]
    apply_exif: bool,
    /// Compute again what is up to date
    #[arg(long)]
    overwrite: bool,
    /// Check everything and say what would be done, but change nothing
    #[arg(long)]
    dry_run: bool,
    /// Abort when more samples than this fail
    #[arg(long, value_name = "N")]
    max_failures: Option<u64>,
    /// How to report: words, or one JSON object a line
    #[arg(long, default_value = Format::Human.name(), value_parser = choice::<Format>())]
    format: Format,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Flags about the database; FiftyOne's own settings hold where they are left out.
#[derive(Clone, Debug, clap::Args)]
pub struct DatabaseArgs {
    /// MongoDB connection string; default: as FiftyOne is configured. Credentials are better kept in FIFTYONE_DATABASE_URI
    #[arg(long, value_name = "URI", hide_env_values = true)]
    database_uri: Option<String>,
    /// Folder of FiftyOne's own database
    #[arg(long, value_name = "FOLDER")]
    database_dir: Option<PathBuf>,
    /// Name of the database
    #[arg(long, value_name = "NAME")]
    database_name: Option<String>,
}

impl DatabaseArgs {
    /// Connects as FiftyOne would.
    pub fn connect(&self, python: Option<PathBuf>) -> anyhow::Result<crate::fiftyone::Connected> {
        let flags =
            DatabaseFlags { uri: self.database_uri.clone(), dir: self.database_dir.clone(), name: self.database_name.clone() };
        let config = DatabaseConfig::discover(&flags)?;
        Ok(Database::connect(&config, &ConnectOptions { python })?)
    }
}

/// How many samples make a batch.
#[derive(Clone, Copy, Debug)]
enum BatchSize {
    /// As many as are good for the device and fit into its memory.
    Auto,
    /// At most so many.
    Samples(NonZeroUsize),
}

impl FromStr for BatchSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(BatchSize::Auto),
            number => number.parse().map(BatchSize::Samples).map_err(|_| "it is `auto` or a number from 1".to_owned()),
        }
    }
}

/// What the dataset's side of the job comes to.
struct DatasetSide {
    dataset: Dataset,
    label: Option<LabelField>,
    mask_targets: Option<Vec<(String, MaskValue)>>,
    notices: Vec<String>,
}

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
    let folder = output_folder(&args, dataset.name())?;
    if !args.dry_run && (args.store == Store::Path || args.npy != NpyFormat::None) {
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
    if args.dry_run {
        reporter.step("dry run: nothing was changed");
        return Ok(Exit::Done);
    }

    let decoder = Decoder {
        preprocess: program.metadata.preprocess.clone(),
        targets,
        fields: fields.clone(),
        limits: ImageLimits::default(),
        exif: if args.apply_exif { ExifPolicy::Apply } else { ExifPolicy::Ignore },
        fingerprint: job_fingerprint(&args, &program, label.as_ref()),
        overwrite: args.overwrite,
    };
    let encoder = Encoder { folder, fields, store: args.store, npy: args.npy, class_names: program.metadata.classes.clone() };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = RunOptions {
        batch_limit: match args.batch_size {
            BatchSize::Samples(samples) => Some(BatchLimit::samples(samples.get())),
            BatchSize::Auto => None,
        },
        num_workers: args.workers.unwrap_or(cores),
        max_failures: args.max_failures,
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

fn check_model(args: &Args, reporter: &Reporter) -> anyhow::Result<Model> {
    let model = args.cam.open(reporter)?;
    let program = &model.program;
    program.metadata.preprocess.check().with_context(|| format!("model `{}`", program.path().display()))?;
    check_input_size(program)?;
    check_task(program, &args.target)?;
    Ok(model)
}

/// A model of one size needs a preprocessing that ends in that size.
fn check_input_size(program: &Program) -> anyhow::Result<()> {
    let metadata = &program.metadata;
    let [_, channels, height, width] = metadata.input.example[..] else {
        anyhow::bail!("model `{}` takes {:?}, not an image [N, 3, H, W]", program.path().display(), metadata.input.example);
    };
    anyhow::ensure!(channels == 3, "model `{}` takes {channels} channels, not RGB", program.path().display());
    let (given_height, given_width) = metadata.preprocess.output_size(480, 640);
    let fits = (given_height as i64, given_width as i64) == (height, width);
    if metadata.input.dynamic != Dynamic::Bhw && !fits {
        anyhow::bail!(
            "model `{}` takes images of {height}x{width} only, but its preprocessing makes {given_height}x{given_width} of 480x640\nhint: export it with `--size {given_height}x{given_width}`",
            program.path().display()
        );
    }
    Ok(())
}

fn check_dataset(args: &Args) -> anyhow::Result<DatasetSide> {
    let connected = args.database.connect(args.cam.python.clone())?;
    let mut notices = connected.notices;
    let dataset = Dataset::open(&connected.database, &args.dataset)?;
    notices.extend(dataset.notices());
    let label = match &args.target {
        TargetSpec::Labels(field) => Some(dataset.label_field(field.as_deref())?),
        TargetSpec::Predicted | TargetSpec::Top | TargetSpec::Pixel { .. } => None,
    };
    if let Err(problem) = check_class_flag(&args.target, &args.cam.classes, label.as_ref()) {
        anyhow::bail!("{problem}");
    }
    let mask_targets = match label.as_ref().filter(|label| label.kind == LabelKind::Segmentation) {
        Some(field) => Some(dataset.mask_targets(&field.name)?).filter(|entries| !entries.is_empty()),
        None => None,
    };
    Ok(DatasetSide { dataset, label, mask_targets, notices })
}

fn field_names(args: &Args, classes: &[String], methods: &[Method], columns: &[Column]) -> anyhow::Result<Vec<Vec<String>>> {
    let methods: Vec<&str> = methods.iter().map(|method| method.name()).collect();
    let template = args.field.clone().unwrap_or_else(|| FieldTemplate::default_for(&methods));
    let columns: Vec<(&str, &str)> = columns.iter().map(|column| (column.method.name(), column.label.as_str())).collect();
    template.names(classes, &columns).map_err(anyhow::Error::msg)
}

fn fields(names: &[Vec<String>], targets: &Targets, columns: &[Column]) -> HeatmapFields {
    let identity = |class: &TargetClass| format!("{}\0{}\0{:?}", class.name, class.index, class.mask_value);
    let classes = match targets {
        Targets::Classes(classes) | Targets::Pixel { classes, .. } => classes.iter().map(identity).collect(),
        Targets::Top => vec!["the model's top class".to_owned()],
        Targets::OwnClass(_) => vec!["the sample's own class".to_owned()],
    };
    let columns = columns.iter().map(|column| format!("{}\0{}", column.method.name(), column.path)).collect();
    HeatmapFields::new(names.to_vec(), classes, columns)
}

fn describe_fields(names: &[Vec<String>], columns: &[Column], program: &Program) -> Vec<HeatmapField> {
    let describe = |(name, column): (&String, &Column)| HeatmapField {
        name: name.clone(),
        layer: column.path.clone(),
        method: column.method.name().to_owned(),
        model: program.metadata.name.clone(),
    };
    names.iter().flat_map(|row| row.iter().zip(columns).map(describe)).collect()
}

/// Everything that the heatmaps of all samples depend on.
fn job_fingerprint(args: &Args, program: &Program, label: Option<&LabelField>) -> Fingerprint {
    let target = label.map_or_else(|| args.target.to_string(), |label| format!("labels:{}", label.name));
    // A run that is exact and one that is not differ in the last bits.
    let settings = [
        ("model", program.digest()),
        ("smooth", format!("eigen={} aug={}", args.cam.eigen_smooth, args.cam.aug_smooth)),
        ("target", target),
        ("size", args.cam.size.name().to_owned()),
        ("npy", args.npy.name().to_owned()),
        ("store", args.store.name().to_owned()),
        ("precision", if args.cam.device.exact { "exact" } else { args.cam.device.precision.name() }.to_owned()),
        ("exif", args.apply_exif.to_string()),
    ];
    Fingerprint::of_job(&settings.map(|(key, value)| format!("{key}={value}")).join("\0"))
}

fn selection(args: &Args, label: Option<LabelField>, fields: &[HeatmapField]) -> anyhow::Result<Selection> {
    let ids = match &args.ids {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the ids in `{}`", path.display()))?;
            Some(text.split_whitespace().map(ToOwned::to_owned).collect())
        }
    };
    Ok(Selection {
        label,
        heatmap_fields: fields.iter().map(|field| field.name.clone()).collect(),
        tags: args.tags.clone(),
        ids,
        matching: args.matching.clone(),
        slices: args.slices.clone(),
        limit: args.limit,
        ..Selection::default()
    })
}

/// Absolute, because the database holds these paths and the App runs elsewhere.
fn output_folder(args: &Args, dataset: &str) -> anyhow::Result<PathBuf> {
    if let Some(out) = &args.out {
        return std::path::absolute(out).with_context(|| format!("`--out {}` is no path", out.display()));
    }
    let base = directories::BaseDirs::new().context("no home folder is known\nhint: choose a folder with `--out`")?;
    let name: String = dataset.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    Ok(base.data_local_dir().join("camflow").join(name))
}

fn check_writable(folder: &Path) -> anyhow::Result<()> {
    let hint = "hint: choose another folder with `--out`";
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder `{}`\n{hint}", folder.display()))?;
    tempfile::tempfile_in(folder).with_context(|| format!("cannot write to the folder `{}`\n{hint}", folder.display()))?;
    Ok(())
}

/// Someone may have deleted a field while the run lasted; a sample with an undeclared field makes the dataset unreadable.
fn check_schema(sink: &UpdateSink, reporter: &Reporter) -> anyhow::Result<()> {
    let restored = sink.schema().declare()?;
    if !restored.is_empty() {
        let fields = backticked(restored.iter().map(String::as_str));
        reporter.notice(&format!("declared again, after someone removed them meanwhile: {fields}"));
    }
    Ok(())
}

/// The first Ctrl-C or SIGTERM drains, the second stops at once.
fn cancel_on_signals() -> anyhow::Result<Cancellation> {
    static ASKED: AtomicBool = AtomicBool::new(false);
    let cancellation = Cancellation::default();
    let handle = cancellation.clone();
    ctrlc::set_handler(move || {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        handle.cancel();
    })
    .context("signals cannot be handled")?;
    Ok(cancellation)
}
