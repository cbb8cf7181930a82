//! How large batches may be: as large as makes the device faster, and no larger than fits into its memory.

use tch::{Device, Kind, Tensor};
use typed_index_collections::TiSlice;

use super::{ExplainError, TorchExplainer};
use crate::program::{device_name, free_bytes, peak_bytes};
use camflow_media::BinaryMask;
use camflow_pipeline::{BatchLimit, Channel, ClassIndex, ClassTarget, TargetPixels};

/// Pixels that keep a CPU's cores busy: larger batches are no faster there (see `benches/RESULTS.md`).
const CPU_PIXELS: usize = 520 * 693;

/// Likewise for a GPU: 32 images of that size; more only adds to what is lost when a run is stopped. Of small images it takes more,
/// as a kernel ends before the next one is launched otherwise.
const GPU_PIXELS: usize = 32 * CPU_PIXELS;

/// Samples in a batch, whatever their size.
const fn max_samples(device: Device) -> usize {
    match device {
        Device::Cpu => 32,
        _ => 256,
    }
}

/// The part of the free memory that a batch may take. The rest is for what the meter does not see: the libraries' workspaces,
/// memory that is free but scattered, other programs.
const USABLE: f64 = 0.5;

/// Images up to this size are run without asking for the free memory.
const UNQUESTIONED_PIXELS: usize = 1 << 22;

/// Sides of a small image: what a run takes grows with the image's area.
const SMALL_SIDE: i64 = 128;

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
    pub(super) fn measure<T>(&mut self, num_pixels: usize, explain: impl FnOnce(&mut Self) -> T) -> T {
        let device = device_name(self.plan.device());
        let free = free_bytes(&device);
        let (explained, peak) = peak_bytes(&device, || explain(self));
        self.footprint = Some(Footprint { per_pixel: peak.map(|peak| peak as f64 / num_pixels.max(1) as f64), free });
        explained
    }

    /// One sample until something is known, and where memory cannot be measured.
    pub(super) fn limit(&self) -> BatchLimit {
        let device = self.plan.device();
        let wanted = if device == Device::Cpu { CPU_PIXELS } else { GPU_PIXELS };
        match self.footprint {
            Some(Footprint { per_pixel: Some(per_pixel), free: Some(free) }) => {
                let usable = free as f64 * USABLE / self.num_sharing as f64;
                let fitting = (usable / per_pixel.max(1.0)) as usize;
                BatchLimit { samples: max_samples(device).min(self.max_batch), pixels: fitting.min(wanted) }
            }
            _ => BatchLimit::samples(1),
        }
    }

    /// Why an image of this size is not even tried. A GPU refuses memory that it does not have, but a system that promises more
    /// than it has ends the whole process when the memory is used.
    pub(super) fn too_large(&self, height: usize, width: usize) -> Option<String> {
        if height * width <= UNQUESTIONED_PIXELS || self.plan.device() != Device::Cpu {
            return None;
        }
        let per_pixel = match self.footprint {
            Some(Footprint { per_pixel: Some(per_pixel), .. }) => per_pixel,
            _ => {
                let (result, peak) = peak_bytes("cpu", || self.explain_small());
                result.ok().and(peak)? as f64 / (SMALL_SIDE * SMALL_SIDE) as f64
            }
        };
        let (wanted, free) = (per_pixel * (height * width) as f64, free_bytes("cpu")? as f64);
        let gigabytes = |bytes: f64| bytes / f64::from(1 << 30);
        (wanted > free).then(|| {
            format!(
                "the model would see it as {height} x {width} pixels, which takes about {:.0} GiB of memory; {:.0} GiB are free: `--slice-height 1024` takes it in slices",
                gigabytes(wanted),
                gigabytes(free)
            )
        })
    }

    /// Explains a small black image, all pixels of the first channel.
    fn explain_small(&self) -> Result<(), ExplainError> {
        let input = Tensor::f_zeros([1, self.uploader.channels, SMALL_SIDE, SMALL_SIDE], (Kind::Float, Device::Cpu))?;
        let pixels = TargetPixels::Mask(BinaryMask { height: 1, width: 1, pixels: vec![1] });
        let target = ClassTarget { class: ClassIndex(0), channel: Channel::Index(0), pixels, detection: None };
        let (targets, shown) = ([vec![target]], [None]);
        self.saliencies(&input, &[String::new()], TiSlice::from_ref(&targets), TiSlice::from_ref(&shown)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_images_fill_a_gpu_by_their_pixels() {
        let limit = |device, pixels| BatchLimit { samples: max_samples(device), pixels };
        assert_eq!(limit(Device::Cuda(0), GPU_PIXELS).of_shape(520, 693), 32);
        assert_eq!(limit(Device::Cuda(0), GPU_PIXELS).of_shape(224, 224), 229);
        assert_eq!(limit(Device::Cpu, CPU_PIXELS).of_shape(64, 64), 32);
    }
}
