//! Filling removed pixels in from those that are left: the noisy linear imputation of ROAD, without its noise.
//!
//! Each removed pixel becomes the weighted mean of its eight neighbours, 1/6 for those beside it and 1/12 for those across its
//! corners; at the border fewer, by their weights. With `W` the sum of a pixel's weights, `S` the weighted sum of neighbours and
//! `M` the removed pixels, that is a symmetric, positive definite system for them:
//!
//! ```text
//! (W - S) v = S (x known)    on M
//! ```
//!
//! The reference (<https://github.com/tleemann/road_evaluation>) factorises it on the host. Here conjugate gradients solve it where
//! the image is, for many images at once. A multigrid cycle is their preconditioner, so that the number of iterations (about ten)
//! does not grow with the image.

use tch::{Kind, TchError, Tensor};

/// Largest residual of a pixel, in the units of the model's input. ROAD adds noise of 0.01 to it.
const TOLERANCE: f64 = 1e-4;
/// Far more than any image took.
const MAX_ITERATIONS: usize = 200;
/// Grids of at most so many rows or columns have no coarser one.
const SMALLEST_SIDE: i64 = 4;
/// Jacobi steps on the coarsest grid.
const COARSEST_STEPS: usize = 8;
/// Damping of Jacobi's step.
const DAMPING: f64 = 0.8;
/// Keeps 0 / 0 from being NaN where nothing is left to improve.
const TINY: f64 = 1e-30;

/// The images `[B, C, H, W]` with the pixels of `removed` (bool `[B, 1, H, W]`) filled in; each needs a pixel that is left.
///
/// # Errors
/// libtorch fails, for want of memory say.
pub(in crate::explain) fn impute(images: &Tensor, removed: &Tensor) -> Result<Tensor, TchError> {
    let grid = Grid::new(removed.f_to_kind(Kind::Float)?)?;
    let known = images.f_mul(&removed.f_logical_not()?)?;
    let mut residual = neighbours(&known)?.f_mul(&grid.removed)?;
    let mut filled = known;
    let mut scaled = grid.cycle(&residual)?;
    let mut direction = scaled.shallow_clone();
    let mut norm = dot(&residual, &scaled)?;
    for _ in 0..MAX_ITERATIONS {
        // One that is solved stays as it is, so that no image depends on its company.
        let is_open = residual.f_abs()?.f_amax([1i64, 2, 3].as_slice(), true)?.f_gt(TOLERANCE)?;
        if is_open.f_any()?.f_int64_value(&[])? == 0 {
            break;
        }
        let image = grid.system(&direction)?;
        let step = norm.f_div(&dot(&direction, &image)?.f_clamp_min(TINY)?)?.f_mul(&is_open)?;
        filled = filled.f_add(&direction.f_mul(&step)?)?;
        residual = residual.f_sub(&image.f_mul(&step)?)?;
        scaled = grid.cycle(&residual)?;
        let next = dot(&residual, &scaled)?;
        direction = scaled.f_add(&direction.f_mul(&next.f_div(&norm.f_clamp_min(TINY)?)?)?)?;
        norm = next;
    }
    Ok(filled)
}

/// The system at one resolution; all its vectors are zero outside of `M`.
struct Grid {
    /// `M`: f32 `[B, 1, H, W]` of 0 and 1.
    removed: Tensor,
    /// `W`: f32 `[1, 1, H, W]`.
    weights: Tensor,
    /// At half the resolution, where a pixel is removed if all four of its pixels are.
    coarser: Option<Box<Grid>>,
}

impl Grid {
    fn new(removed: Tensor) -> Result<Grid, TchError> {
        let (_, _, height, width) = removed.size4()?;
        let weights = neighbours(&removed.f_narrow(0, 0, 1)?.f_ones_like()?)?;
        let coarser = if height.min(width) > SMALLEST_SIDE {
            let share = removed.f_avg_pool2d([2, 2], [2, 2], [0, 0], true, false, None::<i64>)?;
            Some(Box::new(Grid::new(share.f_eq(1.0)?.f_to_kind(Kind::Float)?)?))
        } else {
            None
        };
        Ok(Grid { removed, weights, coarser })
    }

    fn system(&self, v: &Tensor) -> Result<Tensor, TchError> {
        self.weights.f_mul(v)?.f_sub(&neighbours(v)?)?.f_mul(&self.removed)
    }

    /// An approximate solution: a V-cycle. It is symmetric, as conjugate gradients need it: one damped Jacobi step before and one
    /// after, and what goes to the coarser grid goes by the transpose of what comes back.
    fn cycle(&self, right: &Tensor) -> Result<Tensor, TchError> {
        let jacobi = |left: &Tensor| left.f_div(&self.weights)?.f_mul_scalar(DAMPING);
        let mut v = jacobi(right)?;
        let Some(coarser) = &self.coarser else {
            for _ in 0..COARSEST_STEPS {
                v = v.f_add(&jacobi(&right.f_sub(&self.system(&v)?)?)?)?;
            }
            return Ok(v);
        };
        let (batch, channels, height, width) = right.size4()?;
        let (_, _, rows, columns) = coarser.removed.size4()?;
        let (size, coarse) = ([height, width], [batch, channels, rows, columns]);
        let left = right.f_sub(&self.system(&v)?)?;
        let left = Tensor::f_upsample_bilinear2d_backward(&left, size, coarse, false, None::<f64>, None::<f64>)?;
        let correction = coarser.cycle(&left.f_mul(&coarser.removed)?)?;
        let correction = correction.f_upsample_bilinear2d(size, false, None::<f64>, None::<f64>)?;
        v = v.f_add(&correction.f_mul(&self.removed)?)?;
        v.f_add(&jacobi(&right.f_sub(&self.system(&v)?)?)?)
    }
}

