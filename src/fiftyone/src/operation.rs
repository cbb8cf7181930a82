//! The update of one sample with all its heatmap fields, and the conditions under which it may be made.

use std::path::{Path, absolute};

use bson::{Binary, Bson, Document, RawDocument, doc, oid::ObjectId, spec::BinarySubtype};

use super::{
    lock::Fence,
    schema::{HeatmapField, Schema},
    schema_entry::{DYNAMIC_CLASS, measures_shown},
    stored_heatmap::{CLASSIFICATION_CLASS, DETECTIONS_CLASS, HEATMAP_CLASS, SEGMENTATION_CLASS, heatmap, picture_key},
};
use camflow_measure::{Attention, attended_class};
use camflow_names::Choice;
use camflow_pipeline::{
    PredictedClass, PredictedLabel, SampleUpdate, StoredHeatmap, StoredMap, WrittenHeatmap, WrittenPrediction, WrittenPredictions,
};

/// Bytes per command. The driver sends a command as one document, for which the server's limit is 16 MiB and a little;
/// the rest is for the command's own keys.
pub(super) const COMMAND_BYTES: usize = 15 << 20;

/// Attributes of heatmaps whose attention to the classes of another label was measured.
const ATTENTION_KEYS: [&str; 3] = ["attended_class", "attention_on", "attention"];

/// A sample's update, ready to be sent.
pub(super) struct Operation {
    pub(super) sample: ObjectId,
    labels: Vec<Label>,
    update: Vec<Document>,
    /// What it takes in a command.
    pub(super) bytes: usize,
}

/// One label of an update: what it was and what it becomes. It may be made only if the label is one of both.
struct Label {
    field: String,
    /// FiftyOne's word for what it is.
    class: &'static str,
    /// `None` if there was none.
    read: Option<StoredHeatmap>,
    /// The fingerprint; `None` for a label that is taken away.
    new: Option<String>,
}

impl Operation {
    /// The fields that it changes.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().map(|label| label.field.as_str())
    }

    /// The fields that get a label.
    pub(super) fn new_labels(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().filter(|label| label.new.is_some()).map(|label| label.field.as_str())
    }

    /// The update, under all its conditions.
    pub(super) fn statement(&self, fence: Option<&Fence>) -> Document {
        let mut query = doc! {"_id": self.sample};
        query.insert("$and", self.labels.iter().map(Label::condition).collect::<Vec<_>>());
        query.extend(fence.map(|fence| ("$expr".to_owned(), Bson::from(fence.condition()))));
        doc! {"q": query, "u": &self.update, "multi": false, "upsert": false}
    }

    /// The field that somebody else changed, if the sample is as it is stored here.
    pub(super) fn changed(&self, sample: &RawDocument) -> Option<&str> {
        let stored = |field: &str| sample.get_document(field).ok().map(|label| heatmap(field, label));
        self.labels.iter().find(|label| !label.may_be(stored(&label.field).as_ref())).map(|label| label.field.as_str())
    }
}

impl Label {
    /// What the server compares.
    fn condition(&self) -> Document {
        let Label { field, class, read, new } = self;
        let is_none = || doc! {field: {"$not": {"$type": "object"}}};
        let as_read = match read {
            None => is_none(),
            Some(read) => {
                let mut all = vec![doc! {field: {"$type": "object"}}];
                all.push(match &read.fingerprint {
                    Some(fingerprint) => doc! {format!("{field}.fingerprint"): fingerprint},
                    // In a fragment it counts for nothing.
                    None => doc! {"$or": [
                        {format!("{field}.fingerprint"): {"$not": {"$type": "string"}}}, {format!("{field}._cls"): {"$ne": class}},
                    ]},
                });
                for (key, path) in [(picture_key(class), &read.map_path), ("npy_path", &read.npy_path)] {
                    let key = format!("{field}.{key}");
                    all.push(match path {
                        Some(path) => doc! {key: path.to_string_lossy().as_ref()},
                        None => doc! {"$or": [{&key: {"$not": {"$type": "string"}}}, {&key: ""}]},
                    });
                }
                doc! {"$and": all}
            }
        };
        let as_wanted = match new {
            None => is_none(),
            Some(fingerprint) => doc! {format!("{field}.fingerprint"): fingerprint},
        };
        doc! {"$or": [as_read, as_wanted]}
    }

