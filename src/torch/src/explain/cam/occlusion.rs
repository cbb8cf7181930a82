//! Occlusion: *Visualizing and Understanding Convolutional Networks*, Zeiler and Fergus, ECCV 2014, <https://arxiv.org/abs/1311.2901>.
//!
//! A place matters as much as the score falls when it is covered. With image `x`, score `y` and squares `S_1 ... S_n` that are moved over
//! the image by half their side:
//!
//! ```text
//! d_k    = y(x) - y(x with the baseline in S_k)
//! L[i,j] = mean of d_k over the squares that cover [i,j]
//! ```
//!
//! The side of a square is an eighth of the input's smaller one (`--cam-window`), and the baseline is zero in the model's input, the grey
//! of the paper (`--cam-baseline`). As Captum's `Occlusion` has it with these windows and strides: the last squares of a row or column may
//! reach over the border. No gradient; a forward pass for each square, as many at a time as `--cam-batch-size` says, shared by all classes
//! of a sample. It has no target layer, and `--eigen-smooth` does not apply.

use tch::{Device, Kind, TchError, Tensor};

use super::{
    CamMethod, Reduction, Whole,
    inputs::{Asked, OtherImages},
};
use crate::{
    explain::{
        ExplainError,
        probe::score_all,
        sampling::{Baseline, Sampling},
    },
    program::send,
};
use camflow_names::Choice;

/// Squares along the smaller side, were they not to overlap.
const PER_SIDE: i64 = 8;

/// Occlusion.
pub(super) struct Occlusion;

impl CamMethod for Occlusion {
    type Evidence<'a> = OtherImages<'a, false>;

    fn saliency(&self, evidence: &OtherImages<'_, false>, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        evidence.of_samples::<Self>(differences)
    }

    fn whole(&self, sampling: Sampling) -> Whole {
        let side = sampling.window.map_or_else(|| "an eighth".to_owned(), |side| format!("{side} pixels"));
        let baseline = sampling.baseline.or(Baseline::Zero).name();
        Whole::image(&format!("the image, squares of {side} covered by {baseline}"))
    }
}

/// The mean differences `[T, H, W]` of one sample for each of its scores.
fn differences(asked: &Asked<'_>) -> Result<Tensor, ExplainError> {
    let (probe, image) = (asked.probe, asked.probe.image());
    let (_, _, height, width) = image.size4()?;
    let side = asked.sampling.window.map_or(height.min(width) / PER_SIDE, |side| side.get() as i64).max(1);
    let baseline = asked.sampling.baseline.or(Baseline::Zero).like(image, asked.black)?;
    let squares = Squares { rows: Axis::new(height, side), columns: Axis::new(width, side) };
    let given = score_all(&probe.logits()?, asked.scores)?; // [T, 1]
    let mut sum = Tensor::f_zeros([given.size()[0], height, width], (given.kind(), image.device()))?;
    let mut count = Tensor::f_zeros([height, width], (given.kind(), image.device()))?;
    for (first, number) in probe.options.batches(squares.rows.count * squares.columns.count) {
        let covered = squares.masks(first, number, image.device())?; // [B, 1, H, W]
        let scores = score_all(&probe.plan.forward(&baseline.f_where_self(&covered, image)?)?, asked.scores)?;
        let covered = covered.f_view([number, height * width])?.f_to_kind(given.kind())?;
        sum = sum.f_add(&given.f_sub(&scores)?.f_matmul(&covered)?.f_view([-1, height, width])?)?;
        count = count.f_add(&covered.f_sum_dim_intlist(0i64, false, None::<Kind>)?.f_view([height, width])?)?;
    }
    Ok(sum.f_div(&count)?)
}

/// Where squares lie along a side of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Axis {
    length: i64,
    side: i64,
    stride: i64,
    count: i64,
}

impl Axis {
    /// A square that is larger than the image covers all of it.
    fn new(length: i64, side: i64) -> Self {
        let (side, stride) = (side.min(length), (side.min(length) + 1) / 2);
        Axis { length, side, stride, count: (length - side + stride - 1) / stride + 1 }
    }

    /// Bool `[B, L]`: where the squares of these numbers lie.
    fn masks(self, numbers: &[i64], device: Device) -> Result<Tensor, TchError> {
        let starts: Vec<i64> = numbers.iter().map(|number| number * self.stride).collect();
        let starts = send(&starts, &[starts.len() as i64, 1], device)?;
        let places = Tensor::f_arange(self.length, (Kind::Int64, device))?.f_sub(&starts)?;
        places.f_ge(0i64)?.f_logical_and(&places.f_lt(self.side)?)
    }
}

/// All squares, row by row.
struct Squares {
    rows: Axis,
    columns: Axis,
}

impl Squares {
    /// Bool `[B, 1, H, W]`: the pixels of the squares from a number on.
    fn masks(&self, first: i64, number: i64, device: Device) -> Result<Tensor, TchError> {
        let (rows, columns): (Vec<i64>, Vec<i64>) =
            (first..first + number).map(|square| (square / self.columns.count, square % self.columns.count)).unzip();
        let (rows, columns) = (self.rows.masks(&rows, device)?, self.columns.masks(&columns, device)?);
        rows.f_view([number, 1, -1, 1])?.f_logical_and(&columns.f_view([number, 1, 1, -1])?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, values};
    use super::*;

    #[test]
    fn squares_cover_all_and_may_reach_over_the_border() {
        assert_eq!(Axis::new(7, 4), Axis { length: 7, side: 4, stride: 2, count: 3 });
        assert_eq!(Axis::new(3, 8), Axis { length: 3, side: 3, stride: 2, count: 1 });
        let squares = Squares { rows: Axis::new(2, 1), columns: Axis::new(3, 2) };
        let masks = squares.masks(1, 3, Device::Cpu).expect("masks");
        assert_eq!(masks.size(), [3, 1, 2, 3]);
        let wanted = [[0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]].as_flattened().iter();
        assert_near(&values(&masks), &wanted.map(|value| *value as f32).collect::<Vec<_>>());
        let last = Axis::new(8, 3).masks(&[3], Device::Cpu).expect("mask");
        assert_near(&values(&last), &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
    }
}
