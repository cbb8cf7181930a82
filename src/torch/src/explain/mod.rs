//! Heatmaps on a torch device: one forward, one backward per class, all layers, all methods.
//!
//! [`TorchExplainer`] is the [`Explainer`] of real runs: it cuts batches where memory runs out, says how large they may be
//! (`batch_size.rs`), and turns saliency maps into heatmaps in host memory (`drawing.rs`, `heatmap.rs`). `saliency.rs` takes one
//! tensor through the model, `pass.rs` has what methods are computed from, `cam/` has the methods, `target.rs` what is
//! differentiated.

mod batch_size;
mod cam;
mod decision;
mod drawing;
mod faithfulness;
mod grid;
mod heatmap;
mod layout;
mod masks;
mod options;
mod pass;
mod probe;
mod saliency;
mod sizes;
mod smoothing;
mod target;
mod trial;

use std::cell::RefCell;

use tch::Tensor;
use typed_index_collections::{TiSlice, TiVec};

pub use cam::{CamMethod, GradCam, Gradients, Method, Reduction};
pub use heatmap::{HeatmapSize, heatmaps};
pub use options::{Column, ExplainOptions, Reading};
pub use trial::{depends_on_batch, deviations};

use crate::program::{
    Demand, Dynamic, ExecError, MathAttention, Plan, PlanOptions, Program, ProgramError, device_name, fault_of, from_tch,
    try_convolutions,
};
use batch_size::{Footprint, FullBatches};
use cam::Needs;
use camflow_media::{BinaryMask, FrameRegion};
use camflow_pipeline::{
    BatchLimit, Channel, ClassHeatmaps, ClassTarget, DecodedSample, ExplainedSample, Explainer, Heatmap, HeatmapBatch,
    InputBatch, LayerMap, RunError, SampleFailure, Stage, TargetPixels,
};
use drawing::{DeviceMaps, is_whole};
use grid::{Grid, SampleIndex};
use pass::{Derivative, NetworkTaps, Order, Taps};
use sizes::Sizes;
use smoothing::{PLAIN, SMOOTHING};

/// Computes heatmaps with libtorch.
pub struct TorchExplainer {
    plan: Plan,
    /// Of the images that it takes.
    channels: i64,
    options: ExplainOptions,
    columns: Vec<Column>,
    taps: Taps,
    /// Those that some method needs, one for each objective.
    derivatives: Vec<Derivative>,
    /// Where one of them is the second.
    _math_attention: Option<MathAttention>,
    /// Exactly the operators of eager PyTorch, as it chooses them.
    exact: bool,
    /// 1 for a model that takes nothing but the batch of its export, or minds the others in it; lowered when memory ran out.
    max_batch: usize,
    /// What batches take of memory: known after the first one.
    footprint: Option<Footprint>,
    /// Which batches are as large as others.
    full_batches: FullBatches,
    /// How many explainers take memory from where this one does.
    num_sharing: usize,
    /// Likewise, of variants of a sample.
    probe_batch: usize,
    /// What sizes of its input the model takes.
    sizes: Sizes,
    /// The next batch's input, on the device, with the number of its first sample.
    prefetched: RefCell<Option<(u64, Tensor)>>,
}

/// What a batch finds done, and what is to be done for the next one.
#[derive(Default)]
struct Ahead<'a> {
    /// Its input, on the device.
    input: Option<Tensor>,
    /// What may be brought there while the device is busy.
    next: Option<&'a InputBatch>,
}

