//! `camflow explain`: heatmaps of a few images, or of a tensor that is prepared already; no database.

mod file_names;
pub(super) mod inputs;
mod outputs;
pub(super) mod sources;

use std::path::{Path, PathBuf};

use super::{Exit, annotate::Told, cam::CamArgs, choice, model::engine};
use crate::{
    diagnostic::Diagnostic,
    engine::{
        Beside, CamSpec, Counterfactuals, FoundReference, LayerTrial, MAX_SEEN, Model, Observer, Reading, SliceSpec,
        check_classes, check_confidence, check_masks, check_output, check_preprocess, check_task, check_texts, components,
        embedded, in_file, lay_texts, one_channel_notice, resolve,
    },
    explain::{ExplainOptions, TorchExplainer},
    job::{MaskNames, Reference, TargetSpec},
    media::{ExifPolicy, ImageLimits, MaskValue, SourceImage, shown},
    names::{Choice, ClassNames},
    pipeline::{Cancellation, Channel, Explainer, InputBatch, SkipReason, listed},
    program::{Layer, PlanOptions, Program, References},
    report::{Format, Reporter, error_text},
};
use file_names::FileNames;
pub(super) use file_names::is_tensor;
use inputs::{Asked, AskedPixels, values_in};
use outputs::{Outputs, Picture};

/// Compute heatmaps of single images, without a database
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    /// Image files, folders of them, patterns (`'photos/**/*.jpg'`), or `.npy` tensors f32 [N, 3, H, W] that are normalised already
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
    #[command(flatten)]
    cam: CamArgs,
    /// What is explained: the classes where the model predicts them (`predicted`), at one pixel of the image (`pixel=X,Y`), or the
    /// class that the model itself puts first (`top`); a number of a regression as it is (`component`); how near an embedding is to
    /// that of an image or of a `.npy` file (`similar=FILE`), or how far (`different=FILE`); default: `predicted`, without
    /// `--class` `top`
    #[arg(long, conflicts_with = "mask")]
    target: Option<TargetSpec>,
    /// Mask that says which pixels count: an image, or `.npy` [H, W] (for tensors also [N, H, W]) with the classes' channels as values
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// Folder for the files
    #[arg(long, value_name = "FOLDER", default_value = "heatmaps")]
    out: PathBuf,
    /// Also write a GIF of each image and class that shows its heatmaps one after the other: layers, and methods
    #[arg(long)]
    animate: bool,
    /// Output format
    #[arg(long, default_value = Format::Human.name(), value_parser = choice::<Format>())]
    pub format: Format,
}

