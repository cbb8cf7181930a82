//! Whether a heatmap says what the model looks at: the model is asked again about images in which what the heatmap points to is
//! removed, or is all that is left.
//!
//! The **confidence** in a class is its softmax probability; in a segmentation network the mean of it over the pixels that count.
//! Pixels are removed in the order of the heatmap. Those of the same value, most of all where it is zero, come in an order by
//! chance that depends on the size of the image only: there the heatmap has no opinion, and a row after the other would be one.
//! docs/measures.md has the definitions with their papers.

use std::f64::consts::TAU;

use tch::{Kind, TchError, Tensor};
use typed_index_collections::TiVec;

use super::{
    ExplainError, TorchExplainer,
    drawing::DeviceMaps,
    grid::{Cell, ColumnIndex, Grid},
    probe::ProbeOptions,
    replacement::{blurred, impute},
    target::Score,
};
use crate::program::{Plan, send, to_host};
use camflow_measure::{Measure, Measures};

/// Steps of the deletion and insertion curves, a twentieth of the pixels each.
const STEPS: i64 = 20;
/// Percentages of the pixels that ROAD keeps.
const PERCENTILES: [i64; 9] = [10, 20, 30, 40, 50, 60, 70, 80, 90];
/// Standard deviation of ROAD's noise, in the units of the model's input.
const NOISE: f64 = 0.01;
/// RISE's blur: 11 pixels wide with a standard deviation of 5, in images of 224 pixels.
const BLUR: f64 = 5.0 / 224.0;

impl TorchExplainer {
    /// How faithful the heatmaps of a batch are, of each class that is there by column.
    pub(super) fn faithfulness(
        &self,
        input: &Tensor,
        targets: &Grid<Score>,
        maps: &Grid<TiVec<ColumnIndex, DeviceMaps>>,
    ) -> Result<Grid<TiVec<ColumnIndex, Measures>>, ExplainError> {
        let _no_grad = tch::no_grad_guard();
        // The images of a batch have one size.
        let drawn = Drawn::new(input)?;
        let mut measured = Grid::default();
        for (sample, targets) in targets.by_sample() {
            let image = input.f_detach()?.f_narrow(0, sample.row(), 1)?;
            let options = ProbeOptions { batch: self.probe_batch as i64 };
            let blurred = blurred(&image, BLUR, 1.0)?;
            let ends = Ends::new(&self.plan, options, [&image, &image.f_zeros_like()?, &blurred])?;
            let examiner = Examiner { plan: &self.plan, options, blurred, image, ends, drawn: &drawn };
            for (target, score) in targets {
                let cell = Cell { sample, target };
                let maps = maps.get(cell).into_iter().flatten();
                let measures = maps.map(|maps| examiner.measures(maps.over_input(), score)).collect::<Result<_, _>>()?;
                measured.insert(cell, measures);
            }
        }
        Ok(measured)
    }
}

/// One image and what its pixels are replaced by.
struct Examiner<'a> {
    plan: &'a Plan,
    options: ProbeOptions,
    /// f32 `[1, 3, H, W]`, like the next one.
    image: Tensor,
    blurred: Tensor,
    ends: Ends,
    drawn: &'a Drawn,
}

/// The logits `[1, K, ...]` of images in which curves begin and end: they are the same for all heatmaps of an image.
struct Ends {
    /// The image as it is.
    whole: Tensor,
    /// The mean of all images, at the end of deletion.
    empty: Tensor,
    /// What insertion begins with.
    blurred: Tensor,
}

impl Ends {
    /// Of the three images `[1, C, H, W]`, in that order.
    fn new(plan: &Plan, options: ProbeOptions, images: [&Tensor; 3]) -> Result<Self, ExplainError> {
        let mut logits = Vec::new();
        for (first, count) in options.batches(3) {
            let some = Tensor::f_cat(&images[first as usize..(first + count) as usize], 0)?;
            logits.extend(plan.forward(&some)?.f_split(1, 0)?);
        }
        let [whole, empty, blurred] = [0, 1, 2].map(|at: usize| logits[at].shallow_clone());
        Ok(Ends { whole, empty, blurred })
    }
}

