//! RISE: *RISE: Randomized Input Sampling for Explanation of Black-box Models*, Petsiuk, Das and Saenko, BMVC 2018,
//! <https://arxiv.org/abs/1806.07421>.
//!
//! A place matters as much as the model is sure of the class where the place is seen. With image `x`, the class's probability `p` and
//! random masks `M_1 ... M_n`, smooth and in `[0, 1]`:
//!
//! ```text
//! L = 1 / (n * 0.5) * sum_k p(x * M_k) * M_k
//! ```
//!
//! A mask is a grid of 7 x 7 cells, each seen with a probability of a half, upsampled bilinearly to one cell more than the image and
//! moved by less than a cell; 4000 of them (`--cam-samples`), as in the paper. They follow from their number, so that all images of one
//! size have the same and a second run gives the same map. No gradient; a forward pass for each mask, as many at a time as
//! `--cam-batch-size` says, shared by all classes of a sample. It has no target layer, and `--eigen-smooth` does not apply.

use tch::{Device, Kind, TchError, Tensor};

use super::{
    CamMethod, Reduction, Whole,
    inputs::{Asked, OtherImages},
};
use crate::{
    explain::{
        ExplainError,
        sampling::{Draws, Sampling},
    },
    program::send,
};

/// Masks: the paper's for VGG; it has 8000 for ResNet-50.
const MASKS: usize = 4000;
/// Cells along a side.
const CELLS: i64 = 7;
/// How many of them are seen.
const SEEN: f64 = 0.5;
/// Numbers that are drawn for a mask: one for each cell, and two for where it lies.
const DRAWN: u64 = (CELLS * CELLS) as u64 + 2;

/// RISE.
pub(super) struct Rise;

impl CamMethod for Rise {
    type Evidence<'a> = OtherImages<'a, false>;

    fn saliency(&self, evidence: &OtherImages<'_, false>, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        evidence.of_samples::<Self>(weighted)
    }

    fn whole(&self, sampling: Sampling) -> Whole {
        Whole::image(&format!("the image, {} masks", sampling.samples_or(MASKS)))
    }
}

/// The masks weighted by the probabilities, `[T, H, W]` of one sample for each of its scores.
fn weighted(asked: &Asked<'_>) -> Result<Tensor, ExplainError> {
    let (probe, image) = (asked.probe, asked.probe.image());
    let (_, _, height, width) = image.size4()?;
    let draws = Draws::of("RISE");
    let count = asked.sampling.samples_or(MASKS) as i64;
    let mut sum = Tensor::f_zeros([asked.scores.len() as i64, height * width], (Kind::Float, image.device()))?;
    for (first, number) in probe.options.batches(count) {
        let masks = masks(&draws, first, number, (height, width), image.device())?; // [B, 1, H, W]
        let logits = probe.plan.forward(&image.f_mul(&masks.f_to_kind(image.kind())?)?)?;
        let sure = asked.scores.iter().map(|score| score.confidence(&logits)).collect::<Result<Vec<_>, _>>()?;
        let sure = Tensor::f_stack(&sure, 0)?.f_to_kind(Kind::Float)?; // [T, B]
        sum = sum.f_add(&sure.f_matmul(&masks.f_view([number, height * width])?)?)?;
    }
    Ok(sum.f_div_scalar(count as f64 * SEEN)?.f_view([-1, height, width])?)
}

/// The masks `[B, 1, H, W]` from a number on.
fn masks(draws: &Draws, first: i64, number: i64, (height, width): (i64, i64), device: Device) -> Result<Tensor, TchError> {
    let cell = [(height + CELLS - 1) / CELLS, (width + CELLS - 1) / CELLS];
    let drawn = |mask: i64, place: u64| draws.uniform(mask as u64 * DRAWN + place);
    let is_seen = |mask: i64| (0..DRAWN - 2).map(move |place| f32::from(u8::from(drawn(mask, place) <= SEEN)));
    let cells: Vec<f32> = (first..first + number).flat_map(is_seen).collect();
    let cells = send(&cells, &[number, 1, CELLS, CELLS], device)?;
    let size = [(CELLS + 1) * cell[0], (CELLS + 1) * cell[1]];
    let large = cells.f_upsample_bilinear2d(size, false, None::<f64>, None::<f64>)?;
    let moved = |mask: i64| {
        // From (0, 1] to whole numbers less than a cell.
        let by = |axis: usize| (((1.0 - drawn(mask, DRAWN - 2 + axis as u64)) * cell[axis] as f64) as i64).min(cell[axis] - 1);
        large.f_narrow(0, mask - first, 1)?.f_narrow(2, by(0), height)?.f_narrow(3, by(1), width)
    };
    Tensor::f_cat(&(first..first + number).map(moved).collect::<Result<Vec<_>, _>>()?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_half_seen_everywhere_and_the_same_in_any_batch() {
        let draws = Draws::of("RISE");
        let found = masks(&draws, 0, 600, (30, 45), Device::Cpu).expect("masks");
        assert_eq!(found.size(), [600, 1, 30, 45]);
        assert_eq!(found.narrow(0, 7, 3), masks(&draws, 7, 3, (30, 45), Device::Cpu).expect("masks"));
        let share = found.mean_dim([0i64].as_slice(), false, None::<Kind>);
        assert!((share.min().double_value(&[]) - 0.5).abs() < 0.08 && (share.max().double_value(&[]) - 0.5).abs() < 0.08);
        assert!(found.min().double_value(&[]) == 0.0 && found.max().double_value(&[]) == 1.0);
    }
}
