//! What is differentiated: one scalar per sample.
//!
//! A target is a channel and the pixels that count. For segmentation logits `[N, K, h, w]` the score of sample `i` is
//! `sum_{y,x} logits[i, k, y, x] * mask[y, x]`, as in pytorch_grad_cam's `SemanticSegmentationTarget`; for class logits `[N, K]`
//! it is `logits[i, k]`, as in its `ClassifierOutputTarget`.

use std::borrow::Cow;

use tch::{Kind, TchError, Tensor};

use super::Reading;
use crate::{
    media::BinaryMask,
    pipeline::{Channel, ClassTarget, TargetPixels},
};

/// The scalar of one sample, resolved: it can be taken of any logits, those of a changed input or activation too.
#[derive(Debug)]
pub struct Score {
    /// Channel of the output.
    pub channel: i64,
    /// f32 `[h, w]` of 0 and 1 at the output's resolution; `None` for class logits.
    mask: Option<Tensor>,
    is_probability: bool,
}

impl Score {
    /// Resolves a sample's target with its logits `[1, K]` or `[1, K, h, w]`; `None` where the class is not there: nothing is
    /// predicted as it, or its mask is empty at the output's resolution. The background is never the top class of a segmentation.
    /// An output of one channel predicts its class where the logit is above 0, as a sigmoid above one half does.
    ///
    /// # Errors
    /// libtorch fails; a channel is out of range (checked by the job).
    pub fn resolve(logits: &Tensor, target: &ClassTarget, reading: Reading) -> Result<Option<Score>, TchError> {
        let logits = logits.f_squeeze_dim(0)?;
        let is_probability = reading.is_probability;
        let is_only = logits.size()[0] == 1;
        let above = |logits: &Tensor| logits.f_gt(if is_probability { 0.5 } else { 0.0 });
        if logits.dim() == 1 {
            if is_only && target.pixels == TargetPixels::Predicted && above(&logits)?.f_int64_value(&[0])? == 0 {
                return Ok(None);
            }
            let channel = match target.channel {
                Channel::Index(index) => index,
                Channel::Top => logits.f_argmax(0i64, false)?.f_int64_value(&[])?,
            };
            return Ok(Some(Score { channel, mask: None, is_probability }));
        }
        let channel = match target.channel {
            Channel::Index(index) => index,
            Channel::Top if is_only => 0,
            Channel::Top => match most_predicted(&logits, reading.background)? {
                Some(channel) => channel,
                None => return Ok(None),
            },
        };
        let (_, height, width) = logits.size3()?;
        let mask = match &target.pixels {
            TargetPixels::Mask(mask) => match mask_tensor(mask, height, width)? {
                Some(mask) => mask.f_to_device(logits.device())?,
                None => return Ok(None),
            },
            TargetPixels::Predicted | TargetPixels::Labelled => {
                let mask = match is_only {
                    true => above(&logits.f_select(0, 0)?)?,
                    false => logits.f_argmax(0i64, false)?.f_eq(channel)?,
                };
                if mask.f_any()?.f_int64_value(&[])? == 0 {
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
        Ok(Some(Score { channel, mask: Some(mask.f_to_kind(logits.kind())?), is_probability }))
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
        Score { channel: self.channel, mask: self.mask.as_ref().map(Tensor::shallow_clone), is_probability: self.is_probability }
    }

    /// The softmax probability `[B]` of the channel in each of the logits `[B, K]`, or the mean over the pixels that count of
    /// those in `[B, K, h, w]`. Of one channel it is the sigmoid: a softmax over one number is 1.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn confidence(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let probabilities = match (logits.size()[1], self.is_probability) {
            (1, true) => logits.f_to_kind(Kind::Float)?,
            (1, false) => logits.f_to_kind(Kind::Float)?.f_sigmoid()?,
            _ => logits.f_softmax(1, Kind::Float)?,
        };
        let probabilities = probabilities.f_select(1, self.channel)?;
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
        let logits = logits.f_select(1, self.channel)?;
        match &self.mask {
            None => Ok(logits),
            Some(mask) => logits.f_mul(mask)?.f_sum_dim_intlist([1i64, 2].as_slice(), false, None::<Kind>),
        }
    }
}

/// The class that wins most pixels of `[K, h, w]`, apart from the background; `None` where the background wins all.
fn most_predicted(logits: &Tensor, background: Option<i64>) -> Result<Option<i64>, TchError> {
    let num_classes = logits.size()[0];
    let winners = logits.f_argmax(0i64, false)?.f_flatten(0, -1)?;
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

    fn score(logits: &Tensor, channel: Channel, pixels: TargetPixels) -> Option<(i64, f64)> {
        let target = ClassTarget { class: 0, channel, pixels };
        let score = Score::resolve(logits, &target, Reading { background: Some(0), is_probability: false }).expect("resolved")?;
        Some((score.channel, score.of(logits).expect("score").double_value(&[0])))
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

    #[test]
    fn one_channel_is_there_where_a_sigmoid_says_so() {
        let object =
            |pixels: TargetPixels| score(&Tensor::from_slice(&[-5f32, 2.0, 3.0, -1.0]).view([1, 1, 2, 2]), Channel::Top, pixels);
        assert_eq!(object(TargetPixels::Predicted), Some((0, 5.0)));
        let never = Tensor::full([1, 1, 2, 2], -5.0, tch::kind::FLOAT_CPU);
        assert_eq!(score(&never, Channel::Index(0), TargetPixels::Predicted), None);
        let healthy = Tensor::from_slice(&[-1f32]).view([1, 1]);
        assert_eq!(score(&healthy, Channel::Top, TargetPixels::Predicted), None);
        assert_eq!(score(&healthy, Channel::Index(0), TargetPixels::Labelled), Some((0, -1.0)), "the label says so");
        assert_eq!(score(&-healthy, Channel::Index(0), TargetPixels::Predicted), Some((0, 1.0)));
    }

    #[test]
    fn the_confidence_of_one_channel_is_a_sigmoid() {
        let target = ClassTarget { class: 0, channel: Channel::Index(0), pixels: TargetPixels::Labelled };
        let confidence = |values: [f32; 2], is_probability| {
            let logits = Tensor::from_slice(&values).view([2, 1]);
            let reading = Reading { background: None, is_probability };
            let score = Score::resolve(&logits.narrow(0, 0, 1), &target, reading).expect("resolved").expect("there");
            Vec::<f64>::try_from(score.confidence(&logits).expect("confidence").to_kind(Kind::Double)).expect("numbers")
        };
        let found = confidence([0.0, 3f32.ln()], false);
        assert!((found[0] - 0.5).abs() < 1e-6 && (found[1] - 0.75).abs() < 1e-6, "{found:?}");
        assert_eq!(confidence([0.25, 0.5], true), [0.25, 0.5]);
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
