//! A batch on a device: what it is given at once, and what comes of it. In between a GPU computes, and the host has time for the
//! batches before and after.

use std::sync::Arc;

use tch::{TchError, Tensor};
use typed_index_collections::{TiSlice, TiVec};

use super::{
    ExplainError, TorchExplainer,
    detection::{boxed, detected},
    drawing::{DeviceMaps, is_whole},
    grid::{Cell, ColumnIndex, Grid, SampleIndex},
    heatmap::{OnHost, ToHost},
    saliency::Saliencies,
    smoothing::{PLAIN, SMOOTHING},
    target::Predicted,
    unusable,
};
use crate::{
    explain::HeatmapSize,
    program::{Detections, HostCopy, device_name, fault_of},
};
use camflow_measure::Measures;
use camflow_media::{BinaryMask, FrameRegion, InputPixels, Upsampling};
use camflow_pipeline::{
    Channel, ClassHeatmaps, ClassPart, ClassTarget, DecodedSample, Detected, ExplainedSample, Heatmap, HeatmapBatch, LayerMap,
    PixelClasses, Prediction, RunError, SampleFailure, Stage, TargetDetection, TargetPixels,
};

/// Why a sample has no heatmap whose numbers are not finite.
pub(super) const NOT_FINITE: &str =
    "the model gives NaN or infinity for this image, or the method makes them of what it gives, so there is no heatmap";

/// A batch, or a part of one, that is launched.
#[derive(Debug)]
pub(super) struct Launched {
    samples: Vec<DecodedSample>,
    results: Results,
}

/// What the model makes of samples.
pub(super) struct Seen {
    /// `[N, C, H, W]`, as the model takes it.
    pub input: Tensor,
    /// What tells the samples apart where chance plays a part.
    keys: Vec<String>,
    targets: TiVec<SampleIndex, Vec<ClassTarget>>,
    /// The parts of the input that show an image, where others do not.
    shown: TiVec<SampleIndex, Option<BinaryMask>>,
    /// The maps, as layers have them.
    pub found: Saliencies,
}

/// What will be there of each class.
#[derive(Debug)]
pub(super) struct Results {
    /// Heatmaps sample by sample, class by class and column by column; then the scores, in the order of `scored`; then, in the
    /// same, the confidences, if they were asked for; then what a classifier predicts for each sample, likewise.
    maps: ToHost,
    /// How each heatmap was drawn from the map of its layer.
    upsamplings: Vec<Option<Upsampling>>,
    scored: Vec<Cell>,
    /// Each class that is there: its channel, and the pixels that the model itself gives it, where those count.
    explained: Vec<(Cell, i64, Option<Predicted>)>,
    examined: Grid<TiVec<ColumnIndex, Measures>>,
    has_predictions: bool,
    /// What a detector predicts, and how that is read.
    detected: Option<(HostCopy, Detections)>,
    /// What a segmentation network gives each pixel, with the size of that.
    pixels: Option<(HostCopy, (usize, usize))>,
}

/// What was found of a sample.
pub(super) struct Found {
    /// Its classes' heatmaps, without those of classes that are not there, or `None` where numbers are not finite.
    classes: Option<Vec<ClassHeatmaps>>,
    /// What a classifier predicts for it.
    prediction: Option<Prediction>,
    /// What a detector detects in it.
    detected: Option<Vec<Detected>>,
    /// What a segmentation network gives each pixel of it.
    pixels: Option<PixelClasses>,
}

