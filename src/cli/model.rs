//! `--model`: finds the exported file, and exports it on first use where a Python with FiftyOne is at hand.

use std::path::PathBuf;

use anyhow::{Context, bail};

use super::export;
use crate::{
    job::ModelRef,
    media::{PreprocessStep, shown},
    names::word,
    program::Program,
    report::Reporter,
};

/// camflow's folder for things that can be made again: `CAMFLOW_CACHE`, else the user's cache folder.
pub fn cache_folder() -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os("CAMFLOW_CACHE").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let base = directories::BaseDirs::new()
        .context("no home folder is known\nhint: set CAMFLOW_CACHE to a folder for exported models")?;
    Ok(base.cache_dir().join("camflow"))
}

/// Refuses what cannot be a model before it is handed to another program: an address may hold a password.
pub fn check_name(model: &str) -> anyhow::Result<()> {
    anyhow::ensure!(!model.contains("://"), "`{model}` is an address, not a model\nhint: name a model or a `.pt2` file");
    Ok(())
}

/// Whether opening the model means exporting it, which takes a while.
pub fn needs_export(model: &str) -> bool {
    let reference = ModelRef::parse(model);
    let path = cache_folder().map(|cache| reference.path(&cache.join("models")));
    matches!(reference, ModelRef::Name(_)) && check_name(model).is_ok() && path.is_ok_and(|path| !path.exists())
}

/// Opens a model, exporting it first if it is a name that was never exported.
pub fn open(model: &str, python: Option<PathBuf>, reporter: &Reporter) -> anyhow::Result<Program> {
    check_name(model)?;
    let reference = ModelRef::parse(model);
    let path = reference.path(&cache_folder()?.join("models"));
    if !path.exists() {
        let ModelRef::Name(name) = &reference else {
            bail!(
                "there is no model file `{}`\nhint: `camflow export NAME` makes one, `camflow export --help` says of which models",
                shown(&path)
            );
        };
        reporter.step(&format!("exporting model `{name}` to `{}` (first use)", shown(&path)));
        export::run(name, &path, &[], python).with_context(|| {
            format!("model `{name}` is not exported yet, and exporting it failed\nhint: run `camflow export {}` where Python has FiftyOne, torch and torchvision", word(name))
        })?;
    }
    Ok(Program::open(&path)?)
}

/// Makes sure that images become what the model was trained on, as far as anybody said what that is.
pub fn check_preprocess(program: &Program, reporter: &Reporter) -> anyhow::Result<()> {
    let (metadata, path) = (&program.metadata, shown(program.path()).to_string());
    metadata.preprocess.check().with_context(|| format!("model `{path}`"))?;
    let (given, wanted) = (metadata.preprocess.channels(), metadata.image_channels());
    anyhow::ensure!(
        wanted.is_none_or(|wanted| i64::try_from(given) == Ok(wanted)),
        "model `{path}` takes images of {} channels, and its preprocessing gives {given}\nhint: export the model again",
        wanted.unwrap_or_default()
    );
    let is_assumed = |assumed: &Vec<String>| assumed.iter().any(|key| key == "preprocess");
    anyhow::ensure!(
        !metadata.assumed.as_ref().is_some_and(is_assumed),
        "model `{path}` does not say how images are preprocessed, and heatmaps of images that are prepared otherwise look right and are wrong\n\
         hint: export it again with `-- --preprocess imagenet`, `-- --preprocess none` (samples in [0, 1]), or `-- --mean M,M,M --std S,S,S --resize HxW`"
    );
    if metadata.assumed.is_none() && is_bare(&metadata.preprocess.steps, &metadata.input.example) {
        reporter.notice(&format!(
            "model `{path}` stretches images to {}x{} and does not normalise them, which is what the exporter once assumed where a model said \
             nothing; if it was trained otherwise, export it again with `-- --preprocess imagenet` or `--mean`, `--std` and `--resize`",
            metadata.input.example[2], metadata.input.example[3]
        ));
    }
    Ok(())
}

/// Whether these are the steps of a model that said nothing.
fn is_bare(steps: &[PreprocessStep], example: &[i64]) -> bool {
    let [PreprocessStep::Resize { height, width, .. }, PreprocessStep::Normalize { mean, std }] = steps else { return false };
    let size = [*height, *width].map(|side| i64::try_from(side).ok());
    example.get(2..) == Some(&size.map(Option::unwrap_or_default)[..])
        && mean.iter().all(|mean| *mean == 0.0)
        && std.iter().all(|std| *std == 1.0)
}