    /// The same of a label that is at hand.
    fn may_be(&self, stored: Option<&StoredHeatmap>) -> bool {
        let compared = |label: &StoredHeatmap| (label.fingerprint.clone(), label.map_path.clone(), label.npy_path.clone());
        let as_wanted = match &self.new {
            None => stored.is_none(),
            Some(_) => stored.is_some_and(|stored| stored.fingerprint == self.new),
        };
        as_wanted || stored.map(compared) == self.read.as_ref().map(compared)
    }
}

/// The update of one sample; an error is the reason why it cannot be made.
pub(super) fn operation(update: &SampleUpdate, schema: &Schema) -> Result<Operation, String> {
    let sample = ObjectId::parse_str(&update.sample.id).map_err(|_| format!("`{}` is not a sample id", update.sample.id))?;
    let mut set = Document::new();
    let mut unset = Vec::new();
    let mut labels = Vec::new();
    let mut was_read = |field: &str, new: Option<String>| {
        let read = update.existing.iter().find(|stored| stored.field == field).cloned();
        let class = match update.predictions.as_ref().filter(|predictions| predictions.field == field) {
            Some(predictions) => class_of(&predictions.label),
            None if schema.field(field).is_some_and(HeatmapField::is_of_detections) => DETECTIONS_CLASS,
            None => HEATMAP_CLASS,
        };
        labels.push(Label { field: field.to_owned(), class, read, new });
    };
    for heatmap in &update.heatmaps {
        let field =
            schema.field(&heatmap.field).ok_or_else(|| format!("field `{}` was not declared for this run", heatmap.field))?;
        if field.is_of_detections() {
            if !set.contains_key(&field.name) {
                was_read(&field.name, Some(heatmap.fingerprint.clone()));
                let all: Vec<_> = update.heatmaps.iter().filter(|other| other.field == field.name).collect();
                set.insert(&field.name, detections_label(&all, field)?);
            }
            continue;
        }
        was_read(&heatmap.field, Some(heatmap.fingerprint.clone()));
        set.insert(&heatmap.field, label(heatmap, field)?);
        unset.push(Bson::String(match heatmap.map {
            StoredMap::File(_) => format!("{}.map", heatmap.field),
            StoredMap::Inline(_) => format!("{}.map_path", heatmap.field),
        }));
    }
    if let Some(predictions) = &update.predictions {
        let field = &predictions.field;
        if schema.predictions().is_none_or(|declared| declared.name != *field) {
            return Err(format!("field `{field}` was not declared for this run"));
        }
        was_read(field, Some(predictions.fingerprint.clone()));
        set.insert(field, predictions_label(predictions)?);
    }
    update.withdrawn.iter().for_each(|field| was_read(field, None));
    unset.extend(update.withdrawn.iter().map(|field| Bson::String(field.clone())));
    if set.is_empty() && unset.is_empty() {
        return Err("the update names no label".to_owned());
    }
    // The App saves a whole sample only if this moment is the one it saw, so without it a save in flight would undo
    // ours.
    set.insert("last_modified_at", "$$NOW");
    let mut update = vec![doc! {"$set": set}];
    if !unset.is_empty() {
        update.push(doc! {"$unset": unset});
    }
    let mut operation = Operation { sample, labels, update, bytes: 0 };
    let bytes = operation.statement(None).to_vec().map_err(|error| error.to_string())?.len();
    if bytes > COMMAND_BYTES {
        return Err(format!("its heatmaps take {} MiB, more than MongoDB stores in one sample; use `--store path`", bytes >> 20));
    }
    // The key in the array of updates, and the fence.
    operation.bytes = bytes + 200;
    Ok(operation)
}

/// The expression whose value is the new label: a stored label keeps its id, its tags and what people added to it;
/// null, absent and fragmentary ones become whole.
fn label(heatmap: &WrittenHeatmap, field: &HeatmapField) -> Result<Document, String> {
    let stored = |key: &str| format!("${}.{key}", heatmap.field);
    let id = ObjectId::new();
    // In the order in which the App's tooltip shows them.
    let mut values = doc! {"_cls": HEATMAP_CLASS};
    values.extend(numbers(heatmap));
    let WrittenPrediction { class, confidence, true_class, is_correct } = &heatmap.prediction;
    values.extend(doc! {
        "contrast_class": &heatmap.contrast,
        "predicted_class": class, "predicted_confidence": confidence, "true_class": true_class, "correct": is_correct,
    });
    values.extend(doc! {"method": &field.method, "layer": &field.layer, "model": &field.model});
    values.extend(content(heatmap)?);
    values.extend(attention(heatmap, field));
    values.insert("fingerprint", &heatmap.fingerprint);
    Ok(doc! {"$mergeObjects": [
        // First, for the order of the keys.
        {"_id": id, "_cls": HEATMAP_CLASS, "tags": []},
        format!("${}", heatmap.field),
        // Literally: a path or a name may begin with a dollar sign.
        {"$literal": values},
        {"_id": {"$ifNull": [stored("_id"), id]}, "tags": {"$ifNull": [stored("tags"), []]}},
        without_attention(field, stored),
    ]})
}

