//! Check: what of a sample is new or changed, by fingerprints. Most samples end here when a job is repeated, so of files nothing
//! but the metadata is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::decoder::{Decoder, Stop, Targets};
use crate::{
    fingerprint::{Change, Fingerprint, Ingredient, SampleFingerprint},
    grid::ClassIndex,
    message::{
        Envelope, Evaluated, ReferenceDigest, SelectedSample, SkipReason, StaleSample, Step, StoredHeatmap, StoredMask,
        StoredObject, StoredShape, StoredTarget, TrueClass,
    },
};
use camflow_media::{
    Damage, ImageLimits, InstanceMask, MediaError, RecordedChecksum, Stamp, was_read_otherwise, with_large_pictures_in_turn,
};

/// Finds out what of the sample's heatmaps is missing, or made from other things than are there now.
pub(crate) fn check(decoder: &Decoder, selected: SelectedSample) -> Step<StaleSample> {
    match try_check(decoder, &selected) {
        Ok(Stale { fingerprint, wanted, predictions, changes, stamps }) => {
            let SelectedSample { sample, target, attention, existing } = selected;
            let true_class = true_class(decoder, &target);
            let envelope = Envelope { sample, fingerprint, wanted, predictions, existing, true_class };
            Step::Next(StaleSample { envelope, target, attention, changes, stamps })
        }
        Err(stop) => stop.of(selected.sample),
    }
}

/// The class that the label says for the whole image.
fn true_class(decoder: &Decoder, target: &StoredTarget) -> Option<TrueClass> {
    let StoredTarget::Names(names) = target else { return None };
    let channels = decoder.labels.own_channels(names).ok().flatten().filter(|_| decoder.has_truth)?;
    Some(TrueClass { name: decoder.labels.name(*channels.first()?), channels })
}

/// What of the sample is not up to date.
fn try_check(decoder: &Decoder, selected: &SelectedSample) -> Result<Stale, Stop> {
    let SelectedSample { sample, target, attention, existing } = selected;
    if let StoredTarget::Malformed(reason) = target {
        return Err(MediaError::shape(reason.clone()).into());
    }
    let is_of_predictions = |stored: &StoredHeatmap| decoder.predictions.as_ref().is_some_and(|field| field.name == stored.field);
    let has_heatmaps = existing.iter().any(|stored| stored.fingerprint.is_some() && !is_of_predictions(stored));
    let is_unlabelled = *target == StoredTarget::Missing && !has_heatmaps;
    if is_unlabelled && decoder.predictions.is_none() {
        return Err(SkipReason::NoLabel.into());
    }
    let mut stamps = BTreeMap::new();
    let fingerprint = with_image(decoder.fingerprint, &sample.media_path, &mut stamps)?;
    let predictions = stale_predictions(decoder, selected, &mut stamps)?;
    if is_unlabelled && predictions.is_none() {
        return Err(SkipReason::NoLabel.into());
    }
    let fingerprint = with_label(decoder, fingerprint, target, &mut stamps)?;
    let fingerprint = with_attention(decoder, fingerprint, attention.as_ref(), &mut stamps)?;
    let fingerprint = with_names(decoder, fingerprint, target);
    let (predictions, changes) = predictions.unzip();
    let (mut wanted, mut changes) = (Vec::new(), changes.unwrap_or_default());
    for class in decoder.targets.indices().filter(|_| !is_unlabelled) {
        let of_class = class_changes(decoder, class, &fingerprint, selected)?;
        if !of_class.is_empty() {
            wanted.push(class);
            changes.extend(of_class);
        }
    }
    if wanted.is_empty() && predictions.is_none() {
        return Err(SkipReason::UpToDate.into());
    }
    Ok(Stale { fingerprint, wanted, predictions, changes, stamps })
}

/// Of predictions that are missing, or made from other things than are there now, the fingerprint that they are to have, and why.
fn stale_predictions(
    decoder: &Decoder,
    selected: &SelectedSample,
    stamps: &mut BTreeMap<PathBuf, Stamp>,
) -> Result<Option<(Fingerprint, BTreeSet<Change>)>, MediaError> {
    let Some(field) = &decoder.predictions else { return Ok(None) };
    let fingerprint = with_image(field.fingerprint, &selected.sample.media_path, stamps)?;
    let stored = selected.existing.iter().find(|stored| stored.field == field.name);
    let mut changes = match stored.map(|stored| &stored.fingerprint) {
        None => BTreeSet::from([Change::New]),
        Some(None) => BTreeSet::from([Change::Foreign]),
        Some(Some(text)) => fingerprint.changes_since(text),
    };
    match decoder.overwrite {
        true => drop(changes.insert(Change::Asked)),
        false => {
            for (path, recorded) in stored.into_iter().flat_map(StoredHeatmap::recorded_files) {
                changes.extend(look_at(path, recorded)?);
            }
        }
    }
    Ok((!changes.is_empty()).then_some((fingerprint, changes)))
}

