//! What is there to compute saliency from: a [`Run`] of the model on a batch, and in it a [`Pass`] for one target of every
//! sample. Samples do not influence each other, so the gradients of a pass do not mix.
//!
//! Derivatives are taken when they are asked for, each once, and the graph that they need is freed with the last one.

mod variants;

use std::{
    any::TypeId,
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
};

use tch::{Kind, TchError, Tensor};
use typed_index_collections::{TiSlice, TiVec};

use super::{
    ExplainError,
    attention::{AttentionTaps, Place, Reading, by_heads, precise},
    grid::{self, Grid, LayerIndex, SampleIndex, TargetIndex},
    layout::{as_nchw, of_image, repeated},
    probe::{Probe, ProbeOptions},
    sampling::Sampling,
    target::{Score, class_scores},
};
use crate::program::{self, Area, Execution, Layer, Layout, Patch, Plan, Tap};
pub(super) use variants::Noise;
use variants::VariantRun;

/// A scalar of each sample that is differentiated.
pub trait Objective: 'static {
    /// The scalars `[n]` of the samples with these scores, from the batch's output.
    ///
    /// # Errors
    /// libtorch fails.
    fn values(output: &Tensor, scores: &[(SampleIndex, &Score)]) -> Result<Tensor, TchError>;
}

/// From a batch's output and scores of its samples to a scalar of each.
type Values = fn(&Tensor, &[(SampleIndex, &Score)]) -> Result<Tensor, TchError>;

/// An objective's [`Objective::values`], and which it is.
#[derive(Clone, Copy)]
pub struct Differentiated {
    /// Whose.
    pub objective: TypeId,
    /// Of logits and scores.
    pub values: Values,
}

impl Differentiated {
    /// That of an objective.
    pub fn of<O: Objective>() -> Self {
        Differentiated { objective: TypeId::of::<O>(), values: O::values }
    }
}

/// The score itself.
#[derive(Clone, Copy, Debug)]
pub struct ClassScore;

impl Objective for ClassScore {
    fn values(output: &Tensor, scores: &[(SampleIndex, &Score)]) -> Result<Tensor, TchError> {
        class_scores(output, scores)
    }
}

/// How often an objective is differentiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Its gradient.
    First,
    /// Its Hessian, too.
    Second,
}

/// A derivative with respect to what is tapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Derivative {
    /// Of which [`Objective`].
    pub objective: TypeId,
    /// Up to which order.
    pub order: Order,
}

/// Where runs are looked at.
#[derive(Debug)]
pub struct Taps {
    /// The target layers.
    pub layers: TiVec<LayerIndex, Tap>,
    /// The image and the biases, where a method looks at them.
    pub network: Option<NetworkTaps>,
    /// Attention, likewise.
    pub attention: Option<AttentionTaps>,
}

/// Where the network as a whole is looked at.
#[derive(Debug)]
pub struct NetworkTaps {
    /// The image.
    pub input: Tap,
    /// Each bias `[C]`, f32, with its operator's output.
    pub biases: Vec<(Tensor, Tap)>,
}

/// A run of the model on a batch.
pub struct Run<'a> {
    plan: &'a Plan,
    execution: Execution,
    /// Of the network whose ReLUs let positive gradients back alone, and where its image is.
    guided: Option<(Execution, Tap)>,
    layers: &'a TiSlice<LayerIndex, Layer>,
    taps: &'a Taps,
    keys: &'a [String],
    derivatives: &'a [Derivative],
    probe_options: ProbeOptions,
    sampling: (Sampling, &'a [f32]),
    scores: Grid<Score>,
    activations: RefCell<TiVec<LayerIndex, Option<Tensor>>>,
    /// Channel weights `[C]` that a method found for a layer, for all passes at once.
    probed: RefCell<Vec<(Probing, Rc<Grid<Tensor>>)>>,
    /// What came of variants with noise, likewise.
    noisy: RefCell<Vec<(Noise, Rc<Vec<VariantRun>>)>>,
}

/// A method's type, and the layer whose channels it weighs, if it is of one.
type Probing = (TypeId, Option<LayerIndex>);

