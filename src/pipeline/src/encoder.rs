//! Heatmaps to files. A file gets its name when it is complete, and its name holds the fingerprint: what the database
//! refers to never changes under it, and a picture that changed has another address, so that no browser shows a stale one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::{
    error::RunError,
    fields::HeatmapFields,
    fingerprint::Fingerprint,
    grid::{ClassIndex, ColumnIndex},
    message::{
        ClassHeatmaps, ClassPart, Detected, Envelope, ExplainedSample, Heatmap, LayerMap, PixelClasses, PredictedClass,
        PredictedLabel, Prediction, PredictionField, PredictionKind, SampleRef, SampleUpdate, Skip, SkipReason, Step,
        StoredHeatmap, StoredMap, WrittenHeatmap, WrittenPrediction, WrittenPredictions,
    },
};
use camflow_measure::{Measure, Measured, Measures, context_reliance, rank_correlation};
use camflow_media::{
    BinaryMask, Checksum, Durability, MediaError, deflate_f32, encode_gray, encode_gray_16, visible_levels, with_suffix,
    write_f16, write_f32, write_with_checksum,
};
use camflow_names::Choice;
use camflow_storage::stem;

/// Where the picture of a heatmap is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Store {
    /// An 8-bit PNG on disk.
    #[default]
    Path,
    /// The array in the document: travels with every page of the App's grid.
    Inline,
}

impl Choice for Store {
    const ALL: &'static [Self] = &[Store::Path, Store::Inline];

    fn name(self) -> &'static str {
        match self {
            Store::Path => "path",
            Store::Inline => "inline",
        }
    }
}

/// How the exact floats are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NpyFormat {
    /// 32-bit floats at the layer's own resolution, from which the heatmap can be had again; at the heatmap's where it cannot.
    #[default]
    Layer,
    /// 32-bit floats.
    F32,
    /// 16-bit floats: half the space, values off by at most 2.5e-4.
    F16,
    /// Not at all.
    None,
}

impl Choice for NpyFormat {
    const ALL: &'static [Self] = &[NpyFormat::Layer, NpyFormat::F32, NpyFormat::F16, NpyFormat::None];

    fn name(self) -> &'static str {
        match self {
            NpyFormat::Layer => "layer",
            NpyFormat::F32 => "f32",
            NpyFormat::F16 => "f16",
            NpyFormat::None => "none",
        }
    }
}

impl NpyFormat {
    /// What fingerprints have for it. Those of earlier versions had `f32` for a default that gave the same heatmaps.
    pub fn setting(self) -> &'static str {
        match self {
            NpyFormat::Layer => "f32",
            NpyFormat::F32 => "f32 of the heatmap's size",
            NpyFormat::F16 => "f16",
            NpyFormat::None => "none",
        }
    }
}

/// What a model's reliance on context follows from.
const ASKED: [Measure; 3] = [Measure::Confidence, Measure::ConfidenceWithoutObject, Measure::ConfidenceWithoutBackground];

/// Writes heatmaps.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// Folder for this dataset's heatmaps, absolute.
    pub folder: PathBuf,
    /// The fields that the job writes.
    pub fields: HeatmapFields,
    /// Of each column the one of the layer before it, by the same method.
    pub preceding: Vec<Option<ColumnIndex>>,
    /// Where pictures go.
    pub store: Store,
    /// Where exact floats go.
    pub npy: NpyFormat,
    /// What it means that none of a sample's classes is there when the model has seen it.
    pub absence: SkipReason,
    /// Where what the model predicts for each sample is kept.
    pub predictions: Option<PredictionField>,
    /// Channel of the model's output -> class name.
    pub class_names: BTreeMap<i64, String>,
}

