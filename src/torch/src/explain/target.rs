//! What is differentiated: one scalar per sample.
//!
//! A target is a channel and the pixels that count. For segmentation logits `[N, K, h, w]` the score of sample `i` is
//! `sum_{y,x} logits[i, k, y, x] * mask[y, x]`, as in pytorch_grad_cam's `SemanticSegmentationTarget`; for class logits `[N, K]`
//! it is `logits[i, k]`, as in its `ClassifierOutputTarget`. An output of one channel may stand for two classes; the negative
//! one's logit is the negated one, as in its `BinaryClassifierOutputTarget`. Numbers that are no scores of classes are taken as they
//! are, as by its `RawScoresOutputTarget`. Of a detector, whose logits `[N, K, Q, 1]` are of Q predictions, those predictions count
//! that a target's boxes mean, or that are detections of the class. Of a misclassified image there is also the score of the predicted
//! class less that of the true one, `logits[i, p] - logits[i, t]`: what is differentiated in Prabhushankar et al., *Contrastive
//! Explanations in Neural Networks* (ICIP 2020), <https://arxiv.org/abs/2008.00178>, is a loss between the two; of the difference of
//! logits the gradient is the difference of the gradients.

use tch::{Kind, TchError, Tensor};
use typed_index_collections::TiSlice;

use super::{
    Reading, ScoreKind,
    decision::Decisions,
    detection::{Predictions, covered},
    grid::{Cell, Grid, SampleIndex, TargetIndex},
    masks::{Masks, at_output},
};
use crate::program::{DetectionScores, Detections, OneChannel, send, to_host};
use camflow_media::BinaryMask;
use camflow_pipeline::{Channel, ClassTarget, TargetPixels};

/// The scalar of one sample, resolved: it can be taken of any logits, those of a changed input or activation too.
#[derive(Debug)]
pub struct Score {
    /// The class: a channel of the output, unless that has one channel for two classes.
    pub class: i64,
    /// What the model itself gives the class, where that counts.
    pub predicted: Option<Predicted>,
    source: Source,
    /// What of the class is explained.
    kind: ScoreKind,
    /// The class whose logit is subtracted.
    less: Option<Source>,
    /// `[h, w]` of 0 and 1 at the output's resolution; `None` for class logits.
    mask: Option<Tensor>,
}

/// What a model gives a class.
#[derive(Clone, Debug)]
pub struct Predicted {
    /// The pixels at the output's resolution; of a detector those of the input that lie in boxes of its detections.
    pub object: BinaryMask,
    /// How many pixels or detections count.
    pub count: usize,
    /// Of a detector which of its predictions those are, `[Q, 1]`.
    pub detections: Option<BinaryMask>,
}

/// The boxes of a detector's predictions.
#[derive(Clone, Copy)]
pub(super) struct Boxes<'a> {
    /// `[N, Q, 4]`: left, top, right and bottom in fractions of the model's input.
    pub sides: &'a Tensor,
    /// Rows and columns of the input.
    pub input: (usize, usize),
}

/// Which function of the logits a score is, where no mask says what of them counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClassKey {
    source: Source,
    less: Option<Source>,
}

/// Where a class's logits are in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    /// In this one of several channels.
    Channel(i64),
    /// Likewise, of numbers that are no scores of classes.
    Value(i64),
    /// In one of several channels, where each channel has a sigmoid of its own.
    Alone(i64),
    /// In the only one.
    Only { is_negated: bool, is_probability: bool },
}

