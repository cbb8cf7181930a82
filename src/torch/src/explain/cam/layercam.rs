//! LayerCAM: *Exploring Hierarchical Class Activation Maps for Localization*, Jiang et al., IEEE TIP 2021,
//! <https://ieeexplore.ieee.org/document/9462463>.
//!
//! With activation `A` (`[C, H', W']`) and the score's gradient `g = dy/dA`, every pixel has its own weight:
//!
//! ```text
//! L[i,j] = sum_c relu(g[c,i,j]) * A[c,i,j]
//! ```
//!
//! The same as pytorch_grad_cam's `LayerCAM`.

use tch::{TchError, Tensor};

use super::{CamMethod, Reduction, everywhere, evidence::GradientParts};
use crate::explain::ExplainError;

/// LayerCAM.
pub(super) struct LayerCam;

impl CamMethod for LayerCam {
    type Evidence<'a> = GradientParts;

    fn saliency(&self, evidence: &GradientParts, reduction: Reduction) -> Result<Tensor, ExplainError> {
        evidence.saliency(reduction, channels)
    }

    fn of_classes(&self, activation: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>, TchError> {
        let Some(gradient) = everywhere(gradient)? else { return Ok(None) };
        Reduction::sum_by_class(activation, &gradient.f_relu()?).map(Some)
    }
}

/// The channels `relu(g_c) * A_c`, `[N, C, H', W']`, of activation and gradient of that shape.
fn channels(activation: &Tensor, gradient: &Tensor) -> Result<Tensor, TchError> {
    gradient.f_relu()?.f_mul(activation)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{tensor, values};
    use super::*;

    #[test]
    fn negative_gradients_count_nothing() {
        let map = channels(&tensor(&[1.0, 3.0, -2.0], [1, 1, 1, 3]), &tensor(&[2.0, -4.0, 5.0], [1, 1, 1, 3])).expect("channels");
        assert_eq!(values(&map), [2.0, 0.0, -10.0]);
    }
}
