//! From an image to a model's input: the steps that a model's description lists, as torchvision and FiftyOne take them.
//!
//! Resizing works on 8-bit pixels (as PIL does below torchvision's transforms); only the last step makes floats of them, which is
//! left to the device. Models whose steps begin with `read` get samples at full depth, which are floats from the start.

use std::{borrow::Cow, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    bands::{BandImage, parse_bands},
    error::MediaError,
    geometry::FrameRegion,
    image::{ImageLimits, RgbImage, parse_image},
    input::{InputPixels, Normalization},
    orientation::ExifPolicy,
    pixels::Pixels,
    resample::{Interpolation, resize_rgb},
    slices::Window,
    step::{Change, Fill, FillWord, PreprocessStep, SampleRange},
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
    /// Red, green and blue, unless the steps say otherwise.
    pub pixels: InputPixels,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Where the input lies in the image.
    pub region: FrameRegion,
}

/// An image as preprocessing reads it.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceImage {
    /// As FiftyOne's torch models see it.
    Rgb(RgbImage),
    /// At full depth.
    Bands(BandImage),
}

impl SourceImage {
    /// Height and width.
    pub fn size(&self) -> (usize, usize) {
        match self {
            SourceImage::Rgb(image) => (image.height, image.width),
            SourceImage::Bands(image) => (image.height, image.width),
        }
    }

    /// A picture of it to look at, of which no side is longer than this.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn thumbnail(&self, side: usize) -> Result<SourceImage, MediaError> {
        let (height, width) = self.size();
        let longest = height.max(width);
        let fit = |length: usize| (length * side).div_ceil(longest.max(1)).max(1);
        match self {
            _ if longest <= side => Ok(self.clone()),
            SourceImage::Rgb(image) => {
                let small = resize_rgb(image, fit(height), fit(width), Interpolation::Bilinear, true)?;
                Ok(SourceImage::Rgb(RgbImage { is_clipped: image.is_clipped, ..small }))
            }
            SourceImage::Bands(image) => {
                let small = resize_rgb(&image.picture(), fit(height), fit(width), Interpolation::Bilinear, true)?;
                Ok(SourceImage::Rgb(small))
            }
        }
    }

    /// A copy of a part.
    ///
    /// # Panics
    /// The part reaches beyond the image.
    pub fn window(&self, window: Window) -> SourceImage {
        let Window { height, width, .. } = window;
        match self {
            SourceImage::Rgb(image) => {
                let RgbImage { orientation, is_clipped, .. } = *image;
                let pixels = window.cut(&image.pixels, image.width, 3);
                SourceImage::Rgb(RgbImage { height, width, pixels, orientation, is_clipped })
            }
            SourceImage::Bands(image) => {
                let BandImage { channels, depth, has_alpha, orientation, .. } = *image;
                let samples = window.cut(&image.samples, image.width, channels);
                SourceImage::Bands(BandImage { height, width, channels, samples, depth, has_alpha, orientation })
            }
        }
    }

    /// Whether levels of the file were cut to 255.
    pub fn is_clipped(&self) -> bool {
        matches!(self, SourceImage::Rgb(image) if image.is_clipped)
    }

    /// What people look at: see [`read_picture`](super::read_picture).
    pub fn into_picture(self) -> RgbImage {
        match self {
            SourceImage::Rgb(image) => image,
            SourceImage::Bands(image) => image.picture(),
        }
    }
}

impl Preprocess {
    /// Reads an image as these steps want it, from the content of its file; the path is for errors.
    ///
    /// # Errors
    /// As for [`parse_image`]; at full depth also where it has another number of channels, or samples of another range.
    pub fn parse(&self, path: &Path, bytes: &[u8], limits: &ImageLimits, exif: ExifPolicy) -> Result<SourceImage, MediaError> {
        match self.reads() {
            None => parse_image(path, bytes, limits, exif).map(SourceImage::Rgb),
            Some((channels, range)) => parse_bands(path, bytes, limits, exif, channels, range).map(SourceImage::Bands),
        }
    }

