//! The small types that say which pixels are meant.

/// How a class is marked in a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaskValue {
    /// The pixel value of a grayscale mask.
    Index(i64),
    /// The colour of an RGB mask.
    Rgb([u8; 3]),
}

/// The pixels of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinaryMask {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// u8 `[height, width]`, row by row: 1 where the class is, else 0.
    pub pixels: Vec<u8>,
}

/// Where the model's input lies in the image.
///
/// Preprocessing resizes the whole image to a *frame* and may then crop the input out of it. Without a crop, input and frame
/// are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRegion {
    /// Height of the image in pixels, as displayed.
    pub image_height: usize,
    /// Width of the image in pixels, as displayed.
    pub image_width: usize,
    /// Height of the resized image.
    pub frame_height: usize,
    /// Width of the resized image.
    pub frame_width: usize,
    /// First row of the input in the frame; negative where the crop is larger than the frame and was padded.
    pub top: i64,
    /// First column of the input in the frame.
    pub left: i64,
}
