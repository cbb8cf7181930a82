//! The label whose classes heatmaps are measured on, beside the one that says what is explained.

use std::{
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
};

use crate::message::StoredTarget;
use camflow_media::{ClassMap, MaskValue, MediaError};

/// A label field, and what the labels of a run were found to hold.
#[derive(Clone, Debug, Default)]
pub struct AttentionOn {
    /// Its name.
    pub field: String,
    /// The classes of a segmentation by their values in masks.
    pub names: Vec<(String, MaskValue)>,
    seen: Arc<Mutex<SeenLabels>>,
}

/// Samples that went to the model, by what they have in the field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SeenLabels {
    num_missing: u64,
    num_without_class: u64,
    num_with_classes: u64,
}

impl AttentionOn {
    /// Of a field.
    pub fn new(field: String, names: Vec<(String, MaskValue)>) -> Self {
        AttentionOn { field, names, ..AttentionOn::default() }
    }

    /// What stands for it in fingerprints, beside the label's own content.
    pub(super) fn identity(&self) -> String {
        let mut text = self.field.clone();
        for (name, value) in &self.names {
            let _ = write!(text, "\0{value}\0{name}");
        }
        text
    }

    /// What is wrong with a sample's label.
    pub(super) fn fault(&self, error: &MediaError) -> MediaError {
        MediaError::shape(format!("field `{}` of `--attention-on`: {error}", self.field))
    }

    /// Notes what the label of a sample holds.
    pub(super) fn note(&self, label: &StoredTarget, map: Option<&ClassMap>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match map {
            None => seen.num_missing += u64::from(*label == StoredTarget::Missing),
            Some(map) if map.classes().is_empty() => seen.num_without_class += 1,
            Some(_) => seen.num_with_classes += 1,
        }
    }

    /// What the user should know of the labels, lowercase, without a period; none where every sample has one.
    pub fn notices(&self) -> Vec<String> {
        let SeenLabels { num_missing, num_without_class, num_with_classes } =
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (field, all) = (&self.field, num_missing + num_without_class + num_with_classes);
        if all > 0 && num_with_classes == 0 {
            return vec![format!(
                "no class was found in field `{field}` of `--attention-on`: of {all} samples {num_missing} have no label there, and {num_without_class} one without classes"
            )];
        }
        let missing = format!(
            "{num_missing} of {all} samples have no label in field `{field}` of `--attention-on`: the `attention` of their heatmaps is null"
        );
        (num_missing > 0).then_some(missing).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told() {
        let map = |classes: &[&str]| {
            let part = |name: &&str| ((*name).to_owned(), Ok(camflow_media::BinaryMask::full(1, 1)));
            ClassMap::of_parts((1, 1), classes.iter().map(part)).unwrap()
        };
        let on = AttentionOn::new("gt".into(), Vec::new());
        assert_eq!(on.notices(), Vec::<String>::new(), "nothing was read");
        on.note(&StoredTarget::Missing, None);
        on.note(&StoredTarget::Objects(Vec::new()), Some(&map(&[])));
        assert!(on.notices()[0].contains("no class was found in field `gt`"), "{:?}", on.notices());
        on.note(&StoredTarget::Objects(Vec::new()), Some(&map(&["sky"])));
        assert!(on.notices()[0].starts_with("1 of 3 samples have no label in field `gt`"), "{:?}", on.notices());
        let complete = AttentionOn::new("gt".into(), Vec::new());
        complete.note(&StoredTarget::Objects(Vec::new()), Some(&map(&["sky"])));
        assert_eq!(complete.notices(), Vec::<String>::new());
    }
}