    /// Makes the model's input of what [`Preprocess::parse`] gave.
    ///
    /// # Errors
    /// As for [`Preprocess::apply`].
    pub fn apply_to(&self, image: &SourceImage) -> Result<ModelInput, MediaError> {
        match image {
            SourceImage::Rgb(image) => self.apply(image),
            SourceImage::Bands(image) => self.run(Pixels::Bands(Cow::Borrowed(image))),
        }
    }

    /// Makes the model's input of an image of 8-bit colours.
    ///
    /// # Errors
    /// [`Preprocess::check`] fails, or the steps want the image at full depth, leave nothing of it or make it larger than memory
    /// allows.
    pub fn apply(&self, image: &RgbImage) -> Result<ModelInput, MediaError> {
        if self.reads().is_some() {
            return Err(MediaError::preprocess("an image of 8-bit colours was given to steps that `read` one at full depth"));
        }
        self.run(Pixels::Levels(Cow::Borrowed(image)))
    }

    fn run(&self, mut current: Pixels<'_>) -> Result<ModelInput, MediaError> {
        self.check()?;
        let (image_height, image_width) = current.size();
        let mut region = FrameRegion::whole(image_height, image_width);
        // More channels take more memory.
        let most = MAX_INPUT_PIXELS / self.reads().map_or(1, |(channels, _)| channels.div_ceil(3));
        let fits = |height: usize, width: usize| match height.checked_mul(width) {
            Some(pixels) if pixels <= most => Ok(()),
            _ => Err(MediaError::preprocess(format!(
                "an image of {image_height} x {image_width} pixels becomes one of {height} x {width} for the model; at most {most} pixels are possible: `--slice-height 1024` takes an image in slices"
            ))),
        };
        for step in &self.steps {
            match step {
                PreprocessStep::Grayscale { channels } => current.make_gray(*channels),
                PreprocessStep::Bgr => current.exchange_red_and_blue(),
                _ => {}
            }
            let (height, width) = current.size();
            let (crop, fill) = match step.change(height, width)? {
                None => continue,
                Some(Change::Resize { height, width, interpolation, antialias }) => {
                    fits(height, width)?;
                    current.resize((height, width), interpolation, antialias)?;
                    (region.frame_height, region.frame_width) = (height, width);
                    continue;
                }
                Some(Change::Crop(crop, fill)) => (crop, fill),
                Some(Change::Letterbox { height, width, crop, fill }) => {
                    fits(height, width)?;
                    current.resize_linear(height, width);
                    (region.frame_height, region.frame_width) = (height, width);
                    (crop, fill)
                }
            };
            fits(crop.height, crop.width)?;
            current.cut(crop, fill);
            region.top += crop.top;
            region.left += crop.left;
        }
        let (height, width) = current.size();
        if height == 0 || width == 0 {
            return Err(MediaError::preprocess(format!("nothing is left of an image of {image_height} x {image_width} pixels")));
        }
        fits(height, width)?;
        let channels = self.channels();
        let is_padded_with_mean = self.steps.iter().any(|step| step.fill() == Some(Fill::Word(FillWord::Mean)));
        let pixels = match current {
            // No level stands for the mean.
            Pixels::Levels(image) if !is_padded_with_mean => InputPixels::of_levels(image, channels),
            current => {
                let mut floats = current.to_floats(channels, &self.normalization());
                if is_padded_with_mean && let Some(shown) = region.part_with_image(height, width) {
                    for plane in floats.chunks_exact_mut(height * width) {
                        plane.iter_mut().zip(&shown.pixels).filter(|(_, shown)| **shown == 0).for_each(|(pixel, _)| *pixel = 0.0);
                    }
                }
                InputPixels::Floats(floats)
            }
        };
        Ok(ModelInput { pixels, height, width, region })
    }