/// Resolves the targets of a batch with its logits `[N, K]` or `[N, K, h, w]`, without those of which the class is not there:
/// nothing is predicted as it, or its mask is empty at the output's resolution. The host waits for the output only where a target
/// asks what the model decides, and all masks go to the device together.
///
/// # Errors
/// libtorch fails.
pub(super) fn resolve(
    logits: &Tensor,
    boxes: Option<Boxes<'_>>,
    targets: &TiSlice<SampleIndex, Vec<ClassTarget>>,
    reading: Reading,
    shown: &TiSlice<SampleIndex, Option<BinaryMask>>,
) -> Result<Grid<Score>, TchError> {
    let decisions = Decisions::new(logits, reading, shown);
    let mut scores = Grid::default();
    let mut masks = Masks::of(logits);
    let mut of_boxes = Vec::new();
    let mut detected = Vec::new();
    for (sample, targets) in targets.iter_enumerated() {
        for (target, wanted) in targets.iter().enumerate() {
            let cell = Cell { sample, target: TargetIndex::from(target) };
            let class = match wanted.channel {
                Channel::Index(index) => Some(index),
                Channel::Top => decisions.of(sample)?.top(),
            };
            let Some(class) = class else { continue };
            let mut less = None;
            if let TargetPixels::Wrong(wrong) = &wanted.pixels {
                let is_right = || Ok::<_, TchError>(decisions.of(sample)?.top().is_none_or(|top| wrong.own.contains(&top)));
                if !wrong.own.is_empty() && is_right()? {
                    continue;
                }
                less = wrong.less;
            }
            let decided = || Ok(decisions.of(sample)?.pixels_of(class));
            let mut predicted = None;
            let is_there = match masks.size {
                Some(_) if let TargetPixels::Boxes(boxes) = &wanted.pixels => {
                    of_boxes.push((cell, class, &boxes[..]));
                    true
                }
                Some(size) => {
                    let mask = at_output(&wanted.pixels, size, decided)?;
                    if matches!(wanted.pixels, TargetPixels::Predicted | TargetPixels::Labelled) {
                        match boxes {
                            Some(_) => detected.push((cell, mask.clone().into_owned())),
                            None => {
                                predicted =
                                    Some(Predicted { count: mask.count(), object: mask.clone().into_owned(), detections: None })
                            }
                        }
                    }
                    masks.add(cell, &mask)
                }
                None if reading.one_channel.is_some() && wanted.pixels == TargetPixels::Predicted => decided()?.contains(&1),
                None => true,
            };
            if is_there {
                let (source, less) = (Source::of(class, reading), less.map(|less| Source::of(less, reading)));
                scores.insert(cell, Score { class, predicted, source, kind: reading.score, less, mask: None });
            }
        }
    }
    if let Some((boxes, detections)) = boxes.zip(reading.detections).filter(|_| !of_boxes.is_empty()) {
        let mut meant = Predictions::new(logits, boxes.sides, detections).meant(&of_boxes, shown)?;
        for (cell, ..) in of_boxes {
            match (meant.remove(cell), scores.get_mut(cell)) {
                (Some(mask), Some(score)) => score.mask = Some(mask),
                _ => drop(scores.remove(cell)),
            }
        }
    }
    if let Some(boxes) = boxes.filter(|_| !detected.is_empty()) {
        let sides: Vec<f32> = to_host(&boxes.sides.f_to_kind(Kind::Float)?)?;
        for (cell, places) in detected {
            if let Some(score) = scores.get_mut(cell) {
                let object = covered(&places, &sides, cell.sample, boxes.input);
                score.predicted = Some(Predicted { object, count: places.count(), detections: Some(places) });
            }
        }
    }
    for (cell, mask) in masks.upload(logits)? {
        if let Some(score) = scores.get_mut(cell) {
            score.mask = Some(mask);
        }
    }
    Ok(scores)
}

/// What stands for the logits `[N, K, ...]` of a class that is in this place of the output, where a softmax is over all of them.
fn of_all(kind: ScoreKind, logits: &Tensor, source: Source) -> Result<Tensor, TchError> {
    match (kind, source) {
        (ScoreKind::Softmax, Source::Channel(_)) => logits.f_softmax(1, None::<Kind>),
        (ScoreKind::Rest, Source::Channel(_)) => logits.f_log_softmax(1, None::<Kind>)?.f_add(logits),
        _ => Ok(logits.shallow_clone()),
    }
}

/// What stands for the class's own logits, where it has a sigmoid.
fn of_own(kind: ScoreKind, own: Tensor, source: Source) -> Result<Tensor, TchError> {
    match (kind, source) {
        (ScoreKind::Softmax, Source::Alone(_) | Source::Only { is_probability: false, .. }) => own.f_sigmoid(),
        (ScoreKind::Rest, Source::Alone(_) | Source::Only { is_probability: false, .. }) => own.f_log_sigmoid()?.f_add(&own),
        // The logit of a probability is `ln p - ln (1 - p)`.
        (ScoreKind::Rest, Source::Only { is_probability: true, .. }) => {
            let sure = own.f_clamp_min(f64::from(f32::MIN_POSITIVE))?.f_log()?;
            sure.f_mul_scalar(2.0)?.f_sub(&own.f_neg()?.f_log1p()?)
        }
        _ => Ok(own),
    }
}

/// Indices as a tensor `[n]` where another one is.
///
/// # Errors
/// libtorch fails.
pub(super) fn index_tensor(indices: &[i64], like: &Tensor) -> Result<Tensor, TchError> {
    send(indices, &[indices.len() as i64], like.device())
}

