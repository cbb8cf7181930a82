//! The first principal component of a layer's pixels, for Eigen-CAM and its kin and for `--eigen-smooth`.
//!
//! A layer's `P = H' W'` pixels are points in `C` dimensions. Centred, they are the rows of `X` (`[P, C]`), and the map is their
//! projection `X v` onto the first right singular vector `v`. With the matching left singular vector `u` and singular value
//! `sigma` that is `sigma * u`; `v` and `u` are the eigenvectors of `X^T X` and `X X^T` to their largest eigenvalue `sigma^2`.
//! Where there are few channels (an early layer) or few pixels (a late one), the smaller of these matrices is decomposed. Else the
//! vector is found by the Lanczos method (Golub and Van Loan, *Matrix Computations*, section 10.1), which needs only products with
//! `X`: a full decomposition as in pytorch_grad_cam takes minutes. All in fp64.
//!
//! A singular vector has no sign of its own. The map is turned so that its largest magnitude is positive: the small region that
//! stands out is hot, not all the rest (Chung and Ying, *Seg-Eigen-CAM*, 2025, eq. 13, <https://doi.org/10.3390/app15137562>).
//! pytorch_grad_cam keeps whatever sign LAPACK gives.

use tch::{Device, Kind, TchError, Tensor};

/// Up to how many channels or pixels a decomposition takes less time than the Lanczos method.
const FEW: i64 = 256;

/// Vectors per round of the Lanczos method; then it starts again from the best one.
const STEPS: i64 = 40;

/// Rounds at most. One or two are enough unless two eigenvalues are almost equal, and then every mixture is as good.
const ROUNDS: usize = 12;

/// A vector is good when what is left of it, relative to the eigenvalue, is below this.
const RESIDUAL: f64 = 1e-9;

/// The projections `[N, H', W']` of channels `[N, C, H', W']`, turned so that the largest magnitude is positive; NaN counts as 0,
/// as in pytorch_grad_cam's `get_2d_projection`.
///
/// # Errors
/// libtorch fails, for want of memory say.
pub(super) fn first_component(channels: &Tensor) -> Result<Tensor, TchError> {
    let (n, num_channels, height, width) = channels.size4()?;
    let pixels = centred_pixels(channels)?;
    let component = match num_channels.min(height * width) <= FEW {
        true => by_decomposition(&pixels)?,
        false => by_lanczos(&pixels)?,
    };
    orient(&component.f_view([n, height, width])?)?.f_to_kind(channels.kind())
}

/// Either way the projections `[N, P]` of `[N, P, C]`, of any sign.
fn by_decomposition(pixels: &Tensor) -> Result<Tensor, TchError> {
    let (_, num_pixels, num_channels) = pixels.size3()?;
    let transposed = pixels.f_transpose(1, 2)?;
    // In ascending order.
    let last = |matrix: Tensor| -> Result<(Tensor, Tensor), TchError> {
        let (values, vectors) = matrix.f_linalg_eigh("L")?;
        Ok((values.f_narrow(1, -1, 1)?, vectors.f_narrow(2, -1, 1)?))
    };
    if num_channels < num_pixels {
        let (_, vector) = last(transposed.f_matmul(pixels)?)?;
        return pixels.f_matmul(&vector)?.f_squeeze_dim(2);
    }
    let (value, vector) = last(pixels.f_matmul(&transposed)?)?;
    vector.f_squeeze_dim(2)?.f_mul(&value.f_clamp_min(0.0)?.f_sqrt()?)
}

fn by_lanczos(pixels: &Tensor) -> Result<Tensor, TchError> {
    let (n, num_pixels, _) = pixels.size3()?;
    let transposed = pixels.f_transpose(1, 2)?;
    let apply = |vector: &Tensor| pixels.f_matmul(&transposed.f_matmul(vector)?);
    largest_component(apply, (n, num_pixels), pixels.device())
}

/// The pixels of `[N, C, H', W']` as rows, f64 `[N, P, C]`, with mean 0 in every channel.
pub(super) fn centred_pixels(channels: &Tensor) -> Result<Tensor, TchError> {
    let channels = channels.f_to_kind(Kind::Double)?.f_nan_to_num(0.0, f64::INFINITY, f64::NEG_INFINITY)?;
    let pixels = channels.f_flatten(2, 3)?.f_transpose(1, 2)?;
    pixels.f_sub(&pixels.f_mean_dim(1i64, true, None::<Kind>)?)
}

/// `sqrt(theta) * u` for the largest eigenvalue `theta` and its eigenvector `u` of `N` symmetric operators of dimension `P`, f64
/// `[N, P]`; zero where no eigenvalue is positive. `apply` takes and gives `[N, P, 1]`.
pub(super) fn largest_component(
    apply: impl Fn(&Tensor) -> Result<Tensor, TchError>,
    (n, dimension): (i64, i64),
    device: Device,
) -> Result<Tensor, TchError> {
    // Any start that is not orthogonal to the wanted vector will do; a fixed one makes runs repeatable.
    let start = Tensor::f_arange(dimension, (Kind::Double, device))?.f_add_scalar(1.0)?.f_mul_scalar(12.9898)?.f_sin()?;
    let mut vector = start.f_view([1, dimension, 1])?.f_expand([n, dimension, 1], false)?.f_contiguous()?;
    let mut value = Tensor::f_zeros([n, 1, 1], (Kind::Double, device))?;
    for _ in 0..ROUNDS {
        (value, vector) = lanczos(&apply, &vector, STEPS.min(dimension))?;
        let residual = norm(&apply(&vector)?.f_sub(&vector.f_mul(&value)?)?)?;
        let is_good = residual.f_le_tensor(&value.f_abs()?.f_mul_scalar(RESIDUAL)?)?;
        if is_good.f_all()?.f_int64_value(&[])? == 1 {
            break;
        }
    }
    vector.f_mul(&value.f_clamp_min(0.0)?.f_sqrt()?)?.f_squeeze_dim(2)
}