    /// How many channels are read at full depth, and of which range; `None` where images become 8-bit colours.
    pub fn reads(&self) -> Option<(usize, SampleRange)> {
        match self.steps.first() {
            Some(PreprocessStep::Read { channels, samples }) => Some((*channels, *samples)),
            _ => None,
        }
    }

    /// What makes a model's input of samples.
    pub fn normalization(&self) -> Normalization {
        match self.steps.last() {
            Some(PreprocessStep::Normalize { mean, std, divide_by }) => {
                Normalization { divide_by: divide_by.unwrap_or(255.0), mean: mean.clone(), std: std.clone() }
            }
            _ => Normalization::of_channels(self.channels()),
        }
    }

    /// How many channels the input has.
    pub fn channels(&self) -> usize {
        self.steps.iter().fold(3, |channels, step| match step {
            PreprocessStep::Read { channels, .. } | PreprocessStep::Grayscale { channels } => *channels,
            _ => channels,
        })
    }

    /// Height and width of the input that [`Preprocess::apply`] makes of an image of `height` x `width` pixels.
    ///
    /// Steps that [`Preprocess::check`] refuses are passed over.
    pub fn output_size(&self, height: usize, width: usize) -> (usize, usize) {
        self.steps.iter().fold((height, width), |(h, w), step| match step.change(h, w) {
            Ok(Some(Change::Resize { height, width, .. })) => (height, width),
            Ok(Some(Change::Crop(crop, _) | Change::Letterbox { crop, .. })) => (crop.height, crop.width),
            Ok(None) | Err(_) => (h, w),
        })
    }