/// The scores `[n]` of samples in a batch with logits `[N, K]` or `[N, K, h, w]`: one gather, whose backward pass makes one
/// tensor of the logits' size, however many samples there are.
///
/// # Errors
/// libtorch fails.
pub(super) fn class_scores(logits: &Tensor, scores: &[(SampleIndex, &Score)]) -> Result<Tensor, TchError> {
    let rows: Vec<i64> = scores.iter().map(|(sample, _)| sample.row()).collect();
    let sources: Vec<Source> = scores.iter().map(|(_, score)| score.source).collect();
    let Some((_, Score { kind, source, .. })) = scores.first() else { return of_sources(logits, &rows, &sources) };
    // An output has one channel or several, for all of its samples, and one kind of score is explained of all.
    let logits = &of_all(*kind, logits, *source)?;
    let of_sources =
        |logits: &Tensor, rows: &[i64], sources: &[Source]| of_own(*kind, of_sources(logits, rows, sources)?, *source);
    let mut own = of_sources(logits, &rows, &sources)?;
    if scores.iter().any(|(_, score)| score.less.is_some()) {
        let others: Vec<Source> = scores.iter().map(|(_, score)| score.less.unwrap_or(score.source)).collect();
        let is_less: Vec<f64> = scores.iter().map(|(_, score)| f64::from(u8::from(score.less.is_some()))).collect();
        let other = of_sources(logits, &rows, &others)?;
        own = own.f_sub(&other.f_mul(&factors(&is_less, &other)?)?)?;
    }
    let masks: Vec<&Tensor> = scores.iter().filter_map(|(_, score)| score.mask.as_ref()).collect();
    if masks.is_empty() {
        return Ok(own);
    }
    own.f_mul(&Tensor::f_stack(&masks, 0)?)?.f_sum_dim_intlist([1i64, 2].as_slice(), false, None::<Kind>)
}

/// The logits `[n]` or `[n, h, w]` of classes, each in its row of a batch.
fn of_sources(logits: &Tensor, rows: &[i64], sources: &[Source]) -> Result<Tensor, TchError> {
    let channels: Vec<i64> = sources.iter().map(|source| source.channel()).collect();
    let own = logits.f_index(&[Some(index_tensor(rows, logits)?), Some(index_tensor(&channels, logits)?)])?;
    if sources.iter().all(|source| source.sign() > 0.0) {
        return Ok(own);
    }
    let of_each = |value: fn(Source) -> f64| factors(&sources.iter().map(|source| value(*source)).collect::<Vec<_>>(), &own);
    own.f_mul(&of_each(Source::sign)?)?.f_add(&of_each(Source::offset)?)
}

/// A number for each row of a tensor.
fn factors(values: &[f64], like: &Tensor) -> Result<Tensor, TchError> {
    let mut size = vec![1; like.dim()];
    size[0] = values.len() as i64;
    send(values, &size, like.device())?.f_to_kind(like.kind())
}

/// The probabilities `[n]` of these scores' classes: what [`Score::confidence`] is of each, of all at once.
///
/// # Errors
/// libtorch fails.
pub(super) fn class_confidences(logits: &Tensor, scores: &[(SampleIndex, &Score)]) -> Result<Tensor, TchError> {
    // An output has one channel or several, for all of its samples.
    let probabilities = match scores.first().map(|(_, score)| score.source) {
        Some(Source::Only { is_probability: true, .. } | Source::Value(_)) => logits.f_to_kind(Kind::Float)?,
        Some(Source::Only { is_probability: false, .. } | Source::Alone(_)) => logits.f_to_kind(Kind::Float)?.f_sigmoid()?,
        Some(Source::Channel(_)) | None => logits.f_softmax(1, Kind::Float)?,
    };
    let own =
        scores.iter().map(|(sample, score)| Ok((*sample, score.of_probabilities()?))).collect::<Result<Vec<_>, TchError>>()?;
    let own: Vec<(SampleIndex, &Score)> = own.iter().map(|(sample, score)| (*sample, score)).collect();
    let sums = class_scores(&probabilities, &own)?;
    let masks: Vec<&Tensor> = own.iter().filter_map(|(_, score)| score.mask.as_ref()).collect();
    if masks.is_empty() {
        return Ok(sums);
    }
    sums.f_div(&Tensor::f_stack(&masks, 0)?.f_sum_dim_intlist([1i64, 2].as_slice(), false, None::<Kind>)?)
}

