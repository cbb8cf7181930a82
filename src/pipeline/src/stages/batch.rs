//! Batch: groups samples by input shape and cuts to size.
//!
//! Images of one shape rarely follow each other, so a few shapes fill up side by side. What waits is bounded: past the
//! look-ahead the shape that has waited longest goes out as it is, so that a lone shape is not held back for ever.

use std::{collections::VecDeque, sync::Mutex};

use super::{Context, StageLoop};
use crate::{
    lock::lock,
    message::{DecodedSample, InputBatch},
    seams::BatchLimit,
    stage::Stage,
    timing::{Inlet, Outlet},
};

/// How many batches' worth of samples may wait for company. More fill batches better and cost memory: each sample of
/// 520x693 takes 1.1 MB.
const LOOK_AHEAD_BATCHES: f64 = 4.0;

/// Targets whose heatmaps take about as much memory as their image in the model. All heatmaps of a batch are in memory at once, and
/// an image may have very many detections: one with more targets than this counts as several.
const TARGETS_LIKE_AN_IMAGE: usize = 16;

/// For how many samples one with these targets counts.
fn weight(sample: &DecodedSample) -> usize {
    sample.targets.len().div_ceil(TARGETS_LIKE_AN_IMAGE).max(1)
}

/// How much a batch may hold at the moment.
pub(crate) struct BatchLimits {
    /// By the user.
    asked: Option<BatchLimit>,
    /// What each explainer takes; until it has had a batch, in this run or an earlier one, one sample.
    of_explainers: Mutex<Vec<BatchLimit>>,
    /// What devices left of batches that were larger than they take.
    rests: Mutex<Vec<InputBatch>>,
}

impl BatchLimits {
    pub(crate) fn new(asked: Option<BatchLimit>, of_explainers: Vec<BatchLimit>) -> Self {
        BatchLimits { asked, of_explainers: Mutex::new(of_explainers), rests: Mutex::default() }
    }

    /// What some explainer takes, unless the user knows better.
    fn now(&self) -> BatchLimit {
        let largest = || lock(&self.of_explainers).iter().copied().reduce(BatchLimit::or).unwrap_or(BatchLimit::samples(1));
        self.asked.unwrap_or_else(largest)
    }

    /// What this one takes.
    pub(super) fn of(&self, explainer: usize) -> BatchLimit {
        self.asked.or_else(|| lock(&self.of_explainers).get(explainer).copied()).unwrap_or(BatchLimit::samples(1))
    }

    /// As much of a batch as this explainer takes; what it leaves is for whoever is free first, itself among them.
    pub(super) fn share(&self, explainer: usize, mut batch: InputBatch) -> InputBatch {
        let taken = self.of(explainer).of_shape(batch.height, batch.width);
        if batch.samples.len() <= taken {
            return batch;
        }
        let left = batch.samples.len() - taken;
        let own = InputBatch { samples: batch.samples.split_off(left), ..batch };
        lock(&self.rests).push(batch);
        own
    }

    /// The rest of a batch that some device left.
    pub(super) fn next_rest(&self) -> Option<InputBatch> {
        lock(&self.rests).pop()
    }

    pub(super) fn set(&self, explainer: usize, limit: BatchLimit) {
        if let Some(of_explainer) = lock(&self.of_explainers).get_mut(explainer) {
            *of_explainer = limit;
        }
    }
}

/// Hands batches on as they are full.
pub(crate) struct Batch<'a> {
    pub(crate) limits: &'a BatchLimits,
    pub(crate) input: Inlet<'a, Box<DecodedSample>>,
    pub(crate) out: Outlet<'a, InputBatch>,
}

impl StageLoop for Batch<'_> {
    const STAGE: Stage = Stage::Batch;

    fn run(self, _: Context<'_, '_>) {
        let Batch { limits, input, out } = self;
        let mut batcher = Batcher::default();
        for sample in input.iter() {
            if let Some(batch) = batcher.push(*sample, limits.now())
                && out.send(batch).is_err()
            {
                return;
            }
        }
        while let Some(batch) = batcher.flush() {
            if out.send(batch).is_err() {
                return;
            }
        }
    }
}

/// Collects samples into batches of equal shape.
#[derive(Debug, Default)]
struct Batcher {
    /// Shapes in the order in which their oldest sample arrived.
    waiting: VecDeque<((usize, usize), Vec<DecodedSample>)>,
}

impl Batcher {
    /// Takes a sample; gives a batch when one is full by the limit of the moment, or the look-ahead is used up.
    fn push(&mut self, sample: DecodedSample, limit: BatchLimit) -> Option<InputBatch> {
        let shape = (sample.height, sample.width);
        // Its slices are batches by themselves, and it is too large to wait.
        if sample.slices.is_some() {
            let (height, width) = shape;
            return Some(InputBatch { samples: vec![sample], height, width });
        }
        let full = limit.of_shape(sample.height, sample.width);
        let index = match self.waiting.iter().position(|(waiting, _)| *waiting == shape) {
            Some(index) => index,
            None => {
                self.waiting.push_back((shape, Vec::with_capacity(full)));
                self.waiting.len() - 1
            }
        };
        self.waiting[index].1.push(sample);
        if self.waiting[index].1.iter().map(weight).sum::<usize>() >= full {
            return self.take(index);
        }
        // Each sample uses up its part of a full batch of its shape.
        let part = |((height, width), samples): &((usize, usize), Vec<DecodedSample>)| {
            samples.iter().map(weight).sum::<usize>() as f64 / limit.of_shape(*height, *width) as f64
        };
        if self.waiting.iter().map(part).sum::<f64>() >= LOOK_AHEAD_BATCHES { self.take(0) } else { None }
    }