impl Encoder {
    /// Writes the heatmaps of a sample, or of a part of its classes; when this returns they are complete on disk.
    ///
    /// # Errors
    /// The disk is full or the folder cannot be written to, which ends the run.
    pub(crate) fn write(&self, explained: ExplainedSample) -> Result<WrittenPart, RunError> {
        let ExplainedSample { envelope, part, seen, attention, classes, prediction, detected, pixels, .. } = explained;
        let Envelope { sample, fingerprint, wanted, predictions, existing, true_class } = envelope;
        let found = PredictedHere { prediction, detected, pixels };
        let predictions = predictions.filter(|_| part.number == 0);
        let predictions = predictions.map(|fingerprint| self.predictions(&sample.id, fingerprint, found)).transpose()?.flatten();
        let prediction = WrittenPrediction {
            class: prediction.map(|prediction| self.class_name(prediction.channel)),
            confidence: prediction.map(|prediction| prediction.confidence).filter(|confidence| confidence.is_finite()),
            is_correct: prediction
                .zip(true_class.as_ref())
                .map(|(prediction, truth)| truth.channels.contains(&prediction.channel)),
            true_class: true_class.map(|truth| truth.name),
        };
        let mut heatmaps = Vec::new();
        let mut taken = BTreeSet::new();
        for class in &classes {
            let name = self.class_name(class.channel);
            let fitted = Fitted::new(class, seen.as_ref());
            let measures = self.measures(class, &fitted);
            for (column, (heatmap, measures)) in self.fields.columns().zip(class.heatmaps.iter().zip(measures)) {
                let field = self.fields.name(class.class, column);
                let fingerprint = self.fields.fingerprint(&fingerprint, class.class, column).to_string();
                let layer_map = heatmap.layer_map.as_ref().filter(|map| self.npy == NpyFormat::Layer && map.gives(heatmap));
                let of_which = class.detection.as_ref().map_or_else(String::new, |detection| format!(" of {}", detection.id));
                let mut stem = |fingerprint: &str| {
                    let mut what = format!("{fingerprint}{of_which}");
                    let mut stem = stem(&self.folder, field, &sample.id, &what);
                    // Names have 8 digits for it, and a sample may have very many detections.
                    while class.detection.is_some() && !taken.insert(stem.clone()) {
                        what.push('+');
                        stem = camflow_storage::stem(&self.folder, field, &sample.id, &what);
                    }
                    stem
                };
                let map_stem = stem(&fingerprint);
                // Under another name than the floats that an earlier version wrote for the same fingerprint.
                let npy_stem = if layer_map.is_some() { stem(&format!("{fingerprint} layer")) } else { map_stem.clone() };
                let (npy_path, npy_checksum) = self.write_npy(&npy_stem, heatmap, layer_map)?.unzip();
                let (map, map_checksum) = self.write_map(&map_stem, heatmap, &fitted)?;
                let measured = |map| fitted.measured(heatmap).0.attention(map);
                heatmaps.push(WrittenHeatmap {
                    field: field.to_owned(),
                    detection: class.detection.clone(),
                    class: name.clone(),
                    contrast: class.contrast.map(|contrast| self.class_name(contrast)),
                    map,
                    npy_path,
                    map_checksum,
                    npy_checksum,
                    upsampling: layer_map.map(|map| map.upsampling),
                    score: class.score,
                    measures,
                    attention: attention.as_ref().map(measured),
                    prediction: prediction.clone(),
                    fingerprint,
                });
            }
        }
        let present = classes.iter().map(|class| class.class).collect();
        Ok(WrittenPart { part, sample, wanted, existing, present, heatmaps, predictions })
    }

