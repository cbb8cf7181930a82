//! Image files to RGB pixels, as FiftyOne's torch models see them: `PIL.Image.open(path).convert("RGB")`.
//!
//! What that means (Pillow 13, compared file by file): alpha is dropped, not blended; 16-bit gray is *clipped* at 255, while
//! 16-bit gray with alpha and 16-bit colour lose their low byte; palettes become their colours; colour profiles are ignored;
//! of an animation the first frame counts. The content decides the format, never the name.

use std::{io::Cursor, path::Path};

use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::{
    content::read_file,
    error::MediaError,
    jpeg,
    orientation::{ExifPolicy, Orientation},
    turns::wait_for_turn,
};

/// An image in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// u8 `[height, width, 3]`, row by row, in the order red, green, blue.
    pub pixels: Vec<u8>,
    /// How the App turns these pixels before it shows them: [`Orientation::Upright`] for nearly every image, and for all that
    /// were read with [`ExifPolicy::Apply`].
    pub orientation: Orientation,
}

impl RgbImage {
    /// An upright image.
    ///
    /// # Panics
    /// `pixels` is not `height * width * 3` long.
    pub fn new(height: usize, width: usize, pixels: Vec<u8>) -> Self {
        assert_eq!(pixels.len(), height * width * 3, "pixels of another shape");
        RgbImage { height, width, pixels, orientation: Orientation::Upright }
    }
}

/// How much one file may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Height times width. The default, 178,956,970, is where Pillow (and so FiftyOne) refuses.
    pub max_pixels: u64,
    /// Bytes of the file, and bytes of its pixels while decoding. The default is 2 GiB.
    pub max_bytes: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        ImageLimits { max_pixels: 178_956_970, max_bytes: 2 << 30 }
    }
}

impl ImageLimits {
    /// How many bytes a mask in a document may have.
    pub(super) fn array_bytes(&self) -> u64 {
        // Eight bytes a pixel are the most that any type takes.
        self.max_bytes.min(self.max_pixels.saturating_mul(8))
    }

    /// Whether a mask in a document has no more pixels than are allowed.
    pub(super) fn check_mask(&self, height: usize, width: usize) -> Result<(), MediaError> {
        let most = self.max_pixels;
        match height as u64 * width as u64 > most {
            true => Err(MediaError::mask(format!("its {height} x {width} pixels are more than the {most} that are allowed"))),
            false => Ok(()),
        }
    }
}

/// Reads an image as RGB.
///
/// # Errors
/// As for [`FileContent::read`](super::FileContent::read), or the file changed while it was read, is of an unknown format, larger
/// than the limits, damaged or truncated.
pub fn read_image(path: &Path, limits: &ImageLimits, exif: ExifPolicy) -> Result<RgbImage, MediaError> {
    parse_image(path, &read_file(path, limits.max_bytes)?, limits, exif)
}

/// Reads an image from the content of its file, as [`read_image`] does; the path is for errors.
///
/// # Errors
/// The content is of an unknown format, larger than the limits, damaged or truncated.
pub fn parse_image(path: &Path, bytes: &[u8], limits: &ImageLimits, exif: ExifPolicy) -> Result<RgbImage, MediaError> {
    let (format, picture) = decode(path, bytes, limits)?;
    let (height, width, pixels) = to_rgb(path, picture)?;
    let orientation = match format {
        // Neither format carries EXIF.
        ImageFormat::Gif | ImageFormat::Bmp => Orientation::Upright,
        _ => Orientation::of_file(bytes),
    };
    // Pillow turns TIFF upright while loading, so there the models see what the tag says, too.
    if exif == ExifPolicy::Apply || format == ImageFormat::Tiff {
        if orientation == Orientation::Upright {
            return Ok(RgbImage::new(height, width, pixels));
        }
        let (pixels, height, width) = orientation.turn(&pixels, height, width, 3);
        return Ok(RgbImage::new(height, width, pixels));
    }
    Ok(RgbImage { height, width, pixels, orientation })
}

/// Samples as they are in the file, before anything is made of them.
pub(super) struct Picture {
    pub(super) image: DynamicImage,
    /// Whether the file is gray without an alpha channel, although its decoder made one: a PNG may declare one level
    /// transparent, which Pillow and OpenCV both ignore.
    pub(super) alpha_is_a_level: bool,
}