impl TorchExplainer {
    /// Launches samples in parts of at most `max_batch`; a part that fails is cut in halves, down to the one sample whose fault it
    /// is.
    pub(super) fn launch(
        &mut self,
        samples: Vec<DecodedSample>,
        shape: (usize, usize),
        result: &mut HeatmapBatch,
    ) -> Result<(), RunError> {
        if samples.is_empty() {
            return Ok(());
        }
        if samples.len() > self.max_batch {
            return self.launch_halves(samples, shape, result);
        }
        match self.try_launch(&samples, shape) {
            Ok(results) => self.launched.push(Launched { samples, results }),
            Err(error) => {
                if !error.is_out_of_memory() {
                    self.check_device(&error)?;
                }
                if samples.len() > 1 {
                    if error.is_out_of_memory() {
                        self.max_batch = samples.len() / 2;
                    }
                    return self.launch_halves(samples, shape, result);
                }
                if error.is_out_of_memory() && self.probe_batch > 1 && self.options.probes() {
                    self.probe_batch /= 2;
                    return self.launch(samples, shape, result);
                }
                let mut text = error.text();
                if matches!(error, ExplainError::Graph(_)) && !error.is_out_of_memory() {
                    text = format!("{text}; {}", self.sizes.said_of(&self.plan, shape));
                }
                result.failed.extend(samples.into_iter().map(|sample| failure(sample, text.clone())));
            }
        }
        Ok(())
    }

    fn launch_halves(
        &mut self,
        mut samples: Vec<DecodedSample>,
        shape: (usize, usize),
        result: &mut HeatmapBatch,
    ) -> Result<(), RunError> {
        let second = samples.split_off(samples.len() / 2);
        self.launch(samples, shape, result)?;
        self.launch(second, shape, result)
    }

    /// Runs the model on samples.
    pub(super) fn see(&self, samples: &[DecodedSample], (height, width): (usize, usize)) -> Result<Seen, ExplainError> {
        let images: Vec<&InputPixels> = samples.iter().map(|sample| &sample.pixels).collect();
        let input = self.uploader.upload(&images, (height, width))?;
        let samples: &TiSlice<SampleIndex, DecodedSample> = TiSlice::from_ref(samples);
        let keys: Vec<String> = samples.iter().map(|sample| sample.envelope.sample.id.clone()).collect();
        let targets: TiVec<SampleIndex, _> = samples.iter().map(|sample| sample.targets.clone()).collect();
        let shown: TiVec<SampleIndex, _> = samples.iter().map(|sample| sample.region.part_with_image(height, width)).collect();
        let mut found = self.saliencies(&input, &keys, &targets, &shown)?;
        if self.options.sess {
            found.passes = self.sess(&input, &keys, &targets, &found)?;
            if !self.options.confidence {
                found.confidences.clear();
            }
        }
        Ok(Seen { input, keys, targets, shown, found })
    }

    fn try_launch(&self, samples: &[DecodedSample], (height, width): (usize, usize)) -> Result<Results, ExplainError> {
        let Seen { input, keys, mut targets, shown, found: plain } = self.see(samples, (height, width))?;
        let samples = TiSlice::from_ref(samples);
        let mut maps = self.heatmaps(&plain.passes, PLAIN, samples, (height, width))?;
        if self.options.aug_smooth {
            for (cell, found) in plain.targets.iter() {
                targets[cell.sample][usize::from(cell.target)].channel = Channel::Index(found.class);
            }
            for variant in &SMOOTHING[1..] {
                let of_sample = |targets: &Vec<ClassTarget>| targets.iter().map(|target| variant.of_target(target)).collect();
                let targets: TiVec<SampleIndex, Vec<ClassTarget>> = targets.iter().map(of_sample).collect();
                let shown: TiVec<SampleIndex, _> =
                    shown.iter().map(|shown| shown.as_ref().map(|shown| variant.of_mask(shown))).collect();
                let found = self.saliencies(&variant.of_input(&input)?, &keys, &targets, &shown)?;
                let mut more = self.heatmaps(&found.passes, *variant, samples, (height, width))?;
                for (cell, sums) in maps.iter_mut() {
                    // A class that a variant no longer shows adds a map of zeros to the mean.
                    for (sum, mut map) in sums.iter_mut().zip(more.remove(cell).into_iter().flatten()) {
                        for (sum, map) in sum.tensors_mut().zip(map.tensors_mut()) {
                            *sum = sum.f_add(map)?;
                        }
                    }
                }
            }
            for sum in maps.iter_mut().flat_map(|(_, sums)| sums).flat_map(DeviceMaps::tensors_mut) {
                *sum = sum.f_div_scalar(SMOOTHING.len() as f64)?;
            }
        }
        self.results(samples, &input, plain, &maps)
    }

