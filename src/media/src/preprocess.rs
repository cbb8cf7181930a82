//! From an image to a model's input: the steps that a model's description lists, as torchvision and FiftyOne take them.
//!
//! Resizing works on 8-bit pixels (as PIL does below torchvision's transforms); only the last step makes floats of them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{
    error::MediaError,
    geometry::FrameRegion,
    image::RgbImage,
    resample::resize_rgb,
    step::{Change, PreprocessStep, to_gray},
};

/// The largest input that is made, 8K video: a narrow image whose smaller side is enlarged may ask for any size.
const MAX_INPUT_PIXELS: usize = 1 << 25;

/// The steps of one model, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Preprocess {
    /// Resizing first, then cropping, then normalising.
    pub steps: Vec<PreprocessStep>,
}

/// What a model reads.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInput {
    /// f32 `[3, height, width]`, red, green, blue, normalised; `[1, height, width]` where the model takes gray.
    pub pixels: Vec<f32>,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Where the input lies in the image.
    pub region: FrameRegion,
}

impl Preprocess {
    /// Makes the model's input of an image.
    ///
    /// # Errors
    /// [`Preprocess::check`] fails, or the steps leave nothing of this image or make it larger than memory allows.
    pub fn apply(&self, image: &RgbImage) -> Result<ModelInput, MediaError> {
        self.check()?;
        let mut current = Cow::Borrowed(image);
        let mut region = FrameRegion {
            image_height: image.height,
            image_width: image.width,
            frame_height: image.height,
            frame_width: image.width,
            top: 0,
            left: 0,
        };
        let fits = |height: usize, width: usize| match height.checked_mul(width) {
            Some(pixels) if pixels <= MAX_INPUT_PIXELS => Ok(()),
            _ => Err(MediaError::preprocess(format!(
                "an image of {} x {} pixels becomes one of {height} x {width} for the model; at most {MAX_INPUT_PIXELS} pixels are possible",
                image.height, image.width
            ))),
        };
        for step in &self.steps {
            if matches!(step, PreprocessStep::Grayscale { .. }) {
                to_gray(current.to_mut());
            }
            match step.change(current.height, current.width)? {
                None => {}
                Some(Change::Resize { height, width, interpolation, antialias }) => {
                    fits(height, width)?;
                    current = Cow::Owned(resize_rgb(&current, height, width, interpolation, antialias)?);
                    (region.frame_height, region.frame_width) = (height, width);
                }
                Some(Change::Crop(crop)) => {
                    fits(crop.height, crop.width)?;
                    current = Cow::Owned(crop.cut(&current)?);
                    region.top += crop.top;
                    region.left += crop.left;
                }
            }
        }
        let (height, width) = (current.height, current.width);
        if height == 0 || width == 0 {
            return Err(MediaError::preprocess(format!(
                "nothing is left of an image of {} x {} pixels",
                image.height, image.width
            )));
        }
        fits(height, width)?;
        Ok(ModelInput { pixels: self.to_floats(&current.pixels), height, width, region })
    }

    /// How many channels the input has.
    pub fn channels(&self) -> usize {
        let gray = |step: &PreprocessStep| match step {
            PreprocessStep::Grayscale { channels } => Some(*channels),
            _ => None,
        };
        self.steps.iter().find_map(gray).unwrap_or(3)
    }

    /// Height and width of the input that [`Preprocess::apply`] makes of an image of `height` x `width` pixels.
    ///
    /// Steps that [`Preprocess::check`] refuses are passed over.
    pub fn output_size(&self, height: usize, width: usize) -> (usize, usize) {
        self.steps.iter().fold((height, width), |(h, w), step| match step.change(h, w) {
            Ok(Some(Change::Resize { height, width, .. })) => (height, width),
            Ok(Some(Change::Crop(crop))) => (crop.height, crop.width),
            Ok(None) | Err(_) => (h, w),
        })
    }

    /// Whether the steps make sense together, for any image. For the time before the first sample.
    ///
    /// # Errors
    /// A size is missing or zero, `normalize` is not last, divides by zero or has not a number for each channel, `grayscale` is
    /// there twice, or an image is resized after it was cropped or padded (the heatmap's place in the image would not be a whole
    /// number of pixels).
    pub fn check(&self) -> Result<(), MediaError> {
        let mut cropped = false;
        let (mut num_grayscale, channels) = (0, self.channels());
        for (position, step) in self.steps.iter().enumerate() {
            match step {
                PreprocessStep::Normalize { mean, std } => {
                    if position + 1 != self.steps.len() {
                        return Err(MediaError::preprocess("`normalize` must be the last step"));
                    }
                    if mean.len() != channels || std.len() != channels {
                        return Err(MediaError::preprocess(format!(
                            "`normalize` has {} numbers in `mean` and {} in `std` for {channels} channels",
                            mean.len(),
                            std.len()
                        )));
                    }
                    if !mean.iter().all(|mean| mean.is_finite()) || !std.iter().all(|std| std.is_finite() && *std > 0.0) {
                        return Err(MediaError::preprocess("`normalize` needs finite `mean` and positive `std`"));
                    }
                }
                PreprocessStep::Grayscale { channels } => {
                    num_grayscale += 1;
                    if ![1, 3].contains(channels) || num_grayscale > 1 {
                        return Err(MediaError::preprocess("`grayscale` is there once, and has 1 or 3 channels"));
                    }
                }
                PreprocessStep::CenterCrop { .. }
                | PreprocessStep::CenterCropMultiple { .. }
                | PreprocessStep::PadMultiple { .. } => {
                    cropped = true;
                }
                _ if cropped => {
                    return Err(MediaError::preprocess("a step after the crop or the padding resizes; put all resizing first"));
                }
                _ => {}
            }
            // Sizes do not depend on the image, so any image shows whether they are missing or zero.
            step.change(1, 1)?;
        }
        Ok(())
    }

