//! What methods are computed from. Each kind of evidence says what has to be recorded of a run for it, and takes that from a
//! pass.

use std::{any::TypeId, marker::PhantomData};

use tch::{Kind, TchError, Tensor};

use super::reduction::Reduction;
use crate::{
    explain::{
        ExplainError,
        attention::AttentionNeeds,
        grid::{LayerIndex, SampleIndex},
        layout::{of_image, repeated},
        pass::{ClassScore, Derivative, Differentiated, Noise, Objective, Order, Part, Pass},
        probe::Probe,
        target::Score,
    },
    program::{DispatchError, ExecError, Influence, Layer, Tap},
};

/// Outputs that should be equal may differ by this share of the largest: other batch sizes sum in another order.
const TOLERANCE: f64 = 1e-3;

/// What has to be recorded of a run.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// The derivative, if there is one.
    pub derivative: Option<Derivative>,
    /// What a target layer has to do to the output; `None`: no target layers are looked at.
    pub layers: Option<Influence>,
    /// The image and the network's biases are looked at.
    pub network: bool,
    /// The gradient of a score in the image is looked at.
    pub image: bool,
    /// The same, of the network whose ReLUs let positive gradients back alone.
    pub guided: bool,
    /// The attention of all blocks up to a layer is looked at.
    pub attention: Option<AttentionNeeds>,
    /// Scores of many variants of a sample are asked for.
    pub probes: bool,
    /// Variants are of a layer's activation, from where the graph is run on.
    pub resumes: bool,
}

impl Needs {
    /// Of target layers with that influence.
    pub(super) const fn of_layers(influence: Influence) -> Needs {
        Needs { layers: Some(influence), ..Needs::of_image() }
    }

    /// Of no target layers, and nothing else yet.
    pub(super) const fn of_image() -> Needs {
        Needs {
            derivative: None,
            layers: None,
            network: false,
            image: false,
            guided: false,
            attention: None,
            probes: false,
            resumes: false,
        }
    }
}

/// What a method is computed from.
pub trait Evidence<'a>: Sized {
    /// What has to be recorded for it.
    fn needs() -> Needs;

    /// Of each of the layers in a pass; where it is of no layer, of the whole network.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say; there is no gradient.
    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError>;

    /// Whether it is of a class: otherwise all classes of an image have one map.
    fn is_of_class() -> bool {
        true
    }

    /// What is differentiated, where its gradient in a layer and the layer's activation are all that it holds, or all that is asked for
    /// where no image changes that gradient.
    fn differentiated() -> Option<Differentiated> {
        None
    }

    /// Of activation and gradient `[N, C, H', W']`, if these are all that it holds.
    fn of_gradient(_activation: Tensor, _gradient: Tensor) -> Option<Self> {
        None
    }
}

/// The activation of a layer.
#[derive(Debug)]
pub(super) struct Activation<'a> {
    /// `[N, C, H', W']`
    pub activation: Tensor,
    /// Whose it is.
    pub layer: &'a Layer,
    /// What tells the samples apart where chance plays a part.
    pub keys: &'a [String],
}

impl<'a> Evidence<'a> for Activation<'a> {
    fn needs() -> Needs {
        Needs::of_layers(Influence::None)
    }

    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        let of = |layer: &LayerIndex| {
            Ok(Activation { activation: pass.activation(*layer)?, layer: pass.layer(*layer), keys: pass.keys() })
        };
        layers.iter().map(of).collect()
    }

    fn is_of_class() -> bool {
        false
    }
}

/// The activation of a layer and the gradient of a score, by default of the class's own.
#[derive(Debug)]
pub struct Gradients<O = ClassScore> {
    /// `[N, C, H', W']`
    pub activation: Tensor,
    /// Of the same shape.
    pub gradient: Tensor,
    objective: PhantomData<O>,
}

impl<O> Gradients<O> {
    /// Of two tensors `[N, C, H', W']`.
    pub fn new(activation: Tensor, gradient: Tensor) -> Self {
        Gradients { activation, gradient, objective: PhantomData }
    }
}

