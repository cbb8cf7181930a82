//! Boxes and masks into samples, each update conditional on the lease and on what was read.

use bson::{Bson, Document, doc, oid::ObjectId};

use super::{
    dataset::Dataset,
    error::Error,
    label_change::{LabelChange, change_labels},
    localized_source::LocalizedLabel,
    lock::Lock,
    retry::with_retries,
    stored_heatmap::DETECTIONS_CLASS,
};
use camflow_media::Checksum;

/// What a label says of where it is from.
#[derive(Clone, Debug, PartialEq)]
pub struct Provenance {
    /// The fields of the heatmaps.
    pub heatmaps: Vec<String>,
    /// The threshold of each, as a share of its highest value.
    pub thresholds: Vec<f64>,
    /// The label field that the thresholds were learnt on; `None` where they were given.
    pub learnt_on: Option<String>,
    /// Of all that the label depends on.
    pub fingerprint: String,
}

/// A box.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalizedBox {
    /// The class.
    pub class: String,
    /// Left, top, width and height in fractions of the image's sides.
    pub bounds: [f64; 4],
    /// The model's probability of the class.
    pub confidence: Option<f64>,
    /// The threshold.
    pub threshold: f64,
    /// Mean of the heatmap's values within the component.
    pub heat: f64,
    /// The heatmap's field, method, layer and model.
    pub heatmap: [String; 4],
}

/// What a field of a sample is to hold.
#[derive(Clone, Debug, PartialEq)]
pub enum NewLabel {
    /// Nothing any more.
    None,
    /// Boxes; none where nothing reaches the threshold.
    Boxes(Vec<LocalizedBox>, Provenance),
    /// The mask in a file, by its absolute path.
    Mask(String, Checksum, Provenance),
}

/// A change of one label.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalizedChange {
    /// The sample's id.
    pub sample: String,
    /// The field.
    pub field: String,
    /// What was read there.
    pub read: Option<LocalizedLabel>,
    /// What is to be there.
    pub label: NewLabel,
}

/// Makes the changes, each of a label that is still what was read; how many were made.
///
/// # Errors
/// The lock was lost, or the database fails.
pub fn write_localized(dataset: &Dataset, changes: &[LocalizedChange], lock: &Lock) -> Result<u64, Error> {
    let changes: Vec<LabelChange> = changes.iter().filter_map(change).collect();
    change_labels(dataset, &changes, lock, &format!("writing boxes and masks into samples of dataset `{}`", dataset.name))
}

/// `None` where the id is none.
fn change(LocalizedChange { sample, field, read, label }: &LocalizedChange) -> Option<LabelChange> {
    let key = |key: &str| format!("{field}.{key}");
    let mut query = doc! {"_id": ObjectId::parse_str(sample).ok()?};
    match read {
        None => query.insert(field, doc! {"$not": {"$type": "object"}}),
        Some(LocalizedLabel { fingerprint: Some(fingerprint), mask_path, .. }) => {
            query.insert(key("mask_path"), mask_path.as_ref().map(|path| path.to_string_lossy().into_owned()));
            // Of the same mask made again nothing else differs: the label must not fit any more when that is done.
            if let NewLabel::Mask(_, checksum, Provenance { fingerprint: new, .. }) = label
                && new == fingerprint
            {
                query.insert(key("mask_checksum"), doc! {"$ne": checksum.to_string()});
            }
            query.insert(key("fingerprint"), fingerprint)
        }
        Some(LocalizedLabel { fingerprint: None, .. }) => {
            query.insert("$and", vec![doc! {field: {"$type": "object"}}]);
            query.insert(key("fingerprint"), doc! {"$not": {"$type": "string"}})
        }
    };
    let now = doc! {"$set": {"last_modified_at": "$$NOW"}};
    let update = match label {
        NewLabel::None => vec![doc! {"$unset": field}, now],
        NewLabel::Boxes(boxes, provenance) => {
            let mut label = doc! {"_cls": DETECTIONS_CLASS, "detections": boxes.iter().map(detection).collect::<Vec<_>>()};
            label.extend(origin(provenance));
            // Whatever was there goes: literally, as names may begin with a dollar sign.
            vec![doc! {"$unset": field}, doc! {"$set": {field: {"$literal": label}, "last_modified_at": "$$NOW"}}]
        }
        NewLabel::Mask(path, checksum, provenance) => {
            let id = ObjectId::new();
            let mut label = doc! {"_cls": "Segmentation", "mask_path": path, "mask_checksum": checksum.to_string()};
            label.extend(origin(provenance));
            let stored = doc! {"$cond": [{"$eq": [{"$type": format!("${field}")}, "object"]}, format!("${field}"), {}]};
            let kept =
                doc! {"_id": {"$ifNull": [format!("${field}._id"), id]}, "tags": {"$ifNull": [format!("${field}.tags"), []]}};
            let merged =
                doc! {"$mergeObjects": [{"_id": id, "_cls": "Segmentation", "tags": []}, stored, {"$literal": label}, kept]};
            // FiftyOne would take an array in the document for the mask.
            vec![doc! {"$set": {field: merged, "last_modified_at": "$$NOW"}}, doc! {"$unset": key("mask")}]
        }
    };
    Some(LabelChange { query, update })
}

