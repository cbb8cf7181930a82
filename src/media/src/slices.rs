//! Images that are cut into overlapping slices, each of which a model sees as an image of its own, and how the maps of the slices
//! become one map: where slices lie, and what each of them gives to each place of that map.
//!
//! Along one side all is a matrix: what slices give is the product of one for the rows and one for the columns. Of an overlap the
//! outer quarters are not used, as there a slice knows the least of what surrounds a pixel; over the half between them the one slice
//! goes over into the other. So a network that sees no further than a quarter of the overlap gives what it gives for the whole image.

use std::ops::Range;

use super::geometry::{BinaryMask, FrameRegion};

/// How images that are larger than a slice are cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slicing {
    /// Rows of a slice, in pixels of the image.
    pub height: usize,
    /// Columns of a slice.
    pub width: usize,
    /// The part of its height that a slice shares with the next one, at least, in `[0, 1)`.
    pub overlap_height: f64,
    /// Likewise of its width.
    pub overlap_width: f64,
}

impl Slicing {
    /// Whether an image of this size is cut.
    pub fn cuts(&self, height: usize, width: usize) -> bool {
        height > self.height || width > self.width
    }

    /// Rows and columns of each slice of an image of this size.
    pub fn slice_size(&self, height: usize, width: usize) -> (usize, usize) {
        (self.height.min(height), self.width.min(width))
    }
}

/// A part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first row in the image.
    pub top: usize,
    /// Its first column in the image.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Window {
    /// Whether a pixel of the image lies in it.
    pub fn contains(&self, row: usize, column: usize) -> bool {
        (self.top..self.top + self.height).contains(&row) && (self.left..self.left + self.width).contains(&column)
    }

    /// Its samples `[height, width, channels]` of those of an image of this width.
    pub(super) fn cut<T: Copy>(self, samples: &[T], width: usize, channels: usize) -> Vec<T> {
        let mut cut = Vec::with_capacity(self.height * self.width * channels);
        for row in self.top..self.top + self.height {
            cut.extend_from_slice(&samples[(row * width + self.left) * channels..][..self.width * channels]);
        }
        cut
    }

    /// Where a box of an image of `height` x `width` pixels (left, top, width and height in fractions of its sides) lies in this
    /// part, in fractions of the part's sides; it may reach beyond.
    pub fn place_box(&self, [left, top, width, height]: [f64; 4], (rows, columns): (usize, usize)) -> [f64; 4] {
        let (x, y) = (columns as f64 / self.width as f64, rows as f64 / self.height as f64);
        let left = left * x - self.left as f64 / self.width as f64;
        let top = top * y - self.top as f64 / self.height as f64;
        [left, top, width * x, height * y]
    }
}

/// A mask of which eight pixels take a byte: of an image of 20,000 x 20,000 pixels 50 MB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedMask {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    bits: Vec<u8>,
}

impl PackedMask {
    /// The same pixels.
    pub fn of(mask: &BinaryMask) -> Self {
        let byte = |pixels: &[u8]| pixels.iter().enumerate().fold(0, |byte, (bit, pixel)| byte | u8::from(*pixel != 0) << bit);
        PackedMask { height: mask.height, width: mask.width, bits: mask.pixels.chunks(8).map(byte).collect() }
    }

    fn get(&self, row: usize, column: usize) -> u8 {
        let at = row * self.width + column;
        self.bits[at / 8] >> (at % 8) & 1
    }

    /// How many pixels the class has.
    pub fn count(&self) -> usize {
        self.bits.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// The same pixels, a byte each.
    pub fn unpacked(&self) -> BinaryMask {
        self.resize_nearest(self.height, self.width)
    }

    /// As [`BinaryMask::resize_nearest`].
    pub fn resize_nearest(&self, height: usize, width: usize) -> BinaryMask {
        self.sampled(height, width, |y| y * self.height / height, |x| x * self.width / width)
    }

    /// Its part over a part of the image of `image` rows and columns, at the mask's own resolution where that is the image's, else
    /// the nearest pixels at the image's.
    pub fn window(&self, window: Window, image: (usize, usize)) -> BinaryMask {
        let Window { top, left, height, width } = window;
        self.sampled(height, width, |y| (top + y) * self.height / image.0, |x| (left + x) * self.width / image.1)
    }

    fn sampled(&self, height: usize, width: usize, row: impl Fn(usize) -> usize, column: impl Fn(usize) -> usize) -> BinaryMask {
        let columns: Vec<usize> = (0..width).map(column).collect();
        let mut pixels = Vec::with_capacity(height * width);
        for y in 0..height {
            let row = row(y);
            pixels.extend(columns.iter().map(|&column| self.get(row, column)));
        }
        BinaryMask { height, width, pixels }
    }
}

/// The slices along one side of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceAxis {
    /// The image's side, in pixels, as all here.
    length: usize,
    /// The slice's.
    slice: usize,
    /// Where the model's input begins and ends in a slice; it may be padded, and so reach beyond.
    input: [f64; 2],
    /// The part of the slice that the model sees.
    seen: [f64; 2],
    /// Where slices begin.
    pub starts: Vec<usize>,
}