    /// What is left, oldest first; `None` when nothing is.
    fn flush(&mut self) -> Option<InputBatch> {
        self.take(0)
    }

    fn take(&mut self, index: usize) -> Option<InputBatch> {
        let ((height, width), samples) = self.waiting.remove(index)?;
        Some(InputBatch { samples, height, width })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Channel, ClassIndex, ClassTarget, Envelope, Fingerprint, SampleRef, TargetPixels};
    use camflow_media::{FrameRegion, InputPixels};

    fn sample(seq: u64, height: usize, width: usize) -> DecodedSample {
        let sample = SampleRef { seq, id: format!("{seq:024x}"), media_path: "a.jpg".into() };
        DecodedSample {
            envelope: Envelope::without_fields(sample, Fingerprint::of_job("model", "settings")),
            pixels: InputPixels::Levels(vec![seq as u8; 3 * height * width]),
            height,
            width,
            region: FrameRegion::whole(height, width),
            targets: Vec::new(),
            attention: None,
            slices: None,
            is_clipped: false,
            is_moved: false,
        }
    }

    const TWO: BatchLimit = BatchLimit::samples(2);

    #[test]
    fn shapes_do_not_mix() {
        let mut batcher = Batcher::default();
        assert!(batcher.push(sample(0, 1, 2), TWO).is_none());
        assert!(batcher.push(sample(1, 2, 1), TWO).is_none());
        let batch = batcher.push(sample(2, 1, 2), TWO).expect("a full batch");
        assert_eq!((batch.height, batch.width), (1, 2));
        assert_eq!(batch.samples.iter().map(|s| s.envelope.sample.seq).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(batcher.flush().expect("the rest").samples[0].envelope.sample.seq, 1);
        assert!(batcher.flush().is_none());
    }

    #[test]
    fn a_lone_shape_goes_out_when_the_look_ahead_is_used_up() {
        let mut batcher = Batcher::default();
        let mut out = Vec::new();
        for seq in 0..8 {
            out.extend(batcher.push(sample(seq, 1 + seq as usize, 1), TWO));
        }
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].samples[0].envelope.sample.seq, 0, "the oldest goes first");
    }

    #[test]
    fn a_device_leaves_what_it_does_not_take() {
        let limits = BatchLimits::new(None, vec![BatchLimit::samples(1), BatchLimit { samples: 3, pixels: usize::MAX }]);
        let mut batcher = Batcher::default();
        let batch = (0..3).find_map(|seq| batcher.push(sample(seq, 1, 2), limits.now())).expect("the largest limit is full");
        let own = limits.share(0, batch);
        assert_eq!(own.samples.iter().map(|s| s.envelope.sample.seq).collect::<Vec<_>>(), [2]);
        let rest = limits.share(1, limits.next_rest().expect("left"));
        assert_eq!(rest.samples.iter().map(|s| s.envelope.sample.seq).collect::<Vec<_>>(), [0, 1]);
        assert!(limits.next_rest().is_none());
        let asked = BatchLimits::new(Some(TWO), vec![BatchLimit::samples(1)]);
        assert_eq!((asked.now(), asked.of(0)), (TWO, TWO), "the user knows better");
    }

    #[test]
    fn an_image_with_many_detections_counts_as_several() {
        let target = || ClassTarget {
            class: ClassIndex(0),
            channel: Channel::Index(0),
            pixels: TargetPixels::Boxes(vec![[0.0, 0.0, 1.0, 1.0]]),
            detection: None,
        };
        let with = |count: usize| DecodedSample { targets: (0..count).map(|_| target()).collect(), ..sample(0, 1, 1) };
        assert_eq!([0, 1, 16, 17, 64].map(|count| weight(&with(count))), [1, 1, 1, 2, 4]);
        let four = BatchLimit::samples(4);
        let sizes = |count: usize| {
            let mut batcher = Batcher::default();
            (0..8).filter_map(|_| batcher.push(with(count), four)).map(|batch| batch.samples.len()).collect::<Vec<_>>()
        };
        assert_eq!([sizes(3), sizes(20), sizes(100)], [vec![4, 4], vec![2; 4], vec![1; 8]]);
    }

    #[test]
    fn small_images_come_in_larger_batches() {
        let limit = BatchLimit { samples: 8, pixels: 12 };
        let mut batcher = Batcher::default();
        let mut sizes = Vec::new();
        for seq in 0..6 {
            sizes.extend(batcher.push(sample(seq, 2, 2), limit).map(|batch| batch.samples.len()));
        }
        assert_eq!(sizes, [3, 3]);
        let large = batcher.push(sample(6, 5, 5), limit).expect("one sample always is a batch");
        assert_eq!(large.samples.len(), 1);
    }
}
