//! Grad-CAM: *Visual Explanations from Deep Networks via Gradient-based Localization*, Selvaraju et al., ICCV 2017,
//! <https://arxiv.org/abs/1610.02391>.
//!
//! With activation `A` (`[C, H', W']`), score `y` and its gradient `dy/dA`:
//!
//! ```text
//! alpha_c = 1/(H' W') * sum_{i,j} dy/dA[c,i,j]      (1)  channel weights
//! L[i,j]  = sum_c alpha_c * A[c,i,j]                (2)  saliency; its ReLU follows in `heatmap.rs`, as for every method
//! ```
//!
//! The same as pytorch_grad_cam's `GradCAM`.

use tch::{Kind, TchError, Tensor};

use super::{CamMethod, Gradients, Reduction};
use crate::explain::ExplainError;

/// Grad-CAM.
pub struct GradCam;

impl CamMethod for GradCam {
    type Evidence<'a> = Gradients;

    fn saliency(&self, evidence: &Gradients, reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(reduction.of_weighted(&evidence.activation, &weights(&evidence.gradient)?)?)
    }

    fn of_classes(&self, activation: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>, TchError> {
        let weights = gradient.f_mean_dim([3i64, 4].as_slice(), false, None::<Kind>)?; // (1)
        Reduction::sum_by_class(activation, &weights).map(Some) // (2)
    }
}

/// The channel weights `alpha_c`, `[N, C]`, of a gradient `[N, C, H', W']`.
pub(super) fn weights(gradient: &Tensor) -> Result<Tensor, TchError> {
    gradient.f_mean_dim([2i64, 3].as_slice(), false, None::<Kind>) // (1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{tensor, values};
    use super::*;

    #[test]
    fn two_channels_by_hand() {
        // Channel weights are the means 1 and -0.5; the map is 1 * A0 - 0.5 * A1.
        let activation = tensor(&[1.0, 2.0, 3.0, 4.0, 2.0, 0.0, 4.0, 8.0], [1, 2, 2, 2]);
        let gradient = tensor(&[0.0, 2.0, 1.0, 1.0, -1.0, -1.0, 0.0, 0.0], [1, 2, 2, 2]);
        let map = GradCam.saliency(&Gradients::new(activation, gradient), Reduction::Sum).expect("saliency");
        assert_eq!(values(&map), [0.0, 2.0, 1.0, 0.0]);
    }
}