    /// What becomes of maps that are drawn.
    pub(super) fn results(
        &self,
        samples: &TiSlice<SampleIndex, DecodedSample>,
        input: &Tensor,
        plain: Saliencies,
        maps: &Grid<TiVec<ColumnIndex, DeviceMaps>>,
    ) -> Result<Results, ExplainError> {
        let mut examined = Grid::default();
        if self.options.faithfulness {
            examined = self.faithfulness(input, &plain.targets, maps)?;
        }
        if let Some(replacement) = self.options.counterfactuals {
            let asked = self.counterfactuals(replacement, input, samples, &plain.targets, maps)?;
            for (cell, asked) in asked {
                let known = examined.remove(cell).unwrap_or_else(|| asked.iter().map(|_| Measures::default()).collect());
                examined.insert(cell, known.into_iter().zip(asked).map(|(known, asked)| known.or(asked)).collect());
            }
        }
        let drawn = || maps.iter().flat_map(|(_, maps)| maps);
        let of_layers: Vec<_> = drawn().filter_map(|maps| maps.layer_map.as_ref()).map(|(map, _)| map).collect();
        // Without any heatmap nothing is copied, unless somebody wants the predictions themselves.
        let is_asked = samples.iter().any(|sample| sample.envelope.predictions.is_some());
        let has_predictions = plain.predictions.is_some() && (is_asked || !plain.passes.is_empty());
        let predictions = plain.predictions.as_ref().filter(|_| has_predictions);
        let numbers: Vec<_> = plain.values.iter().chain(&plain.confidences).chain(predictions).collect();
        let detected = match plain.detected.as_ref().filter(|_| is_asked).zip(self.options.reading.detections) {
            Some((detected, detections)) => Some((HostCopy::start(detected)?, detections)),
            None => None,
        };
        let pixels = match plain.pixels.as_ref().filter(|_| is_asked) {
            Some(pixels) => {
                let (_, height, width) = pixels.size3()?;
                Some((HostCopy::start(pixels)?, (height as usize, width as usize)))
            }
            None => None,
        };
        let scored = plain.passes.iter().flat_map(|pass| pass.samples.iter().map(|&sample| Cell { sample, target: pass.target }));
        Ok(Results {
            maps: ToHost::start(!self.runs_ahead, &drawn().map(|maps| &maps.shown).collect::<Vec<_>>(), &of_layers, &numbers)?,
            upsamplings: drawn().map(|maps| maps.layer_map.as_ref().map(|(_, upsampling)| *upsampling)).collect(),
            scored: scored.collect(),
            explained: plain.targets.into_iter().map(|(cell, score)| (cell, score.class, score.predicted)).collect(),
            examined,
            has_predictions,
            detected,
            pixels,
        })
    }

    /// Waits for what was launched, and adds it to the result.
    pub(super) fn collect(&self, launched: Vec<Launched>, result: &mut HeatmapBatch) -> Result<(), RunError> {
        for Launched { samples, results } in launched {
            match results.read(&samples, self.columns.len()) {
                Ok(classes) => {
                    samples.into_iter().zip(classes).for_each(|(sample, found)| self.add(sample, found, result));
                }
                Err(error) => {
                    let error = ExplainError::from(error);
                    self.check_device(&error)?;
                    result.failed.extend(samples.into_iter().map(|sample| failure(sample, error.text())));
                }
            }
        }
        Ok(())
    }

    /// Whether the device can go on after an error.
    pub(super) fn check_device(&self, error: &ExplainError) -> Result<(), RunError> {
        let device = self.plan.device();
        fault_of(device).map_or(Ok(()), |fault| Err(unusable(&device_name(device), &fault, error)))
    }

