//! Heatmaps on a torch device: one forward, one backward per class, all layers, all methods.
//!
//! [`TorchExplainer`] is the [`Explainer`] of real runs: it cuts batches where memory runs out, says how large they may be
//! (`batch_size.rs`, `launch.rs`), and turns saliency maps into heatmaps in host memory (`drawing.rs`, `heatmap.rs`). `saliency.rs` takes one
//! tensor through the model, `pass.rs` has what methods are computed from, `cam/` has the methods, `target.rs` what is
//! differentiated.

mod attention;
mod batch_size;
mod cam;
mod class_gradients;
mod counterfactuals;
mod decision;
mod detection;
mod drawing;
mod faithfulness;
mod grid;
mod heatmap;
mod launch;
mod layout;
mod masks;
mod noise;
mod options;
mod parts;
mod pass;
mod probe;
mod replacement;
mod saliency;
mod sampling;
mod sess;
mod sizes;
mod slices;
mod smoothing;
mod target;
mod trial;

pub use attention::AttentionNeeds;
pub use cam::{CamMethod, GradCam, Gradients, Method, Reduction, Whole};
pub use heatmap::{HeatmapSize, heatmaps};
pub use options::{Column, ExplainOptions, Fusion, Reading, ScoreKind};
pub use replacement::Replacement;
pub use sampling::{Baseline, Sampling};
pub use trial::{depends_on_batch, deviations, not_pooled};

use crate::program::{
    Demand, Dynamic, ExecError, Layer, MathAttention, Plan, PlanOptions, Program, ProgramError, Tap, Uploader, from_tch,
};
use attention::AttentionTaps;
use batch_size::Footprint;
use cam::Needs;
use camflow_media::Normalization;
use camflow_pipeline::{BatchLimit, Explainer, HeatmapBatch, InputBatch, RunError};
use class_gradients::ClassGradients;
use grid::{ColumnIndex, LayerIndex};
use launch::{Launched, failure};
use parts::Unfinished;
use pass::{ClassScore, Derivative, NetworkTaps, Order, Taps};
use sizes::Sizes;
use slices::MapSizes;
use std::any::TypeId;
use typed_index_collections::TiVec;