/// FiftyOne's word for what predictions are.
fn class_of(label: &PredictedLabel) -> &'static str {
    match label {
        PredictedLabel::Classification(_) => CLASSIFICATION_CLASS,
        PredictedLabel::Detections(_) => DETECTIONS_CLASS,
        PredictedLabel::Segmentation { .. } => SEGMENTATION_CLASS,
    }
}

/// The expression whose value is the new label of predictions, as FiftyOne's own models leave it: a class of the image keeps its id and
/// its tags, as a mask does, detections are new ones. Nothing else of the label before stays, as it was about another prediction.
fn predictions_label(predictions: &WrittenPredictions) -> Result<Document, String> {
    let WrittenPredictions { field, label, model, fingerprint } = predictions;
    let class = class_of(label);
    let stored = |key: &str| format!("${field}.{key}");
    let kept = |values: Document| {
        doc! {"$mergeObjects": [
            {"_id": {"$ifNull": [stored("_id"), ObjectId::new()]}, "tags": {"$ifNull": [stored("tags"), []]}},
            {"$literal": values},
        ]}
    };
    match label {
        PredictedLabel::Classification(found) => {
            let values = doc! {
                "_cls": class, "label": &found.label, "confidence": found.confidence, "logits": null, "model": model,
                "fingerprint": fingerprint,
            };
            Ok(kept(values))
        }
        PredictedLabel::Segmentation { mask_path, checksum } => Ok(kept(doc! {
            "_cls": class, "mask_path": path_text(mask_path)?, "mask_checksum": checksum.to_string(), "model": model,
            "fingerprint": fingerprint,
        })),
        PredictedLabel::Detections(found) => {
            let detection = |(of, bounds): &(PredictedClass, [f64; 4])| {
                doc! {
                    "_id": ObjectId::new(), "_cls": "Detection", "attributes": {}, "tags": [], "label": &of.label,
                    "bounding_box": bounds.map(Bson::from).to_vec(), "confidence": of.confidence,
                }
            };
            let detections: Vec<Document> = found.iter().map(detection).collect();
            Ok(doc! {"$literal": {"_cls": class, "detections": detections, "model": model, "fingerprint": fingerprint}})
        }
    }
}

/// The expression whose value is the new list of detections, each with its heatmap: a copy of each stored detection, under the same
/// id, which keeps its tags and what people added to it.
fn detections_label(heatmaps: &[&WrittenHeatmap], field: &HeatmapField) -> Result<Document, String> {
    let HeatmapField { name, method, layer, model, .. } = field;
    let first = heatmaps.first().ok_or_else(|| format!("there is nothing for field `{name}`"))?;
    let detections = heatmaps.iter().map(|heatmap| detection(heatmap, field)).collect::<Result<Vec<_>, _>>()?;
    let list = format!("${name}.detections");
    let before = doc! {"$filter": {
        "input": {"$cond": [{"$isArray": &list}, &list, []]}, "as": "before", "cond": {"$eq": ["$$before._id", "$$now._id"]},
    }};
    let defaults = doc! {"_id": "$$now._id", "_cls": "Detection", "attributes": {}, "tags": []};
    let of_all = doc! {
        "_cls": DETECTIONS_CLASS, "target_class": &first.class, "method": method, "layer": layer, "model": model,
        "fingerprint": &first.fingerprint,
    };
    Ok(doc! {"$mergeObjects": [
        {"_cls": DETECTIONS_CLASS},
        format!("${name}"),
        {"detections": {"$map": {
            "input": {"$literal": detections}, "as": "now", "in": {"$let": {
                "vars": {"was": {"$first": before}},
                "in": {"$mergeObjects": [defaults, "$$was", "$$now", without_attention(field, |key| format!("$$was.{key}"))]},
            }},
        }}},
        {"$literal": of_all},
    ]})
}

