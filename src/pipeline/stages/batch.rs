//! Batch: groups samples by input shape and cuts to size.
//!
//! Images of one shape rarely follow each other, so a few shapes fill up side by side. What waits is bounded: past the
//! look-ahead the shape that has waited longest goes out as it is, so that a lone shape is not held back for ever.

use std::collections::VecDeque;

use crate::pipeline::{DecodedSample, InputBatch};

/// How many batches' worth of samples may wait for company. More fill batches better and cost memory: each sample of
/// 3x520x693 takes 4.3 MB.
const LOOK_AHEAD_BATCHES: usize = 4;

/// Collects samples into batches of equal shape.
#[derive(Debug)]
pub struct Batcher {
    batch_size: usize,
    /// Shapes in the order in which their oldest sample arrived.
    waiting: VecDeque<((usize, usize), Vec<DecodedSample>)>,
    num_waiting: usize,
}

impl Batcher {
    /// Batches of at most `batch_size` samples.
    pub fn new(batch_size: usize) -> Self {
        Batcher { batch_size: batch_size.max(1), waiting: VecDeque::new(), num_waiting: 0 }
    }

    /// Takes a sample; gives a batch when one is full or the look-ahead is used up.
    pub fn push(&mut self, sample: DecodedSample) -> Option<InputBatch> {
        let shape = (sample.height, sample.width);
        self.num_waiting += 1;
        let index = match self.waiting.iter().position(|(waiting, _)| *waiting == shape) {
            Some(index) => index,
            None => {
                self.waiting.push_back((shape, Vec::with_capacity(self.batch_size)));
                self.waiting.len() - 1
            }
        };
        self.waiting[index].1.push(sample);
        if self.waiting[index].1.len() >= self.batch_size {
            return self.take(index);
        }
        if self.num_waiting >= self.batch_size * LOOK_AHEAD_BATCHES { self.take(0) } else { None }
    }

    /// What is left, oldest first; `None` when nothing is.
    pub fn flush(&mut self) -> Option<InputBatch> {
        self.take(0)
    }

    fn take(&mut self, index: usize) -> Option<InputBatch> {
        let ((height, width), mut samples) = self.waiting.remove(index)?;
        self.num_waiting -= samples.len();
        let pixels = if let [only] = &mut samples[..] {
            std::mem::take(&mut only.pixels)
        } else {
            let mut pixels = Vec::with_capacity(samples.len() * 3 * height * width);
            for sample in &mut samples {
                pixels.append(&mut std::mem::take(&mut sample.pixels));
            }
            pixels
        };
        Some(InputBatch { samples, pixels, height, width })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        media::FrameRegion,
        pipeline::{Fingerprint, SampleRef},
    };

    fn sample(seq: u64, height: usize, width: usize) -> DecodedSample {
        DecodedSample {
            sample: SampleRef { seq, id: format!("{seq:024x}"), media_path: "a.jpg".into() },
            pixels: vec![seq as f32; 3 * height * width],
            height,
            width,
            region: FrameRegion {
                image_height: height,
                image_width: width,
                frame_height: height,
                frame_width: width,
                top: 0,
                left: 0,
            },
            targets: Vec::new(),
            fingerprint: Fingerprint::of_job("test"),
            existing: Vec::new(),
        }
    }

    #[test]
    fn shapes_do_not_mix_and_pixels_follow_their_samples() {
        let mut batcher = Batcher::new(2);
        assert!(batcher.push(sample(0, 1, 2)).is_none());
        assert!(batcher.push(sample(1, 2, 1)).is_none());
        let batch = batcher.push(sample(2, 1, 2)).expect("a full batch");
        assert_eq!((batch.height, batch.width), (1, 2));
        assert_eq!(batch.samples.iter().map(|s| s.sample.seq).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(batch.pixels, [[0.0; 6], [2.0; 6]].concat());
        assert_eq!(batcher.flush().expect("the rest").samples[0].sample.seq, 1);
        assert!(batcher.flush().is_none());
    }

    #[test]
    fn a_lone_shape_goes_out_when_the_look_ahead_is_used_up() {
        let mut batcher = Batcher::new(2);
        let mut out = Vec::new();
        for seq in 0..(2 * LOOK_AHEAD_BATCHES as u64) {
            out.extend(batcher.push(sample(seq, 1 + seq as usize, 1)));
        }
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].samples[0].sample.seq, 0, "the oldest goes first");
    }
}