/// Decodes the first frame.
pub(super) fn decode(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<(ImageFormat, Picture), MediaError> {
    let undecodable = |reason: String| MediaError::Undecodable { path: path.to_owned(), reason };
    let check = |height: usize, width: usize| check_size(path, height, width, limits);
    if jpeg::is_jpeg(bytes) {
        let jpeg = jpeg::decode(bytes, check).map_err(undecodable)??;
        let (width, height) = (jpeg.width as u32, jpeg.height as u32);
        let image = if jpeg.is_gray {
            let gray = image::GrayImage::from_raw(width, height, jpeg.samples);
            gray.map(DynamicImage::from)
        } else {
            let rgb = image::RgbImage::from_raw(width, height, jpeg.samples);
            rgb.map(DynamicImage::from)
        };
        let image = image.ok_or_else(|| undecodable("fewer pixels than its size says".into()))?;
        return Ok((ImageFormat::Jpeg, Picture { image, alpha_is_a_level: false }));
    }

    let format = match image::guess_format(bytes) {
        Ok(format) if format.reading_enabled() => format,
        Ok(format) => {
            let what = format!("holds a {format:?} image: convert it to PNG or JPEG");
            return Err(MediaError::UnsupportedFormat { path: path.to_owned(), what });
        }
        Err(_) => {
            let what = "does not begin like an image file".to_owned();
            return Err(MediaError::UnsupportedFormat { path: path.to_owned(), what });
        }
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut memory = image::Limits::no_limits();
    memory.max_alloc = Some(limits.max_bytes);
    reader.limits(memory);
    let decoder = reader.into_decoder().map_err(|error| undecodable(error.to_string()))?;
    let (width, height) = decoder.dimensions();
    check(height as usize, width as usize)?;
    // Wider pixels are refused below; before they take memory is better.
    if decoder.color_type().bytes_per_pixel() > 8 {
        return Err(wide_pixels(path, decoder.color_type()));
    }
    // The colour type in a PNG's first chunk; 0 is gray.
    let alpha_is_a_level = format == ImageFormat::Png && bytes.get(25) == Some(&0);
    let image = DynamicImage::from_decoder(decoder).map_err(|error| undecodable(error.to_string()))?;
    Ok((format, Picture { image, alpha_is_a_level }))
}

fn check_size(path: &Path, height: usize, width: usize, limits: &ImageLimits) -> Result<(), MediaError> {
    let pixels = height as u64 * width as u64;
    // Three bytes per pixel is the least that any image takes here.
    let max_pixels = limits.max_pixels.min(limits.max_bytes / 3);
    if pixels == 0 {
        let reason = format!("its size is {height} x {width}");
        return Err(MediaError::Undecodable { path: path.to_owned(), reason });
    }
    if pixels > max_pixels {
        return Err(MediaError::TooLarge {
            path: path.to_owned(),
            what: format!("{height} x {width} pixels"),
            limit: format!("{max_pixels} pixels"),
        });
    }
    wait_for_turn(pixels, 0);
    Ok(())
}

fn wide_pixels(path: &Path, color: ColorType) -> MediaError {
    let reason = format!("{color:?} pixels are not read: convert it to 8 bits per channel");
    MediaError::Undecodable { path: path.to_owned(), reason }
}

/// Pillow's `convert("RGB")`: height, width, pixels.
fn to_rgb(path: &Path, picture: Picture) -> Result<(usize, usize, Vec<u8>), MediaError> {
    let (height, width) = (picture.image.height() as usize, picture.image.width() as usize);
    let high = |sample: u16| (sample >> 8) as u8;
    let pixels: Vec<u8> = match picture.image {
        DynamicImage::ImageRgb8(rgb) => rgb.into_raw(),
        DynamicImage::ImageLuma8(gray) => gray.as_raw().iter().flat_map(|&v| [v; 3]).collect(),
        DynamicImage::ImageLumaA8(gray) => gray.as_raw().chunks_exact(2).flat_map(|v| [v[0]; 3]).collect(),
        DynamicImage::ImageRgba8(rgba) => rgba.as_raw().chunks_exact(4).flat_map(|v| [v[0], v[1], v[2]]).collect(),
        DynamicImage::ImageLuma16(gray) => gray.as_raw().iter().flat_map(|&v| [v.min(255) as u8; 3]).collect(),
        // A gray image whose transparency is one level, not a channel: Pillow's mode `I;16`, which clips.
        DynamicImage::ImageLumaA16(gray) if picture.alpha_is_a_level => {
            gray.as_raw().chunks_exact(2).flat_map(|v| [v[0].min(255) as u8; 3]).collect()
        }
        DynamicImage::ImageLumaA16(gray) => gray.as_raw().chunks_exact(2).flat_map(|v| [high(v[0]); 3]).collect(),
        DynamicImage::ImageRgb16(rgb) => rgb.as_raw().iter().map(|&v| high(v)).collect(),
        DynamicImage::ImageRgba16(rgba) => {
            rgba.as_raw().chunks_exact(4).flat_map(|v| [high(v[0]), high(v[1]), high(v[2])]).collect()
        }
        other => return Err(wide_pixels(path, other.color())),
    };
    Ok((height, width, pixels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{ArrayValues, read_array_file};
    use std::{fs, path::PathBuf};

    fn testdata(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/media/testdata").join(name)
    }

    fn read(path: &Path) -> Result<RgbImage, MediaError> {
        read_image(path, &ImageLimits::default(), ExifPolicy::Ignore)
    }

    /// `testdata/color_*.npy` is what FiftyOne's loader made of the picture of that name; see `make.py`.
    #[test]
    fn pictures_are_read_as_fiftyone_reads_them() {
        let mut compared = 0;
        for entry in fs::read_dir(testdata("")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.starts_with("color_") || name.ends_with(".npy") {
                continue;
            }
            let expected = testdata(&format!("{}.npy", name.replace('.', "_")));
            let expected = read_array_file(&expected, 1 << 20).unwrap();
            let ours = read(&path).unwrap();
            assert_eq!(expected.shape, [ours.height, ours.width, 3], "{name}");
            assert!(expected.values == ArrayValues::U8(ours.pixels), "{name} differs");
            compared += 1;
        }
        assert!(compared >= 20, "only {compared} pictures were found");
    }

    #[test]
    fn exif_is_reported_or_applied() {
        for name in ["color_turned.jpg", "color_turned.png", "color_turned.webp"] {
            let stored = read(&testdata(name)).unwrap();
            assert_eq!((stored.height, stored.width), (10, 16), "{name}");
            assert_eq!(stored.orientation, Orientation::Rotate90, "{name}");
            let shown = read_image(&testdata(name), &ImageLimits::default(), ExifPolicy::Apply).unwrap();
            assert_eq!((shown.height, shown.width), (16, 10), "{name}");
            assert_eq!(shown.orientation, Orientation::Upright, "{name}");
            // Turned clockwise, the bottom left corner comes to the top left.
            assert_eq!(shown.pixels[..3], stored.pixels[9 * 16 * 3..][..3], "{name}");
        }
        let tiff = read(&testdata("color_turned.tif")).unwrap();
        assert_eq!((tiff.height, tiff.orientation), (16, Orientation::Upright));
    }

    #[test]
    fn the_content_decides_not_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photo.jpg");
        fs::copy(testdata("color_rgb.png"), &path).unwrap();
        assert_eq!(read(&path).unwrap(), read(&testdata("color_rgb.png")).unwrap());
    }

    #[test]
    fn what_is_no_image_gives_a_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photo.jpg");
        let error = || read(&path).unwrap_err().to_string();
        assert!(error().contains("photo.jpg"), "missing file");
        fs::write(&path, "").unwrap();
        assert!(error().contains("empty"), "{}", error());
        fs::write(&path, "not an image").unwrap();
        assert!(error().contains("does not begin like an image"), "{}", error());
        fs::write(&path, b"P6 1 1 255 abc").unwrap();
        assert!(error().contains("Pnm"), "{}", error());
        assert!(read(folder.path()).unwrap_err().to_string().contains("a folder"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_no_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photo.jpg");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert!(read(&path).unwrap_err().to_string().contains("pipe"));
        assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("device"));
        // A regular file by its own account, of 0 bytes, that blocks whoever reads it.
        assert!(read(Path::new("/proc/kmsg")).is_err());
        // A file without blocks on disk, as large as no image is.
        fs::remove_file(&path).unwrap();
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("is too large: 1099511627776 bytes"));
    }

    #[test]
    fn truncated_files_of_every_format_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut");
        for name in ["color_420.jpg", "color_rgb.png", "color_palette.bmp", "color_rgb.tif", "color_lossy.webp"] {
            let whole = fs::read(testdata(name)).unwrap();
            for kept in [1, 3, 12, whole.len() / 2, whole.len() * 3 / 4] {
                fs::write(&path, &whole[..kept]).unwrap();
                assert!(read(&path).is_err(), "{kept} bytes of {name}");
            }
        }
    }

    #[test]
    fn limits_hold_for_every_format() {
        let limits = ImageLimits { max_pixels: 1000, ..ImageLimits::default() };
        for name in ["color_420.jpg", "color_rgb.png", "color_palette.gif", "color_lossy.webp"] {
            let error = read_image(&testdata(name), &limits, ExifPolicy::Ignore).unwrap_err();
            assert!(error.to_string().contains("37 x 53 pixels"), "{error}");
        }
        let limits = ImageLimits { max_bytes: 100, ..ImageLimits::default() };
        let error = read_image(&testdata("color_420.jpg"), &limits, ExifPolicy::Ignore).unwrap_err();
        assert!(error.to_string().contains("the limit is 100 bytes"), "{error}");
    }

    #[test]
    fn a_header_that_promises_a_giant_takes_no_memory() {
        // The size of a BMP stands at byte 18: 60,000 x 60,000.
        let mut file = fs::read(testdata("color_palette.bmp")).unwrap();
        file[18..26].copy_from_slice(&[0x60, 0xea, 0, 0, 0x60, 0xea, 0, 0]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("giant.bmp");
        fs::write(&path, file).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("60000 x 60000"));
    }
}