/// What a slice gives to a map of the whole image, along one side.
#[derive(Clone, Debug, PartialEq)]
pub struct SlicePart {
    /// The places in the map that get something.
    pub places: Range<usize>,
    /// `[places, map]`, row by row: what each place gets of each place in the slice's own map.
    pub weights: Vec<f32>,
}

impl SliceAxis {
    /// The rows of slices of a side of `length` pixels. `region` is where the model's input of `input` pixels lies in a slice.
    /// Slices begin at multiples of `align` pixels where that leaves at least the overlap, but for the last one, which ends with the
    /// image.
    pub fn rows(length: usize, overlap: f64, align: usize, region: &FrameRegion, input: usize) -> Self {
        SliceAxis::new(length, overlap, align, [region.image_height, region.frame_height, input], region.top)
    }

    /// Likewise the columns.
    pub fn columns(length: usize, overlap: f64, align: usize, region: &FrameRegion, input: usize) -> Self {
        SliceAxis::new(length, overlap, align, [region.image_width, region.frame_width, input], region.left)
    }

    fn new(length: usize, overlap: f64, align: usize, [slice, frame, input]: [usize; 3], offset: i64) -> Self {
        let scale = slice as f64 / frame as f64;
        let input = [offset as f64 * scale, (offset + input as i64) as f64 * scale];
        let seen = [input[0].max(0.0), input[1].min(slice as f64)];
        // A hair more, as 0.2 of 100 is 20 and no less.
        let step = ((seen[1] - seen[0]) * (1.0 - overlap) + 1e-6) as usize;
        let step = if align <= step { step / align * align } else { step }.max(1);
        let last = length - slice;
        let mut starts: Vec<usize> = (0..last).step_by(step).collect();
        starts.push(last);
        SliceAxis { length, slice, input, seen, starts }
    }

    /// The pixels of the image that one place of a slice's map of so many stands for.
    fn cell(&self, map: usize) -> f64 {
        (self.input[1] - self.input[0]) / map as f64
    }

    /// Where the maps of two slices have the same grid if slices begin at its multiples: the pixels of a place, if they are whole.
    pub fn alignment(&self, map: usize) -> Option<usize> {
        let (cell, first) = (self.cell(map), self.input[0]);
        ((cell - cell.round()).abs() < 1e-9 && cell.round() >= 1.0 && first.fract() == 0.0).then(|| cell.round() as usize)
    }

    /// How many places the map of the whole image has, of slices with maps of `map` places, if `joined` of them become one.
    pub fn places(&self, map: usize, joined: usize) -> usize {
        let own = (self.length as f64 / self.cell(map) - 1e-6).ceil().max(1.0) as usize;
        own.div_ceil(joined)
    }

    /// How much each slice counts at a position in the image; together 1, or 0 where no slice shows it to the model.
    fn weights_at(&self, position: f64) -> Vec<f64> {
        let ramp = |distance: f64, overlap: f64| match overlap > 0.0 {
            true => ((distance - overlap / 4.0) / (overlap / 2.0)).clamp(0.0, 1.0),
            false => 1.0,
        };
        let of_slice = |index: usize| {
            let start = self.starts[index] as f64;
            let [first, last] = self.seen.map(|at| start + at);
            if position < first || position > last {
                return (0.0, -1.0);
            }
            let before = index.checked_sub(1).map(|before| self.starts[before] as f64 + self.seen[1] - first);
            let after = self.starts.get(index + 1).map(|after| last - (*after as f64 + self.seen[0]));
            let (near_first, near_last) = (position - first, last - position);
            let weight = before.map_or(1.0, |overlap| ramp(near_first, overlap));
            (weight.min(after.map_or(1.0, |overlap| ramp(near_last, overlap))), near_first.min(near_last))
        };
        let found: Vec<(f64, f64)> = (0..self.starts.len()).map(of_slice).collect();
        let sum: f64 = found.iter().map(|(weight, _)| weight).sum();
        if sum > 0.0 {
            return found.into_iter().map(|(weight, _)| weight / sum).collect();
        }
        let most = found.iter().map(|(_, central)| *central).fold(-1.0, f64::max);
        let only = found.iter().position(|(_, central)| *central == most && most >= 0.0);
        (0..found.len()).map(|index| if Some(index) == only { 1.0 } else { 0.0 }).collect()
    }

