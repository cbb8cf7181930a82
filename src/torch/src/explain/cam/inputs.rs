//! What methods at the image itself are computed from: its gradient, that of the guided network, and the model asked about other images.

use std::any::TypeId;

use tch::{Kind, TchError, Tensor};

use super::evidence::{Evidence, Gradients, Needs};
use crate::{
    explain::{
        ExplainError,
        grid::LayerIndex,
        pass::{ClassScore, Derivative, Order, Pass},
        probe::Probe,
        sampling::Sampling,
        target::Score,
    },
    program::Influence,
};

/// Gradients of as many pixels are computed at once, whatever `--cam-batch-size` says: those of eight images of 224 x 224. What a gradient
/// needs is kept for all layers, and larger batches are hardly quicker.
const GRADIENT_PIXELS: i64 = 8 * 224 * 224;

/// The gradient of the class's score.
fn first() -> Derivative {
    Derivative { objective: TypeId::of::<ClassScore>(), order: Order::First }
}

/// The gradient of the class's score in the image, `[N, C, H, W]`.
#[derive(Debug)]
pub(super) struct ImageGradient(pub Tensor);

impl<'a> Evidence<'a> for ImageGradient {
    fn needs() -> Needs {
        Needs { derivative: Some(first()), image: true, ..Needs::of_image() }
    }

    fn gather(pass: &'a Pass<'a>, _layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        Ok(vec![ImageGradient(pass.image_gradient::<ClassScore>()?.1.f_detach()?)])
    }
}

/// The same gradient, `[N, C, H, W]`, of the network whose ReLUs let only positive gradients back.
#[derive(Debug)]
pub(super) struct GuidedGradient(pub Tensor);

impl<'a> Evidence<'a> for GuidedGradient {
    fn needs() -> Needs {
        Needs { guided: true, ..Needs::of_image() }
    }

    fn gather(pass: &'a Pass<'a>, _layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        Ok(vec![GuidedGradient(pass.guided_gradient()?)])
    }
}

/// That gradient, and what Grad-CAM is computed from at a layer.
pub(super) struct GuidedAtLayer {
    /// `[N, C, H, W]`
    pub guided: Tensor,
    /// Of the layer.
    pub layer: Gradients,
}

impl<'a> Evidence<'a> for GuidedAtLayer {
    fn needs() -> Needs {
        Needs { derivative: Some(first()), guided: true, ..Needs::of_layers(Influence::Gradient) }
    }

    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        let guided = pass.guided_gradient()?;
        let of_layers = Gradients::gather(pass, layers)?;
        Ok(of_layers.into_iter().map(|layer| GuidedAtLayer { guided: guided.shallow_clone(), layer }).collect())
    }
}

/// The model, asked about other images; with `GRADIENTS` for the gradients of its scores in them.
pub(super) struct OtherImages<'a, const GRADIENTS: bool> {
    pass: &'a Pass<'a>,
}

impl<'a, const GRADIENTS: bool> Evidence<'a> for OtherImages<'a, GRADIENTS> {
    fn needs() -> Needs {
        Needs { probes: true, image: GRADIENTS, ..Needs::of_image() }
    }

    fn gather(pass: &'a Pass<'a>, _layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        Ok(vec![OtherImages { pass }])
    }
}

/// One sample that a method asks about.
pub(super) struct Asked<'a> {
    /// Asks the model.
    pub probe: &'a Probe<'a>,
    /// What is asked for.
    pub scores: &'a [&'a Score],
    /// What tells the sample from others where chance plays a part.
    pub key: &'a str,
    /// How it is asked.
    pub sampling: Sampling,
    /// What black is in each channel of the model's input.
    pub black: &'a [f32],
}

impl<const GRADIENTS: bool> OtherImages<'_, GRADIENTS> {
    /// The saliency `[N, H, W]` of a method `M`, from the `[T, H, W]` of each sample for its `T` scores.
    ///
    /// # Errors
    /// Those of `find`.
    pub(super) fn of_samples<M: 'static>(
        &self,
        find: impl Fn(&Asked<'_>) -> Result<Tensor, ExplainError>,
    ) -> Result<Tensor, ExplainError> {
        let (sampling, black) = self.pass.sampling();
        self.pass.probed::<M>(None, |probe, scores| {
            find(&Asked { probe, scores, key: &self.pass.keys()[usize::from(probe.sample)], sampling, black })
        })
    }
}

impl Asked<'_> {
    /// The sum over `count` images of the gradients `[T, C, H, W]` of each score in them, each times its weight: `images` gives the images
    /// `[B, C, H, W]` from a place on with their weights `[B]`.
    ///
    /// # Errors
    /// A node of the graph fails, for want of memory say; there is no gradient.
    pub(super) fn gradients(
        &self,
        count: i64,
        images: impl Fn(i64, i64) -> Result<(Tensor, Tensor), TchError>,
    ) -> Result<Tensor, ExplainError> {
        let (_, _, height, width) = self.probe.image().size4()?;
        let most = (GRADIENT_PIXELS / (height * width).max(1)).max(1).min(self.probe.options.batch.max(1));
        let mut sum: Option<Tensor> = None;
        for first in (0..count).step_by(most as usize) {
            let (images, weights) = images(first, most.min(count - first))?;
            let found = self.probe.gradients(&images, self.scores)?; // [T, B, C, H, W]
            let weighted = found.f_mul(&weights.f_view([-1i64, 1, 1, 1])?)?.f_sum_dim_intlist(1i64, false, None::<Kind>)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&weighted)?,
                None => weighted,
            });
        }
        sum.ok_or_else(|| ExplainError::Unsuitable("no image was asked about".into()))
    }
}

/// The sum of magnitudes over channels: `[N, H, W]` of `[N, C, H, W]`.
pub(super) fn sum_of_magnitudes(gradients: &Tensor) -> Result<Tensor, TchError> {
    gradients.f_abs()?.f_sum_dim_intlist(1i64, false, None::<Kind>)
}

/// The largest magnitude over channels: `[N, H, W]` of `[N, C, H, W]`.
pub(super) fn largest_magnitude(gradients: &Tensor) -> Result<Tensor, TchError> {
    gradients.f_abs()?.f_amax([1i64].as_slice(), false)
}
