//! A model by its name or file; one that was never exported is exported on first use.

use std::path::{Path, PathBuf};

use super::{Engine, Observer, Part};
use crate::job::ModelRef;
use camflow_diagnostic::Diagnostic;
use camflow_media::{PreprocessStep, shown};
use camflow_names::word;
use camflow_torch::program::Program;

/// Refuses what cannot be a model before it is handed to another program: an address may hold a password.
///
/// # Errors
/// It is an address, or nothing.
pub fn check_model_name(model: &str) -> Result<(), Diagnostic> {
    if model.trim().is_empty() {
        return Err(Diagnostic::invalid("the name of the model is empty").hint("name a model or a `.pt2` file"));
    }
    match model.contains("://") {
        false => Ok(()),
        true => Err(Diagnostic::invalid(format!("`{model}` is an address, not a model")).hint("name a model or a `.pt2` file")),
    }
}

impl Engine {
    /// Whether opening the model means exporting it, which takes a while.
    pub(super) fn needs_export(&self, model: &str, part: Part) -> bool {
        let reference = ModelRef::parse(model);
        let path = self.archive(&reference, part);
        matches!(reference, ModelRef::Name(_)) && check_model_name(model).is_ok() && path.is_ok_and(|path| !path.exists())
    }

    /// The file of a model, which may have to be exported yet. An image tower has its own, unless somebody exported it by that name.
    fn archive(&self, reference: &ModelRef, part: Part) -> Result<PathBuf, Diagnostic> {
        let name = match reference {
            ModelRef::File(path) => return Ok(path.clone()),
            ModelRef::Name(name) => name,
        };
        let whole = reference.path(self.models()?);
        if part == Part::Whole {
            return Ok(whole);
        }
        let tower = ModelRef::Name(format!("{name}-image-tower")).path(self.models()?);
        let is_tower = |path: &Path| Program::open(path).is_ok_and(|program| program.metadata.texts.is_some());
        Ok(if !tower.exists() && whole.exists() && is_tower(&whole) { whole } else { tower })
    }

    /// Opens a model, exporting it, or that part of it, first if it is a name that was never exported.
    ///
    /// # Errors
    /// There is no such model, it cannot be exported here, or its file is not sound.
    pub fn open_model(
        &self,
        model: &str,
        part: Part,
        python: Option<&Path>,
        observer: &dyn Observer,
    ) -> Result<Program, Diagnostic> {
        check_model_name(model)?;
        let reference = ModelRef::parse(model);
        let path = self.archive(&reference, part)?;
        if !path.exists() {
            let ModelRef::Name(name) = &reference else {
                return Err(Diagnostic::invalid(format!("there is no model file `{}`", shown(&path)))
                    .hint("`camflow export NAME` makes one, `camflow export --help` says of which models"));
            };
            let flag = if part == Part::ImageTower { " --task embedding" } else { "" };
            let todo = format!("run `camflow export {}{flag}` where Python has FiftyOne, torch and torchvision", word(name));
            let Some(export) = &self.exporter else {
                return Err(Diagnostic::invalid(format!("model `{name}` is not exported yet")).hint(todo));
            };
            let what = if part == Part::ImageTower { "the image tower of model" } else { "model" };
            observer.step(&format!("exporting {what} `{name}` to `{}` (first use)", shown(&path)));
            export(name, &path, part, python).map_err(|mut error| {
                error.hints.clear();
                error.context(format!("model `{name}` is not exported yet, and exporting it failed")).hint(todo)
            })?;
        }
        Ok(Program::open(&path)?)
    }
}

/// Makes sure that images become what the model was trained on, as far as anybody said what that is.
///
/// # Errors
/// Nobody said it, or it does not fit the model.
pub fn check_preprocess(program: &Program, observer: &dyn Observer) -> Result<(), Diagnostic> {
    let (metadata, path) = (&program.metadata, shown(program.path()).to_string());
    metadata.preprocess.check().map_err(|error| Diagnostic::from(error).context(format!("model `{path}`")))?;
    let (given, wanted) = (metadata.preprocess.channels(), metadata.image_channels());
    if let Some(wanted) = wanted.filter(|wanted| i64::try_from(given) != Ok(*wanted)) {
        return Err(Diagnostic::invalid(format!(
            "model `{path}` takes images of {wanted} channels, and its preprocessing gives {given}"
        ))
        .hint("export the model again"));
    }
    if metadata.is_preprocess_assumed() {
        return Err(Diagnostic::invalid(format!(
            "model `{path}` does not say how images are preprocessed, and heatmaps of images that are prepared otherwise look right and are wrong"
        ))
        .hint("export it again with `--preprocess imagenet`, `--preprocess none` (samples in [0, 1]), or `--mean M,M,M --std S,S,S --resize HxW`"));
    }
    if metadata.assumed.is_none() && is_bare(&metadata.preprocess.steps, &metadata.input.example) {
        observer.notice(&format!(
            "model `{path}` stretches images to {}x{} and does not normalise them, which is what the exporter once assumed where a model said \
             nothing; if it was trained otherwise, export it again with `--preprocess imagenet` or `--mean`, `--std` and `--resize`",
            metadata.input.example[2], metadata.input.example[3]
        ));
    }
    Ok(())
}

/// Whether these are the steps of a model that said nothing.
fn is_bare(steps: &[PreprocessStep], example: &[i64]) -> bool {
    let [PreprocessStep::Resize { height, width, .. }, PreprocessStep::Normalize { mean, std, divide_by: None }] = steps else {
        return false;
    };
    let size = [*height, *width].map(|side| i64::try_from(side).ok());
    example.get(2..) == Some(&size.map(Option::unwrap_or_default)[..])
        && mean.iter().all(|mean| *mean == 0.0)
        && std.iter().all(|std| *std == 1.0)
}