impl<'a, O: Objective> Evidence<'a> for Gradients<O> {
    fn needs() -> Needs {
        let derivative = Derivative { objective: TypeId::of::<O>(), order: Order::First };
        Needs { derivative: Some(derivative), ..Needs::of_layers(Influence::Gradient) }
    }

    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        layers.iter().map(|layer| Ok(Gradients::new(pass.activation(*layer)?, pass.gradient::<O>(*layer)?))).collect()
    }

    fn differentiated() -> Option<Differentiated> {
        Some(Differentiated::of::<O>())
    }

    fn of_gradient(activation: Tensor, gradient: Tensor) -> Option<Self> {
        Some(Gradients::new(activation, gradient))
    }
}

/// The same as [`Gradients`], for a method whose map is zero where the gradient is.
#[derive(Debug)]
pub(super) enum GradientParts {
    /// Of all of the layer.
    Whole(Gradients),
    /// Where the gradient is not zero.
    Parts {
        /// The activation, `[N, C, H', W']`.
        activation: Tensor,
        /// Of each sample at most one.
        parts: Vec<Part>,
    },
}

impl GradientParts {
    /// The saliency `[N, H', W']` of a method's channels, which are of each place alone.
    ///
    /// # Errors
    /// libtorch fails.
    pub(super) fn saliency(
        &self,
        reduction: Reduction,
        channels: impl Fn(&Tensor, &Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Tensor, ExplainError> {
        let (activation, parts) = match self {
            GradientParts::Whole(whole) => return Ok(reduction.of(&channels(&whole.activation, &whole.gradient)?)?),
            GradientParts::Parts { activation, parts } => (activation, parts),
        };
        if reduction == Reduction::Sum {
            let (n, _, height, width) = activation.size4()?;
            let saliency = Tensor::f_zeros([n, height, width], (activation.kind(), activation.device()))?;
            for Part { sample, area, activation, gradient } in parts {
                let part = reduction.of(&channels(activation, gradient)?)?;
                area.of(&saliency.f_unsqueeze(1)?, sample.row())?.f_copy_(&part.f_unsqueeze(1)?)?;
            }
            return Ok(saliency);
        }
        let gradient = activation.f_zeros_like()?;
        for Part { sample, area, gradient: part, .. } in parts {
            area.of(&gradient, sample.row())?.f_copy_(part)?;
        }
        Ok(reduction.of(&channels(activation, &gradient)?)?)
    }
}

impl<'a> Evidence<'a> for GradientParts {
    fn needs() -> Needs {
        Gradients::<ClassScore>::needs()
    }

    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        let of = |layer: &LayerIndex| {
            let activation = pass.activation(*layer)?;
            Ok(match pass.parts::<ClassScore>(*layer)? {
                Some(parts) => GradientParts::Parts { activation, parts },
                None => GradientParts::Whole(Gradients::new(activation, pass.gradient::<ClassScore>(*layer)?)),
            })
        };
        layers.iter().map(of).collect()
    }

    fn differentiated() -> Option<Differentiated> {
        Some(Differentiated::of::<ClassScore>())
    }

    fn of_gradient(activation: Tensor, gradient: Tensor) -> Option<Self> {
        Some(GradientParts::Whole(Gradients::new(activation, gradient)))
    }
}

/// The activation of a layer with the first and the second derivative of the class's score; `[N, C, H', W']` each.
#[derive(Debug)]
pub(super) struct SecondOrder {
    /// The activation.
    pub activation: Tensor,
    /// The gradient.
    pub gradient: Tensor,
    /// The Hessian times the activation.
    pub hessian_product: Tensor,
}

impl<'a> Evidence<'a> for SecondOrder {
    fn needs() -> Needs {
        let derivative = Derivative { objective: TypeId::of::<ClassScore>(), order: Order::Second };
        Needs { derivative: Some(derivative), ..Needs::of_layers(Influence::Gradient) }
    }

    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        let of = |layer: &LayerIndex| {
            Ok(SecondOrder {
                activation: pass.activation(*layer)?,
                gradient: pass.gradient::<ClassScore>(*layer)?,
                hessian_product: pass.hessian_product::<ClassScore>(*layer)?,
            })
        };
        layers.iter().map(of).collect()
    }

    fn differentiated() -> Option<Differentiated> {
        Some(Differentiated::of::<ClassScore>())
    }

    /// A gradient that no image changes has no derivative.
    fn of_gradient(activation: Tensor, gradient: Tensor) -> Option<Self> {
        let hessian_product = gradient.f_zeros_like().ok()?;
        Some(SecondOrder { activation, gradient, hessian_product })
    }
}