    /// What a sample's fields are to hold when all of its parts are written: the update, or why there is none.
    pub(crate) fn update(&self, whole: WrittenPart) -> Step<SampleUpdate> {
        let WrittenPart { sample, wanted, existing, present, heatmaps, predictions, .. } = whole;
        let is_absent = |class: ClassIndex| wanted.contains(&class) && !present.contains(&class);
        let withdrawn: Vec<String> = self.fields.withdrawn(&existing, is_absent).map(|old| old.field.clone()).collect();
        if heatmaps.is_empty() && withdrawn.is_empty() && predictions.is_none() {
            return Step::Skip(Skip { sample, reason: self.absence });
        }
        // Sets, as a sample may have a thousand of them.
        let mask = predictions.as_ref().and_then(|predictions| predictions.label.file()).map(|(mask, _)| mask.as_path());
        let of_heatmap = |new: &'_ WrittenHeatmap| {
            let map = if let StoredMap::File(map) = &new.map { Some(map.as_path()) } else { None };
            [map, new.npy_path.as_deref()].into_iter().flatten().map(Path::to_owned).collect::<Vec<PathBuf>>()
        };
        let kept: BTreeSet<PathBuf> = heatmaps.iter().flat_map(of_heatmap).chain(mask.map(Path::to_owned)).collect();
        let of_predictions = predictions.as_ref().map(|predictions| predictions.field.as_str());
        let replaced: BTreeSet<&str> = heatmaps.iter().map(|new| new.field.as_str()).chain(of_predictions).collect();
        let gone: BTreeSet<&str> = withdrawn.iter().map(String::as_str).collect();
        let superseded = existing
            .iter()
            .filter(|old| gone.contains(old.field.as_str()) || replaced.contains(old.field.as_str()))
            .flat_map(StoredHeatmap::files)
            .filter(|path| !kept.contains(*path))
            .map(Path::to_owned)
            .collect();
        Step::Next(SampleUpdate { sample, heatmaps, predictions, withdrawn, superseded, existing })
    }

    /// What the model predicts, as the sample is to hold it.
    fn predictions(
        &self,
        sample: &str,
        fingerprint: Fingerprint,
        found: PredictedHere,
    ) -> Result<Option<WrittenPredictions>, RunError> {
        let Some(PredictionField { name, kind, model, .. }) = &self.predictions else { return Ok(None) };
        let PredictedHere { prediction, detected, pixels } = found;
        let fingerprint = fingerprint.to_string();
        let class = |channel, confidence| PredictedClass { label: self.class_name(channel), confidence };
        let label = match kind {
            PredictionKind::Classification => {
                prediction.map(|Prediction { channel, confidence }| PredictedLabel::Classification(class(channel, confidence)))
            }
            PredictionKind::Detections => detected.map(|detected| {
                let of = |one: Detected| (class(one.channel, one.confidence), one.bounds);
                PredictedLabel::Detections(detected.into_iter().map(of).collect())
            }),
            PredictionKind::Segmentation { unseen } => {
                let stem = stem(&self.folder, name, sample, &fingerprint);
                pixels.map(|pixels| write_mask(&stem, &pixels, *unseen)).transpose()?
            }
        };
        Ok(label.map(|label| WrittenPredictions { field: name.clone(), label, model: model.clone(), fingerprint }))
    }

    fn class_name(&self, channel: i64) -> String {
        self.class_names.get(&channel).cloned().unwrap_or_else(|| channel.to_string())
    }

    /// Where the attention lies, by column.
    fn measures(&self, class: &ClassHeatmaps, fitted: &Fitted) -> Vec<Measures> {
        let of = |(column, heatmap): (usize, &Heatmap)| {
            let (map, object) = fitted.measured(heatmap);
            let before = self.preceding.get(column).copied().flatten().map(|before| fitted.measured(&class.heatmaps[before.0]).0);
            let known = Measures::default().with(Measure::Confidence, class.confidence);
            let examined = class.examined.get(column).copied().unwrap_or_default().or(known);
            let reliance = || {
                let [confidence, without_object, without_background] = ASKED.map(|measure| examined.get(measure));
                context_reliance(confidence?, without_object?, without_background?)
            };
            examined
                .with(Measure::ContextReliance, reliance())
                .or(map.measures(object))
                .with(Measure::RankCorrelation, before.and_then(|before| rank_correlation(&map, &before)))
        };
        class.heatmaps.iter().enumerate().map(of).collect()
    }

    fn write_npy(
        &self,
        stem: &Path,
        heatmap: &Heatmap,
        layer_map: Option<&LayerMap>,
    ) -> Result<Option<(PathBuf, Checksum)>, RunError> {
        let (height, width, values) = match layer_map {
            Some(map) => (map.height, map.width, &map.values),
            None => (heatmap.height, heatmap.width, &heatmap.values),
        };
        let path = with_suffix(stem, ".npy");
        let shape = [height, width];
        let checksum = match self.npy {
            NpyFormat::None => return Ok(None),
            NpyFormat::F16 => write_with_checksum(&path, Durability::Machine, |mut file| write_f16(&mut file, &shape, values)),
            NpyFormat::Layer | NpyFormat::F32 => {
                write_with_checksum(&path, Durability::Machine, |mut file| write_f32(&mut file, &shape, values))
            }
        };
        let checksum = checksum.map_err(|error| unwritable(&path, error))?;
        Ok(Some((path, checksum)))
    }

    fn write_map(&self, stem: &Path, heatmap: &Heatmap, fitted: &Fitted) -> Result<(StoredMap, Option<Checksum>), RunError> {
        let Heatmap { height, width, .. } = heatmap;
        if self.store == Store::Inline {
            return Ok((StoredMap::Inline(deflate_f32(&[*height, *width], &fitted.visible_values(heatmap))), None));
        }
        let path = with_suffix(stem, ".png");
        let png = encode_gray(*height, *width, &fitted.visible_levels(heatmap)).map_err(|error| unwritable(&path, error))?;
        let checksum = write_with_checksum(&path, Durability::Machine, |file| file.write_all(&png))
            .map_err(|error| unwritable(&path, error))?;
        Ok((StoredMap::File(path), Some(checksum)))
    }
}

