//! Label masks: which pixels belong to which class, as FiftyOne's `Segmentation.get_mask()` sees them.
//!
//! A mask is *gray* (each pixel holds the number of its class) or *RGB* (each pixel holds the colour of its class); FiftyOne
//! tells them apart by the number of axes. Files are read as `cv2.imread(path, IMREAD_UNCHANGED)` reads them: a palette becomes
//! colours, 1-bit pixels become 0 and 255, an alpha channel makes any picture colour (its alpha is ignored), EXIF is ignored.

use std::{collections::BTreeMap, path::Path};

use super::{
    array::{Array, ArrayValues, inflate_array},
    class_map::ClassMap,
    content::read_file,
    error::MediaError,
    format::Format,
    geometry::{BinaryMask, MaskValue},
    image::{Decoded, ImageLimits, decode},
    picture::{Picture, Samples},
};

/// A segmentation mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelMask {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Whether it was compressed as photographs are, which changes numbers of classes near edges.
    pub is_lossy: bool,
    pixels: MaskPixels,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum MaskPixels {
    /// Nearly every gray mask.
    Index8(Vec<u8>),
    /// Any other integers.
    Index(Vec<i64>),
    /// `[height, width, 3]`
    Rgb(Vec<u8>),
}

/// Whether a mask of these rows and columns lies as the image would after a quarter turn, and not as it does: it was drawn on the
/// upright photograph, say, or has rows and columns exchanged. A mask of another size is stretched over its image, as in FiftyOne.
pub fn is_turned((rows, columns): (usize, usize), (height, width): (usize, usize)) -> bool {
    // A scaled mask has whole rows and columns.
    let fits = |height: usize, width: usize| {
        let (rows, columns, height, width) = (rows as f64, columns as f64, height as f64, width as f64);
        (rows - columns * height / width).abs() <= 1.0 || (columns - rows * width / height).abs() <= 1.0
    };
    fits(width, height) && !fits(height, width)
}

impl LabelMask {
    /// Takes an array `[height, width]` or `[height, width, 1]` of class numbers (bool: 0 and 1; floats if they are whole
    /// numbers), or `[height, width, 3]` or `[height, width, 4]` of colours in `0..=255`.
    ///
    /// # Errors
    /// The array is empty, of another shape, or holds values that are no class numbers or colours.
    pub fn from_array(array: Array) -> Result<Self, MediaError> {
        let Array { shape, values } = array;
        let (height, width, channels) = match shape[..] {
            [height, width] => (height, width, 1),
            [height, width, channels @ (1 | 3 | 4)] => (height, width, channels),
            _ => {
                return Err(MediaError::mask(format!(
                    "an array of shape {shape:?} is not a mask; (height, width) or (height, width, 3) is"
                )));
            }
        };
        if height == 0 || width == 0 {
            return Err(MediaError::mask(format!("its shape {shape:?} holds no pixel")));
        }
        let pixels = match values {
            ArrayValues::Bool(v) | ArrayValues::U8(v) => MaskPixels::Index8(v),
            other => MaskPixels::Index(whole_numbers(other)?),
        };
        let pixels = match (channels, pixels) {
            (1, pixels) => pixels,
            (_, MaskPixels::Index8(samples)) => MaskPixels::Rgb(without_alpha(samples, channels)),
            (_, MaskPixels::Index(samples)) => {
                let bytes: Result<Vec<u8>, _> = samples.into_iter().map(u8::try_from).collect();
                let bytes = bytes.map_err(|_| MediaError::mask("its colours are not all in 0..=255"))?;
                MaskPixels::Rgb(without_alpha(bytes, channels))
            }
            (_, rgb) => rgb,
        };
        Ok(LabelMask { height, width, is_lossy: false, pixels })
    }

    /// Takes a mask from a document: see [`inflate_array`] and [`LabelMask::from_array`].
    ///
    /// # Errors
    /// As those two, or the mask is larger than the limits.
    pub fn inflate(bytes: &[u8], limits: &ImageLimits) -> Result<Self, MediaError> {
        let mask = Self::from_array(inflate_array(bytes, limits.array_bytes())?)?;
        limits.check_mask(mask.height, mask.width)?;
        Ok(mask)
    }

    /// Reads a mask file.
    ///
    /// # Errors
    /// The path is no regular file, cannot be read, is no image of a known format, larger than the limits, damaged, or a
    /// `.npy` (which FiftyOne does not read either).
    pub fn read(path: &Path, limits: &ImageLimits) -> Result<Self, MediaError> {
        Self::parse(path, &read_file(path, limits.max_bytes)?, limits)
    }

