//! The mask of one object, which is stretched over its box: bytes, as FiftyOne's `to_segmentation` takes it.

use std::path::Path;

use super::{
    array::{Array, ArrayValues, inflate_array, inflates_to_bool},
    error::MediaError,
    geometry::MaskValue,
    image::ImageLimits,
    mask::LabelMask,
};

/// An instance's mask. FiftyOne interpolates the bytes and takes what is not 0, so that a mask of 255s reaches further than one
/// of 1s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceMask {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// u8 `[height, width]`, row by row.
    pub pixels: Vec<u8>,
}

impl InstanceMask {
    /// Takes an array of numbers; of integers the low byte counts, as in FiftyOne. An RGB mask, which FiftyOne does not draw, is
    /// 255 where it is not black.
    ///
    /// # Errors
    /// As for [`LabelMask::from_array`], or it holds fractions, or numbers whose low byte is 0, of which FiftyOne would draw nothing.
    pub fn from_array(array: Array) -> Result<Self, MediaError> {
        if let Some(fraction) = first_fraction(&array.values) {
            return Err(MediaError::mask(format!(
                "of its object it holds {fraction}; FiftyOne's `to_segmentation` cuts that to {:.0}, its App shows all above 0: \
                 store `mask > 0.5`, or another threshold, instead",
                fraction.trunc()
            )));
        }
        Self::of(LabelMask::from_array(array)?)
    }

    /// Takes a mask from a document.
    ///
    /// # Errors
    /// As for [`LabelMask::inflate`] and [`InstanceMask::from_array`].
    pub fn inflate(bytes: &[u8], limits: &ImageLimits) -> Result<Self, MediaError> {
        Self::from_array(inflate_array(bytes, limits.array_bytes())?).and_then(|mask| {
            limits.check_mask(mask.height, mask.width)?;
            Ok(mask)
        })
    }

    /// Reads a mask file.
    ///
    /// # Errors
    /// As for [`LabelMask::read`] and [`InstanceMask::from_array`].
    pub fn read(path: &Path, limits: &ImageLimits) -> Result<Self, MediaError> {
        Self::of(LabelMask::read(path, limits)?)
    }

    /// Reads a mask from the content of its file; the path is for errors.
    ///
    /// # Errors
    /// As for [`LabelMask::parse`] and [`InstanceMask::from_array`].
    pub fn parse(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<Self, MediaError> {
        Self::of(LabelMask::parse(path, bytes, limits)?)
    }

    /// Whether a mask in a document holds other values than 0 and 1. One that cannot be read does not.
    pub fn is_beyond_one(bytes: &[u8], limits: &ImageLimits) -> bool {
        // Most masks are of type bool, which their first bytes say.
        !inflates_to_bool(bytes) && Self::inflate(bytes, limits).is_ok_and(|mask| mask.pixels.iter().any(|pixel| *pixel > 1))
    }

    fn of(mask: LabelMask) -> Result<Self, MediaError> {
        let (height, width) = (mask.height, mask.width);
        let lost = |value: MaskValue| {
            MediaError::mask(format!("of its object it holds {value}, which FiftyOne cuts to its low byte, 0: store 255 instead"))
        };
        Ok(InstanceMask { height, width, pixels: mask.into_bytes().map_err(lost)? })
    }
}

/// The first value that is no whole number.
fn first_fraction(values: &ArrayValues) -> Option<f64> {
    let is_fraction = |value: &f64| value.is_finite() && value.fract() != 0.0;
    match values {
        ArrayValues::F16(values) | ArrayValues::F32(values) => values.iter().copied().map(f64::from).find(is_fraction),
        ArrayValues::F64(values) => values.iter().copied().find(is_fraction),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: ArrayValues) -> Result<Vec<u8>, String> {
        InstanceMask::from_array(Array { shape: vec![1, 2], values }).map(|mask| mask.pixels).map_err(|error| error.to_string())
    }

    #[test]
    fn the_low_byte_counts() {
        assert_eq!(of(ArrayValues::Bool(vec![0, 1])), Ok(vec![0, 1]));
        assert_eq!(of(ArrayValues::U8(vec![7, 255])), Ok(vec![7, 255]));
        assert_eq!(of(ArrayValues::U16(vec![0, 65535])), Ok(vec![0, 255]));
        assert_eq!(of(ArrayValues::I64(vec![-1, 258])), Ok(vec![255, 2]));
        assert_eq!(of(ArrayValues::F32(vec![0.0, 1.0])), Ok(vec![0, 1]));
    }

    #[test]
    fn what_fiftyone_would_lose_is_refused() {
        let error = of(ArrayValues::F32(vec![0.0, 0.75])).unwrap_err();
        assert!(error.contains("0.75") && error.contains("cuts that to 0") && error.contains("mask > 0.5"), "{error}");
        let error = of(ArrayValues::U16(vec![256, 1])).unwrap_err();
        assert!(error.contains("256") && error.contains("low byte"), "{error}");
        assert!(of(ArrayValues::F64(vec![f64::NAN, 1.0])).is_err());
    }
}