    /// Whether the steps make sense together, for any image. For the time before the first sample.
    ///
    /// # Errors
    /// A size is missing or zero, `normalize` is not last, divides by zero or has not a number for each channel, `grayscale` is
    /// there twice, `read` is not first or `normalize` does not say what it is divided by, a step takes another number of channels,
    /// padding has a sample that is none, or an image is resized after it was cropped or padded (the heatmap's place in the image
    /// would not be a whole number of pixels).
    pub fn check(&self) -> Result<(), MediaError> {
        let mut cropped = false;
        let (mut num_grayscale, mut num_bgr, channels) = (0, 0, self.channels());
        let mut current = 3;
        for (position, step) in self.steps.iter().enumerate() {
            current = step.channels_after(current)?;
            match step {
                PreprocessStep::Read { .. } if position > 0 => {
                    return Err(MediaError::preprocess("`read` must be the first step"));
                }
                PreprocessStep::Read { .. } => {}
                PreprocessStep::Bgr => num_bgr += 1,
                PreprocessStep::Normalize { mean, std, divide_by } => {
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
                    if divide_by.is_some_and(|divisor| !(divisor.is_finite() && divisor > 0.0)) {
                        return Err(MediaError::preprocess("`normalize` needs a positive `divide_by`"));
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
                | PreprocessStep::PadMultiple { .. }
                | PreprocessStep::Pad { .. } => cropped = true,
                PreprocessStep::Letterbox { .. } if !cropped => cropped = true,
                _ if cropped => {
                    return Err(MediaError::preprocess("a step after the crop or the padding resizes; put all resizing first"));
                }
                _ => {}
            }
            // Sizes do not depend on the image, so any image shows whether they are missing or zero.
            step.change(1, 1)?;
        }
        if num_bgr > 1 {
            return Err(MediaError::preprocess("`bgr` is there twice"));
        }
        let divides = matches!(self.steps.last(), Some(PreprocessStep::Normalize { divide_by: Some(_), .. }));
        if self.reads().is_some() && !divides {
            return Err(MediaError::preprocess("`read` needs a `normalize` that says what samples are divided by (`divide_by`)"));
        }
        self.check_fills()
    }

    fn check_fills(&self) -> Result<(), MediaError> {
        let fills: Vec<Fill> = self.steps.iter().filter_map(PreprocessStep::fill).collect();
        if fills.contains(&Fill::Word(FillWord::Mean)) && fills.iter().any(|fill| *fill != fills[0]) {
            return Err(MediaError::preprocess("padding of the mean is beside other padding"));
        }
        let is_sample = |fill: &Fill| match *fill {
            Fill::Sample(sample) if self.reads().is_some() => sample.is_finite(),
            Fill::Sample(sample) => (0.0..=255.0).contains(&sample) && sample.fract() == 0.0,
            Fill::Word(_) => true,
        };
        match fills.iter().all(is_sample) {
            true => Ok(()),
            false => Err(MediaError::preprocess("`fill` is a sample: a whole number from 0 to 255 of 8-bit images, or `mean`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preprocess(json: &str) -> Preprocess {
        serde_json::from_str(json).unwrap()
    }

    fn floats(steps: &Preprocess, image: &RgbImage) -> Vec<f32> {
        steps.apply(image).unwrap().pixels.to_floats(&steps.normalization())
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
            assert_eq!(input.pixels.to_floats(&steps.normalization()).len(), 3 * input.height * input.width);
        }
    }

    #[test]
    fn half_of_an_odd_rest_is_rounded_as_torchvision_and_as_transformers_do() {
        let offset = |more: &str, height: usize| {
            let steps = preprocess(&format!(r#"[{{"op":"center_crop","height":4,"width":8{more}}}]"#));
            let region = steps.apply(&gradient(height, 8)).expect("a crop").region;
            (region.top, region.left)
        };
        // Rests of 1, 2, 3 and 5 rows: 0.5, 1, 1.5 and 2.5 above.
        assert_eq!([5, 6, 7, 9].map(|height| offset("", height)), [(0, 0), (1, 0), (2, 0), (2, 0)]);
        assert_eq!([5, 6, 7, 9].map(|height| offset(r#","rounds_down":true"#, height)), [(0, 0), (1, 0), (1, 0), (2, 0)]);
        // Padding is the same.
        assert_eq!(["", r#","rounds_down":true"#].map(|more| offset(more, 1)), [(-1, 0); 2]);
    }

    #[test]
    fn a_crop_is_placed_in_the_frame() {
        let steps = preprocess(r#"[{"op":"resize","height":10,"width":20},{"op":"center_crop","height":5,"width":24}]"#);
        let input = steps.apply(&gradient(7, 8)).unwrap();
        // torchvision: int(round((10 - 5) / 2.0)) is 2, halves to even; padding (24 - 20) // 2 on the left.
        let expected = FrameRegion { image_height: 7, image_width: 8, frame_height: 10, frame_width: 20, top: 2, left: -2 };
        assert_eq!(input.region, expected);
        // Columns 0 and 1 are padding: black before normalising.
        assert_eq!(input.pixels.to_floats(&steps.normalization())[..2], [0.0, 0.0]);
    }

    #[test]
    fn padding_is_black_at_the_bottom_and_at_the_right() {
        let steps = preprocess(r#"[{"op":"pad_multiple","of":4}]"#);
        let input = steps.apply(&RgbImage::new(3, 4, vec![255; 36])).unwrap();
        let pixels = input.pixels.to_floats(&steps.normalization());
        assert_eq!((input.height, input.width, input.region.top, input.region.left), (4, 4, 0, 0));
        assert_eq!((pixels[..12].iter().sum::<f32>(), pixels[12..16].iter().sum::<f32>()), (12.0, 0.0));
        let whole = preprocess(r#"[{"op":"pad_multiple","of":4}]"#).apply(&RgbImage::new(4, 8, vec![9; 96])).unwrap();
        assert!(!whole.region.is_cropped(4, 8));
        let error =
            preprocess(&format!(r#"[{{"op":"pad_multiple","of":{}}}]"#, usize::MAX)).apply(&RgbImage::new(1, 1, vec![0; 3]));
        assert!(error.unwrap_err().to_string().contains("pixels are possible"));
    }

    #[test]
    fn channels_are_separated_and_normalised() {
        let steps = preprocess(r#"[{"op":"normalize","mean":[0.5,0,0],"std":[0.5,1,2]}]"#);
        let pixels = floats(&steps, &RgbImage::new(1, 2, vec![255, 51, 0, 0, 102, 255]));
        assert_eq!(pixels, [1.0, -1.0, 0.2, 0.4, 0.0, 0.5]);
    }

    /// Pillow 13: `Image.open(...).convert("L")` of these pixels.
    #[test]
    fn gray_is_pillows() {
        let image = RgbImage::new(1, 4, vec![255, 0, 0, 0, 255, 0, 0, 0, 255, 12, 200, 77]);
        let steps = preprocess(r#"[{"op":"grayscale","channels":1},{"op":"normalize","mean":[0],"std":[0.5]}]"#);
        let levels: Vec<f32> = floats(&steps, &image).iter().map(|value| (value * 127.5).round()).collect();
        assert_eq!((steps.channels(), levels), (1, vec![76.0, 150.0, 29.0, 130.0]));
        let three = floats(&preprocess(r#"[{"op":"grayscale","channels":3}]"#), &image);
        assert_eq!((three.len(), three[1], three[5]), (12, 150.0 / 255.0, 150.0 / 255.0));
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
    fn steps_at_full_depth_fit_each_other() {
        let read = r#"{"op":"read","channels":4,"samples":"0-65535"}"#;
        let normalize = r#"{"op":"normalize","mean":[0,0,0,0],"std":[1,1,1,1],"divide_by":65535}"#;
        let good = preprocess(&format!("[{read},{normalize}]"));
        good.check().unwrap();
        assert_eq!((good.channels(), good.reads()), (4, Some((4, SampleRange::Bits16))));
        assert!(good.apply(&gradient(3, 3)).unwrap_err().to_string().contains("8-bit colours"));
        for (json, what) in [
            (format!(r#"[{{"op":"bgr"}},{read},{normalize}]"#), "first"),
            (format!("[{read}]"), "divide_by"),
            (format!(r#"[{read},{{"op":"bgr"}},{normalize}]"#), "takes 3 channels, not 4"),
            (format!(r#"[{read},{{"op":"grayscale","channels":1}},{normalize}]"#), "not 4"),
            (r#"[{"op":"read","channels":33,"samples":"as-is"}]"#.to_owned(), "1 to 32"),
            (r#"[{"op":"bgr"},{"op":"bgr"}]"#.to_owned(), "twice"),
            (r#"[{"op":"pad","height":9,"width":9,"fill":256}]"#.to_owned(), "whole number from 0 to 255"),
            (r#"[{"op":"pad","height":9,"width":9,"fill":"mean"},{"op":"pad_multiple","of":4}]"#.to_owned(), "other padding"),
            (r#"[{"op":"letterbox","height":9,"width":9},{"op":"resize_smaller","size":9}]"#.to_owned(), "resizes"),
            (r#"[{"op":"letterbox","height":9,"width":9,"stride":0}]"#.to_owned(), "size of 0"),
            (r#"[{"op":"normalize","mean":[0,0,0],"std":[1,1,1],"divide_by":0}]"#.to_owned(), "positive `divide_by`"),
        ] {
            let error = preprocess(&json).check().unwrap_err().to_string();
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

    #[test]
    fn a_part_of_an_image_is_its_pixels() {
        let image = RgbImage::new(2, 3, (0..18).collect());
        let part = SourceImage::Rgb(image).window(Window { top: 1, left: 1, height: 1, width: 2 });
        assert_eq!((part.size(), part.into_picture().pixels), ((1, 2), (12..18).collect()));
    }
}