    /// Adds a sample with its heatmaps to the result, and says where its classes are.
    pub(super) fn add(&self, sample: DecodedSample, found: Found, result: &mut HeatmapBatch) {
        let Found { classes, prediction, detected, pixels } = found;
        let Some(mut classes) = classes else {
            result.failed.push(failure(sample, NOT_FINITE.to_owned()));
            return;
        };
        // Heatmaps of a layer's own size show the model's input, others the whole image.
        let shows_more = self.options.size != HeatmapSize::Layer && !is_whole(&sample);
        let DecodedSample { envelope, targets, attention, region, height, width, .. } = sample;
        let num_detections = targets.iter().filter(|target| target.detection.is_some()).count();
        let num_matched = classes.iter().filter(|class| class.detection.is_some()).count();
        for ClassTarget { class, pixels, detection, .. } in targets {
            if let Some(mask) = object_of_label(pixels, detection.as_deref(), (height, width))
                && let Some(found) =
                    classes.iter_mut().find(|found| found.class == class && is_same(&found.detection, &detection))
            {
                found.object = Some(mask);
            }
        }
        let attention = attention.map(|map| match shows_more {
            true => map.onto_frame(&region),
            false => map.on_input(&region, height, width),
        });
        let mut seen = None;
        if shows_more {
            seen = Some(BinaryMask::full(height, width).onto_frame(&region));
            for class in &mut classes {
                class.object = class.object.take().map(|mask| on_image(&mask, &region, height, width));
            }
        }
        let num_unmatched = num_detections - num_matched;
        result.explained.push(ExplainedSample {
            part: ClassPart::WHOLE,
            envelope,
            seen,
            attention,
            classes,
            prediction,
            detected,
            pixels,
            num_unmatched,
        });
    }
}

impl Results {
    /// Waits for them: what was found of each sample.
    pub(super) fn read(self, samples: &[DecodedSample], num_columns: usize) -> Result<Vec<Found>, TchError> {
        let Results { maps, upsamplings, scored, explained, mut examined, has_predictions, detected, pixels } = self;
        let OnHost { mut heatmaps, of_layers, mut numbers } = maps.read()?;
        let mut predictions = vec![None; samples.len()];
        if let Some(start) = numbers.len().checked_sub(2 * samples.len()).filter(|_| has_predictions) {
            let told = numbers.split_off(start);
            let (channels, confidences) = told.split_at(samples.len());
            for ((prediction, channel), confidence) in predictions.iter_mut().zip(channels).zip(confidences) {
                *prediction = (*channel >= 0.0).then_some(Prediction { channel: *channel as i64, confidence: *confidence });
            }
        }
        let mut of_layers = of_layers.into_iter();
        for ((heatmap, _), upsampling) in heatmaps.iter_mut().zip(upsamplings) {
            if let Some(upsampling) = upsampling
                && let Some(Heatmap { height, width, values, .. }) = of_layers.next()
            {
                heatmap.layer_map = Some(LayerMap { height, width, values, upsampling });
            }
        }
        let mut heatmaps = heatmaps.into_iter();
        let (scores, confidences) = numbers.split_at(scored.len());
        let mut of_cells = Grid::default();
        for (row, (cell, score)) in scored.into_iter().zip(scores).enumerate() {
            of_cells.insert(cell, (*score, confidences.get(row).copied()));
        }
        let mut classes: TiVec<SampleIndex, Option<Vec<ClassHeatmaps>>> = samples.iter().map(|_| Some(Vec::new())).collect();
        for (cell, channel, predicted) in explained {
            let (object, detections) = predicted.map_or((None, None), |predicted| (Some(predicted.object), predicted.detections));
            let (heatmaps, is_finite): (Vec<_>, Vec<_>) = heatmaps.by_ref().take(num_columns).unzip();
            let (score, confidence) = of_cells.remove(cell).unwrap_or((f64::NAN, None));
            if !score.is_finite() || !is_finite.into_iter().all(|is_finite| is_finite) {
                classes[cell.sample] = None;
            }
            let Some(classes) = &mut classes[cell.sample] else { continue };
            let target = &samples[usize::from(cell.sample)].targets[usize::from(cell.target)];
            classes.push(ClassHeatmaps {
                class: target.class,
                detection: target.detection.clone(),
                channel,
                contrast: if let TargetPixels::Wrong(wrong) = &target.pixels { wrong.less } else { None },
                score,
                confidence,
                object,
                detections,
                heatmaps,
                examined: examined.remove(cell).map(Vec::from).unwrap_or_default(),
            });
        }
        let has_detected = detected.is_some();
        let detected = match detected {
            Some((copy, detections)) => read_detected(copy, detections, samples)?,
            None => samples.iter().map(|_| None).collect(),
        };
        let has_pixels = pixels.is_some();
        let pixels = match pixels {
            Some((copy, size)) => read_pixels(copy, size, samples)?,
            None => samples.iter().map(|_| None).collect(),
        };
        let told = Vec::from(classes).into_iter().zip(predictions).zip(detected).zip(pixels).zip(samples);
        let found = told.map(|((((classes, prediction), detected), pixels), sample)| {
            // Of the others nothing is there where something is no number.
            let is_told = prediction.is_none_or(|prediction| prediction.confidence.is_finite())
                && (!has_detected || detected.is_some())
                && (!has_pixels || pixels.is_some());
            let classes = classes.filter(|_| sample.envelope.predictions.is_none() || is_told);
            Found { classes, prediction, detected, pixels }
        });
        Ok(found.collect())
    }
}

