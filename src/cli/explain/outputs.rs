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
    engine::SliceSpec,
    explain::{Column, ExplainOptions, HeatmapSize},
    media::{
        BinaryMask, Durability, Interpolation, RgbImage, Tile, animation, contact_sheet, encode_gray, encode_rgb, hatch, outline,
        overlay, resize_rgb, shown, with_suffix, write_atomically, write_f32,
    },
    names::Choice,
    pipeline::{ClassHeatmaps, Heatmap},
    report::{Format, Reporter, error_text},
};

/// How strong the colours of an overlay are.
const OPACITY: f32 = 0.5;

/// Half of the square around a pixel that was explained is this part of the longer side.
const POINT_PART: usize = 100;

/// An image that heatmaps lie over.
pub(super) struct Picture<'a> {
    /// As it was read.
    pub image: &'a RgbImage,
    /// What of it the model saw, at any resolution; `None` where it saw all.
    pub seen: Option<&'a BinaryMask>,
    /// Column and row of the one pixel that was explained.
    pub point: Option<(usize, usize)>,
}

impl Picture<'_> {
    /// Outlines what was explained in a picture of the image's size.
    fn mark(&self, image: &mut RgbImage, class: &ClassHeatmaps) {
        if let Some(object) = &class.object {
            outline(image, object);
        }
        if let Some((x, y)) = self.point {
            let radius = (image.height.max(image.width) / POINT_PART).max(2);
            let mut dot = BinaryMask { height: image.height, width: image.width, pixels: vec![0; image.height * image.width] };
            for row in y.saturating_sub(radius)..(y + radius + 1).min(image.height) {
                for column in x.saturating_sub(radius)..(x + radius + 1).min(image.width) {
                    dot.pixels[row * image.width + column] = 1;
                }
            }
            outline(image, &dot);
        }
    }
}

