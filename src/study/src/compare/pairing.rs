//! Which heatmap of A belongs to which of B.

use std::collections::BTreeMap;

use camflow_measure::MeasuredHeatmap;
use camflow_names::ClassNames;

/// Boxes this near, in fractions of the image, are the same.
const SAME: f64 = 1e-6;

/// Heatmaps and samples that have nothing to be compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpaired {
    /// Heatmaps that A alone has of a sample.
    pub only_a: u64,
    /// Those that B alone has.
    pub only_b: u64,
    /// Pairs that explain different classes.
    pub other_class: u64,
    /// Samples with heatmaps of A whose image the other dataset does not have, or has without them.
    pub samples_only_a: u64,
    /// The other way round.
    pub samples_only_b: u64,
    /// Samples of A of whose image the other dataset has several samples, so that it is not known which one is meant.
    pub samples_several: u64,
}

impl Unpaired {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == Unpaired::default()
    }
}

/// The heatmaps of one sample that belong together: of the same pair of fields, of the same detection where they are of detections
/// (by its id, else by its box), and of the same class.
pub fn pairs<'a>(
    of_a: &'a [MeasuredHeatmap],
    of_b: &'a [MeasuredHeatmap],
    fields: &[(String, String)],
    unpaired: &mut Unpaired,
) -> Vec<(&'a MeasuredHeatmap, &'a MeasuredHeatmap)> {
    let mut found = Vec::new();
    for (field_a, field_b) in fields {
        let of_field = |heatmaps: &'a [MeasuredHeatmap], field: &str| -> Vec<&'a MeasuredHeatmap> {
            heatmaps.iter().filter(|heatmap| heatmap.series.field == *field).collect()
        };
        let (of_a, mut of_b) = (of_field(of_a, field_a), of_field(of_b, field_b));
        for a in of_a {
            let id = of_b.iter().position(|b| is_same_by_id(a, b));
            match id.or_else(|| of_b.iter().position(|b| is_same_by_place(a, b))) {
                None => unpaired.only_a += 1,
                Some(index) => {
                    let b = of_b.remove(index);
                    if is_of_same_class(a, b) { found.push((a, b)) } else { unpaired.other_class += 1 }
                }
            }
        }
        unpaired.only_b += of_b.len() as u64;
    }
    found
}

fn is_same_by_id(a: &MeasuredHeatmap, b: &MeasuredHeatmap) -> bool {
    match (&a.detection, &b.detection) {
        (None, None) => true,
        (Some(a), Some(b)) => !a.id.is_empty() && a.id == b.id,
        _ => false,
    }
}

/// Copies of a dataset keep ids or not.
fn is_same_by_place(a: &MeasuredHeatmap, b: &MeasuredHeatmap) -> bool {
    let bounds = |heatmap: &MeasuredHeatmap| heatmap.detection.as_ref()?.bounds;
    let Some((of_a, of_b)) = bounds(a).zip(bounds(b)) else { return false };
    is_of_same_class(a, b) && of_a.iter().zip(&of_b).all(|(a, b)| (a - b).abs() <= SAME)
}

fn is_of_same_class(a: &MeasuredHeatmap, b: &MeasuredHeatmap) -> bool {
    let is_same = |a: &str, b: &str| a == b || ClassNames::new(BTreeMap::from([(0, a.to_owned())])).means(b, (a, 0));
    let contrast = match (&a.contrast, &b.contrast) {
        (Some(a), Some(b)) => is_same(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    contrast && is_same(&a.series.class, &b.series.class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_measure::{Series, StoredDetection};

    fn heatmap(field: &str, class: &str, detection: Option<(&str, f64)>) -> MeasuredHeatmap {
        MeasuredHeatmap {
            series: Series { field: field.into(), class: class.into(), ..Series::default() },
            detection: detection.map(|(id, left)| StoredDetection {
                id: id.into(),
                bounds: Some([left, 0.0, 0.5, 0.5]),
                ..StoredDetection::default()
            }),
            ..MeasuredHeatmap::default()
        }
    }

    fn fields(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn fields_are_paired_and_what_is_left_is_counted() {
        let a = [heatmap("a3", "dog", None), heatmap("a4", "dog", None), heatmap("a5", "dog", None)];
        let b = [heatmap("b3", "Dog", None), heatmap("b4", "cat", None), heatmap("b6", "dog", None)];
        let mut unpaired = Unpaired::default();
        let found = pairs(&a, &b, &fields(&[("a3", "b3"), ("a4", "b4"), ("a5", "b5"), ("a6", "b6")]), &mut unpaired);
        assert_eq!(found, [(&a[0], &b[0])], "a class is the same however it is spelt");
        assert_eq!(unpaired, Unpaired { only_a: 1, only_b: 1, other_class: 1, ..Unpaired::default() });
    }

    #[test]
    fn detections_are_paired_by_id_else_by_box() {
        let a =
            [heatmap("a", "dog", Some(("1", 0.0))), heatmap("a", "dog", Some(("2", 0.1))), heatmap("a", "dog", Some(("3", 0.2)))];
        let b =
            [heatmap("b", "dog", Some(("9", 0.1))), heatmap("b", "dog", Some(("1", 0.4))), heatmap("b", "cat", Some(("8", 0.2)))];
        let mut unpaired = Unpaired::default();
        let found = pairs(&a, &b, &fields(&[("a", "b")]), &mut unpaired);
        assert_eq!(found, [(&a[0], &b[1]), (&a[1], &b[0])]);
        assert_eq!(unpaired, Unpaired { only_a: 1, only_b: 1, ..Unpaired::default() });
    }
}