    /// u8 `[height, width, 3]` to f32 `[channels, height, width]`, with torchvision's arithmetic: all in f32, first the division by
    /// 255, then the mean, then the deviation. With 256 levels a table gives the same bits as computing each.
    fn to_floats(&self, pixels: &[u8]) -> Vec<f32> {
        let (mean, std) = match self.steps.last() {
            Some(PreprocessStep::Normalize { mean, std }) => (&mean[..], &std[..]),
            _ => (&[0.0; 3][..], &[1.0; 3][..]),
        };
        let mut floats = Vec::with_capacity(pixels.len());
        for channel in 0..self.channels() {
            let levels: [f32; 256] = std::array::from_fn(|level| (level as f32 / 255.0 - mean[channel]) / std[channel]);
            floats.extend(pixels.chunks_exact(3).map(|pixel| levels[usize::from(pixel[channel])]));
        }
        floats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preprocess(json: &str) -> Preprocess {
        serde_json::from_str(json).unwrap()
    }

    fn gradient(height: usize, width: usize) -> RgbImage {
        let pixels = (0..height * width * 3).map(|i| (i * 7 % 251) as u8).collect();
        RgbImage::new(height, width, pixels)
    }

    #[test]
    fn an_unknown_op_or_key_is_named() {
        let error = |json| serde_json::from_str::<Preprocess>(json).unwrap_err().to_string();
        assert!(error(r#"[{"op": "rotate"}]"#).contains("`rotate`"));
        assert!(error(r#"[{"op": "resize_smaller", "sise": 3}]"#).contains("sise"));
    }

    /// The right sides were printed by torchvision 0.26 and fiftyone 1.22.1.
    #[test]
    fn sizes_are_those_of_torchvision_and_fiftyone() {
        for (json, image, expected) in [
            (r#"[{"op":"resize_smaller","size":520}]"#, (480, 640), (520, 693)),
            (r#"[{"op":"resize_smaller","size":520}]"#, (641, 427), (780, 520)),
            (r#"[{"op":"resize_smaller","size":256}]"#, (300, 300), (256, 256)),
            (r#"[{"op":"resize_min","size":224}]"#, (100, 333), (224, 746)),
            (r#"[{"op":"resize_min","size":224}]"#, (224, 225), (224, 225)),
            (r#"[{"op":"resize_max","height":300,"width":200}]"#, (480, 640), (150, 200)),
            (r#"[{"op":"resize_max","size":1000}]"#, (480, 640), (480, 640)),
            (r#"[{"op":"center_crop_multiple","of":14}]"#, (100, 224), (98, 224)),
            (r#"[{"op":"pad_multiple","of":32}]"#, (100, 224), (128, 224)),
        ] {
            assert_eq!(preprocess(json).output_size(image.0, image.1), expected, "{json} {image:?}");
        }
    }

    #[test]
    fn the_output_size_is_what_apply_makes() {
        let steps = preprocess(
            r#"[{"op":"resize_smaller","size":32},{"op":"center_crop","height":28,"width":30},
                {"op":"normalize","mean":[0.5,0.5,0.5],"std":[0.25,0.25,0.25]}]"#,
        );
        for (height, width) in [(40, 61), (33, 20), (32, 32), (5, 9)] {
            let input = steps.apply(&gradient(height, width)).unwrap();
            assert_eq!((input.height, input.width), steps.output_size(height, width));
            assert_eq!(input.pixels.len(), 3 * input.height * input.width);
        }
    }

    #[test]
    fn a_crop_is_placed_in_the_frame() {
        let steps = preprocess(r#"[{"op":"resize","height":10,"width":20},{"op":"center_crop","height":5,"width":24}]"#);
        let input = steps.apply(&gradient(7, 8)).unwrap();
        // torchvision: int(round((10 - 5) / 2.0)) is 2, halves to even; padding (24 - 20) // 2 on the left.
        let expected = FrameRegion { image_height: 7, image_width: 8, frame_height: 10, frame_width: 20, top: 2, left: -2 };
        assert_eq!(input.region, expected);
        // Columns 0 and 1 are padding: black before normalising.
        assert_eq!(input.pixels[..2], [0.0, 0.0]);
    }

    #[test]
    fn padding_is_black_at_the_bottom_and_at_the_right() {
        let input = preprocess(r#"[{"op":"pad_multiple","of":4}]"#).apply(&RgbImage::new(3, 4, vec![255; 36])).unwrap();
        assert_eq!((input.height, input.width, input.region.top, input.region.left), (4, 4, 0, 0));
        assert_eq!((input.pixels[..12].iter().sum::<f32>(), input.pixels[12..16].iter().sum::<f32>()), (12.0, 0.0));
        let whole = preprocess(r#"[{"op":"pad_multiple","of":4}]"#).apply(&RgbImage::new(4, 8, vec![9; 96])).unwrap();
        assert!(!whole.region.is_cropped(4, 8));
        let error =
            preprocess(&format!(r#"[{{"op":"pad_multiple","of":{}}}]"#, usize::MAX)).apply(&RgbImage::new(1, 1, vec![0; 3]));
        assert!(error.unwrap_err().to_string().contains("pixels are possible"));
    }

    #[test]
    fn channels_are_separated_and_normalised() {
        let steps = preprocess(r#"[{"op":"normalize","mean":[0.5,0,0],"std":[0.5,1,2]}]"#);
        let input = steps.apply(&RgbImage::new(1, 2, vec![255, 51, 0, 0, 102, 255])).unwrap();
        assert_eq!(input.pixels, [1.0, -1.0, 0.2, 0.4, 0.0, 0.5]);
    }

    /// Pillow 13: `Image.open(...).convert("L")` of these pixels.
    #[test]
    fn gray_is_pillows() {
        let image = RgbImage::new(1, 4, vec![255, 0, 0, 0, 255, 0, 0, 0, 255, 12, 200, 77]);
        let steps = preprocess(r#"[{"op":"grayscale","channels":1},{"op":"normalize","mean":[0],"std":[0.5]}]"#);
        let input = steps.apply(&image).unwrap();
        let levels: Vec<f32> = input.pixels.iter().map(|value| (value * 127.5).round()).collect();
        assert_eq!((steps.channels(), levels), (1, vec![76.0, 150.0, 29.0, 130.0]));
        let three = preprocess(r#"[{"op":"grayscale","channels":3}]"#).apply(&image).unwrap();
        assert_eq!((three.pixels.len(), three.pixels[1], three.pixels[5]), (12, 150.0 / 255.0, 150.0 / 255.0));
    }

    #[test]
    fn contradictions_are_found_before_any_image() {
        for (json, what) in [
            (r#"[{"op":"normalize","mean":[0,0,0],"std":[1,1,1]},{"op":"center_crop_multiple","of":2}]"#, "last"),
            (r#"[{"op":"center_crop","height":4,"width":4},{"op":"resize_smaller","size":9}]"#, "after the crop"),
            (r#"[{"op":"pad_multiple","of":4},{"op":"resize_smaller","size":9}]"#, "the padding"),
            (r#"[{"op":"pad_multiple","of":0}]"#, "size of 0"),
            (r#"[{"op":"normalize","mean":[0,0,0],"std":[1,0,1]}]"#, "positive"),
            (r#"[{"op":"resize_min","height":9}]"#, "both"),
            (r#"[{"op":"normalize","mean":[0.5],"std":[0.5]}]"#, "1 numbers in `mean` and 1 in `std` for 3 channels"),
            (r#"[{"op":"grayscale","channels":1},{"op":"normalize","mean":[0,0,0],"std":[1,1,1]}]"#, "for 1 channels"),
            (r#"[{"op":"grayscale","channels":2}]"#, "1 or 3"),
            (r#"[{"op":"grayscale","channels":1},{"op":"grayscale","channels":1}]"#, "once"),
            (r#"[{"op":"center_crop_multiple","of":0}]"#, "size of 0"),
        ] {
            let error = preprocess(json).check().unwrap_err().to_string();
            assert!(error.contains(what), "{json}: {error}");
        }
    }

    #[test]
    fn extreme_shapes_are_an_error_not_an_abort() {
        let wide = RgbImage::new(1, 100_000, vec![0; 300_000]);
        assert!(preprocess(r#"[{"op":"resize_smaller","size":2000}]"#).apply(&wide).is_err());
        assert!(preprocess(r#"[{"op":"center_crop_multiple","of":14}]"#).apply(&wide).is_err());
        // A file of some hundred bytes that would keep a network busy for days.
        let thin = RgbImage::new(1, 1000, vec![0; 3000]);
        let error = preprocess(r#"[{"op":"resize_smaller","size":520}]"#).apply(&thin).unwrap_err().to_string();
        assert!(error.contains("1 x 1000 pixels becomes one of 520 x 520000"), "{error}");
    }

    #[test]
    fn steps_survive_a_round_trip() {
        let json = r#"[{"op":"resize_max","size":9,"interpolation":"bicubic","antialias":true}]"#;
        assert_eq!(serde_json::to_string(&preprocess(json)).unwrap(), json);
    }
}
