//! HiResCAM: *Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks*, Draelos and Carin,
//! 2020, <https://arxiv.org/abs/2011.08891>.
//!
//! With activation `A` (`[C, H', W']`) and the score's gradient `g = dy/dA`:
//!
//! ```text
//! L[i,j] = sum_c g[c,i,j] * A[c,i,j]
//! ```
//!
//! Before a last linear layer this is exactly what each place adds to the score; smoothing (`--eigen-smooth`) gives that up. The
//! same as pytorch_grad_cam's `HiResCAM`.

use tch::{TchError, Tensor};

use super::{CamMethod, Gradients, Reduction, everywhere};
use crate::explain::ExplainError;

/// HiResCAM.
pub(super) struct HiResCam;

impl CamMethod for HiResCam {
    type Evidence<'a> = Gradients;

    fn saliency(&self, evidence: &Gradients, reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(reduction.of(&channels(&evidence.activation, &evidence.gradient)?)?)
    }

    fn of_classes(&self, activation: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>, TchError> {
        let Some(gradient) = everywhere(gradient)? else { return Ok(None) };
        Reduction::sum_by_class(activation, &gradient).map(Some)
    }
}

/// The channels `g_c * A_c`, `[N, C, H', W']`, of activation and gradient of that shape.
fn channels(activation: &Tensor, gradient: &Tensor) -> Result<Tensor, TchError> {
    gradient.f_mul(activation)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{tensor, values};
    use super::*;

    #[test]
    fn of_a_linear_score_it_is_the_score() {
        // y = sum of g * A, so the map sums up to y.
        let map = channels(&tensor(&[1.0, 3.0], [1, 2, 1, 1]), &tensor(&[2.0, -4.0], [1, 2, 1, 1])).expect("channels");
        assert_eq!(values(&map), [2.0, -12.0]);
    }
}
