//! `camflow explain`: heatmaps of a few images, or of a tensor that is prepared already; no database.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;

use super::{
    Exit, Failure,
    cam::{CamArgs, Model},
    choice, print,
};
use crate::{
    explain::{Column, TorchExplainer},
    job::resolve_classes,
    media::{
        BinaryMask, Durability, ExifPolicy, FrameRegion, ImageLimits, Interpolation, LabelMask, MaskValue, encode_heatmap,
        encode_rgb, overlay, read_array_file, read_image, resize_rgb, with_suffix, write_atomically, write_f32,
    },
    names::Choice,
    pipeline::{
        Channel, ClassTarget, DecodedSample, Explainer, Fingerprint, Heatmap, InputBatch, SampleRef, TargetClass, TargetPixels,
    },
    program::Program,
    report::{Format, Reporter},
};

/// Heatmaps of a few images, without a database
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Image files, or `.npy` tensors f32 [N, 3, H, W] that are normalised already
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
    #[command(flatten)]
    cam: CamArgs,
    /// Mask that says which pixels count: an image, or `.npy` [H, W] (for tensors also [N, H, W]) with the classes' channels as
    /// values; default: the model's own prediction
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// Folder for `.npy` and `.png` files
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// How to report what was written
    #[arg(long, default_value = Format::Human.name(), value_parser = choice::<Format>())]
    format: Format,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<Exit, Failure> {
    if args.cam.classes.is_empty() {
        return Err(anyhow::anyhow!("no class is named\nhint: name one with `--class`").into());
    }
    let reporter = Reporter::new(args.format);
    let Model { program, layers, plan_options } = args.cam.open(&reporter)?;
    let classes = resolve_classes(&args.cam.classes, &program.metadata.classes, None, args.mask.is_some())
        .map_err(|problems| anyhow::anyhow!("{}", problems.join("\nerror: ")))?;
    let options = args.cam.explain_options(&program, layers);
    let columns = options.columns();
    let mut explainer = TorchExplainer::new(&program, plan_options, options)?;
    let mut exit = Exit::Done;
    for input in &args.inputs {
        match explain(input, args, &program, &classes, &columns, &mut explainer, &reporter) {
            Ok(true) => {}
            Ok(false) => exit = Exit::SomeFailed,
            // A bad image costs only itself.
            Err(error) => {
                reporter.notice(&format!("failed: `{}`: {error:#}", input.display()));
                exit = Exit::SomeFailed;
            }
        }
    }
    Ok(exit)
}

/// Explains one file; `false` when a sample of it failed.
fn explain(
    input: &Path,
    args: &Args,
    program: &Program,
    classes: &[TargetClass],
    columns: &[Column],
    explainer: &mut TorchExplainer,
    reporter: &Reporter,
) -> anyhow::Result<bool> {
    let batch = if input.extension().is_some_and(|extension| extension == "npy") {
        tensor_batch(input, args.mask.as_deref(), classes)?
    } else {
        image_batch(input, args.mask.as_deref(), classes, program)?
    };
    let sizes = (batch.height, batch.width);
    let result = explainer.explain(batch)?;
    for skip in &result.skipped {
        reporter.notice(&format!("`{}`: {}", skip.sample.media_path.display(), skip.reason));
    }
    for failure in &result.failed {
        reporter.notice(&format!("failed: `{}`: {}", failure.sample.media_path.display(), failure.error));
    }
    for explained in &result.explained {
        for class in &explained.classes {
            for (heatmap, column) in class.heatmaps.iter().zip(columns) {
                let (method, layer) = (column.method.name(), &column.label);
                let name = format!("{}.{}.{method}.layer_{layer}", explained.sample.id, classes[class.class].name);
                let stem = args.out.join(name.replace(['/', ' '], "_"));
                let written = write(&stem, heatmap, input, sizes)?;
                match args.format {
                    Format::Human => written.iter().for_each(|path| print(&path.display().to_string())),
                    Format::Json => print(
                        &json!({
                            "event": "heatmap", "input": input, "sample": explained.sample.id, "class": classes[class.class].name,
                            "method": method, "layer": layer, "score": class.score, "height": heatmap.height, "width": heatmap.width,
                            "files": written,
                        })
                        .to_string(),
                    ),
                }
            }
        }
    }
    Ok(result.failed.is_empty())
}

