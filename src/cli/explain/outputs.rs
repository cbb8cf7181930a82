//! From heatmaps to files: floats, gray picture, overlay, and a contact sheet of all.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    cli::print,
    diagnostic::Diagnostic,
    explain::{Column, ExplainOptions, HeatmapSize},
    media::{
        Durability, Interpolation, RgbImage, Tile, contact_sheet, encode_gray, encode_rgb, overlay, resize_rgb, shown,
        with_suffix, write_atomically, write_f32,
    },
    names::Choice,
    pipeline::{ClassHeatmaps, Heatmap},
    program::Program,
    report::Format,
};

/// How strong the colours of an overlay are.
const OPACITY: f32 = 0.5;

/// What is written for every class of every image.
pub(super) struct Outputs {
    folder: PathBuf,
    format: Format,
    /// What file names call the classes that were asked for.
    names: Vec<String>,
    /// What the model calls its channels.
    class_names: BTreeMap<i64, String>,
    columns: Vec<Column>,
    size: HeatmapSize,
}

impl Outputs {
    /// `names` are those of the classes that were asked for.
    pub(super) fn new(folder: PathBuf, format: Format, names: Vec<String>, program: &Program, options: &ExplainOptions) -> Self {
        let class_names = program.metadata.classes.clone();
        Outputs { folder, format, names, class_names, columns: options.columns(), size: options.size }
    }

    /// Writes the files of one class and prints what was written. `image` is missing for tensors, which nobody can look at.
    pub(super) fn write(
        &self,
        input: &Path,
        sample: &str,
        class: &ClassHeatmaps,
        image: Option<&RgbImage>,
    ) -> Result<(), Diagnostic> {
        let class_name = self.class_names.get(&class.channel).cloned().unwrap_or_else(|| class.channel.to_string());
        let stem =
            |rest: &str| self.folder.join(format!("{sample}.{}.{rest}", self.names[class.class.0]).replace(['/', ' '], "_"));
        let mut rows: Vec<Vec<Tile>> = Vec::new();
        let mut last_method = None;
        for (heatmap, column) in class.heatmaps.iter().zip(&self.columns) {
            let method = column.method.name();
            let stem = stem(&format!("{method}.layer_{}", column.label));
            let overlay = image.map(|image| self.overlay(image, heatmap)).transpose()?;
            let files = self.files(&stem, heatmap, overlay.as_ref())?;
            match self.format {
                Format::Human => files.iter().for_each(|path| print(&shown(path).to_string())),
                Format::Json => print(
                    &json!({
                        "event": "heatmap", "input": text(input), "sample": sample, "class": class_name, "channel": class.channel,
                        "method": method, "layer": column.label, "path": column.path, "score": class.score,
                        "height": heatmap.height, "width": heatmap.width, "files": files.iter().map(|file| text(file)).collect::<Vec<_>>(),
                    })
                    .to_string(),
                ),
            }
            let (Some(image), Some(overlay)) = (image, overlay) else { continue };
            if last_method != Some(method) {
                rows.push(vec![Tile { caption: format!("{class_name} {:.3}", class.score), image: image.clone() }]);
                last_method = Some(method);
            }
            if let Some(row) = rows.last_mut() {
                row.push(Tile { caption: format!("{method} {}", column.label), image: overlay });
            }
        }
        if !rows.is_empty() {
            let path = with_suffix(&stem("sheet"), ".png");
            write_bytes(&path, &encode_rgb(&contact_sheet(&rows)?)?)?;
            match self.format {
                Format::Human => print(&shown(&path).to_string()),
                Format::Json => print(
                    &json!({"event": "contact_sheet", "input": text(input), "sample": sample, "class": class_name, "file": text(&path)})
                        .to_string(),
                ),
            }
        }
        Ok(())
    }

    /// The heatmap in colour over its image, at the heatmap's size; small maps of a layer at the image's.
    fn overlay(&self, image: &RgbImage, heatmap: &Heatmap) -> Result<RgbImage, Diagnostic> {
        let Heatmap { height, width, values, .. } = heatmap;
        if self.size != HeatmapSize::Layer {
            let image = resize_rgb(image, *height, *width, Interpolation::Bilinear, true)?;
            return Ok(overlay(&image, *height, *width, values, OPACITY)?);
        }
        let nearest = |row: usize, column: usize| values[row * height / image.height * width + column * width / image.width];
        let enlarged: Vec<f32> =
            (0..image.height).flat_map(|row| (0..image.width).map(move |column| nearest(row, column))).collect();
        Ok(overlay(image, image.height, image.width, &enlarged, OPACITY)?)
    }

    fn files(&self, stem: &Path, heatmap: &Heatmap, overlay: Option<&RgbImage>) -> Result<Vec<PathBuf>, Diagnostic> {
        let Heatmap { height, width, values, levels, .. } = heatmap;
        let mut npy = Vec::new();
        write_f32(&mut npy, &[*height, *width], values)
            .map_err(|error| Diagnostic::aborted("the array cannot be encoded").because(&error))?;
        let mut files =
            vec![(with_suffix(stem, ".npy"), npy), (with_suffix(stem, ".png"), encode_gray(*height, *width, levels)?)];
        if let Some(overlay) = overlay {
            files.push((with_suffix(stem, ".overlay.png"), encode_rgb(overlay)?));
        }
        for (path, bytes) in &files {
            write_bytes(path, bytes)?;
        }
        Ok(files.into_iter().map(|(path, _)| path).collect())
    }
}

/// A path for JSON, which has text only: what is not UTF-8 becomes `�`.
fn text(path: &Path) -> Cow<'_, str> {
    path.to_string_lossy()
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Diagnostic> {
    Ok(write_atomically(path, Durability::Process, |writer| std::io::Write::write_all(writer, bytes))?)
}
