//! What masks hold in which none of the classes is: their values, for a message.

use std::sync::{Arc, Mutex, PoisonError};

use crate::message::SampleRef;
use camflow_media::{LabelMask, MaskValue, is_turned};
use camflow_names::counted;

/// Masks that are looked at: counting values takes longer than finding one.
const LOOKED_AT: usize = 8;

/// Values that are told.
const TOLD: usize = 10;

/// The masks of a run, as far as it needs to be said why nothing was found in any.
#[derive(Clone, Debug, Default)]
pub struct SeenMasks(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// Whether a mask holds one of the classes.
    is_any_found: bool,
    num_masks: usize,
    values: Vec<MaskValue>,
    num_lossy: u64,
    num_turned: u64,
    /// The id of a sample of which the mask lies across the image.
    first_turned: String,
}

impl SeenMasks {
    /// Notes a mask in which classes were looked for.
    pub(super) fn note(&self, mask: &LabelMask, is_found: bool) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.is_any_found |= is_found;
        seen.num_lossy += u64::from(mask.is_lossy);
        if seen.is_any_found || seen.num_masks == LOOKED_AT {
            return;
        }
        seen.num_masks += 1;
        for (value, _) in mask.values() {
            if !seen.values.contains(&value) && seen.values.len() <= TOLD {
                seen.values.push(value);
            }
        }
    }

    /// Notes a mask in which nothing is looked for.
    pub(super) fn note_kind(&self, mask: &LabelMask) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).num_lossy += u64::from(mask.is_lossy);
    }

    /// Notes a mask of these rows and columns beside its image.
    pub(super) fn note_size(&self, sample: &SampleRef, mask: (usize, usize), image: (usize, usize)) {
        if is_turned(mask, image) {
            let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            seen.num_turned += 1;
            if seen.num_turned == 1 {
                seen.first_turned.clone_from(&sample.id);
            }
        }
    }

    /// What is hardly meant so, lowercase, without a period, each with what to do.
    pub fn doubts(&self) -> Vec<(String, &'static str)> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut doubts = Vec::new();
        if seen.num_lossy > 0 {
            doubts.push((
                format!(
                    "{}, whose compression changes the numbers of classes near edges",
                    counted(seen.num_lossy, "mask is a JPEG file", "masks are JPEG files")
                ),
                "store masks as PNG",
            ));
        }
        if seen.num_turned > 0 {
            let masks = counted(seen.num_turned, "mask lies", "masks lie");
            doubts.push((
                format!("{masks} across the image, stretched over it; the first is that of sample `{}`", seen.first_turned),
                "if masks were drawn on upright photographs, add `--apply-exif`; if their rows and columns are exchanged, transpose them",
            ));
        }
        doubts
    }

    /// Where no mask held any of the classes: how many of them were looked at, and the values in these.
    pub fn without_classes(&self) -> Option<(usize, String)> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!seen.is_any_found && seen.num_masks > 0).then(|| (seen.num_masks, listed(&seen.values)))
    }
}

/// Values in words.
pub fn listed(values: &[MaskValue]) -> String {
    let mut told: Vec<String> = values.iter().take(TOLD).map(ToString::to_string).collect();
    if values.len() > TOLD {
        told.push("...".to_owned());
    }
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_media::{Array, ArrayValues};

    fn mask(values: Vec<u8>) -> LabelMask {
        LabelMask::from_array(Array { shape: vec![1, values.len()], values: ArrayValues::U8(values) }).unwrap()
    }

    #[test]
    fn the_values_of_masks_are_told_where_no_class_is_in_any() {
        let seen = SeenMasks::default();
        assert_eq!(seen.without_classes(), None, "no mask was read");
        seen.note(&mask(vec![0, 255]), false);
        seen.note(&mask(vec![0, 3]), false);
        assert_eq!(seen.without_classes(), Some((2, "0, 255, 3".to_owned())));
        for _ in 0..20 {
            seen.note(&mask((0..100).collect()), false);
        }
        let (num_masks, values) = seen.without_classes().unwrap();
        assert_eq!((num_masks, values.as_str()), (LOOKED_AT, "0, 255, 3, 1, 2, 4, 5, 6, 7, 8, ..."));
        seen.note(&mask(vec![1]), true);
        assert_eq!(seen.without_classes(), None);
    }
}