    /// Reads a mask from the content of its file, as [`LabelMask::read`] does; the path is for errors.
    ///
    /// # Errors
    /// The content is no image of a known format, larger than the limits, damaged, or a `.npy`.
    pub fn parse(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<Self, MediaError> {
        if bytes.starts_with(b"\x93NUMPY") {
            let what = "holds a numpy array, which FiftyOne cannot read as a `mask_path`: store it as PNG".to_owned();
            return Err(MediaError::UnsupportedFormat { path: path.to_owned(), what });
        }
        let Decoded { format, picture, .. } = decode(path, bytes, limits)?;
        let Picture { height, width, samples, alpha_is_a_level, is_a_mask } = picture;
        let undecodable = |reason: String| MediaError::Undecodable { path: path.to_owned(), reason };
        if !is_a_mask {
            let reason = "FiftyOne takes no mask, or another one, from a file of this kind: convert it to PNG";
            return Err(undecodable(reason.to_owned()));
        }
        let wide = |samples: Vec<u16>| MaskPixels::Index(samples.into_iter().map(i64::from).collect());
        let pixels = match samples {
            Samples::Gray(samples) => MaskPixels::Index8(samples),
            Samples::Gray16(samples) => wide(samples),
            Samples::Integers(samples) => MaskPixels::Index(samples.into_iter().map(i64::from).collect()),
            Samples::Floats(samples) => {
                MaskPixels::Index(whole_numbers(ArrayValues::F32(samples)).map_err(|error| undecodable(error.to_string()))?)
            }
            // One level declared transparent is not an alpha channel.
            Samples::GrayAlpha(samples) if alpha_is_a_level => MaskPixels::Index8(samples.into_iter().step_by(2).collect()),
            Samples::GrayAlpha16(samples) if alpha_is_a_level => wide(samples.into_iter().step_by(2).collect()),
            Samples::GrayAlpha(samples) => MaskPixels::Rgb(samples.chunks_exact(2).flat_map(|v| [v[0]; 3]).collect()),
            Samples::Rgb(samples) if format == Format::Bmp && bmp_is_gray(bytes, &samples) => {
                MaskPixels::Index8(samples.into_iter().step_by(3).collect())
            }
            Samples::Rgb(samples) => MaskPixels::Rgb(samples),
            Samples::Rgba(samples) => MaskPixels::Rgb(without_alpha(samples, 4)),
            Samples::GrayAlpha16(_) | Samples::Rgb16(_) | Samples::Rgba16(_) => {
                let reason = "a mask has 8 or 16 bits of gray, or 8 bits per colour: convert it to PNG";
                return Err(undecodable(reason.to_owned()));
            }
        };
        Ok(LabelMask { height, width, is_lossy: format == Format::Jpeg, pixels })
    }

    /// The pixels that hold `value`; possibly none.
    ///
    /// # Errors
    /// A class number is asked of an RGB mask, or a colour of a gray one.
    pub fn select(&self, value: &MaskValue) -> Result<BinaryMask, MediaError> {
        let pixels = match (&self.pixels, *value) {
            (_, MaskValue::Object) => return self.object(),
            (MaskPixels::Index8(pixels), MaskValue::Index(index)) => match u8::try_from(index) {
                Ok(index) => pixels.iter().map(|&pixel| u8::from(pixel == index)).collect(),
                Err(_) => vec![0; pixels.len()],
            },
            (MaskPixels::Index(pixels), MaskValue::Index(index)) => {
                pixels.iter().map(|&pixel| u8::from(pixel == index)).collect()
            }
            (MaskPixels::Rgb(pixels), MaskValue::Rgb(color)) => {
                pixels.chunks_exact(3).map(|pixel| u8::from(pixel == color)).collect()
            }
            (MaskPixels::Rgb(_), MaskValue::Index(index)) => {
                return Err(MediaError::mask(format!(
                    "it is an RGB mask, but the class is given as the number {index}; \
                     the dataset's mask targets must name its colour (`#rrggbb`)"
                )));
            }
            (_, MaskValue::Rgb([r, g, b])) => {
                return Err(MediaError::mask(format!(
                    "it is a gray mask, but the class is given as the colour `#{r:02x}{g:02x}{b:02x}`; \
                     the dataset's mask targets must name its number"
                )));
            }
        };
        Ok(BinaryMask { height: self.height, width: self.width, pixels })
    }

    /// The pixels of the one value beside 0 or black: with several nobody says which is the object, and which is to be ignored.
    fn object(&self) -> Result<BinaryMask, MediaError> {
        let background = |value: &MaskValue| matches!(value, MaskValue::Index(0) | MaskValue::Rgb([0, 0, 0]));
        let values: Vec<String> =
            self.values().into_iter().filter(|(value, _)| !background(value)).map(|(value, _)| value.to_string()).collect();
        if values.len() > 1 {
            let some = if values.len() > 5 { ", ..." } else { "" };
            return Err(MediaError::mask(format!(
                "it holds the values {}{some} beside 0, and the model's output has one channel; \
                 the dataset's mask targets must name the value of the object",
                values.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ")
            )));
        }
        Ok(self.nonzero())
    }

    /// The class of each pixel, by its value's name. What has none is called by its value, but for 0 or black: that is no class.
    ///
    /// # Errors
    /// It holds more values than a mask of classes does.
    pub fn class_map(&self, name: impl Fn(&MaskValue) -> Option<String>) -> Result<ClassMap, MediaError> {
        let class = |value: MaskValue| {
            let of_background = matches!(value, MaskValue::Index(0) | MaskValue::Rgb([0, 0, 0]));
            name(&value).or_else(|| (!of_background).then(|| value.to_string()))
        };
        let size = (self.height, self.width);
        match &self.pixels {
            MaskPixels::Index8(pixels) => {
                ClassMap::of_values(size, pixels.iter().copied(), |value| class(MaskValue::Index(value.into())))
            }
            MaskPixels::Index(pixels) => {
                ClassMap::of_values(size, pixels.iter().copied(), |value| class(MaskValue::Index(value)))
            }
            MaskPixels::Rgb(pixels) => {
                let colors = pixels.chunks_exact(3).map(|color| [color[0], color[1], color[2]]);
                ClassMap::of_values(size, colors, |value| class(MaskValue::Rgb(value)))
            }
        }
    }

    /// The low byte of each number; 255 where a colour is not black.
    ///
    /// # Errors
    /// A number that is not 0, but whose low byte is.
    pub(super) fn into_bytes(self) -> Result<Vec<u8>, MaskValue> {
        match self.pixels {
            MaskPixels::Index8(pixels) => Ok(pixels),
            MaskPixels::Index(pixels) => {
                let byte = |number: i64| match number as u8 {
                    0 if number != 0 => Err(MaskValue::Index(number)),
                    byte => Ok(byte),
                };
                pixels.into_iter().map(byte).collect()
            }
            MaskPixels::Rgb(pixels) => Ok(pixels.chunks_exact(3).map(|pixel| if pixel == [0; 3] { 0 } else { 255 }).collect()),
        }
    }

    /// The pixels that hold anything but 0 (in an RGB mask: but black).
    pub fn nonzero(&self) -> BinaryMask {
        let pixels = match &self.pixels {
            MaskPixels::Index8(pixels) => pixels.iter().map(|&pixel| u8::from(pixel != 0)).collect(),
            MaskPixels::Index(pixels) => pixels.iter().map(|&pixel| u8::from(pixel != 0)).collect(),
            MaskPixels::Rgb(pixels) => pixels.chunks_exact(3).map(|pixel| u8::from(pixel != [0; 3])).collect(),
        };
        BinaryMask { height: self.height, width: self.width, pixels }
    }

    /// The distinct values in ascending order, each with its number of pixels. For messages: it takes longer than
    /// [`LabelMask::select`].
    pub fn values(&self) -> Vec<(MaskValue, usize)> {
        fn counted<T: Ord>(pixels: impl Iterator<Item = T>, value: impl Fn(T) -> MaskValue) -> Vec<(MaskValue, usize)> {
            let mut counts = BTreeMap::new();
            for pixel in pixels {
                *counts.entry(pixel).or_insert(0) += 1;
            }
            counts.into_iter().map(|(pixel, count)| (value(pixel), count)).collect()
        }
        match &self.pixels {
            MaskPixels::Index8(pixels) => counted(pixels.iter(), |&v| MaskValue::Index(v.into())),
            MaskPixels::Index(pixels) => counted(pixels.iter(), |&v| MaskValue::Index(v)),
            MaskPixels::Rgb(pixels) => counted(pixels.chunks_exact(3), |v| MaskValue::Rgb([v[0], v[1], v[2]])),
        }
    }
}

fn without_alpha(samples: Vec<u8>, channels: usize) -> Vec<u8> {
    if channels == 3 {
        return samples;
    }
    samples.chunks_exact(channels).flat_map(|v| [v[0], v[1], v[2]]).collect()
}

fn whole_numbers(values: ArrayValues) -> Result<Vec<i64>, MediaError> {
    fn widened<T: Into<i64>>(values: Vec<T>) -> Vec<i64> {
        values.into_iter().map(Into::into).collect()
    }
    fn whole(values: impl Iterator<Item = f64>) -> Result<Vec<i64>, MediaError> {
        // Up to 2^53 every whole number has its own double.
        const LARGEST: f64 = 9_007_199_254_740_992.0;
        values
            .map(|value| match value.fract() == 0.0 && value.abs() <= LARGEST {
                true => Ok(value as i64),
                false => Err(MediaError::mask(format!("it holds {value}, which is not a class number"))),
            })
            .collect()
    }
    Ok(match values {
        ArrayValues::Bool(v) | ArrayValues::U8(v) => widened(v),
        ArrayValues::I8(v) => widened(v),
        ArrayValues::U16(v) => widened(v),
        ArrayValues::I16(v) => widened(v),
        ArrayValues::U32(v) => widened(v),
        ArrayValues::I32(v) => widened(v),
        ArrayValues::I64(v) => v,
        ArrayValues::U64(v) => {
            let numbers: Result<_, _> = v.into_iter().map(i64::try_from).collect();
            numbers.map_err(|_| MediaError::mask("it holds numbers beyond 2^63"))?
        }
        ArrayValues::F16(v) | ArrayValues::F32(v) => whole(v.into_iter().map(f64::from))?,
        ArrayValues::F64(v) => whole(v.into_iter())?,
    })
}

/// OpenCV makes a BMP gray when its palette is; the palette is not at hand here, so what counts is that all pixels are gray.
fn bmp_is_gray(file: &[u8], rgb: &[u8]) -> bool {
    // A header of the old kind, of 12 bytes, has them elsewhere.
    let header = file.get(14..18).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let bits_per_pixel = file.get(28..30).filter(|_| header >= 40).map_or(24, |b| u16::from_le_bytes([b[0], b[1]]));
    bits_per_pixel <= 8 && rgb.chunks_exact(3).all(|v| v[0] == v[1] && v[1] == v[2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_array_file;

    fn read(name: &str) -> LabelMask {
        let folder = Path::new("testdata");
        LabelMask::read(&folder.join(name), &ImageLimits::default()).unwrap()
    }

    /// `testdata/mask_*.npy` is what FiftyOne's `get_mask()` returned for the picture of that name.
    #[test]
    fn a_mask_that_lies_across_its_image_is_known_by_its_sides() {
        let image = (480, 640);
        for turned in [(640, 480), (320, 240), (107, 80), (65, 49)] {
            assert!(is_turned(turned, image), "{turned:?}");
        }
        for as_it_lies in [image, (240, 320), (80, 107), (512, 512), (1, 1), (480, 480), (640, 640)] {
            assert!(!is_turned(as_it_lies, image), "{as_it_lies:?}");
        }
        assert!(!is_turned((500, 500), (250, 250)), "a square");
    }

    #[test]
    fn files_are_read_as_fiftyone_reads_them() {
        let folder = Path::new("testdata");
        for name in [
            "gray8.png",
            "gray16.png",
            "gray2.png",
            "bit1.png",
            "palette.png",
            "palette_alpha.png",
            "gray_alpha.png",
            "gray_transparent.png",
            "rgb.png",
            "rgba.png",
            "gray8.tif",
            "gray16.tif",
            "rgb.tif",
            "gray8.bmp",
            "palette.bmp",
            "gray.jpg",
            "palette.gif",
            "rgb.webp",
        ] {
            let npy = format!("mask_{}.npy", name.replace('.', "_"));
            let expected = read_array_file(&folder.join(npy), 1 << 20).unwrap();
            let expected = LabelMask::from_array(expected).unwrap();
            let ours = read(&format!("mask_{name}"));
            // Compared as values, since 16-bit files and arrays keep different widths.
            assert_eq!((ours.height, ours.width), (expected.height, expected.width), "{name}");
            assert_eq!(ours.values(), expected.values(), "{name}");
            for (value, _) in expected.values() {
                assert_eq!(ours.select(&value).unwrap(), expected.select(&value).unwrap(), "{name} {value:?}");
            }
        }
    }

    #[test]
    fn arrays_of_all_kinds_become_masks() {
        let gray = |values| LabelMask::from_array(Array { shape: vec![1, 2], values });
        for values in [
            ArrayValues::Bool(vec![0, 1]),
            ArrayValues::I64(vec![-7, 1]),
            ArrayValues::F32(vec![0.0, 1.0]),
            ArrayValues::U16(vec![300, 1]),
        ] {
            let mask = gray(values).unwrap();
            assert_eq!(mask.select(&MaskValue::Index(1)).unwrap().pixels, [0, 1]);
            assert_eq!(mask.select(&MaskValue::Index(44)).unwrap().count(), 0);
        }
        assert_eq!(gray(ArrayValues::I64(vec![-7, 0])).unwrap().nonzero().pixels, [1, 0]);
        assert_eq!(gray(ArrayValues::U8(vec![0, 255])).unwrap().nonzero().pixels, [0, 1]);
        assert!(gray(ArrayValues::F32(vec![0.5, 1.0])).is_err());
        assert!(gray(ArrayValues::F64(vec![f64::NAN, 1.0])).is_err());
        assert!(gray(ArrayValues::U64(vec![u64::MAX, 1])).is_err());
    }

    #[test]
    fn the_object_is_the_one_value_beside_zero() {
        let gray = |values| LabelMask::from_array(Array { shape: vec![1, 3], values: ArrayValues::U8(values) }).unwrap();
        assert_eq!(gray(vec![0, 255, 0]).select(&MaskValue::Object).unwrap().pixels, [0, 1, 0]);
        assert_eq!(gray(vec![0, 1, 1]).select(&MaskValue::Object).unwrap().pixels, [0, 1, 1]);
        assert_eq!(gray(vec![0, 0, 0]).select(&MaskValue::Object).unwrap().count(), 0);
        let error = gray(vec![0, 1, 255]).select(&MaskValue::Object).unwrap_err().to_string();
        assert!(error.contains("the values 1, 255 beside 0"), "{error}");
    }

    #[test]
    fn a_number_that_does_not_fit_a_byte_is_not_wrapped() {
        let mask = LabelMask::from_array(Array { shape: vec![1, 2], values: ArrayValues::U8(vec![1, 255]) }).unwrap();
        assert_eq!(mask.select(&MaskValue::Index(257)).unwrap().count(), 0);
        assert_eq!(mask.select(&MaskValue::Index(-1)).unwrap().count(), 0);
    }

    #[test]
    fn classes_have_the_names_of_their_values() {
        let mask = |shape: &[usize], values| LabelMask::from_array(Array { shape: shape.to_vec(), values }).unwrap();
        let sky = |value: &MaskValue| (*value == MaskValue::Index(2)).then(|| "sky".to_owned());
        let gray = mask(&[1, 3], ArrayValues::U8(vec![0, 2, 255])).class_map(sky).unwrap();
        assert_eq!((gray.classes().join(" "), gray.pixels(1, 3)), ("sky 255".to_owned(), vec![0, 1, 2]));
        let wide = mask(&[1, 3], ArrayValues::I64(vec![-1, 2, 300])).class_map(sky).unwrap();
        assert_eq!((wide.classes().join(" "), wide.pixels(1, 3)), ("-1 sky 300".to_owned(), vec![1, 2, 3]));
        let rgb = mask(&[1, 2, 3], ArrayValues::U8(vec![0, 0, 0, 1, 2, 3])).class_map(sky).unwrap();
        assert_eq!((rgb.classes().join(" "), rgb.pixels(1, 2)), ("#010203".to_owned(), vec![0, 1]));
        let background = mask(&[1, 1], ArrayValues::U8(vec![0])).class_map(|_| Some("background".to_owned())).unwrap();
        assert_eq!(background.classes(), ["background"], "where it is named");
    }

    #[test]
    fn shapes_that_are_no_masks_are_refused() {
        for shape in [vec![6], vec![1, 3, 2], vec![1, 1, 2, 3], vec![0, 3], vec![3, 0, 3]] {
            let count = shape.iter().product();
            let array = Array { shape, values: ArrayValues::U8(vec![0; count]) };
            assert!(LabelMask::from_array(array).is_err());
        }
    }

    #[test]
    fn gray_and_rgb_are_not_mixed_up() {
        let gray = LabelMask::from_array(Array { shape: vec![1, 1], values: ArrayValues::U8(vec![1]) }).unwrap();
        let error = gray.select(&MaskValue::Rgb([255, 0, 16])).unwrap_err().to_string();
        assert!(error.contains("gray") && error.contains("#ff0010"), "{error}");
        let rgb = LabelMask::from_array(Array { shape: vec![1, 1, 3], values: ArrayValues::U8(vec![1, 2, 3]) }).unwrap();
        assert!(rgb.select(&MaskValue::Index(1)).unwrap_err().to_string().contains("RGB"));
        assert_eq!(rgb.values(), [(MaskValue::Rgb([1, 2, 3]), 1)]);
        assert_eq!(rgb.nonzero().count(), 1);
    }
}