/// A probability as people read it.
fn percent(probability: f64) -> String {
    match 100.0 * probability {
        small if small < 1.0 => "< 1 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}

/// What is written for every class of every image.
pub(super) struct Outputs {
    folder: PathBuf,
    format: Format,
    /// What file names call the classes that were asked for.
    names: Vec<String>,
    /// What the channels are called.
    class_names: BTreeMap<i64, String>,
    columns: Vec<Column>,
    size: HeatmapSize,
    /// How images are cut.
    pub(super) slices: SliceSpec,
    /// Whether a GIF is written, too.
    pub(super) animate: bool,
}

impl Outputs {
    /// `names` are those of the classes that were asked for, `class_names` those of the channels.
    pub(super) fn new(
        folder: PathBuf,
        format: Format,
        names: Vec<String>,
        class_names: BTreeMap<i64, String>,
        (options, slices): (&ExplainOptions, SliceSpec),
        animate: bool,
    ) -> Self {
        Outputs { folder, format, names, class_names, columns: options.columns(), size: options.size, slices, animate }
    }

    /// Writes the files of one class and says so. `picture` is missing for tensors, which nobody can look at.
    pub(super) fn write(
        &self,
        input: &Path,
        sample: &str,
        class: &ClassHeatmaps,
        picture: Option<&Picture<'_>>,
        reporter: &Reporter,
    ) -> Result<(), Diagnostic> {
        let class_name = self.class_names.get(&class.channel).cloned().unwrap_or_else(|| class.channel.to_string());
        // What is no class has a number that says something by itself.
        let value = class.confidence.map_or_else(|| format!("{:.4}", class.score), percent);
        let titled = format!("{class_name} {value}");
        let stem =
            |rest: &str| self.folder.join(format!("{sample}.{}.{rest}", self.names[class.class.0]).replace(['/', ' '], "_"));
        let mut rows: Vec<Vec<Tile>> = Vec::new();
        let mut last_method = None;
        let mut shown_file = None;
        let mut empty = Vec::new();
        for (heatmap, column) in class.heatmaps.iter().zip(&self.columns) {
            let method = column.method.name();
            if heatmap.values.iter().all(|value| *value == 0.0) {
                empty.push(format!("{method} at layer {}", column.label));
            }
            let stem = stem(&format!("{method}.layer_{}", column.label));
            let overlay = picture.map(|picture| self.overlay(picture, class, heatmap)).transpose()?;
            let files = self.files(&stem, heatmap, overlay.as_ref())?;
            if self.format == Format::Json {
                print(
                    &json!({
                        "event": "heatmap", "input": text(input), "sample": sample, "class": class_name, "channel": class.channel,
                        "method": method, "layer": column.label, "path": column.path, "score": class.score,
                        "confidence": class.confidence, "height": heatmap.height, "width": heatmap.width,
                        "files": files.iter().map(|file| text(file)).collect::<Vec<_>>(),
                    })
                    .to_string(),
                );
            }
            shown_file = shown_file.or_else(|| files.into_iter().next());
            let (Some(picture), Some(overlay)) = (picture, overlay) else { continue };
            if last_method != Some(method) {
                let mut image = picture.image.clone();
                picture.mark(&mut image, class);
                rows.push(vec![Tile { caption: titled.clone(), image }]);
                last_method = Some(method);
            }
            if let Some(row) = rows.last_mut() {
                row.push(Tile { caption: format!("{method}, layer {}", column.label), image: overlay });
            }
        }
        if !empty.is_empty() {
            let (input, methods) = (shown(input), empty.join(", "));
            let problem = format!(
                "`{input}`: the heatmap of `{class_name}` is zero everywhere by {methods}: nothing there speaks for the class, or no gradient comes back"
            );
            let hint = "another layer, or a method without gradients such as eigencam or scorecam, may show something";
            reporter.notice(&error_text(&Diagnostic::invalid(problem).hint(hint)));
        }
        let say = |event: &str, file: &Path| {
            if self.format == Format::Json {
                let line =
                    json!({"event": event, "input": text(input), "sample": sample, "class": class_name, "file": text(file)});
                print(&line.to_string());
            }
        };
        if !rows.is_empty() {
            let path = with_suffix(&stem("sheet"), ".png");
            write_bytes(&path, &encode_rgb(&contact_sheet(&rows)?)?)?;
            say("contact_sheet", &path);
            shown_file = Some(path);
        }
        if self.animate && !rows.is_empty() {
            let path = with_suffix(&stem("heatmaps"), ".gif");
            // The image begins each row of the sheet, and the animation once.
            let image = rows.first().into_iter().flatten().take(1);
            let frames: Vec<Tile> = image.chain(rows.iter().flat_map(|row| row.iter().skip(1))).cloned().collect();
            write_bytes(&path, &animation(&frames)?)?;
            say("animation", &path);
        }
        if let Some(file) = shown_file {
            reporter.image_explained(&format!("{}: {titled} -> {}", shown(input), shown(&file)));
        }
        Ok(())
    }

    /// The heatmap in colour over its image, at the image's size, with what was explained and what the model did not see.
    fn overlay(&self, picture: &Picture<'_>, class: &ClassHeatmaps, heatmap: &Heatmap) -> Result<RgbImage, Diagnostic> {
        let image = picture.image;
        let Heatmap { height, width, values, levels, .. } = heatmap;
        let mut overlaid = if (*height, *width) == (image.height, image.width) {
            overlay(image, *height, *width, values, OPACITY)?
        } else {
            // Small maps of a layer are enlarged without smoothing, so that their own pixels can be seen.
            let smooth = if self.size == HeatmapSize::Layer { Interpolation::Nearest } else { Interpolation::Bilinear };
            let gray = RgbImage::new(*height, *width, levels.iter().flat_map(|level| [*level; 3]).collect());
            let gray = resize_rgb(&gray, image.height, image.width, smooth, true)?;
            let values: Vec<f32> = gray.pixels.chunks_exact(3).map(|pixel| f32::from(pixel[0]) / 255.0).collect();
            overlay(image, image.height, image.width, &values, OPACITY)?
        };
        if let Some(seen) = picture.seen {
            // Nothing is known there, which is not the same as that nothing is there.
            let unseen = seen.resize_nearest(image.height, image.width);
            let pixels = overlaid.pixels.chunks_exact_mut(3).zip(image.pixels.chunks_exact(3));
            pixels.zip(&unseen.pixels).filter(|(_, seen)| **seen == 0).for_each(|((over, plain), _)| over.copy_from_slice(plain));
            hatch(&mut overlaid, seen);
        }
        picture.mark(&mut overlaid, class);
        Ok(overlaid)
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