/// What a classifier predicts: of logits `[N, K]` the class with the highest probability and that probability, f64 `[2 N]`, the
/// classes first; of one channel the class that its sigmoid decides for, -1 where that has no name.
///
/// # Errors
/// libtorch fails.
pub(super) fn predictions(logits: &Tensor, reading: Reading) -> Result<Tensor, TchError> {
    let numbers = logits.f_to_kind(Kind::Float)?;
    let (classes, probabilities) = match reading.one_channel {
        Some(classes) => {
            let positive = numbers.f_select(1, 0)?;
            let positive = if reading.is_probability { positive } else { positive.f_sigmoid()? };
            let is_positive = logits.f_select(1, 0)?.f_gt(if reading.is_probability { 0.5 } else { 0.0 })?;
            let of = |class: i64| numbers.f_select(1, 0)?.f_full_like(class as f64);
            let negative = positive.f_neg()?.f_add_scalar(1.0)?;
            let classes = of(classes.positive)?.f_where_self(&is_positive, &of(classes.negative.unwrap_or(-1))?)?;
            (classes, positive.f_where_self(&is_positive, &negative)?)
        }
        None => {
            let classes = logits.f_argmax(1i64, true)?;
            let all = if reading.is_alone { numbers.f_sigmoid()? } else { numbers.f_softmax(1, None::<Kind>)? };
            let probabilities = all.f_gather(1, &classes, false)?.f_squeeze_dim(1)?;
            (classes.f_squeeze_dim(1)?, probabilities)
        }
    };
    Tensor::f_cat(&[classes.f_to_kind(Kind::Double)?, probabilities.f_to_kind(Kind::Double)?], 0)
}

/// What stands in a mask for the class of each pixel, i16 `[N, h, w]`, of logits `[N, K, h, w]`: the number of its channel. Of one channel
/// it is that of the class that a sigmoid decides for; where that one alone has a name, 1, and 0 is none. What is decided by no number is
/// -1.
///
/// # Errors
/// libtorch fails.
pub(super) fn pixel_values(logits: &Tensor, reading: Reading) -> Result<Tensor, TchError> {
    let Some(OneChannel { positive, negative }) = reading.one_channel else {
        let (most, winners) = logits.f_max_dim(1, false)?;
        return winners.f_to_kind(Kind::Int16)?.f_masked_fill(&most.f_isnan()?, -1);
    };
    let only = logits.f_select(1, 0)?;
    let is_positive = only.f_gt(if reading.is_probability { 0.5 } else { 0.0 })?.f_to_kind(Kind::Int16)?;
    let (positive, negative) = negative.map_or((1, 0), |negative| (positive, negative));
    is_positive.f_mul_scalar(positive - negative)?.f_add_scalar(negative)?.f_masked_fill(&only.f_isnan()?, -1)
}

impl Source {
    fn of(class: i64, reading: Reading) -> Self {
        match reading.one_channel {
            Some(classes) => {
                let is_negated = classes.negative == Some(class);
                Source::Only { is_negated, is_probability: reading.is_probability }
            }
            None if reading.is_value => Source::Value(class),
            None => match reading.detections {
                Some(Detections { scores: DetectionScores::Sigmoid, .. }) => Source::Alone(class),
                None if reading.is_alone => Source::Alone(class),
                _ => Source::Channel(class),
            },
        }
    }

    fn channel(self) -> i64 {
        match self {
            Source::Channel(channel) | Source::Value(channel) | Source::Alone(channel) => channel,
            Source::Only { .. } => 0,
        }
    }

    /// The class's own logit or probability is this times the output's number, and [`Source::offset`].
    fn sign(self) -> f64 {
        match self {
            Source::Channel(_) | Source::Value(_) | Source::Alone(_) | Source::Only { is_negated: false, .. } => 1.0,
            Source::Only { is_negated: true, .. } => -1.0,
        }
    }

    fn offset(self) -> f64 {
        match self {
            Source::Only { is_negated: true, is_probability: true } => 1.0,
            _ => 0.0,
        }
    }

    /// The class's own logits `[B]` or `[B, h, w]`; its probabilities, where the output is one.
    fn logits(self, logits: &Tensor) -> Result<Tensor, TchError> {
        let own = logits.f_select(1, self.channel())?;
        if self.sign() > 0.0 {
            return Ok(own);
        }
        own.f_neg()?.f_add_scalar(self.offset())
    }
}

impl Score {
    /// Scores of one kind are the same function of the logits `[N, K]`; `None` of maps of logits, where each image has pixels of its own.
    pub(super) fn key(&self) -> Option<ClassKey> {
        self.mask.is_none().then_some(ClassKey { source: self.source, less: self.less })
    }

    /// The score of another of several channels, and of nothing else; `None` where there is but one.
    pub(super) fn of_channel(&self, channel: i64) -> Option<Score> {
        let source = match self.source {
            Source::Channel(_) => Source::Channel(channel),
            Source::Value(_) => Source::Value(channel),
            Source::Alone(_) => Source::Alone(channel),
            Source::Only { .. } => return None,
        };
        Some(Score { class: channel, predicted: None, source, kind: self.kind, less: None, mask: None })
    }

