//! Whether and how large images are cut into slices, in sahi's words, and what does not go with that.

use std::{fmt, num::NonZeroUsize, str::FromStr};

use camflow_media::{ImageLimits, Slicing};
use camflow_names::{Choice, backticked};
use camflow_torch::explain::Method;

use crate::job::TargetSpec;

/// The part of a slice that the next one shares, in `[0, 0.9]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OverlapRatio(f64);

impl Default for OverlapRatio {
    fn default() -> Self {
        OverlapRatio(0.2)
    }
}

impl FromStr for OverlapRatio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(ratio) if (0.0..=0.9).contains(&ratio) => Ok(OverlapRatio(ratio)),
            _ => Err("it is a number from 0 to 0.9".to_owned()),
        }
    }
}

impl fmt::Display for OverlapRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What is asked of slices; what the fields mean is said at [`JobSpec`](super::JobSpec).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "said at `JobSpec`")]
pub struct SliceSpec {
    pub height: Option<NonZeroUsize>,
    pub width: Option<NonZeroUsize>,
    pub overlap_height: OverlapRatio,
    pub overlap_width: OverlapRatio,
}

/// Methods whose maps of several slices are on one scale: sums over channels of activations and gradients.
const METHODS: [Method; 8] = [
    Method::Gradcam,
    Method::GradcamPlusPlus,
    Method::GradcamElementwise,
    Method::Xgradcam,
    Method::Hirescam,
    Method::Layercam,
    Method::Eigencam,
    Method::Eigengradcam,
];

/// What else is asked, as far as slices mind.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// The target.
    pub target: &'a TargetSpec,
    /// Methods.
    pub methods: &'a [Method],
    /// The layers that were named.
    pub layers: &'a [String],
    /// `--aug-smooth`.
    pub aug_smooth: bool,
    /// `--per-detection`.
    pub per_detection: bool,
    /// `--faithfulness`.
    pub faithfulness: bool,
    /// `--counterfactuals`.
    pub counterfactuals: bool,
}

impl SliceSpec {
    /// How images are cut; `None`: they are not.
    pub fn slicing(&self) -> Option<Slicing> {
        // One of the sizes alone means a square.
        let height = self.height.or(self.width)?.get();
        let width = self.width.or(self.height)?.get();
        Some(Slicing { height, width, overlap_height: self.overlap_height.0, overlap_width: self.overlap_width.0 })
    }

    /// How large images may be: those in slices are in memory as they are decoded and as nothing else, and one at a time.
    pub fn limits(&self) -> ImageLimits {
        match self.slicing() {
            None => ImageLimits::default(),
            Some(_) => ImageLimits { max_pixels: ImageLimits::IN_SLICES, ..ImageLimits::default() },
        }
    }

    /// What fingerprints have for it; nothing where images are not cut.
    pub(crate) fn setting(&self) -> Option<(&'static str, String)> {
        let Slicing { height, width, overlap_height, overlap_width } = self.slicing()?;
        Some(("slices", format!("{height}x{width} overlap {overlap_height} {overlap_width}")))
    }

    /// What does not go with slices, with what to do.
    pub fn problems(&self, beside: Beside<'_>) -> Vec<String> {
        let Beside { target, methods, layers, aug_smooth, per_detection, faithfulness, counterfactuals } = beside;
        if self.slicing().is_none() {
            let is_given = self.overlap_height != OverlapRatio::default() || self.overlap_width != OverlapRatio::default();
            let text = "`overlap-height-ratio` and `overlap-width-ratio` do nothing without slices: give `slice-height` or `slice-width`";
            return is_given.then(|| text.to_owned()).into_iter().collect();
        }
        let others: Vec<&str> = methods.iter().filter(|method| !METHODS.contains(method)).map(|method| method.name()).collect();
        let of_target = match target {
            TargetSpec::Top => Some(
                "`target = top` is one class for the whole image, and each slice has its own: name the class with `class`, and leave out `target` or take `predicted`",
            ),
            TargetSpec::Wrong(_) => Some(
                "`target = wrong` is about what is predicted for whole images, and each slice has a prediction of its own: leave out `slice-height` and `slice-width`",
            ),
            TargetSpec::Similar(_) => Some(
                "a similarity (`target = similar…`) is one of whole images, and slices have their own: leave out `slice-height` and `slice-width`",
            ),
            _ => None,
        };
        let wrong = |is_wrong: bool, text: &str| is_wrong.then(|| text.to_owned());
        let found = [
            of_target.map(str::to_owned),
            (!others.is_empty()).then(|| {
                format!(
                    "{} cannot be put together of slices: its maps of two slices are not on one scale; take one of {}",
                    backticked(others.iter().copied()),
                    backticked(METHODS.map(Choice::name))
                )
            }),
            wrong(
                layers.iter().any(|layer| layer == "auto"),
                "`layers = auto` asks the model about changed images, which is not done in slices: name the layers",
            ),
            wrong(
                aug_smooth,
                "`aug-smooth` is a mean of scaled heatmaps, and slices are put together before they are scaled: leave one of them out",
            ),
            wrong(
                per_detection,
                "`per-detection` has a heatmap for each object, and slices one of the whole image for each class: leave one of them out",
            ),
            wrong(
                faithfulness,
                "`faithfulness` asks the model about the whole image, and slices are of images that it cannot see at once: leave one of them out",
            ),
            wrong(
                counterfactuals,
                "`counterfactuals` asks the model about the whole image, and slices are of images that it cannot see at once: leave one of them out",
            ),
        ];
        found.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_size_alone_is_a_square_and_none_cuts_nothing() {
        let side = NonZeroUsize::new(512);
        let slicing = |height, width| SliceSpec { height, width, ..SliceSpec::default() }.slicing();
        assert_eq!(slicing(None, None), None);
        let square = Some(Slicing { height: 512, width: 512, overlap_height: 0.2, overlap_width: 0.2 });
        assert_eq!([slicing(side, None), slicing(None, side)], [square, square]);
        assert_eq!(slicing(side, NonZeroUsize::new(256)).map(|slicing| slicing.width), Some(256));
        assert!(["0", "0.25", "0.9"].iter().all(|ratio| ratio.parse::<OverlapRatio>().is_ok()));
        assert!(["-0.1", "1", "nan", "a"].iter().all(|ratio| ratio.parse::<OverlapRatio>().is_err()));
    }
}