/// What was written of a sample, or of a part of its classes.
pub(crate) struct WrittenPart {
    part: ClassPart,
    sample: SampleRef,
    wanted: Vec<ClassIndex>,
    existing: Vec<StoredHeatmap>,
    /// The classes that are there.
    present: BTreeSet<ClassIndex>,
    heatmaps: Vec<WrittenHeatmap>,
    predictions: Option<WrittenPredictions>,
}

/// The parts of samples that are not whole yet.
#[derive(Default)]
pub(crate) struct Unfinished(BTreeMap<u64, Vec<WrittenPart>>);

impl Unfinished {
    /// Takes a part, and gives the sample when it is whole. One of which a part fails stays here.
    pub(crate) fn add(&mut self, part: WrittenPart) -> Option<WrittenPart> {
        let (seq, count) = (part.sample.seq, part.part.count);
        let parts = self.0.entry(seq).or_default();
        parts.push(part);
        if parts.len() < count {
            return None;
        }
        let mut parts = self.0.remove(&seq)?;
        // In the order of the classes, whichever was written first.
        parts.sort_by_key(|part| part.part.number);
        parts.into_iter().reduce(|mut whole, more| {
            whole.present.extend(more.present);
            whole.heatmaps.extend(more.heatmaps);
            whole
        })
    }
}

/// What a model predicts for an image, of whatever kind that is.
struct PredictedHere {
    prediction: Option<Prediction>,
    detected: Option<Vec<Detected>>,
    pixels: Option<PixelClasses>,
}

/// Writes a mask of the image's size.
fn write_mask(stem: &Path, pixels: &PixelClasses, unseen: u16) -> Result<PredictedLabel, RunError> {
    let mask_path = with_suffix(stem, ".png");
    let (height, width) = (pixels.region.image_height, pixels.region.image_width);
    let values = pixels.on_image(unseen);
    // FiftyOne reads both; 8 bits are what nearly everybody else reads.
    let png = match values.iter().map(|value| u8::try_from(*value).ok()).collect::<Option<Vec<u8>>>() {
        Some(levels) => encode_gray(height, width, &levels),
        None => encode_gray_16(height, width, &values),
    };
    let png = png.map_err(|error| unwritable(&mask_path, error))?;
    let checksum = write_with_checksum(&mask_path, Durability::Machine, |file| file.write_all(&png))
        .map_err(|error| unwritable(&mask_path, error))?;
    Ok(PredictedLabel::Segmentation { mask_path, checksum })
}

/// The masks of a class at the sizes of its heatmaps: by height and width what was seen, and the object.
struct Fitted(BTreeMap<(usize, usize), [Option<BinaryMask>; 2]>);

impl Fitted {
    /// The masks of a class, and of what the model saw (`None`: all).
    fn new(class: &ClassHeatmaps, seen: Option<&BinaryMask>) -> Self {
        let masks = [seen, class.object.as_ref()];
        let mut by_size = BTreeMap::new();
        for Heatmap { height, width, .. } in &class.heatmaps {
            let fit = |mask: &BinaryMask| mask.resize_nearest(*height, *width);
            by_size.entry((*height, *width)).or_insert_with(|| masks.map(|mask| mask.map(fit)));
        }
        Fitted(by_size)
    }

    /// The levels for the App.
    fn visible_levels(&self, heatmap: &Heatmap) -> Vec<u8> {
        visible_levels(&heatmap.levels, self.seen(heatmap))
    }

    /// The values for the App, which draws nothing where one is 0. What is added to 0 is less than what values are exact to.
    fn visible_values(&self, heatmap: &Heatmap) -> Vec<f32> {
        let seen = self.seen(heatmap);
        let lowest = |pixel: usize| if seen.is_none_or(|seen| seen.pixels[pixel] != 0) { f32::EPSILON } else { 0.0 };
        heatmap.values.iter().enumerate().map(|(pixel, value)| value.max(lowest(pixel))).collect()
    }

    /// What the model saw of a heatmap; `None`: all.
    fn seen(&self, heatmap: &Heatmap) -> Option<&BinaryMask> {
        let [seen, _] = &self.0[&(heatmap.height, heatmap.width)];
        seen.as_ref()
    }