    /// Of a detector the channel whose logits it sums up, and in which of the predictions; `None` where it is something else.
    ///
    /// # Errors
    /// libtorch fails.
    pub(super) fn predictions(&self) -> Result<Option<(i64, Vec<i64>)>, TchError> {
        let (Source::Channel(channel) | Source::Alone(channel), None) = (self.source, self.less) else { return Ok(None) };
        let Some(mask) = &self.mask else { return Ok(None) };
        let counts: Vec<f32> = to_host(&mask.f_to_kind(Kind::Float)?)?;
        if self.kind != ScoreKind::Logit || counts.iter().any(|count| *count != 0.0 && *count != 1.0) {
            return Ok(None);
        }
        Ok(Some((channel, (0..).zip(counts).filter(|(_, count)| *count == 1.0).map(|(prediction, _)| prediction).collect())))
    }

    /// The same class and pixels in an output that holds probabilities.
    fn of_probabilities(&self) -> Result<Score, TchError> {
        let source = match self.source {
            Source::Only { is_negated, .. } => Source::Only { is_negated, is_probability: true },
            channel @ (Source::Channel(_) | Source::Value(_) | Source::Alone(_)) => channel,
        };
        let mask = self.mask.as_ref().map(|mask| mask.f_to_kind(Kind::Float)).transpose()?;
        Ok(Score { class: self.class, predicted: None, source, kind: ScoreKind::Logit, less: None, mask })
    }

    /// The softmax probability `[B]` of the class in each of the logits `[B, K]`, whatever is subtracted from its score, or the mean
    /// over the pixels that count of those in `[B, K, h, w]`. Of one channel it is the sigmoid: a softmax over one number is 1. What
    /// is no score of a class has none, and is taken as it is.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn confidence(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let probabilities = match self.source {
            Source::Channel(channel) => logits.f_softmax(1, Kind::Float)?.f_select(1, channel)?,
            Source::Value(channel) => logits.f_to_kind(Kind::Float)?.f_select(1, channel)?,
            Source::Alone(channel) => logits.f_to_kind(Kind::Float)?.f_select(1, channel)?.f_sigmoid()?,
            Source::Only { is_probability, .. } => {
                let own = self.source.logits(&logits.f_to_kind(Kind::Float)?)?;
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

    /// That probability less the one of the class whose logit is subtracted from the score, `[B]`.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn confidence_less_other(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let own = self.confidence(logits)?;
        let Some(source) = self.less else { return Ok(own) };
        let mask = self.mask.as_ref().map(Tensor::shallow_clone);
        own.f_sub(
            &Score { class: self.class, predicted: None, source, kind: ScoreKind::Logit, less: None, mask }.confidence(logits)?,
        )
    }

