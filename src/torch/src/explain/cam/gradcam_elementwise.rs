//! Element-wise Grad-CAM: *Segmentation and Detection Explanations by Element-wise Grad-CAM*, Pillai and Pirsiavash, AAAI 2021,
//! <https://ojs.aaai.org/index.php/AAAI/article/view/16440>.
//!
//! With activation `A` (`[C, H', W']`) and the score's gradient `g = dy/dA`:
//!
//! ```text
//! L[i,j] = sum_c relu(g[c,i,j] * A[c,i,j])
//! ```
//!
//! The same as pytorch_grad_cam's `GradCAMElementWise`.

use tch::{TchError, Tensor};

use super::{CamMethod, Gradients, Reduction, everywhere};
use crate::explain::ExplainError;

/// Element-wise Grad-CAM.
pub(super) struct GradCamElementwise;

impl CamMethod for GradCamElementwise {
    type Evidence<'a> = Gradients;

    fn saliency(&self, evidence: &Gradients, reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(reduction.of(&channels(&evidence.activation, &evidence.gradient)?)?)
    }

    /// `relu(g A)` is `relu(g) relu(A) + relu(-g) relu(-A)`.
    fn of_classes(&self, activation: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>, TchError> {
        let Some(gradient) = everywhere(gradient)? else { return Ok(None) };
        let of_sign =
            |activation: &Tensor, gradient: &Tensor| Reduction::sum_by_class(&activation.f_relu()?, &gradient.f_relu()?);
        of_sign(activation, &gradient)?.f_add(&of_sign(&activation.f_neg()?, &gradient.f_neg()?)?).map(Some)
    }
}

/// The channels `relu(g_c * A_c)`, `[N, C, H', W']`, of activation and gradient of that shape.
fn channels(activation: &Tensor, gradient: &Tensor) -> Result<Tensor, TchError> {
    gradient.f_mul(activation)?.f_relu()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{tensor, values};
    use super::*;

    #[test]
    fn each_channel_is_clipped_on_its_own() {
        let map = channels(&tensor(&[1.0, -3.0], [1, 2, 1, 1]), &tensor(&[-2.0, -4.0], [1, 2, 1, 1])).expect("channels");
        assert_eq!(values(&map), [0.0, 12.0]);
    }
}
