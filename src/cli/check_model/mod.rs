//! `camflow check-model`: whether a model's heatmaps can be trusted.

mod outputs;

use std::{
    collections::HashSet,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use super::{
    Exit,
    annotate::{DatabaseArgs, Told},
    cam::{SamplingArgs, as_key},
    choice,
    explain::{
        asked,
        inputs::{Asked, AskedPixels},
        is_tensor, read, references, sources, target,
    },
    model::engine,
    positive, print,
    signals::cancel_on_signals,
    whole,
};
use crate::{
    diagnostic::{Class, Diagnostic},
    engine::{
        CamSpec, CheckModelSpec, CheckedModel, DeviceSpec, LayerFusion, Model, Observer, SliceSpec, check_classes, check_model,
        check_output, check_preprocess, check_task, check_unranked, check_written,
    },
    explain::{ExplainOptions, HeatmapSize, Method, ScoreKind, TorchExplainer},
    fiftyone::{Dataset, SampleSource, Selection},
    job::{NameList, TargetSpec},
    media::{Durability, FrameRegion, shown, write_named},
    names::{self, counted, word},
    pipeline::{Channel, DecodedSample, Source},
    program::{Precision, Program},
    report::{Format, Reporter, error_text},
    study::sanity::{Check, Threshold, Thresholds, Verdict, check_json, check_lines, overall, summaries},
};

/// Check whether a model's heatmaps can be trusted: random weights, moved images, noise, other methods
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    /// A `.pt2` file, or the name of an exported model
    model: String,
    /// Image files, folders of them, patterns (`'photos/**/*.jpg'`), or `.npy` tensors f32 [N, 3, H, W] that are normalised already
    images: Vec<PathBuf>,
    // First of the flags, as it gives those before it the texts of a job's keys.
    #[command(flatten)]
    heatmaps: HeatmapArgs,
    /// Images of this dataset instead, chosen by chance and always the same
    #[arg(long, value_name = "NAME", conflicts_with = "images")]
    dataset: Option<String>,
    /// How many images at most; of more, some from all over are taken
    #[arg(long, value_name = "N", default_value = "8", value_parser = positive)]
    samples: NonZeroUsize,
    /// What is explained, as for `explain`: `top` (default), `predicted`, `pixel=X,Y`, `component` or `similar=FILE`
    #[arg(long)]
    target: Option<TargetSpec>,
    /// Methods to compare with; default: gradcam, gradcam++, layercam, hirescam and eigencam
    #[arg(long, value_name = "METHOD", value_delimiter = ',', value_parser = choice::<Method>(), hide_possible_values = true)]
    methods: Vec<Method>,
    /// In how many steps weights are randomised from the output down; 0: module by module
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = whole::<usize>)]
    steps: usize,
    /// Also randomise the weights of each step alone
    #[arg(long)]
    independent: bool,
    /// By how many pixels images are shifted; default: one 28th of the shorter side of the model's input
    #[arg(long, value_name = "PIXELS", value_parser = positive)]
    shift: Option<NonZeroUsize>,
    /// How far noise moves each number of the model's input, which is normalised, at most
    #[arg(long, value_name = "RADIUS", default_value_t = 0.2, value_parser = radius)]
    noise: f64,
    /// How many draws of noise for each image
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = whole::<usize>)]
    draws: usize,
    /// Other draws of weights and noise
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<u64>)]
    seed: u64,
    /// From which figure on a check is passed, and beyond which it is failed: `flip=0.8,0.5`; may be repeated
    #[arg(long, value_name = "CHECK=PASS[,FAIL]", value_parser = Threshold::parse)]
    threshold: Vec<(Check, Threshold)>,
    /// End with 1 if a check failed
    #[arg(long)]
    strict: bool,
    /// Folder for heatmaps and a contact sheet of each image
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Write the figures here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Which heatmaps are checked; the flags mean what they do elsewhere.
#[derive(Debug, clap::Args)]
#[command(mut_args = as_key)]
struct HeatmapArgs {
    #[arg(long)]
    class: Vec<String>,
    #[arg(long)]
    layers: Vec<String>,
    #[arg(long, value_delimiter = ',', value_parser = choice::<Method>())]
    method: Vec<Method>,
    #[arg(long)]
    fuse_layers: bool,
    #[arg(long, value_parser = choice::<LayerFusion>())]
    fusion: LayerFusion,
    #[arg(long)]
    eigen_smooth: bool,
    #[arg(long)]
    aug_smooth: bool,
    #[arg(long, value_parser = positive)]
    cam_batch_size: NonZeroUsize,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[arg(long, value_parser = choice::<ScoreKind>())]
    score: ScoreKind,
    #[arg(long, value_delimiter = ',')]
    device: Vec<String>,
    #[arg(long, value_parser = choice::<Precision>())]
    precision: Precision,
    #[arg(long)]
    exact: bool,
    #[arg(long, conflicts_with = "exact")]
    fast: bool,
    #[arg(long, env = "CAMFLOW_PYTHON")]
    python: Option<PathBuf>,
}