/// Computes heatmaps with libtorch.
pub struct TorchExplainer {
    plan: Plan,
    /// The same whose ReLUs let positive gradients back alone, and its image; where a method looks at that.
    guided: Option<(Plan, Tap)>,
    /// What black is in each channel of the model's input.
    black: Vec<f32>,
    options: ExplainOptions,
    columns: TiVec<ColumnIndex, Column>,
    /// What columns need no pass back for.
    class_gradients: ClassGradients,
    taps: Taps,
    /// Those that some method needs, one for each objective.
    derivatives: Vec<Derivative>,
    /// Where one of them is the second.
    _math_attention: Option<MathAttention>,
    /// 1 for a model that takes nothing but the batch of its export, or minds the others in it; lowered when memory ran out.
    max_batch: usize,
    /// What batches take of memory: known after the first one.
    footprint: Option<Footprint>,
    /// How many explainers take memory from where this one does.
    num_sharing: usize,
    /// Likewise, of variants of a sample.
    probe_batch: usize,
    /// What sizes of its input the model takes.
    sizes: Sizes,
    /// The sizes of what methods give for inputs of a size, where slices were explained.
    map_sizes: Option<((usize, usize), MapSizes)>,
    uploader: Uploader,
    /// So that the device always has something to do, while the host reads what it made before.
    runs_ahead: bool,
    /// What was launched and not looked at.
    launched: Vec<Launched>,
    /// The sample of which not all heatmaps are drawn.
    unfinished: Option<Unfinished>,
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
        let mut demand = Demand { boxes: program.detections().map(|(_, boxes)| boxes), ..Demand::of(program.primary_output()) };
        let layers: TiVec<LayerIndex, Tap> = options.layers.iter().map(|layer| demand.tap(layer.tap)).collect();
        let columns: TiVec<ColumnIndex, Column> = options.columns().into();
        // `--exact` has the gradients of every image from libtorch; those of a probability depend on the image.
        let takes_gradients = options.references.is_none()
            && !plan_options.exact
            && options.reading.score == ScoreKind::Logit
            && options.methods.iter().any(|method| method.differentiated().is_some());
        let is_affine = |layer: &Layer| takes_gradients && program.is_affine_behind(layer.tap);
        let affine: Vec<bool> = options.layers.iter().map(is_affine).collect();
        let resumes = needs.iter().any(|needs| needs.resumes);
        let from = options.layers.iter().zip(&affine).filter(|(_, is_affine)| resumes || **is_affine);
        demand.resume_from = from.map(|(layer, _)| layer.tap).collect();
        let mut network = None;
        if needs.iter().any(|needs| needs.network || needs.image) {
            let input = demand.tap(program.input());
            let biases = if needs.iter().any(|needs| needs.network) { program.biases(plan_options)? } else { Vec::new() };
            let biases = biases.into_iter().map(|bias| (bias.values, demand.tap(bias.tap))).collect();
            network = Some(NetworkTaps { input, biases });
        }
        let guided = needs.iter().any(|needs| needs.guided).then(|| guided(program, plan_options, &options)).transpose()?;
        let attention = needs.iter().filter_map(|needs| needs.attention).reduce(AttentionNeeds::or);
        let attention = attention.map(|needs| AttentionTaps::new(program, &options.layers, needs, &mut demand)).transpose()?;
        let mut asked = needs.iter().filter_map(|needs| needs.derivative).peekable();
        let is_first = asked.peek().is_some()
            && asked.all(|asked| asked.order == Order::First && asked.objective == TypeId::of::<ClassScore>());
        demand.patches = is_first && network.is_none() && attention.is_none();
        let mut plan = Plan::new(program, &demand, plan_options)?;
        let max_batch = if program.metadata.input.dynamic == Dynamic::None || options.one_by_one { 1 } else { usize::MAX };
        let is_shared = |layer: &LayerIndex| affine[usize::from(*layer)] && plan.runs_on_from(layers[*layer]);
        let of_shared = |column: &Column| {
            let takes = |layer: &LayerIndex| {
                let layout = options.layers[usize::from(*layer)].layout;
                is_shared(layer) && column.method.takes_shared(layout, options.reduction())
            };
            !column.layers.is_empty() && column.layers.iter().all(takes)
        };
        let class_gradients = ClassGradients::new(columns.iter().map(of_shared).collect(), max_batch);
        let mut derivatives: Vec<Derivative> = Vec::new();
        let others = columns.iter_enumerated().filter(|(index, _)| !class_gradients.has(*index));
        for derivative in others.filter_map(|(_, column)| column.method.needs().derivative) {
            match derivatives.iter_mut().find(|known| known.objective == derivative.objective) {
                Some(known) => known.order = known.order.max(derivative.order),
                None => derivatives.push(derivative),
            }
        }
        let is_second = derivatives.iter().any(|derivative| derivative.order == Order::Second);
        options.references.iter().try_for_each(|references| plan.compare(program, references))?;
        let uploader =
            Uploader::new(plan.device(), program).map_err(|error| program.device_error(plan_options.device, &error))?;
        let Normalization { mean, std, .. } = program.metadata.preprocess.normalization();
        Ok(TorchExplainer {
            plan,
            guided,
            black: mean.iter().zip(&std).map(|(mean, std)| -mean / std).collect(),
            class_gradients,
            taps: Taps { layers, network, attention },
            derivatives,
            _math_attention: is_second.then(MathAttention::new),
            columns,
            max_batch,
            footprint: None,
            num_sharing: 1,
            probe_batch: options.probe_batch.clamp(1, max_batch),
            sizes: Sizes::of(&program.metadata.input),
            map_sizes: None,
            uploader,
            // The CPU computes on the thread that launches.
            runs_ahead: plan_options.device.is_cuda(),
            launched: Vec::new(),
            unfinished: None,
            options,
        })
    }

    /// Says that so many explainers, this one among them, take their memory from the same place.
    pub fn share_memory(&mut self, num_explainers: usize) {
        self.num_sharing = num_explainers.max(1);
    }

    /// Whether a batch is launched before those before it are looked at. Without being told, a GPU does so.
    pub fn run_ahead(&mut self, runs_ahead: bool) {
        self.runs_ahead = runs_ahead;
    }

    /// A run begins: what one that was cut off had launched is of other samples.
    pub fn begin(&mut self) {
        self.launched.clear();
        self.unfinished = None;
    }

    /// Whether it takes one sample at a time: the model takes nothing but the batch of its export, or minds the others in it.
    pub fn is_one_by_one(&self) -> bool {
        self.max_batch == 1
    }

    /// The model as it is run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