/// Why the heatmaps of a class are not those that are wanted; empty if they are.
fn class_changes(
    decoder: &Decoder,
    class: ClassIndex,
    fingerprint: &SampleFingerprint,
    selected: &SelectedSample,
) -> Result<BTreeSet<Change>, MediaError> {
    let mut changes = BTreeSet::new();
    if decoder.overwrite {
        changes.insert(Change::Asked);
    }
    for column in decoder.fields.columns() {
        let field = decoder.fields.name(class, column);
        let Some(stored) = selected.existing.iter().find(|stored| stored.field == field) else {
            changes.insert(Change::New);
            continue;
        };
        match &stored.fingerprint {
            None => drop(changes.insert(Change::Foreign)),
            Some(text) => changes.extend(decoder.fields.fingerprint(fingerprint, class, column).changes_since(text)),
        }
        // Whatever became of the files of what is made again in any case.
        if !decoder.overwrite {
            // A map in the document has no file to look at.
            changes.extend(stored.is_noted_damaged().then_some(Change::FileDamaged));
            for (path, recorded) in stored.recorded_files() {
                changes.extend(look_at(path, recorded)?);
            }
        }
        if is_unnamed(decoder, class, &selected.target) {
            changes.insert(Change::Changed(Ingredient::Label));
        }
    }
    Ok(changes)
}

/// Whether the label names other classes only. That is no part of fingerprints; see [`with_label`].
fn is_unnamed(decoder: &Decoder, class: ClassIndex, target: &StoredTarget) -> bool {
    match (&decoder.targets, target) {
        (_, StoredTarget::Missing) => true,
        (Targets::Classes(classes), StoredTarget::Names(names)) => !decoder.labels.have(names, &classes[class.0]),
        _ => false,
    }
}

/// Adds what a heatmap takes from the label. Of objects that is all of them, so that a run for one class more does not
/// make those of the others again. Names of whole images say only whether a class is there, except where they choose it.
fn with_label(
    decoder: &Decoder,
    mut fingerprint: Fingerprint,
    target: &StoredTarget,
    stamps: &mut BTreeMap<PathBuf, Stamp>,
) -> Result<Fingerprint, MediaError> {
    match (target, &decoder.targets) {
        (StoredTarget::Mask(StoredMask::Inline(bytes)), _) => Ok(fingerprint.and(Ingredient::Label, "mask", bytes)),
        (StoredTarget::Mask(StoredMask::File(path)), _) => {
            with_file(fingerprint, Ingredient::Label, "mask file", path, stamps).map_err(unreadable(path))
        }
        (StoredTarget::Objects(objects), _) => {
            for object in objects {
                fingerprint = with_object(fingerprint, object, &decoder.limits, stamps);
                // What has the heatmap of an object is known by the object's id.
                if let Some(id) = object.id.as_ref().filter(|_| decoder.per_detection) {
                    fingerprint = fingerprint.and(Ingredient::Label, "id", id.as_bytes());
                    fingerprint = with_standing(fingerprint, target.rank(object), object.evaluated.as_ref());
                }
            }
            Ok(fingerprint)
        }
        (StoredTarget::Names(names), targets) if targets.is_of_own_class() => {
            Ok(fingerprint.and(Ingredient::Label, "names", names.join("\0").as_bytes()))
        }
        _ => Ok(fingerprint),
    }
}

/// Adds what the heatmap of an object says of it beside its place: nothing of one without a confidence that nobody evaluated.
fn with_standing(fingerprint: Fingerprint, rank: Option<usize>, evaluated: Option<&Evaluated>) -> Fingerprint {
    let fingerprint = match rank {
        Some(rank) => fingerprint.and(Ingredient::Label, "rank", &(rank as u64).to_le_bytes()),
        None => fingerprint,
    };
    let Some(Evaluated { outcome, iou }) = evaluated else { return fingerprint };
    let fingerprint = fingerprint.and(Ingredient::Label, "outcome", outcome.as_bytes());
    iou.map_or(fingerprint, |iou| fingerprint.and(Ingredient::Label, "outcome's overlap", &iou.to_le_bytes()))
}

/// Adds the label that heatmaps are measured on. As part of the label, and not of the settings, it makes no other heatmaps of them:
/// measures are what changes.
fn with_attention(
    decoder: &Decoder,
    fingerprint: Fingerprint,
    label: Option<&StoredTarget>,
    stamps: &mut BTreeMap<PathBuf, Stamp>,
) -> Result<Fingerprint, MediaError> {
    let (Some(on), Some(label)) = (&decoder.attention, label) else { return Ok(fingerprint) };
    if let StoredTarget::Malformed(reason) = label {
        return Err(on.fault(&MediaError::shape(reason.clone())));
    }
    let fingerprint = fingerprint.and(Ingredient::Label, "attention on", on.identity().as_bytes());
    with_label(decoder, fingerprint, label, stamps).map_err(|error| on.fault(&error))
}