fn image_batch(path: &Path, mask: Option<&Path>, classes: &[TargetClass], program: &Program) -> anyhow::Result<InputBatch> {
    let limits = ImageLimits::default();
    let image = read_image(path, &limits, ExifPolicy::Ignore)?;
    let model_input = program.metadata.preprocess.apply(&image)?;
    let (height, width) = (model_input.height, model_input.width);
    let region = model_input.region;
    let mask = mask.map(|mask| read_mask(mask, &limits)).transpose()?;
    let mut targets = Vec::new();
    for (index, class) in classes.iter().enumerate() {
        let pixels = match &mask {
            Some(mask) => {
                let pixels = mask.select(&MaskValue::Index(class.index))?;
                let is_whole = (region.frame_height, region.frame_width) == (height, width);
                Some(if is_whole { pixels } else { pixels.crop_to(&region, height, width) })
            }
            None => None,
        };
        let pixels = pixels.map_or(TargetPixels::Predicted, TargetPixels::Mask);
        targets.push(ClassTarget { class: index, channel: Channel::Index(class.index), pixels });
    }
    let id = path.file_stem().map_or_else(|| "image".into(), |stem| stem.to_string_lossy().into_owned());
    let sample = sample(0, id, path, height, width, region, targets);
    Ok(InputBatch { samples: vec![sample], pixels: model_input.pixels, height, width })
}

fn read_mask(path: &Path, limits: &ImageLimits) -> anyhow::Result<LabelMask> {
    if path.extension().is_some_and(|extension| extension == "npy") {
        return Ok(LabelMask::from_array(read_array_file(path, limits.max_bytes)?)?);
    }
    Ok(LabelMask::read(path, limits)?)
}

fn tensor_batch(path: &Path, mask: Option<&Path>, classes: &[TargetClass]) -> anyhow::Result<InputBatch> {
    let limits = ImageLimits::default();
    let array = read_array_file(path, limits.max_bytes)?;
    let [num_samples, 3, height, width] = array.shape[..] else {
        bail!("it holds shape {:?}; a tensor [N, 3, H, W] is wanted", array.shape);
    };
    let pixels = array.values.to_f32();
    let masks = mask.map(|mask| read_array_file(mask, limits.max_bytes)).transpose()?;
    let region =
        FrameRegion { image_height: height, image_width: width, frame_height: height, frame_width: width, top: 0, left: 0 };
    let stem = path.file_stem().map_or_else(|| "tensor".into(), |stem| stem.to_string_lossy().into_owned());
    let mut samples = Vec::new();
    for number in 0..num_samples {
        let mut targets = Vec::new();
        for (index, class) in classes.iter().enumerate() {
            let mask = match &masks {
                None => None,
                Some(masks) => {
                    let (mask_height, mask_width, offset) = match masks.shape[..] {
                        [h, w] => (h, w, 0),
                        [n, h, w] if n == num_samples => (h, w, number * h * w),
                        _ => bail!("the mask holds shape {:?}; [H, W] or [{num_samples}, H, W] is wanted", masks.shape),
                    };
                    let values = masks.values.to_f32();
                    let values = values.get(offset..offset + mask_height * mask_width).context("the mask is too short")?;
                    let pixels = values.iter().map(|value| u8::from(*value == class.index as f32)).collect();
                    Some(BinaryMask { height: mask_height, width: mask_width, pixels })
                }
            };
            let pixels = mask.map_or(TargetPixels::Predicted, TargetPixels::Mask);
            targets.push(ClassTarget { class: index, channel: Channel::Index(class.index), pixels });
        }
        samples.push(sample(number as u64, format!("{stem}.{number}"), path, height, width, region, targets));
    }
    Ok(InputBatch { samples, pixels, height, width })
}

fn sample(
    seq: u64,
    id: String,
    path: &Path,
    height: usize,
    width: usize,
    region: FrameRegion,
    targets: Vec<ClassTarget>,
) -> DecodedSample {
    let sample = SampleRef { seq, id, media_path: path.to_owned() };
    let fingerprint = Fingerprint::of_job("explain");
    DecodedSample { sample, pixels: Vec::new(), height, width, region, targets, fingerprint, existing: Vec::new() }
}

/// Writes floats, picture and, for images, the overlay.
fn write(stem: &Path, heatmap: &Heatmap, input: &Path, sizes: (usize, usize)) -> anyhow::Result<Vec<PathBuf>> {
    let Heatmap { height, width, values } = heatmap;
    let mut written = Vec::new();
    let mut put = |suffix: &str, bytes: &[u8]| -> anyhow::Result<()> {
        let path = with_suffix(stem, suffix);
        write_atomically(&path, Durability::Process, |writer| std::io::Write::write_all(writer, bytes))?;
        written.push(path);
        Ok(())
    };
    let mut npy = Vec::new();
    write_f32(&mut npy, &[*height, *width], values).context("the array cannot be encoded")?;
    put(".npy", &npy)?;
    put(".png", &encode_heatmap(*height, *width, values)?)?;
    let is_image = input.extension().is_none_or(|extension| extension != "npy");
    if is_image && (*height, *width) == sizes {
        let image = read_image(input, &ImageLimits::default(), ExifPolicy::Ignore)?;
        let image = resize_rgb(&image, *height, *width, Interpolation::Bilinear, true)?;
        let blended = overlay(&image, *height, *width, values, 0.5)?;
        put(".overlay.png", &encode_rgb(&blended)?)?;
    }
    Ok(written)
}
