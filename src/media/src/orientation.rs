//! Which way up a picture is: the EXIF orientation, and what to do about it.
//!
//! FiftyOne (1.22.1) disagrees with itself here. The loader of its torch models (`Image.open(path).convert("RGB")`) ignores
//! EXIF for JPEG, PNG and WebP, so its predictions lie on the pixels as stored. The browser that shows the App turns the
//! picture, `compute_metadata` swaps width and height of a JPEG, and `cv2.imread` (used for patches, and for models without a
//! data loader) turns too. TIFF is turned by Pillow itself while it loads.

use std::io::Cursor;

/// What to do with an image whose EXIF says that it is to be shown turned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExifPolicy {
    /// Take the pixels as stored: what FiftyOne's torch models see. Their predictions, and heatmaps made with this policy,
    /// appear turned against the picture in the App.
    #[default]
    Ignore,
    /// Turn the pixels upright: what the App shows. Right where labels were drawn by people in an App or a tool that does the
    /// same.
    Apply,
}

/// How stored pixels are to be turned for display: the eight values of EXIF tag 274.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Orientation {
    /// 1: as stored.
    #[default]
    Upright,
    /// 2: mirrored left to right.
    FlipHorizontal,
    /// 3: turned by half.
    Rotate180,
    /// 4: mirrored top to bottom.
    FlipVertical,
    /// 5: rows and columns exchanged.
    Transpose,
    /// 6: turned a quarter clockwise.
    Rotate90,
    /// 7: rows and columns exchanged, then turned by half.
    Transverse,
    /// 8: turned a quarter counter-clockwise.
    Rotate270,
}

impl Orientation {
    /// From the value of EXIF tag 274; anything outside 1 to 8 counts as upright, as in Pillow.
    pub fn from_exif(value: u32) -> Self {
        match value {
            2 => Self::FlipHorizontal,
            3 => Self::Rotate180,
            4 => Self::FlipVertical,
            5 => Self::Transpose,
            6 => Self::Rotate90,
            7 => Self::Transverse,
            8 => Self::Rotate270,
            _ => Self::Upright,
        }
    }

    /// What the EXIF block of a JPEG, PNG, WebP or TIFF file says; upright where there is none or where it is broken, since
    /// no viewer rejects a picture for its EXIF.
    pub(super) fn of_file(bytes: &[u8]) -> Self {
        exif::Reader::new()
            .read_from_container(&mut Cursor::new(bytes))
            .ok()
            .and_then(|exif| exif.get_field(exif::Tag::Orientation, exif::In::PRIMARY)?.value.get_uint(0))
            .map_or(Self::Upright, Self::from_exif)
    }

    /// Whether height and width change places.
    pub fn swaps_sides(self) -> bool {
        matches!(self, Self::Transpose | Self::Rotate90 | Self::Transverse | Self::Rotate270)
    }

    /// Turns `[height, width, channels]` data for display; returns it with its new height and width. For heatmaps, masks
    /// and pictures alike.
    ///
    /// # Panics
    /// `data` is not `height * width * channels` long, or `channels` is 0.
    pub fn turn<T: Copy>(self, data: &[T], height: usize, width: usize, channels: usize) -> (Vec<T>, usize, usize) {
        assert!(channels > 0 && data.len() == height * width * channels, "data of another shape");
        let (new_height, new_width) = if self.swaps_sides() { (width, height) } else { (height, width) };
        let mut turned = Vec::with_capacity(data.len());
        for y in 0..new_height {
            for x in 0..new_width {
                let (row, column) = match self {
                    Self::Upright => (y, x),
                    Self::FlipHorizontal => (y, width - 1 - x),
                    Self::Rotate180 => (height - 1 - y, width - 1 - x),
                    Self::FlipVertical => (height - 1 - y, x),
                    Self::Transpose => (x, y),
                    Self::Rotate90 => (height - 1 - x, y),
                    Self::Transverse => (height - 1 - x, width - 1 - y),
                    Self::Rotate270 => (x, width - 1 - y),
                };
                let at = (row * width + column) * channels;
                turned.extend_from_slice(&data[at..at + channels]);
            }
        }
        (turned, new_height, new_width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `PIL.ImageOps.exif_transpose` on `[[1, 2, 3], [4, 5, 6]]`.
    #[test]
    fn the_eight_orientations_are_those_of_pillow() {
        let stored = [1, 2, 3, 4, 5, 6];
        let expected: [(u32, [u8; 6], usize); 8] = [
            (1, [1, 2, 3, 4, 5, 6], 2),
            (2, [3, 2, 1, 6, 5, 4], 2),
            (3, [6, 5, 4, 3, 2, 1], 2),
            (4, [4, 5, 6, 1, 2, 3], 2),
            (5, [1, 4, 2, 5, 3, 6], 3),
            (6, [4, 1, 5, 2, 6, 3], 3),
            (7, [6, 3, 5, 2, 4, 1], 3),
            (8, [3, 6, 2, 5, 1, 4], 3),
        ];
        for (value, pixels, height) in expected {
            let turned = Orientation::from_exif(value).turn(&stored, 2, 3, 1);
            assert_eq!(turned, (pixels.to_vec(), height, 6 / height), "orientation {value}");
        }
    }

    #[test]
    fn nonsense_counts_as_upright() {
        assert_eq!(Orientation::from_exif(0), Orientation::Upright);
        assert_eq!(Orientation::from_exif(9), Orientation::Upright);
        assert_eq!(Orientation::of_file(b"\xff\xd8\xff\xe1\x00\x04ab"), Orientation::Upright);
    }
}
