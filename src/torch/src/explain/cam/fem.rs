//! FEM, the Feature Explanation Method: *Features Understanding in 3D CNNs for Actions Recognition in Video*, Fuad et al.,
//! IPTA 2020, <https://hal.science/hal-02963298>.
//!
//! A channel weighs as much as it has pixels beyond two standard deviations of its own. With activation `A` (`[C, H', W']`):
//!
//! ```text
//! t_c    = mean_{i,j} A[c,i,j] + 2 * std_{i,j} A[c,i,j]      (population standard deviation)
//! w_c    = share of pixels with A[c,i,j] > t_c
//! L[i,j] = sum_c w_c * A[c,i,j]
//! ```
//!
//! No class, no gradient; `--eigen-smooth` does not apply. The same as pytorch_grad_cam's `FEM`.

use tch::{Kind, TchError, Tensor};

use super::{CamMethod, Reduction, evidence::Activation};
use crate::explain::ExplainError;

/// How many standard deviations a pixel must be above the mean.
const SIGMAS: f64 = 2.0;

/// FEM.
pub(super) struct Fem;

impl CamMethod for Fem {
    type Evidence<'a> = Activation<'a>;

    fn saliency(&self, evidence: &Activation<'_>, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(Reduction::Sum.of_weighted(&evidence.activation, &weights(&evidence.activation)?)?)
    }
}

/// The channel weights `w_c`, `[N, C]`, of an activation `[N, C, H', W']`.
fn weights(activation: &Tensor) -> Result<Tensor, TchError> {
    let dims: &[i64] = &[2, 3];
    let mean = activation.f_mean_dim(dims, true, None::<Kind>)?;
    let deviation = activation.f_std_dim(dims, false, true)?;
    let rare = activation.f_gt_tensor(&mean.f_add(&deviation.f_mul_scalar(SIGMAS)?)?)?;
    rare.f_to_kind(activation.kind())?.f_mean_dim(dims, false, None::<Kind>)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    #[test]
    fn rare_peaks_weigh() {
        // Mean 1, deviation 3: of ten pixels only the 10 is beyond 7. The even channel has none.
        let mut pixels = vec![0.0; 10];
        pixels[4] = 10.0;
        pixels.extend([1.0; 10]);
        assert_near(&values(&weights(&tensor(&pixels, [1, 2, 2, 5])).expect("weights")), &[0.1, 0.0]);
    }
}
