//! Smooth Grad-CAM++: *An Enhanced Inference Level Visualization Technique for Deep Convolutional Neural Network Models*, Omeiza et al.,
//! 2019, <https://arxiv.org/abs/1908.01224>.
//!
//! Grad-CAM++ whose derivatives are means over variants of the image with noise. With the activation `A` (`[C, H', W']`) of the image, and
//! the gradient `g_n = dy/dA` of its variant `n` of `N`, to whose input normal noise is added:
//!
//! ```text
//! a[c,i,j] = mean_n g_n^2 / (2 mean_n g_n^2 + sum_{a,b} A[c,a,b] * mean_n g_n^3 + 1e-8)
//! w_c      = sum_{i,j} a[c,i,j] * relu(g_N[c,i,j])
//! L[i,j]   = sum_c w_c * A_N[c,i,j]
//! ```
//!
//! Numbers are those of torch-cam's `SmoothGradCAMpp` with the same noise: four variants, noise of deviation 0.3 of the normalized input,
//! the sum over `A[c,a,b] * mean g_n^3` place by place, and gradient and activation of the last variant in the two last lines. The paper
//! has the first derivative in the numerator of `a`, which torch-cam corrects to the second, as in Grad-CAM++.
//!
//! The noise follows from the sample (`explain/noise.rs`), so that a second run gives the same map; all layers and all classes of a
//! sample share its variants.

use tch::{Kind, TchError, Tensor};

use super::{CamMethod, Reduction, evidence::NoisyGradients};
use crate::explain::{ExplainError, pass::Noise};

const EPSILON: f64 = 1e-8;

/// Smooth Grad-CAM++.
pub(super) struct SmoothGradCamPlusPlus;

impl CamMethod for SmoothGradCamPlusPlus {
    type Evidence<'a> = NoisyGradients<'a>;

    fn saliency(&self, evidence: &NoisyGradients<'_>, reduction: Reduction) -> Result<Tensor, ExplainError> {
        let variants = evidence.of(Noise { count: 4, deviation: 0.3 })?;
        let (activations, gradients): (Vec<Tensor>, Vec<Tensor>) = variants.into_iter().unzip();
        let weights = weights(&evidence.activation, &gradients)?;
        let last = activations.last().ok_or_else(|| ExplainError::Unsuitable("no variant of the image was made".into()))?;
        Ok(reduction.of_weighted(last, &weights)?)
    }
}

/// The channel weights `w_c`, `[N, C]`, of the activation and the variants' gradients, `[N, C, H', W']` each.
fn weights(activation: &Tensor, gradients: &[Tensor]) -> Result<Tensor, TchError> {
    let dims: &[i64] = &[2, 3];
    let mean = |power: i64| -> Result<Tensor, TchError> {
        let mut sum = activation.f_zeros_like()?;
        for gradient in gradients {
            sum = sum.f_add(&gradient.f_pow_tensor_scalar(power)?)?;
        }
        sum.f_div_scalar(gradients.len() as f64)
    };
    let squared = mean(2)?;
    let total = mean(3)?.f_mul(activation)?.f_sum_dim_intlist(dims, true, None::<Kind>)?;
    let coefficients = squared.f_div(&squared.f_mul_scalar(2.0)?.f_add(&total)?.f_add_scalar(EPSILON)?)?;
    let last = gradients.last().map_or_else(|| activation.f_zeros_like(), Tensor::f_relu)?;
    last.f_mul(&coefficients)?.f_sum_dim_intlist(dims, false, None::<Kind>)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    #[test]
    fn two_variants_of_one_channel_by_hand() {
        let activation = tensor(&[1.0, 2.0], [1, 1, 1, 2]);
        let gradients = [tensor(&[1.0, 0.0], [1, 1, 1, 2]), tensor(&[2.0, 1.0], [1, 1, 1, 2])];
        // Means of squares 2.5 and 0.5, of cubes 4.5 and 0.5; the sum is 4.5 + 2 * 0.5 = 5.5.
        // a = 2.5 / (5 + 5.5) and 0.5 / (1 + 5.5); w = 2 * a_0 + a_1.
        let found = weights(&activation, &gradients).expect("weights");
        assert_near(&values(&found), &[2.0 * 2.5 / 10.5 + 0.5 / 6.5]);
    }

    #[test]
    fn without_any_gradient_nothing_weighs() {
        let zero = tensor(&[0.0, 0.0], [1, 1, 1, 2]);
        let found = weights(&tensor(&[1.0, 2.0], [1, 1, 1, 2]), &[zero.shallow_clone(), zero]).expect("weights");
        assert_eq!(values(&found), [0.0]);
    }
}
