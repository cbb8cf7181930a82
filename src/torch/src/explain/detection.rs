//! Detectors: which of a model's predictions a target's boxes mean. A prediction is one of Q places of the output `[N, K, Q, 1]` with a
//! box of its own, so that the score of some predictions is that of some pixels of a segmentation.

use tch::{Kind, TchError, Tensor};
use typed_index_collections::{TiSlice, TiVec};

use super::{
    Reading,
    grid::{Cell, Grid, SampleIndex},
    target::index_tensor,
};
use crate::program::{DetectionScores, Detections, Suppression, send, to_host};
use camflow_media::{BinaryMask, FrameRegion};
use camflow_pipeline::Detected;

/// The least overlap (intersection over union) of a box with the prediction that is meant by it.
const MIN_IOU: f64 = 0.5;

/// What a batch of a detector's predictions is.
pub(super) struct Predictions<'a> {
    /// Class logits `[N, K, Q, 1]`.
    logits: &'a Tensor,
    /// `[N, Q, 4]`: left, top, right and bottom in fractions of the model's input.
    boxes: &'a Tensor,
    scores: DetectionScores,
}

impl<'a> Predictions<'a> {
    /// Of the model's two outputs.
    pub(super) fn new(logits: &'a Tensor, boxes: &'a Tensor, detections: Detections) -> Self {
        Predictions { logits, boxes, scores: detections.scores }
    }

    /// The predictions that boxes mean, as masks `[Q, 1]` of 0 and 1 where the logits are; none of cells without any. Each box means the
    /// prediction with the highest product of overlap and probability of the class, as D-RISE compares detections; one that overlaps less
    /// than half with every prediction means none. What lies beside the image (where `shown` is 0) is no part of a box: the libraries cut
    /// off what they find at its sides.
    ///
    /// # Errors
    /// libtorch fails.
    pub(super) fn meant(
        &self,
        wanted: &[(Cell, i64, &[[f64; 4]])],
        shown: &TiSlice<SampleIndex, Option<BinaryMask>>,
    ) -> Result<Grid<Tensor>, TchError> {
        let rows = || wanted.iter().flat_map(|(cell, class, boxes)| boxes.iter().map(move |one| (*cell, *class, one)));
        let mut masks = Grid::default();
        if rows().next().is_none() {
            return Ok(masks);
        }
        let samples: Vec<i64> = rows().map(|(cell, ..)| cell.sample.row()).collect();
        let classes: Vec<i64> = rows().map(|(_, class, _)| class).collect();
        let sides: Vec<f32> = rows().flat_map(|(.., one)| one.map(|side| side as f32)).collect();
        let samples = index_tensor(&samples, self.logits)?;
        let frames: TiVec<SampleIndex, [f32; 4]> = shown.iter().map(frame).collect();
        let frames: Vec<f32> = rows().flat_map(|(cell, ..)| frames[cell.sample]).collect();
        let size = [sides.len() as i64 / 4, 1, 4];
        let targets = send(&sides, &size, self.logits.device())?;
        let frames = send(&frames, &size, self.logits.device())?;
        let predicted = within(&self.boxes.f_index_select(0, &samples)?.f_to_kind(Kind::Float)?, &frames)?;
        let overlaps = overlap(&within(&targets, &frames)?, &predicted)?;
        // One class of one sample in each row.
        let classes = index_tensor(&classes, self.logits)?;
        let own = probabilities(self.logits, self.scores)?.f_index(&[Some(samples), Some(classes)])?.f_squeeze_dim(-1)?;
        let likeness = overlaps.f_mul(&own)?.f_masked_fill(&overlaps.f_lt(MIN_IOU)?, -1.0)?;
        let (most, places) = likeness.f_max_dim(1, true)?;
        let is_there = most.f_ge(0.0)?;
        let marked = likeness.f_zeros_like()?.f_scatter_value(1, &places, 1.0)?.f_mul(&is_there.f_to_kind(Kind::Float)?)?;
        let is_there: Vec<u8> = to_host(&is_there.f_to_kind(Kind::Uint8)?)?;
        let mut first = 0;
        for (cell, _, boxes) in wanted {
            if is_there[first..first + boxes.len()].contains(&1) {
                // Two boxes may mean one prediction.
                let mask = marked.f_narrow(0, first as i64, boxes.len() as i64)?.f_amax([0i64].as_slice(), false)?;
                masks.insert(*cell, mask.f_unsqueeze(-1)?.f_to_kind(self.logits.kind())?);
            }
            first += boxes.len();
        }
        Ok(masks)
    }
}

