//! How large batches may be: as large as makes the device faster, and no larger than fits into its memory.

use tch::{Device, Kind, Tensor};

use super::{ExplainError, TorchExplainer};
use crate::{
    media::BinaryMask,
    pipeline::{BatchLimit, Channel, ClassTarget, TargetPixels},
    program::{Dynamic, InputInfo, device_name, free_bytes, peak_bytes},
};

/// Pixels that keep a CPU's cores busy: larger batches are no faster there (see `benches/RESULTS.md`).
const CPU_PIXELS: usize = 520 * 693;

/// Likewise for a GPU, in samples; more only adds to what is lost when a run is stopped.
const MAX_SAMPLES: usize = 32;

/// The part of the free memory that a batch may take. The rest is for what the trial does not see: the libraries' workspaces,
/// memory that is free but scattered, other programs.
const USABLE: f64 = 0.5;

/// Sides of the image of the trial, where the model takes any size: what a run takes grows with the image's area.
const TRIAL_SIDE: i64 = 128;

impl TorchExplainer {
    /// A limit for batches that `num_sharing` explainers on devices of this kind keep to at once, by a trial on a black image.
    /// Where memory cannot be measured it is one sample.
    pub fn batch_limit(&self, input: &InputInfo, num_sharing: usize) -> BatchLimit {
        let wanted = if self.plan.device() == Device::Cpu { CPU_PIXELS } else { usize::MAX };
        BatchLimit { samples: MAX_SAMPLES, pixels: self.fitting_pixels(input, num_sharing).unwrap_or(0).min(wanted) }
    }

    /// Pixels of input that fit into memory.
    fn fitting_pixels(&self, input: &InputInfo, num_sharing: usize) -> Option<usize> {
        let [_, _, height, width] = input.example[..] else { return None };
        let (height, width) =
            if input.dynamic == Dynamic::Bhw { (height.min(TRIAL_SIDE), width.min(TRIAL_SIDE)) } else { (height, width) };
        let device = device_name(self.plan.device());
        let (result, peak) = peak_bytes(&device, || self.trial(height, width));
        let per_pixel = result.ok().and(peak)? as f64 / (height * width) as f64;
        let free = free_bytes(&device)? as f64 * USABLE / num_sharing.max(1) as f64;
        Some((free / per_pixel.max(1.0)) as usize)
    }

    /// Explains a black image, all pixels of the first channel.
    fn trial(&self, height: i64, width: i64) -> Result<(), ExplainError> {
        let input = Tensor::f_zeros([1, 3, height, width], (Kind::Float, Device::Cpu))?;
        let pixels = TargetPixels::Mask(BinaryMask { height: 1, width: 1, pixels: vec![1] });
        let target = ClassTarget { class: 0, channel: Channel::Index(0), pixels };
        self.saliencies(&input, &[String::new()], &[vec![target]]).map(drop)
    }
}