/// What a segmentation network gives each pixel of the samples of which that is asked; none where something is no number.
fn read_pixels(copy: HostCopy, size: (usize, usize), samples: &[DecodedSample]) -> Result<Vec<Option<PixelClasses>>, TchError> {
    copy.read(|values: &[i16]| {
        let (height, width) = size;
        let of = |(n, sample): (usize, &DecodedSample)| {
            sample.envelope.predictions?;
            let values = values[n * height * width..(n + 1) * height * width].to_vec();
            let is_decided = values.iter().all(|value| *value >= 0);
            is_decided.then_some(PixelClasses {
                height,
                width,
                values,
                input: (sample.height, sample.width),
                region: sample.region,
            })
        };
        samples.iter().enumerate().map(of).collect()
    })
}

/// What a detector detects in each sample, as [`detected`] says it.
fn read_detected(
    copy: HostCopy,
    detections: Detections,
    samples: &[DecodedSample],
) -> Result<Vec<Option<Vec<Detected>>>, TchError> {
    copy.read(|numbers: &[f32]| {
        let each = numbers.len() / samples.len().max(1);
        let of = |(n, sample): (usize, &DecodedSample)| {
            let DecodedSample { envelope, region, height, width, .. } = sample;
            let own = &numbers[n * each..(n + 1) * each];
            envelope.predictions.and_then(|_| detected(own, detections, region, (*height, *width)))
        };
        samples.iter().enumerate().map(of).collect()
    })
}

/// A sample that the device gives nothing of.
pub(super) fn failure(sample: DecodedSample, error: String) -> SampleFailure {
    SampleFailure { sample: sample.envelope.sample, stage: Stage::Device, error }
}

/// The pixels over a model's input that a label says are the object; `None` where it says nothing of that.
pub(super) fn object_of_label(
    pixels: TargetPixels,
    detection: Option<&TargetDetection>,
    (height, width): (usize, usize),
) -> Option<BinaryMask> {
    let own = detection.and_then(|detection| detection.mask.as_ref());
    match pixels {
        _ if let Some(own) = own => Some(own.whole()),
        TargetPixels::Mask(mask) => Some(mask),
        TargetPixels::Boxes(boxes) => Some(boxed(&boxes, height, width)),
        TargetPixels::Predicted | TargetPixels::Labelled | TargetPixels::Wrong(_) | TargetPixels::Point { .. } => None,
    }
}

/// Whether both are the same detection, or none.
fn is_same(one: &Option<Arc<TargetDetection>>, other: &Option<Arc<TargetDetection>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// A mask over a model's input of `height` x `width` pixels as one over the whole image.
fn on_image(mask: &BinaryMask, region: &FrameRegion, height: usize, width: usize) -> BinaryMask {
    mask.resize_nearest(height, width).onto_frame(region)
}