/// What is asked of all runs.
pub struct Setting<'a> {
    /// The model.
    pub plan: &'a Plan,
    /// Target layers.
    pub layers: &'a [Layer],
    /// Where those and others are captured.
    pub taps: &'a Taps,
    /// The derivatives that somebody will ask for, one for each objective.
    pub derivatives: &'a [Derivative],
    /// How variants of a sample are run.
    pub probe_options: ProbeOptions,
    /// How methods at the image itself ask the model, and what black is in each channel of its input.
    pub sampling: (Sampling, &'a [f32]),
}

impl<'a> Run<'a> {
    /// Of what a batch left, by the guided network too where a method looks at that, and its scores. `keys` tell samples apart where chance
    /// plays a part.
    pub fn new(
        setting: Setting<'a>,
        execution: Execution,
        guided: Option<(Execution, Tap)>,
        scores: Grid<Score>,
        keys: &'a [String],
    ) -> Self {
        let Setting { plan, layers, taps, derivatives, probe_options, sampling } = setting;
        let (activations, probed) = (RefCell::new(layers.iter().map(|_| None).collect()), RefCell::default());
        let (layers, noisy) = (TiSlice::from_ref(layers), RefCell::default());
        Run {
            plan,
            execution,
            guided,
            layers,
            taps,
            keys,
            derivatives,
            probe_options,
            sampling,
            scores,
            activations,
            probed,
            noisy,
        }
    }

    /// What is differentiated, of each class that is there.
    pub fn scores(&self) -> &Grid<Score> {
        &self.scores
    }

    /// A target layer.
    fn layer(&self, layer: LayerIndex) -> &'a Layer {
        &self.layers[layer]
    }

    /// The activation of a layer as the model has it.
    fn tapped(&self, layer: LayerIndex) -> Result<Tensor, TchError> {
        self.taps.layers[layer].of(&self.execution.taps).f_detach()
    }

    /// What a layer gave, as `[N, C, H', W']`.
    fn nchw(&self, tensor: &Tensor, layer: LayerIndex) -> Result<Tensor, ExplainError> {
        let (height, width) = self.input_size();
        as_nchw(tensor, self.layer(layer), [height, width])
    }

    /// The activation of a layer, `[N, C, H', W']`. Methods compute in f32 what the model computed in less.
    pub fn activation(&self, layer: LayerIndex) -> Result<Tensor, ExplainError> {
        let known = self.activations.borrow()[layer].as_ref().map(Tensor::shallow_clone);
        if let Some(known) = known {
            return Ok(known);
        }
        let activation = self.nchw(&self.tapped(layer)?.f_to_kind(self.plan.kind())?, layer)?;
        self.activations.borrow_mut()[layer] = Some(activation.shallow_clone());
        Ok(activation)
    }

    /// Rows and columns of the input.
    pub fn input_size(&self) -> (i64, i64) {
        let size = self.execution.input.size();
        (size[2], size[3])
    }

    /// The logits, without the graph behind them.
    pub fn output(&self) -> Result<Tensor, TchError> {
        self.execution.output.f_detach()
    }

    /// The gradient `[T, C, H', W']` of each of `T` scores with respect to a layer in front of which no image changes it: the network is run
    /// on from the first sample's activation, `T` times at once.
    pub fn shared_gradients(&self, layer: LayerIndex, scores: &[&Score]) -> Result<Tensor, ExplainError> {
        let count = scores.len() as i64;
        let activation = of_image(&self.tapped(layer)?, self.layer(layer), 0)?;
        let activation = repeated(&activation, self.layer(layer), count)?.f_detach()?.f_set_requires_grad(true)?;
        let gradient = tch::with_grad(|| -> Result<Tensor, ExplainError> {
            let output = self.plan.resume_recording(self.taps.layers[layer], &self.execution, 0, &activation, count)?;
            let each: Vec<_> = scores.iter().enumerate().map(|(row, score)| (SampleIndex::from(row), *score)).collect();
            let root = class_scores(&output, &each)?.f_sum(None::<Kind>)?;
            Ok(program::gradients(&root, &[activation.shallow_clone()], false, false)?.swap_remove(0))
        })?;
        if !gradient.defined() {
            return Err(no_influence(self.layer(layer)));
        }
        self.nchw(&gradient.f_detach()?.f_to_kind(self.plan.kind())?, layer)
    }

    /// The same, when nothing else of the run is needed any more.
    pub fn into_scores(self) -> Grid<Score> {
        self.scores
    }
}

fn no_influence(layer: &Layer) -> ExplainError {
    ExplainError::Unsuitable(format!("layer `{}` has no influence on the model's output", layer.path))
}

