//! XGrad-CAM: *Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs*, Fu et al., BMVC 2020,
//! <https://arxiv.org/abs/2008.02312>.
//!
//! With activation `A` (`[C, H', W']`) and the score's gradient `g = dy/dA`:
//!
//! ```text
//! w_c    = sum_{i,j} A[c,i,j] * g[c,i,j] / (sum_{a,b} A[c,a,b] + 1e-7)      gradients weighted by the activation
//! L[i,j] = sum_c w_c * A[c,i,j]
//! ```
//!
//! The epsilon is that of pytorch_grad_cam's `XGradCAM`.

use tch::{Kind, TchError, Tensor};

use super::{CamMethod, Gradients, Reduction, everywhere};
use crate::explain::ExplainError;

const EPSILON: f64 = 1e-7;

/// XGrad-CAM.
pub(super) struct XGradCam;

impl CamMethod for XGradCam {
    type Evidence<'a> = Gradients;

    fn saliency(&self, evidence: &Gradients, reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(reduction.of_weighted(&evidence.activation, &weights(&evidence.activation, &evidence.gradient)?)?)
    }

    fn of_classes(&self, activation: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>, TchError> {
        let Some(gradient) = everywhere(gradient)? else { return Ok(None) };
        let dims: &[i64] = &[2, 3];
        let total = activation.f_sum_dim_intlist(dims, true, None::<Kind>)?.f_add_scalar(EPSILON)?;
        let shares = activation.f_div(&total)?.f_sum_dim_intlist(dims, false, None::<Kind>)?; // [N, C]
        Reduction::sum_by_class(activation, &gradient.f_mul(&shares.f_unsqueeze(1)?)?).map(Some)
    }
}

/// The channel weights `w_c`, `[N, C]`, of activation and gradient `[N, C, H', W']`.
fn weights(activation: &Tensor, gradient: &Tensor) -> Result<Tensor, TchError> {
    let dims: &[i64] = &[2, 3];
    let total = activation.f_sum_dim_intlist(dims, true, None::<Kind>)?.f_add_scalar(EPSILON)?;
    gradient.f_mul(activation)?.f_div(&total)?.f_sum_dim_intlist(dims, false, None::<Kind>)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    fn map(activation: Tensor, gradient: Tensor) -> Tensor {
        XGradCam.saliency(&Gradients::new(activation, gradient), Reduction::Sum).expect("saliency")
    }

    #[test]
    fn one_channel_by_hand() {
        // sum A = 4; w = (1 * 2 + 3 * -4) / 4 = -2.5.
        let map = map(tensor(&[1.0, 3.0], [1, 1, 1, 2]), tensor(&[2.0, -4.0], [1, 1, 1, 2]));
        assert_near(&values(&map), &[-2.5, -7.5]);
    }
}
