//! What is differentiated: one scalar per sample.
//!
//! A target is a channel and the pixels that count. For segmentation logits `[N, K, h, w]` the score of sample `i` is
//! `sum_{y,x} logits[i, k, y, x] * mask[y, x]`, as in pytorch_grad_cam's `SemanticSegmentationTarget`; for class logits `[N, K]`
//! it is `logits[i, k]`, as in its `ClassifierOutputTarget`. An output of one channel may stand for two classes; the negative one's
//! logit is the negated one, as in its `BinaryClassifierOutputTarget`.

use std::borrow::Cow;

use tch::{Kind, TchError, Tensor};

use super::Reading;
use crate::program::OneChannel;
use camflow_media::BinaryMask;
use camflow_pipeline::{Channel, ClassTarget, TargetPixels};

/// The scalar of one sample, resolved: it can be taken of any logits, those of a changed input or activation too.
#[derive(Debug)]
pub struct Score {
    /// The class: a channel of the output, unless that has one channel for two classes.
    pub class: i64,
    source: Source,
    /// f32 `[h, w]` of 0 and 1 at the output's resolution; `None` for class logits.
    mask: Option<Tensor>,
}

/// Where a class's logits are in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// In this one of several channels.
    Channel(i64),
    /// In the only one.
    Only { is_negated: bool, is_probability: bool },
}

impl Score {
    /// Resolves a sample's target with its logits `[1, K]` or `[1, K, h, w]`; `None` where the class is not there: nothing is
    /// predicted as it, or its mask is empty at the output's resolution. The background is never the top class of a segmentation.
    /// An output of one channel predicts its class where the logit is above 0, as a sigmoid above one half does. What is predicted
    /// beside the image (where `shown` is 0) is nothing.
    ///
    /// # Errors
    /// libtorch fails; a channel is out of range (checked by the job).
    pub fn resolve(
        logits: &Tensor,
        target: &ClassTarget,
        reading: Reading,
        shown: Option<&BinaryMask>,
    ) -> Result<Option<Score>, TchError> {
        let logits = logits.f_squeeze_dim(0)?;
        let is_map = logits.dim() > 1;
        // bool `[h, w]`
        let shown = match shown.filter(|_| is_map) {
            Some(shown) => {
                let (_, height, width) = logits.size3()?;
                let shown = shown.resize_nearest(height as usize, width as usize);
                let shown = Tensor::f_from_data_size(&shown.pixels, &[height, width], Kind::Uint8)?;
                Some(shown.f_to_device(logits.device())?.f_to_kind(Kind::Bool)?)
            }
            None => None,
        };
        // bool `[h, w]` or of no dimension: where the one channel is above the threshold.
        let only = match reading.one_channel {
            Some(classes) => {
                let above = logits.f_select(0, 0)?.f_gt(if reading.is_probability { 0.5 } else { 0.0 })?;
                Some((classes, above))
            }
            None => None,
        };
        let class = match (target.channel, &only) {
            (Channel::Index(index), _) => Some(index),
            (Channel::Top, Some((classes, above))) => {
                top_of_one(*classes, &within(above, shown.as_ref())?, reading.background.filter(|_| is_map))?
            }
            (Channel::Top, None) if is_map => {
                let winners = logits.f_argmax(0i64, false)?;
                most_predicted(&within(&winners, shown.as_ref())?, logits.size()[0], reading.background)?
            }
            (Channel::Top, None) => Some(logits.f_argmax(0i64, false)?.f_int64_value(&[])?),
        };
        let Some(class) = class else { return Ok(None) };
        let is_negated = only.as_ref().is_some_and(|(classes, _)| classes.negative == Some(class));
        let source = match only {
            Some(_) => Source::Only { is_negated, is_probability: reading.is_probability },
            None => Source::Channel(class),
        };
        let predicted = || {
            let predicted = match &only {
                Some((_, above)) if is_negated => above.f_logical_not()?,
                Some((_, above)) => above.shallow_clone(),
                None => logits.f_argmax(0i64, false)?.f_eq(class)?,
            };
            shown.as_ref().map_or(Ok(predicted.shallow_clone()), |shown| predicted.f_logical_and(shown))
        };
        if !is_map {
            let is_absent = only.is_some() && target.pixels == TargetPixels::Predicted && !is_any(&predicted()?)?;
            return Ok((!is_absent).then_some(Score { class, source, mask: None }));
        }
        let (_, height, width) = logits.size3()?;
        let mask = match &target.pixels {
            TargetPixels::Mask(mask) => match mask_tensor(mask, height, width)? {
                Some(mask) => mask.f_to_device(logits.device())?,
                None => return Ok(None),
            },
            TargetPixels::Predicted | TargetPixels::Labelled => {
                let mask = predicted()?;
                if !is_any(&mask)? {
                    return Ok(None);
                }
                mask
            }
            TargetPixels::Point { y, x } => {
                let mask = Tensor::f_zeros([height, width], (Kind::Float, logits.device()))?;
                let at = |fraction: f64, length: i64| ((fraction * length as f64) as i64).clamp(0, length - 1);
                let _ = mask.f_select(0, at(*y, height))?.f_select(0, at(*x, width))?.f_fill_(1.0)?;
                mask
            }
        };
        Ok(Some(Score { class, source, mask: Some(mask.f_to_kind(logits.kind())?) }))
    }