/// What is left to chance in images of one size.
struct Drawn {
    /// f32 `[1, C, H, W]`
    noise: Tensor,
    /// Indices of all pixels in the order of those of the same value.
    by_chance: Tensor,
}

impl Drawn {
    /// For images of the size of the input `[N, C, H, W]`, and where that is.
    fn new(input: &Tensor) -> Result<Self, TchError> {
        let (_, channels, height, width) = input.size4()?;
        let (noise, by_chance) = drawn(channels, height * width);
        let noise = send(&noise, &[1, channels, height, width], input.device())?.f_mul_scalar(NOISE)?;
        Ok(Drawn { noise, by_chance: send(&by_chance, &[height * width], input.device())? })
    }
}

impl Examiner<'_> {
    /// How faithful a heatmap `[1, H, W]` of the image's size is.
    fn measures(&self, heatmap: &Tensor, target: &Score) -> Result<Measures, ExplainError> {
        let num_pixels = heatmap.numel() as i64;
        let Ends { whole, empty, blurred } = &self.ends;
        if heatmap.f_any()?.f_int64_value(&[])? == 0 {
            let confidence = target.confidence(whole)?.f_double_value(&[0])?;
            return Ok(Measures::default().with(Measure::Confidence, confidence));
        }
        let ranks = ranks(heatmap, &self.drawn.by_chance)?;
        let steps: Vec<i64> = (1..STEPS).map(|step| (step * num_pixels + STEPS / 2) / STEPS).collect();
        // Relevant pixels make way for the mean of all images.
        let without = |relevant: &Tensor| self.image.f_mul(&relevant.f_logical_not()?);
        let deletion = self.confidences(&ranks, &steps, target, without, &[whole], &[empty])?;
        let confidence = deletion[0];
        let known = Measures::default().with(Measure::Confidence, confidence);
        // Relevant pixels come back into a blurred image.
        let with = |relevant: &Tensor| self.image.f_where_self(relevant, &self.blurred);
        let insertion = self.confidences(&ranks, &steps, target, with, &[blurred], &[whole])?;
        let weighted = self.confidences(&ranks, &[0], target, |_| self.image.f_mul(heatmap), &[], &[])?[0];
        // As numpy's percentile would split them, were no two values the same.
        let kept: Vec<i64> = PERCENTILES.iter().map(|percent| ((num_pixels - 1) * percent + 99) / 100).collect();
        let removed: Vec<i64> = kept.iter().map(|kept| num_pixels - kept).collect();
        let imputed = |removed: &Tensor| {
            let filled = impute(&self.image.f_expand([removed.size()[0], -1, -1, -1], false)?, removed)?;
            filled.f_add(&self.drawn.noise.f_mul(removed)?)
        };
        let most = self.confidences(&ranks, &removed, target, imputed, &[], &[])?;
        let least = self.confidences(&ranks, &kept, target, |relevant| imputed(&relevant.f_logical_not()?), &[], &[])?;
        Ok(known
            .with(Measure::ConfidenceDrop, (confidence > 0.0).then(|| (confidence - weighted).max(0.0) / confidence))
            .with(Measure::ConfidenceIncrease, f64::from(u8::from(weighted > confidence)))
            .with(Measure::DeletionAuc, area(&deletion))
            .with(Measure::InsertionAuc, area(&insertion))
            .with(Measure::Road, (mean(&least) - mean(&most)) / 2.0))
    }

    /// The confidence in each of the images that `change` makes of the image and its so many most relevant pixels
    /// (bool `[B, 1, H, W]`), between those in images whose logits are known.
    fn confidences(
        &self,
        ranks: &Tensor,
        num_relevant: &[i64],
        target: &Score,
        change: impl Fn(&Tensor) -> Result<Tensor, TchError>,
        before: &[&Tensor],
        behind: &[&Tensor],
    ) -> Result<Vec<f64>, ExplainError> {
        let num_relevant = send(num_relevant, &[num_relevant.len() as i64, 1, 1, 1], ranks.device())?;
        let of_known = |known: &[&Tensor]| known.iter().map(|logits| target.confidence(logits)).collect::<Result<Vec<_>, _>>();
        let mut confidences = of_known(before)?;
        for (first, count) in self.options.batches(num_relevant.size()[0]) {
            let relevant = ranks.f_lt_tensor(&num_relevant.f_narrow(0, first, count)?)?;
            let logits = self.plan.forward(&change(&relevant)?)?;
            confidences.push(target.confidence(&logits)?);
        }
        confidences.extend(of_known(behind)?);
        Ok(to_host(&Tensor::f_cat(&confidences, 0)?.f_to_kind(Kind::Double)?)?)
    }
}

