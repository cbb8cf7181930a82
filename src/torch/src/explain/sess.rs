//! SESS: *Saliency Enhancing with Scaling and Sliding*, Tursun et al., ECCV 2022, <https://arxiv.org/abs/2207.01769>.
//!
//! What a method shows of tiles of an image at several scales, put together. With windows `k` of the input's shorter side, over the image
//! enlarged to each scale, the class's probability `p_k` in each, and its heatmap `H_k` in `[0, 1]`, brought back to its place and to the
//! size of the input:
//!
//! ```text
//! w_k = p_k / max p
//! H   = mean of w_k H_k over the windows in which it is above 0, blurred, scaled to [0, 1]
//! ```
//!
//! As pytorch_grad_cam's `SESS` by default: 12 scales, each two sevenths of the window larger than the one before; windows beside each
//! other, the last ones of a row or column moved back into the image; no window left out; a Gaussian of deviation 5 over 11 pixels. The
//! first window of a square input is the input itself.

use tch::{Kind, TchError, Tensor};
use typed_index_collections::{TiSlice, TiVec};

use super::{
    ExplainError, TorchExplainer,
    grid::{Cell, ColumnIndex, Grid, SampleIndex, TargetIndex},
    heatmap,
    probe::ProbeOptions,
    saliency::{PassMaps, Saliencies},
    smoothing::PLAIN,
};
use crate::program::{send, to_host};
use camflow_pipeline::{Channel, ClassTarget};

const SCALES: i64 = 12;
const SCALE_STEP: f64 = 2.0 / 7.0;

const BLUR_DEVIATION: f64 = 5.0;
const BLUR_RADIUS: i64 = 5;

/// Sums over windows `[1, H, W]`: of their heatmaps by their probabilities, and of how many show something.
struct Sums {
    total: Tensor,
    count: Tensor,
}

impl TorchExplainer {
    /// The maps `[N, H, W]` over the input `[N, C, H, W]`, one of each column, of the targets that were found in it as it is.
    pub(super) fn sess(
        &self,
        input: &Tensor,
        keys: &[String],
        targets: &TiSlice<SampleIndex, Vec<ClassTarget>>,
        plain: &Saliencies,
    ) -> Result<Vec<PassMaps>, ExplainError> {
        let (num_samples, _, height, width) = input.size4()?;
        let mut maps: Grid<TiVec<ColumnIndex, Tensor>> = Grid::default();
        for (sample, scores) in plain.targets.by_sample() {
            let (found, asked): (Vec<TargetIndex>, Vec<ClassTarget>) = scores
                .into_iter()
                .map(|(target, score)| {
                    let mut asked = PLAIN.of_target(&targets[sample][usize::from(target)]);
                    asked.channel = Channel::Index(score.class);
                    (target, asked)
                })
                .unzip();
            let image = input.f_narrow(0, sample.row(), 1)?;
            for (target, columns) in found.into_iter().zip(self.enhanced(&image, &keys[usize::from(sample)], &asked)?) {
                maps.insert(Cell { sample, target }, columns);
            }
        }
        let nothing = input.f_new_zeros([1, height, width], (Kind::Float, input.device()))?;
        let of_pass = |pass: &PassMaps| {
            let of_column = |column: ColumnIndex| {
                let row = |sample: usize| {
                    maps.get(Cell { sample: sample.into(), target: pass.target }).map_or(&nothing, |found| &found[column])
                };
                let rows: Vec<&Tensor> = (0..num_samples as usize).map(row).collect();
                Ok::<_, TchError>(vec![Tensor::f_cat(&rows, 0)?])
            };
            let columns = (0..self.columns.len()).map(|column| of_column(column.into())).collect::<Result<_, _>>()?;
            Ok(PassMaps { target: pass.target, samples: pass.samples.clone(), columns })
        };
        plain.passes.iter().map(of_pass).collect()
    }