/// Runs the subcommand.
pub(super) fn main(args: Args) -> Result<Exit, Diagnostic> {
    let Args { inputs, cam, target: asked_target, mask, out, animate, format } = args;
    let reporter = Reporter::new(format);
    let told = Told(&reporter);
    let inputs = sources::files(&inputs)?;
    let cam = cam.into_spec();
    let target = target(asked_target, &cam)?;
    check_texts(&cam, &target)?;
    if cam.text.is_empty() {
        check_classes(&target, &cam.class, None)?;
    }
    check_slices(&cam, &target)?;
    let engine = engine(Cancellation::default());
    let Model { mut program, layers, devices } = cam.open(&engine, &told)?;
    lay_texts(&mut program, &cam, &target, &engine, &told)?;
    check_confidence(&program, cam.chooses_layer()?, "--layers auto")?;
    let [plan_options] = devices[..] else {
        return Err(Diagnostic::invalid("`camflow explain` runs on one device").hint("name one with `--device`"));
    };
    cam.check_followed(&program, false, Counterfactuals::default())?;
    cam.check_score(&program, &target)?;
    check_task(&program, &target)?;
    if mask.is_some() {
        check_masks(&program, "`--mask` is one of pixels")?;
    }
    if program.metadata.preprocess.reads().is_some() || !inputs.iter().all(|input| is_tensor(input)) {
        check_preprocess(&program, &told)?;
    }
    let (found, references) = references(&target, &program, plan_options, &told)?.unzip();
    let asked = match &found {
        Some(found) => vec![Asked { name: found.name.clone(), channel: Channel::Index(0), pixels: AskedPixels::Predicted }],
        None => asked(&cam, mask.as_deref(), &target, &program, &told)?,
    };
    one_channel_notice(&program, &target, mask.is_some()).iter().for_each(|notice| reporter.notice(notice));
    let mut options = ExplainOptions { references, ..cam.explain_options(&program, layers, &target) };
    if cam.chooses_layer()? {
        options.layers = vec![most_faithful(options.clone(), plan_options, &inputs, &asked, &program, &told)?];
    }
    options.confidence = !options.reading.is_value;
    let channel = |asked: &Asked| if let Channel::Index(index) = asked.channel { Some(index) } else { None };
    let classes: Vec<_> = asked.iter().map(|asked| (asked.name.clone(), channel(asked))).collect();
    let file_names = FileNames::new(&inputs, &classes)?;
    let class_names = match &found {
        Some(found) => [(0, found.name.clone())].into(),
        None => program.metadata.classes.clone(),
    };
    let outputs = Outputs::new(out.clone(), format, file_names.classes.clone(), class_names, (&options, cam.slices), animate);
    let mut explainer = TorchExplainer::new(&program, plan_options, options)?;
    check_output(&program, explainer.plan(), &target)?;

    file_names.claim(&out, &inputs)?;
    file_names.notices.iter().for_each(|notice| reporter.notice(notice));
    reporter.files_started(inputs.len());
    let mut done = Tally::default();
    for (input, name) in inputs.iter().zip(&file_names.inputs) {
        match explain((input, name), &asked, &program, &mut explainer, &outputs, &reporter) {
            Ok(tally) => {
                reporter.file_finished(tally.num_failed > 0);
                done.add(tally);
            }
            // A bad image costs only itself.
            Err(error) => {
                reporter.image_failed(input, &error_text(&error));
                reporter.file_finished(true);
                done.num_failed += 1;
            }
        }
    }
    reporter.files_finished();
    // Where nothing at all was found, what was asked was not done.
    Ok(if done.num_failed > 0 || done.num_heatmaps == 0 { Exit::SomeFailed } else { Exit::Done })
}

/// What became of images.
#[derive(Default)]
struct Tally {
    num_failed: usize,
    num_heatmaps: usize,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.num_failed += other.num_failed;
        self.num_heatmaps += other.num_heatmaps;
    }
}

/// What is explained where nobody says it.
pub(super) fn target(asked: Option<TargetSpec>, cam: &CamSpec) -> Result<TargetSpec, Diagnostic> {
    match asked {
        Some(TargetSpec::Similar(similarity)) if matches!(similarity.to, Reference::Field(_)) => {
            Err(Diagnostic::invalid("there are no labels without a dataset")
                .hint(format!("compare images with one: `--target {}=FILE`", similarity.word())))
        }
        Some(TargetSpec::Labels(_)) => Err(Diagnostic::invalid("there are no labels without a dataset")
            .hint("give a mask with `--mask FILE`, or use `--target predicted`, `top` or `pixel=X,Y`")),
        Some(TargetSpec::Wrong(_)) => Err(Diagnostic::invalid("there are no labels without a dataset, and so no mistakes")
            .hint("`--target top` explains what the model predicts, `--class CLASS` what is true")),
        Some(target) => Ok(target),
        None if cam.class.is_empty() && cam.text.is_empty() => Ok(TargetSpec::Top),
        None => Ok(TargetSpec::Predicted),
    }
}

/// Refuses what does not go with slices.
fn check_slices(cam: &CamSpec, target: &TargetSpec) -> Result<(), Diagnostic> {
    let layers = cam.layer_names();
    let problems = cam.slices.problems(Beside {
        target,
        methods: &cam.methods,
        layers: &layers,
        aug_smooth: cam.aug_smooth,
        per_detection: false,
        faithfulness: false,
        counterfactuals: false,
    });
    Diagnostic::join(problems.into_iter().map(Diagnostic::invalid)).map_or(Ok(()), Err)
}

