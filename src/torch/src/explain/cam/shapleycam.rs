//! ShapleyCAM: *Rethinking CAM: A Theoretical Framework with Shapley Values*, Cai, 2025, <https://arxiv.org/abs/2501.06261>.
//!
//! Grad-CAM with the second-order term of the score's expansion around the activation. With activation `A` (`[C, H', W']`),
//! gradient `g = dy/dA` and Hessian `H = d2y/dA2`:
//!
//! ```text
//! alpha_c = 1/(H' W') * sum_{i,j} (g - 1/2 * H A)[c,i,j]
//! L[i,j]  = sum_c alpha_c * A[c,i,j]
//! ```
//!
//! Where all behind the layer is piecewise linear, `H A` is zero and the map is Grad-CAM's. The same as pytorch_grad_cam's
//! `ShapleyCAM` with its default target.

use tch::{TchError, Tensor};

use super::{CamMethod, Reduction, evidence::SecondOrder, gradcam};
use crate::explain::ExplainError;

/// ShapleyCAM.
pub(super) struct ShapleyCam;

impl CamMethod for ShapleyCam {
    type Evidence<'a> = SecondOrder;

    fn saliency(&self, evidence: &SecondOrder, reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(reduction.of_weighted(&evidence.activation, &weights(&evidence.gradient, &evidence.hessian_product)?)?)
    }

    /// There is no second order in a gradient that no image changes.
    fn of_classes(&self, activation: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>, TchError> {
        gradcam::GradCam.of_classes(activation, gradient)
    }
}

/// The channel weights `alpha_c`, `[N, C]`, of gradient and Hessian-vector product `H A`, `[N, C, H', W']` both.
fn weights(gradient: &Tensor, hessian_product: &Tensor) -> Result<Tensor, TchError> {
    gradcam::weights(&gradient.f_sub(&hessian_product.f_mul_scalar(0.5)?)?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{tensor, values};
    use super::*;

    #[test]
    fn of_a_square_the_second_order_takes_half_the_gradient() {
        // y = A^2: g = 2 A, H A = 2 A, so g - H A / 2 = A.
        let activation = tensor(&[3.0], [1, 1, 1, 1]);
        let twice = &activation * 2.0;
        let evidence = SecondOrder { gradient: twice.shallow_clone(), hessian_product: twice, activation };
        assert_eq!(values(&ShapleyCam.saliency(&evidence, Reduction::Sum).expect("saliency")), [9.0]);
    }
}