/// The network whose ReLUs let positive gradients back alone, and where its image is captured.
fn guided(program: &Program, plan_options: PlanOptions, options: &ExplainOptions) -> Result<(Plan, Tap), ProgramError> {
    program.check_guided()?;
    let mut demand = Demand { guided: true, ..Demand::of(program.primary_output()) };
    let input = demand.tap(program.input());
    let mut plan = Plan::new(program, &demand, plan_options)?;
    options.references.iter().try_for_each(|references| plan.compare(program, references))?;
    Ok((plan, input))
}

/// The end of a run whose device fails at everything from an error on.
fn unusable(device: &str, fault: &str, error: &ExplainError) -> RunError {
    let at = match error {
        ExplainError::Graph(ExecError { node, operator, .. }) => format!(", noticed at node `{node}` ({operator})"),
        ExplainError::Torch(_) | ExplainError::Unsuitable(_) => String::new(),
    };
    RunError::Device(format!("device `{device}` cannot be used any more: {fault}{at}"))
}

impl Explainer for TorchExplainer {
    fn explain(&mut self, batch: InputBatch) -> Result<HeatmapBatch, RunError> {
        let mut result = self.rest_of_parts()?;
        let InputBatch { samples, height, width } = batch;
        if samples.iter().any(|sample| sample.slices.is_some()) {
            let before = std::mem::take(&mut self.launched);
            self.collect(before, &mut result)?;
            // They are alone in their batches.
            samples.into_iter().try_for_each(|sample| self.explain_slices(sample, &mut result))?;
            return Ok(result);
        }
        if let Some(error) = self.too_large(height, width) {
            result.failed.extend(samples.into_iter().map(|sample| failure(sample, error.clone())));
            return Ok(result);
        }
        let before = std::mem::take(&mut self.launched);
        if let Some(at_once) = self.classes_at_once(&samples, (height, width)) {
            let see = |this: &mut Self| this.see_for_parts(&samples, (height, width), at_once);
            self.unfinished = match self.footprint {
                Some(_) => see(self),
                None => self.measure(height * width, see),
            };
            if self.unfinished.is_some() {
                self.collect(before, &mut result)?;
                return Ok(result);
            }
        }
        if self.footprint.is_some() {
            self.launch(samples, (height, width), &mut result)?;
        } else {
            let num_pixels = samples.len() * height * width;
            self.measure(num_pixels, |this| this.launch(samples, (height, width), &mut result))?;
        }
        // While the device computes this one, the host looks at what it made before.
        self.collect(before, &mut result)?;
        if !self.runs_ahead {
            let launched = std::mem::take(&mut self.launched);
            self.collect(launched, &mut result)?;
        }
        Ok(result)
    }

    fn next_part(&mut self) -> Result<Option<HeatmapBatch>, RunError> {
        self.draw_part()
    }

    fn finish(&mut self) -> Result<HeatmapBatch, RunError> {
        let mut result = self.rest_of_parts()?;
        let launched = std::mem::take(&mut self.launched);
        self.collect(launched, &mut result)?;
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
        assert_eq!(crate::program::fault_of(tch::Device::Cpu), None);
    }
}