/// What images are compared with, where that is asked: as it was found, and its embedding.
pub(super) fn references(
    target: &TargetSpec,
    program: &Program,
    plan_options: PlanOptions,
    observer: &dyn Observer,
) -> Result<Option<(FoundReference, References)>, Diagnostic> {
    let TargetSpec::Similar(similarity) = target else { return Ok(None) };
    let Reference::File(file) = &similarity.to else { return Ok(None) };
    let reading = Reading { program, exif: ExifPolicy::Ignore };
    let found = in_file(file, reading)?;
    let made = embedded(std::slice::from_ref(&found), similarity, reading, plan_options, &Cancellation::default(), observer)?;
    Ok(Some((found, made)))
}

/// What to look for in every image.
pub(super) fn asked(
    cam: &CamSpec,
    mask: Option<&Path>,
    target: &TargetSpec,
    program: &Program,
    observer: &dyn Observer,
) -> Result<Vec<Asked>, Diagnostic> {
    if *target == TargetSpec::Top {
        if mask.is_some() {
            return Err(Diagnostic::invalid("`--mask` marks a class").hint("name it with `--class`"));
        }
        return Ok(vec![Asked { name: "top".to_owned(), channel: Channel::Top, pixels: AskedPixels::Predicted }]);
    }
    let names = ClassNames::new(program.metadata.classes.clone());
    let masks = mask.is_some().then(|| MaskNames { targets: None, one_channel: program.one_channel() });
    let classes = match target {
        TargetSpec::Component => components(program, &names, &cam.class, observer)?,
        _ => resolve(program, &names, &cam.classes(), masks, observer)?,
    };
    let pixels = |value: Option<MaskValue>| match (target, mask, value) {
        (_, Some(mask), Some(value)) => AskedPixels::Mask { file: mask.to_owned(), value },
        (TargetSpec::Pixel { x, y }, ..) => AskedPixels::Pixel { x: *x as usize, y: *y as usize },
        _ => AskedPixels::Predicted,
    };
    let asked = classes.into_iter().map(|class| Asked {
        name: class.name,
        channel: Channel::Index(class.index),
        pixels: pixels(class.mask_value),
    });
    Ok(asked.collect())
}

/// The layer whose heatmaps of the first images are most faithful.
fn most_faithful(
    mut options: ExplainOptions,
    plan_options: PlanOptions,
    inputs: &[PathBuf],
    asked: &[Asked],
    program: &Program,
    observer: &dyn Observer,
) -> Result<Layer, Diagnostic> {
    let mut layers = options.layers.clone();
    let mut trial = LayerTrial::new(&mut options);
    let mut explainer = TorchExplainer::new(program, plan_options, options)?;
    for input in inputs.iter().take(MAX_SEEN) {
        if trial.is_complete() {
            break;
        }
        // What cannot be read or explained is told when its turn comes.
        let Ok((batch, _)) = read(input, "image", asked, program, &SliceSpec::default()) else { continue };
        for explained in explainer.explain_now(batch)?.explained {
            trial.add(explained.classes.iter().flat_map(|class| &class.examined));
        }
    }
    let (best, sentence) = trial.best()?;
    observer.notice(&sentence);
    Ok(layers.swap_remove(best))
}

/// One file as a batch, and its image where it is one.
pub(super) fn read(
    input: &Path,
    name: &str,
    asked: &[Asked],
    program: &Program,
    slices: &SliceSpec,
) -> Result<(InputBatch, Option<SourceImage>), Diagnostic> {
    let preprocess = &program.metadata.preprocess;
    Ok(match is_tensor(input) && inputs::is_prepared(input, preprocess)? {
        true => (inputs::tensor_batch(input, name, asked, program.metadata.image_channels())?, None),
        false => {
            let (batch, image) = inputs::image_batch(input, name, asked, preprocess, slices)?;
            (batch, Some(image))
        }
    })
}

