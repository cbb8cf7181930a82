//! Where the objects of a class are, as boxes: what mean heatmaps are aligned on.

use std::collections::BTreeMap;

use camflow_fiftyone::{Dataset, LabelField, LabelKind, stored_runs};
use camflow_media::{BinaryMask, ImageLimits, LabelMask, MaskValue, box_around};
use camflow_names::ClassNames;
use camflow_pipeline::{StoredMask, StoredShape, StoredTarget};

/// The label field that says where objects are, and what its masks call the classes.
pub(crate) struct ObjectBoxes {
    /// The field.
    pub(crate) label: LabelField,
    /// Name and value of each class of a segmentation.
    values: Vec<(String, MaskValue)>,
}

impl ObjectBoxes {
    /// Of this field.
    pub(crate) fn new(dataset: &Dataset, label: LabelField) -> Result<Self, camflow_fiftyone::Error> {
        let values = match label.kind {
            LabelKind::Segmentation => dataset.mask_targets(&label.name)?,
            _ => Vec::new(),
        };
        Ok(ObjectBoxes { label, values })
    }

    /// Of the field that the runs were about which made the heatmaps in these fields; `None` where there is none that says where
    /// objects are, or more than one.
    pub(crate) fn of_runs(dataset: &Dataset, fields: &[&String]) -> Result<Option<Self>, camflow_fiftyone::Error> {
        let mut names: Vec<String> = Vec::new();
        for run in stored_runs(dataset)? {
            let name = run.config.get("label_field").and_then(serde_json::Value::as_str);
            if let Some(name) = name.filter(|name| !names.iter().any(|known| known == name))
                && run.fields.iter().any(|field| fields.contains(&field))
            {
                names.push(name.to_owned());
            }
        }
        let [name] = &names[..] else { return Ok(None) };
        // Somebody may have deleted it since; classifications say nothing of places.
        match LabelField::with_places(dataset, name, "--align-on") {
            Ok(label) => Self::new(dataset, label).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Left, top, width and height, in fractions of the image, of what the label says of a class: of each object its box, of a mask the
    /// box around all pixels of the class. What cannot be read has none.
    pub(crate) fn of_class(&self, target: &StoredTarget, class: &str) -> Vec<[f64; 4]> {
        match target {
            StoredTarget::Objects(objects) => {
                let of_class = objects.iter().filter(|object| object.label.as_deref().is_some_and(|label| is_of(label, class)));
                of_class.filter_map(|object| bounds(&object.shape)).collect()
            }
            StoredTarget::Mask(mask) => self.of_mask(mask, class).into_iter().collect(),
            StoredTarget::Names(_) | StoredTarget::Unlabelled | StoredTarget::Missing | StoredTarget::Malformed(_) => Vec::new(),
        }
    }

    fn of_mask(&self, mask: &StoredMask, class: &str) -> Option<[f64; 4]> {
        let value = self.values.iter().find(|(name, _)| is_of(name, class)).map(|(_, value)| value)?;
        let limits = ImageLimits::default();
        let mask = match mask {
            StoredMask::Inline(bytes) => LabelMask::inflate(bytes, &limits),
            StoredMask::File(path) => LabelMask::read(path, &limits),
        };
        around(&mask.ok()?.select(value).ok()?)
    }
}

/// Whether a label is of a class, however it is spelt.
fn is_of(label: &str, class: &str) -> bool {
    label == class || ClassNames::new(BTreeMap::from([(0, class.to_owned())])).means(label, (class, 0))
}

fn bounds(shape: &StoredShape) -> Option<[f64; 4]> {
    match shape {
        StoredShape::Box { bounds, .. } => Some(*bounds),
        StoredShape::Lines { lines, .. } => box_around(lines).ok().flatten(),
        StoredShape::Malformed(_) => None,
    }
}

/// The smallest box around a mask's pixels.
fn around(mask: &BinaryMask) -> Option<[f64; 4]> {
    let rows = mask.pixels.chunks_exact(mask.width.max(1));
    let [mut left, mut right, mut top, mut bottom] = [usize::MAX, 0, usize::MAX, 0];
    for (y, row) in rows.enumerate() {
        let Some(first) = row.iter().position(|pixel| *pixel != 0) else { continue };
        let last = row.iter().rposition(|pixel| *pixel != 0).unwrap_or(first);
        (left, right, top, bottom) = (left.min(first), right.max(last + 1), top.min(y), y + 1);
    }
    let (height, width) = (mask.height as f64, mask.width as f64);
    (bottom > 0)
        .then(|| [left as f64 / width, top as f64 / height, (right - left) as f64 / width, (bottom - top) as f64 / height])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_is_around_all_pixels() {
        let mask = BinaryMask { height: 2, width: 4, pixels: vec![0, 0, 0, 0, 0, 1, 0, 1] };
        assert_eq!(around(&mask), Some([0.25, 0.5, 0.75, 0.5]));
        assert_eq!(around(&BinaryMask::empty(3, 3)), None);
    }
}
