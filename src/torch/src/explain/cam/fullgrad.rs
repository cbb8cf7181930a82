//! FullGrad: *Full-Gradient Representation for Neural Network Visualization*, Srinivas and Fleuret, NeurIPS 2019,
//! <https://arxiv.org/abs/1905.00780>.
//!
//! A piecewise linear network's score is what its input adds plus what each bias adds. With input `x` (`[3, H, W]`), the outputs
//! `z_l` (`[C, H_l, W_l]`) of the operators with a bias `b_l` (`[C]`), and `psi` = magnitude, min-max per channel, resize to
//! `[H, W]`:
//!
//! ```text
//! L[i,j] = sum_c psi(x * dy/dx)[c,i,j] + sum_l sum_c psi(b_l * dy/dz_l)[c,i,j]
//! ```
//!
//! It has no target layer: every convolution with a bias and every batch norm counts. pytorch_grad_cam's `FullGrad` does the same
//! for modules that are exactly `Conv2d` or `BatchNorm2d`, leaving out classes derived from these. With `--eigen-smooth` the
//! sum over `x`'s channels and over `l` is a projection (see `projection.rs`) at an eighth of the size.

use tch::{Kind, TchError, Tensor};

use super::{CamMethod, Reduction, evidence::WholeNetwork, projection};
use crate::explain::{
    ExplainError,
    heatmap::{resize, scale},
};

/// FullGrad.
pub(super) struct FullGrad;

impl CamMethod for FullGrad {
    type Evidence<'a> = WholeNetwork<'a>;

    fn saliency(&self, evidence: &WholeNetwork<'_>, reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(saliency(evidence, reduction)?)
    }
}

/// The saliency `[N, H, W]`.
fn saliency(evidence: &WholeNetwork<'_>, reduction: Reduction) -> Result<Tensor, TchError> {
    let WholeNetwork { input, input_gradient, biases } = evidence;
    let (_, _, height, width) = input.size4()?;
    let size = (height as usize, width as usize);
    // Channels of the result, [N, 1, H, W] each.
    let mut maps: Vec<Tensor> = Vec::new();
    let of_input = scale_channels(&input.f_mul(input_gradient)?.f_abs()?)?;
    for channel in 0..of_input.size()[1] {
        maps.push(of_input.f_narrow(1, channel, 1)?);
    }
    for (bias, gradient) in biases {
        let shares = scale_channels(&gradient.f_mul(&bias.f_view([1i64, -1, 1, 1])?)?.f_abs()?)?;
        // Resizing is linear: summing first gives the same and needs one map instead of C.
        let sum = shares.f_sum_dim_intlist(1i64, false, None::<Kind>)?;
        maps.push(resize(&sum, size.0, size.1)?.f_unsqueeze(1)?);
    }
    if reduction == Reduction::Sum {
        return Tensor::f_cat(&maps, 1)?.f_sum_dim_intlist(1i64, false, None::<Kind>);
    }
    let small = (size.0 / 8, size.1 / 8);
    for map in &mut maps {
        *map = resize(&scale(&map.f_squeeze_dim(1)?)?, small.0.max(1), small.1.max(1))?.f_unsqueeze(1)?;
    }
    let projected = projection::first_component(&Tensor::f_cat(&maps, 1)?)?;
    resize(&scale(&projected)?, size.0, size.1)
}

/// Min-max of every channel of `[N, C, H, W]` by itself.
fn scale_channels(maps: &Tensor) -> Result<Tensor, TchError> {
    let (n, c, h, w) = maps.size4()?;
    scale(&maps.f_reshape([n * c, h, w])?)?.f_view([n, c, h, w])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    #[test]
    fn input_and_bias_by_hand() {
        // |x g| = (0, 2, 4) -> (0, 0.5, 1); |b g| = 2 * (1, 0, 3) -> min-max (1/3, 0, 1).
        let input = tensor(&[0.0, 1.0, 2.0], [1, 1, 1, 3]);
        let bias = tensor(&[-2.0], [1]);
        let biases = vec![(&bias, tensor(&[1.0, 0.0, -3.0], [1, 1, 1, 3]))];
        let evidence = WholeNetwork { input, input_gradient: tensor(&[2.0, -2.0, 2.0], [1, 1, 1, 3]), biases };
        let map = FullGrad.saliency(&evidence, Reduction::Sum).expect("saliency");
        assert_near(&values(&map), &[1.0 / 3.0, 0.5, 2.0]);
    }
}
