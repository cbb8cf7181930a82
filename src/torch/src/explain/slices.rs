//! An image in slices: each goes through the model as an image of its own, in batches, while the next ones are cut, and what methods
//! find in them becomes one saliency map of the whole image before it is clipped and scaled. So all slices are on one scale.

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, sync_channel},
};

use tch::{Kind, TchError, Tensor};
use typed_index_collections::{TiSlice, TiVec};

use super::{
    ExplainError, Fusion, HeatmapSize, TorchExplainer,
    detection::boxed,
    grid::{Cell, ColumnIndex, SampleIndex},
    heatmap::{self, OnHost, ToHost},
    launch::{NOT_FINITE, failure},
};
use crate::program::{HostCopy, send};
use camflow_media::{BinaryMask, FrameRegion, InputPixels, SliceAxis, SlicePart, Upsampling, Window};
use camflow_pipeline::{
    Channel, ClassHeatmaps, ClassIndex, ClassPart, ClassTarget, DecodedSample, ExplainedSample, Heatmap, HeatmapBatch, LayerMap,
    RunError, SlicedImage, SlicedPlace, TargetPixels,
};

/// Places of the saliency map of an image: of a layer with more of them, several become one.
const MAX_PLACES: f64 = (1 << 24) as f64;

/// The longer side of a heatmap in pixels, unless the layer's own map is larger: it is stretched over the image wherever it is shown.
const MAX_SIDE: usize = 2048;

/// The longer side of the masks that heatmaps are measured with.
const MAX_MASK_SIDE: usize = 4096;

/// Pixels of a heatmap of the image's own size.
const MAX_PIXELS: usize = 1 << 25;

/// Pixels of slices that wait for the device, and their number.
const WAITING_PIXELS: usize = 1 << 23;
const MAX_WAITING: usize = 32;

/// Rows and columns.
type Size = (usize, usize);

/// The size of the saliency of each layer of each column.
pub(super) type MapSizes = TiVec<ColumnIndex, Vec<Size>>;

/// What comes of an image: where the model sees it, if not everywhere, and its heatmaps; or why there are none.
type Outcome = Result<(Option<BinaryMask>, Vec<ClassHeatmaps>), String>;

/// A slice that is ready for the model.
struct Ready {
    /// Which one: its row and column among the slices.
    at: (usize, usize),
    window: Window,
    pixels: InputPixels,
    /// The targets that are in it; the class of each is its number among those of the image.
    targets: Vec<ClassTarget>,
}

/// The slices of an image.
struct Cut<'a> {
    sliced: &'a SlicedImage,
    image: Size,
    input: Size,
    rows: SliceAxis,
    columns: SliceAxis,
}

impl Cut<'_> {
    fn window(&self, (row, column): (usize, usize)) -> Window {
        let (top, left) = (self.rows.starts[row], self.columns.starts[column]);
        Window { top, left, height: self.rows.slice(), width: self.columns.slice() }
    }

    fn places(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let columns = self.columns.starts.len();
        (0..self.rows.starts.len()).flat_map(move |row| (0..columns).map(move |column| (row, column)))
    }

    /// A slice with the targets in it; `None` where it has none, and need not go through the model.
    fn ready(&self, at: (usize, usize)) -> Option<Result<Ready, String>> {
        let (window, SlicedImage { region, targets, .. }) = (self.window(at), self.sliced);
        let found = targets.iter().enumerate().filter_map(|(index, target)| {
            let pixels = target.place.in_slice(window, self.image, region, self.input)?;
            Some(ClassTarget { class: ClassIndex(index), channel: target.channel, pixels, detection: None })
        });
        let found: Vec<ClassTarget> = found.collect();
        if found.is_empty() {
            return None;
        }
        let input = self.sliced.input(window).map_err(|error| error.to_string());
        Some(input.map(|input| Ready { at, window, pixels: input.pixels, targets: found }))
    }
}