impl HeatmapArgs {
    fn spec(&self, model: String) -> CamSpec {
        CamSpec {
            class: NameList::from_texts(&self.class),
            text: Vec::new(),
            text_template: None,
            layers: NameList::from_texts(&self.layers),
            model,
            methods: self.method.clone(),
            fuse_layers: self.fuse_layers,
            fusion: self.fusion,
            eigen_smooth: self.eigen_smooth,
            aug_smooth: self.aug_smooth,
            sess: false,
            cam_batch_size: self.cam_batch_size,
            sampling: self.sampling.into(),
            score: self.score,
            size: HeatmapSize::Input,
            slices: SliceSpec::default(),
            device: DeviceSpec { devices: self.device.clone(), precision: self.precision, exact: self.exact, fast: self.fast },
            python: self.python.clone(),
        }
    }
}

fn radius(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(radius) if radius > 0.0 && radius.is_finite() => Ok(radius),
        _ => Err("it is a number above 0, such as 0.2; `--draws 0` leaves noise out".to_owned()),
    }
}

/// Runs the subcommand.
pub(super) fn main(args: Args) -> Result<Exit, Diagnostic> {
    let cancellation = cancel_on_signals()?;
    let reporter = Reporter::new(Format::Human);
    let told = Told(&reporter);
    args.json.as_deref().map_or(Ok(()), |path| check_written("--json", path))?;
    let mut thresholds = Thresholds::default();
    args.threshold.iter().for_each(|(check, threshold)| thresholds.set(*check, *threshold));
    let images = images(&args, &told)?;
    let cam = args.heatmaps.spec(args.model.clone());
    let target = target(of_images(args.target.clone())?, &cam)?;
    check_classes(&target, &cam.class, None)?;
    if cam.chooses_layer()? {
        return Err(Diagnostic::invalid("`--layers auto` has no layer to check yet")
            .hint("name layers, or leave `--layers` out to check the default one"));
    }
    let Model { mut program, layers, devices } = cam.open(&engine(cancellation.clone()), &told)?;
    let [plan_options] = devices[..] else {
        return Err(Diagnostic::invalid("`camflow check-model` runs on one device").hint("name one with `--device`"));
    };
    check_task(&program, &target)?;
    check_unranked(&program)?;
    cam.check_score(&program, &target)?;
    if program.metadata.preprocess.reads().is_some() || !images.iter().all(|image| is_tensor(image)) {
        check_preprocess(&program, &told)?;
    }
    let (found, references) = references(&target, &program, plan_options, &told)?.unzip();
    let asked = match &found {
        Some(found) => vec![Asked { name: found.name.clone(), channel: Channel::Index(0), pixels: AskedPixels::Predicted }],
        None => asked(&cam, None, &target, &program, &told)?,
    };
    let class_names = match &found {
        Some(found) => [(0, found.name.clone())].into(),
        None => program.metadata.classes.clone(),
    };
    let options = ExplainOptions { references, ..cam.explain_options(&program, layers, &target) };
    let explainer = TorchExplainer::new(&program, plan_options, options.clone())?;
    check_output(&program, explainer.plan(), &target)?;
    drop(explainer);

    let Read { samples, num_failed } = read_all(&images, &asked, &program, &reporter);
    if samples.is_empty() {
        return Err(nothing(&CheckedModel::default(), &args));
    }
    let pictures: Vec<_> = samples.iter().map(outputs::picture).collect();
    let spec = CheckModelSpec {
        num_steps: args.steps,
        independent: args.independent,
        seed: args.seed,
        shift: args.shift.map(NonZeroUsize::get),
        noise: args.noise,
        draws: args.draws,
        methods: args.methods.clone(),
        class_names,
        keeps_maps: args.out.is_some(),
    };
    let checked = check_model(&mut program, plan_options, &options, samples, &spec, &cancellation, &told)?;
    let Some(checked) = checked else { return Ok(Exit::Interrupted) };
    for (image, error) in &checked.failed {
        reporter.image_failed(image, error);
    }
    let CheckedModel { found, failed, .. } = &checked;
    if found.cases.is_empty() {
        return Err(nothing(&checked, &args));
    }
    if found.num_absent > 0 {
        let images = counted(found.num_absent, "image", "images");
        reporter.notice(&format!("{images} left out: the model predicts nothing there that is explained"));
    }
    print(&format!(
        "model `{}`: {} of {}, weights randomised in {} (seed {})",
        found.model,
        counted(found.cases.len(), "heatmap", "heatmaps"),
        counted(pictures.len() - failed.len() - found.num_absent, "image", "images"),
        counted(found.steps.len(), "step", "steps"),
        found.seed
    ));
    check_lines(found, &thresholds).iter().for_each(|line| print(&names::shown(line).to_string()));
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", check_json(found, &thresholds));
        let written = write_named(path, Durability::Process, |file| std::io::Write::write_all(file, text.as_bytes()));
        written.map_err(|error| Diagnostic::from(error).of_class(Class::Aborted))?;
    }
    if let Some(folder) = &args.out {
        let sheets = outputs::write(folder, &checked, &pictures)?;
        print(&format!("{} in `{}`", counted(sheets, "contact sheet", "contact sheets"), shown(folder)));
    }
    let verdicts: Vec<Option<Verdict>> =
        (0..found.columns.len()).map(|column| overall(&summaries(found, column, &thresholds))).collect();
    let is_failed = args.strict && verdicts.contains(&Some(Verdict::Failed));
    let is_unchecked = verdicts.contains(&None);
    Ok(if is_failed || is_unchecked || num_failed > 0 || !failed.is_empty() { Exit::SomeFailed } else { Exit::Done })
}

