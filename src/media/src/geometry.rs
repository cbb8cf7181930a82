//! The small types that say which pixels are meant, and how a mask gets onto the grid of a model.

use std::fmt;

/// How a class is marked in a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaskValue {
    /// The pixel value of a grayscale mask.
    Index(i64),
    /// The colour of an RGB mask.
    Rgb([u8; 3]),
    /// Whatever is not 0, or not black: of a mask that marks one kind of object and nothing else.
    Object,
}

impl fmt::Display for MaskValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaskValue::Index(index) => write!(f, "{index}"),
            MaskValue::Rgb([r, g, b]) => write!(f, "#{r:02x}{g:02x}{b:02x}"),
            MaskValue::Object => f.write_str("the object's"),
        }
    }
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
    /// Height of the image in pixels, as it was read: stored, or turned upright.
    pub image_height: usize,
    /// Width of the image in pixels, as it was read.
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

/// A window on an image; may reach beyond it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Crop {
    pub(super) top: i64,
    pub(super) left: i64,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Crop {
    /// The window's samples `[height, width, channels]` of those of an image of the given size; `fill` where it reaches beyond.
    pub(super) fn window<T: Copy>(self, samples: &[T], (rows, columns): (usize, usize), channels: usize, fill: T) -> Vec<T> {
        let mut cut = vec![fill; self.height * self.width * channels];
        // The part of the window that lies on the image.
        let first = self.left.max(0);
        let count = (self.left + self.width as i64).min(columns as i64) - first;
        for y in 0..self.height {
            let row = self.top + y as i64;
            if count > 0 && (0..rows as i64).contains(&row) {
                let from = (row as usize * columns + first as usize) * channels;
                let to = (y * self.width + (first - self.left) as usize) * channels;
                let length = count as usize * channels;
                cut[to..to + length].copy_from_slice(&samples[from..from + length]);
            }
        }
        cut
    }
}

/// Why a pixel is not in a model's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// The image is smaller.
    Image,
    /// The input was cut out beside it.
    Crop,
}

impl FrameRegion {
    /// Of an input that is the whole image, neither resized nor cropped.
    pub fn whole(height: usize, width: usize) -> FrameRegion {
        FrameRegion { image_height: height, image_width: width, frame_height: height, frame_width: width, top: 0, left: 0 }
    }

    /// Whether the model's input of `height` x `width` pixels shows other than the whole image.
    pub fn is_cropped(&self, height: usize, width: usize) -> bool {
        (self.top, self.left) != (0, 0) || (self.frame_height, self.frame_width) != (height, width)
    }

    /// The part of the model's input of `height` x `width` pixels that shows the image; `None` where all of it does.
    pub fn part_with_image(&self, height: usize, width: usize) -> Option<BinaryMask> {
        let is_padded = |offset: i64, side: usize, frame: usize| offset < 0 || offset + side as i64 > frame as i64;
        (is_padded(self.top, height, self.frame_height) || is_padded(self.left, width, self.frame_width))
            .then(|| BinaryMask::full(1, 1).on_input(self, height, width))
    }

    /// Where a box of the image (left, top, width and height in fractions of its sides) lies in a model's input of `height` x `width`
    /// pixels: left, top, right and bottom in fractions of its sides, cut off at them; `None` where nothing of it does.
    pub fn place_box(&self, [left, top, width, height]: [f64; 4], input: (usize, usize)) -> Option<[f64; 4]> {
        let along = |fraction: f64, frame: usize, offset: i64, side: usize| {
            ((fraction * frame as f64 - offset as f64) / side as f64).clamp(0.0, 1.0)
        };
        let x = |fraction: f64| along(fraction, self.frame_width, self.left, input.1);
        let y = |fraction: f64| along(fraction, self.frame_height, self.top, input.0);
        let (left, right, top, bottom) = (x(left), x(left + width), y(top), y(top + height));
        (left < right && top < bottom).then_some([left, top, right, bottom])
    }

    /// The way back of [`FrameRegion::place_box`]: left, top, width and height in fractions of the image's sides, cut off at them; `None`
    /// where nothing of the box lies in the image, or its numbers are none.
    pub fn box_on_image(&self, [left, top, right, bottom]: [f64; 4], input: (usize, usize)) -> Option<[f64; 4]> {
        let along = |fraction: f64, frame: usize, offset: i64, side: usize| {
            ((fraction * side as f64 + offset as f64) / frame as f64).clamp(0.0, 1.0)
        };
        let x = |fraction: f64| along(fraction, self.frame_width, self.left, input.1);
        let y = |fraction: f64| along(fraction, self.frame_height, self.top, input.0);
        let (left, right, top, bottom) = (x(left), x(right), y(top), y(bottom));
        (left < right && top < bottom).then_some([left, top, right - left, bottom - top])
    }

