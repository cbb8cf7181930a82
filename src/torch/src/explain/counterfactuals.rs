//! Whether it matters what a heatmap shows: the model is asked about the image whose object is replaced, the one whose background is,
//! and the one in which the most attended region outside of the object is.
//!
//! The object is the pixels that the label gives the class, or the model itself where that is the target; the background is all else
//! that shows the image. What is asked stays the same: the class, the pixels of the output that count, the predictions of a detector.
//! What stays of an image is left as it is to the last bit. docs/measures.md has the definitions with their sources.

use tch::{Kind, TchError, Tensor};
use typed_index_collections::{TiSlice, TiVec};

use super::{
    ExplainError, TorchExplainer,
    drawing::DeviceMaps,
    grid::{Cell, ColumnIndex, Grid, SampleIndex},
    launch::object_of_label,
    replacement::Replacement,
    target::{Score, index_tensor},
};
use crate::program::{send, to_host};
use camflow_measure::{Measure, Measures};
use camflow_media::BinaryMask;
use camflow_pipeline::DecodedSample;

/// Objects whose masks are on the device at once.
const AT_ONCE: usize = 32;

/// What the model is asked.
#[derive(Clone, Copy, Debug)]
struct Question {
    /// Whose class it is about.
    cell: Cell,
    /// What the confidence is stored as, and of which heatmap; `None`: of all of the class.
    measure: Measure,
    column: Option<ColumnIndex>,
}

/// The object of a class, and how many pixels it and its background have, over the model's input.
struct Object {
    cell: Cell,
    mask: BinaryMask,
    num_pixels: usize,
    num_others: usize,
}

impl TorchExplainer {
    /// The confidences of the classes that have an object and a background.
    pub(super) fn counterfactuals(
        &self,
        replacement: Replacement,
        input: &Tensor,
        samples: &TiSlice<SampleIndex, DecodedSample>,
        targets: &Grid<Score>,
        maps: &Grid<TiVec<ColumnIndex, DeviceMaps>>,
    ) -> Result<Grid<TiVec<ColumnIndex, Measures>>, ExplainError> {
        let _no_grad = tch::no_grad_guard();
        let input = input.f_detach()?;
        let (_, _, height, width) = input.size4()?;
        let size = (height as usize, width as usize);
        let shown: TiVec<SampleIndex, _> = samples.iter().map(|sample| sample.region.part_with_image(size.0, size.1)).collect();
        let objects: Vec<Object> = targets
            .iter()
            .filter_map(|(cell, score)| Object::of(cell, &samples[cell.sample], score, shown[cell.sample].as_ref(), size))
            .collect();
        let mut asked = Grid::default();
        if objects.is_empty() {
            return Ok(asked);
        }
        let upload = |masks: Vec<&BinaryMask>| {
            let pixels: Vec<u8> = masks.iter().flat_map(|mask| &mask.pixels).copied().collect();
            send(&pixels, &[masks.len() as i64, 1, height, width], input.device())?.f_to_kind(Kind::Bool)
        };
        let seen = match shown.iter().any(Option::is_some) {
            true => {
                let all = BinaryMask::full(size.0, size.1);
                Some(upload(shown.iter().map(|shown| shown.as_ref().unwrap_or(&all)).collect())?)
            }
            false => None,
        };
        let mut asker =
            Asker { explainer: self, replacement, input: &input, seen, targets, waiting: Vec::new(), asked: Vec::new() };
        for objects in objects.chunks(AT_ONCE) {
            let masks = upload(objects.iter().map(|object| &object.mask).collect())?.f_split(1, 0)?;
            for (Object { cell, num_pixels, num_others, .. }, object) in objects.iter().zip(masks) {
                let (cell, outside) = (*cell, object.f_logical_not()?);
                let background = match &asker.seen {
                    Some(seen) => outside.f_logical_and(&seen.f_narrow(0, cell.sample.row(), 1)?)?,
                    None => outside,
                };
                for (column, maps) in maps.get(cell).into_iter().flat_map(|maps| maps.iter_enumerated()) {
                    let region = attended(maps.over_input(), &background, (*num_pixels).min(*num_others))?;
                    asker.add(Question { cell, measure: Measure::ConfidenceWithoutAttended, column: Some(column) }, region)?;
                }
                asker.add(Question { cell, measure: Measure::ConfidenceWithoutObject, column: None }, object)?;
                asker.add(Question { cell, measure: Measure::ConfidenceWithoutBackground, column: None }, background)?;
            }
        }
        for (Question { cell, measure, column }, confidence) in asker.answers()? {
            let num_columns = maps.get(cell).map_or(0, |maps| maps.len());
            let all = || (0..num_columns).map(|_| Measures::default()).collect::<TiVec<ColumnIndex, _>>();
            for (other, measures) in asked.get_or_insert_with(cell, all).iter_mut_enumerated() {
                if column.is_none_or(|column| column == other) {
                    *measures = measures.with(measure, confidence);
                }
            }
        }
        Ok(asked)
    }
}

/// Asks the model, so many questions at a time.
struct Asker<'a> {
    explainer: &'a TorchExplainer,
    replacement: Replacement,
    /// `[N, C, H, W]`
    input: &'a Tensor,
    /// Bool `[N, 1, H, W]`: what shows an image; `None`: all.
    seen: Option<Tensor>,
    targets: &'a Grid<Score>,
    /// What is to be asked, with what is replaced there: bool `[1, 1, H, W]`.
    waiting: Vec<(Question, Tensor)>,
    /// What was asked, and the confidences of each batch of it: f64 `[B]` on the device.
    asked: Vec<(Vec<Question>, Tensor)>,
}