    /// The score `[B]` of each of the logits `[B, K]` or `[B, K, h, w]`.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn of(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let logits = of_all(self.kind, logits, self.source)?;
        let of = |source: Source| of_own(self.kind, source.logits(&logits)?, source);
        let own = of(self.source)?;
        let logits = self.less.map_or_else(|| Ok(own.shallow_clone()), |less| own.f_sub(&of(less)?))?;
        match &self.mask {
            None => Ok(logits),
            Some(mask) => logits.f_mul(mask)?.f_sum_dim_intlist([1i64, 2].as_slice(), false, None::<Kind>),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{OneChannel, counted};
    use camflow_pipeline::{ClassIndex, Misclassified};

    const SEVERAL: Reading = Reading {
        background: Some(0),
        one_channel: None,
        is_probability: false,
        is_value: false,
        is_alone: false,
        detections: None,
        score: ScoreKind::Logit,
    };
    const ONE: Reading = Reading { background: None, one_channel: Some(OneChannel { positive: 0, negative: None }), ..SEVERAL };
    /// Of two names.
    const TWO: Reading = Reading { one_channel: Some(OneChannel { positive: 1, negative: Some(0) }), ..ONE };

    fn resolved(logits: &Tensor, target: ClassTarget, reading: Reading, shown: Option<BinaryMask>) -> Option<Score> {
        let (targets, shown) = ([vec![target]], [shown]);
        let found = resolve(logits, None, TiSlice::from_ref(&targets), reading, TiSlice::from_ref(&shown)).expect("resolved");
        let score = found.into_iter().next().map(|(_, score)| score)?;
        let together = class_scores(logits, &[(SampleIndex::from(0), &score)]).expect("score");
        assert_eq!(together.double_value(&[0]), score.of(logits).expect("score").double_value(&[0]));
        Some(score)
    }

    fn read(reading: Reading, logits: &Tensor, channel: Channel, pixels: TargetPixels) -> Option<(i64, f64)> {
        let target = ClassTarget { class: ClassIndex(0), channel, pixels, detection: None };
        let score = resolved(logits, target, reading, None)?;
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
    fn scores_are_logits_probabilities_or_their_residual() {
        let logits = Tensor::from_slice(&[1f64, 3.0, -2.0]).view([1, 3]);
        let of = |logits: &Tensor, class: i64, kind: ScoreKind, reading: Reading| {
            let reading = Reading { score: kind, ..reading };
            read(reading, logits, Channel::Index(class), TargetPixels::Labelled).expect("there").1
        };
        let softmax =
            |class: usize| [1f64, 3.0, -2.0][class].exp() / [1f64, 3.0, -2.0].iter().map(|logit| logit.exp()).sum::<f64>();
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        near(of(&logits, 1, ScoreKind::Logit, SEVERAL), 3.0);
        near(of(&logits, 2, ScoreKind::Softmax, SEVERAL), softmax(2));
        near(of(&logits, 0, ScoreKind::Rest, SEVERAL), 1.0 + softmax(0).ln());
        let one = Tensor::from_slice(&[0.75f64]).view([1, 1]);
        let sigmoid = 1.0 / (1.0 + (-0.75f64).exp());
        near(of(&one, 1, ScoreKind::Softmax, TWO), sigmoid);
        near(of(&one, 0, ScoreKind::Softmax, TWO), 1.0 - sigmoid);
        near(of(&one, 0, ScoreKind::Rest, TWO), -0.75 + (1.0 - sigmoid).ln());
        let probability = Reading { is_probability: true, ..TWO };
        near(of(&one, 0, ScoreKind::Softmax, probability), 0.25);
        near(of(&one, 0, ScoreKind::Rest, probability), (0.25f64 / 0.75).ln() + 0.25f64.ln());
        let alone = Reading { is_alone: true, ..SEVERAL };
        near(of(&logits, 1, ScoreKind::Softmax, alone), 1.0 / (1.0 + (-3f64).exp()));
        // Of a map each pixel by itself, and of what is no score nothing else.
        let mask = BinaryMask { height: 2, width: 2, pixels: vec![0, 1, 0, 1] };
        let found =
            read(Reading { score: ScoreKind::Softmax, ..SEVERAL }, &segmentation(), Channel::Index(1), TargetPixels::Mask(mask));
        let sigmoid = |difference: f64| 1.0 / (1.0 + (-difference).exp());
        near(found.expect("there").1, sigmoid(20.0 - 50.0) + sigmoid(40.0 - 4.0));
        near(of(&logits, 1, ScoreKind::Rest, Reading { is_value: true, ..SEVERAL }), 3.0);
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
    fn confidences_of_a_batch_are_those_of_its_samples() {
        let logits = Tensor::from_slice(&[0f32, 1.0, 2.0, 3.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.0, 1.0, 5.0]).view([2, 3, 1, 2]);
        let score = |sample: i64, channel, pixels: Vec<u8>| {
            let mask = BinaryMask { height: 1, width: 2, pixels };
            let target = ClassTarget {
                class: ClassIndex(0),
                channel: Channel::Index(channel),
                pixels: TargetPixels::Mask(mask),
                detection: None,
            };
            let reading = Reading { background: None, ..SEVERAL };
            resolved(&logits.narrow(0, sample, 1), target, reading, None).expect("there")
        };
        let scores = [score(0, 2, vec![1, 1]), score(1, 0, vec![0, 1])];
        let rows = [(SampleIndex::from(0), &scores[0]), (SampleIndex::from(1), &scores[1])];
        let found = Vec::<f64>::try_from(class_confidences(&logits, &rows).expect("confidences").to_kind(Kind::Double));
        for (sample, (found, score)) in found.expect("numbers").into_iter().zip(&scores).enumerate() {
            let alone = score.confidence(&logits.narrow(0, sample as i64, 1)).expect("confidence").double_value(&[0]);
            assert!((found - alone).abs() < 1e-6 && found > 0.0 && found < 1.0, "{found} {alone}");
        }
    }

    #[test]
    fn the_confidence_of_one_channel_is_a_sigmoid() {
        let near = |found: Vec<f64>, wanted: [f64; 2]| {
            assert!(found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-6), "{found:?}");
        };
        let confidence = |values: [f32; 2], class, reading| {
            let target = ClassTarget {
                class: ClassIndex(0),
                channel: Channel::Index(class),
                pixels: TargetPixels::Labelled,
                detection: None,
            };
            let logits = Tensor::from_slice(&values).view([2, 1]);
            let score = resolved(&logits.narrow(0, 0, 1), target, reading, None).expect("there");
            let numbers = |confidence: Tensor| Vec::<f64>::try_from(confidence.to_kind(Kind::Double)).expect("numbers");
            let one_by_one = numbers(score.confidence(&logits).expect("confidence"));
            let rows = [(SampleIndex::from(0), &score), (SampleIndex::from(1), &score)];
            near(numbers(class_confidences(&logits, &rows).expect("confidences")), [one_by_one[0], one_by_one[1]]);
            one_by_one
        };
        near(confidence([0.0, 3f32.ln()], 0, ONE), [0.5, 0.75]);
        near(confidence([0.0, 3f32.ln()], 0, TWO), [0.5, 0.25]);
        near(confidence([0.25, 0.5], 0, Reading { is_probability: true, ..ONE }), [0.25, 0.5]);
        near(confidence([0.25, 0.5], 0, Reading { is_probability: true, ..TWO }), [0.75, 0.5]);
    }

    #[test]
    fn a_number_that_is_no_score_of_a_class_is_taken_as_it_is() {
        let numbers = Tensor::from_slice(&[-3f32, 8.0, 0.5]).view([1, 3]);
        let target =
            ClassTarget { class: ClassIndex(0), channel: Channel::Index(0), pixels: TargetPixels::Predicted, detection: None };
        let score = resolved(&numbers, target, Reading { is_value: true, ..SEVERAL }, None).expect("whatever is decided");
        assert_eq!(score.of(&numbers).expect("score").double_value(&[0]), -3.0);
        assert_eq!(score.confidence(&numbers).expect("no probability").double_value(&[0]), -3.0);
    }

    #[test]
    fn texts_that_are_scored_each_by_itself_have_a_sigmoid() {
        let target =
            ClassTarget { class: ClassIndex(0), channel: Channel::Index(1), pixels: TargetPixels::Predicted, detection: None };
        let logits = Tensor::from_slice(&[9f32, 3f32.ln()]).view([1, 2]);
        let score = resolved(&logits, target, Reading { is_alone: true, ..SEVERAL }, None).expect("whatever is decided");
        assert!((score.confidence(&logits).expect("a probability").double_value(&[0]) - 0.75).abs() < 1e-6);
    }

    #[test]
    fn what_is_predicted_beside_the_image_does_not_count() {
        let shown = BinaryMask { height: 1, width: 2, pixels: vec![1, 0] };
        let resolve = |logits: &Tensor, channel, pixels, reading| {
            let target = ClassTarget { class: ClassIndex(0), channel, pixels, detection: None };
            let score = resolved(logits, target, reading, Some(shown.clone()))?;
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
    fn a_mistake_is_explained_by_both_classes_and_their_difference() {
        let logits = Tensor::from_slice(&[1f32, 2.0, 4.0, 3.0, 9.0, 2.0, 4.0, 3.0]).view([2, 4]);
        let target = |channel, own: &[i64], less| {
            let pixels = TargetPixels::Wrong(Misclassified { own: own.to_vec(), less });
            ClassTarget { class: ClassIndex(0), channel, pixels, detection: None }
        };
        let targets = |own: &[i64]| {
            vec![
                target(Channel::Top, own, None),
                target(Channel::Index(own[0]), own, None),
                target(Channel::Top, own, Some(own[0])),
            ]
        };
        // The second sample is right: both of its channels are called so.
        let targets = [targets(&[1]), targets(&[1, 0])];
        let (shown, reading) = ([None, None], Reading { background: None, ..SEVERAL });
        let found = resolve(&logits, None, TiSlice::from_ref(&targets), reading, TiSlice::from_ref(&shown)).expect("resolved");
        let scores: Vec<(SampleIndex, &Score)> = found.iter().map(|(cell, score)| (cell.sample, score)).collect();
        assert_eq!(
            scores.iter().map(|(sample, score)| (sample.row(), score.class)).collect::<Vec<_>>(),
            [(0, 2), (0, 1), (0, 2)]
        );
        let together = Vec::<f64>::try_from(class_scores(&logits, &scores).expect("scores").to_kind(Kind::Double));
        assert_eq!(together.expect("numbers"), [4.0, 2.0, 2.0]);
        let alone: Vec<f64> = scores.iter().map(|(_, score)| score.of(&logits).expect("score").double_value(&[0])).collect();
        assert_eq!(alone, [4.0, 2.0, 2.0]);
        // What was found out of the image counts for its variants.
        let again = resolved(&logits.narrow(0, 1, 1), target(Channel::Index(0), &[], Some(1)), reading, None).expect("there");
        assert_eq!(again.of(&logits).expect("score").double_value(&[1]), 7.0);
        // Of one channel the negative class's logit is the negated one.
        let logits = Tensor::from_slice(&[-3f32]).view([1, 1]);
        let score = resolved(&logits, target(Channel::Top, &[1], Some(1)), TWO, None).expect("there");
        assert_eq!((score.class, score.of(&logits).expect("score").double_value(&[0])), (0, 6.0));
    }

    #[test]
    fn what_is_predicted_is_the_first_class_with_its_probability() {
        let read = |logits: &Tensor, reading| -> Vec<f64> {
            Vec::try_from(predictions(logits, reading).expect("predictions")).expect("numbers")
        };
        let near = |found: Vec<f64>, wanted: &[f64]| {
            assert!(found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        };
        let three = 3f32.ln();
        let logits = Tensor::from_slice(&[0f32, three, three, 0.0]).view([2, 2]);
        near(read(&logits, SEVERAL), &[1.0, 0.0, 0.75, 0.75]);
        near(read(&logits, Reading { is_alone: true, ..SEVERAL }), &[1.0, 0.0, 0.75, 0.75]);
        let one = Tensor::from_slice(&[three, -three]).view([2, 1]);
        near(read(&one, TWO), &[1.0, 0.0, 0.75, 0.75]);
        near(read(&one, ONE), &[0.0, -1.0, 0.75, 0.75]);
        let sigmoid = Tensor::from_slice(&[0.9f32, 0.2]).view([2, 1]);
        near(read(&sigmoid, Reading { is_probability: true, ..TWO }), &[1.0, 0.0, 0.9, 0.8]);
    }

    #[test]
    fn masks_have_the_numbers_of_channels() {
        let values = |logits: &Tensor, reading| -> Vec<i16> {
            Vec::try_from(pixel_values(logits, reading).expect("values").flatten(0, -1)).expect("numbers")
        };
        assert_eq!(values(&segmentation(), SEVERAL), [1, 0, 1, 1]);
        let map = map_of_one([-5.0, 2.0, 3.0, -1.0]);
        assert_eq!(values(&map, ONE), [0, 1, 1, 0]);
        assert_eq!(values(&map, TWO), [0, 1, 1, 0]);
        let swapped = Reading { one_channel: Some(OneChannel { positive: 0, negative: Some(1) }), ..TWO };
        assert_eq!(values(&map, swapped), [1, 0, 0, 1]);
        assert_eq!(values(&map_of_one([f32::NAN, 2.0, 3.0, -1.0]), ONE), [-1, 1, 1, 0]);
    }

    #[test]
    fn the_top_class_of_a_segmentation_is_not_the_background() {
        assert_eq!(score(&segmentation(), Channel::Top, TargetPixels::Predicted), Some((1, 80.0)));
        let background = Tensor::from_slice(&[5f32, 2.0]).view([1, 2, 1, 1]);
        assert_eq!(score(&background, Channel::Top, TargetPixels::Predicted), None);
    }

    #[test]
    fn scoring_takes_memory_as_the_logits_do_however_many_samples_there_are() {
        for (size, pixels) in [(vec![32, 1000], None), (vec![32, 21, 16, 16], Some(BinaryMask::full(16, 16)))] {
            let logits = Tensor::rand(&size[..], tch::kind::FLOAT_CPU).set_requires_grad(true);
            let pixels = pixels.map_or(TargetPixels::Labelled, TargetPixels::Mask);
            let target = |sample| {
                vec![ClassTarget {
                    class: ClassIndex(0),
                    channel: Channel::Index(sample % 7),
                    pixels: pixels.clone(),
                    detection: None,
                }]
            };
            let (targets, shown): (Vec<_>, Vec<_>) = (0i64..32).map(|sample| (target(sample), None)).unzip();
            let work = || {
                let found = tch::no_grad(|| {
                    resolve(&logits, None, TiSlice::from_ref(&targets), SEVERAL, TiSlice::from_ref(&shown)).expect("resolved")
                });
                let scores: Vec<(SampleIndex, &Score)> = found.of_target(TargetIndex::from(0)).collect();
                let root = class_scores(&logits, &scores).expect("scores").sum(Kind::Float);
                Tensor::f_run_backward(&[&root], &[&logits], false, false).expect("a gradient").remove(0)
            };
            let (gradient, counts) = counted("cpu", work);
            let (bytes, logits_bytes) = (counts.expect("counted").bytes, 4 * logits.numel() as u64);
            assert!(bytes <= 2 * logits_bytes, "{bytes} bytes for {logits_bytes} of logits");
            let counted = gradient.sum_dim_intlist([0i64].as_slice(), false, Kind::Float).count_nonzero(None);
            assert_eq!(counted.int64_value(&[]), 7 * size[2..].iter().product::<i64>());
        }
    }
}