    /// Of each row and each column of the image the one that shows it in a map of `map` rows and columns over a model's input of `input`
    /// pixels; `None` of those that the model does not see.
    pub fn shown_by(&self, map: (usize, usize), input: (usize, usize)) -> [Vec<Option<usize>>; 2] {
        let along = |image: usize, frame: usize, offset: i64, side: usize, length: usize| {
            let of_position = |position: usize| {
                let in_frame = (position as f64 + 0.5) * frame as f64 / image as f64;
                let fraction = (in_frame - offset as f64) / side as f64;
                (0.0..1.0).contains(&fraction).then(|| ((fraction * length as f64) as usize).min(length - 1))
            };
            (0..image).map(of_position).collect()
        };
        [
            along(self.image_height, self.frame_height, self.top, input.0, map.0),
            along(self.image_width, self.frame_width, self.left, input.1, map.1),
        ]
    }

    /// Where the middle of a pixel of the image (row `y`, column `x`) lies in a model's input of `height` x `width` pixels, in
    /// fractions `(y, x)` of its sides in `[0, 1)`.
    ///
    /// # Errors
    /// It is not there.
    pub fn place(&self, y: usize, x: usize, height: usize, width: usize) -> Result<(f64, f64), Outside> {
        if y >= self.image_height || x >= self.image_width {
            return Err(Outside::Image);
        }
        let along = |position: usize, image: usize, frame: usize, offset: i64, side: usize| {
            let in_frame = (position as f64 + 0.5) * frame as f64 / image as f64;
            let fraction = (in_frame - offset as f64) / side as f64;
            if (0.0..1.0).contains(&fraction) { Ok(fraction) } else { Err(Outside::Crop) }
        };
        Ok((
            along(y, self.image_height, self.frame_height, self.top, height)?,
            along(x, self.image_width, self.frame_width, self.left, width)?,
        ))
    }
}

/// Nearest neighbour over `[height, width]`: row `i` of the result is row `floor(i * old / new)`, in whole numbers. This is the
/// convention of torch's `nearest` and of `cv2.INTER_NEAREST`; where the quotient is whole, those two round it in floating point
/// and at times, each at other places (2 and 7 positions of 10,000), take the row before.
pub fn resize_nearest(pixels: &[u8], (old_height, old_width): (usize, usize), (height, width): (usize, usize)) -> Vec<u8> {
    let columns: Vec<usize> = (0..width).map(|x| x * old_width / width).collect();
    let mut resized = Vec::with_capacity(height * width);
    for y in 0..height {
        let row = &pixels[y * old_height / height * old_width..][..old_width];
        resized.extend(columns.iter().map(|&x| row[x]));
    }
    resized
}

impl BinaryMask {
    /// One without any pixel of the class.
    pub fn empty(height: usize, width: usize) -> BinaryMask {
        BinaryMask { height, width, pixels: vec![0; height * width] }
    }

    /// One of which every pixel is the class's.
    pub fn full(height: usize, width: usize) -> BinaryMask {
        BinaryMask { height, width, pixels: vec![1; height * width] }
    }

    /// How many pixels the class has.
    pub fn count(&self) -> usize {
        self.pixels.iter().filter(|&&pixel| pixel != 0).count()
    }

    /// The mask of the mirrored image (left and right exchanged).
    pub fn mirrored(&self) -> BinaryMask {
        let rows = self.pixels.chunks_exact(self.width.max(1));
        let pixels = rows.flat_map(|row| row.iter().rev().copied()).collect();
        BinaryMask { height: self.height, width: self.width, pixels }
    }

    /// See [`resize_nearest`].
    pub fn resize_nearest(&self, height: usize, width: usize) -> BinaryMask {
        BinaryMask { height, width, pixels: resize_nearest(&self.pixels, (self.height, self.width), (height, width)) }
    }

    /// The mask, of whatever resolution over the whole image, as one over a model's input of `height` x `width` pixels that lies
    /// in the image as `region` says. Where nothing was cropped that is the mask itself, at its own resolution.
    pub fn on_input(self, region: &FrameRegion, height: usize, width: usize) -> BinaryMask {
        if region.is_cropped(height, width) { self.crop_to(region, height, width) } else { self }
    }

    /// The mask over a model's input (of the input's size) as one over the frame: the way back of [`BinaryMask::on_input`].
    pub fn onto_frame(&self, region: &FrameRegion) -> BinaryMask {
        let mut frame = BinaryMask::empty(region.frame_height, region.frame_width);
        for (y, row) in frame.pixels.chunks_exact_mut(region.frame_width.max(1)).enumerate() {
            let Some(of_input) = usize::try_from(y as i64 - region.top).ok().filter(|y| *y < self.height) else { continue };
            for (x, pixel) in row.iter_mut().enumerate() {
                let column = usize::try_from(x as i64 - region.left).ok().filter(|x| *x < self.width);
                *pixel = column.map_or(0, |column| self.pixels[of_input * self.width + column]);
            }
        }
        frame
    }

