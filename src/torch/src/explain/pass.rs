//! One tensor through the model: forward, the gradients that the methods need, and the saliency maps.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::{
    ExplainError, TorchExplainer,
    cam::{
        Derivative, LayerView, Method, Probe, ProbeOptions, ablation_weights, comparison_score, full_gradient, random_weights,
        score_weights,
    },
    layout::{as_nchw, channel_dim},
    target::Score,
};
use crate::program::{self, Execution, Influence};
use camflow_media::BinaryMask;
use camflow_pipeline::{ClassTarget, TargetPixels};

/// More pixels than this make a kernel matrix of over 2 GiB.
const MAX_KERNEL_PIXELS: i64 = 16_384;

/// The maps of one class of one sample.
pub struct Saliencies {
    /// The scalar that was differentiated.
    pub score: f64,
    /// Which scalar that is.
    pub target: Score,
    /// The pixels that the model itself gives the class, where those count.
    pub predicted: Option<BinaryMask>,
    /// Per column the saliency `[1, H', W']` of each of its layers.
    pub columns: Vec<Vec<Tensor>>,
}

/// Channel weights for one method and layer.
struct Probed {
    method: Method,
    layer: usize,
    /// `[C]` by sample and target; `None` where the target is not there.
    weights: Vec<Vec<Option<Tensor>>>,
}

impl TorchExplainer {
    /// Per sample and target the maps; `None` where the target is not there. `keys` tell samples apart where chance plays a part;
    /// `shown` are the parts of the input that show an image, where others do not.
    pub(super) fn saliencies(
        &self,
        input: &Tensor,
        keys: &[String],
        targets: &[Vec<ClassTarget>],
        shown: &[Option<BinaryMask>],
    ) -> Result<Vec<Vec<Option<Saliencies>>>, ExplainError> {
        let needs = |derivative| self.options.methods.iter().any(|method| method.derivative() == derivative);
        let needs_layers = self.options.methods.iter().any(|method| method.needed_influence() == Influence::Gradient);
        let needs_gradient = needs(Derivative::Gradient) || needs(Derivative::Hessian);
        let execution = {
            let _no_grad = (!needs_gradient && !needs(Derivative::Comparison)).then(tch::no_grad_guard);
            self.plan.run(input)?
        };
        let scores = self.resolve(&execution, targets, shown)?;
        let probed = self.probe(&execution, &scores)?;

        // By sample, the maps of those targets that are there.
        let mut found: Vec<BTreeMap<usize, Saliencies>> = targets.iter().map(|_| BTreeMap::new()).collect();
        let num_passes = targets.iter().map(Vec::len).max().unwrap_or(0);
        // Pass `k` explains every sample's k-th class: samples do not influence each other, so their gradients do not mix.
        for pass in 0..num_passes {
            let present: Vec<(usize, &Score)> =
                scores.iter().enumerate().filter_map(|(sample, scores)| Some((sample, scores.get(pass)?.as_ref()?))).collect();
            if present.is_empty() {
                continue;
            }
            let is_last = pass + 1 == num_passes;
            let values: Vec<Tensor> = present
                .iter()
                .map(|(sample, score)| score.of(&execution.output.f_narrow(0, *sample as i64, 1)?)?.f_squeeze_dim(0))
                .collect::<Result<_, _>>()?;
            let mut gradients = Vec::new();
            if needs_gradient {
                let root = Tensor::f_stack(&values, 0)?.f_sum(None::<Kind>)?;
                let create_graph = needs(Derivative::Hessian);
                let keep_graph = create_graph || needs(Derivative::Comparison) || !is_last;
                gradients = program::gradients(&root, &execution.taps, keep_graph, create_graph)?;
            }
            let products = if needs(Derivative::Hessian) { self.hessian_products(&execution, &gradients)? } else { Vec::new() };
            let comparisons =
                if needs(Derivative::Comparison) { self.comparisons(&execution, &present, !is_last)? } else { Vec::new() };

            let _no_grad = tch::no_grad_guard();
            let size = input_size(&execution);
            let mut views = Vec::with_capacity(self.options.layers.len());
            for (index, layer) in self.options.layers.iter().enumerate() {
                // Methods compute in f32 what the model computed in less.
                let as_nchw = |tensor: &Tensor| as_nchw(&tensor.f_detach()?.f_to_kind(self.plan.kind())?, layer, size);
                let of = |tensors: &[Tensor]| -> Result<Option<Tensor>, ExplainError> {
                    match tensors.get(index) {
                        None => Ok(None),
                        Some(tensor) if tensor.defined() => Ok(Some(as_nchw(tensor)?)),
                        // FullGrad takes gradients of other places.
                        Some(_) if !needs_layers => Ok(None),
                        Some(_) => Err(ExplainError::Unsuitable(format!(
                            "layer `{}` has no influence on the model's output",
                            layer.path
                        ))),
                    }
                };
                views.push(LayerView {
                    activation: as_nchw(&execution.taps[index])?,
                    gradient: of(&gradients)?,
                    hessian_product: of(&products)?,
                    comparison_gradient: of(&comparisons)?,
                });
            }
            let columns = self.columns_of(&execution, &views, &gradients, &probed, keys, pass)?;
            let values = program::to_host::<f64>(&Tensor::f_stack(&values, 0)?.f_to_kind(Kind::Double)?)?;
            for ((sample, score), value) in present.iter().zip(values) {
                let of_sample = |map: &Tensor| map.f_narrow(0, *sample as i64, 1);
                let columns = columns.iter().map(|layers| layers.iter().map(of_sample).collect::<Result<_, _>>());
                let columns = columns.collect::<Result<_, _>>()?;
                let is_predicted = targets[*sample]
                    .get(pass)
                    .is_some_and(|target| matches!(target.pixels, TargetPixels::Predicted | TargetPixels::Labelled));
                let predicted = if is_predicted { score.pixels()? } else { None };
                found[*sample].insert(pass, Saliencies { score: value, target: score.shallow_clone(), predicted, columns });
            }
        }
        let in_order = |(mut found, targets): (BTreeMap<usize, Saliencies>, &Vec<ClassTarget>)| {
            (0..targets.len()).map(|target| found.remove(&target)).collect()
        };
        Ok(found.into_iter().zip(targets).map(in_order).collect())
    }

