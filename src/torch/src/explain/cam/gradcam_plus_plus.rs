//! Grad-CAM++: *Improved Visual Explanations for Deep Convolutional Networks*, Chattopadhyay et al., WACV 2018,
//! <https://arxiv.org/abs/1710.11063>.
//!
//! With activation `A` (`[C, H', W']`) and the score's gradient `g = dy/dA`:
//!
//! ```text
//! a[c,i,j] = g^2 / (2 g^2 + g^3 * sum_{a,b} A[c,a,b] + 1e-6), 0 where g = 0      (eq. 19)
//! w_c      = sum_{i,j} a[c,i,j] * relu(g[c,i,j])                                 (eq. 7)
//! L[i,j]   = sum_c w_c * A[c,i,j]
//! ```
//!
//! Equation 19 takes the score as `exp(y)`, whose higher derivatives are powers of `g`. The epsilon is that of
//! pytorch_grad_cam's `GradCAMPlusPlus`.

use tch::{Kind, TchError, Tensor};

use super::{CamMethod, Gradients, Reduction, everywhere};
use crate::explain::ExplainError;

const EPSILON: f64 = 1e-6;

/// Grad-CAM++.
pub(super) struct GradCamPlusPlus;

impl CamMethod for GradCamPlusPlus {
    type Evidence<'a> = Gradients;

    fn saliency(&self, evidence: &Gradients, reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(reduction.of_weighted(&evidence.activation, &weights(&evidence.activation, &evidence.gradient)?)?)
    }

    fn of_classes(&self, activation: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>, TchError> {
        let Some(gradient) = everywhere(gradient)? else { return Ok(None) };
        let (_, _, height, width) = activation.size4()?;
        let total = activation.f_sum_dim_intlist([2i64, 3].as_slice(), false, None::<Kind>)?.f_unsqueeze(1)?;
        let weights = gradient.f_relu()?.f_mul(&coefficients(&gradient, &total)?)?;
        Reduction::sum_by_class(activation, &weights.f_mul_scalar((height * width) as f64)?).map(Some)
    }
}

/// The channel weights `w_c`, `[N, C]`, of activation and gradient `[N, C, H', W']`.
fn weights(activation: &Tensor, gradient: &Tensor) -> Result<Tensor, TchError> {
    let dims: &[i64] = &[2, 3];
    let total = activation.f_sum_dim_intlist(dims, true, None::<Kind>)?;
    gradient.f_relu()?.f_mul(&coefficients(gradient, &total)?)?.f_sum_dim_intlist(dims, false, None::<Kind>)
}

/// The coefficients `a` of a gradient, where channels sum up to `total`.
fn coefficients(gradient: &Tensor, total: &Tensor) -> Result<Tensor, TchError> {
    let squared = gradient.f_square()?;
    let cubed = squared.f_mul(gradient)?;
    let denominator = squared.f_mul_scalar(2.0)?.f_add(&total.f_mul(&cubed)?)?.f_add_scalar(EPSILON)?;
    squared.f_div(&denominator)?.f_masked_fill(&gradient.f_eq(0.0)?, 0.0)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    fn map(activation: Tensor, gradient: Tensor) -> Tensor {
        GradCamPlusPlus.saliency(&Gradients::new(activation, gradient), Reduction::Sum).expect("saliency")
    }

    #[test]
    fn one_channel_by_hand() {
        // sum A = 3; g = 1: 1 / (2 + 3) = 0.2; g = -1: relu drops it. w = 0.2.
        let map = map(tensor(&[1.0, 2.0], [1, 1, 1, 2]), tensor(&[1.0, -1.0], [1, 1, 1, 2]));
        assert_near(&values(&map), &[0.2, 0.4]);
    }

    #[test]
    fn a_zero_gradient_weighs_nothing() {
        let map = map(tensor(&[1.0, 2.0], [1, 1, 1, 2]), tensor(&[0.0, 0.0], [1, 1, 1, 2]));
        assert_eq!(values(&map), [0.0, 0.0]);
    }
}