/// The activation of a layer, and the scores of variants of a sample's image.
pub(super) struct ImageVariants<'a> {
    /// `[N, C, H', W']`
    pub activation: Tensor,
    pass: &'a Pass<'a>,
    layer: LayerIndex,
}

impl ImageVariants<'_> {
    /// What tells sample and layer apart from others where chance plays a part.
    pub(super) fn key(&self, sample: SampleIndex) -> String {
        format!("{}\0{}", self.pass.keys()[usize::from(sample)], self.pass.layer(self.layer).path)
    }

    /// Channel weights `[N, C]` of a method, from the `[T, C]` of each sample with its activation `[1, C, H', W']` and its `T`
    /// scores.
    ///
    /// # Errors
    /// Those of `weigh`.
    pub(super) fn weights<M: 'static>(
        &self,
        weigh: impl Fn(&Probe<'_>, &Tensor, &[&Score]) -> Result<Tensor, ExecError>,
    ) -> Result<Tensor, ExplainError> {
        self.pass.probed::<M>(self.layer, |probe, scores| {
            let layer = self.pass.layer(self.layer);
            let activation = of_image(&self.pass.tapped(self.layer)?, layer, probe.sample.row())?;
            let channels = self.pass.nchw(&activation.f_to_kind(Kind::Float)?, self.layer)?;
            Ok(weigh(probe, &channels, scores)?)
        })
    }
}

impl<'a> Evidence<'a> for ImageVariants<'a> {
    fn needs() -> Needs {
        Needs { probes: true, ..Needs::of_layers(Influence::None) }
    }

    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        layers.iter().map(|layer| Ok(ImageVariants { activation: pass.activation(*layer)?, pass, layer: *layer })).collect()
    }
}

/// The activation of a layer, and the scores of variants of it, for which the graph is run on from there.
pub(super) struct ActivationVariants<'a> {
    /// `[N, C, H', W']`
    pub activation: Tensor,
    pass: &'a Pass<'a>,
    layer: LayerIndex,
}

/// The activation of one sample that variants are made of.
pub(super) struct Original<'a> {
    /// Where it is captured.
    pub tap: Tap,
    /// As the model has it.
    pub activation: &'a Tensor,
    /// The same as `[1, C, H', W']`.
    pub channels: Tensor,
    /// Whose it is.
    pub layer: &'a Layer,
}

impl Original<'_> {
    /// Running on from the untouched activation, twice at once where that may be, must give the output that the image gave.
    ///
    /// # Errors
    /// It does not; a node of the graph fails, for want of memory say.
    pub(super) fn check_resume(&self, probe: &Probe<'_>) -> Result<(), ExecError> {
        let count = probe.options.batch.min(2);
        let twice = repeated(self.activation, self.layer, count);
        let resumed = probe.resume(self.tap, &twice.map_err(|error| probe.failed("repeat", &error))?, count)?;
        let difference = || -> Result<(f64, f64), TchError> {
            let logits = probe.logits()?;
            Ok((resumed.f_sub(&logits)?.f_abs()?.f_max()?.f_double_value(&[])?, logits.f_abs()?.f_max()?.f_double_value(&[])?))
        };
        let (difference, largest) = difference().map_err(|error| probe.failed("compare", &error))?;
        // A model that gives NaN is found later, and named as such.
        if difference <= TOLERANCE * largest || difference.is_nan() || largest.is_nan() {
            return Ok(());
        }
        let message = format!(
            "run on for several images at once, it gives another output (by {difference:.1e} of {largest:.1e}); \
             use another layer or method"
        );
        let source = DispatchError { message, out_of_memory: false };
        Err(ExecError { node: "the graph behind the layer".into(), operator: "resume".into(), source })
    }
}

impl ActivationVariants<'_> {
    /// What a method finds out of each sample, `[N, X]`, from the `[T, X]` of each with its activation and its `T` scores: weights of
    /// channels, say.
    ///
    /// # Errors
    /// Those of `weigh`.
    pub(super) fn of_samples<M: 'static>(
        &self,
        weigh: impl Fn(&Probe<'_>, &Original<'_>, &[&Score]) -> Result<Tensor, ExecError>,
    ) -> Result<Tensor, ExplainError> {
        self.pass.probed::<M>(self.layer, |probe, scores| {
            let layer = self.pass.layer(self.layer);
            let activation = of_image(&self.pass.tapped(self.layer)?, layer, probe.sample.row())?;
            let channels = self.pass.nchw(&activation, self.layer)?;
            let original = Original { tap: self.pass.tap(self.layer), activation: &activation, channels, layer };
            Ok(weigh(probe, &original, scores)?)
        })
    }
}