    /// The pixels that count, at the output's resolution; `None` for class logits.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn pixels(&self) -> Result<Option<BinaryMask>, TchError> {
        let Some(mask) = &self.mask else { return Ok(None) };
        let (height, width) = mask.size2()?;
        let pixels = Vec::try_from(mask.f_to_kind(Kind::Uint8)?.f_flatten(0, -1)?)?;
        Ok(Some(BinaryMask { height: height as usize, width: width as usize, pixels }))
    }

    /// The same once more.
    pub fn shallow_clone(&self) -> Score {
        Score { class: self.class, source: self.source, mask: self.mask.as_ref().map(Tensor::shallow_clone) }
    }

    /// The softmax probability `[B]` of the class in each of the logits `[B, K]`, or the mean over the pixels that count of
    /// those in `[B, K, h, w]`. Of one channel it is the sigmoid: a softmax over one number is 1.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn confidence(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let probabilities = match self.source {
            Source::Channel(channel) => logits.f_softmax(1, Kind::Float)?.f_select(1, channel)?,
            Source::Only { is_probability, .. } => {
                let own = self.logits(&logits.f_to_kind(Kind::Float)?)?;
                if is_probability { own } else { own.f_sigmoid()? }
            }
        };
        let Some(mask) = &self.mask else { return Ok(probabilities) };
        let mask = mask.f_to_kind(Kind::Float)?;
        probabilities
            .f_mul(&mask)?
            .f_sum_dim_intlist([1i64, 2].as_slice(), false, None::<Kind>)?
            .f_div(&mask.f_sum(None::<Kind>)?)
    }

    /// The score `[B]` of each of the logits `[B, K]` or `[B, K, h, w]`.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn of(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let logits = self.logits(logits)?;
        match &self.mask {
            None => Ok(logits),
            Some(mask) => logits.f_mul(mask)?.f_sum_dim_intlist([1i64, 2].as_slice(), false, None::<Kind>),
        }
    }

    /// The class's own logits `[B]` or `[B, h, w]`; its probabilities, where the output is one.
    fn logits(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        match self.source {
            Source::Channel(channel) => logits.f_select(1, channel),
            Source::Only { is_negated: false, .. } => logits.f_select(1, 0),
            Source::Only { is_negated: true, is_probability: true } => logits.f_select(1, 0)?.f_neg()?.f_add_scalar(1.0),
            Source::Only { is_negated: true, is_probability: false } => logits.f_select(1, 0)?.f_neg(),
        }
    }
}

fn is_any(mask: &Tensor) -> Result<bool, TchError> {
    Ok(mask.f_any()?.f_int64_value(&[])? != 0)
}

/// The class of the two of one channel that is predicted for more pixels, or for the image; `None` where that one has no name or is
/// the background and the other one is nowhere.
fn top_of_one(classes: OneChannel, above: &Tensor, background: Option<i64>) -> Result<Option<i64>, TchError> {
    let num_above = above.f_sum(Kind::Int64)?.f_int64_value(&[])?;
    let counts = [(Some(classes.positive), num_above), (classes.negative, above.numel() as i64 - num_above)];
    let named = counts.into_iter().filter_map(|(class, count)| Some((class?, count)));
    let there = named.filter(|(class, count)| *count > 0 && Some(*class) != background);
    Ok(there.rev().max_by_key(|(_, count)| *count).map(|(class, _)| class))
}

/// The values that a mask leaves of it, if there is one, in one row.
fn within(values: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
    mask.map_or_else(|| values.f_reshape([-1]), |mask| values.f_masked_select(mask))
}

/// The class that wins most of the pixels, apart from the background; `None` where the background wins all.
fn most_predicted(winners: &Tensor, num_classes: i64, background: Option<i64>) -> Result<Option<i64>, TchError> {
    let counts = winners.f_bincount(None::<Tensor>, num_classes)?;
    if let Some(background) = background {
        let _ = counts.f_select(0, background)?.f_fill_(0)?;
    }
    let channel = counts.f_argmax(0i64, false)?.f_int64_value(&[])?;
    Ok((counts.f_int64_value(&[channel])? > 0).then_some(channel))
}