/// Why a batch gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// A node of the model failed.
    #[error(transparent)]
    Graph(#[from] ExecError),
    /// libtorch failed elsewhere.
    #[error("{0}")]
    Torch(#[from] tch::TchError),
    /// The model or a layer of it is of no use for what is asked; the text says which and why.
    #[error("{0}")]
    Unsuitable(String),
}

impl ExplainError {
    fn is_out_of_memory(&self) -> bool {
        match self {
            ExplainError::Graph(error) => error.source.out_of_memory,
            ExplainError::Torch(error) => from_tch(error).out_of_memory,
            ExplainError::Unsuitable(_) => false,
        }
    }

    /// One line: libtorch's messages go on with where they were raised.
    fn text(&self) -> String {
        self.to_string().lines().next().unwrap_or_default().to_owned()
    }
}

impl TorchExplainer {
    /// An explainer of a model, on the device and with the precision of `plan_options`.
    ///
    /// # Errors
    /// The device has no memory for the weights.
    pub fn new(program: &Program, plan_options: PlanOptions, options: ExplainOptions) -> Result<Self, ProgramError> {
        let needs: Vec<Needs> = options.methods.iter().map(|method| method.needs()).collect();
        let mut demand = Demand::of(program.primary_output());
        let layers = options.layers.iter().map(|layer| demand.tap(layer.tap)).collect();
        if needs.iter().any(|needs| needs.resumes) {
            demand.resume_from = options.layers.iter().map(|layer| layer.tap).collect();
        }
        let mut network = None;
        if needs.iter().any(|needs| needs.network) {
            let input = demand.tap(program.input());
            let biases = program.biases(plan_options)?;
            let biases = biases.into_iter().map(|bias| (bias.values, demand.tap(bias.tap))).collect();
            network = Some(NetworkTaps { input, biases });
        }
        let mut derivatives: Vec<Derivative> = Vec::new();
        for derivative in needs.iter().filter_map(|needs| needs.derivative) {
            match derivatives.iter_mut().find(|known| known.objective == derivative.objective) {
                Some(known) => known.order = known.order.max(derivative.order),
                None => derivatives.push(derivative),
            }
        }
        let is_second = derivatives.iter().any(|derivative| derivative.order == Order::Second);
        let plan = Plan::new(program, &demand, plan_options)?;
        let columns = options.columns();
        let max_batch = if program.metadata.input.dynamic == Dynamic::None || options.one_by_one { 1 } else { usize::MAX };
        Ok(TorchExplainer {
            plan,
            taps: Taps { layers, network },
            derivatives,
            _math_attention: is_second.then(MathAttention::new),
            exact: plan_options.exact,
            columns,
            channels: program.metadata.image_channels().unwrap_or(3),
            max_batch,
            footprint: None,
            full_batches: FullBatches::default(),
            num_sharing: 1,
            probe_batch: options.probe_batch.clamp(1, max_batch),
            sizes: Sizes::of(&program.metadata.input),
            prefetched: RefCell::default(),
            options,
        })
    }

    /// Says that so many explainers, this one among them, take their memory from the same place.
    pub fn share_memory(&mut self, num_explainers: usize) {
        self.num_sharing = num_explainers.max(1);
    }

    /// A run begins: what one that was cut off had brought to the device is of other samples.
    pub fn begin(&mut self) {
        self.prefetched.take();
    }

    /// The model as it is run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Explains the samples in parts of at most `max_batch`; a part that fails is cut in halves, down to the one sample whose
    /// fault it is.
    fn explain_samples(
        &mut self,
        samples: Vec<DecodedSample>,
        pixels: &[f32],
        ahead: Ahead<'_>,
        shape: (usize, usize),
        result: &mut HeatmapBatch,
    ) -> Result<(), RunError> {
        if samples.is_empty() {
            return Ok(());
        }
        if samples.len() > self.max_batch {
            drop(ahead);
            return self.explain_halves(samples, pixels, shape, result);
        }
        let made = self.try_explain(&samples, pixels, ahead, shape);
        if let Err(error) = &made
            && !error.is_out_of_memory()
            && let Some(fault) = fault_of(self.plan.device())
        {
            return Err(unusable(&device_name(self.plan.device()), &fault, error));
        }
        match made {
            Ok(maps) => {
                for (sample, classes) in samples.into_iter().zip(maps) {
                    self.collect(sample, classes, result);
                }
            }
            Err(error) if samples.len() > 1 => {
                if error.is_out_of_memory() {
                    self.max_batch = samples.len() / 2;
                }
                return self.explain_halves(samples, pixels, shape, result);
            }
            Err(error) if error.is_out_of_memory() && self.probe_batch > 1 && self.options.probes() => {
                self.probe_batch /= 2;
                return self.explain_samples(samples, pixels, Ahead::default(), shape, result);
            }
            Err(error) => {
                let mut text = error.text();
                if matches!(error, ExplainError::Graph(_)) && !error.is_out_of_memory() {
                    text = format!("{text}; {}", self.sizes.said_of(&self.plan, shape));
                }
                for sample in samples {
                    result.failed.push(SampleFailure {
                        sample: sample.envelope.sample,
                        stage: Stage::Device,
                        error: text.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    fn explain_halves(
        &mut self,
        mut samples: Vec<DecodedSample>,
        pixels: &[f32],
        shape: (usize, usize),
        result: &mut HeatmapBatch,
    ) -> Result<(), RunError> {
        let (count, half) = (samples.len(), samples.len() / 2);
        let second = samples.split_off(half);
        let (first_pixels, second_pixels) = pixels.split_at(pixels.len() / count * half);
        self.explain_samples(samples, first_pixels, Ahead::default(), shape, result)?;
        self.explain_samples(second, second_pixels, Ahead::default(), shape, result)
    }

    /// Per sample its classes' heatmaps, without those classes that are not there; `None` where numbers are not finite.
    fn try_explain(
        &self,
        samples: &[DecodedSample],
        pixels: &[f32],
        ahead: Ahead<'_>,
        (height, width): (usize, usize),
    ) -> Result<Vec<Option<Vec<ClassHeatmaps>>>, ExplainError> {
        let size = [samples.len() as i64, self.channels, height as i64, width as i64];
        let input = ahead.input.map_or_else(|| self.plan.upload(pixels, size), Ok)?;
        let samples = TiSlice::from_ref(samples);
        let keys: Vec<String> = samples.iter().map(|sample| sample.envelope.sample.id.clone()).collect();
        let mut targets: TiVec<SampleIndex, _> = samples.iter().map(|sample| sample.targets.clone()).collect();
        let shown: TiVec<SampleIndex, _> = samples.iter().map(|sample| sample.region.part_with_image(height, width)).collect();
        let mut plain = self.saliencies(&input, &keys, &targets, &shown)?;
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
        let mut faithfulness = Grid::default();
        if self.options.faithfulness {
            faithfulness = self.faithfulness(&input, &plain.targets, &maps)?;
        }
        let drawn = || maps.iter().flat_map(|(_, maps)| maps);
        let shown: Vec<&Tensor> = drawn().map(|maps| &maps.shown).collect();
        let layer_maps: Vec<&Tensor> = drawn().filter_map(|maps| maps.layer_map.as_ref()).map(|(map, _)| map).collect();
        // All is launched: while the device computes, the host has time for the next batch.
        ahead.next.iter().for_each(|next| self.prefetch(next));
        let (mut on_host, layer_maps) = heatmap::to_heatmaps(&shown, &layer_maps)?;
        let mut layer_maps = layer_maps.into_iter();
        for ((heatmap, _), maps) in on_host.iter_mut().zip(drawn()) {
            let upsampling = maps.layer_map.as_ref().map(|(_, upsampling)| *upsampling);
            if let Some(upsampling) = upsampling
                && let Some(Heatmap { height, width, values, .. }) = layer_maps.next()
            {
                heatmap.layer_map = Some(LayerMap { height, width, values, upsampling });
            }
        }
        let mut on_host = on_host.into_iter();
        let mut classes: TiVec<SampleIndex, Option<Vec<ClassHeatmaps>>> = samples.iter().map(|_| Some(Vec::new())).collect();
        for ((cell, score), target) in plain.scores()?.into_iter().zip(plain.targets.into_iter().map(|(_, target)| target)) {
            let (heatmaps, is_finite): (Vec<_>, Vec<_>) = on_host.by_ref().take(self.columns.len()).unzip();
            if !score.is_finite() || !is_finite.into_iter().all(|is_finite| is_finite) {
                classes[cell.sample] = None;
            }
            let Some(classes) = &mut classes[cell.sample] else { continue };
            classes.push(ClassHeatmaps {
                class: samples[cell.sample].targets[usize::from(cell.target)].class,
                channel: target.class,
                score,
                confidence: plain.confidences.remove(cell),
                object: target.predicted,
                heatmaps,
                faithfulness: faithfulness.remove(cell).map(Vec::from).unwrap_or_default(),
            });
        }
        Ok(classes.into())
    }

    fn prefetch(&self, batch: &InputBatch) {
        let InputBatch { samples, pixels, height, width } = batch;
        // Without memory for two batches each is brought when its turn has come.
        let uploaded = self.plan.upload(pixels, [samples.len() as i64, self.channels, *height as i64, *width as i64]);
        self.prefetched.replace(samples.first().map(|first| first.envelope.sample.seq).zip(uploaded.ok()));
    }

    /// Adds a sample with its heatmaps to the result, and says where its classes are.
    fn collect(&self, sample: DecodedSample, classes: Option<Vec<ClassHeatmaps>>, result: &mut HeatmapBatch) {
        let Some(mut classes) = classes else {
            let error = "the model gives NaN or infinity for this image, so there is no heatmap".to_owned();
            result.failed.push(SampleFailure { sample: sample.envelope.sample, stage: Stage::Device, error });
            return;
        };
        // Heatmaps of a layer's own size show the model's input, others the whole image.
        let shows_more = self.options.size != HeatmapSize::Layer && !is_whole(&sample);
        let DecodedSample { envelope, targets, region, height, width, .. } = sample;
        for target in targets {
            if let TargetPixels::Mask(mask) = target.pixels
                && let Some(class) = classes.iter_mut().find(|class| class.class == target.class)
            {
                class.object = Some(mask);
            }
        }
        let mut seen = None;
        if shows_more {
            seen = Some(BinaryMask::full(height, width).onto_frame(&region));
            for class in &mut classes {
                class.object = class.object.take().map(|mask| on_image(&mask, &region, height, width));
            }
        }
        result.explained.push(ExplainedSample { envelope, seen, classes });
    }
}

/// The end of a run whose device fails at everything from an error on.
fn unusable(device: &str, fault: &str, error: &ExplainError) -> RunError {
    let at = match error {
        ExplainError::Graph(ExecError { node, operator, .. }) => format!(", noticed at node `{node}` ({operator})"),
        ExplainError::Torch(_) | ExplainError::Unsuitable(_) => String::new(),
    };
    RunError::Device(format!("device `{device}` cannot be used any more: {fault}{at}"))
}

/// A mask over a model's input of `height` x `width` pixels as one over the whole image.
fn on_image(mask: &BinaryMask, region: &FrameRegion, height: usize, width: usize) -> BinaryMask {
    mask.resize_nearest(height, width).onto_frame(region)
}

impl Explainer for TorchExplainer {
    fn prefetches(&self) -> bool {
        // On the CPU there is nothing to bring.
        self.plan.device().is_cuda()
    }

    fn explain(&mut self, batch: InputBatch, next: Option<&InputBatch>) -> Result<HeatmapBatch, RunError> {
        let mut result = HeatmapBatch::default();
        let InputBatch { samples, pixels, height, width } = batch;
        if let Some(error) = self.too_large(height, width) {
            let failure = |sample: DecodedSample| SampleFailure {
                sample: sample.envelope.sample,
                stage: Stage::Device,
                error: error.clone(),
            };
            result.failed.extend(samples.into_iter().map(failure));
            return Ok(result);
        }
        let first = samples.first().map(|first| first.envelope.sample.seq);
        let input = self.prefetched.take().filter(|(seq, _)| Some(*seq) == first).map(|(_, input)| input);
        let ahead = Ahead { input, next };
        if self.plan.device().is_cuda() {
            let is_full = self.full_batches.is_full(samples.len(), self.limit().of_shape(height, width));
            try_convolutions(is_full && !self.exact);
        }
        if self.footprint.is_some() {
            self.explain_samples(samples, &pixels, ahead, (height, width), &mut result)?;
        } else {
            let num_pixels = samples.len() * height * width;
            let explain = |this: &mut Self| this.explain_samples(samples, &pixels, ahead, (height, width), &mut result);
            self.measure(num_pixels, explain)?;
        }
        Ok(result)
    }

    fn batch_limit(&self) -> BatchLimit {
        self.limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::DispatchError;

    #[test]
    fn a_device_that_is_lost_is_named_with_what_was_running() {
        let source = DispatchError { message: "CUDA error: device-side assert triggered".into(), out_of_memory: false };
        let error = ExplainError::Graph(ExecError { node: "index_1".into(), operator: "aten::index.Tensor".into(), source });
        let text = unusable("cuda:1", "CUDA error: device-side assert triggered", &error).to_string();
        let wanted = "device `cuda:1` cannot be used any more: CUDA error: device-side assert triggered, \
                      noticed at node `index_1` (aten::index.Tensor)";
        assert_eq!(text, wanted);
        assert_eq!(fault_of(tch::Device::Cpu), None);
    }
}