impl<'a> Evidence<'a> for ActivationVariants<'a> {
    fn needs() -> Needs {
        // What becomes of the score without a channel can be asked without a gradient, too.
        Needs { probes: true, resumes: true, ..Needs::of_layers(Influence::WithoutGradient) }
    }

    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        layers.iter().map(|layer| Ok(ActivationVariants { activation: pass.activation(*layer)?, pass, layer: *layer })).collect()
    }
}

/// The same, for a method whose map follows from activation and gradient where no image changes that.
pub(super) struct PlaceVariants<'a>(pub ActivationVariants<'a>);

impl<'a> Evidence<'a> for PlaceVariants<'a> {
    fn needs() -> Needs {
        ActivationVariants::needs()
    }

    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        Ok(ActivationVariants::gather(pass, layers)?.into_iter().map(PlaceVariants).collect())
    }

    fn differentiated() -> Option<Differentiated> {
        Some(Differentiated::of::<ClassScore>())
    }
}

/// The activation of a layer, and what gradients are at variants of the image with noise.
pub(super) struct NoisyGradients<'a> {
    /// `[N, C, H', W']`
    pub activation: Tensor,
    pass: &'a Pass<'a>,
    layer: LayerIndex,
}

impl NoisyGradients<'_> {
    /// The activation and the gradient of each variant, `[N, C, H', W']` both.
    ///
    /// # Errors
    /// As [`Evidence::gather`]; a node of the graph fails.
    pub(super) fn of(&self, noise: Noise) -> Result<Vec<(Tensor, Tensor)>, ExplainError> {
        self.pass.noisy_gradients(self.layer, noise)
    }
}

impl<'a> Evidence<'a> for NoisyGradients<'a> {
    fn needs() -> Needs {
        Needs { probes: true, ..Needs::of_layers(Influence::Gradient) }
    }

    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        layers.iter().map(|layer| Ok(NoisyGradients { activation: pass.activation(*layer)?, pass, layer: *layer })).collect()
    }
}

/// Activation and gradient of a layer, and probes of each sample with its own score.
pub(super) struct GradientsAndProbes<'a> {
    /// Both.
    pub gradients: Gradients,
    pass: &'a Pass<'a>,
}

impl GradientsAndProbes<'_> {
    /// What a method finds of each sample by its score, all of one shape, with the batch's dimension before it.
    ///
    /// # Errors
    /// Those of `find`.
    pub(super) fn of_samples(
        &self,
        find: impl Fn(&Probe<'_>, &Score) -> Result<Tensor, ExplainError>,
    ) -> Result<Tensor, ExplainError> {
        self.pass.each(find)
    }
}

impl<'a> Evidence<'a> for GradientsAndProbes<'a> {
    fn needs() -> Needs {
        Needs { probes: true, ..Gradients::<ClassScore>::needs() }
    }

    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        let gradients = Gradients::gather(pass, layers)?;
        Ok(gradients.into_iter().map(|gradients| GradientsAndProbes { gradients, pass }).collect())
    }
}

/// The image and the biases of a network, with the gradients of the class's score.
#[derive(Debug)]
pub(super) struct WholeNetwork<'a> {
    /// `[N, 3, H, W]`
    pub input: Tensor,
    /// Of the same shape.
    pub input_gradient: Tensor,
    /// Each bias `[C]` with the gradient `[N, C, H_l, W_l]` of its operator's output.
    pub biases: Vec<(&'a Tensor, Tensor)>,
}

impl<'a> Evidence<'a> for WholeNetwork<'a> {
    fn needs() -> Needs {
        let derivative = Derivative { objective: TypeId::of::<ClassScore>(), order: Order::First };
        Needs { derivative: Some(derivative), network: true, ..Needs::of_image() }
    }

    fn gather(pass: &'a Pass<'a>, _layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        let (input, input_gradient) = pass.image_gradient::<ClassScore>()?;
        Ok(vec![WholeNetwork { input, input_gradient, biases: pass.bias_gradients::<ClassScore>()? }])
    }
}