    /// A heatmap that was fitted, and the object.
    fn measured<'b>(&'b self, heatmap: &'b Heatmap) -> (Measured<'b>, Option<&'b BinaryMask>) {
        let Heatmap { height, width, values, levels, .. } = heatmap;
        let [seen, object] = &self.0[&(*height, *width)];
        (Measured { height: *height, width: *width, values, levels, seen: seen.as_ref() }, object.as_ref())
    }
}

fn unwritable(path: &Path, error: MediaError) -> RunError {
    let source = match error {
        MediaError::Unwritable { cause, .. } => cause,
        other => std::io::Error::other(other.to_string()),
    };
    RunError::Output { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_heatmap_is_measured_at_its_own_size() {
        let names = vec![vec!["a".into(), "b".into()]];
        let encoder = Encoder {
            folder: PathBuf::new(),
            fields: HeatmapFields::new(names, vec!["class".into()], vec!["1".into(), "2".into()]),
            preceding: vec![None, Some(ColumnIndex(0))],
            store: Store::Path,
            npy: NpyFormat::None,
            absence: SkipReason::ClassAbsent,
            predictions: None,
            class_names: BTreeMap::new(),
        };
        let map = |width: usize, levels: &[u8]| Heatmap {
            height: levels.len() / width,
            width,
            values: levels.iter().map(|level| f32::from(*level) / 255.0).collect(),
            levels: levels.to_vec(),
            layer_map: None,
        };
        let mask = |width: usize, pixels: &[u8]| BinaryMask { height: pixels.len() / width, width, pixels: pixels.to_vec() };
        let class = ClassHeatmaps {
            class: ClassIndex(0),
            detection: None,
            channel: 1,
            contrast: None,
            score: 1.0,
            confidence: None,
            object: Some(mask(2, &[1, 0])),
            detections: None,
            heatmaps: vec![map(4, &[255, 51, 51, 51]), map(2, &[51, 204])],
            examined: vec![Measures::default().with(Measure::Road, 0.1)],
        };
        let measures = encoder.measures(&class, &Fitted::new(&class, None));
        let about = |measured: Option<f64>, wanted: f64| (measured.expect("defined") - wanted).abs() < 1e-6;
        assert!(about(measures[0].get(Measure::EnergyInside), 306.0 / 408.0), "{measures:?}");
        assert!(about(measures[1].get(Measure::EnergyInside), 0.2), "{measures:?}");
        assert_eq!(measures[0].get(Measure::RankCorrelation), None);
        assert_eq!([measures[0].get(Measure::Road), measures[1].get(Measure::Road)], [Some(0.1), None], "the device said so");
        // The second map's pixels are the first's first and third: the higher one here is the lower one there.
        assert!(about(measures[1].get(Measure::RankCorrelation), -1.0), "{measures:?}");

        let seen = mask(4, &[0, 1, 1, 1]);
        let fitted = Fitted::new(&class, Some(&seen));
        let measures = encoder.measures(&class, &fitted);
        assert!(about(measures[0].get(Measure::EnergyInside), 1.0 / 3.0), "{measures:?}");
        assert!(about(measures[0].get(Measure::ObjectArea), 1.0 / 3.0), "{measures:?}");
    }

    #[test]
    fn the_app_draws_all_that_was_seen() {
        let heatmap =
            Heatmap { height: 1, width: 4, values: vec![0.0, 0.001, 0.5, 0.0], levels: vec![0, 0, 128, 0], layer_map: None };
        let visible = |seen: Option<&BinaryMask>| {
            let heatmaps = vec![heatmap.clone()];
            let class = ClassHeatmaps {
                class: ClassIndex(0),
                detection: None,
                channel: 1,
                contrast: None,
                score: 1.0,
                confidence: None,
                object: None,
                detections: None,
                heatmaps,
                examined: Vec::new(),
            };
            let fitted = Fitted::new(&class, seen);
            (fitted.visible_levels(&heatmap), fitted.visible_values(&heatmap))
        };
        let least = f32::EPSILON;
        assert_eq!(visible(None), (vec![1, 1, 128, 1], vec![least, 0.001, 0.5, least]));
        let seen = BinaryMask { height: 1, width: 4, pixels: vec![0, 1, 1, 0] };
        assert_eq!(visible(Some(&seen)), (vec![0, 1, 128, 0], vec![0.0, 0.001, 0.5, 0.0]));
    }
}
