//! How a map at a layer's resolution becomes the heatmap over the image: what a small file is enough for.

use super::geometry::FrameRegion;

/// Of what a label may name, in pixels.
const MAX_SIDE: usize = 1 << 16;

/// pytorch_grad_cam's guard against division by zero.
const EPSILON: f32 = 1e-7;

/// The way from a map `[H', W']` in `[0, 1]` to a heatmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upsampling {
    /// Height and width to which the map is resized; it is scaled to `[0, 1]` again at that size.
    pub size: (usize, usize),
    /// Where that lies, if it is not the whole image: the rest of the frame is zero.
    pub region: Option<FrameRegion>,
    /// Whether the frame is resized to the image.
    pub is_image: bool,
}

impl Upsampling {
    /// Height and width of the heatmap.
    pub fn output(&self) -> (usize, usize) {
        match self.region {
            None => self.size,
            Some(region) if self.is_image => (region.image_height, region.image_width),
            Some(region) => (region.frame_height, region.frame_width),
        }
    }

    /// As labels hold it: height and width after the first resize; then, for a part of the image, height and width of the frame, and
    /// the part's first row and column; then, for a heatmap of the image's size, that.
    pub fn to_numbers(&self) -> Vec<i64> {
        let side = |side: usize| side as i64;
        let mut numbers = vec![side(self.size.0), side(self.size.1)];
        if let Some(region) = self.region {
            numbers.extend([side(region.frame_height), side(region.frame_width), region.top, region.left]);
            if self.is_image {
                numbers.extend([side(region.image_height), side(region.image_width)]);
            }
        }
        numbers
    }

    /// What [`Upsampling::to_numbers`] gave; `None` for other numbers.
    pub fn of_numbers(numbers: &[i64]) -> Option<Self> {
        let side = |number: i64| usize::try_from(number).ok().filter(|side| (1..=MAX_SIDE).contains(side));
        let size = |height: i64, width: i64| Some((side(height)?, side(width)?));
        let (input, region) = numbers.split_at_checked(2)?;
        let mut upsampling = Upsampling { size: size(input[0], input[1])?, region: None, is_image: region.len() == 6 };
        if let [height, width, top, left, image @ ..] = region {
            let (frame_height, frame_width) = size(*height, *width)?;
            let (image_height, image_width) = match image {
                [] => (frame_height, frame_width),
                [height, width] => size(*height, *width)?,
                _ => return None,
            };
            let is_near = |offset: i64| offset.unsigned_abs() <= MAX_SIDE as u64;
            let region = FrameRegion { image_height, image_width, frame_height, frame_width, top: *top, left: *left };
            upsampling.region = Some(region).filter(|_| is_near(*top) && is_near(*left));
            upsampling.region?;
        } else if !region.is_empty() {
            return None;
        }
        Some(upsampling)
    }

    /// The heatmap, row by row, of a map of `height` x `width`.
    ///
    /// # Panics
    /// The map has another size, or none.
    pub fn apply(&self, map: &[f32], (height, width): (usize, usize)) -> Vec<f32> {
        let mut heatmap = resize(map, (height, width), self.size);
        scale(&mut heatmap);
        let Some(region) = self.region else { return heatmap };
        let frame = place(&heatmap, self.size, &region);
        match self.is_image {
            true => resize(&frame, (region.frame_height, region.frame_width), (region.image_height, region.image_width)),
            false => frame,
        }
    }

    /// Whether a heatmap is what [`Upsampling::apply`] gives, each value within 1e-6: a device may round otherwise than this does.
    ///
    /// # Panics
    /// As [`Upsampling::apply`].
    pub fn gives(&self, heatmap: &[f32], map: &[f32], size: (usize, usize)) -> bool {
        let again = self.apply(map, size);
        // All are compared, which a compiler does several at once.
        let agree = |so_far: bool, (again, value): (&f32, &f32)| so_far & ((again - value).abs() <= 1e-6);
        again.len() == heatmap.len() && again.iter().zip(heatmap).fold(true, agree)
    }
}

/// Min-max to `[0, 1]`.
fn scale(map: &mut [f32]) {
    let least = map.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = map.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least + EPSILON;
    map.iter_mut().for_each(|value| *value = (*value - least) / largest);
}

/// The part of the frame that the map shows, with zeros around; what the map shows beside the frame is left out.
fn place(map: &[f32], (height, width): (usize, usize), region: &FrameRegion) -> Vec<f32> {
    let mut frame = vec![0.0; region.frame_height * region.frame_width];
    let columns = overlap(region.left, width, region.frame_width);
    for row in overlap(region.top, height, region.frame_height) {
        let from = |left: i64| (row - region.top) as usize * width + (left - region.left) as usize;
        let to = |left: i64| row as usize * region.frame_width + left as usize;
        frame[to(columns.start)..to(columns.end)].copy_from_slice(&map[from(columns.start)..from(columns.end)]);
    }
    frame
}

/// Of a side that begins at `offset`, what lies in the frame.
fn overlap(offset: i64, length: usize, frame: usize) -> std::ops::Range<i64> {
    let from = offset.clamp(0, frame as i64);
    from..(offset + length as i64).clamp(from, frame as i64)
}

