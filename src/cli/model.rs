//! The engine as the command line has it: with the user's folders, and an exporter for models that are named.

use std::path::{Path, PathBuf};

use super::export;
use crate::{
    diagnostic::Diagnostic,
    engine::{Embedder, Engine, Exporter, Folders, Part, output_folder},
    pipeline::Cancellation,
};

/// camflow's folder for things that can be made again: `CAMFLOW_CACHE`, else the user's cache folder.
pub(super) fn cache_folder() -> Result<PathBuf, Diagnostic> {
    if let Some(folder) = std::env::var_os("CAMFLOW_CACHE").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let base = directories::BaseDirs::new().ok_or_else(|| {
        Diagnostic::invalid("no home folder is known").hint("set CAMFLOW_CACHE to a folder for exported models")
    })?;
    Ok(base.cache_dir().join("camflow"))
}

/// What runs jobs here, and stops when that is cancelled.
pub(super) fn engine(cancellation: Cancellation) -> Engine {
    let models = cache_folder().ok().map(|folder| folder.join("models"));
    let export: Exporter = Box::new(|name, path, part, python| {
        let more = if part == Part::ImageTower { vec!["--image-tower".to_owned()] } else { Vec::new() };
        export::run(name, path, &more, python.map(PathBuf::from))
    });
    let embed: Embedder = Box::new(|tower, texts, folder, python| export::embed(tower, texts, folder, python.map(PathBuf::from)));
    let mut engine = Engine::new();
    engine.folders = Folders { models, ..engine.folders };
    engine.exporter = Some(export);
    engine.embedder = Some(embed);
    engine.cancellation = cancellation;
    engine
}

/// The folder with a dataset's heatmaps, as `annotate` has it.
pub(super) fn heatmap_folder(out: Option<&Path>, dataset: &str) -> Result<PathBuf, Diagnostic> {
    output_folder(out, Folders::of_user().heatmaps.as_deref(), dataset)
}