/// The weighted sum of each pixel's eight neighbours; nothing lies beyond the border.
fn neighbours(values: &Tensor) -> Result<Tensor, TchError> {
    // (1, 2, 1) along the rows and along the columns, less the pixel itself.
    let along = |values: &Tensor, dim: i64| -> Result<Tensor, TchError> {
        let length = values.size()[dim as usize] - 2;
        let part = |first: i64| values.f_narrow(dim, first, length);
        part(0)?.f_add(&part(2)?)?.f_add(&part(1)?.f_mul_scalar(2.0)?)
    };
    let padded = values.f_constant_pad_nd([1i64, 1, 1, 1])?;
    along(&along(&padded, 3)?, 2)?.f_sub(&values.f_mul_scalar(4.0)?)?.f_div_scalar(12.0)
}

/// `[B, C, 1, 1]`
fn dot(a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
    a.f_mul(b)?.f_sum_dim_intlist([2i64, 3].as_slice(), true, None::<Kind>)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn a_pixel_is_the_weighted_mean_of_its_neighbours() {
        let image = Tensor::from_slice(&[6f32, 12.0, 6.0, 0.0, 99.0, 24.0, 6.0, 0.0, 6.0]).view([1, 1, 3, 3]);
        let removed = Tensor::from_slice(&[false, false, false, false, true, false, false, false, false]).view([1, 1, 3, 3]);
        // 4 * 6 / 12 + (12 + 0 + 24 + 0) / 6
        let filled = impute(&image, &removed).expect("filled").double_value(&[0, 0, 1, 1]);
        assert!((filled - 8.0).abs() < 1e-3, "{filled}");
        // In the corner: 12 and 0 weigh 1/6, the middle 1/12.
        let removed = Tensor::from_slice(&[true, false, false, false, false, false, false, false, false]).view([1, 1, 3, 3]);
        let filled = impute(&image, &removed).expect("filled").double_value(&[0, 0, 0, 0]);
        assert!((filled - (12.0 / 6.0 + 99.0 / 12.0) / (5.0 / 12.0)).abs() < 1e-3, "{filled}");
    }

    /// The same with a dense matrix.
    fn by_elimination(image: &Tensor, removed: &Tensor) -> Tensor {
        let (_, channels, height, width) = image.size4().expect("four dimensions");
        let size = height * width;
        let diagonal = |values: &Tensor| Tensor::diag_embed(values, 0, 0, 1);
        let units = Tensor::eye(size, (Kind::Double, Device::Cpu)).view([size, 1, height, width]);
        let sums = neighbours(&units).expect("sums").view([size, size]);
        let system = diagonal(&sums.sum_dim_intlist([1i64].as_slice(), false, None::<Kind>)) - &sums;
        let removed = removed.view([size]).to_kind(Kind::Double);
        let (removed, known) = (diagonal(&removed), diagonal(&(1.0 - &removed)));
        let values = image.view([channels, size]).transpose(0, 1).to_kind(Kind::Double);
        let right = known.matmul(&values) - removed.matmul(&system).matmul(&known).matmul(&values);
        let solved = Tensor::linalg_solve(&(removed.matmul(&system).matmul(&removed) + known), &right, true);
        solved.transpose(0, 1).reshape([1, channels, height, width])
    }

    #[test]
    fn large_holes_are_filled_as_by_elimination_whatever_the_company() {
        let waves = |length: i64, step: f64| (Tensor::arange(length, tch::kind::FLOAT_CPU) * step).sin();
        let image = waves(3 * 19 * 23, 2.3).view([1, 3, 19, 23]);
        let smooth = waves(16, 1.7).view([1, 1, 4, 4]).upsample_bilinear2d([19, 23], false, None, None);
        let removed = |share: f64| smooth.ge_tensor(&smooth.flatten(0, -1).quantile_scalar(1.0 - share, 0, false, "linear"));
        let masks = [removed(0.1), removed(0.5), removed(0.9)];
        let together = impute(&image.expand([3, -1, -1, -1], false), &Tensor::cat(&masks, 0)).expect("filled");
        for (index, mask) in masks.iter().enumerate() {
            let alone = impute(&image, mask).expect("filled");
            assert_eq!(alone, together.narrow(0, index as i64, 1), "{index}");
            let error = (alone - by_elimination(&image, mask)).abs().max().double_value(&[]);
            assert!(error < 1e-3, "{index}: {error}");
        }
    }
}
