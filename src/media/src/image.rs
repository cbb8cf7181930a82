//! Image files to RGB pixels, as FiftyOne's torch models see them: `PIL.Image.open(path).convert("RGB")`.
//!
//! What that means (Pillow 13, compared file by file): alpha is dropped, not blended; 16-bit gray is *clipped* at 255, while
//! 16-bit gray with alpha and 16-bit colour lose their low byte; palettes become their colours; colour profiles are ignored;
//! of an animation the first frame counts. The content decides the format, never the name.

use std::{io::Cursor, path::Path};

use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use image_extras::{pcx::PCXDecoder, sgi::SgiDecoder};

use super::{
    bitmap::{self, IconContent},
    content::read_file,
    error::MediaError,
    format::Format,
    gif, jpeg,
    orientation::{ExifPolicy, Orientation},
    picture::{Picture, Samples},
    png_repair, portable, tiff,
    turns::wait_for_turn,
    webp,
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
    /// Whether levels of the file lie outside of 0 to 255, and were cut to it.
    pub is_clipped: bool,
}

impl RgbImage {
    /// An upright image.
    ///
    /// # Panics
    /// `pixels` is not `height * width * 3` long.
    pub fn new(height: usize, width: usize, pixels: Vec<u8>) -> Self {
        assert_eq!(pixels.len(), height * width * 3, "pixels of another shape");
        RgbImage { height, width, pixels, orientation: Orientation::Upright, is_clipped: false }
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
    /// Height times width of an image that goes through the model in slices: 1.5 GiB of 8-bit colours.
    pub const IN_SLICES: u64 = 1 << 29;

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
    let Decoded { picture, orientation, is_turned_at_once, .. } = decode(path, bytes, limits)?;
    let (height, width, is_clipped) = (picture.height, picture.width, picture.is_clipped());
    let pixels = picture.into_rgb();
    let image = match orientation {
        Orientation::Upright => RgbImage::new(height, width, pixels),
        _ if exif == ExifPolicy::Apply || is_turned_at_once => {
            let (pixels, height, width) = orientation.turn(&pixels, height, width, 3);
            RgbImage::new(height, width, pixels)
        }
        _ => RgbImage { orientation, ..RgbImage::new(height, width, pixels) },
    };
    Ok(RgbImage { is_clipped, ..image })
}

/// The first image of a file.
pub(super) struct Decoded {
    pub(super) format: Format,
    pub(super) picture: Picture,
    pub(super) orientation: Orientation,
    /// Whether Pillow turns it upright while it loads.
    pub(super) is_turned_at_once: bool,
}

/// Decodes the first image of a file.
pub(super) fn decode(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<Decoded, MediaError> {
    let undecodable = |reason: String| MediaError::Undecodable { path: path.to_owned(), reason };
    let check = |height: usize, width: usize| check_size(path, height, width, limits);
    let format = Format::of(bytes).map_err(|what| MediaError::UnsupportedFormat { path: path.to_owned(), what })?;
    let (picture, orientation) = match format {
        Format::Jpeg => {
            let jpeg = jpeg::decode(bytes, check).map_err(undecodable)??;
            let samples = if jpeg.is_gray { Samples::Gray(jpeg.samples) } else { Samples::Rgb(jpeg.samples) };
            let picture = Picture { is_a_mask: !jpeg.is_cmyk, ..Picture::new(jpeg.height, jpeg.width, samples) };
            (picture, Orientation::of_file(bytes))
        }
        Format::Tiff => {
            let tiff = tiff::decode(bytes, limits.max_bytes, check).map_err(undecodable)??;
            (tiff.picture, tiff.orientation)
        }
        Format::Png => {
            let picture = match by_library(path, bytes, ImageFormat::Png, limits) {
                Err(error @ MediaError::Undecodable { .. }) => {
                    let repaired = png_repair::repaired(bytes, limits).ok_or(error)?;
                    by_library(path, &repaired, ImageFormat::Png, limits)?
                }
                other => other?,
            };
            (picture, Orientation::of_file(bytes))
        }
        Format::WebP => {
            // The decoder takes memory for the frame, before it compares it with the picture.
            webp::frame_sizes(bytes).try_for_each(|(height, width)| check(height, width))?;
            (by_library(path, bytes, ImageFormat::WebP, limits)?, Orientation::of_file(bytes))
        }
        Format::Gif => {
            let mut picture = by_library(path, bytes, ImageFormat::Gif, limits)?;
            gif::fill_around_first_frame(bytes, &mut picture);
            // OpenCV makes transparent pixels white.
            let is_a_mask = !picture.is_transparent();
            (Picture { is_a_mask, ..picture }, Orientation::Upright)
        }
        Format::Bmp => (bmp(path, bytes, limits)?, Orientation::Upright),
        Format::Ico => (icon(path, bytes, limits)?, Orientation::Upright),
        Format::Tga => {
            let mut picture = by_library(path, bytes, ImageFormat::Tga, limits)?;
            bitmap::scale_targa_as_pillow(bytes, &mut picture);
            (Picture { is_a_mask: false, ..picture }, Orientation::Upright)
        }
        Format::Qoi => {
            let picture = by_library(path, bytes, ImageFormat::Qoi, limits)?;
            (Picture { is_a_mask: false, ..picture }, Orientation::Upright)
        }
        Format::Pcx => (by_decoder(path, PCXDecoder::new(Cursor::new(bytes)), limits)?, Orientation::Upright),
        Format::Sgi => {
            let picture = by_decoder(path, SgiDecoder::new(Cursor::new(bytes)), limits)?;
            (picture.without_low_bytes(), Orientation::Upright)
        }
        Format::Portable => (portable::decode(bytes, check).map_err(undecodable)??, Orientation::Upright),
    };
    Ok(Decoded { format, picture, orientation, is_turned_at_once: format == Format::Tiff })
}

/// A bitmap as Pillow reads it.
fn bmp(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<Picture, MediaError> {
    if bitmap::skips_pixels(bytes) {
        let reason = "its run lengths skip pixels, whose colour nobody says: convert it to PNG".to_owned();
        return Err(MediaError::Undecodable { path: path.to_owned(), reason });
    }
    let mut picture = by_library(path, bytes, ImageFormat::Bmp, limits)?;
    bitmap::scale_as_pillow(bytes, &mut picture);
    Ok(Picture { is_a_mask: bitmap::is_of_whole_bytes(bytes), ..picture })
}

/// The icon of a file that Pillow takes: the largest, without its transparency.
fn icon(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<Picture, MediaError> {
    let undecodable = || MediaError::Undecodable { path: path.to_owned(), reason: "its list of icons is damaged".to_owned() };
    let content = bitmap::largest_icon(bytes).ok_or_else(undecodable)?;
    let picture = match &content {
        IconContent::Png(png) => by_library(path, png, ImageFormat::Png, limits)?,
        IconContent::Bitmap(file) => bmp(path, file, limits)?,
    };
    Ok(Picture { is_a_mask: false, ..picture })
}

/// Decodes a format for which the `image` crate has a decoder.
fn by_library(path: &Path, bytes: &[u8], format: ImageFormat, limits: &ImageLimits) -> Result<Picture, MediaError> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(memory(limits));
    let picture = by_decoder(path, reader.into_decoder(), limits)?;
    // The colour type in a PNG's first chunk; 0 is gray.
    let alpha_is_a_level = format == ImageFormat::Png && bytes.get(25) == Some(&0);
    Ok(Picture { alpha_is_a_level, is_a_mask: true, ..picture })
}

fn memory(limits: &ImageLimits) -> image::Limits {
    let mut memory = image::Limits::no_limits();
    memory.max_alloc = Some(limits.max_bytes);
    memory
}

/// Decodes by a decoder of the `image` crate's kind.
fn by_decoder<D: ImageDecoder>(path: &Path, decoder: image::ImageResult<D>, limits: &ImageLimits) -> Result<Picture, MediaError> {
    let undecodable = |reason: String| MediaError::Undecodable { path: path.to_owned(), reason };
    let failed = |error: image::ImageError| undecodable(error.to_string());
    let mut decoder = decoder.map_err(failed)?;
    decoder.set_limits(memory(limits)).map_err(failed)?;
    let (width, height) = decoder.dimensions();
    check_size(path, height as usize, width as usize, limits)?;
    let wide = |color: ColorType| undecodable(format!("{color:?} pixels are not read: convert it to 8 bits per channel"));
    // Wider pixels are refused below; before they take memory is better.
    if decoder.color_type().bytes_per_pixel() > 8 {
        return Err(wide(decoder.color_type()));
    }
    let image = DynamicImage::from_decoder(decoder).map_err(failed)?;
    Ok(Picture { is_a_mask: false, ..Picture::try_from(image).map_err(wide)? })
}

pub(super) fn check_size(path: &Path, height: usize, width: usize, limits: &ImageLimits) -> Result<(), MediaError> {
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
            limit: match max_pixels < ImageLimits::IN_SLICES {
                true => format!("{max_pixels} pixels, in slices (`--slice-height`) {}", ImageLimits::IN_SLICES),
                false => format!("{max_pixels} pixels"),
            },
        });
    }
    wait_for_turn(pixels, 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ArrayValues, read_array_file};
    use std::{fs, path::PathBuf};

