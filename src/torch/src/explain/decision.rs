//! What the model itself decides: the class that it gives an image, or each of its pixels.

use std::cell::OnceCell;

use tch::{Kind, TchError, Tensor};
use typed_index_collections::TiSlice;

use super::{Reading, detection::winners, grid::SampleIndex};
use crate::program::{Detections, OneChannel, to_host};
use camflow_media::BinaryMask;

/// What wins a prediction that is no detection.
const NOTHING: i64 = -1;

/// What is decided for the samples of a batch. It comes to the host in one copy, when it is first asked for.
///
/// The background is never the top class of a segmentation. An output of one channel decides for its class where the logit is
/// above 0, as a sigmoid above one half does. A detector decides for those predictions whose probability reaches its threshold. What is decided beside the image (where `shown` is 0) is nothing.
pub(super) struct Decisions<'a> {
    /// `[N, K]` or `[N, K, h, w]`
    logits: &'a Tensor,
    reading: Reading,
    shown: &'a TiSlice<SampleIndex, Option<BinaryMask>>,
    /// The channel with the highest logit, or of one channel 1 where that is above the threshold: `[N]` or `[N, h, w]`.
    winners: OnceCell<Vec<i32>>,
}

/// What is decided for one sample.
pub(super) struct Decision<'a> {
    winners: &'a [i32],
    /// Like the winners.
    shown: Option<BinaryMask>,
    reading: Reading,
    is_map: bool,
}

impl<'a> Decisions<'a> {
    /// With logits `[N, K]` or `[N, K, h, w]`.
    pub(super) fn new(logits: &'a Tensor, reading: Reading, shown: &'a TiSlice<SampleIndex, Option<BinaryMask>>) -> Self {
        Decisions { logits, reading, shown, winners: OnceCell::new() }
    }

    /// For a sample.
    ///
    /// # Errors
    /// libtorch fails.
    pub(super) fn of(&self, sample: SampleIndex) -> Result<Decision<'_>, TchError> {
        let winners = match self.winners.get() {
            Some(winners) => winners,
            None => {
                let winners = self.read()?;
                self.winners.get_or_init(|| winners)
            }
        };
        let size = self.logits.size();
        let num_pixels: i64 = size[2..].iter().product();
        let own = usize::from(sample) * num_pixels as usize;
        // A prediction of a detector lies nowhere in the output.
        let shown = self.shown[sample].as_ref().filter(|_| self.reading.detections.is_none());
        let shown = match (shown, &size[..]) {
            (Some(shown), [_, _, height, width]) => Some(shown.resize_nearest(*height as usize, *width as usize)),
            _ => None,
        };
        let winners = &winners[own..own + num_pixels as usize];
        Ok(Decision { winners, shown, reading: self.reading, is_map: size.len() > 2 })
    }

    fn read(&self) -> Result<Vec<i32>, TchError> {
        if let Some(Detections { scores, threshold, .. }) = self.reading.detections {
            let (most, winners) = winners(self.logits, scores, self.reading.background)?;
            return to_host(&winners.f_masked_fill(&most.f_lt(threshold)?, NOTHING)?.f_to_kind(Kind::Int)?);
        }
        let winners = match self.reading.one_channel {
            Some(_) => self.logits.f_select(1, 0)?.f_gt(if self.reading.is_probability { 0.5 } else { 0.0 })?,
            None => self.logits.f_argmax(1i64, false)?,
        };
        to_host(&winners.f_to_kind(Kind::Int)?)
    }
}

impl Decision<'_> {
    /// The class that is put first; `None` where that is none, or one without a name.
    pub(super) fn top(&self) -> Option<i64> {
        let background = self.reading.background.filter(|_| self.is_map);
        let seen = self.winners.iter().zip(self.shown()).filter(|(_, shown)| *shown).map(|(winner, _)| *winner);
        match self.reading.one_channel {
            Some(classes) => top_of_one(classes, seen, background),
            None if self.is_map => most_frequent(seen.filter(|winner| i64::from(*winner) != NOTHING), background),
            None => self.winners.first().map(|winner| i64::from(*winner)),
        }
    }

    /// Where that class is put first: 1 there and else 0, `[h, w]` row by row, or one number for the image.
    pub(super) fn pixels_of(&self, class: i64) -> Vec<u8> {
        let wanted = match self.reading.one_channel {
            Some(classes) => i64::from(classes.negative != Some(class)),
            None => class,
        };
        let pixels = self.winners.iter().zip(self.shown());
        pixels.map(|(winner, shown)| u8::from(shown && i64::from(*winner) == wanted)).collect()
    }

    /// Whether there is an image at a pixel.
    fn shown(&self) -> impl Iterator<Item = bool> {
        let shown = self.shown.iter().flat_map(|shown| shown.pixels.iter().map(|pixel| *pixel != 0));
        shown.chain(std::iter::repeat_n(true, if self.shown.is_some() { 0 } else { self.winners.len() }))
    }
}

/// The class of the two of one channel that is decided for more pixels, or for the image; `None` where that one has no name or is
/// the background and the other one is nowhere.
fn top_of_one(classes: OneChannel, above: impl Iterator<Item = i32>, background: Option<i64>) -> Option<i64> {
    let (mut num_above, mut num_below) = (0, 0);
    above.for_each(|above| *(if above == 1 { &mut num_above } else { &mut num_below }) += 1);
    let counts: [(Option<i64>, usize); 2] = [(Some(classes.positive), num_above), (classes.negative, num_below)];
    let named = counts.into_iter().filter_map(|(class, count)| Some((class?, count)));
    let there = named.filter(|(class, count)| *count > 0 && Some(*class) != background);
    there.rev().max_by_key(|(_, count)| *count).map(|(class, _)| class)
}

/// The class that wins most of the pixels, apart from the background, of equal ones the first; `None` where the background wins
/// all.
fn most_frequent(winners: impl Iterator<Item = i32>, background: Option<i64>) -> Option<i64> {
    let mut counts: Vec<usize> = Vec::new();
    for winner in winners {
        let class = winner as usize;
        if class >= counts.len() {
            counts.resize(class + 1, 0);
        }
        counts[class] += 1;
    }
    let classes = counts.into_iter().enumerate().map(|(class, count)| (class as i64, count));
    let there = classes.filter(|(class, count)| *count > 0 && Some(*class) != background);
    there.rev().max_by_key(|(_, count)| *count).map(|(class, _)| class)
}