    /// What each slice, with a map of `map` places, gives to the map of the whole image, in which `joined` places became one.
    pub fn parts(&self, map: usize, joined: usize) -> Vec<SlicePart> {
        let (cell, num_places) = (self.cell(map), self.places(map, joined));
        let mut parts: Vec<SlicePart> = self.starts.iter().map(|_| SlicePart { places: 0..0, weights: Vec::new() }).collect();
        for place in 0..num_places {
            let middle = ((place as f64 + 0.5) * joined as f64 * cell).min(self.length as f64 - 0.5);
            for (index, weight) in self.weights_at(middle).into_iter().enumerate().filter(|(_, weight)| *weight > 0.0) {
                let part = &mut parts[index];
                if part.places.is_empty() {
                    part.places = place..place;
                }
                // A slice counts at places that follow each other.
                part.weights.resize((place - part.places.start) * map, 0.0);
                part.places.end = place + 1;
                let mut row = vec![0.0; map];
                for small in 0..joined {
                    let position = ((place * joined + small) as f64 + 0.5) * cell;
                    let at = (position - self.starts[index] as f64 - self.input[0]) / cell - 0.5;
                    let at = if (at - at.round()).abs() < 1e-6 { at.round() } else { at }.clamp(0.0, map as f64 - 1.0);
                    let (first, fraction) = (at as usize, at.fract());
                    row[first] += weight * (1.0 - fraction) / joined as f64;
                    if fraction > 0.0 {
                        row[first + 1] += weight * fraction / joined as f64;
                    }
                }
                part.weights.extend(row.into_iter().map(|weight| weight as f32));
            }
        }
        parts
    }

    /// For each of `places` equal parts of the side the slice that counts most in its middle, with where that middle lies in the
    /// model's input, in fractions of it; `None` where no slice shows it to the model.
    pub fn owners(&self, places: usize) -> Vec<Option<(usize, f64)>> {
        let owner = |place: usize| {
            let position = (place as f64 + 0.5) * self.length as f64 / places as f64;
            let weights = self.weights_at(position);
            let largest = weights.iter().copied().fold(0.0, f64::max);
            let index = weights.iter().position(|weight| *weight == largest && largest > 0.0)?;
            let within = position - self.starts[index] as f64 - self.input[0];
            Some((index, (within / (self.input[1] - self.input[0])).clamp(0.0, 1.0)))
        };
        (0..places).map(owner).collect()
    }