/// How the maps of slices at one layer become one.
struct Merge {
    size: Size,
    rows: Vec<SlicePart>,
    columns: Vec<SlicePart>,
    map: Size,
}

impl Merge {
    fn new(cut: &Cut<'_>, map: Size) -> Self {
        let joined = joined(&cut.rows, &cut.columns, map);
        Merge {
            size: (cut.rows.places(map.0, joined), cut.columns.places(map.1, joined)),
            rows: cut.rows.parts(map.0, joined),
            columns: cut.columns.parts(map.1, joined),
            map,
        }
    }

    /// What the saliency `[h', w']` of a slice gives to that of the image.
    fn part(&self, saliency: &Tensor, (row, column): (usize, usize)) -> Result<Option<Tensor>, ExplainError> {
        if saliency.size() != [self.map.0 as i64, self.map.1 as i64] {
            let what = format!(
                "a layer gives {:?} places for one slice and {:?} for another of the same size",
                saliency.size(),
                self.map
            );
            return Err(ExplainError::Unsuitable(what));
        }
        let (rows, columns) = (&self.rows[row], &self.columns[column]);
        if rows.places.is_empty() || columns.places.is_empty() {
            return Ok(None);
        }
        let matrix = |part: &SlicePart, map: usize| {
            send(&part.weights, &[part.places.len() as i64, map as i64], saliency.device())?.f_to_kind(saliency.kind())
        };
        let of_rows = matrix(rows, self.map.0)?.f_matmul(saliency)?;
        Ok(Some(of_rows.f_matmul(&matrix(columns, self.map.1)?.f_transpose(0, 1)?)?))
    }

    /// Adds that to the saliency `[H', W']` of the image.
    fn add(&self, whole: &Tensor, part: &Tensor, (row, column): (usize, usize)) -> Result<(), TchError> {
        let (rows, columns) = (&self.rows[row].places, &self.columns[column].places);
        let window = whole.f_narrow(0, rows.start as i64, rows.len() as i64)?;
        let mut window = window.f_narrow(1, columns.start as i64, columns.len() as i64)?;
        window.f_add_(part).map(drop)
    }
}

/// How many places along each side become one in the map of the image.
fn joined(rows: &SliceAxis, columns: &SliceAxis, map: Size) -> usize {
    let places = rows.places(map.0, 1) as f64 * columns.places(map.1, 1) as f64;
    (places / MAX_PLACES).sqrt().ceil().max(1.0) as usize
}

/// What the slices of an image have given of one of its targets.
struct Found {
    channel: i64,
    /// The saliency `[H', W']` of the image, of each layer of each column.
    maps: TiVec<ColumnIndex, Vec<Tensor>>,
    /// f64 `[3]`, on the device: the sum of the scores; that of the confidences by pixels; the largest confidence of a whole slice.
    /// What stays of slices has its memory from the first one on: whatever else stayed would lie between what the next ones need.
    numbers: Tensor,
    /// How many pixels those confidences are of.
    num_pixels: f64,
    has_confidence: bool,
    /// Where the model itself puts the class, if that counts.
    predicted: Option<BinaryMask>,
}

/// What a slice gives of a target.
struct Addition {
    which: usize,
    at: (usize, usize),
    channel: i64,
    /// Of each layer of each column, if the slice counts anywhere.
    parts: Vec<Option<Tensor>>,
    score: Tensor,
    confidence: Option<(Tensor, Option<f64>)>,
    predicted: Option<BinaryMask>,
}

/// Everything that is needed to add slices up.
struct Sum<'a> {
    cut: &'a Cut<'a>,
    merges: TiVec<ColumnIndex, Vec<Merge>>,
    /// By target.
    found: BTreeMap<usize, Found>,
    /// Of masks of the image, of this size, by rows and by columns: the slice that counts there.
    mask_size: Size,
    owners: [Vec<Option<(usize, f64)>>; 2],
}

