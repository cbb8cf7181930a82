//! `camflow explain`: heatmaps of a few images, or of a tensor that is prepared already; no database.

mod file_names;
mod inputs;
mod outputs;

use std::path::{Path, PathBuf};

use super::{
    Exit, Failure,
    cam::{CamArgs, Model},
    choice,
    model::check_preprocess,
    target::{check_class_flag, check_output, check_task, one_channel_notice},
};
use crate::{
    explain::TorchExplainer,
    job::{MaskNames, TargetSpec, resolve_classes},
    media::{MaskValue, shown},
    names::{Choice, ClassNames},
    pipeline::{Channel, Explainer, SkipReason},
    program::Program,
    report::{Format, Reporter},
};
use file_names::{FileNames, is_tensor};
use inputs::{Asked, AskedPixels};
use outputs::Outputs;

/// Compute heatmaps of single images, without a database
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// Image files, or `.npy` tensors f32 [N, 3, H, W] that are normalised already
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
    #[command(flatten)]
    cam: CamArgs,
    /// What is explained: the classes where the model predicts them (`predicted`), at one pixel of the image (`pixel=X,Y`), or the
    /// class that the model itself puts first (`top`); default: `predicted`, without `--class` `top`
    #[arg(long, conflicts_with = "mask")]
    target: Option<TargetSpec>,
    /// Mask that says which pixels count: an image, or `.npy` [H, W] (for tensors also [N, H, W]) with the classes' channels as values
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// Folder for the files
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Output format
    #[arg(long, default_value = Format::Human.name(), value_parser = choice::<Format>())]
    pub format: Format,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<Exit, Failure> {
    let reporter = Reporter::new(args.format);
    let target = target(args)?;
    check_class_flag(&target, &args.cam.classes, None).map_err(anyhow::Error::msg)?;
    let Model { program, layers, devices } = args.cam.open(&reporter)?;
    let [plan_options] = devices[..] else {
        return Err(anyhow::anyhow!("`camflow explain` runs on one device\nhint: name one with `--device`").into());
    };
    check_task(&program, &target)?;
    if !args.inputs.iter().all(|input| is_tensor(input)) {
        check_preprocess(&program, &reporter)?;
    }
    let (names, asked) = asked(args, &target, &program, &reporter)?;
    one_channel_notice(&program, args.mask.is_some()).iter().for_each(|notice| reporter.notice(notice));
    let options = args.cam.explain_options(&program, layers);
    let channels = asked.iter().map(|asked| match asked.channel {
        Channel::Index(index) => Some(index),
        _ => None,
    });
    let classes: Vec<_> = names.into_iter().zip(channels).collect();
    let file_names = FileNames::new(&args.inputs, &classes)?;
    let outputs = Outputs::new(args.out.clone(), args.format, file_names.classes.clone(), &program, &options);
    let mut explainer = TorchExplainer::new(&program, plan_options, options)?;
    check_output(&program, explainer.plan(), &target)?;

    file_names.claim(&args.out, &args.inputs)?;
    file_names.notices.iter().for_each(|notice| reporter.notice(notice));
    let mut exit = Exit::Done;
    for (input, name) in args.inputs.iter().zip(&file_names.inputs) {
        match explain((input, name), &asked, &program, &mut explainer, &outputs, &reporter) {
            Ok(true) => {}
            Ok(false) => exit = Exit::SomeFailed,
            // A bad image costs only itself.
            Err(error) => {
                reporter.notice(&format!("failed: `{}`: {error:#}", shown(input)));
                exit = Exit::SomeFailed;
            }
        }
    }
    Ok(exit)
}

fn target(args: &Args) -> anyhow::Result<TargetSpec> {
    match &args.target {
        Some(TargetSpec::Labels(_)) => anyhow::bail!(
            "there are no labels without a dataset\nhint: give a mask with `--mask FILE`, or use `--target predicted`, `top` or `pixel=X,Y`"
        ),
        Some(target) => Ok(target.clone()),
        None if args.cam.classes.is_empty() => Ok(TargetSpec::Top),
        None => Ok(TargetSpec::Predicted),
    }
}

/// The names and what to look for in every image.
fn asked(args: &Args, target: &TargetSpec, program: &Program, reporter: &Reporter) -> anyhow::Result<(Vec<String>, Vec<Asked>)> {
    if *target == TargetSpec::Top {
        anyhow::ensure!(args.mask.is_none(), "`--mask` marks a class\nhint: name it with `--class`");
        return Ok((vec!["top".to_owned()], vec![Asked { channel: Channel::Top, pixels: AskedPixels::Predicted }]));
    }
    let is_only = program.num_channels() == Some(1);
    let names = ClassNames::new(program.metadata.classes.clone());
    let masks = args.mask.is_some().then_some(MaskNames { targets: None, is_only_channel: is_only });
    let resolved = resolve_classes(&args.cam.classes, &names, masks)
        .map_err(|problems| anyhow::anyhow!("{}", problems.join("\nerror: ")))?;
    resolved.notices.iter().for_each(|notice| reporter.notice(notice));
    let classes = resolved.classes;
    let pixels = |channel: i64| match (target, &args.mask) {
        (_, Some(mask)) => {
            AskedPixels::Mask { file: mask.clone(), value: if is_only { MaskValue::Object } else { MaskValue::Index(channel) } }
        }
        (TargetSpec::Pixel { x, y }, None) => AskedPixels::Pixel { x: *x as usize, y: *y as usize },
        _ => AskedPixels::Predicted,
    };
    let asked = classes.iter().map(|class| Asked { channel: Channel::Index(class.index), pixels: pixels(class.index) });
    Ok((classes.iter().map(|class| class.name.clone()).collect(), asked.collect()))
}

/// Explains one file, of which the files are called `name`; `false` when a sample of it failed.
fn explain(
    (input, name): (&Path, &str),
    asked: &[Asked],
    program: &Program,
    explainer: &mut TorchExplainer,
    outputs: &Outputs,
    reporter: &Reporter,
) -> anyhow::Result<bool> {
    let (batch, image) = match is_tensor(input) {
        true => (inputs::tensor_batch(input, name, asked, program.metadata.image_channels())?, None),
        false => {
            let (batch, image) = inputs::image_batch(input, name, asked, &program.metadata.preprocess)?;
            (batch, Some(image))
        }
    };
    if image.as_ref().is_some_and(|image| image.is_clipped) {
        reporter.notice(&format!(
            "`{}`: its gray levels were cut to 0 to 255, as Pillow does (bright ones are white, fractions black): convert it to 8 bits",
            shown(input)
        ));
    }
    let result = explainer.explain(batch)?;
    for failure in &result.failed {
        reporter.notice(&format!("failed: `{}`: {}", shown(&failure.sample.media_path), failure.error));
    }
    for explained in &result.explained {
        if explained.classes.is_empty() {
            reporter.notice(&format!("`{}`: {}", shown(&explained.sample.media_path), SkipReason::ClassAbsent));
        }
        for class in &explained.classes {
            outputs.write(input, &explained.sample.id, class, image.as_ref())?;
        }
    }
    Ok(result.failed.is_empty())
}
