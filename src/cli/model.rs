//! `--model`: finds the exported file, and exports it on first use where a Python with FiftyOne is at hand.

use std::path::PathBuf;

use anyhow::{Context, bail};

use super::export;
use crate::{job::ModelRef, media::shown, names::word, program::Program, report::Reporter};

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
