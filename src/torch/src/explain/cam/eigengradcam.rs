//! Eigen-Grad-CAM: Eigen-CAM (Muhammad and Yeasin, 2020, <https://arxiv.org/abs/2008.00299>) of activation times gradient, which
//! makes it class-discriminative; as pytorch_grad_cam's `EigenGradCAM`.
//!
//! The projection of `g * A` (both `[C, H', W']`) onto its first principal component over pixels; see `projection.rs`.

use tch::Tensor;

use super::{CamMethod, Gradients, Reduction, projection};
use crate::explain::ExplainError;

/// Eigen-Grad-CAM.
pub(super) struct EigenGradCam;

impl CamMethod for EigenGradCam {
    type Evidence<'a> = Gradients;

    fn saliency(&self, evidence: &Gradients, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(projection::first_component(&evidence.gradient.f_mul(&evidence.activation)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    #[test]
    fn the_gradient_decides_what_stands_out() {
        // Only the channel with a gradient is left: (0, 0, 3) centred is (-1, -1, 2).
        let activation = tensor(&[0.0, 0.0, 3.0, 90.0, 0.0, 6.0], [1, 2, 1, 3]);
        let gradient = tensor(&[1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [1, 2, 1, 3]);
        let map = EigenGradCam.saliency(&Gradients::new(activation, gradient), Reduction::Sum).expect("projection");
        assert_near(&values(&map), &[-1.0, -1.0, 2.0]);
    }
}
