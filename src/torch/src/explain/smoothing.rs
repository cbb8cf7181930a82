//! Smoothing over variants of the image, as pytorch_grad_cam's `aug_smooth`.

use tch::{TchError, Tensor};

use camflow_media::BinaryMask;
use camflow_pipeline::{ClassTarget, Misclassified, TargetPixels};

/// A variant of the image for smoothing: mirrored or not, times a factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Variant {
    mirrored: bool,
    factor: f64,
}

/// The image as it is comes first: it decides what is explained.
pub(super) const PLAIN: Variant = Variant { mirrored: false, factor: 1.0 };

pub(super) const SMOOTHING: [Variant; 6] = [
    PLAIN,
    Variant { mirrored: false, factor: 0.9 },
    Variant { mirrored: false, factor: 1.1 },
    Variant { mirrored: true, factor: 0.9 },
    Variant { mirrored: true, factor: 1.0 },
    Variant { mirrored: true, factor: 1.1 },
];

impl Variant {
    /// The input `[N, 3, H, W]` in this variant.
    pub(super) fn of_input(self, input: &Tensor) -> Result<Tensor, TchError> {
        let input = if self.mirrored { input.f_flip([3i64])? } else { input.shallow_clone() };
        if self.factor == 1.0 { Ok(input) } else { input.f_mul_scalar(self.factor) }
    }

    /// The target in this variant: what is marked in the image moves with it.
    pub(super) fn of_target(self, target: &ClassTarget) -> ClassTarget {
        let pixels = match &target.pixels {
            TargetPixels::Mask(mask) => TargetPixels::Mask(self.of_mask(mask)),
            TargetPixels::Boxes(boxes) if self.mirrored => TargetPixels::Boxes(
                boxes.iter().map(|&[left, top, right, bottom]| [1.0 - right, top, 1.0 - left, bottom]).collect(),
            ),
            TargetPixels::Point { y, x } if self.mirrored => TargetPixels::Point { y: *y, x: 1.0 - *x },
            // The image as it is was misclassified, whatever becomes of its variants.
            TargetPixels::Wrong(Misclassified { less, .. }) => {
                TargetPixels::Wrong(Misclassified { own: Vec::new(), less: *less })
            }
            pixels => pixels.clone(),
        };
        ClassTarget { class: target.class, channel: target.channel, pixels, detection: target.detection.clone() }
    }

    /// What is marked in the image, in this variant.
    pub(super) fn of_mask(self, mask: &BinaryMask) -> BinaryMask {
        if self.mirrored { mask.mirrored() } else { mask.clone() }
    }

    /// A map `[1, H, W]` of this variant, laid over the image as it is.
    pub(super) fn undo(self, map: Tensor) -> Result<Tensor, TchError> {
        if self.mirrored { map.f_flip([2i64]) } else { Ok(map) }
    }
}