/// The mask as u8 `[height, width]` on the CPU, brought to that size by nearest neighbour; `None` where nothing is left of it.
fn mask_tensor(mask: &BinaryMask, height: i64, width: i64) -> Result<Option<Tensor>, TchError> {
    let mut mask = Cow::Borrowed(mask);
    if (mask.height as i64, mask.width as i64) != (height, width) {
        mask = Cow::Owned(mask.resize_nearest(height as usize, width as usize));
    }
    (mask.count() > 0).then(|| Tensor::f_from_data_size(&mask.pixels, &[height, width], Kind::Uint8)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_pipeline::ClassIndex;

    const SEVERAL: Reading = Reading { background: Some(0), one_channel: None, is_probability: false };
    const ONE: Reading =
        Reading { background: None, one_channel: Some(OneChannel { positive: 0, negative: None }), is_probability: false };
    /// Of two names.
    const TWO: Reading = Reading { one_channel: Some(OneChannel { positive: 1, negative: Some(0) }), ..ONE };

    fn read(reading: Reading, logits: &Tensor, channel: Channel, pixels: TargetPixels) -> Option<(i64, f64)> {
        let target = ClassTarget { class: ClassIndex(0), channel, pixels };
        let score = Score::resolve(logits, &target, reading, None).expect("resolved")?;
        Some((score.class, score.of(logits).expect("score").double_value(&[0])))
    }

    fn score(logits: &Tensor, channel: Channel, pixels: TargetPixels) -> Option<(i64, f64)> {
        read(SEVERAL, logits, channel, pixels)
    }

    fn segmentation() -> Tensor {
        // Channel 0 wins the second pixel only.
        Tensor::from_slice(&[1f32, 50.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]).view([1, 2, 2, 2])
    }

    #[test]
    fn only_the_masked_pixels_of_the_class_count() {
        let mask = BinaryMask { height: 2, width: 2, pixels: vec![0, 1, 0, 1] };
        assert_eq!(score(&segmentation(), Channel::Index(1), TargetPixels::Mask(mask)), Some((1, 60.0)));
        let empty = BinaryMask { height: 2, width: 2, pixels: vec![0; 4] };
        assert_eq!(score(&segmentation(), Channel::Index(1), TargetPixels::Mask(empty)), None);
    }

    #[test]
    fn predictions_are_where_the_class_wins() {
        assert_eq!(score(&segmentation(), Channel::Index(0), TargetPixels::Predicted), Some((0, 50.0)));
        let never = Tensor::from_slice(&[1f32, 2.0]).view([1, 2, 1, 1]);
        assert_eq!(score(&never, Channel::Index(0), TargetPixels::Predicted), None);
    }

    fn map_of_one(values: [f32; 4]) -> Tensor {
        Tensor::from_slice(&values).view([1, 1, 2, 2])
    }

    #[test]
    fn one_channel_is_there_where_a_sigmoid_says_so() {
        let score = |logits: &Tensor, channel, pixels| read(ONE, logits, channel, pixels);
        assert_eq!(score(&map_of_one([-5.0, 2.0, 3.0, -1.0]), Channel::Top, TargetPixels::Predicted), Some((0, 5.0)));
        assert_eq!(score(&map_of_one([-5.0; 4]), Channel::Index(0), TargetPixels::Predicted), None);
        let healthy = Tensor::from_slice(&[-1f32]).view([1, 1]);
        assert_eq!(score(&healthy, Channel::Top, TargetPixels::Predicted), None);
        assert_eq!(score(&healthy, Channel::Index(0), TargetPixels::Labelled), Some((0, -1.0)), "the label says so");
        assert_eq!(score(&-healthy, Channel::Index(0), TargetPixels::Predicted), Some((0, 1.0)));
    }

    #[test]
    fn of_two_names_the_first_is_where_the_logit_is_below() {
        let healthy = Tensor::from_slice(&[-1f32]).view([1, 1]);
        assert_eq!(read(TWO, &healthy, Channel::Top, TargetPixels::Predicted), Some((0, 1.0)));
        assert_eq!(read(TWO, &-&healthy, Channel::Top, TargetPixels::Predicted), Some((1, 1.0)));
        assert_eq!(read(TWO, &healthy, Channel::Index(1), TargetPixels::Predicted), None);
        assert_eq!(read(TWO, &healthy, Channel::Index(1), TargetPixels::Labelled), Some((1, -1.0)));
        let probability = Tensor::from_slice(&[0.25f32]).view([1, 1]);
        let reading = Reading { is_probability: true, ..TWO };
        assert_eq!(read(reading, &probability, Channel::Top, TargetPixels::Predicted), Some((0, 0.75)));
    }

    #[test]
    fn of_two_names_the_one_with_more_pixels_is_first_unless_it_is_the_background() {
        let map = map_of_one([-5.0, 2.0, -3.0, -1.0]);
        assert_eq!(read(TWO, &map, Channel::Top, TargetPixels::Predicted), Some((0, 9.0)));
        let reading = Reading { background: Some(0), ..TWO };
        assert_eq!(read(reading, &map, Channel::Top, TargetPixels::Predicted), Some((1, 2.0)));
        assert_eq!(read(reading, &map_of_one([-1.0; 4]), Channel::Top, TargetPixels::Predicted), None);
        let mask = BinaryMask { height: 2, width: 2, pixels: vec![1, 1, 0, 0] };
        assert_eq!(read(TWO, &map, Channel::Index(0), TargetPixels::Mask(mask)), Some((0, 3.0)));
    }

    #[test]
    fn the_confidence_of_one_channel_is_a_sigmoid() {
        let confidence = |values: [f32; 2], class, reading| {
            let target = ClassTarget { class: ClassIndex(0), channel: Channel::Index(class), pixels: TargetPixels::Labelled };
            let logits = Tensor::from_slice(&values).view([2, 1]);
            let score = Score::resolve(&logits.narrow(0, 0, 1), &target, reading, None).expect("resolved").expect("there");
            Vec::<f64>::try_from(score.confidence(&logits).expect("confidence").to_kind(Kind::Double)).expect("numbers")
        };
        let near = |found: Vec<f64>, wanted: [f64; 2]| {
            assert!(found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-6), "{found:?}");
        };
        near(confidence([0.0, 3f32.ln()], 0, ONE), [0.5, 0.75]);
        near(confidence([0.0, 3f32.ln()], 0, TWO), [0.5, 0.25]);
        near(confidence([0.25, 0.5], 0, Reading { is_probability: true, ..ONE }), [0.25, 0.5]);
        near(confidence([0.25, 0.5], 0, Reading { is_probability: true, ..TWO }), [0.75, 0.5]);
    }

    #[test]
    fn what_is_predicted_beside_the_image_does_not_count() {
        let shown = BinaryMask { height: 1, width: 2, pixels: vec![1, 0] };
        let resolve = |logits: &Tensor, channel, pixels, reading| {
            let target = ClassTarget { class: ClassIndex(0), channel, pixels };
            let score = Score::resolve(logits, &target, reading, Some(&shown)).expect("resolved")?;
            Some((score.class, score.of(logits).expect("score").double_value(&[0])))
        };
        // Channel 1 wins three pixels, two of them in the first column; channel 0 wins in the second one.
        assert_eq!(resolve(&segmentation(), Channel::Index(1), TargetPixels::Predicted, SEVERAL), Some((1, 40.0)));
        assert_eq!(resolve(&segmentation(), Channel::Index(0), TargetPixels::Predicted, SEVERAL), None);
        assert_eq!(resolve(&map_of_one([-5.0, 2.0, 3.0, 1.0]), Channel::Top, TargetPixels::Predicted, ONE), Some((0, 3.0)));
        assert_eq!(resolve(&map_of_one([1.0, -2.0, 1.0, -1.0]), Channel::Index(0), TargetPixels::Labelled, TWO), None);
        let mask = BinaryMask::full(2, 2);
        assert_eq!(resolve(&segmentation(), Channel::Index(1), TargetPixels::Mask(mask), SEVERAL), Some((1, 100.0)));
    }

    #[test]
    fn one_pixel_by_its_place() {
        assert_eq!(score(&segmentation(), Channel::Index(1), TargetPixels::Point { y: 0.9, x: 0.1 }), Some((1, 30.0)));
    }

    #[test]
    fn class_logits_are_scores_themselves() {
        let logits = Tensor::from_slice(&[1f32, 2.0, 4.0, 3.0]).view([1, 4]);
        assert_eq!(score(&logits, Channel::Index(1), TargetPixels::Predicted), Some((1, 2.0)));
        assert_eq!(score(&logits, Channel::Top, TargetPixels::Predicted), Some((2, 4.0)));
    }

    #[test]
    fn the_top_class_of_a_segmentation_is_not_the_background() {
        assert_eq!(score(&segmentation(), Channel::Top, TargetPixels::Predicted), Some((1, 80.0)));
        let background = Tensor::from_slice(&[5f32, 2.0]).view([1, 2, 1, 1]);
        assert_eq!(score(&background, Channel::Top, TargetPixels::Predicted), None);
    }
}
