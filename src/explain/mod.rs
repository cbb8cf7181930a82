//! Heatmaps on a torch device: one forward, one backward per class, all layers.
//!
//! [`TorchExplainer`] is the [`Explainer`] of real runs. It owns the [`Plan`]; one thread owns it.

mod cam;
mod heatmap;
mod target;

use tch::{Kind, Tensor};

pub use cam::Method;
pub use heatmap::HeatmapSize;

use crate::{
    pipeline::{
        ClassHeatmaps, DecodedSample, ExplainedSample, Explainer, Heatmap, HeatmapBatch, InputBatch, RunError, SampleFailure,
        Skip, SkipReason, Stage,
    },
    program::{ExecError, Layer, Layout, Plan, TokenInfo, from_tch},
};
use target::Score;

/// What is explained.
#[derive(Clone, Debug)]
pub struct ExplainOptions {
    /// Target layers: the plan's taps, in the same order.
    pub layers: Vec<Layer>,
    /// The output's channel for what is none of the classes, if it has one.
    pub background: Option<i64>,
    /// CAM method.
    pub method: Method,
    /// Size of the heatmaps.
    pub size: HeatmapSize,
    /// How tokens map to a grid, for models that have them.
    pub tokens: Option<TokenInfo>,
}

/// Computes heatmaps with libtorch.
pub struct TorchExplainer {
    plan: Plan,
    options: ExplainOptions,
    /// Lowered when memory ran out.
    max_batch: usize,
}

