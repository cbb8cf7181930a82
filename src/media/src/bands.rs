//! Images at their full depth, with any number of channels: what models of 16-bit, multi-band and floating-point images are given.
//!
//! Other than in [`parse_image`](super::parse_image) no level is cut and no channel is made up: samples are those of the file.

use std::path::Path;

use super::{
    array::{ArrayValues, parse_array},
    error::MediaError,
    file::shown,
    format::Format,
    geometry::Crop,
    image::{Decoded, ImageLimits, RgbImage, check_size, decode},
    orientation::{ExifPolicy, Orientation},
    picture::Samples,
    portable,
    step::SampleRange,
    tiff,
    turns::wait_for_turn,
};

/// What the samples of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Whole numbers from 0 to 255.
    Bits8,
    /// Whole numbers from 0 to 65535.
    Bits16,
    /// Whole numbers with a sign or of more bits, or floating point.
    Other,
}

/// An image of any number of channels in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct BandImage {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Samples of each pixel.
    pub channels: usize,
    /// f32 `[height, width, channels]`; whole numbers beyond 2^24 are rounded.
    pub samples: Vec<f32>,
    /// What they were in the file.
    pub depth: Depth,
    /// Whether the last channel is the file's alpha.
    pub has_alpha: bool,
    /// As in [`RgbImage`].
    pub orientation: Orientation,
}

/// The file's first bytes of a `.npy` array.
const NPY: &[u8] = b"\x93NUMPY";

/// Reads an image at its full depth from the content of its file; the path is for errors. Arrays (`.npy`) are `[H, W]`, `[H, W, C]` or
/// `[C, H, W]`.
pub(super) fn parse_bands(
    path: &Path,
    bytes: &[u8],
    limits: &ImageLimits,
    exif: ExifPolicy,
    channels: usize,
    range: SampleRange,
) -> Result<BandImage, MediaError> {
    let image = match bytes.starts_with(NPY) {
        true => of_array(path, bytes, limits, Some(channels))?,
        false => of_picture(path, bytes, limits)?,
    };
    image.with_channels(path, channels)?.within(path, range).map(|image| image.turned(exif))
}

/// A picture of any file that a model may be given, for people to look at.
///
/// It is the image as [`read_image`](super::read_image) gives it, but where that cuts levels or does not read the file: then the
/// first three channels are red, green and blue, or the first one is gray if there are fewer, and the range of their samples becomes 0
/// to 255.
///
/// # Errors
/// As for [`read_image`](super::read_image), of neither reading.
pub fn read_picture(path: &Path, limits: &ImageLimits, exif: ExifPolicy) -> Result<RgbImage, MediaError> {
    let bytes = super::content::read_file(path, limits.max_bytes)?;
    let plain = super::image::parse_image(path, &bytes, limits, exif);
    if matches!(&plain, Ok(image) if !image.is_clipped) {
        return plain;
    }
    let bands = match bytes.starts_with(NPY) {
        true => of_array(path, &bytes, limits, None),
        false => of_picture(path, &bytes, limits),
    };
    match bands {
        Ok(bands) => Ok(bands.turned(exif).picture()),
        Err(_) => plain,
    }
}