/// Of a sample, its gradient with respect to each tap; none where it is zero everywhere.
type SamplePatches = (SampleIndex, Vec<Option<Patch>>);

/// A part of a layer.
#[derive(Debug)]
pub struct Part {
    /// Of which sample.
    pub sample: SampleIndex,
    /// Where.
    pub area: Area,
    /// The activation there, `[1, C, h, w]`.
    pub activation: Tensor,
    /// The gradient there, of the same shape.
    pub gradient: Tensor,
}

/// One target of every sample that has it.
pub struct Pass<'a> {
    run: &'a Run<'a>,
    target: TargetIndex,
    present: Vec<(SampleIndex, &'a Score)>,
    /// Whether the graph is of no use to another pass.
    is_last: bool,
    /// Objectives that are still to be differentiated.
    num_open: Cell<usize>,
    values: RefCell<Vec<(TypeId, Tensor)>>,
    gradients: RefCell<Vec<(TypeId, Rc<Vec<Tensor>>)>>,
    guided: RefCell<Option<Tensor>>,
    patches: OnceCell<Option<Vec<SamplePatches>>>,
}

impl<'a> Pass<'a> {
    /// Of a target that some sample has.
    pub fn new(run: &'a Run<'a>, target: TargetIndex, is_last: bool) -> Self {
        Pass {
            run,
            target,
            present: run.scores.of_target(target).collect(),
            is_last,
            num_open: Cell::new(run.derivatives.len()),
            values: RefCell::default(),
            gradients: RefCell::default(),
            guided: RefCell::default(),
            patches: OnceCell::new(),
        }
    }