/// Adds what embedding is the mean of a class, and which names count as a class although they are written otherwise, or do not
/// although they are written so: to the class alone, and nothing where labels and classes are written the same.
fn with_names(decoder: &Decoder, fingerprint: Fingerprint, target: &StoredTarget) -> SampleFingerprint {
    let mut fingerprint = SampleFingerprint::from(fingerprint);
    match (target, &decoder.targets) {
        (StoredTarget::Objects(_), Targets::Classes(classes)) => {
            for name in target.names() {
                let meaning = decoder.labels.meaning(name);
                for (index, class) in classes.iter().enumerate() {
                    if (name == class.name) != decoder.labels.is_of(name, &meaning, class) {
                        fingerprint.add(ClassIndex(index), Ingredient::Label, "read otherwise", name.as_bytes());
                    }
                }
            }
        }
        (StoredTarget::Names(names), targets) if targets.is_of_own_class() => {
            if let Ok(Some((name, channel))) = decoder.labels.own(names)
                && !decoder.labels.is_exact(name)
            {
                for class in targets.indices() {
                    fingerprint.add(class, Ingredient::Label, "taken as channel", &channel.to_le_bytes());
                }
            }
        }
        (_, Targets::Classes(classes)) => {
            for (index, class) in classes.iter().enumerate() {
                if let Some(ReferenceDigest::OfLabels(digest)) = &class.reference {
                    fingerprint.add(ClassIndex(index), Ingredient::Label, "mean of labelled images", digest.as_bytes());
                }
            }
        }
        _ => {}
    }
    fingerprint
}

/// What is found out of a sample; see [`StaleSample`] and [`Envelope`].
struct Stale {
    fingerprint: SampleFingerprint,
    wanted: Vec<ClassIndex>,
    predictions: Option<Fingerprint>,
    changes: BTreeSet<Change>,
    stamps: BTreeMap<PathBuf, Stamp>,
}

/// Why a heatmap's file is to be made again: someone may have tidied the folder up, a disk may have lost the end of it.
fn look_at(path: &Path, recorded: Option<&RecordedChecksum>) -> Result<Option<Change>, MediaError> {
    match Damage::at_a_glance(path, recorded) {
        Ok(damage) => Ok(damage.map(|damage| match damage {
            Damage::Missing => Change::FileMissing,
            _ => Change::FileDamaged,
        })),
        // A folder that is closed or a disk that fails says nothing about the file.
        Err(cause) => Err(MediaError::Unseen { path: path.to_owned(), cause }),
    }
}

/// Adds a sample's image.
fn with_image(fingerprint: Fingerprint, image: &Path, stamps: &mut BTreeMap<PathBuf, Stamp>) -> Result<Fingerprint, MediaError> {
    let fingerprint = with_file(fingerprint, Ingredient::Image, "image", image, stamps).map_err(unreadable(image))?;
    Ok(match was_read_otherwise(image) {
        true => fingerprint.and(Ingredient::Image, "pixels as Pillow's", &[]),
        false => fingerprint,
    })
}

/// Adds a file as it is now, and keeps what it is.
fn with_file(
    fingerprint: Fingerprint,
    ingredient: Ingredient,
    what: &str,
    path: &Path,
    stamps: &mut BTreeMap<PathBuf, Stamp>,
) -> std::io::Result<Fingerprint> {
    let stamp = Stamp::of(path)?;
    stamps.insert(path.to_owned(), stamp);
    Ok(fingerprint.and_file(ingredient, what, path, &stamp))
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> MediaError + use<> {
    let path = path.to_owned();
    move |cause| MediaError::Unreadable { path, cause }
}

/// Adds an object with everything that says where it is.
fn with_object(
    fingerprint: Fingerprint,
    object: &StoredObject,
    limits: &ImageLimits,
    stamps: &mut BTreeMap<PathBuf, Stamp>,
) -> Fingerprint {
    // Such masks were once drawn as if they were 0 and 1, and what was made from them then is to be made again. Those of 0 and 1
    // were not, and their fingerprints stay. What a file holds is not known here; FiftyOne writes 0 and 255.
    let as_bytes = |fingerprint: Fingerprint| fingerprint.and(Ingredient::Label, "mask of bytes", &[]);
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
                Some(StoredMask::Inline(mask)) => {
                    let fingerprint = fingerprint.and(Ingredient::Label, "mask", mask);
                    match with_large_pictures_in_turn(|| InstanceMask::is_beyond_one(mask, limits)) {
                        true => as_bytes(fingerprint),
                        false => fingerprint,
                    }
                }
                // A missing file is a fault only where its class is wanted.
                Some(StoredMask::File(path)) => {
                    with_file(fingerprint, Ingredient::Label, "mask file", path, stamps).map(as_bytes).unwrap_or_else(|_| {
                        fingerprint.and(Ingredient::Label, "missing mask file", path.as_os_str().as_encoded_bytes())
                    })
                }
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
