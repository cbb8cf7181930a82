//! Images of which camflow once took other pixels than Pillow, by the first bytes and tags of their files.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use super::file::open_regular;

/// Whether heatmaps of the image may have been made from other pixels than it is read to now: TIFF with associated alpha or
/// JPEG inside, bitmaps of 16 bits. Looked at is what is called so; a file that cannot be read is none of them.
pub fn was_read_otherwise(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    let look: fn(File) -> io::Result<bool> = match extension.to_str() {
        Some("tif" | "tiff") => tiff,
        Some("bmp") => bitmap,
        _ => return false,
    };
    match open_regular(path) {
        Ok(Ok((file, _))) => look(file).unwrap_or(false),
        _ => false,
    }
}

fn bitmap(mut file: File) -> io::Result<bool> {
    let mut start = [0; 30];
    file.read_exact(&mut start)?;
    Ok(start.starts_with(b"BM") && start[28..] == [16, 0])
}

/// Large TIFFs were refused.
fn tiff(mut file: File) -> io::Result<bool> {
    let mut start = [0; 8];
    file.read_exact(&mut start)?;
    let is_big_endian = start.starts_with(b"MM\0\x2a");
    if !is_big_endian && !start.starts_with(b"II\x2a\0") {
        return Ok(false);
    }
    let number = |bytes: &[u8]| {
        let fold = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
        if is_big_endian { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) }
    };
    file.seek(SeekFrom::Start(number(&start[4..]).into()))?;
    let mut count = [0; 2];
    file.read_exact(&mut count)?;
    let mut entries = Vec::new();
    file.take(12 * u64::from(number(&count))).read_to_end(&mut entries)?;
    // Compression 7 is JPEG; an extra sample of kind 1 is associated alpha.
    let is_one = |entry: &[u8]| matches!((number(&entry[..2]), number(&entry[8..10])), (259, 7) | (338, 1));
    Ok(entries.chunks_exact(12).any(is_one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_otherwise_is_found_by_its_tags() {
        let was = |name: &str| was_read_otherwise(&Path::new("testdata").join(name));
        for name in ["color_associated_alpha.tif", "color_associated_alpha16.tif", "color_jpeg.tif", "color_555.bmp"] {
            assert!(was(name), "{name}");
        }
        for name in ["color_rgb.tif", "color_large.tif", "color_gray_alpha.tif", "color_palette.bmp", "color_420.jpg", "no.tif"] {
            assert!(!was(name), "{name}");
        }
    }
}
