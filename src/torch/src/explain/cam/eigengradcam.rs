//! Eigen-Grad-CAM: Eigen-CAM (Muhammad and Yeasin, 2020, <https://arxiv.org/abs/2008.00299>) of activation times gradient, which
//! makes it class-discriminative; as pytorch_grad_cam's `EigenGradCAM`.
//!
//! The projection of `g * A` (both `[C, H', W']`) onto its first principal component over pixels; see `projection.rs`.

use tch::{TchError, Tensor};

/// The channels that are projected, `g_c * A_c`, `[N, C, H', W']`.
pub fn channels(activation: &Tensor, gradient: &Tensor) -> Result<Tensor, TchError> {
    gradient.f_mul(activation)
}

#[cfg(test)]
mod tests {
    use super::super::{
        projection,
        testing::{assert_near, tensor, values},
    };
    use super::*;

    #[test]
    fn the_gradient_decides_what_stands_out() {
        // Only the channel with a gradient is left: (0, 0, 3) centred is (-1, -1, 2).
        let activation = tensor(&[0.0, 0.0, 3.0, 90.0, 0.0, 6.0], [1, 2, 1, 3]);
        let gradient = tensor(&[1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [1, 2, 1, 3]);
        let map = projection::first_component(&channels(&activation, &gradient).expect("channels")).expect("projection");
        assert_near(&values(&map), &[-1.0, -1.0, 2.0]);
    }
}