impl TorchExplainer {
    /// Explains an image in slices, and adds what comes of it to the result.
    pub(super) fn explain_slices(&mut self, sample: DecodedSample, result: &mut HeatmapBatch) -> Result<(), RunError> {
        let Some(sliced) = sample.slices.clone() else { return Ok(()) };
        match self.try_slices(&sample, &sliced)? {
            Ok((seen, classes)) => {
                let DecodedSample { envelope, attention, .. } = sample;
                let (prediction, detected, pixels, num_unmatched) = (None, None, None, 0);
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
            Err(text) => result.failed.push(failure(sample, text)),
        }
        Ok(())
    }

    /// The outer error ends the run, the inner one is the sample's.
    fn try_slices(&mut self, sample: &DecodedSample, sliced: &SlicedImage) -> Result<Outcome, RunError> {
        let (image, input) = (sliced.image.size(), (sample.height, sample.width));
        if let (HeatmapSize::Image, true) = (self.options.size, image.0 * image.1 > MAX_PIXELS) {
            return Ok(Err(format!(
                "a heatmap of the image's {} x {} pixels would be too large: at most {MAX_PIXELS} pixels are possible; leave out `--size image`, as heatmaps are stretched over their image wherever they are shown",
                image.0, image.1
            )));
        }
        if let Some(error) = self.too_large(input.0, input.1) {
            return Ok(Err(error));
        }
        let sizes = match self.map_sizes(input) {
            Ok(sizes) => sizes,
            Err(error) => {
                self.check_device(&error)?;
                return Ok(Err(format!("{}; {}", error.text(), self.sizes.said_of(&self.plan, input))));
            }
        };
        let cut = cut(sliced, input, &sizes);
        let mask_size = bounded(image, MAX_MASK_SIDE);
        let mut sum = Sum {
            cut: &cut,
            merges: sizes.iter().map(|layers| layers.iter().map(|map| Merge::new(&cut, *map)).collect()).collect(),
            found: BTreeMap::new(),
            mask_size,
            owners: [cut.rows.owners(mask_size.0), cut.columns.owners(mask_size.1)],
        };
        let capacity = (WAITING_PIXELS / (input.0 * input.1).max(1)).clamp(1, MAX_WAITING);
        let (send, ready) = sync_channel(capacity);
        let outcome = std::thread::scope(|scope| {
            let cut = &cut;
            scope.spawn(move || {
                for slice in cut.places().filter_map(|at| cut.ready(at)) {
                    // Nobody waits for more after an error.
                    if send.send(slice).is_err() {
                        return;
                    }
                }
            });
            self.add_all(ready, sample, &mut sum)
        })?;
        if let Err(text) = outcome {
            return Ok(Err(text));
        }
        match self.finish_slices(&sum, sliced) {
            Ok(Some(classes)) => Ok(Ok((sum.seen(), classes))),
            Ok(None) => Ok(Err(NOT_FINITE.to_owned())),
            Err(error) => {
                self.check_device(&error)?;
                Ok(Err(error.text()))
            }
        }
    }

    /// Takes slices as they come, in batches as large as the device takes.
    fn add_all(
        &mut self,
        ready: Receiver<Result<Ready, String>>,
        sample: &DecodedSample,
        sum: &mut Sum<'_>,
    ) -> Result<Result<(), String>, RunError> {
        let (height, width) = sum.cut.input;
        loop {
            let most = match self.options.slice_batch {
                Some(most) => most.min(self.max_batch).max(1),
                None => self.limit().of_shape(height, width),
            };
            let mut batch = Vec::new();
            for slice in ready.iter().take(most) {
                match slice {
                    Ok(slice) => batch.push(slice),
                    Err(text) => return Ok(Err(text)),
                }
            }
            if batch.is_empty() {
                return Ok(Ok(()));
            }
            let added = match self.footprint {
                Some(_) => self.add_slices(&batch, sample, sum)?,
                None => self.measure(batch.len() * height * width, |this| this.add_slices(&batch, sample, sum))?,
            };
            if let Err(text) = added {
                return Ok(Err(text));
            }
        }
    }

    /// Adds a batch of slices; one that is too large for the memory is cut in halves.
    fn add_slices(&mut self, batch: &[Ready], sample: &DecodedSample, sum: &mut Sum<'_>) -> Result<Result<(), String>, RunError> {
        let error = match self.slice_saliencies(batch, sample, sum) {
            Ok(()) => return Ok(Ok(())),
            Err(error) => error,
        };
        if !error.is_out_of_memory() {
            self.check_device(&error)?;
        } else if batch.len() > 1 {
            self.max_batch = batch.len() / 2;
            let (first, second) = batch.split_at(batch.len() / 2);
            let added = self.add_slices(first, sample, sum)?;
            return if added.is_ok() { self.add_slices(second, sample, sum) } else { Ok(added) };
        }
        let Window { top, left, .. } = batch[0].window;
        let which = if batch.len() > 1 { "one of the slices from row" } else { "the slice at row" };
        Ok(Err(format!("{which} {top}, column {left}: {}", error.text())))
    }

    /// Runs a batch of slices, and adds what comes of it when nothing of that can fail any more: a batch may be tried again in halves.
    fn slice_saliencies(&self, batch: &[Ready], sample: &DecodedSample, sum: &mut Sum<'_>) -> Result<(), ExplainError> {
        let (height, width) = sum.cut.input;
        let images: Vec<&InputPixels> = batch.iter().map(|slice| &slice.pixels).collect();
        let input = self.uploader.upload(&images, (height, width))?;
        let keys = vec![sample.envelope.sample.id.clone(); batch.len()];
        let targets: TiVec<SampleIndex, _> = batch.iter().map(|slice| slice.targets.clone()).collect();
        let shown = sum.cut.sliced.region.part_with_image(height, width);
        let shown: TiVec<SampleIndex, _> = batch.iter().map(|_| shown.clone()).collect();
        let saliencies = self.saliencies(&input, &keys, &targets, &shown)?;
        let _no_grad = tch::no_grad_guard();
        let mut additions = Vec::new();
        for (number, pass) in saliencies.passes.iter().enumerate() {
            for (row, &index) in pass.samples.iter().enumerate() {
                let Some(score) = saliencies.targets.get(Cell { sample: index, target: pass.target }) else { continue };
                let slice = &batch[usize::from(index)];
                let target = &slice.targets[usize::from(pass.target)];
                let which = target.class.0;
                sum.allocate(which, &input)?;
                let mut parts = Vec::new();
                for (map, merge) in pass.columns.iter().flatten().zip(sum.merges.iter().flatten()) {
                    parts.push(merge.part(&map.f_select(0, index.row())?, slice.at)?);
                }
                let confidence = saliencies.confidences.get(number).map(|all| all.f_select(0, row as i64)).transpose()?;
                let num_pixels = match (&target.pixels, &score.predicted) {
                    (TargetPixels::Mask(mask), _) => Some(mask.count() as f64),
                    (_, Some(predicted)) => Some(predicted.count as f64),
                    _ => None,
                };
                additions.push(Addition {
                    which,
                    at: slice.at,
                    channel: score.class,
                    parts,
                    score: saliencies.values[number].f_select(0, row as i64)?,
                    confidence: confidence.map(|confidence| (confidence, num_pixels)),
                    predicted: score.predicted.as_ref().map(|predicted| predicted.object.clone()),
                });
            }
        }
        additions.into_iter().try_for_each(|addition| sum.add(addition)).map_err(ExplainError::from)
    }

    /// The heatmaps of the image, class by class; `None` where numbers are not finite.
    fn finish_slices(&self, sum: &Sum<'_>, sliced: &SlicedImage) -> Result<Option<Vec<ClassHeatmaps>>, ExplainError> {
        let _no_grad = tch::no_grad_guard();
        let mut classes = Vec::new();
        for (&which, found) in &sum.found {
            let mut heatmaps = Vec::new();
            for (column, layers) in self.columns.iter().zip(&found.maps) {
                let (heatmap, is_finite) = self.draw_slices(layers, self.options.fusion_of(column.method), sum)?;
                if !is_finite {
                    return Ok(None);
                }
                heatmaps.push(heatmap);
            }
            let number = |bytes: &[u8; 8]| f64::from_ne_bytes(*bytes);
            let numbers: Vec<f64> = HostCopy::start(&found.numbers.f_view_dtype(Kind::Uint8)?)?
                .read(|bytes: &[u8]| bytes.as_chunks().0.iter().map(number).collect())?;
            let [score, sum_of_pixels, largest] = numbers[..] else { return Ok(None) };
            if !score.is_finite() {
                return Ok(None);
            }
            let of_image = if found.num_pixels > 0.0 { sum_of_pixels / found.num_pixels } else { largest };
            let confidence = found.has_confidence.then_some(of_image);
            let target = &sliced.targets[which];
            let (height, width) = sum.mask_size;
            let object = match &target.place {
                SlicedPlace::Mask(mask) => Some(mask.resize_nearest(height, width)),
                SlicedPlace::Boxes(boxes) => {
                    let corners = |[left, top, width, height]: &[f64; 4]| [*left, *top, left + width, top + height];
                    Some(boxed(&boxes.iter().map(corners).collect::<Vec<_>>(), height, width))
                }
                SlicedPlace::Pixel { .. } => None,
                SlicedPlace::Predicted | SlicedPlace::Labelled => found.predicted.clone(),
            };
            classes.push(ClassHeatmaps {
                class: target.class,
                detection: None,
                channel: found.channel,
                contrast: None,
                score,
                confidence,
                object,
                detections: None,
                heatmaps,
                examined: Vec::new(),
            });
        }
        Ok(Some(classes))
    }

    /// The heatmap of one column, and whether all of its values are finite.
    fn draw_slices(&self, layers: &[Tensor], fusion: Fusion, sum: &Sum<'_>) -> Result<(Heatmap, bool), TchError> {
        let layers = layers.iter().map(|map| heatmap::layer_map(&map.f_unsqueeze(0)?)).collect::<Result<Vec<_>, _>>()?;
        let longest = layers.iter().flat_map(|map| map.size()[1..].to_vec()).max().unwrap_or(1) as usize;
        let (image, FrameRegion { image_height, image_width, frame_height, frame_width, .. }) =
            (sum.cut.image, sum.cut.sliced.region);
        let size = match self.options.size {
            HeatmapSize::Layer => None,
            HeatmapSize::Image => Some(image),
            HeatmapSize::Input => {
                let seen = (image.0 * frame_height / image_height, image.1 * frame_width / image_width);
                Some(bounded((seen.0.max(1), seen.1.max(1)), MAX_SIDE.max(longest)))
            }
        };
        let shown = heatmap::upsample(&layers, size, fusion)?;
        let upsampling = match (size, &layers[..]) {
            (Some(size), [map]) if self.options.with_layer_maps && map.numel() < size.0 * size.1 => {
                Some(Upsampling { size, region: None, is_image: false })
            }
            _ => None,
        };
        let of_layers: Vec<&Tensor> = layers.iter().filter(|_| upsampling.is_some()).collect();
        let OnHost { mut heatmaps, of_layers, .. } = ToHost::start(!self.runs_ahead, &[&shown], &of_layers, &[])?.read()?;
        let (mut heatmap, is_finite) = heatmaps.remove(0);
        if let Some((upsampling, Heatmap { height, width, values, .. })) = upsampling.zip(of_layers.into_iter().next()) {
            heatmap.layer_map = Some(LayerMap { height, width, values, upsampling });
        }
        if let Some(seen) = sum.seen() {
            // What is beside it is no part of the heatmap, though a map that is enlarged reaches half a place beyond its edge.
            let seen = seen.resize_nearest(heatmap.height, heatmap.width);
            let pixels = heatmap.values.iter_mut().zip(&mut heatmap.levels).zip(&seen.pixels);
            pixels.filter(|(_, seen)| **seen == 0).for_each(|((value, level), _)| (*value, *level) = (0.0, 0));
        }
        Ok((heatmap, is_finite))
    }

    /// Rows and columns of the saliency of each layer of each column, for inputs of a size: found out with a black one.
    fn map_sizes(&mut self, (height, width): Size) -> Result<MapSizes, ExplainError> {
        if let Some((_, sizes)) = self.map_sizes.as_ref().filter(|(known, _)| *known == (height, width)) {
            return Ok(sizes.clone());
        }
        let size = [1, self.uploader.channels, height as i64, width as i64];
        let input = Tensor::f_zeros(size, (Kind::Float, self.plan.device()))?;
        let pixels = TargetPixels::Mask(BinaryMask::full(1, 1));
        let target = ClassTarget { class: ClassIndex(0), channel: Channel::Index(0), pixels, detection: None };
        let (targets, shown) = ([vec![target]], [None]);
        let saliencies = self.saliencies(&input, &[String::new()], TiSlice::from_ref(&targets), TiSlice::from_ref(&shown))?;
        let Some(pass) = saliencies.passes.first() else {
            return Err(ExplainError::Unsuitable("the model gives no score".to_owned()));
        };
        let size_of = |map: &Tensor| (map.size()[1] as usize, map.size()[2] as usize);
        let sizes: MapSizes = pass.columns.iter().map(|layers| layers.iter().map(size_of).collect()).collect();
        self.map_sizes = Some(((height, width), sizes.clone()));
        Ok(sizes)
    }
}

impl Sum<'_> {
    /// Takes the memory for a target, where a tensor is.
    fn allocate(&mut self, which: usize, like: &Tensor) -> Result<(), TchError> {
        if self.found.contains_key(&which) {
            return Ok(());
        }
        let zeros = |merge: &Merge| Tensor::f_zeros([merge.size.0 as i64, merge.size.1 as i64], (Kind::Float, like.device()));
        let maps = self.merges.iter().map(|layers| layers.iter().map(zeros).collect()).collect::<Result<_, _>>()?;
        let numbers = Tensor::f_zeros([3], (Kind::Double, like.device()))?;
        let found = Found { channel: 0, maps, numbers, num_pixels: 0.0, has_confidence: false, predicted: None };
        self.found.insert(which, found);
        Ok(())
    }