    /// Per sample and target what is differentiated, if it is there.
    fn resolve(
        &self,
        execution: &Execution,
        targets: &[Vec<ClassTarget>],
        shown: &[Option<BinaryMask>],
    ) -> Result<Vec<Vec<Option<Score>>>, ExplainError> {
        let logits = &execution.output;
        if logits.dim() != 2 && logits.dim() != 4 {
            return Err(ExplainError::Unsuitable(format!(
                "the model's output has shape {:?}; class logits [N, K] or [N, K, H, W] are wanted, wrap the model at export",
                logits.size()
            )));
        }
        if logits.dim() != 2 && self.options.methods.contains(&Method::Finercam) {
            return Err(ExplainError::Unsuitable(
                "finercam compares the logits of a classifier [N, K]; this model gives a map of them, use another method".into(),
            ));
        }
        if logits.size()[1] == 1 && self.options.methods.contains(&Method::Finercam) {
            return Err(ExplainError::Unsuitable(
                "finercam compares a class with others; this model's output has one channel, use another method".into(),
            ));
        }
        let mut scores = Vec::with_capacity(targets.len());
        for ((sample, targets), shown) in (0i64..).zip(targets).zip(shown) {
            let own = logits.f_detach()?.f_narrow(0, sample, 1)?;
            let resolve = |target| Score::resolve(&own, target, self.options.reading, shown.as_ref());
            scores.push(targets.iter().map(resolve).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(scores)
    }

    /// The channel weights of the gradient-free methods, for all classes of a sample at once.
    fn probe(&self, execution: &Execution, scores: &[Vec<Option<Score>>]) -> Result<Vec<Probed>, ExplainError> {
        let _no_grad = tch::no_grad_guard();
        let options = ProbeOptions { batch: self.probe_batch as i64 };
        let mut probed = Vec::new();
        for &method in self.options.methods.iter().filter(|method| method.probes()) {
            for (index, layer) in self.options.layers.iter().enumerate() {
                let mut weights = Vec::with_capacity(scores.len());
                for (sample, scores) in (0i64..).zip(scores) {
                    let present: Vec<&Score> = scores.iter().flatten().collect();
                    if present.is_empty() {
                        weights.push(Vec::new());
                        continue;
                    }
                    let probe = Probe::new(&self.plan, execution, sample)?;
                    let activation = execution.taps[index].f_detach()?.f_narrow(0, sample, 1)?;
                    let rows = if method == Method::Scorecam {
                        let channels = as_nchw(&activation.f_to_kind(Kind::Float)?, layer, input_size(execution))?;
                        score_weights(&probe, options, &channels, &present)?
                    } else {
                        ablation_weights(&probe, options, (index, &activation, channel_dim(layer)), &present)?
                    };
                    let mut rows = rows.f_unbind(0)?.into_iter();
                    weights.push(scores.iter().map(|score| score.as_ref().and_then(|_| rows.next())).collect());
                }
                probed.push(Probed { method, layer: index, weights });
            }
        }
        Ok(probed)
    }

    /// Per layer the product of the score's Hessian and the activation, in the layer's own layout.
    fn hessian_products(&self, execution: &Execution, gradients: &[Tensor]) -> Result<Vec<Tensor>, ExplainError> {
        let mut products = Vec::with_capacity(self.options.layers.len());
        for (activation, gradient) in execution.taps.iter().zip(gradients).take(self.options.layers.len()) {
            let zero = activation.f_detach()?.f_zeros_like()?;
            if !gradient.defined() || !gradient.requires_grad() {
                // All behind the layer is linear.
                products.push(zero);
                continue;
            }
            let root = gradient.f_mul(&activation.f_detach()?)?.f_sum(None::<Kind>)?;
            let product = program::gradients(&root, &[activation.shallow_clone()], true, false)?.remove(0);
            products.push(if product.defined() { product } else { zero });
        }
        Ok(products)
    }

    /// Per layer the gradient of Finer-CAM's score.
    fn comparisons(
        &self,
        execution: &Execution,
        present: &[(usize, &Score)],
        keep_graph: bool,
    ) -> Result<Vec<Tensor>, ExplainError> {
        let mut values = Vec::with_capacity(present.len());
        for (sample, score) in present {
            values.push(comparison_score(&execution.output.f_select(0, *sample as i64)?, score.class)?);
        }
        let root = Tensor::f_stack(&values, 0)?.f_sum(None::<Kind>)?;
        let layers = &execution.taps[..self.options.layers.len()];
        Ok(program::gradients(&root, layers, keep_graph, false)?)
    }

    /// Per column the saliency `[N, H', W']` of each of its layers.
    fn columns_of(
        &self,
        execution: &Execution,
        views: &[LayerView],
        gradients: &[Tensor],
        probed: &[Probed],
        keys: &[String],
        pass: usize,
    ) -> Result<Vec<Vec<Tensor>>, ExplainError> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            if !column.method.has_layers() {
                let first = self.options.layers.len();
                let gradients = &gradients[first..];
                if !gradients[0].defined() {
                    return Err(ExplainError::Unsuitable("the image has no influence on the score that a gradient shows".into()));
                }
                let undefined = |gradient: &Tensor| !gradient.defined();
                let biases = self.biases.iter().zip(&gradients[1..]).filter(|(_, gradient)| !undefined(gradient));
                let biases: Vec<(Tensor, Tensor)> =
                    biases.map(|(bias, gradient)| (bias.shallow_clone(), gradient.shallow_clone())).collect();
                let input = execution.taps[first].f_detach()?;
                columns.push(vec![full_gradient(&input, &gradients[0], &biases, self.options.eigen_smooth)?]);
                continue;
            }
            let mut layers = Vec::with_capacity(column.layers.len());
            for &layer in &column.layers {
                let view = &views[layer];
                let (_, _, height, width) = view.activation.size4()?;
                if column.method == Method::Kpcacam && height * width > MAX_KERNEL_PIXELS {
                    return Err(ExplainError::Unsuitable(format!(
                        "layer `{}` has {height}x{width} pixels, too many for kpcacam's kernel matrix; use a deeper layer or eigencam",
                        self.options.layers[layer].path
                    )));
                }
                let weights = match column.method {
                    Method::Randomcam => {
                        let path = &self.options.layers[layer].path;
                        let keys: Vec<String> = keys.iter().map(|key| format!("{key}\0{path}")).collect();
                        Some(random_weights(&view.activation, &keys)?)
                    }
                    method if method.probes() => Some(weights_of_pass(probed, method, layer, pass, &view.activation)?),
                    _ => None,
                };
                layers.push(column.method.saliency(view, weights.as_ref(), self.options.eigen_smooth)?);
            }
            columns.push(layers);
        }
        Ok(columns)
    }
}

/// Rows and columns of the model's input.
fn input_size(execution: &Execution) -> [i64; 2] {
    let size = execution.input.size();
    [size[2], size[3]]
}

/// The weights `[N, C]` of every sample's target of a pass; zero for samples without it.
fn weights_of_pass(
    probed: &[Probed],
    method: Method,
    layer: usize,
    pass: usize,
    activation: &Tensor,
) -> Result<Tensor, tch::TchError> {
    let zero = || Tensor::f_zeros([activation.size()[1]], (activation.kind(), activation.device()));
    let Some(probed) = probed.iter().find(|probed| probed.method == method && probed.layer == layer) else {
        return zero()?.f_unsqueeze(0);
    };
    let rows = probed.weights.iter().map(|targets| match targets.get(pass) {
        Some(Some(weights)) => Ok(weights.shallow_clone()),
        _ => zero(),
    });
    Tensor::f_stack(&rows.collect::<Result<Vec<_>, _>>()?, 0)
}