/// What a detection with a heatmap of its own says.
fn detection(heatmap: &WrittenHeatmap, field: &HeatmapField) -> Result<Document, String> {
    let of = heatmap.detection.as_ref().ok_or_else(|| format!("a heatmap for field `{}` is of no detection", heatmap.field))?;
    let id = ObjectId::parse_str(&of.id).map_err(|_| format!("`{}` is not the id of a detection", of.id))?;
    let mut values =
        doc! {"_id": id, "_cls": "Detection", "label": &of.label, "bounding_box": of.bounds.map(Bson::from).to_vec()};
    values.extend(numbers(heatmap));
    values.extend(content(heatmap)?);
    values.extend(attention(heatmap, field));
    let (outcome, iou) = of.evaluated.as_ref().map(|found| (found.outcome.as_str(), found.iou)).unzip();
    let rank = of.rank.and_then(|rank| i32::try_from(rank).ok());
    values.extend(doc! {"rank": rank, "outcome": outcome, "outcome_iou": iou.flatten()});
    Ok(values)
}

/// What was explained, and the numbers about it.
fn numbers(heatmap: &WrittenHeatmap) -> Document {
    let mut values = doc! {
        "target_class": &heatmap.class,
        // FiftyOne's bounds over a field with a NaN are NaN.
        "score": Some(heatmap.score).filter(|score| score.is_finite()),
    };
    values.extend(measures_shown().map(|measure| {
        let number = heatmap.measures.get(measure);
        let value = if measure.is_yes_or_no() { number.map(|number| number != 0.0).into() } else { Bson::from(number) };
        (measure.name().to_owned(), value)
    }));
    values
}

/// What of it lies on which class, where that is measured.
fn attention(heatmap: &WrittenHeatmap, field: &HeatmapField) -> Document {
    let Some(on) = &field.attention_on else { return Document::new() };
    let of_class = |one: &Attention| {
        doc! {"_cls": DYNAMIC_CLASS, "label": one.label.as_deref(), "share": one.share, "area": one.area}
    };
    let classes = heatmap.attention.as_deref();
    doc! {
        "attended_class": classes.and_then(attended_class),
        "attention_on": on,
        "attention": classes.map(|classes| classes.iter().map(of_class).collect::<Vec<_>>()),
    }
}

/// Where it is not, the expression that takes away what an earlier run measured of another heatmap; nothing that was not there.
fn without_attention(field: &HeatmapField, stored: impl Fn(&str) -> String) -> Document {
    let keys = ATTENTION_KEYS.iter().filter(|_| field.attention_on.is_none());
    let null_if_there = |key: &&str| {
        doc! {"$cond": [{"$eq": [{"$type": stored(key)}, "missing"]}, "$$REMOVE", null]}
    };
    keys.map(|key| ((*key).to_owned(), Bson::from(null_if_there(key)))).collect()
}

/// Where its map and its exact floats are.
fn content(heatmap: &WrittenHeatmap) -> Result<Document, String> {
    let mut values = Document::new();
    match &heatmap.map {
        // The App takes the range in stored pixel units.
        StoredMap::File(path) => values.extend(doc! {"map_path": path_text(path)?, "range": [0.0, 255.0]}),
        StoredMap::Inline(bytes) => {
            let map = Binary { subtype: BinarySubtype::Generic, bytes: bytes.clone() };
            values.extend(doc! {"map": map, "range": [0.0, 1.0]});
        }
    }
    values.extend(doc! {
        "npy_path": heatmap.npy_path.as_deref().map(path_text).transpose()?,
        // As text: a number would be taken for a measure.
        "map_checksum": heatmap.map_checksum.as_ref().map(ToString::to_string),
        "npy_checksum": heatmap.npy_checksum.as_ref().map(ToString::to_string),
        "upsampling": heatmap.upsampling.map(|upsampling| upsampling.to_numbers()),
    });
    Ok(values)
}

