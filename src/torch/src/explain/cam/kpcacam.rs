//! KPCA-CAM: *Visual Explainability of Deep Computer Vision Models using Kernel PCA*, Karmani et al., 2024,
//! <https://arxiv.org/abs/2410.00267>.
//!
//! Eigen-CAM with a kernel. With the pixels' channel vectors `x_p` (`[C]`, centred over the `P = H' W'` pixels):
//!
//! ```text
//! K[p,q] = tanh(x_p . x_q / C + 1)                    sigmoid kernel, centred in feature space
//! K u    = theta u                                    largest eigenvalue, |u| = 1
//! L[p]   = sqrt(theta) * u[p]                         its sign: the largest magnitude is positive
//! ```
//!
//! Kernel and sign are those of scikit-learn's `KernelPCA(n_components=1, kernel="sigmoid")`, which pytorch_grad_cam's
//! `KPCA_CAM` uses. No class, no gradient; `--eigen-smooth` does not apply.

use tch::{TchError, Tensor};

use super::{CamMethod, Reduction, evidence::Activation, projection};
use crate::explain::ExplainError;

/// More pixels than this make a kernel matrix of over 2 GiB.
const MAX_KERNEL_PIXELS: i64 = 16_384;

/// KPCA-CAM.
pub(super) struct KpcaCam;

impl CamMethod for KpcaCam {
    type Evidence<'a> = Activation<'a>;

    fn saliency(&self, evidence: &Activation<'_>, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        let (_, _, height, width) = evidence.activation.size4()?;
        if height * width > MAX_KERNEL_PIXELS {
            return Err(ExplainError::Unsuitable(format!(
                "layer `{}` has {height}x{width} pixels, too many for kpcacam's kernel matrix; use a deeper layer or eigencam",
                evidence.layer.path
            )));
        }
        Ok(saliency(&evidence.activation)?)
    }
}

/// The saliency `[N, H', W']` of an activation `[N, C, H', W']`, sample by sample: each needs a matrix of `P x P` doubles.
fn saliency(activation: &Tensor) -> Result<Tensor, TchError> {
    let (n, channels, height, width) = activation.size4()?;
    let gamma = 1.0 / channels as f64;
    let centred = |vector: &Tensor| vector.f_sub(&vector.f_mean_dim(1i64, true, None)?);
    let mut maps = Vec::with_capacity(n as usize);
    for sample in 0..n {
        let pixels = projection::centred_pixels(&activation.f_narrow(0, sample, 1)?)?;
        let kernel = pixels.f_matmul(&pixels.f_transpose(1, 2)?)?.f_mul_scalar(gamma)?.f_add_scalar(1.0)?.f_tanh()?;
        let apply = |vector: &Tensor| centred(&kernel.f_matmul(&centred(vector)?)?);
        maps.push(projection::largest_component(apply, (1, height * width), activation.device())?.f_view([1, height, width])?);
    }
    projection::orient(&Tensor::f_cat(&maps, 0)?)?.f_to_kind(activation.kind())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    #[test]
    fn equals_a_dense_eigendecomposition() {
        let pixels: Vec<f32> = (0..60).map(|k| ((k * 37 % 23) as f32).sin() * 2.0).collect();
        let activation = tensor(&pixels, [1, 3, 4, 5]);
        let rows = projection::centred_pixels(&activation).expect("pixels").squeeze_dim(0);
        let kernel = (rows.matmul(&rows.tr()) / 3.0 + 1.0).tanh();
        let centring = Tensor::eye(20, (tch::Kind::Double, tch::Device::Cpu)) - 1.0 / 20.0;
        let (roots, vectors) = centring.matmul(&kernel).matmul(&centring).linalg_eigh("L");
        let wanted = vectors.select(1, -1) * roots.get(-1).sqrt();
        let flip = if wanted.max().abs().double_value(&[]) < wanted.min().abs().double_value(&[]) { -1.0 } else { 1.0 };
        assert_near(&values(&saliency(&activation).expect("saliency")), &values(&(wanted * flip)));
    }
}
