//! Changed images for a model that is checked, and the way back from their heatmaps.

use camflow_media::{BinaryMask, InputPixels, Normalization};
use camflow_pipeline::{ClassTarget, DecodedSample, TargetPixels};

/// A change of the model's input after which the heatmap should be the same in another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Motion {
    /// Left becomes right.
    Mirror,
    /// So many pixels to the right and down. What comes in at the sides repeats the pixels there.
    Shift { right: usize, down: usize },
}

impl Motion {
    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Motion::Mirror => "mirrored",
            Motion::Shift { right: 0, .. } => "shifted_down",
            Motion::Shift { .. } => "shifted_right",
        }
    }

    /// Where the pixel comes from that is at this place afterwards.
    fn origin(self, (row, column): (usize, usize), width: usize) -> (usize, usize) {
        match self {
            Motion::Mirror => (row, width - 1 - column),
            Motion::Shift { right, down } => (row.saturating_sub(down), column.saturating_sub(right)),
        }
    }

    /// The sample afterwards, with its targets; `None` where nothing of them is left in it.
    pub(super) fn of(self, sample: &DecodedSample) -> Option<DecodedSample> {
        let (height, width) = (sample.height, sample.width);
        if let Motion::Shift { right, down } = self
            && (right >= width || down >= height)
        {
            return None;
        }
        let places = || (0..height * width).map(|place| self.origin((place / width, place % width), width));
        let pixels = match &sample.pixels {
            InputPixels::Levels(levels) => {
                let channels = levels.len() / (height * width);
                let of = |(row, column): (usize, usize)| &levels[(row * width + column) * channels..][..channels];
                InputPixels::Levels(places().flat_map(of).copied().collect())
            }
            InputPixels::Floats(floats) => {
                let planes = floats.chunks_exact(height * width);
                InputPixels::Floats(planes.flat_map(|plane| places().map(|(row, column)| plane[row * width + column])).collect())
            }
        };
        let targets = sample.targets.iter().map(|target| {
            let pixels = self.of_target(&target.pixels, (height, width))?;
            Some(ClassTarget { pixels, ..target.clone() })
        });
        Some(DecodedSample { pixels, targets: targets.collect::<Option<_>>()?, ..sample.clone() })
    }

    fn of_target(self, pixels: &TargetPixels, (height, width): (usize, usize)) -> Option<TargetPixels> {
        Some(match pixels {
            TargetPixels::Mask(mask) if self == Motion::Mirror => TargetPixels::Mask(mask.mirrored()),
            TargetPixels::Mask(mask) => {
                let Motion::Shift { right, down } = self else { return None };
                let whole = mask.resize_nearest(height, width);
                let mut moved = BinaryMask::empty(height, width);
                for row in down..height {
                    for column in right..width {
                        moved.pixels[row * width + column] = whole.pixels[(row - down) * width + column - right];
                    }
                }
                TargetPixels::Mask(moved)
            }
            TargetPixels::Point { y, x } => {
                let (y, x) = match self {
                    Motion::Mirror => {
                        let column = ((x * width as f64) as usize).min(width - 1);
                        (*y, ((width - 1 - column) as f64 + 0.5) / width as f64)
                    }
                    Motion::Shift { right, down } => (y + down as f64 / height as f64, x + right as f64 / width as f64),
                };
                (y < 1.0 && x < 1.0).then_some(TargetPixels::Point { y, x })?
            }
            other => other.clone(),
        })
    }

    /// The map from afterwards, moved back; 0 where nothing is known of it.
    pub(super) fn back(self, after: &[f32], (height, width): (usize, usize)) -> Vec<f32> {
        let mut back = vec![0.0; after.len()];
        for (place, value) in after.iter().enumerate() {
            let (row, column) = (place / width, place % width);
            let is_known = match self {
                Motion::Mirror => true,
                Motion::Shift { right, down } => row >= down && column >= right,
            };
            if is_known && row < height {
                let (row, column) = self.origin((row, column), width);
                back[row * width + column] = *value;
            }
        }
        back
    }

    /// The map from before and the one from afterwards, moved back, where both show the image, and the size of that.
    pub(super) fn both(
        self,
        before: &[f32],
        after: &[f32],
        (height, width): (usize, usize),
    ) -> (Vec<f32>, Vec<f32>, (usize, usize)) {
        match self {
            Motion::Mirror => {
                let back = after.chunks_exact(width).flat_map(|row| row.iter().rev()).copied().collect();
                (before.to_vec(), back, (height, width))
            }
            Motion::Shift { right, down } => {
                let part = |map: &[f32], top: usize, left: usize| -> Vec<f32> {
                    let rows = map.chunks_exact(width).skip(top).take(height - down);
                    rows.flat_map(|row| &row[left..left + width - right]).copied().collect()
                };
                (part(before, 0, 0), part(after, down, right), (height - down, width - right))
            }
        }
    }
}