fn of_picture(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<BandImage, MediaError> {
    let undecodable = |reason: String| MediaError::Undecodable { path: path.to_owned(), reason };
    let format = Format::of(bytes).map_err(|what| MediaError::UnsupportedFormat { path: path.to_owned(), what })?;
    if format == Format::Tiff {
        let check = |height, width| check_size(path, height, width, limits);
        if let Some(bands) = tiff::decode_bands(bytes, limits.max_bytes, check).map_err(undecodable)? {
            return bands;
        }
    }
    // Their decoders leave 8 bits of 16, or scale levels.
    let is_changed = match format {
        Format::Sgi => bytes.get(3) == Some(&2),
        Format::Portable => portable::changes_levels(bytes),
        _ => false,
    };
    if is_changed {
        return Err(undecodable("its levels are not read at full depth: convert it to PNG or TIFF".to_owned()));
    }
    let Decoded { picture, orientation, .. } = decode(path, bytes, limits)?;
    let (height, width, alpha_is_a_level) = (picture.height, picture.width, picture.alpha_is_a_level);
    let of_bytes = |samples: Vec<u8>| samples.into_iter().map(f32::from).collect::<Vec<f32>>();
    let of_words = |samples: Vec<u16>| samples.into_iter().map(f32::from).collect::<Vec<f32>>();
    wait_for_turn(0, 16 * height as u64 * width as u64);
    let (channels, depth, has_alpha, samples) = match picture.samples {
        Samples::Gray(samples) => (1, Depth::Bits8, false, of_bytes(samples)),
        Samples::GrayAlpha(samples) => (2, Depth::Bits8, true, of_bytes(samples)),
        Samples::Rgb(samples) => (3, Depth::Bits8, false, of_bytes(samples)),
        Samples::Rgba(samples) => (4, Depth::Bits8, true, of_bytes(samples)),
        Samples::Gray16(samples) => (1, Depth::Bits16, false, of_words(samples)),
        Samples::GrayAlpha16(samples) => (2, Depth::Bits16, true, of_words(samples)),
        Samples::Rgb16(samples) => (3, Depth::Bits16, false, of_words(samples)),
        Samples::Rgba16(samples) => (4, Depth::Bits16, true, of_words(samples)),
        // A PGM of 65536 levels.
        Samples::Integers(samples) if format == Format::Portable => {
            (1, Depth::Bits16, false, samples.into_iter().map(|sample| sample as f32).collect())
        }
        Samples::Integers(samples) => (1, Depth::Other, false, samples.into_iter().map(|sample| sample as f32).collect()),
        Samples::Floats(samples) => (1, Depth::Other, false, samples),
    };
    let image = BandImage { height, width, channels, samples, depth, has_alpha, orientation };
    // The transparency of a gray PNG is one level, and no channel.
    Ok(if alpha_is_a_level && channels == 2 { image.without_last() } else { image })
}

fn of_array(path: &Path, bytes: &[u8], limits: &ImageLimits, wanted: Option<usize>) -> Result<BandImage, MediaError> {
    let origin = format!("`{}`", shown(path));
    let array = parse_array(bytes, &origin)?;
    let wanted_text = wanted.map_or("C".to_owned(), |channels| channels.to_string());
    let refused = |what: &str| {
        MediaError::array(
            &origin,
            format!("holds shape {:?}, {what}: an image is [H, W], [H, W, {wanted_text}] or [{wanted_text}, H, W]", array.shape),
        )
    };
    let is_last = |channels: usize| wanted.map_or(channels <= MAX_CHANNELS, |wanted| wanted == channels);
    let (height, width, channels, is_first) = match array.shape[..] {
        [height, width] => (height, width, 1, false),
        [first, _, last] if is_last(first) && is_last(last) && first != 1 && wanted.is_some() => {
            return Err(refused("of which the first and the last side may be its channels"));
        }
        [height, width, channels] if is_last(channels) => (height, width, channels, false),
        [channels, height, width] if is_last(channels) => (height, width, channels, true),
        _ => return Err(refused("which is none of an image")),
    };
    check_size(path, height, width, limits)?;
    let depth = match &array.values {
        ArrayValues::Bool(_) | ArrayValues::U8(_) => Depth::Bits8,
        ArrayValues::U16(_) => Depth::Bits16,
        _ => Depth::Other,
    };
    wait_for_turn(0, 4 * (height * width * channels) as u64);
    let mut samples = array.values.to_f32();
    if is_first {
        let plane = height * width;
        samples =
            (0..plane).flat_map(|at| (0..channels).map(move |channel| channel * plane + at)).map(|at| samples[at]).collect();
    }
    Ok(BandImage { height, width, channels, samples, depth, has_alpha: false, orientation: Orientation::Upright })
}

/// More are of no image.
pub(super) const MAX_CHANNELS: usize = 32;

impl BandImage {
    fn without_last(self) -> BandImage {
        let channels = self.channels - 1;
        let samples = self.samples.chunks_exact(self.channels).flat_map(|pixel| &pixel[..channels]).copied().collect();
        BandImage { channels, samples, has_alpha: false, ..self }
    }

    /// The image with as many channels as a model wants; alpha is dropped where it is one too many.
    fn with_channels(self, path: &Path, wanted: usize) -> Result<BandImage, MediaError> {
        match self.channels {
            channels if channels == wanted => Ok(self),
            channels if self.has_alpha && channels == wanted + 1 => Ok(self.without_last()),
            channels => Err(MediaError::Channels { path: path.to_owned(), channels, wanted }),
        }
    }

    /// The image, unless its samples are of another range.
    fn within(self, path: &Path, wanted: SampleRange) -> Result<BandImage, MediaError> {
        let refused = |found: String| Err(MediaError::Range { path: path.to_owned(), found, wanted });
        if let Some(sample) = self.samples.iter().find(|sample| !sample.is_finite()) {
            return Err(MediaError::Undecodable { path: path.to_owned(), reason: format!("it holds the sample {sample}") });
        }
        let largest = match (wanted, self.depth) {
            (SampleRange::AsIs, _) | (SampleRange::Bits8, Depth::Bits8) | (SampleRange::Bits16, Depth::Bits16) => {
                return Ok(self);
            }
            (_, Depth::Bits8) => return refused("8 bits (0 to 255)".to_owned()),
            (_, Depth::Bits16) => return refused("16 bits (0 to 65535)".to_owned()),
            (SampleRange::Bits8, Depth::Other) => 255.0,
            (SampleRange::Bits16, Depth::Other) => 65535.0,
        };
        let (least, most) = range(self.samples.iter().copied());
        // Fractions of 1 would be black, all of them.
        match least < 0.0 || most > largest || (most > 0.0 && most <= 1.0) {
            true => refused(format!("{least} to {most}")),
            false => Ok(self),
        }
    }

    fn turned(self, exif: ExifPolicy) -> BandImage {
        if exif == ExifPolicy::Ignore || self.orientation == Orientation::Upright {
            return self;
        }
        let (samples, height, width) = self.orientation.turn(&self.samples, self.height, self.width, self.channels);
        BandImage { height, width, samples, orientation: Orientation::Upright, ..self }
    }

    /// What people look at: see [`read_picture`].
    pub fn picture(&self) -> RgbImage {
        let colors = if self.channels - usize::from(self.has_alpha) >= 3 { [0, 1, 2] } else { [0; 3] };
        let shown = || self.samples.chunks_exact(self.channels).flat_map(|pixel| colors.map(|channel| pixel[channel]));
        let (least, most) = if self.depth == Depth::Bits8 { (0.0, 255.0) } else { range(shown()) };
        let scale = if most > least { 255.0 / (most - least) } else { 0.0 };
        let pixels = shown().map(|sample| ((sample - least) * scale + 0.5) as u8).collect();
        RgbImage { orientation: self.orientation, ..RgbImage::new(self.height, self.width, pixels) }
    }

    /// The window's samples; `fill` where it reaches beyond the image.
    pub(super) fn cut(&self, crop: Crop, fill: f32) -> BandImage {
        let samples = crop.window(&self.samples, (self.height, self.width), self.channels, fill);
        BandImage { height: crop.height, width: crop.width, samples, ..self.clone_without_samples() }
    }

    /// Everything but samples.
    pub(super) fn clone_without_samples(&self) -> BandImage {
        let &BandImage { height, width, channels, depth, has_alpha, orientation, .. } = self;
        BandImage { height, width, channels, samples: Vec::new(), depth, has_alpha, orientation }
    }

    /// Three channels as the luma of ITU-R 601-2, which is Pillow's `L`; one as it is. `wanted` equal channels come of it.
    pub(super) fn to_gray(&self, wanted: usize) -> BandImage {
        let luma = |pixel: &[f32]| match *pixel {
            [red, green, blue] => 0.299 * red + 0.587 * green + 0.114 * blue,
            _ => pixel[0],
        };
        let samples = self.samples.chunks_exact(self.channels).flat_map(|pixel| std::iter::repeat_n(luma(pixel), wanted));
        BandImage { channels: wanted, samples: samples.collect(), ..self.clone_without_samples() }
    }
}

fn range(samples: impl Iterator<Item = f32>) -> (f32, f32) {
    samples
        .filter(|sample| sample.is_finite())
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), sample| (least.min(sample), most.max(sample)))
}
