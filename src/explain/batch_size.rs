//! How large batches may be: as large as makes the device faster, and no larger than fits into its memory.

use tch::Device;

use super::TorchExplainer;
use crate::{
    pipeline::BatchLimit,
    program::{device_name, free_bytes, peak_bytes},
};

/// Pixels that keep a CPU's cores busy: larger batches are no faster there (see `benches/RESULTS.md`).
const CPU_PIXELS: usize = 520 * 693;

/// Likewise for a GPU, in samples; more only adds to what is lost when a run is stopped.
const MAX_SAMPLES: usize = 32;

/// The part of the free memory that a batch may take. The rest is for what the meter does not see: the libraries' workspaces,
/// memory that is free but scattered, other programs.
const USABLE: f64 = 0.5;

/// What the first batch took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footprint {
    /// Bytes per pixel of input; `None` where libtorch cannot tell.
    per_pixel: Option<f64>,
    /// Bytes that were free before it; `None` where the system does not say.
    free: Option<u64>,
}

impl TorchExplainer {
    /// Explains the first batch, and takes down what memory that needs: what is done is the only trial of what will be.
    pub(super) fn measure(&mut self, num_pixels: usize, explain: impl FnOnce(&mut Self)) {
        let device = device_name(self.plan.device());
        let free = free_bytes(&device);
        let ((), peak) = peak_bytes(&device, || explain(self));
        self.footprint = Some(Footprint { per_pixel: peak.map(|peak| peak as f64 / num_pixels.max(1) as f64), free });
    }

    /// One sample until something is known, and where memory cannot be measured.
    pub(super) fn limit(&self) -> BatchLimit {
        let wanted = if self.plan.device() == Device::Cpu { CPU_PIXELS } else { usize::MAX };
        match self.footprint {
            Some(Footprint { per_pixel: Some(per_pixel), free: Some(free) }) => {
                let usable = free as f64 * USABLE / self.num_sharing as f64;
                let fitting = (usable / per_pixel.max(1.0)) as usize;
                BatchLimit { samples: MAX_SAMPLES.min(self.max_batch), pixels: fitting.min(wanted) }
            }
            _ => BatchLimit::samples(1),
        }
    }
}