/// Refuses targets that are stored labels: images alone are read.
fn of_images(target: Option<TargetSpec>) -> Result<Option<TargetSpec>, Diagnostic> {
    match &target {
        Some(asked @ (TargetSpec::Labels(_) | TargetSpec::Wrong(_))) => {
            Err(Diagnostic::invalid(format!("`--target {asked}` explains what stored labels say, and `check-model` reads none"))
                .hint("use `--target predicted` with `--class`, `top` or `pixel=X,Y`"))
        }
        _ => Ok(target),
    }
}

/// Nothing at all was there to check.
fn nothing(checked: &CheckedModel, args: &Args) -> Diagnostic {
    if checked.found.num_absent > 0 {
        return Diagnostic::invalid(format!("model `{}` predicts nothing of what is explained in any image", args.model))
            .hint("choose images in which it does, or another `--class`");
    }
    Diagnostic::invalid("no image could be explained")
        .hint(format!("`camflow explain IMAGE --model {}` tries one", word(Path::new(&args.model))))
}

/// The images that are checked.
fn images(args: &Args, observer: &dyn Observer) -> Result<Vec<PathBuf>, Diagnostic> {
    let most = args.samples.get();
    let Some(name) = &args.dataset else {
        if args.images.is_empty() {
            return Err(Diagnostic::invalid("no images are named")
                .hint("name image files, folders or patterns behind the model, or a dataset with `--dataset`"));
        }
        let images = sources::files(&args.images)?;
        let found = images.len();
        if found > most {
            observer.notice(&format!("{most} of {found} images are checked, from all over; `--samples` says how many"));
            return Ok((0..most).map(|place| images[place * found / most].clone()).collect());
        }
        return Ok(images);
    };
    let connected = args.database.connect(args.heatmaps.python.clone())?;
    let dataset = Dataset::open(&connected.database, name)?;
    let selection = Selection { shuffle: Some(args.seed), limit: Some(most as u64), ..Selection::default() };
    let mut source = SampleSource::new(&dataset, selection)?;
    let mut images = Vec::new();
    loop {
        let page = source.next_samples()?;
        if page.is_empty() {
            break;
        }
        images.extend(page.into_iter().map(|selected| selected.sample.media_path));
    }
    if images.is_empty() {
        return Err(Diagnostic::invalid(format!("dataset `{name}` has no images")).hint("name image files instead"));
    }
    Ok(images)
}

/// The samples of images, and how many images could not be read.
struct Read {
    samples: Vec<DecodedSample>,
    num_failed: usize,
}

fn read_all(images: &[PathBuf], asked: &[Asked], program: &Program, reporter: &Reporter) -> Read {
    let mut names = HashSet::new();
    let mut found = Read { samples: Vec::new(), num_failed: 0 };
    for image in images {
        let stem = image.file_stem().map_or_else(|| "image".to_owned(), |stem| stem.to_string_lossy().replace(['/', ' '], "_"));
        let mut name = stem.clone();
        let mut number = 1;
        while !names.insert(name.clone()) {
            number += 1;
            name = format!("{stem}_{number}");
        }
        match read(image, &name, asked, program, &SliceSpec::default()) {
            Ok((batch, _)) => found.samples.extend(batch.samples.into_iter().map(|sample| {
                // All changes are made to the model's input, and heatmaps lie over that.
                let region = FrameRegion::whole(sample.height, sample.width);
                DecodedSample { region, ..sample }
            })),
            // A bad image costs only itself.
            Err(error) => {
                reporter.image_failed(image, &error_text(&error));
                found.num_failed += 1;
            }
        }
    }
    found
}
