//! From the heatmaps of a sample to its boxes and its mask.

use camflow_fiftyone::{LocalizedBox, SourceHeatmap};
use camflow_measure::localization::{BoxRule, Component, PixelBox, Threshold, components_at};

use super::heat::Heat;

/// A heatmap with the threshold of its class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut<'a> {
    pub(super) heatmap: &'a SourceHeatmap,
    pub(super) threshold: Threshold,
    /// The class's number in masks.
    pub(super) number: u8,
}

/// What of a heatmap reaches its threshold.
pub(super) struct Found<'a> {
    cut: Cut<'a>,
    heat: Heat,
    components: Vec<Component>,
    /// For each pixel its component's, from 1; 0 for none.
    numbers: Vec<u32>,
}

impl<'a> Found<'a> {
    pub(super) fn new(cut: Cut<'a>, heat: Heat, rule: BoxRule) -> Self {
        let (components, numbers) = components_at(&heat.steps, heat.size, cut.threshold, rule);
        Found { cut, heat, components, numbers }
    }

    /// A box for each component, the largest first.
    pub(super) fn boxes(&self) -> Vec<LocalizedBox> {
        let mut heats = vec![0.0; self.components.len()];
        for (number, value) in self.numbers.iter().zip(&self.heat.values).filter(|(number, _)| **number > 0) {
            heats[*number as usize - 1] += f64::from(*value);
        }
        let SourceHeatmap { field, class, confidence, method, layer, model, .. } = self.cut.heatmap;
        let made = |(component, heat): (&Component, f64)| LocalizedBox {
            class: class.clone(),
            bounds: relative(component.bounds, self.heat.size),
            confidence: *confidence,
            threshold: self.cut.threshold.share(),
            heat: heat / f64::from(component.area),
            heatmap: [field, method, layer, model].map(Clone::clone),
        };
        self.components.iter().zip(heats).map(made).collect()
    }
}

/// Left, top, width and height in fractions of the image's sides.
fn relative(PixelBox { left, top, right, bottom }: PixelBox, (height, width): (usize, usize)) -> [f64; 4] {
    let along = |first: u32, last: u32, side: usize| (f64::from(first) / side as f64, f64::from(last - first + 1) / side as f64);
    let ((x, width), (y, height)) = (along(left, right, width), along(top, bottom, height));
    [x, y, width, height]
}

/// The mask of all classes: where several reach their thresholds the one with the highest heat, as a share of its heatmap's highest
/// value; of equals the one whose field comes first. It has the size of the largest heatmap: rows and columns, and a number for each
/// pixel, 0 for none.
pub(super) fn mask(found: &[Found<'_>]) -> ((usize, usize), Vec<u8>) {
    let size = found.iter().map(|one| one.heat.size).max_by_key(|(height, width)| height * width).unwrap_or((1, 1));
    let (height, width) = size;
    let (mut numbers, mut heats) = (vec![0; height * width], vec![0.0; height * width]);
    for one in found {
        let (rows, columns) = one.heat.size;
        let highest = one.heat.highest();
        for pixel in 0..height * width {
            // Nearest neighbour, where sizes differ.
            let own = pixel / width * rows / height * columns + pixel % width * columns / width;
            let heat = one.heat.values[own] / highest;
            if one.numbers[own] > 0 && heat > heats[pixel] {
                (numbers[pixel], heats[pixel]) = (one.cut.number, heat);
            }
        }
    }
    (size, numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_measure::localization::steps;

    fn heat(values: &[f32], size: (usize, usize)) -> Heat {
        let levels = values.iter().map(|value| (255.0 * value) as u8).collect();
        Heat { size, values: values.to_vec(), levels, steps: steps(values), seen: None }
    }

    fn cut(heatmap: &SourceHeatmap, hundredths: u8, number: u8) -> Cut<'_> {
        Cut { heatmap, threshold: Threshold::of_hundredths(hundredths).expect("a threshold"), number }
    }

    const ALL: BoxRule = BoxRule { min_area: 0.0, largest: false };

    #[test]
    fn boxes_are_fractions_of_the_image() {
        let heatmap = SourceHeatmap { class: "cat".into(), confidence: Some(0.75), ..SourceHeatmap::default() };
        let values = [0.0, 0.5, 1.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.25, 0.0, 0.0, 0.0];
        let found = Found::new(cut(&heatmap, 50, 1), heat(&values, (3, 4)), ALL);
        let [only] = &found.boxes()[..] else { panic!("one box") };
        assert_eq!(only.bounds, [0.25, 0.0, 0.5, 2.0 / 3.0]);
        assert_eq!((only.heat, only.confidence, only.threshold), (2.0 / 3.0, Some(0.75), 0.5));
        let lower = Found::new(cut(&heatmap, 20, 1), heat(&values, (3, 4)), ALL).boxes();
        assert_eq!(lower[1].bounds, [0.0, 2.0 / 3.0, 0.25, 1.0 / 3.0]);
        assert!(Found::new(cut(&heatmap, 1, 1), heat(&[0.0; 12], (3, 4)), ALL).boxes().is_empty());
    }

    #[test]
    fn the_hottest_class_has_the_pixel() {
        let heatmap = SourceHeatmap::default();
        let one = Found::new(cut(&heatmap, 40, 3), heat(&[1.0, 0.5, 0.2, 0.0], (1, 4)), ALL);
        let other = Found::new(cut(&heatmap, 40, 7), heat(&[0.0, 0.4, 0.4, 0.1], (1, 4)), ALL);
        assert_eq!(mask(&[one, other]), ((1, 4), vec![3, 7, 7, 0]));
        let small = Found::new(cut(&heatmap, 50, 1), heat(&[1.0, 0.0], (1, 2)), ALL);
        let large = Found::new(cut(&heatmap, 50, 2), heat(&[0.0, 0.0, 0.0, 1.0], (1, 4)), ALL);
        assert_eq!(mask(&[small, large]), ((1, 4), vec![1, 1, 0, 2]));
    }
}