    fn add(&mut self, addition: Addition) -> Result<(), TchError> {
        let Addition { which, at, channel, parts, score, confidence, predicted } = addition;
        let Some(found) = self.found.get_mut(&which) else { return Ok(()) };
        for ((whole, merge), part) in found.maps.iter().flatten().zip(self.merges.iter().flatten()).zip(parts) {
            part.map_or(Ok(()), |part| merge.add(whole, &part, at))?;
        }
        found.channel = channel;
        drop(found.numbers.f_narrow(0, 0, 1)?.f_add_(&score)?);
        if let Some((confidence, num_pixels)) = confidence {
            found.has_confidence = true;
            match num_pixels {
                Some(num_pixels) => {
                    found.num_pixels += num_pixels;
                    drop(found.numbers.f_narrow(0, 1, 1)?.f_add_(&confidence.f_mul_scalar(num_pixels)?)?);
                }
                None => {
                    let mut largest = found.numbers.f_narrow(0, 2, 1)?;
                    largest.f_copy_(&largest.f_maximum(&confidence)?)?;
                }
            }
        }
        if let Some(predicted) = predicted {
            let (height, width) = self.mask_size;
            let whole = found.predicted.get_or_insert_with(|| BinaryMask::empty(height, width));
            paint(whole, &predicted, &self.owners, at);
        }
        Ok(())
    }

