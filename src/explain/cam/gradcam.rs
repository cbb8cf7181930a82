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

/// Saliency `[N, H', W']` from activation and gradient `[N, C, H', W']`.
pub fn saliency(activation: &Tensor, gradient: &Tensor) -> Result<Tensor, TchError> {
    let channel_weights = gradient.f_mean_dim([2i64, 3].as_slice(), true, None::<Kind>)?; // (1)
    activation.f_mul(&channel_weights)?.f_sum_dim_intlist([1i64].as_slice(), false, None::<Kind>) // (2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_channels_by_hand() {
        // Channel weights are the means 1 and -0.5; the map is 1 * A0 - 0.5 * A1.
        let activation = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 2.0, 0.0, 4.0, 8.0]).view([1, 2, 2, 2]);
        let gradient = Tensor::from_slice(&[0f32, 2.0, 1.0, 1.0, -1.0, -1.0, 0.0, 0.0]).view([1, 2, 2, 2]);
        let map = saliency(&activation, &gradient).expect("saliency");
        assert_eq!(map.size(), [1, 2, 2]);
        assert_eq!(Vec::<f32>::try_from(map.flatten(0, -1)).expect("values"), [0.0, 2.0, 1.0, 0.0]);
    }
}