/// Explains one file, of which the files are called `name`.
fn explain(
    (input, name): (&Path, &str),
    asked: &[Asked],
    program: &Program,
    explainer: &mut TorchExplainer,
    outputs: &Outputs,
    reporter: &Reporter,
) -> Result<Tally, Diagnostic> {
    let (batch, image) = read(input, name, asked, program, &outputs.slices)?;
    if image.as_ref().is_some_and(SourceImage::is_clipped) {
        reporter.notice(&format!(
            "`{}`: its gray levels were cut to 0 to 255, as Pillow does (bright ones are white, fractions black): convert it to 8 bits, or export the model with `--samples`, which reads them at full depth",
            shown(input)
        ));
    }
    if image.is_some() {
        inputs::mask_notices(input, &batch, asked, &outputs.slices.limits())?.iter().for_each(|notice| reporter.notice(notice));
    }
    let image = image.map(SourceImage::into_picture);
    if image.is_none() && outputs.animate {
        reporter.notice(&format!("`{}`: a tensor is no picture to animate, and gets no GIF", shown(input)));
    }
    // Of an image in slices the picture is a smaller one.
    let image_size = batch.samples.first().map(|sample| (sample.region.image_height, sample.region.image_width));
    let result = explainer.explain_now(batch)?;
    for failure in &result.failed {
        reporter.image_failed(&failure.sample.media_path, &failure.error);
    }
    let mut num_heatmaps = 0;
    for explained in &result.explained {
        for (index, asked) in asked.iter().enumerate() {
            match explained.classes.iter().find(|class| class.class.0 == index) {
                None => {
                    // A tensor holds several samples.
                    let id = Path::new(&explained.envelope.sample.id);
                    let of = if image.is_some() { &explained.envelope.sample.media_path } else { id };
                    let absent = absence(asked, &outputs.slices.limits())?;
                    let message = format!("`{}`: {}", shown(of), absent.message);
                    reporter.notice(&error_text(&Diagnostic { message, ..absent }));
                }
                Some(class) => {
                    let point = match (&asked.pixels, image_size, &image) {
                        (AskedPixels::Pixel { x, y }, Some((height, width)), Some(image)) => {
                            Some((x * image.width / width, y * image.height / height))
                        }
                        _ => None,
                    };
                    let picture = image.as_ref().map(|image| Picture { image, seen: explained.seen.as_ref(), point });
                    outputs.write(input, &explained.envelope.sample.id, class, picture.as_ref(), reporter)?;
                    num_heatmaps += class.heatmaps.len();
                }
            }
        }
    }
    Ok(Tally { num_failed: result.failed.len(), num_heatmaps })
}

/// Why an image got no heatmap of a class.
fn absence(asked: &Asked, limits: &ImageLimits) -> Result<Diagnostic, Diagnostic> {
    let (name, absent) = (&asked.name, SkipReason::ClassAbsent);
    let why = match (&asked.pixels, asked.channel) {
        (AskedPixels::Mask { file, value }, channel) => {
            let (values, file) = (values_in(file, limits)?, shown(file));
            match value {
                MaskValue::Object if values.len() < 2 => {
                    format!("{absent}, the mask `{file}` holds nothing but {}", listed(&values))
                }
                value if *value != MaskValue::Object && !values.contains(value) => {
                    let number = if let Channel::Index(index) = channel { index.to_string() } else { value.to_string() };
                    let why = format!("{absent}, the mask `{file}` holds {} and no {value}", listed(&values));
                    let hint = format!("in `--mask`, the pixels of a class hold its number, {number} for `{name}`");
                    return Ok(Diagnostic::invalid(why).hint(hint));
                }
                _ => {
                    format!("{absent}, of what the mask `{file}` marks nothing is left where the model looks, at its resolution")
                }
            }
        }
        (_, Channel::Top) => format!("{absent}, the model predicts none"),
        _ => {
            return Ok(Diagnostic::invalid(format!("{absent}, the model does not predict `{name}`"))
                .hint("`--target pixel=X,Y` or `--mask` say where to look, `--target top` takes what it predicts"));
        }
    };
    Ok(Diagnostic::invalid(why))
}