    /// Where the model sees the image; `None` where it sees all of it.
    fn seen(&self) -> Option<BinaryMask> {
        let [rows, columns] = &self.owners;
        if rows.iter().chain(columns).all(Option::is_some) {
            return None;
        }
        let pixel = |row: &Option<(usize, f64)>, column: &Option<(usize, f64)>| u8::from(row.is_some() && column.is_some());
        let pixels = rows.iter().flat_map(|row| columns.iter().map(move |column| pixel(row, column))).collect();
        Some(BinaryMask { height: self.mask_size.0, width: self.mask_size.1, pixels })
    }
}

/// How an image is cut for a model whose layers give maps of these sizes: so that the maps of slices lie on one grid, where the sizes
/// allow it.
fn cut<'a>(sliced: &'a SlicedImage, input: Size, sizes: &TiSlice<ColumnIndex, Vec<Size>>) -> Cut<'a> {
    let image = sliced.image.size();
    let (slicing, region) = (&sliced.slicing, &sliced.region);
    let rows = |align| SliceAxis::rows(image.0, slicing.overlap_height, align, region, input.0);
    let columns = |align| SliceAxis::columns(image.1, slicing.overlap_width, align, region, input.1);
    let (free_rows, free_columns) = (rows(1), columns(1));
    let (mut align_rows, mut align_columns) = (1, 1);
    for &map in sizes.iter().flatten() {
        let joined = joined(&free_rows, &free_columns, map);
        align_rows = least_multiple(align_rows, free_rows.alignment(map.0).unwrap_or(1) * joined);
        align_columns = least_multiple(align_columns, free_columns.alignment(map.1).unwrap_or(1) * joined);
    }
    Cut { sliced, image, input, rows: rows(align_rows), columns: columns(align_columns) }
}