/// The pixels of a model's input, of so many rows and columns, that lie in boxes of a sample's predictions: those whose places are 1 in a
/// mask `[Q, 1]`. `sides` are those of all samples, `[N, Q, 4]`.
pub(super) fn covered(places: &BinaryMask, sides: &[f32], sample: SampleIndex, (height, width): (usize, usize)) -> BinaryMask {
    let own = sides.as_chunks().0.iter().skip(usize::from(sample) * places.pixels.len());
    let meant = own.zip(&places.pixels).filter(|(_, place)| **place != 0);
    let boxes: Vec<[f64; 4]> = meant.map(|(sides, _): (&[f32; 4], _)| sides.map(f64::from)).collect();
    boxed(&boxes, height, width)
}

/// The pixels of a model's input in boxes.
pub(super) fn boxed(boxes: &[[f64; 4]], height: usize, width: usize) -> BinaryMask {
    let mut mask = BinaryMask::empty(height, width);
    for &[left, top, right, bottom] in boxes {
        mask.fill_box([left, top, right, bottom]);
    }
    mask
}

/// The probability of each class, of logits `[N, K, Q, 1]`.
///
/// # Errors
/// libtorch fails.
pub(super) fn probabilities(logits: &Tensor, scores: DetectionScores) -> Result<Tensor, TchError> {
    match scores {
        DetectionScores::Sigmoid => logits.f_to_kind(Kind::Float)?.f_sigmoid(),
        DetectionScores::Softmax => logits.f_softmax(1, Kind::Float),
    }
}

/// The probability of the likeliest class of each prediction, and that class, both `[N, Q, 1]`; the background is none.
///
/// # Errors
/// libtorch fails.
pub(super) fn winners(logits: &Tensor, scores: DetectionScores, background: Option<i64>) -> Result<(Tensor, Tensor), TchError> {
    let mut probabilities = probabilities(logits, scores)?;
    if let Some(background) = background {
        probabilities = probabilities.f_index_fill(1, &index_tensor(&[background], logits)?, 0.0)?;
    }
    probabilities.f_max_dim(1, false)
}

/// Numbers of a prediction: its class, the probability of that, and its box.
pub(super) const NUMBERS: usize = 6;

/// What a detector predicts, f32 `[N, Q, 6]`, before anything is left out; `boxes` are `[N, Q, 4]`.
///
/// # Errors
/// libtorch fails.
pub(super) fn predicted(logits: &Tensor, boxes: &Tensor, reading: Reading, scores: DetectionScores) -> Result<Tensor, TchError> {
    let (most, winners) = winners(logits, scores, reading.background)?;
    Tensor::f_cat(&[winners.f_to_kind(Kind::Float)?, most.f_to_kind(Kind::Float)?, boxes.f_to_kind(Kind::Float)?], -1)
}

/// The detections among a sample's predictions (numbers of Q of them), with what lies beside the image cut off, the likeliest first;
/// `None` where a probability is no number. Each prediction is of the class that wins it, and gives way to a likelier one of its
/// class as the model's own library has it.
pub(super) fn detected(
    numbers: &[f32],
    detections: Detections,
    region: &FrameRegion,
    input: (usize, usize),
) -> Option<Vec<Detected>> {
    let Detections { threshold, suppression, .. } = detections;
    let Suppression { iou, most } = suppression.unwrap_or(Suppression { iou: None, most: None });
    let predictions: &[[f32; NUMBERS]] = numbers.as_chunks().0;
    if predictions.iter().any(|[_, confidence, ..]| !confidence.is_finite()) {
        return None;
    }
    let mut there: Vec<Detected> = predictions
        .iter()
        // As the device compares the two.
        .filter(|[_, confidence, ..]| *confidence >= threshold as f32)
        .filter_map(|&[class, confidence, ref sides @ ..]| {
            let bounds = region.box_on_image(sides.map(f64::from), input)?;
            Some(Detected { channel: class as i64, confidence: f64::from(confidence), bounds })
        })
        .collect();
    there.sort_by(|one, other| other.confidence.total_cmp(&one.confidence));
    let mut kept: Vec<Detected> = Vec::new();
    for one in there {
        if most.is_some_and(|most| kept.len() >= most) {
            break;
        }
        let gives_way = |to: &Detected| to.channel == one.channel && iou.is_some_and(|iou| shared(to.bounds, one.bounds) > iou);
        if !kept.iter().any(gives_way) {
            kept.push(one);
        }
    }
    Some(kept)
}