    /// Pixels of a slice.
    pub fn slice(&self) -> usize {
        self.slice
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Crop;

    fn axis(length: usize, slice: usize, overlap: f64, align: usize) -> SliceAxis {
        SliceAxis::rows(length, overlap, align, &FrameRegion::whole(slice, slice), slice)
    }

    #[test]
    fn slices_overlap_and_the_last_one_ends_with_the_image() {
        assert_eq!(axis(100, 100, 0.2, 1).starts, [0]);
        assert_eq!(axis(250, 100, 0.2, 1).starts, [0, 80, 150]);
        assert_eq!(axis(250, 100, 0.0, 1).starts, [0, 100, 150]);
        assert_eq!(axis(256, 64, 0.2, 16).starts, [0, 48, 96, 144, 192], "aligned, with more than the overlap");
        assert_eq!(axis(250, 100, 0.2, 90).starts, [0, 80, 150], "too coarse to be aligned");
    }

    #[test]
    fn what_slices_give_adds_up_to_one_everywhere() {
        for (length, slice, overlap, align, map, joined) in [
            (256, 64, 0.2, 16, 4, 1),
            (250, 100, 0.2, 1, 7, 1),
            (250, 100, 0.0, 1, 25, 1),
            (101, 100, 0.2, 1, 50, 1),
            (999, 100, 0.5, 1, 100, 3),
        ] {
            let axis = axis(length, slice, overlap, align);
            let mut sums = vec![0.0; axis.places(map, joined)];
            for part in axis.parts(map, joined) {
                assert_eq!(part.weights.len(), part.places.len() * map);
                for (place, weights) in part.places.zip(part.weights.chunks_exact(map)) {
                    sums[place] += weights.iter().sum::<f32>();
                }
            }
            assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-5), "{length} {slice}: {sums:?}");
        }
    }

    #[test]
    fn the_maps_of_aligned_slices_are_put_side_by_side_as_they_are() {
        let axis = axis(256, 64, 0.25, 8);
        assert_eq!(axis.alignment(8), Some(8));
        let parts = axis.parts(8, 1);
        // A map that says where it is in the image comes back.
        let mut merged = vec![0.0; axis.places(8, 1)];
        for (part, start) in parts.iter().zip(&axis.starts) {
            for (place, weights) in part.places.clone().zip(part.weights.chunks_exact(8)) {
                merged[place] += weights
                    .iter()
                    .zip(0u8..)
                    .map(|(weight, at)| weight * (start / 8) as f32 + weight * f32::from(at))
                    .sum::<f32>();
            }
        }
        assert_eq!(merged, (0..32u8).map(f32::from).collect::<Vec<_>>());
        // The outer quarter of an overlap of 16 pixels is not used.
        assert_eq!(axis.weights_at(50.0), [1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(axis.weights_at(56.0), [0.5, 0.5, 0.0, 0.0, 0.0]);
        assert_eq!(axis.weights_at(62.0), [0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn places_that_are_joined_are_the_mean_of_theirs() {
        let axis = axis(16, 8, 0.0, 8);
        let parts = axis.parts(8, 4);
        assert_eq!(parts.iter().map(|part| part.places.clone()).collect::<Vec<_>>(), [0..2, 2..4]);
        assert_eq!(parts[1].weights[..8], [0.25, 0.25, 0.25, 0.25, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_part_that_a_crop_leaves_out_is_shown_by_another_slice_or_by_none() {
        // Of 64 pixels the model sees the 48 in the middle.
        let region = FrameRegion { top: 8, left: 8, ..FrameRegion::whole(64, 64) };
        let axis = SliceAxis::rows(256, 0.25, 1, &region, 48);
        assert_eq!(axis.starts[..2], [0, 36]);
        assert_eq!(axis.weights_at(4.0).iter().sum::<f64>(), 0.0);
        assert!((8..248).all(|at| (axis.weights_at(f64::from(at) + 0.5).iter().sum::<f64>() - 1.0).abs() < 1e-9));
        let owners = axis.owners(256);
        assert_eq!([owners[4], owners[255]], [None, None]);
        assert_eq!(owners[8], Some((0, 0.5 / 48.0)));
    }

    #[test]
    fn packed_masks_are_the_same_masks() {
        let pixels: Vec<u8> = (0..5 * 7).map(|at| u8::from(at * at % 3 == 1)).collect();
        let mask = BinaryMask { height: 5, width: 7, pixels };
        let packed = PackedMask::of(&mask);
        assert_eq!((packed.count(), packed.unpacked()), (mask.count(), mask.clone()));
        assert_eq!(packed.resize_nearest(3, 11), mask.resize_nearest(3, 11));
        let window = Window { top: 1, left: 2, height: 3, width: 4 };
        let crop = Crop { top: 1, left: 2, height: 3, width: 4 };
        assert_eq!(packed.window(window, (5, 7)).pixels, crop.window(&mask.pixels, (5, 7), 1, 0));
        let twice = packed.window(Window { top: 2, left: 4, height: 2, width: 2 }, (10, 14));
        assert_eq!(twice.pixels, [mask.pixels[9]; 4]);
    }

    #[test]
    fn boxes_go_along_with_the_part() {
        let window = Window { top: 50, left: 100, height: 50, width: 50 };
        let placed = window.place_box([0.5, 0.5, 0.25, 0.1], (100, 200));
        assert!(placed.iter().zip([0.0, 0.0, 1.0, 0.2]).all(|(found, wanted)| (found - wanted).abs() < 1e-12), "{placed:?}");
    }
}