    /// The maps `[1, H, W]` of one image `[1, C, H, W]`, target by target and column by column.
    fn enhanced(
        &self,
        image: &Tensor,
        key: &str,
        targets: &[ClassTarget],
    ) -> Result<Vec<TiVec<ColumnIndex, Tensor>>, ExplainError> {
        let (_, _, height, width) = image.size4()?;
        let window = height.min(width);
        let zeros = || Tensor::f_zeros([1, height, width], (Kind::Float, image.device()));
        let mut sums: Vec<TiVec<ColumnIndex, Sums>> = Vec::new();
        for _ in targets {
            let of_column = |_| Ok::<_, TchError>(Sums { total: zeros()?, count: zeros()? });
            sums.push((0..self.columns.len()).map(of_column).collect::<Result<_, _>>()?);
        }
        let mut largest = vec![0.0f64; targets.len()];
        for number in 0..SCALES {
            let shorter = window + number * (SCALE_STEP * window as f64).round_ties_even() as i64;
            let scaled = enlarged(image, shorter)?;
            let places = places(scaled.size()[2], scaled.size()[3], window);
            for (first, count) in (ProbeOptions { batch: self.probe_batch as i64 }).batches(places.len() as i64) {
                let places = &places[first as usize..(first + count) as usize];
                let tile = |&(top, left): &(i64, i64)| scaled.f_narrow(2, top, window)?.f_narrow(3, left, window);
                let tiles = Tensor::f_cat(&places.iter().map(tile).collect::<Result<Vec<_>, _>>()?, 0)?;
                let shown: TiVec<SampleIndex, _> = places.iter().map(|_| None).collect();
                let asked: TiVec<SampleIndex, _> = places.iter().map(|_| targets.to_vec()).collect();
                let seen = self.saliencies(&tiles, &vec![key.to_owned(); places.len()], &asked, &shown)?;
                for (pass, confidences) in seen.passes.iter().zip(&seen.confidences) {
                    let target = usize::from(pass.target);
                    let confidences: Vec<f64> = to_host(confidences)?;
                    largest[target] = confidences.iter().copied().fold(largest[target], f64::max);
                    for (column, layers) in pass.columns.iter_enumerated() {
                        let fusion = self.options.fusion_of(self.columns[column].method);
                        let layer_maps = layers.iter().map(heatmap::layer_map).collect::<Result<Vec<_>, _>>()?;
                        let drawn = heatmap::upsample(&layer_maps, Some((window as usize, window as usize)), fusion)?;
                        for (sample, confidence) in pass.samples.iter().zip(&confidences) {
                            let (top, left) = places[usize::from(*sample)];
                            let (scaled_height, scaled_width) = (scaled.size()[2], scaled.size()[3]);
                            let own =
                                drawn.f_narrow(0, sample.row(), 1)?.f_to_kind(Kind::Float)?.f_mul_scalar(confidence.max(0.0))?;
                            let pad = [left, scaled_width - window - left, top, scaled_height - window - top];
                            let placed = heatmap::resize(&own.f_constant_pad_nd(pad)?, height as usize, width as usize)?;
                            let sums = &mut sums[target][column];
                            sums.count = sums.count.f_add(&placed.f_gt(0.0)?.f_to_kind(Kind::Float)?)?;
                            sums.total = sums.total.f_add(&placed)?;
                        }
                    }
                }
            }
        }
        let of_column = |sums: Sums, largest: f64| {
            let mean = sums.total.f_div(&sums.count.f_clamp_min(1.0)?)?;
            blurred(&if largest > 0.0 { mean.f_div_scalar(largest)? } else { mean })
        };
        let of_target = |(columns, largest): (TiVec<ColumnIndex, Sums>, f64)| {
            columns.into_iter().map(|sums| of_column(sums, largest)).collect::<Result<_, TchError>>()
        };
        Ok(sums.into_iter().zip(largest).map(of_target).collect::<Result<_, TchError>>()?)
    }
}

/// The image `[1, C, H, W]` with its shorter side of so many pixels.
fn enlarged(image: &Tensor, shorter: i64) -> Result<Tensor, TchError> {
    let (_, _, height, width) = image.size4()?;
    let short = height.min(width);
    if shorter == short {
        return Ok(image.shallow_clone());
    }
    let size = [height, width].map(|side| if side == short { shorter } else { shorter * side / short });
    image.f_internal_upsample_bilinear2d_aa(size, false, None::<f64>, None::<f64>)
}

/// Top and left of each window, row by row.
fn places(height: i64, width: i64, window: i64) -> Vec<(i64, i64)> {
    let starts = |length: i64| {
        (0..length.div_euclid(window) + i64::from(length % window != 0)).map(move |number| (number * window).min(length - window))
    };
    starts(height).flat_map(|top| starts(width).map(move |left| (top, left))).collect()
}

/// A map `[1, H, W]` without its edges, mirrored at its border.
fn blurred(map: &Tensor) -> Result<Tensor, TchError> {
    let radius = BLUR_RADIUS.min(map.size()[1] - 1).min(map.size()[2] - 1);
    let weights: Vec<f64> =
        (-radius..=radius).map(|offset| (-(offset * offset) as f64 / (2.0 * BLUR_DEVIATION * BLUR_DEVIATION)).exp()).collect();
    let total: f64 = weights.iter().sum();
    let weights: Vec<f32> = weights.iter().map(|weight| (weight / total) as f32).collect();
    let length = weights.len() as i64;
    let weights = send(&weights, &[length], map.device())?;
    let padded = map.f_unsqueeze(0)?.f_reflection_pad2d([radius; 4])?;
    let rows = padded.f_conv2d(&weights.f_view([1, 1, length, 1])?, None::<Tensor>, 1, 0, 1, 1)?;
    rows.f_conv2d(&weights.f_view([1, 1, 1, length])?, None::<Tensor>, 1, 0, 1, 1)?.f_squeeze_dim(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_lie_beside_each_other_and_the_last_ones_end_with_the_image() {
        assert_eq!(places(4, 4, 4), [(0, 0)]);
        assert_eq!(places(5, 8, 4), [(0, 0), (0, 4), (1, 0), (1, 4)]);
    }
}