/// The place `[1, 1, H, W]` of each pixel of a heatmap `[1, H, W]` in the order of relevance; 0 is the most relevant. Those of the
/// same value are in the order of `by_chance`.
fn ranks(heatmap: &Tensor, by_chance: &Tensor) -> Result<Tensor, TchError> {
    let (_, height, width) = heatmap.size3()?;
    let values = heatmap.f_flatten(0, -1)?.f_index_select(0, by_chance)?;
    let (_, order) = values.f_sort_stable(true, 0, true)?;
    let order = by_chance.f_index_select(0, &order)?;
    let places = Tensor::f_arange(height * width, (Kind::Int64, heatmap.device()))?;
    places.f_empty_like()?.f_scatter(0, &order, &places)?.f_view([1, 1, height, width])
}

/// For so many pixels a normal number in each channel, and the pixels in an order by chance: always the same ones.
fn drawn(channels: i64, num_pixels: i64) -> (Vec<f32>, Vec<i64>) {
    let mut stream = blake3::Hasher::new().update(b"pixels").finalize_xof();
    let mut number = || {
        let mut bytes = [0; 8];
        stream.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    };
    let mut pixels: Vec<(u64, i64)> = (0..num_pixels).map(|pixel| (number(), pixel)).collect();
    pixels.sort_unstable();
    // In (0, 1], for the logarithm of Box and Muller's transform.
    let mut uniform = || ((number() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    let mut normal = || ((-2.0 * uniform().ln()).sqrt() * (TAU * uniform()).cos()) as f32;
    let noise = (0..channels * num_pixels).map(|_| normal()).collect();
    (noise, pixels.into_iter().map(|(_, pixel)| pixel).collect())
}

/// Area under a curve over `[0, 1]` with equal steps, by trapezoids.
fn area(curve: &[f64]) -> f64 {
    let ends = (curve.first().unwrap_or(&0.0) + curve.last().unwrap_or(&0.0)) / 2.0;
    (curve.iter().sum::<f64>() - ends) / (curve.len() - 1) as f64
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_ranked_by_value_and_then_by_chance() {
        let heatmap = Tensor::from_slice(&[0f32, 0.5, 0.0, 1.0, 0.5, 0.0]).view([1, 2, 3]);
        let by_chance = Tensor::from_slice(&[5i64, 4, 0, 1, 3, 2]);
        let ranks = ranks(&heatmap, &by_chance).expect("ranks");
        assert_eq!(Vec::<i64>::try_from(ranks.flatten(0, -1)).expect("numbers"), [4, 2, 5, 0, 1, 3]);
    }

    #[test]
    fn what_is_drawn_is_always_the_same_and_as_it_should_be() {
        let (noise, pixels) = drawn(3, 4000);
        assert_eq!((&noise, &pixels), (&drawn(3, 4000).0, &drawn(3, 4000).1));
        let noise = Tensor::from_slice(&noise);
        let (mean, deviation) = (noise.mean(None::<Kind>).double_value(&[]), noise.std(true).double_value(&[]));
        assert!(mean.abs() < 0.03 && (deviation - 1.0).abs() < 0.03, "{mean} {deviation}");
        let mut sorted = pixels.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..4000) && !pixels.is_sorted());
    }

    #[test]
    fn areas_are_of_trapezoids() {
        assert!((area(&[1.0, 0.5, 0.0]) - 0.5).abs() < 1e-12 && (area(&[1.0, 0.0, 0.0]) - 0.25).abs() < 1e-12);
    }
}