fn origin(Provenance { heatmaps, thresholds, learnt_on, fingerprint }: &Provenance) -> Document {
    doc! {"heatmaps": heatmaps, "thresholds": thresholds, "learnt_on": learnt_on.as_deref(), "fingerprint": fingerprint}
}

fn detection(found: &LocalizedBox) -> Document {
    let LocalizedBox { class, bounds, confidence, threshold, heat, heatmap: [heatmap, method, layer, model] } = found;
    doc! {
        "_id": ObjectId::new(), "_cls": "Detection", "attributes": {}, "tags": [], "label": class,
        "bounding_box": bounds.map(Bson::from).to_vec(), "confidence": confidence,
        "threshold": threshold, "heat": heat, "heatmap": heatmap, "method": method, "layer": layer, "model": model,
    }
}

/// Whether a sample has a label in this field that was made of other heatmaps, or by others: one whose fingerprint begins otherwise.
///
/// # Errors
/// The database fails.
pub fn has_other_localized(dataset: &Dataset, field: &str, beginning: &str) -> Result<Option<String>, Error> {
    let fingerprint = format!("{field}.fingerprint");
    let is_other = doc! {&fingerprint: {"$type": "string", "$not": {"$regex": format!("^{beginning}-")}}};
    let found = with_retries(|| {
        let query = is_other.clone();
        dataset.database.run(&format!("looking at field `{field}` of dataset `{}`", dataset.name), async {
            let samples = dataset.database.collection::<Document>(&dataset.samples);
            samples.find_one(query).projection(doc! {format!("{field}.heatmaps"): 1}).await
        })
    })?;
    let heatmaps = |sample: Document| {
        let list = sample.get_document(field).ok()?.get_array("heatmaps").ok()?.clone();
        Some(list.iter().filter_map(Bson::as_str).collect::<Vec<_>>().join(", "))
    };
    Ok(found.map(|sample| heatmaps(sample).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_was_changed_does_not_fit_any_more() {
        let provenance =
            Provenance { heatmaps: vec!["cam".into()], thresholds: vec![0.2], learnt_on: None, fingerprint: "new".into() };
        let made = |read: Option<LocalizedLabel>, label: NewLabel| {
            change(&LocalizedChange { sample: "07".repeat(12), field: "found".into(), read, label }).expect("a change")
        };
        let first = made(None, NewLabel::Boxes(Vec::new(), provenance.clone()));
        assert_eq!(first.query.get_document("found").ok(), Some(&doc! {"$not": {"$type": "object"}}));
        let before = LocalizedLabel { fingerprint: Some("old".into()), ..LocalizedLabel::default() };
        let again = made(Some(before.clone()), NewLabel::Boxes(Vec::new(), provenance));
        assert_eq!(again.query.get_str("found.fingerprint").ok(), Some("old"));
        assert!(again.update[1].to_string().contains("new"), "{:?}", again.update);
        assert_eq!(made(Some(before), NewLabel::None).update[0], doc! {"$unset": "found"});
        let theirs = made(Some(LocalizedLabel::default()), NewLabel::None);
        assert_eq!(theirs.query.get_document("found.fingerprint").ok(), Some(&doc! {"$not": {"$type": "string"}}));
    }
}