/// Why a batch gave nothing.
#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error(transparent)]
    Graph(#[from] ExecError),
    #[error("{0}")]
    Torch(#[from] tch::TchError),
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
    /// An explainer whose plan taps the layers of the options.
    pub fn new(plan: Plan, options: ExplainOptions) -> Self {
        TorchExplainer { plan, options, max_batch: usize::MAX }
    }

    /// Explains the samples in parts of at most `max_batch`; a part that fails is cut in halves, down to the one sample whose
    /// fault it is.
    fn explain_samples(&mut self, samples: Vec<DecodedSample>, pixels: &[f32], shape: (usize, usize), result: &mut HeatmapBatch) {
        if samples.is_empty() {
            return;
        }
        if samples.len() > self.max_batch {
            return self.explain_halves(samples, pixels, shape, result);
        }
        match self.try_explain(&samples, pixels, shape) {
            Ok(maps) => {
                for (sample, classes) in samples.into_iter().zip(maps) {
                    collect(sample, classes, result);
                }
            }
            Err(error) if samples.len() > 1 => {
                if error.is_out_of_memory() {
                    self.max_batch = samples.len() / 2;
                }
                self.explain_halves(samples, pixels, shape, result);
            }
            Err(error) => {
                for sample in samples {
                    result.failed.push(SampleFailure { sample: sample.sample, stage: Stage::Device, error: error.text() });
                }
            }
        }
    }

    fn explain_halves(
        &mut self,
        mut samples: Vec<DecodedSample>,
        pixels: &[f32],
        shape: (usize, usize),
        result: &mut HeatmapBatch,
    ) {
        let half = samples.len() / 2;
        let second = samples.split_off(half);
        let (first_pixels, second_pixels) = pixels.split_at(half * 3 * shape.0 * shape.1);
        self.explain_samples(samples, first_pixels, shape, result);
        self.explain_samples(second, second_pixels, shape, result);
    }

    /// Per sample its classes' heatmaps, without those classes that the model does not predict anywhere.
    fn try_explain(
        &self,
        samples: &[DecodedSample],
        pixels: &[f32],
        (height, width): (usize, usize),
    ) -> Result<Vec<Vec<ClassHeatmaps>>, ExplainError> {
        let size = [samples.len() as i64, 3, height as i64, width as i64];
        let input = Tensor::f_from_slice(pixels)?.f_view(&size[..])?;
        let execution = self.plan.run(&input)?;
        let logits = &execution.output;
        if logits.dim() != 2 && logits.dim() != 4 {
            return Err(ExplainError::Unsuitable(format!(
                "the model's output has shape {:?}; class logits [N, K] or [N, K, H, W] are wanted, wrap the model at export",
                logits.size()
            )));
        }
        let mut maps: Vec<Vec<ClassHeatmaps>> = samples.iter().map(|_| Vec::new()).collect();
        let num_passes = samples.iter().map(|sample| sample.targets.len()).max().unwrap_or(0);
        // Pass `k` explains every sample's k-th class: samples do not influence each other, so their gradients do not mix.
        for pass in 0..num_passes {
            let scores = self.scores(logits, samples, pass)?;
            let present: Vec<&Tensor> = scores.iter().flatten().map(|(_, score)| score).collect();
            if present.is_empty() {
                continue;
            }
            let root = Tensor::f_stack(&present, 0)?.f_sum(None::<Kind>)?;
            let keep_graph = pass + 1 < num_passes;
            let gradients = Tensor::f_run_backward(&[&root], &execution.taps, keep_graph, false)?;
            let _no_grad = tch::no_grad_guard();
            let mut saliencies = Vec::with_capacity(gradients.len());
            for ((activation, gradient), layer) in execution.taps.iter().zip(&gradients).zip(&self.options.layers) {
                if !gradient.defined() {
                    return Err(ExplainError::Unsuitable(format!(
                        "layer `{}` has no influence on the model's output",
                        layer.path
                    )));
                }
                let activation = self.as_nchw(&activation.f_detach()?, layer)?;
                saliencies.push(self.options.method.saliency(&activation, &self.as_nchw(gradient, layer)?)?);
            }
            for (index, sample) in samples.iter().enumerate() {
                let (Some(target), Some((channel, score))) = (sample.targets.get(pass), &scores[index]) else { continue };
                let mut layers = Vec::with_capacity(saliencies.len());
                for saliency in &saliencies {
                    layers.push(self.heatmap(&saliency.f_narrow(0, index as i64, 1)?, sample, (height, width))?);
                }
                maps[index].push(ClassHeatmaps {
                    class: target.class,
                    channel: *channel,
                    score: score.f_double_value(&[])?,
                    layers,
                });
            }
        }
        Ok(maps)
    }

    /// Per sample the channel and score of its `pass`-th class, if it has one and it is there.
    fn scores(
        &self,
        logits: &Tensor,
        samples: &[DecodedSample],
        pass: usize,
    ) -> Result<Vec<Option<(i64, Tensor)>>, tch::TchError> {
        let mut scores = Vec::with_capacity(samples.len());
        for (index, sample) in (0i64..).zip(samples) {
            let Some(target) = sample.targets.get(pass) else {
                scores.push(None);
                continue;
            };
            let own = logits.f_narrow(0, index, 1)?;
            let score = Score::resolve(&own.f_detach()?, target, self.options.background)?;
            let value = |score: Score| score.of(&own)?.f_squeeze_dim(0).map(|value| (score.channel, value));
            scores.push(score.map(value).transpose()?);
        }
        Ok(scores)
    }

    /// One heatmap in host memory from a saliency `[1, H', W']`.
    fn heatmap(&self, saliency: &Tensor, sample: &DecodedSample, input: (usize, usize)) -> Result<Heatmap, tch::TchError> {
        let size = match self.options.size {
            HeatmapSize::Layer => None,
            HeatmapSize::Input => Some(input),
            // Straight from the layer to the image where nothing was cropped.
            HeatmapSize::Image if is_whole(sample) => Some((sample.region.image_height, sample.region.image_width)),
            HeatmapSize::Image => Some(input),
        };
        let mut map = heatmap::heatmaps(saliency, size)?;
        if self.options.size != HeatmapSize::Layer && !is_whole(sample) {
            map = heatmap::place_in_frame(&map, &sample.region)?;
            if self.options.size == HeatmapSize::Image {
                map = heatmap::resize_to_image(&map, &sample.region)?;
            }
        }
        let (height, width) = (map.size()[1] as usize, map.size()[2] as usize);
        let values = Vec::<f32>::try_from(map.f_to_kind(Kind::Float)?.f_contiguous()?.f_view([-1i64])?)?;
        Ok(Heatmap { height, width, values })
    }

    /// Any layout as `[N, C, H', W']`.
    fn as_nchw(&self, tensor: &Tensor, layer: &Layer) -> Result<Tensor, ExplainError> {
        let wrong = |wanted: &str| {
            ExplainError::Unsuitable(format!("layer `{}` gives shape {:?}, not {wanted}", layer.path, tensor.size()))
        };
        match layer.layout {
            Layout::Nchw if tensor.dim() == 4 => Ok(tensor.shallow_clone()),
            Layout::Nchw => Err(wrong("[N, C, H, W]")),
            Layout::Nhwc if tensor.dim() == 4 => Ok(tensor.f_permute([0i64, 3, 1, 2])?),
            Layout::Nhwc => Err(wrong("[N, H, W, C]")),
            Layout::Tokens => {
                let tokens =
                    self.options.tokens.as_ref().filter(|_| tensor.dim() == 3).ok_or_else(|| wrong("tokens [N, T, C]"))?;
                let (n, t, c) = tensor.size3()?;
                let [rows, columns] = tokens.grid;
                if t - tokens.prefix != rows * columns {
                    return Err(wrong(&format!("{} + {rows} x {columns} tokens", tokens.prefix)));
                }
                let grid = tensor.f_narrow(1, tokens.prefix, rows * columns)?;
                Ok(grid.f_reshape([n, rows, columns, c])?.f_permute([0i64, 3, 1, 2])?)
            }
        }
    }
}

/// Whether the model saw the whole image.
fn is_whole(sample: &DecodedSample) -> bool {
    let region = &sample.region;
    (region.top, region.left) == (0, 0) && (region.frame_height, region.frame_width) == (sample.height, sample.width)
}

fn collect(sample: DecodedSample, classes: Vec<ClassHeatmaps>, result: &mut HeatmapBatch) {
    if classes.is_empty() {
        result.skipped.push(Skip { sample: sample.sample, reason: SkipReason::ClassAbsent });
        return;
    }
    let finite = |map: &Heatmap| map.values.iter().all(|value| value.is_finite());
    if classes.iter().any(|class| !class.score.is_finite() || !class.layers.iter().all(finite)) {
        let error = "the model gives NaN or infinity for this image, so there is no heatmap".to_owned();
        result.failed.push(SampleFailure { sample: sample.sample, stage: Stage::Device, error });
        return;
    }
    let DecodedSample { sample, fingerprint, existing, .. } = sample;
    result.explained.push(ExplainedSample { sample, fingerprint, existing, classes });
}

impl Explainer for TorchExplainer {
    fn explain(&mut self, batch: InputBatch) -> Result<HeatmapBatch, RunError> {
        let mut result = HeatmapBatch::default();
        let InputBatch { samples, pixels, height, width } = batch;
        self.explain_samples(samples, &pixels, (height, width), &mut result);
        Ok(result)
    }
}