/// A pixel of the output between two of the input.
struct Between {
    first: usize,
    second: usize,
    weight: f32,
}

/// Along one side, with half-pixel centres. Positions are rounded as libtorch rounds them, once.
fn between(from: usize, to: usize) -> Vec<Between> {
    let ratio = f64::from(from as f32 / to as f32);
    let position = |index: usize| ((ratio * (index as f64 + 0.5) - 0.5) as f32).max(0.0);
    (0..to)
        .map(position)
        .map(|position| {
            let first = (position as usize).min(from - 1);
            Between { first, second: (first + 1).min(from - 1), weight: position - first as f32 }
        })
        .collect()
}

/// Bilinear with half-pixel centres and no antialiasing, as `cv2.resize` with `INTER_LINEAR`.
fn resize(map: &[f32], (height, width): (usize, usize), to: (usize, usize)) -> Vec<f32> {
    if (height, width) == to {
        return map.to_vec();
    }
    let columns = between(width, to.1);
    let mix = |first: f32, second: f32, weight: f32| first * (1.0 - weight) + second * weight;
    let rows: Vec<Vec<f32>> = map
        .chunks_exact(width)
        .map(|row| columns.iter().map(|at| mix(row[at.first], row[at.second], at.weight)).collect())
        .collect();
    let mut resized = Vec::with_capacity(to.0 * to.1);
    for at in between(height, to.0) {
        let (first, second) = (&rows[at.first], &rows[at.second]);
        resized.extend(first.iter().zip(second).map(|(first, second)| mix(*first, *second, at.weight)));
    }
    resized
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: [f32; 6] = [0.0, 0.5, 1.0, 0.25, 0.75, 0.0];

    fn near(found: &[f32], wanted: &[f32]) {
        assert_eq!(found.len(), wanted.len());
        assert!(found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-6), "{found:?} {wanted:?}");
    }

    #[test]
    fn pixels_between_two_are_their_mean_and_edges_stay() {
        let upsampling = Upsampling { size: (1, 4), region: None, is_image: false };
        near(&upsampling.apply(&[0.0, 1.0], (1, 2)), &[0.0, 0.25, 0.75, 1.0]);
        assert_eq!((upsampling.to_numbers(), upsampling.output()), (vec![1, 4], (1, 4)));
    }

    #[test]
    fn a_heatmap_of_other_values_is_another_one() {
        let upsampling = Upsampling { size: (1, 4), region: None, is_image: false };
        let gives = |heatmap: &[f32]| upsampling.gives(heatmap, &[0.0, 1.0], (1, 2));
        assert!(gives(&[0.0, 0.25, 0.75, 1.0]) && gives(&[0.0, 0.25, 0.750_000_5, 1.0]));
        assert!(!gives(&[0.0, 0.25, 0.750_01, 1.0]) && !gives(&[0.0, f32::NAN, 0.75, 1.0]) && !gives(&[0.0, 0.25, 0.75]));
    }

    #[test]
    fn what_resizing_shrank_is_stretched_again() {
        let upsampling = Upsampling { size: (1, 2), region: None, is_image: false };
        near(&upsampling.apply(&[0.0, 1.0, 2.0, 3.0], (1, 4)), &[0.0, 1.0]);
        near(&upsampling.apply(&[0.5; 4], (1, 4)), &[0.0, 0.0]);
    }

    #[test]
    fn a_part_goes_to_its_place() {
        let region = FrameRegion { image_height: 6, image_width: 8, frame_height: 3, frame_width: 4, top: 1, left: -1 };
        let upsampling = Upsampling { size: (2, 3), region: Some(region), is_image: false };
        near(&upsampling.apply(&MAP, (2, 3)), &[0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 0.0, 0.0, 0.75, 0.0, 0.0, 0.0]);
        assert_eq!((upsampling.to_numbers(), upsampling.output()), (vec![2, 3, 3, 4, 1, -1], (3, 4)));
        for numbers in [&[][..], &[2], &[2, 3, 3], &[0, 3], &[2, 1 << 40], &[2, 3, 3, 4, i64::MIN, 0], &[2, 3, 3, 4, 0, 0, 6]] {
            assert_eq!(Upsampling::of_numbers(numbers), None, "{numbers:?}");
        }
        let image = Upsampling { is_image: true, ..upsampling };
        for one in [upsampling, image, Upsampling { region: None, ..upsampling }] {
            let again = Upsampling::of_numbers(&one.to_numbers()).expect("its own");
            assert_eq!((again.to_numbers(), again.output()), (one.to_numbers(), one.output()));
        }
        assert_eq!((image.to_numbers(), image.output()), (vec![2, 3, 3, 4, 1, -1, 6, 8], (6, 8)));
        assert_eq!(image.apply(&MAP, (2, 3)).len(), 48);
        let beside = FrameRegion { top: 7, ..region };
        near(&Upsampling { region: Some(beside), ..upsampling }.apply(&MAP, (2, 3)), &[0.0; 12]);
    }
}
