//! Check: what of a sample is new or changed, by fingerprints. Most samples end here when a job is repeated, so of files nothing
//! but the metadata is read.

use std::{collections::BTreeSet, path::Path};

use super::decode::{Decoder, Targets, failure};
use crate::{
    media::MediaError,
    pipeline::{
        Change, Fingerprint, Ingredient, SampleFailure, SelectedSample, Skip, SkipReason, StaleSample, StoredMask, StoredObject,
        StoredShape, StoredTarget,
    },
};

/// What the check of a sample found.
#[derive(Debug)]
pub enum Checked {
    /// There may be something to do.
    Stale(StaleSample),
    /// Nothing to do.
    Skipped(Skip),
    /// A fault of this sample.
    Failed(SampleFailure),
}

impl Decoder {
    /// Finds out what of the sample's heatmaps is missing, or made from other things than are there now.
    pub fn check(&self, selected: SelectedSample) -> Checked {
        match self.try_check(&selected) {
            Ok(Ok((fingerprint, wanted, changes))) => Checked::Stale(StaleSample { selected, fingerprint, wanted, changes }),
            Ok(Err(reason)) => Checked::Skipped(Skip { sample: selected.sample, reason }),
            Err(error) => Checked::Failed(failure(selected.sample, &error)),
        }
    }

    /// The sample's fingerprint, the classes whose heatmaps are not up to date, and why they are not.
    fn try_check(&self, selected: &SelectedSample) -> Result<Result<Stale, SkipReason>, MediaError> {
        let SelectedSample { sample, target, existing } = selected;
        if let StoredTarget::Malformed(reason) = target {
            return Err(MediaError::shape(reason.clone()));
        }
        let has_heatmaps = existing.iter().any(|stored| stored.fingerprint.is_some());
        if *target == StoredTarget::Missing && !has_heatmaps {
            return Ok(Err(SkipReason::NoLabel));
        }
        let image = &sample.media_path;
        let fingerprint = self.fingerprint.and_file(Ingredient::Image, "image", image).map_err(unreadable(image))?;
        let fingerprint = self.with_label(fingerprint, target)?;
        let (mut wanted, mut changes) = (Vec::new(), BTreeSet::new());
        for class in 0..self.targets.num_classes() {
            let of_class = self.changes(class, fingerprint, selected);
            if !of_class.is_empty() {
                wanted.push(class);
                changes.extend(of_class);
            }
        }
        Ok(if wanted.is_empty() { Err(SkipReason::UpToDate) } else { Ok((fingerprint, wanted, changes)) })
    }

    /// Why the heatmaps of a class are not those that are wanted; empty if they are.
    fn changes(&self, class: usize, fingerprint: Fingerprint, selected: &SelectedSample) -> BTreeSet<Change> {
        let mut changes = BTreeSet::new();
        if self.overwrite {
            changes.insert(Change::Asked);
        }
        for column in 0..self.fields.num_columns() {
            let field = self.fields.name(class, column);
            let Some(stored) = selected.existing.iter().find(|stored| stored.field == field) else {
                changes.insert(Change::New);
                continue;
            };
            match &stored.fingerprint {
                None => drop(changes.insert(Change::Foreign)),
                Some(text) => changes.extend(self.fields.fingerprint(fingerprint, class, column).changes_since(text)),
            }
            // Someone may have tidied the folder up.
            if [&stored.map_path, &stored.npy_path].into_iter().flatten().any(|path| !path.exists()) {
                changes.insert(Change::FileMissing);
            }
            if self.is_unnamed(class, &selected.target) {
                changes.insert(Change::Changed(Ingredient::Label));
            }
        }
        changes
    }

    /// Whether the label names other classes only. That is no part of fingerprints; see [`Decoder::with_label`].
    fn is_unnamed(&self, class: usize, target: &StoredTarget) -> bool {
        match (&self.targets, target) {
            (_, StoredTarget::Missing) => true,
            (Targets::Classes(classes), StoredTarget::Names(names)) => !names.contains(&classes[class].name),
            _ => false,
        }
    }

    /// Adds what a heatmap takes from the label. Of objects that is all of them, so that a run for one class more does not
    /// make those of the others again. Names of whole images say only whether a class is there, except where they choose it.
    fn with_label(&self, mut fingerprint: Fingerprint, target: &StoredTarget) -> Result<Fingerprint, MediaError> {
        match (target, &self.targets) {
            (StoredTarget::Mask(StoredMask::Inline(bytes)), _) => Ok(fingerprint.and(Ingredient::Label, "mask", bytes)),
            (StoredTarget::Mask(StoredMask::File(path)), _) => {
                fingerprint.and_file(Ingredient::Label, "mask file", path).map_err(unreadable(path))
            }
            (StoredTarget::Objects(objects), _) => {
                for object in objects {
                    fingerprint = with_object(fingerprint, object);
                }
                Ok(fingerprint)
            }
            (StoredTarget::Names(names), Targets::OwnClass(_)) => {
                Ok(fingerprint.and(Ingredient::Label, "names", names.join("\0").as_bytes()))
            }
            _ => Ok(fingerprint),
        }
    }
}

/// See [`StaleSample`].
type Stale = (Fingerprint, Vec<usize>, BTreeSet<Change>);

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> MediaError + use<> {
    let path = path.to_owned();
    move |cause| MediaError::Unreadable { path, cause }
}

/// Adds an object with everything that says where it is.
fn with_object(fingerprint: Fingerprint, object: &StoredObject) -> Fingerprint {
    let bytes = |numbers: &mut dyn Iterator<Item = f64>| numbers.flat_map(f64::to_le_bytes).collect::<Vec<u8>>();
    let fingerprint = match &object.label {
        Some(label) => fingerprint.and(Ingredient::Label, "object", label.as_bytes()),
        None => fingerprint.and(Ingredient::Label, "object without a label", &[]),
    };
    match &object.shape {
        StoredShape::Box { bounds, mask } => {
            let fingerprint = fingerprint.and(Ingredient::Label, "box", &bytes(&mut bounds.iter().copied()));
            match mask {
                None => fingerprint,
                Some(StoredMask::Inline(mask)) => fingerprint.and(Ingredient::Label, "mask", mask),
                // A missing file is a fault only where its class is wanted.
                Some(StoredMask::File(path)) => fingerprint.and_file(Ingredient::Label, "mask file", path).unwrap_or_else(|_| {
                    fingerprint.and(Ingredient::Label, "missing mask file", path.as_os_str().as_encoded_bytes())
                }),
            }
        }
        StoredShape::Lines { lines, closed, filled } => {
            let fingerprint = fingerprint.and(Ingredient::Label, "lines", &[u8::from(*closed), u8::from(*filled)]);
            let line = |fingerprint: Fingerprint, line: &Vec<[f64; 2]>| {
                fingerprint.and(Ingredient::Label, "line", &bytes(&mut line.iter().flatten().copied()))
            };
            lines.iter().fold(fingerprint, line)
        }
        StoredShape::Malformed(reason) => fingerprint.and(Ingredient::Label, "malformed", reason.as_bytes()),
    }
}