/// FiftyOne resolves relative paths against nothing.
fn path_text(path: &Path) -> Result<String, String> {
    let absolute = absolute(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|path| format!("the path `{}` is not UTF-8, which MongoDB needs", path.display()))
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// Of so many bytes.
    pub(crate) fn operation_of(bytes: usize) -> Operation {
        Operation { sample: ObjectId::new(), labels: Vec::new(), update: Vec::new(), bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_media::Checksum;

    fn field() -> HeatmapField {
        let text = |text: &str| text.to_owned();
        HeatmapField {
            name: text("cam"),
            layer: text("layer4"),
            method: text("gradcam"),
            model: text("m"),
            shown_in: None,
            attention_on: None,
        }
    }

    fn heatmap(map: StoredMap) -> WrittenHeatmap {
        let (field, class, fingerprint) = ("cam".into(), "$person".into(), "f".into());
        WrittenHeatmap {
            field,
            detection: None,
            class,
            contrast: Some("$dog".into()),
            map,
            npy_path: None,
            map_checksum: None,
            npy_checksum: None,
            upsampling: None,
            score: f64::NAN,
            measures: camflow_measure::Measures::default(),
            attention: None,
            prediction: WrittenPrediction {
                class: Some("$cat".into()),
                confidence: Some(0.75),
                true_class: Some("$person".into()),
                is_correct: Some(false),
            },
            fingerprint,
        }
    }

    fn values(expression: &Document) -> &Document {
        let parts = expression.get_array("$mergeObjects").unwrap();
        parts[2].as_document().unwrap().get_document("$literal").unwrap()
    }

    #[test]
    fn every_declared_attribute_is_written() {
        let expression = label(&heatmap(StoredMap::File("/maps/a.png".into())), &field()).unwrap();
        let expected = doc! {
            "_cls": "Heatmap", "target_class": "$person", "score": null, "confidence": null,
            "energy_inside": null, "energy_ratio": null, "pointing_hit": null, "best_iou": null, "best_threshold": null,
            "center_offset": null, "object_area": null, "entropy": null, "rank_correlation": null,
            "confidence_drop": null, "confidence_increase": null, "deletion_auc": null,
            "insertion_auc": null, "road": null, "confidence_without_object": null, "confidence_without_background": null,
            "confidence_without_attended": null, "context_reliance": null,
            "contrast_class": "$dog", "predicted_class": "$cat", "predicted_confidence": 0.75, "true_class": "$person", "correct": false,
            "method": "gradcam", "layer": "layer4", "model": "m", "map_path": "/maps/a.png", "range": [0.0, 255.0],
            "npy_path": null, "map_checksum": null, "npy_checksum": null, "upsampling": null, "fingerprint": "f",
        };
        assert_eq!(*values(&expression), expected);
        assert!(values(&expression).keys().eq(expected.keys()), "the App shows them in this order");
    }

    #[test]
    fn attention_is_written_where_it_is_measured() {
        let one = |label: Option<&str>, share| Attention { label: label.map(str::to_owned), share, area: 0.25 };
        let attention = Some(vec![one(Some("$a.b"), Some(0.75)), one(None, Some(0.25))]);
        let on_scene = HeatmapField { attention_on: Some("scene".into()), ..field() };
        let of = |attention| {
            let written = WrittenHeatmap { attention, ..heatmap(StoredMap::File("/maps/a.png".into())) };
            values(&label(&written, &on_scene).unwrap()).clone()
        };
        let written = of(attention);
        assert_eq!((written.get_str("attended_class").unwrap(), written.get_str("attention_on").unwrap()), ("$a.b", "scene"));
        let first = doc! {"_cls": "DynamicEmbeddedDocument", "label": "$a.b", "share": 0.75, "area": 0.25};
        assert_eq!(written.get_array("attention").unwrap()[0], Bson::Document(first));
        let missing = of(None);
        assert_eq!((missing.get("attention"), missing.get("attended_class")), (Some(&Bson::Null), Some(&Bson::Null)));
        // Without it an earlier run's is taken away.
        let plain = label(&heatmap(StoredMap::File("/maps/a.png".into())), &field()).unwrap();
        assert!(!values(&plain).contains_key("attention"));
        assert!(plain.to_string().contains("$$REMOVE"), "{plain}");
        assert!(without_attention(&on_scene, str::to_owned).is_empty());
    }

    #[test]
    fn checksums_of_files_are_texts() {
        let [map, npy] = [b"map", b"npy"].map(|bytes| Some(Checksum::of(bytes)));
        let file = StoredMap::File("/maps/a.png".into());
        let written = WrittenHeatmap { map_checksum: map, npy_checksum: npy, ..heatmap(file) };
        let expression = label(&written, &field()).unwrap();
        let of = |key: &str| values(&expression).get_str(key).ok()?.parse::<Checksum>().ok();
        assert_eq!((of("map_checksum"), of("npy_checksum")), (map, npy));
    }

    #[test]
    fn inline_maps_are_generic_binaries() {
        let expression = label(&heatmap(StoredMap::Inline(vec![1, 2, 3])), &field()).unwrap();
        let map = Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 3] });
        assert_eq!(values(&expression).get("map"), Some(&map));
        assert!(!values(&expression).contains_key("map_path"));
    }

    #[test]
    fn paths_are_stored_absolute() {
        let text = path_text(Path::new("maps/a.png")).unwrap();
        assert!(Path::new(&text).is_absolute() && text.ends_with("maps/a.png"), "{text}");
    }
}