/// Intersection over union of two boxes (left, top, width and height).
fn shared(one: [f64; 4], other: [f64; 4]) -> f64 {
    let along = |side: usize| {
        let end = (one[side] + one[side + 2]).min(other[side] + other[side + 2]);
        (end - one[side].max(other[side])).max(0.0)
    };
    let both = along(0) * along(1);
    both / (one[2] * one[3] + other[2] * other[3] - both)
}

/// Left, top, right and bottom of the image in the model's input, in fractions of it.
fn frame(shown: &Option<BinaryMask>) -> [f32; 4] {
    shown.as_ref().and_then(BinaryMask::bounds).unwrap_or([0.0, 0.0, 1.0, 1.0]).map(|side| side as f32)
}

/// The parts of boxes `[M, Q, 4]` that lie in frames `[M, 1, 4]`.
fn within(boxes: &Tensor, frames: &Tensor) -> Result<Tensor, TchError> {
    let corner = |first: i64| frames.f_narrow(-1, first, 2)?.f_repeat([1, 1, 2]);
    boxes.f_maximum(&corner(0)?)?.f_minimum(&corner(2)?)
}

/// Intersection over union of boxes `[M, 1, 4]` with others `[M, Q, 4]`: `[M, Q]`, 0 where either has no area.
fn overlap(boxes: &Tensor, others: &Tensor) -> Result<Tensor, TchError> {
    let corner = |boxes: &Tensor, first: i64| boxes.f_narrow(-1, first, 2);
    let area = |sizes: &Tensor| sizes.f_clamp_min(0.0)?.f_prod_dim_int(-1, false, Kind::Float);
    let from = corner(boxes, 0)?.f_maximum(&corner(others, 0)?)?;
    let to = corner(boxes, 2)?.f_minimum(&corner(others, 2)?)?;
    let both = area(&to.f_sub(&from)?)?;
    let size = |boxes: &Tensor| area(&corner(boxes, 2)?.f_sub(&corner(boxes, 0)?)?);
    let either = size(boxes)?.f_add(&size(others)?)?.f_sub(&both)?;
    both.f_div(&either.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(sample: usize, target: usize) -> Cell {
        Cell { sample: sample.into(), target: target.into() }
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        to_host(&tensor.f_flatten(0, -1).expect("flat")).expect("copied")
    }

    #[test]
    fn detections_give_way_to_likelier_ones_of_their_class() {
        let nearly = [0.02f32, 0.0, 0.42, 1.0];
        let rows = [
            [1.0, 0.6, 0.0, 0.0, 0.4, 1.0],
            [1.0, 0.9, nearly[0], nearly[1], nearly[2], nearly[3]],
            [0.0, 0.7, 0.0, 0.0, 0.4, 1.0],
            [1.0, 0.2, 0.6, 0.0, 1.0, 1.0],
            [1.0, 0.5, 0.6, 0.0, 1.2, 1.0],
            [1.0, 0.8, 1.1, 0.0, 1.2, 1.0],
        ];
        let found = |suppression, rows: &[[f32; 6]]| {
            let detections = Detections { scores: DetectionScores::Sigmoid, threshold: 0.5, suppression };
            detected(rows.as_flattened(), detections, &FrameRegion::whole(10, 10), (10, 10))
        };
        let told = |suppression| {
            let found = found(suppression, &rows).expect("numbers");
            found.iter().map(|one| (one.channel, (one.confidence * 10.0).round())).collect::<Vec<_>>()
        };
        assert_eq!(told(None), [(1, 9.0), (0, 7.0), (1, 6.0), (1, 5.0)], "what lies beside the image is none");
        let suppression = |iou, most| Some(Suppression { iou, most });
        assert_eq!(told(suppression(Some(0.7), None)), [(1, 9.0), (0, 7.0), (1, 5.0)]);
        assert_eq!(told(suppression(Some(0.99), Some(2))), [(1, 9.0), (0, 7.0)]);
        let last = found(None, &rows).expect("numbers").pop().expect("there");
        assert!(last.bounds.iter().zip([0.6, 0.0, 0.4, 1.0]).all(|(side, wanted)| (side - wanted).abs() < 1e-6), "{last:?}");
        assert_eq!(found(None, &[[1.0, f32::NAN, 0.0, 0.0, 1.0, 1.0]]), None);
    }

    #[test]
    fn overlaps_are_of_areas() {
        let boxes = Tensor::from_slice(&[0f32, 0.0, 0.5, 0.5]).view([1, 1, 4]);
        let others = [[0f32, 0.0, 0.5, 0.5], [0.25, 0.0, 0.75, 0.5], [0.5, 0.5, 1.0, 1.0], [0.3, 0.3, 0.3, 0.3]].concat();
        let found = values(&overlap(&boxes, &Tensor::from_slice(&others).view([1, 4, 4])).expect("overlaps"));
        for (found, wanted) in found.into_iter().zip([1.0, 1.0 / 3.0, 0.0, 0.0]) {
            assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        }
    }

    #[test]
    fn a_box_means_the_likeliest_prediction_that_lies_there() {
        let left = [0f32, 0.0, 0.4, 1.0];
        let nearly = [0.02f32, 0.0, 0.42, 1.0];
        let right = [0.6f32, 0.0, 1.0, 1.0];
        // Two samples with the same three predictions; of class 1 the second one is the likeliest on the left.
        let boxes = Tensor::from_slice(&[left, nearly, right].concat()).view([1, 3, 4]).repeat([2, 1, 1]);
        let logits = Tensor::from_slice(&[3f32, -3.0, -3.0, -2.0, 2.0, 0.5]).view([1, 2, 3, 1]).repeat([2, 1, 1, 1]);
        let as_f64 = |sides: [f32; 4]| sides.map(f64::from);
        for scores in [DetectionScores::Sigmoid, DetectionScores::Softmax] {
            let predictions = Predictions::new(&logits, &boxes, Detections { scores, threshold: 0.5, suppression: None });
            let (both, elsewhere) = ([as_f64(left), as_f64(right)], [[0.0, 0.0, 0.05, 0.05]]);
            let wanted = [
                (cell(0, 0), 1, &both[..1]),
                (cell(0, 1), 0, &both[..1]),
                (cell(1, 0), 1, &both[..]),
                (cell(1, 1), 1, &elsewhere),
            ];
            let found = predictions.meant(&wanted, TiSlice::from_ref(&[None, None])).expect("matched");
            assert_eq!(values(found.get(cell(0, 0)).expect("there")), [0.0, 1.0, 0.0]);
            assert_eq!(values(found.get(cell(0, 1)).expect("there")), [1.0, 0.0, 0.0]);
            assert_eq!(values(found.get(cell(1, 0)).expect("there")), [0.0, 1.0, 1.0]);
            assert!(found.get(cell(1, 1)).is_none());
        }
    }

    #[test]
    fn boxes_are_compared_within_the_image() {
        // Of a prediction that is half beside the image, its library stores the other half; another one has three quarters of that.
        let boxes = Tensor::from_slice(&[[-0.4f32, 0.0, 0.4, 1.0], [0.0, 0.0, 0.3, 1.0]].concat()).view([1, 2, 4]);
        let logits = Tensor::from_slice(&[1f32, 1.0]).view([1, 1, 2, 1]);
        let predictions =
            Predictions::new(&logits, &boxes, Detections { scores: DetectionScores::Sigmoid, threshold: 0.5, suppression: None });
        let meant = |stored: [f64; 4], shown: Option<BinaryMask>| {
            let found = predictions.meant(&[(cell(0, 0), 0, &[stored])], TiSlice::from_ref(&[shown])).expect("matched");
            values(found.get(cell(0, 0)).expect("there"))
        };
        assert_eq!(meant([0.0, 0.0, 0.4, 1.0], None), [1.0, 0.0]);
        assert_eq!(meant([-0.4, 0.0, 0.4, 1.0], None), [1.0, 0.0]);
        // The same where the input has a border of a tenth on the left.
        let shown = BinaryMask { height: 1, width: 10, pixels: vec![0, 1, 1, 1, 1, 1, 1, 1, 1, 1] };
        assert_eq!(meant([0.1, 0.0, 0.4, 1.0], Some(shown)), [1.0, 0.0]);
    }
}