impl Asker<'_> {
    fn add(&mut self, question: Question, replaced: Tensor) -> Result<(), ExplainError> {
        self.waiting.push((question, replaced));
        if self.waiting.len() >= self.explainer.probe_batch { self.ask() } else { Ok(()) }
    }

    fn ask(&mut self) -> Result<(), ExplainError> {
        let (questions, replaced): (Vec<Question>, Vec<Tensor>) = std::mem::take(&mut self.waiting).into_iter().unzip();
        let rows: Vec<i64> = questions.iter().map(|question| question.cell.sample.row()).collect();
        let rows = index_tensor(&rows, self.input)?;
        let replaced = Tensor::f_cat(&replaced, 0)?;
        let seen = self.seen.as_ref().map(|seen| seen.f_index_select(0, &rows)).transpose()?;
        let changed = self.replacement.apply(&self.input.f_index_select(0, &rows)?, &replaced, seen.as_ref())?;
        let logits = self.explainer.plan.forward(&changed)?;
        let of_each = (0..).zip(&questions).filter_map(|(row, question)| Some((row, self.targets.get(question.cell)?)));
        let of_each = of_each.map(|(row, score)| score.confidence(&logits.f_narrow(0, row, 1)?)?.f_to_kind(Kind::Double));
        let confidences = Tensor::f_cat(&of_each.collect::<Result<Vec<_>, _>>()?, 0)?;
        // A region may be empty.
        let is_same = replaced.f_flatten(1, -1)?.f_any_dim(1, false)?.f_logical_not()?;
        self.asked.push((questions, confidences.f_masked_fill(&is_same, f64::NAN)?));
        Ok(())
    }

    /// All that was asked, with the confidences; `None` where nothing was replaced, or the model gives no number.
    fn answers(mut self) -> Result<Vec<(Question, Option<f64>)>, ExplainError> {
        if !self.waiting.is_empty() {
            self.ask()?;
        }
        let (questions, confidences): (Vec<_>, Vec<_>) = self.asked.into_iter().unzip();
        let confidences: Vec<f64> = to_host(&Tensor::f_cat(&confidences, 0)?)?;
        let known = confidences.into_iter().map(|confidence| confidence.is_finite().then_some(confidence));
        Ok(questions.into_iter().flatten().zip(known).collect())
    }
}

impl Object {
    /// Of a class that was explained, with what of it shows the image; `None` where no pixel is the object's, or none is another's.
    fn of(
        cell: Cell,
        sample: &DecodedSample,
        score: &Score,
        shown: Option<&BinaryMask>,
        (height, width): (usize, usize),
    ) -> Option<Object> {
        let target = &sample.targets[usize::from(cell.target)];
        let of_label = object_of_label(target.pixels.clone(), target.detection.as_deref(), (height, width));
        let object = of_label.or_else(|| score.predicted.as_ref().map(|predicted| predicted.object.clone()))?;
        let mut mask = object.resize_nearest(height, width);
        let mut num_shown = mask.pixels.len();
        if let Some(shown) = shown {
            mask.pixels.iter_mut().zip(&shown.pixels).for_each(|(pixel, shown)| *pixel = u8::from(*pixel != 0 && *shown != 0));
            num_shown = shown.count();
        }
        let num_pixels = mask.count();
        let num_others = num_shown - num_pixels;
        (num_pixels > 0 && num_others > 0).then_some(Object { cell, mask, num_pixels, num_others })
    }
}

/// The most attended pixels of a background (bool `[1, 1, H, W]`) by a heatmap `[1, H, W]`: so many, or all that have attention where
/// those are fewer. Of equal ones, as at the borders of a stretched map, those come first that do so row by row.
fn attended(heatmap: &Tensor, background: &Tensor, num_pixels: usize) -> Result<Tensor, TchError> {
    let heatmap = heatmap.f_unsqueeze(0)?;
    let candidates = heatmap.f_gt(0.0)?.f_logical_and(background)?;
    let values = heatmap.f_masked_fill(&candidates.f_logical_not()?, -1.0)?.f_flatten(0, -1)?;
    let (_, places) = values.f_sort_stable(true, 0, true)?;
    let places = places.f_narrow(0, 0, num_pixels as i64)?;
    let first = candidates.f_zeros_like()?.f_flatten(0, -1)?.f_scatter_value(0, &places, 1)?;
    first.f_view_as(&candidates)?.f_logical_and(&candidates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tensor: &Tensor) -> Vec<f32> {
        to_host(&tensor.to_kind(Kind::Float).flatten(0, -1)).expect("copied")
    }

    fn mask(pixels: &[i32], width: i64) -> Tensor {
        Tensor::from_slice(pixels).view([1, 1, -1, width]).to_kind(Kind::Bool)
    }

    #[test]
    fn the_most_attended_pixels_outside_are_as_many_as_the_objects() {
        let heatmap = Tensor::from_slice(&[1f32, 0.9, 0.8, 0.7, 0.6, 0.0, 0.2, 0.0]).view([1, 2, 4]);
        let background = mask(&[0, 0, 1, 1, 1, 1, 1, 1], 4);
        let region = |num_pixels| values(&attended(&heatmap, &background, num_pixels).expect("a region"));
        assert_eq!(region(2), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(region(6), [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0], "what has no attention is none of it");
        let nowhere = attended(&(heatmap * 0.0), &background, 2).expect("a region");
        assert_eq!(values(&nowhere), [0.0; 8]);
    }
}
