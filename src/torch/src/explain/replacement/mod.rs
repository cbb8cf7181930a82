//! What takes the place of the pixels of images that the model is asked about.

mod imputation;

use tch::{Kind, TchError, Tensor};

use crate::program::send;
use camflow_names::Choice;
pub(super) use imputation::impute;

/// Deviation of the blur, by the smaller side of the input: that of Fong and Vedaldi, *Interpretable Explanations of Black Boxes by
/// Meaningful Perturbation* (2017), <https://arxiv.org/abs/1704.03296>, who have 10 for 224 pixels.
const BLUR: f64 = 10.0 / 224.0;
/// Its width to each side, in deviations.
const BLUR_WIDTH: f64 = 3.0;

/// What takes the place of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// The image without its details.
    Blur,
    /// The mean of the pixels that stay.
    Mean,
    /// A smooth continuation of the pixels that stay: each is the weighted mean of its neighbours, as in ROAD.
    Impute,
}

impl Choice for Replacement {
    const ALL: &'static [Self] = &[Replacement::Blur, Replacement::Mean, Replacement::Impute];

    fn name(self) -> &'static str {
        match self {
            Replacement::Blur => "blur",
            Replacement::Mean => "mean",
            Replacement::Impute => "impute",
        }
    }
}

impl Replacement {
    /// The images `[B, C, H, W]` with the pixels of `replaced` (bool `[B, 1, H, W]`) replaced; some must stay. What `seen`, alike, leaves
    /// out shows no image, so that nothing is made of it.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say.
    pub(super) fn apply(self, images: &Tensor, replaced: &Tensor, seen: Option<&Tensor>) -> Result<Tensor, TchError> {
        let stays = replaced.f_logical_not()?;
        let stays = seen.map_or_else(|| Ok(stays.shallow_clone()), |seen| stays.f_logical_and(seen))?;
        let mean = || {
            let sum = |values: &Tensor| values.f_sum_dim_intlist([2i64, 3].as_slice(), true, Kind::Float);
            sum(&images.f_mul(&stays)?)?.f_div(&sum(&stays)?)?.f_to_kind(images.kind())
        };
        let new = match (self, seen) {
            (Replacement::Blur, None) => blurred(images, BLUR, BLUR_WIDTH)?,
            (Replacement::Blur, Some(seen)) => {
                let weights = blurred(&seen.f_to_kind(images.kind())?, BLUR, BLUR_WIDTH)?;
                blurred(&images.f_mul(seen)?, BLUR, BLUR_WIDTH)?.f_div(&weights)?
            }
            (Replacement::Mean, _) => mean()?,
            (Replacement::Impute, _) => {
                // From the mean on: what all pixels have in common need not be carried over large distances.
                let mean = mean()?;
                impute(&images.f_sub(&mean)?, &stays.f_logical_not()?)?.f_add(&mean)?
            }
        };
        new.f_where_self(replaced, images)
    }
}

/// Images `[B, C, H, W]` without details, by a Gaussian of a deviation that is this share of their smaller side and so many deviations
/// wide to each side. The border goes on outside, where RISE has zeros.
pub(super) fn blurred(image: &Tensor, share: f64, width_in_deviations: f64) -> Result<Tensor, TchError> {
    let (_, channels, height, width) = image.size4()?;
    let deviation = share * height.min(width) as f64;
    let radius = (width_in_deviations * deviation).round().max(1.0) as i64;
    let weights: Vec<f32> =
        (-radius..=radius).map(|offset| (-(offset * offset) as f64 / (2.0 * deviation * deviation)).exp() as f32).collect();
    let weights = send(&weights, &[weights.len() as i64], image.device())?;
    let weights = weights.f_div(&weights.f_sum(None::<Kind>)?)?;
    let length = 2 * radius + 1;
    let along = |image: &Tensor, size: [i64; 2], pad: [i64; 4]| {
        let weights = weights.f_expand([channels, length], false)?.f_reshape([channels, 1, size[0], size[1]])?;
        image.f_replication_pad2d(pad)?.f_conv2d(&weights, None::<Tensor>, 1, 0, 1, channels)
    };
    along(&along(image, [length, 1], [0, 0, radius, radius])?, [1, length], [radius, radius, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blurring_keeps_what_is_even_up_to_the_border() {
        let even = Tensor::full([1, 3, 30, 60], 2.0, tch::kind::FLOAT_CPU);
        assert!(blurred(&even, 5.0 / 224.0, 1.0).expect("blurred").allclose(&even, 1e-5, 0.0, false));
        let point = Tensor::zeros([1, 3, 224, 224], tch::kind::FLOAT_CPU);
        let _ = point.get(0).get(1).get(100).get(100).fill_(1.0);
        let spread = blurred(&point, 5.0 / 224.0, 1.0).expect("blurred");
        assert_eq!(spread.count_nonzero(None).int64_value(&[]), 11 * 11, "as RISE has it");
        assert!((spread.sum(None::<Kind>).double_value(&[]) - 1.0).abs() < 1e-5);
    }

    #[test]
    fn what_stays_stays_and_what_is_replaced_is_made_of_it() {
        tch::manual_seed(1);
        let image = Tensor::randn([1, 3, 24, 32], tch::kind::FLOAT_CPU);
        let replaced = Tensor::zeros([1, 1, 24, 32], (Kind::Bool, tch::Device::Cpu));
        let _ = replaced.narrow(2, 4, 10).narrow(3, 5, 12).fill_(1);
        for replacement in Replacement::ALL {
            let new = replacement.apply(&image, &replaced, None).expect("replaced");
            let is_same = new.eq_tensor(&image).logical_or(&replaced);
            assert!(bool::try_from(is_same.all()).expect("a bool"), "{replacement:?}");
            let changed = new.ne_tensor(&image).sum(Kind::Int64).int64_value(&[]);
            assert_eq!(changed, 3 * 10 * 12, "{replacement:?}");
        }
        // The first columns are a border of another colour, and no part of the image.
        let seen = Tensor::ones([1, 1, 24, 32], (Kind::Bool, tch::Device::Cpu));
        let _ = seen.narrow(3, 0, 5).fill_(0);
        let even = Tensor::full([1, 3, 24, 32], 2.0, tch::kind::FLOAT_CPU);
        let bordered = even.where_self(&seen, &Tensor::full([1, 3, 24, 32], -50.0, tch::kind::FLOAT_CPU));
        for replacement in Replacement::ALL {
            let new = replacement.apply(&bordered, &replaced, Some(&seen)).expect("replaced");
            assert!(new.allclose(&bordered, 1e-4, 1e-4, false), "{replacement:?} takes the border for image");
        }
    }

    #[test]
    fn a_background_is_continued_from_a_very_small_object() {
        let image = Tensor::zeros([1, 3, 230, 300], tch::kind::FLOAT_CPU);
        let object = Tensor::zeros([1, 1, 230, 300], (Kind::Bool, tch::Device::Cpu));
        let _ = object.narrow(2, 100, 2).narrow(3, 40, 3).fill_(1);
        let image = image.masked_fill(&object, 1.5);
        let new = Replacement::Impute.apply(&image, &object.logical_not(), None).expect("replaced");
        let apart = (new - 1.5).abs().max().double_value(&[]);
        assert!(apart < 0.05, "{apart}");
    }
}
