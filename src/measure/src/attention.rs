//! Which labelled classes of another label a heatmap lies on.

use super::Measured;
use camflow_media::ClassMap;

/// How much of a heatmap lies on a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// The class; `None`: what has none.
    pub label: Option<String>,
    /// Share of the energy, `sum_{i in C} h_i / E`, in `[0, 1]`; `None` of a heatmap of zeros. Where objects of different classes
    /// overlap, the shares add up to more than 1.
    pub share: Option<f64>,
    /// The class's share of the pixels that the model saw, in `(0, 1]`.
    pub area: f64,
}

impl Measured<'_> {
    /// The share of every class that has pixels among those that the model saw: the largest first, what has no class last.
    ///
    /// # Panics
    /// If the heatmap has other than one value per pixel, or what was seen another size.
    pub fn attention(&self, map: &ClassMap) -> Vec<Attention> {
        let mut of_kinds = vec![(0.0, 0_u64); map.kinds().len()];
        for (pixel, kind) in map.pixels(self.height, self.width).into_iter().enumerate().filter(|(pixel, _)| self.is_seen(*pixel))
        {
            let (energy, count) = &mut of_kinds[usize::from(kind)];
            *energy += f64::from(self.values[pixel]).max(0.0);
            *count += 1;
        }
        let seen = of_kinds.iter().map(|(_, count)| count).sum::<u64>() as f64;
        let energy: f64 = of_kinds.iter().map(|(energy, _)| energy).sum();
        let attention = |label: Option<&String>, sum: (f64, u64)| {
            let share = (energy > 0.0).then(|| (sum.0 / energy).min(1.0));
            (sum.1 > 0).then(|| Attention { label: label.cloned(), share, area: sum.1 as f64 / seen })
        };
        let of_class = |class: usize| {
            let with_it = map.kinds().iter().zip(&of_kinds).filter(|(classes, _)| classes.contains(&class));
            with_it.fold((0.0, 0), |sum: (f64, u64), (_, of_kind)| (sum.0 + of_kind.0, sum.1 + of_kind.1))
        };
        let classes = map.classes().iter().enumerate();
        let mut found: Vec<Attention> = classes.filter_map(|(class, name)| attention(Some(name), of_class(class))).collect();
        found.sort_by(|a, b| b.share.unwrap_or(0.0).total_cmp(&a.share.unwrap_or(0.0)).then_with(|| a.label.cmp(&b.label)));
        found.extend(attention(None, of_kinds[0]));
        found
    }
}

/// The class that most of a heatmap lies on; `None` where nothing of it lies on any.
pub fn attended_class(attention: &[Attention]) -> Option<&str> {
    let first = attention.first().filter(|first| first.share.is_some_and(|share| share > 0.0))?;
    first.label.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_media::{BinaryMask, MediaError};

    fn map() -> ClassMap {
        let part = |name: &str, pixels: [u8; 6]| {
            (name.to_owned(), Ok::<_, MediaError>(BinaryMask { height: 2, width: 3, pixels: pixels.to_vec() }))
        };
        ClassMap::of_parts((2, 3), [part("plane", [0, 1, 0, 0, 0, 0]), part("sky", [1, 1, 1, 0, 0, 0])]).unwrap()
    }

    fn attention(values: [f32; 6], seen: Option<[u8; 6]>) -> Vec<(Option<String>, Option<f64>, f64)> {
        let seen = seen.map(|pixels| BinaryMask { height: 2, width: 3, pixels: pixels.to_vec() });
        let measured = Measured { height: 2, width: 3, values: &values, levels: &[0; 6], seen: seen.as_ref() };
        measured.attention(&map()).into_iter().map(|one| (one.label, one.share, one.area)).collect()
    }

    #[test]
    fn every_class_has_its_share_of_energy_and_area() {
        let [sky, plane] = ["sky", "plane"].map(|name| Some(name.to_owned()));
        let whole = attention([1.0, 0.5, 0.0, 0.5, 0.0, 0.0], None);
        let expected = [(sky.clone(), Some(0.75), 0.5), (plane.clone(), Some(0.25), 1.0 / 6.0), (None, Some(0.25), 0.5)];
        assert_eq!(whole, expected, "the plane is in the sky");
        // The first column was not seen.
        let cropped = attention([1.0, 0.5, 0.0, 0.5, 0.0, 0.5], Some([0, 1, 1, 0, 1, 1]));
        assert_eq!(cropped, [(plane.clone(), Some(0.5), 0.25), (sky.clone(), Some(0.5), 0.5), (None, Some(0.5), 0.5)]);
        let empty = attention([0.0; 6], None);
        assert_eq!(empty, [(plane, None, 1.0 / 6.0), (sky, None, 0.5), (None, None, 0.5)]);
        let of_sky = attention([1.0; 6], Some([1, 0, 1, 0, 0, 0]));
        assert_eq!(of_sky, [(Some("sky".to_owned()), Some(1.0), 1.0)], "what the model did not see is not there");
    }

    #[test]
    fn the_attended_class_is_the_first_that_has_energy() {
        let one = |label: Option<&str>, share| Attention { label: label.map(ToOwned::to_owned), share, area: 0.5 };
        assert_eq!(attended_class(&[one(Some("sky"), Some(0.1)), one(None, Some(0.9))]), Some("sky"));
        assert_eq!(attended_class(&[one(Some("sky"), Some(0.0)), one(None, Some(1.0))]), None);
        assert_eq!(attended_class(&[one(None, Some(1.0))]), None);
        assert_eq!(attended_class(&[]), None);
    }
}