    /// The mask resized to the frame as by [`BinaryMask::resize_nearest`], and cut out. Padding around the image belongs to no
    /// class.
    fn crop_to(&self, region: &FrameRegion, height: usize, width: usize) -> BinaryMask {
        let source = |position: usize, offset: i64, frame: usize, side: usize| {
            let in_frame = usize::try_from(position as i64 + offset).ok()?;
            (in_frame < frame).then(|| in_frame * side / frame)
        };
        let columns: Vec<Option<usize>> = (0..width).map(|x| source(x, region.left, region.frame_width, self.width)).collect();
        let mut pixels = Vec::with_capacity(height * width);
        for y in 0..height {
            match source(y, region.top, region.frame_height, self.height) {
                None => pixels.resize(pixels.len() + width, 0),
                Some(row) => {
                    let row = &self.pixels[row * self.width..][..self.width];
                    pixels.extend(columns.iter().map(|x| x.map_or(0, |x| row[x])));
                }
            }
        }
        BinaryMask { height, width, pixels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirroring_turns_every_row_around() {
        let mask = BinaryMask { height: 2, width: 3, pixels: vec![1, 0, 0, 0, 1, 1] };
        assert_eq!(mask.mirrored().pixels, [0, 0, 1, 1, 1, 0]);
    }

    #[test]
    fn nearest_takes_the_floor() {
        let mask = BinaryMask { height: 1, width: 3, pixels: vec![1, 0, 1] };
        // torch: F.interpolate(size=5, mode="nearest") picks columns 0 0 1 1 2; to 2: 0 1.
        assert_eq!(mask.resize_nearest(2, 5).pixels, [1, 1, 0, 0, 1, 1, 1, 0, 0, 1]);
        assert_eq!(mask.resize_nearest(1, 2).pixels, [1, 0]);
        assert_eq!(mask.resize_nearest(1, 3), mask);
    }

    #[test]
    fn a_pixel_is_found_in_a_resized_and_cropped_input() {
        // 100 x 200 to 50 x 100, of which the middle 40 x 40 are the input.
        let region = FrameRegion { image_height: 100, image_width: 200, frame_height: 50, frame_width: 100, top: 5, left: 30 };
        let (y, x) = region.place(50, 100, 40, 40).expect("inside");
        assert!((y - (25.25 - 5.0) / 40.0).abs() < 1e-12 && (x - (50.25 - 30.0) / 40.0).abs() < 1e-12, "{y} {x}");
        assert_eq!(region.place(9, 100, 40, 40), Err(Outside::Crop), "above the crop");
        assert!(region.place(10, 60, 40, 40).is_ok(), "its first pixel");
        assert!(region.place(89, 139, 40, 40).is_ok(), "its last pixel");
        assert_eq!(region.place(50, 140, 40, 40), Err(Outside::Crop), "right of the crop");
        assert_eq!(region.place(100, 100, 40, 40), Err(Outside::Image), "there is no such row");
    }

    #[test]
    fn pixels_of_the_image_are_shown_where_they_are_placed() {
        let region = FrameRegion { image_height: 100, image_width: 200, frame_height: 50, frame_width: 100, top: 5, left: -30 };
        let [rows, columns] = region.shown_by((20, 40), (40, 140));
        assert_eq!(rows.len(), 100);
        for (y, row) in rows.into_iter().enumerate() {
            for x in [0, 77, 199] {
                let placed = region.place(y, x, 40, 140).ok();
                let wanted = placed.map(|(y, x)| ((y * 20.0) as usize, (x * 40.0) as usize));
                assert_eq!(row.zip(columns[x]), wanted, "{y} {x}");
            }
        }
        assert_eq!(FrameRegion::whole(2, 3).shown_by((2, 3), (2, 3)), [vec![Some(0), Some(1)], vec![Some(0), Some(1), Some(2)]]);
    }

    #[test]
    fn padding_shows_nothing_of_the_image() {
        let region = FrameRegion { image_height: 2, image_width: 2, frame_height: 2, frame_width: 3, top: 0, left: 0 };
        assert_eq!(region.part_with_image(2, 3), None);
        assert_eq!(region.part_with_image(1, 2), None, "a crop");
        assert_eq!(region.part_with_image(3, 4).expect("padded").pixels, [1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(FrameRegion { left: -1, ..region }.part_with_image(1, 2).expect("padded").pixels, [0, 1]);
    }

    #[test]
    fn a_crop_equals_resizing_then_cutting() {
        let pixels = (0..35).map(|i| u8::from(i % 3 == 0)).collect();
        let mask = BinaryMask { height: 5, width: 7, pixels };
        let frame = mask.resize_nearest(11, 9);
        let region = FrameRegion { image_height: 50, image_width: 70, frame_height: 11, frame_width: 9, top: 3, left: -2 };
        let cut = mask.crop_to(&region, 6, 13);
        for y in 0..6 {
            for x in 0..13_usize {
                let expected = match x.checked_sub(2).filter(|&x| x < 9) {
                    Some(x) => frame.pixels[(y + 3) * 9 + x],
                    None => 0,
                };
                assert_eq!(cut.pixels[y * 13 + x], expected, "{y} {x}");
            }
        }
        assert!(cut.count() > 0);
        // And back: what was cut off is empty.
        let back = cut.onto_frame(&region);
        for (pixel, value) in back.pixels.iter().enumerate() {
            let expected = if (3..9).contains(&(pixel / 9)) { frame.pixels[pixel] } else { 0 };
            assert_eq!(*value, expected, "{pixel}");
        }
    }
}