/// The least common multiple.
fn least_multiple(one: usize, other: usize) -> usize {
    let (mut divisor, mut rest) = (one, other);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    one / divisor.max(1) * other
}

/// A size of the same shape of which no side is longer than this.
fn bounded((height, width): Size, side: usize) -> Size {
    let longest = height.max(width);
    let fit = |length: usize| (length * side).div_ceil(longest).clamp(1, length.max(1));
    if longest > side { (fit(height), fit(width)) } else { (height, width) }
}

/// Puts the mask of a slice over the model's input into that of the image, where the slice is what counts.
fn paint(whole: &mut BinaryMask, mask: &BinaryMask, [rows, columns]: &[Vec<Option<(usize, f64)>>; 2], at: (usize, usize)) {
    let own = |owners: &[Option<(usize, f64)>], index: usize, side: usize| -> Vec<(usize, usize)> {
        let owned =
            owners.iter().enumerate().filter_map(|(place, owner)| Some((place, owner.filter(|owner| owner.0 == index)?.1)));
        owned.map(|(place, fraction)| (place, ((fraction * side as f64) as usize).min(side - 1))).collect()
    };
    let columns = own(columns, at.1, mask.width);
    for (row, of_mask) in own(rows, at.0, mask.height) {
        for &(column, from) in &columns {
            whole.pixels[row * whole.width + column] = mask.pixels[of_mask * mask.width + from];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_meet_at_common_multiples_and_heatmaps_keep_their_shape() {
        assert_eq!([least_multiple(1, 7), least_multiple(8, 12), least_multiple(32, 16)], [7, 24, 32]);
        assert_eq!(
            [bounded((20_000, 10_000), 2048), bounded((100, 300), 2048), bounded((1, 5000), 50)],
            [(2048, 1024), (100, 300), (1, 50)]
        );
    }

    #[test]
    fn what_is_predicted_is_taken_from_the_slice_that_counts() {
        let mut whole = BinaryMask::empty(1, 4);
        let owners = [vec![Some((0, 0.5))], vec![Some((0, 0.25)), Some((0, 0.75)), Some((1, 0.75)), None]];
        paint(&mut whole, &BinaryMask { height: 1, width: 2, pixels: vec![0, 1] }, &owners, (0, 0));
        paint(&mut whole, &BinaryMask { height: 1, width: 2, pixels: vec![0, 1] }, &owners, (0, 1));
        assert_eq!(whole.pixels, [0, 1, 1, 0]);
    }
}