/// The sample with noise: each number of the model's input moved by a draw that is uniform in `[-radius, radius]`. Draws follow from
/// seed, sample and number.
pub(super) fn noisy(
    sample: &DecodedSample,
    normalization: &Normalization,
    radius: f64,
    seed: u64,
    number: usize,
) -> DecodedSample {
    let mut floats = sample.pixels.to_floats(normalization);
    let mut stream = blake3::Hasher::new();
    stream.update(b"noise\0").update(&seed.to_le_bytes()).update(&(number as u64).to_le_bytes());
    stream.update(sample.envelope.sample.id.as_bytes());
    let mut bytes = vec![0; 4 * floats.len()];
    stream.finalize_xof().fill(&mut bytes);
    for (float, bytes) in floats.iter_mut().zip(bytes.chunks_exact(4)) {
        let drawn = f64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) / f64::from(u32::MAX);
        *float += ((2.0 * drawn - 1.0) * radius) as f32;
    }
    DecodedSample { pixels: InputPixels::Floats(floats), ..sample.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_media::FrameRegion;
    use camflow_pipeline::{Channel, ClassIndex, Envelope, Fingerprint, SampleRef};

    fn sample(pixels: InputPixels, target: TargetPixels) -> DecodedSample {
        let sample = SampleRef { seq: 0, id: "a".into(), media_path: "a.jpg".into() };
        let target = ClassTarget { class: ClassIndex(0), channel: Channel::Index(1), pixels: target, detection: None };
        DecodedSample {
            envelope: Envelope::without_fields(sample, Fingerprint::of_job("", "check")),
            pixels,
            height: 2,
            width: 3,
            region: FrameRegion::whole(2, 3),
            targets: vec![target],
            attention: None,
            slices: None,
            is_clipped: false,
            is_moved: false,
        }
    }

    #[test]
    fn pixels_targets_and_maps_move_together() {
        let levels = InputPixels::Levels((0..12).collect());
        let mask = BinaryMask { height: 2, width: 3, pixels: vec![1, 0, 0, 0, 1, 0] };
        let moved = |motion: Motion| {
            let DecodedSample { pixels, targets, .. } =
                motion.of(&sample(levels.clone(), TargetPixels::Mask(mask.clone()))).expect("moved");
            let (InputPixels::Levels(levels), TargetPixels::Mask(mask)) = (pixels, &targets[0].pixels) else { panic!("a mask") };
            (levels, mask.pixels.clone())
        };
        assert_eq!(moved(Motion::Mirror), (vec![4, 5, 2, 3, 0, 1, 10, 11, 8, 9, 6, 7], vec![0, 0, 1, 0, 1, 0]));
        let right = Motion::Shift { right: 1, down: 0 };
        assert_eq!(moved(right), (vec![0, 1, 0, 1, 2, 3, 6, 7, 6, 7, 8, 9], vec![0, 1, 0, 0, 0, 1]));
        // A map that moved along is the same one again.
        let map = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(Motion::Mirror.both(&map, &[3.0, 2.0, 1.0, 6.0, 5.0, 4.0], (2, 3)), (map.to_vec(), map.to_vec(), (2, 3)));
        let (before, after, size) = right.both(&map, &[9.0, 1.0, 2.0, 9.0, 4.0, 5.0], (2, 3));
        assert_eq!((before, after, size), (vec![1.0, 2.0, 4.0, 5.0], vec![1.0, 2.0, 4.0, 5.0], (2, 2)));
        assert_eq!(Motion::Mirror.back(&[3.0, 2.0, 1.0, 6.0, 5.0, 4.0], (2, 3)), map);
        assert_eq!(right.back(&[9.0, 1.0, 2.0, 9.0, 4.0, 5.0], (2, 3)), [1.0, 2.0, 0.0, 4.0, 5.0, 0.0]);
        // Floats are channel by channel.
        let floats = InputPixels::Floats(map.to_vec());
        let down = Motion::Shift { right: 0, down: 1 }.of(&sample(floats, TargetPixels::Labelled)).expect("moved");
        assert_eq!(down.pixels, InputPixels::Floats(vec![1.0, 2.0, 3.0, 1.0, 2.0, 3.0]));
    }

    #[test]
    fn a_point_moves_from_pixel_to_pixel_and_out_of_the_image() {
        let point = |x: f64| sample(InputPixels::Floats(vec![0.0; 6]), TargetPixels::Point { y: 0.0, x });
        let x = |motion: Motion, x: f64| match &motion.of(&point(x))?.targets[0].pixels {
            TargetPixels::Point { x, .. } => Some((3.0 * x) as usize),
            _ => None,
        };
        // The places 0.1, 0.4 and 0.7 lie in the columns 0, 1 and 2.
        assert_eq!([0.1, 0.4, 0.7].map(|at| x(Motion::Mirror, at)), [Some(2), Some(1), Some(0)]);
        assert_eq!(x(Motion::Shift { right: 1, down: 0 }, 0.67), None);
    }

    #[test]
    fn noise_stays_in_its_radius_and_follows_from_its_number() {
        let normalization = Normalization { divide_by: 255.0, mean: vec![0.0], std: vec![1.0] };
        let zeros = sample(InputPixels::Floats(vec![0.0; 6]), TargetPixels::Labelled);
        let drawn = |number: usize| noisy(&zeros, &normalization, 0.1, 0, number).pixels.to_floats(&normalization);
        assert!(drawn(0).iter().all(|value| value.abs() <= 0.1) && drawn(0).iter().any(|value| *value != 0.0));
        assert_eq!(drawn(0), drawn(0));
        assert_ne!(drawn(0), drawn(1));
    }
}