    /// A target layer.
    pub fn layer(&self, layer: LayerIndex) -> &'a Layer {
        self.run.layer(layer)
    }

    /// What tells the samples apart where chance plays a part.
    pub fn keys(&self) -> &'a [String] {
        self.run.keys
    }

    /// Where a layer is captured.
    pub fn tap(&self, layer: LayerIndex) -> Tap {
        self.run.taps.layers[layer]
    }

    /// The activation of a layer as the model has it.
    pub fn tapped(&self, layer: LayerIndex) -> Result<Tensor, TchError> {
        self.run.tapped(layer)
    }

    /// What a layer gave, as `[N, C, H', W']`.
    pub fn nchw(&self, tensor: &Tensor, layer: LayerIndex) -> Result<Tensor, ExplainError> {
        self.run.nchw(tensor, layer)
    }

    /// The activation of a layer, `[N, C, H', W']`. Methods compute in f32 what the model computed in less.
    pub fn activation(&self, layer: LayerIndex) -> Result<Tensor, ExplainError> {
        self.run.activation(layer)
    }

    /// The scalars `[n]` of the samples that have the target, with the graph behind them where there is one.
    pub fn values<O: Objective>(&self) -> Result<Tensor, TchError> {
        let objective = TypeId::of::<O>();
        let known = self.values.borrow().iter().find(|(known, _)| *known == objective).map(|(_, values)| values.shallow_clone());
        if let Some(known) = known {
            return Ok(known);
        }
        let values = tch::with_grad(|| O::values(&self.run.execution.output, &self.present))?;
        self.values.borrow_mut().push((objective, values.shallow_clone()));
        Ok(values)
    }

    /// The gradient with respect to a layer, `[N, C, H', W']`.
    pub fn gradient<O: Objective>(&self, layer: LayerIndex) -> Result<Tensor, ExplainError> {
        let gradients = self.gradients::<O>()?;
        self.gradient_of_layer(self.tap(layer).of(&gradients), layer)
    }

    /// A gradient with respect to a layer's tap, as `[N, C, H', W']`.
    fn gradient_of_layer(&self, gradient: &Tensor, layer: LayerIndex) -> Result<Tensor, ExplainError> {
        if !gradient.defined() && self.run.plan.leaves_out_zeros() {
            return Ok(self.activation(layer)?.f_zeros_like()?);
        }
        if !gradient.defined() {
            return Err(no_influence(self.layer(layer)));
        }
        self.nchw(&gradient.f_detach()?.f_to_kind(self.run.plan.kind())?, layer)
    }

    /// The product of the Hessian with respect to a layer and the layer's activation, `[N, C, H', W']`.
    pub fn hessian_product<O: Objective>(&self, layer: LayerIndex) -> Result<Tensor, ExplainError> {
        let gradients = self.gradients::<O>()?;
        let (activation, gradient) = (self.tap(layer).of(&self.run.execution.taps), self.tap(layer).of(&gradients));
        // All behind the layer may be linear.
        let mut product = Tensor::new();
        if gradient.defined() && gradient.requires_grad() {
            let root = tch::with_grad(|| gradient.f_mul(&activation.f_detach()?)?.f_sum(None::<Kind>))?;
            product = program::gradients(&root, &[activation.shallow_clone()], true, false)?.remove(0);
        }
        if !product.defined() {
            product = activation.f_detach()?.f_zeros_like()?;
        }
        self.nchw(&product.f_detach()?.f_to_kind(self.run.plan.kind())?, layer)
    }

    /// The image and its gradient, `[N, 3, H, W]` both.
    pub fn image_gradient<O: Objective>(&self) -> Result<(Tensor, Tensor), ExplainError> {
        let (input, gradients) = (self.network().input, self.gradients::<O>()?);
        let gradient = input.of(&gradients);
        let image = input.of(&self.run.execution.taps).f_detach()?;
        if !gradient.defined() && self.run.plan.leaves_out_zeros() {
            let zeros = image.f_zeros_like()?;
            return Ok((image, zeros));
        }
        if !gradient.defined() {
            return Err(image_without_influence());
        }
        Ok((image, gradient.shallow_clone()))
    }

    /// The gradient in the image, `[N, C, H, W]`, of the network whose ReLUs let positive gradients back alone.
    pub fn guided_gradient(&self) -> Result<Tensor, ExplainError> {
        if let Some(known) = &*self.guided.borrow() {
            return Ok(known.shallow_clone());
        }
        let (execution, input) = self.run.guided.as_ref().expect("run where it is needed");
        let root = tch::with_grad(|| class_scores(&execution.output, &self.present)?.f_sum(None::<Kind>))?;
        let found = program::gradients(&root, &[input.of(&execution.taps).shallow_clone()], !self.is_last, false)?.remove(0);
        if !found.defined() {
            return Err(image_without_influence());
        }
        let found = found.f_detach()?.f_to_kind(self.run.plan.kind())?;
        *self.guided.borrow_mut() = Some(found.shallow_clone());
        Ok(found)
    }

    /// How methods at the image itself ask the model, and what black is in each channel of its input.
    pub fn sampling(&self) -> (Sampling, &'a [f32]) {
        self.run.sampling
    }

    /// Each bias `[C]` with the gradient of its operator's output, where that has one.
    pub fn bias_gradients<O: Objective>(&self) -> Result<Vec<(&'a Tensor, Tensor)>, ExplainError> {
        let gradients = self.gradients::<O>()?;
        let biases = self.network().biases.iter().map(|(bias, tap)| (bias, tap.of(&gradients).shallow_clone()));
        Ok(biases.filter(|(_, gradient)| gradient.defined()).collect())
    }

    /// Where attention is looked at.
    pub fn attention(&self) -> &'a AttentionTaps {
        self.run.taps.attention.as_ref().expect("tapped where attention is needed")
    }

    /// Where the patches are among the tokens of a layer, and of the attention up to it.
    pub fn place(&self, layer: LayerIndex) -> Result<Place, ExplainError> {
        let size = self.run.execution.input.size();
        let layer = self.layer(layer);
        let tokens = layer.tokens.as_ref();
        let tokens = tokens.ok_or_else(|| ExplainError::Unsuitable(format!("layer `{}` gives no tokens", layer.path)))?;
        Ok(Place { prefix: tokens.prefix, grid: tokens.grid_of([size[2], size[3]]) })
    }

    /// What was seen of attention, head by head: `[N, heads, ...]`.
    pub fn attention_of(&self, tap: Tap) -> Result<Tensor, ExplainError> {
        by_heads(&precise(tap.of(&self.run.execution.taps))?, self.num_images())
    }

    /// The gradient of that, of the same shape.
    pub fn attention_gradient<O: Objective>(&self, tap: Tap) -> Result<Tensor, ExplainError> {
        let gradients = self.gradients::<O>()?;
        let gradient = tap.of(&gradients);
        if !gradient.defined() && self.run.plan.leaves_out_zeros() {
            return Ok(self.attention_of(tap)?.f_zeros_like()?);
        }
        if !gradient.defined() {
            return Err(ExplainError::Unsuitable(
                "the attention of a block has no influence on the score that a gradient shows".into(),
            ));
        }
        by_heads(&precise(gradient)?, self.num_images())
    }

    /// Of each block up to a layer, the gradient of its attention, `[N, heads, L, T]`, in the score that the rest of the network gives
    /// the tokens that the block hands on. Where a query gathers tokens, it is the gradient of its attention to these.
    pub fn formation(&self, layer: LayerIndex) -> Result<Vec<Tensor>, ExplainError> {
        let bug = || ExplainError::Unsuitable("what blocks hand on was not captured; this is a bug in camflow".into());
        let (taps, execution) = (self.attention(), &self.run.execution);
        let batch_dim = self.layer(layer).layout.batch_dim();
        let mut found = Vec::new();
        for block in &taps.blocks[..taps.counts[layer]] {
            let (tokens, last_tokens) = block.tokens.zip(taps.last_tokens).ok_or_else(bug)?;
            let tokens = tokens.of(&execution.taps);
            let gradient = tch::with_grad(|| -> Result<Tensor, ExplainError> {
                let shown = match taps.reading {
                    Reading::Leading(_) => {
                        tokens.f_mean_dim([1 - batch_dim].as_slice(), true, None::<Kind>)?.f_expand_as(tokens)?
                    }
                    Reading::Patches | Reading::Pooled(_) => tokens.shallow_clone(),
                };
                let (output, mut behind) = self.run.plan.run_on(last_tokens, execution, &shown)?;
                let attention = match &taps.reading {
                    Reading::Pooled(query) => query.probabilities.and_then(|tap| tap.take(&mut behind)).ok_or_else(bug)?,
                    _ => block.probabilities.ok_or_else(bug)?.of(&execution.taps).shallow_clone(),
                };
                let root = class_scores(&output, &self.present)?.f_sum(None::<Kind>)?;
                let mut gradients = program::gradients(&root, &[attention.shallow_clone()], true, false)?;
                let gradient = gradients.swap_remove(0);
                Ok(if gradient.defined() { gradient } else { attention.f_zeros_like()? })
            })?;
            found.push(by_heads(&precise(&gradient)?, self.num_images())?);
        }
        Ok(found)
    }

    fn num_images(&self) -> i64 {
        self.run.execution.input.size()[0]
    }

    fn network(&self) -> &'a NetworkTaps {
        self.run.taps.network.as_ref().expect("tapped where evidence of the network is needed")
    }

    /// With respect to all taps.
    fn gradients<O: Objective>(&self) -> Result<Rc<Vec<Tensor>>, ExplainError> {
        let objective = TypeId::of::<O>();
        let known = self.gradients.borrow().iter().find(|(known, _)| *known == objective).map(|(_, found)| found.clone());
        if let Some(known) = known {
            return Ok(known);
        }
        if let Some(found) = self.patched::<O>()? {
            let found = Rc::new(found);
            self.gradients.borrow_mut().push((objective, found.clone()));
            return Ok(found);
        }
        let root = self.values::<O>()?;
        let root = tch::with_grad(|| root.f_sum(None::<Kind>))?;
        let mut derivatives = self.run.derivatives.iter().filter(|derivative| derivative.objective == objective);
        let create_graph = derivatives.any(|derivative| derivative.order == Order::Second);
        self.num_open.set(self.num_open.get().saturating_sub(1));
        let keep_graph = create_graph || self.num_open.get() > 0 || !self.is_last;
        let found = Rc::new(program::gradients(&root, &self.run.execution.taps, keep_graph, create_graph)?);
        self.gradients.borrow_mut().push((objective, found.clone()));
        Ok(found)
    }

    /// The same, of predictions of a detector that depend on a part of each layer; it is zero elsewhere.
    fn patched<O: Objective>(&self) -> Result<Option<Vec<Tensor>>, ExplainError> {
        let Some(patches) = self.patches::<O>()? else { return Ok(None) };
        let taps = &self.run.execution.taps;
        let mut found: Vec<Tensor> = taps.iter().map(|_| Tensor::new()).collect();
        for (sample, patches) in patches {
            for ((whole, tap), patch) in found.iter_mut().zip(taps).zip(patches) {
                let Some(Patch { area, values }) = patch else { continue };
                if !whole.defined() {
                    *whole = tap.f_detach()?.f_zeros_like()?;
                }
                area.of(whole, sample.row())?.f_copy_(values)?;
            }
        }
        Ok(Some(found))
    }

    /// The gradient of each sample that has the target, with respect to each tap, as a patch of it; `None`: that would be more than a part.
    fn patches<O: Objective>(&self) -> Result<Option<&Vec<SamplePatches>>, ExplainError> {
        if !self.run.plan.has_patches() || TypeId::of::<O>() != TypeId::of::<ClassScore>() {
            return Ok(None);
        }
        if let Some(known) = self.patches.get() {
            return Ok(known.as_ref());
        }
        let mut found = Some(Vec::new());
        for (sample, score) in &self.present {
            let patches = match score.predictions()? {
                Some((channel, predictions)) => {
                    self.run.plan.patches(&self.run.execution, sample.row(), channel, &predictions)?
                }
                None => None,
            };
            found = found.zip(patches).map(|(mut found, patches)| {
                found.push((*sample, patches));
                found
            });
            if found.is_none() {
                break;
            }
        }
        Ok(self.patches.get_or_init(|| found).as_ref())
    }

    /// Activation and gradient of a layer where that is not zero: for each sample that has the target the place, and `[1, C, h, w]` of both.
    /// `None`: that would be more than a part of the layer.
    pub fn parts<O: Objective>(&self, layer: LayerIndex) -> Result<Option<Vec<Part>>, ExplainError> {
        if self.layer(layer).layout != Layout::Nchw {
            return Ok(None);
        }
        let Some(patches) = self.patches::<O>()? else { return Ok(None) };
        let activation = self.activation(layer)?;
        let mut parts = Vec::new();
        for (sample, patches) in patches {
            let Some(Patch { area, values }) = &patches[self.tap(layer).place()] else { continue };
            let activation = area.of(&activation, sample.row())?;
            parts.push(Part { sample: *sample, area: *area, activation, gradient: values.shallow_clone() });
        }
        Ok(Some(parts))
    }

    /// Numbers `[N, X]` that a method `M` finds by probing, weights of channels say: `weigh` gives the `[T, X]` of one sample for its
    /// `T` scores. Zero for samples without the target.
    pub fn probed<M: 'static>(
        &self,
        layer: impl Into<Option<LayerIndex>>,
        weigh: impl Fn(&Probe<'_>, &[&Score]) -> Result<Tensor, ExplainError>,
    ) -> Result<Tensor, ExplainError> {
        let key = (TypeId::of::<M>(), layer.into());
        let known = self.run.probed.borrow().iter().find(|(known, _)| *known == key).map(|(_, weights)| weights.clone());
        let weights = match known {
            Some(known) => known,
            None => {
                let weights = Rc::new(self.probe(weigh)?);
                self.run.probed.borrow_mut().push((key, weights.clone()));
                weights
            }
        };
        let of = |sample: SampleIndex| weights.get(grid::Cell { sample, target: self.target });
        let nothing = of(self.present[0].0).expect("probed for the samples with the target").f_zeros_like()?;
        let num_samples = self.run.execution.input.size()[0] as usize;
        let rows: Vec<&Tensor> = (0..num_samples).map(|sample| of(sample.into()).unwrap_or(&nothing)).collect();
        Ok(Tensor::f_stack(&rows, 0)?)
    }

    fn probe(&self, weigh: impl Fn(&Probe<'_>, &[&Score]) -> Result<Tensor, ExplainError>) -> Result<Grid<Tensor>, ExplainError> {
        let mut weights = Grid::default();
        for (sample, scores) in self.run.scores.by_sample() {
            let probe = Probe::new(self.run.plan, &self.run.execution, sample, self.run.probe_options)?;
            let probe = probe.with_image(self.run.taps.network.as_ref().map(|network| network.input));
            let (targets, scores): (Vec<TargetIndex>, Vec<&Score>) = scores.into_iter().unzip();
            for (target, row) in targets.into_iter().zip(weigh(&probe, &scores)?.f_unbind(0)?) {
                weights.insert(grid::Cell { sample, target }, row);
            }
        }
        Ok(weights)
    }
}

fn image_without_influence() -> ExplainError {
    ExplainError::Unsuitable("the image has no influence on the score that a gradient shows".into())
}