/// The largest eigenvalue `[N, 1, 1]` of an operator on the space that `steps` applications span, and its vector `[N, P, 1]`.
fn lanczos(
    apply: &impl Fn(&Tensor) -> Result<Tensor, TchError>,
    start: &Tensor,
    steps: i64,
) -> Result<(Tensor, Tensor), TchError> {
    let mut basis = normalised(start, &norm(start)?)?; // [N, P, k]
    let mut images = apply(&basis)?;
    for step in 1..steps {
        let mut next = images.f_narrow(2, step - 1, 1)?;
        let size = norm(&next)?;
        // Twice: one pass leaves rounding errors that grow from step to step.
        for _ in 0..2 {
            next = next.f_sub(&basis.f_matmul(&basis.f_transpose(1, 2)?.f_matmul(&next)?)?)?;
        }
        // Where the space is exhausted this is zero, and adds an eigenvalue of zero.
        let next = normalised(&next, &size)?;
        images = Tensor::f_cat(&[&images, &apply(&next)?], 2)?;
        basis = Tensor::f_cat(&[&basis, &next], 2)?;
    }
    let small = basis.f_transpose(1, 2)?.f_matmul(&images)?; // [N, k, k]
    let small = small.f_add(&small.f_transpose(1, 2)?)?.f_mul_scalar(0.5)?;
    let (values, vectors) = small.f_linalg_eigh("L")?;
    let last = steps - 1;
    let vector = basis.f_matmul(&vectors.f_narrow(2, last, 1)?)?;
    let vector = normalised(&vector, &norm(&vector)?)?;
    Ok((values.f_narrow(1, last, 1)?.f_unsqueeze(2)?, vector))
}

fn norm(vector: &Tensor) -> Result<Tensor, TchError> {
    vector.f_square()?.f_sum_dim_intlist(1i64, true, None::<Kind>)?.f_sqrt()
}

/// Of length 1; zero where nothing but rounding errors is left of a vector that was of length `size` (`[N, 1, 1]`).
fn normalised(vector: &Tensor, size: &Tensor) -> Result<Tensor, TchError> {
    let length = norm(vector)?;
    let nothing = length.f_le_tensor(&size.f_mul_scalar(1e-11)?)?;
    vector.f_div(&length.f_masked_fill(&nothing, 1.0)?)?.f_masked_fill(&nothing, 0.0)
}

/// Turns each of `[N, H, W]` so that its largest magnitude is positive.
pub(super) fn orient(maps: &Tensor) -> Result<Tensor, TchError> {
    let dims: &[i64] = &[1, 2];
    let is_negative = maps.f_amin(dims, true)?.f_neg()?.f_gt_tensor(&maps.f_amax(dims, true)?)?;
    let sign = is_negative.f_to_kind(maps.kind())?.f_mul_scalar(-2.0)?.f_add_scalar(1.0)?;
    maps.f_mul(&sign)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    fn waves(count: usize) -> Vec<f32> {
        (0..count).map(|k| (k as f32 * 0.7).sin() * (1.0 + (k % 5) as f32) + ((k * k) as f32 * 0.13).cos()).collect()
    }

    /// More pixels than channels, and more channels than pixels.
    #[test]
    fn both_ways_give_the_first_singular_vector() {
        for size in [[2, 6, 7, 9], [1, 300, 2, 2]] {
            let [n, _, height, width] = size;
            let count = size.iter().product::<i64>() as usize;
            let pixels = centred_pixels(&tensor(&waves(count), size)).expect("pixels");
            let (left, sizes, _) = pixels.svd(true, true);
            let maps = |component: Tensor| values(&orient(&component.view([n, height, width])).expect("turned"));
            let wanted = maps(left.select(2, 0) * sizes.narrow(1, 0, 1));
            assert_near(&maps(by_decomposition(&pixels).expect("projected")), &wanted);
            assert_near(&maps(by_lanczos(&pixels).expect("projected")), &wanted);
        }
    }

    #[test]
    fn nothing_stands_out_of_a_constant() {
        let map = first_component(&Tensor::ones([1, 3, 2, 2], tch::kind::FLOAT_CPU)).expect("projection");
        assert_eq!(values(&map), [0.0; 4]);
    }

    #[test]
    fn the_largest_magnitude_is_positive() {
        assert_eq!(values(&orient(&tensor(&[1.0, -3.0], [1, 1, 2])).expect("turned")), [-1.0, 3.0]);
        assert_eq!(values(&orient(&tensor(&[-1.0, 3.0], [1, 1, 2])).expect("turned")), [-1.0, 3.0]);
    }
}
