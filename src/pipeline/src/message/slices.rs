//! An image that goes through the model in slices, and what is explained in each of them.

use super::target::{Channel, TargetPixels};
use crate::grid::ClassIndex;
use camflow_media::{FrameRegion, LargeTurn, MediaError, ModelInput, PackedMask, Preprocess, Slicing, SourceImage, Window};

/// The least part of a box, along each side, that makes it a box of a slice: what is less is a sliver that no detector finds.
const LEAST_PART: f64 = 0.1;

/// An image that is larger than a slice, at its own resolution.
#[derive(Debug)]
pub struct SlicedImage {
    /// The image.
    pub image: SourceImage,
    /// How it is cut.
    pub slicing: Slicing,
    /// The model's own, which each slice goes through as an image of its own.
    pub preprocess: Preprocess,
    /// Where the model's input lies in a slice; the same for all of them.
    pub region: FrameRegion,
    /// Rows and columns of that input.
    pub input: (usize, usize),
    /// The classes found in the sample's label; never empty.
    pub targets: Vec<SlicedTarget>,
    /// That of a large picture, as long as it is in memory.
    pub turn: Option<LargeTurn>,
}

impl SlicedImage {
    /// An image that is cut, with what is explained of it.
    ///
    /// # Errors
    /// The preprocessing cannot make anything of a slice: what is wrong with the size of one is wrong with all of them.
    pub fn new(
        image: SourceImage,
        slicing: Slicing,
        preprocess: &Preprocess,
        targets: Vec<SlicedTarget>,
        turn: Option<LargeTurn>,
    ) -> Result<Self, MediaError> {
        let (height, width) = slicing.slice_size(image.size().0, image.size().1);
        let first = preprocess.apply_to(&image.window(Window { top: 0, left: 0, height, width }))?;
        let (region, input) = (first.region, (first.height, first.width));
        Ok(SlicedImage { image, slicing, preprocess: preprocess.clone(), region, input, targets, turn })
    }

    /// A slice as the model sees it.
    ///
    /// # Errors
    /// The preprocessing fails.
    pub fn input(&self, window: Window) -> Result<ModelInput, MediaError> {
        self.preprocess.apply_to(&self.image.window(window))
    }
}

/// One class of an image in slices.
#[derive(Clone, Debug, PartialEq)]
pub struct SlicedTarget {
    /// Which class.
    pub class: ClassIndex,
    /// What is explained.
    pub channel: Channel,
    /// Where, in the whole image.
    pub place: SlicedPlace,
}

/// Where a class is in an image that goes through the model in slices.
#[derive(Clone, Debug, PartialEq)]
pub enum SlicedPlace {
    /// At the pixels of a mask over the whole image.
    Mask(PackedMask),
    /// Of a detector: at these boxes, left, top, width and height in fractions of the image's sides.
    Boxes(Vec<[f64; 4]>),
    /// At a pixel of the image.
    Pixel {
        /// Column.
        x: usize,
        /// Row.
        y: usize,
    },
    /// Where the model puts it, in every slice.
    Predicted,
    /// Likewise, of a class that the label says is there.
    Labelled,
}

impl SlicedPlace {
    /// Its pixels in what the model sees of a slice of an image of `image` rows and columns; `None` where it has none there.
    pub fn in_slice(
        &self,
        window: Window,
        image: (usize, usize),
        region: &FrameRegion,
        (height, width): (usize, usize),
    ) -> Option<TargetPixels> {
        Some(match self {
            SlicedPlace::Mask(mask) => {
                let mask = mask.window(window, image).on_input(region, height, width);
                TargetPixels::Mask(Some(mask).filter(|mask| mask.count() > 0)?)
            }
            SlicedPlace::Boxes(boxes) => {
                let in_slice = boxes.iter().map(|bounds| window.place_box(*bounds, image)).filter(|bounds| is_of(*bounds));
                let boxes: Vec<[f64; 4]> = in_slice.filter_map(|bounds| region.place_box(bounds, (height, width))).collect();
                TargetPixels::Boxes(Some(boxes).filter(|boxes| !boxes.is_empty())?)
            }
            SlicedPlace::Pixel { x, y } => {
                let (row, column) = (y.checked_sub(window.top)?, x.checked_sub(window.left)?);
                let (y, x) = region.place(row, column, height, width).ok()?;
                TargetPixels::Point { y, x }
            }
            SlicedPlace::Predicted => TargetPixels::Predicted,
            SlicedPlace::Labelled => TargetPixels::Labelled,
        })
    }
}

/// Whether a box, in fractions of a slice's sides, is one of the slice: along each side enough of it lies there, or it covers half of
/// the side. Every box is one of some slice.
fn is_of([left, top, width, height]: [f64; 4]) -> bool {
    let is_along = |from: f64, length: f64| {
        let inside = (from + length).min(1.0) - from.max(0.0);
        inside > 0.0 && (inside >= LEAST_PART * length || inside >= 0.5)
    };
    is_along(left, width) && is_along(top, height)
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_media::BinaryMask;

    const IMAGE: (usize, usize) = (4, 8);
    const LEFT: Window = Window { top: 0, left: 0, height: 4, width: 4 };
    const RIGHT: Window = Window { top: 0, left: 4, height: 4, width: 4 };

    fn in_slices(place: &SlicedPlace) -> [Option<TargetPixels>; 2] {
        [LEFT, RIGHT].map(|window| place.in_slice(window, IMAGE, &FrameRegion::whole(4, 4), (4, 4)))
    }

    #[test]
    fn a_mask_is_cut_at_the_border_of_slices() {
        let mut mask = BinaryMask::empty(4, 8);
        (mask.pixels[3], mask.pixels[4], mask.pixels[5]) = (1, 1, 1);
        let [Some(TargetPixels::Mask(left)), Some(TargetPixels::Mask(right))] =
            in_slices(&SlicedPlace::Mask(PackedMask::of(&mask)))
        else {
            panic!("a mask in both")
        };
        assert_eq!((left.pixels[..4].to_vec(), right.pixels[..4].to_vec()), (vec![0, 0, 0, 1], vec![1, 1, 0, 0]));
        mask.pixels[3] = 0;
        assert!(matches!(in_slices(&SlicedPlace::Mask(PackedMask::of(&mask))), [None, Some(_)]));
    }

    #[test]
    fn a_box_belongs_to_the_slices_that_have_enough_of_it() {
        let both = SlicedPlace::Boxes(vec![[0.25, 0.0, 0.5, 1.0]]);
        assert_eq!(
            in_slices(&both),
            [Some(TargetPixels::Boxes(vec![[0.5, 0.0, 1.0, 1.0]])), Some(TargetPixels::Boxes(vec![[0.0, 0.0, 0.5, 1.0]]))]
        );
        assert!(matches!(in_slices(&SlicedPlace::Boxes(vec![[0.48, 0.0, 0.5, 1.0]])), [None, Some(_)]));
        // It fills a slice which is a small part of it, or crosses it.
        assert!(is_of([-10.0, -10.0, 20.0, 20.0]) && is_of([-10.0, 0.4, 20.0, 0.01]));
        assert!(!is_of([-1.0, 0.4, 1.05, 0.2]) && !is_of([1.0, 0.0, 1.0, 1.0]));
    }

    #[test]
    fn a_pixel_is_in_the_slices_that_show_it() {
        let found = in_slices(&SlicedPlace::Pixel { x: 5, y: 2 });
        assert_eq!(found, [None, Some(TargetPixels::Point { y: 0.625, x: 0.375 })]);
    }
}