    fn testdata(name: &str) -> PathBuf {
        Path::new("testdata").join(name)
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
        assert!(read(folder.path()).unwrap_err().to_string().contains("a folder"));
    }

    #[test]
    fn what_is_another_thing_is_called_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photo.jpg");
        let cases: [(&[u8], &str); 12] = [
            (b"<!DOCTYPE html>\n<html><body>404", "web page"),
            (b"\n <HTML>", "web page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
            (b"\0\0\0\x20ftypavif\0\0\0\0avif", "AVIF"),
            (b"\0\0\0\x18ftypisom\0\0\x02\0", "video"),
            (b"\xff\x0a\0\0", "JPEG XL"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
            (b"<?xml version=\"1.0\"?>\n<svg/>", "SVG"),
            (b"%PDF-1.7", "PDF"),
            (b"{\"error\": 403}", "text"),
            (&[0; 700], "zeros"),
        ];
        for (content, word) in cases {
            fs::write(&path, content).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("photo.jpg") && error.contains(word) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn gray_of_more_than_8_bits_is_clipped_and_said() {
        assert!(read(&testdata("color_gray16.png")).unwrap().is_clipped);
        assert!(read(&testdata("color_float.tif")).unwrap().is_clipped);
        assert!(!read(&testdata("color_rgb16.png")).unwrap().is_clipped);
        assert!(!read(&testdata("color_rgb.png")).unwrap().is_clipped);
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
        for name in [
            "color_420.jpg",
            "color_rgb.png",
            "color_palette.bmp",
            "color_rgb.tif",
            "color_lossy.webp",
            "color_tiles.tif",
            "color_large.tif",
            "color_zstd.tif",
            "color_levels.ppm",
            "color_rle.tga",
            "color_alpha.qoi",
            "color_rgb.sgi",
        ] {
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
        for name in ["color_420.jpg", "color_rgb.png", "color_palette.gif", "color_lossy.webp", "color_arithmetic.jpg"] {
            let error = read_image(&testdata(name), &limits, ExifPolicy::Ignore).unwrap_err();
            assert!(error.to_string().contains("37 x 53 pixels"), "{error}");
        }
        let limits = ImageLimits { max_pixels: 500, ..ImageLimits::default() };
        for name in
            ["color_tiles.tif", "color_levels.ppm", "color_rle.tga", "color_alpha.qoi", "color_rgb.sgi", "color_palette.pcx"]
        {
            let error = read_image(&testdata(name), &limits, ExifPolicy::Ignore).unwrap_err();
            assert!(error.to_string().contains("21 x 34 pixels"), "{error}");
        }
        let limits = ImageLimits { max_bytes: 100, ..ImageLimits::default() };
        let error = read_image(&testdata("color_420.jpg"), &limits, ExifPolicy::Ignore).unwrap_err();
        assert!(error.to_string().contains("the limit is 100 bytes"), "{error}");
    }

    #[test]
    fn a_frame_that_is_larger_than_its_picture_takes_no_memory() {
        // The first byte of the width in the frame of a WebP; its highest bits follow.
        let mut file = fs::read(testdata("color_turned.webp")).unwrap();
        let frame = file.windows(3).position(|bytes| bytes == [0x9d, 0x01, 0x2a]).unwrap();
        file[frame + 3..frame + 7].copy_from_slice(&[0xff, 0x3f, 0xff, 0x3f]);
        let error = parse_image(Path::new("a.webp"), &file, &ImageLimits::default(), ExifPolicy::Ignore).unwrap_err();
        assert!(error.to_string().contains("16383 x 16383 pixels"), "{error}");
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
