//! The entries of camflow's fields in a dataset's schema, as FiftyOne would write them, and what a stored one lacks.

use bson::{Bson, DateTime, Document, doc};

use super::fields::{HEATMAPS, LIST_OF, kind_of};
use camflow_measure::Measure;
use camflow_names::Choice;
use camflow_pipeline::PredictionKind;

/// The type of a field of heatmaps.
pub(super) const HEATMAP: &str = "fiftyone.core.labels.Heatmap";

/// The type of a field of detections.
pub(super) const DETECTIONS: &str = "fiftyone.core.labels.Detections";

/// The type of a field of classes of whole images.
pub(super) const CLASSIFICATION: &str = "fiftyone.core.labels.Classification";

/// The type of a field of masks.
pub(super) const SEGMENTATION: &str = "fiftyone.core.labels.Segmentation";

/// FiftyOne's older attributes of detections.
const ATTRIBUTE: &str = "fiftyone.core.labels.Attribute";

/// A field that holds a document.
const EMBEDDED: &str = "EmbeddedDocumentField";

/// The type of each of them.
const DETECTION: &str = "fiftyone.core.labels.Detection";

/// What a field of camflow's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Heatmap {
        /// Whether its attention to the classes of another label is measured.
        attention: bool,
    },
    /// Detections with heatmaps of their own.
    Detections {
        /// The same of these.
        attention: bool,
    },
    /// What a model predicts.
    Predictions(PredictionKind),
}

impl Kind {
    /// FiftyOne's class of its labels.
    pub(super) fn type_name(self) -> &'static str {
        match self {
            Kind::Heatmap { .. } => HEATMAP,
            Kind::Detections { .. } | Kind::Predictions(PredictionKind::Detections) => DETECTIONS,
            Kind::Predictions(PredictionKind::Classification) => CLASSIFICATION,
            Kind::Predictions(PredictionKind::Segmentation { .. }) => SEGMENTATION,
        }
    }
}

/// What FiftyOne declares for every heatmap: name, type, type of the items, key in the document.
const OF_FIFTYONE: [(&str, &str, Option<&str>, &str); 5] = [
    ("id", "ObjectIdField", None, "_id"),
    ("tags", "ListField", Some("StringField"), "tags"),
    ("map", "ArrayField", None, "map"),
    ("map_path", "StringField", None, "map_path"),
    ("range", "HeatmapRangeField", Some("FloatField"), "range"),
];

/// The name of an attribute, its type, and that of the items of a list.
pub(super) type Attribute = (&'static str, &'static str, Option<&'static str>);

/// Our own attributes before the measures. Declared, they can be filtered by in the App's sidebar; every label of ours has them all,
/// because FiftyOne raises AttributeError for a declared attribute that a label lacks.
const BEFORE_MEASURES: [Attribute; 2] = [("target_class", "StringField", None), ("score", "FloatField", None)];

/// Of heatmaps of whole images: the class whose score was subtracted, what the model predicts for the image, and whether that is right.
const OF_IMAGES: [Attribute; 5] = [
    ("contrast_class", "StringField", None),
    ("predicted_class", "StringField", None),
    ("predicted_confidence", "FloatField", None),
    ("true_class", "StringField", None),
    ("correct", "BooleanField", None),
];

/// What boxes and masks that heatmaps localize say of where they are from: the heatmaps' fields, the threshold of each, and the label
/// field that these were learnt on.
const OF_LOCALIZED: [Attribute; 4] = [
    (HEATMAPS, "ListField", Some("StringField")),
    ("thresholds", "ListField", Some("FloatField")),
    ("learnt_on", "StringField", None),
    ("fingerprint", "StringField", None),
];

/// What each of these boxes says.
const OF_EACH_BOX: [Attribute; 6] = [
    ("threshold", "FloatField", None),
    ("heat", "FloatField", None),
    ("heatmap", "StringField", None),
    ("method", "StringField", None),
    ("layer", "StringField", None),
    ("model", "StringField", None),
];

/// After the measures.
const AFTER_MEASURES: [Attribute; 8] = [
    ("method", "StringField", None),
    ("layer", "StringField", None),
    ("model", "StringField", None),
    ("npy_path", "StringField", None),
    ("map_checksum", "StringField", None),
    ("npy_checksum", "StringField", None),
    ("upsampling", "ListField", Some("IntField")),
    ("fingerprint", "StringField", None),
];

/// What every heatmap of a run has that measures attention to the classes of another label. The list is one of documents rather than
/// one dictionary: names of classes may hold dots and dollar signs, which are no keys of MongoDB's.
const OF_ATTENTION: [Attribute; 3] =
    [("attended_class", "StringField", None), ("attention_on", "StringField", None), ("attention", "ListField", Some(EMBEDDED))];

/// FiftyOne's type of the documents of `attention`, as they are stored and in the schema, and what is in them.
pub(super) const DYNAMIC_CLASS: &str = "DynamicEmbeddedDocument";
const DYNAMIC: &str = "fiftyone.core.odm.embedded_document.DynamicEmbeddedDocument";
const OF_EACH_CLASS: [Attribute; 3] =
    [("label", "StringField", None), ("share", "FloatField", None), ("area", "FloatField", None)];

/// What FiftyOne declares for every detection, beside [`Attribute`]s of its own type.
const OF_DETECTIONS: [(&str, &str, Option<&str>, &str); 8] = [
    ("id", "ObjectIdField", None, "_id"),
    ("tags", "ListField", Some("StringField"), "tags"),
    ("label", "StringField", None, "label"),
    ("bounding_box", "ListField", Some("FloatField"), "bounding_box"),
    ("mask", "ArrayField", None, "mask"),
    ("mask_path", "StringField", None, "mask_path"),
    ("confidence", "FloatField", None, "confidence"),
    ("index", "IntField", None, "index"),
];

/// What all heatmaps of a sample's detections have in common stands once, beside their list.
const OF_ALL_DETECTIONS: [Attribute; 5] = [
    ("target_class", "StringField", None),
    ("method", "StringField", None),
    ("layer", "StringField", None),
    ("model", "StringField", None),
    ("fingerprint", "StringField", None),
];

/// The checksum of a mask file of ours.
const MASK_CHECKSUM: Attribute = ("mask_checksum", "StringField", None);

/// What FiftyOne declares for the class of an image.
const OF_CLASSIFICATION: [(&str, &str, Option<&str>, &str); 5] = [
    ("id", "ObjectIdField", None, "_id"),
    ("tags", "ListField", Some("StringField"), "tags"),
    ("label", "StringField", None, "label"),
    ("confidence", "FloatField", None, "confidence"),
    ("logits", "VectorField", None, "logits"),
];

/// The same of a mask.
const OF_SEGMENTATION: [(&str, &str, Option<&str>, &str); 4] = [
    ("id", "ObjectIdField", None, "_id"),
    ("tags", "ListField", Some("StringField"), "tags"),
    ("mask", "ArrayField", None, "mask"),
    ("mask_path", "StringField", None, "mask_path"),
];

/// What predictions say of where they come from.
const OF_PREDICTIONS: [Attribute; 2] = [("model", "StringField", None), ("fingerprint", "StringField", None)];

/// The same, of masks with what was written to the file.
fn ours_of_predictions(kind: PredictionKind) -> impl Iterator<Item = Attribute> {
    let of_files = matches!(kind, PredictionKind::Segmentation { .. }).then_some(MASK_CHECKSUM);
    of_files.into_iter().chain(OF_PREDICTIONS)
}

/// Our attributes, with those of attention or without.
fn ours(attention: bool) -> impl Iterator<Item = Attribute> {
    let kind = |measure: Measure| if measure.is_yes_or_no() { "BooleanField" } else { "FloatField" };
    let measures = measures_shown().map(move |measure| (measure.name(), kind(measure), None));
    let of_attention = OF_ATTENTION.into_iter().filter(move |_| attention);
    BEFORE_MEASURES.into_iter().chain(measures).chain(OF_IMAGES).chain(AFTER_MEASURES).chain(of_attention)
}

/// Those of each detection, of a heatmap what all have in common left out.
fn ours_of_detections(attention: bool) -> impl Iterator<Item = Attribute> {
    let is_common = |attribute: &Attribute| OF_ALL_DETECTIONS[1..].iter().any(|common| common.0 == attribute.0);
    let more = [
        ("map_path", "StringField", None),
        ("range", "ListField", Some("FloatField")),
        ("rank", "IntField", None),
        ("outcome", "StringField", None),
        ("outcome_iou", "FloatField", None),
    ];
    // FiftyOne has it already.
    // Of a detector, an image has no one prediction.
    let is_of_image = |attribute: &Attribute| OF_IMAGES.iter().any(|of_image| of_image.0 == attribute.0);
    let is_of_each = move |attribute: &Attribute| !is_common(attribute) && !is_of_image(attribute);
    let of_heatmaps = ours(attention).filter(move |attribute| is_of_each(attribute) && attribute.0 != Measure::Confidence.name());
    of_heatmaps.chain(more)
}

/// The measures in the order in which the App shows them: how sure the model is comes first.
pub(super) fn measures_shown() -> impl Iterator<Item = Measure> {
    let others = Measure::ALL.iter().copied().filter(|measure| *measure != Measure::Confidence);
    std::iter::once(Measure::Confidence).chain(others)
}
/// What a schema lacks of one field.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lack {
    Nothing,
    Field,
    Attributes(Vec<Attribute>),
    /// Those of all detections of a label, and those of each.
    OfDetections(Vec<Attribute>, Vec<Attribute>),
}
/// What the stored entries lack of the field; an error is the reason why it cannot be ours.
pub(super) fn lack(entries: &[&Document], name: &str, kind: Kind) -> Result<Lack, String> {
    let Some(stored) = entries.iter().find(|entry| entry.get_str("name").ok() == Some(name)) else {
        // Another field may be stored under this key: renamed fields keep their key in old datasets.
        return match entries.iter().find(|entry| entry.get_str("db_field").ok() == Some(name)) {
            Some(other) => Err(format!("field `{}` is stored under this name", other.get_str("name").unwrap_or_default())),
            None => Ok(Lack::Field),
        };
    };
    if stored.get_str("embedded_doc_type").ok() != Some(kind.type_name()) {
        return Err(format!("it exists already and is of type {}", kind_of(stored)));
    }
    if stored.get_str("db_field").is_ok_and(|key| key != name) {
        return Err("it exists already and is stored under another name".to_owned());
    }
    if stored.get_bool("read_only").ok() == Some(true) {
        return Err("it is read-only".to_owned());
    }
    if is_localized(stored) {
        return Err("it exists already, with what `camflow localize` made of heatmaps".to_owned());
    }
    let has = |attribute: &str| inner(stored).any(|entry| entry.get_str("name").ok() == Some(attribute));
    let attention = match kind {
        Kind::Heatmap { attention } => {
            let missing = missing(stored, ours(attention))?;
            return Ok(if missing.is_empty() { Lack::Nothing } else { Lack::Attributes(missing) });
        }
        // Labels are what people put much work into: only what says what it was made of is camflow's to write to.
        Kind::Predictions(_) if !has("fingerprint") => {
            return Err("it exists already, with labels that camflow did not make".to_owned());
        }
        Kind::Predictions(_) if has("method") => return Err("it exists already, with heatmaps of detections".to_owned()),
        Kind::Predictions(kind) => {
            let missing = missing(stored, ours_of_predictions(kind))?;
            return Ok(if missing.is_empty() { Lack::Nothing } else { Lack::Attributes(missing) });
        }
        Kind::Detections { .. } if !has("fingerprint") => {
            return Err("it exists already, with detections that camflow did not make".to_owned());
        }
        Kind::Detections { .. } if !has("method") => return Err("it exists already, with predictions".to_owned()),
        Kind::Detections { attention } => attention,
    };
    let mut attributes = inner(stored);
    let list = attributes.find(|entry| entry.get_str("name").ok() == Some("detections"));
    let of_all = missing(stored, OF_ALL_DETECTIONS.into_iter())?;
    let of_each = list.map_or_else(|| Ok(Vec::new()), |list| missing(list, ours_of_detections(attention)))?;
    Ok(if of_all.is_empty() && of_each.is_empty() { Lack::Nothing } else { Lack::OfDetections(of_all, of_each) })
}

/// Whether the labels of a field say which heatmaps they were made of.
pub(super) fn is_localized(entry: &Document) -> bool {
    [HEATMAPS, "fingerprint"].iter().all(|attribute| inner(entry).any(|inner| inner.get_str("name").ok() == Some(attribute)))
}

/// The entries within one.
pub(super) fn inner(entry: &Document) -> impl Iterator<Item = &Document> {
    entry.get_array("fields").into_iter().flatten().filter_map(Bson::as_document)
}

/// The attributes that an entry lacks; an error if one is of another type.
fn missing(stored: &Document, wanted: impl Iterator<Item = Attribute>) -> Result<Vec<Attribute>, String> {
    let mut missing = Vec::new();
    for (attribute, kind, items) in wanted {
        let of_documents = format!("{LIST_OF}{DYNAMIC}");
        let shown = if items == Some(EMBEDDED) { &of_documents } else { kind };
        match inner(stored).find(|entry| entry.get_str("name").ok() == Some(attribute)) {
            None => missing.push((attribute, kind, items)),
            Some(entry) if kind_of(entry) == shown => {}
            Some(entry) => {
                return Err(format!("its attribute `{attribute}` is of type {}, not {shown}", kind_of(entry)));
            }
        }
    }
    Ok(missing)
}

/// The schema entry of a field, as FiftyOne would write it.
pub(super) fn field_entry(name: &str, kind: Kind, now: DateTime) -> Document {
    let theirs = |theirs| their_entry(theirs, now);
    let ours_as = |attribute: Attribute| attribute_entry(attribute, now);
    let attributes: Vec<Document> = match kind {
        Kind::Heatmap { attention } => OF_FIFTYONE.into_iter().map(theirs).chain(ours(attention).map(ours_as)).collect(),
        Kind::Detections { attention } => {
            let list = list_of_detections(ours_of_detections(attention), now);
            std::iter::once(list).chain(OF_ALL_DETECTIONS.into_iter().map(ours_as)).collect()
        }
        Kind::Predictions(PredictionKind::Detections) => {
            std::iter::once(list_of_detections(std::iter::empty(), now)).chain(OF_PREDICTIONS.into_iter().map(ours_as)).collect()
        }
        Kind::Predictions(kind @ PredictionKind::Classification) => {
            OF_CLASSIFICATION.into_iter().map(theirs).chain(ours_of_predictions(kind).map(ours_as)).collect()
        }
        Kind::Predictions(kind @ PredictionKind::Segmentation { .. }) => {
            OF_SEGMENTATION.into_iter().map(theirs).chain(ours_of_predictions(kind).map(ours_as)).collect()
        }
    };
    entry(name, EMBEDDED, Some(kind.type_name()), None, attributes.into_iter().map(Bson::Document).collect(), name, now)
}

/// The entry of a list of detections, each with attributes of ours.
fn list_of_detections(ours: impl Iterator<Item = Attribute>, now: DateTime) -> Document {
    let mut of_each: Vec<Document> = OF_DETECTIONS.into_iter().map(|theirs| their_entry(theirs, now)).collect();
    let dict = entry("attributes", "DictField", Some(ATTRIBUTE), Some(EMBEDDED), Vec::new(), "attributes", now);
    // Where FiftyOne has it.
    of_each.insert(2, dict);
    of_each.extend(ours.map(|attribute| attribute_entry(attribute, now)));
    let of_each = of_each.into_iter().map(Bson::Document).collect();
    entry("detections", "ListField", Some(DETECTION), Some(EMBEDDED), of_each, "detections", now)
}

/// The entry of one of FiftyOne's attributes.
fn their_entry((name, kind, items, key): (&str, &str, Option<&str>, &str), now: DateTime) -> Document {
    entry(name, kind, None, items, Vec::new(), key, now)
}

/// The schema entry of a field of boxes that heatmaps localize.
pub(super) fn boxes_entry(name: &str, now: DateTime) -> Document {
    let list = list_of_detections(OF_EACH_BOX.into_iter(), now);
    let attributes = std::iter::once(list).chain(OF_LOCALIZED.into_iter().map(|attribute| attribute_entry(attribute, now)));
    entry(name, EMBEDDED, Some(DETECTIONS), None, attributes.map(Bson::Document).collect(), name, now)
}

/// The same of masks.
pub(super) fn masks_entry(name: &str, now: DateTime) -> Document {
    let theirs = OF_SEGMENTATION.into_iter().map(|theirs| their_entry(theirs, now));
    let ours = std::iter::once(MASK_CHECKSUM).chain(OF_LOCALIZED);
    let attributes = theirs.chain(ours.map(|attribute| attribute_entry(attribute, now)));
    entry(name, EMBEDDED, Some(SEGMENTATION), None, attributes.map(Bson::Document).collect(), name, now)
}

/// The entry of one of our attributes.
pub(super) fn attribute_entry((name, kind, items): Attribute, now: DateTime) -> Document {
    let of_documents = items == Some(EMBEDDED);
    let inner = if of_documents { &OF_EACH_CLASS[..] } else { &[] };
    let inner = inner.iter().map(|attribute| Bson::Document(attribute_entry(*attribute, now))).collect();
    entry(name, kind, of_documents.then_some(DYNAMIC), items, inner, name, now)
}

/// One entry, its keys in FiftyOne's order. All entries of a field carry the same moment.
fn entry(
    name: &str,
    kind: &str,
    embedded: Option<&str>,
    items: Option<&str>,
    fields: Vec<Bson>,
    key: &str,
    now: DateTime,
) -> Document {
    doc! {
        "name": name,
        "ftype": format!("fiftyone.core.fields.{kind}"),
        "embedded_doc_type": embedded,
        "subfield": items.map(|items| format!("fiftyone.core.fields.{items}")),
        "fields": fields,
        "db_field": key,
        "description": null,
        "info": null,
        "read_only": false,
        "created_at": now,
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Document {
        field_entry("person_grad_layer_1", Kind::Heatmap { attention: false }, DateTime::from_millis(0))
    }

    #[test]
    fn the_entry_has_fiftyones_keys_in_fiftyones_order() {
        let entry = stored();
        let keys: Vec<&str> = entry.keys().map(String::as_str).collect();
        let expected = [
            "name",
            "ftype",
            "embedded_doc_type",
            "subfield",
            "fields",
            "db_field",
            "description",
            "info",
            "read_only",
            "created_at",
        ];
        assert_eq!(keys, expected);
        assert_eq!(entry.get_str("ftype").ok(), Some("fiftyone.core.fields.EmbeddedDocumentField"));
        assert_eq!(entry.get_str("embedded_doc_type").ok(), Some(HEATMAP));
        let attributes: Vec<&Document> = entry.get_array("fields").unwrap().iter().filter_map(Bson::as_document).collect();
        let names: Vec<&str> = attributes.iter().filter_map(|entry| entry.get_str("name").ok()).collect();
        let expected = [
            "id",
            "tags",
            "map",
            "map_path",
            "range",
            "target_class",
            "score",
            "confidence",
            "energy_inside",
            "energy_ratio",
            "pointing_hit",
            "best_iou",
            "best_threshold",
            "center_offset",
            "object_area",
            "entropy",
            "rank_correlation",
            "confidence_drop",
            "confidence_increase",
            "deletion_auc",
            "insertion_auc",
            "road",
            "confidence_without_object",
            "confidence_without_background",
            "confidence_without_attended",
            "context_reliance",
            "contrast_class",
            "predicted_class",
            "predicted_confidence",
            "true_class",
            "correct",
            "method",
            "layer",
            "model",
            "npy_path",
            "map_checksum",
            "npy_checksum",
            "upsampling",
            "fingerprint",
        ];
        assert_eq!(names, expected);
        assert_eq!(attributes[0].get_str("db_field").ok(), Some("_id"));
        assert_eq!(attributes[4].get_str("ftype").ok(), Some("fiftyone.core.fields.HeatmapRangeField"));
        assert_eq!(attributes[4].get_str("subfield").ok(), Some("fiftyone.core.fields.FloatField"));
        assert_eq!(attributes[2].get("subfield"), Some(&Bson::Null));
    }

    #[test]
    fn what_is_missing_is_found() {
        let name = "person_grad_layer_1";
        assert_eq!(lack(&[], name, Kind::Heatmap { attention: false }), Ok(Lack::Field));
        assert_eq!(lack(&[&stored()], name, Kind::Heatmap { attention: false }), Ok(Lack::Nothing));
        let mut plain = stored();
        plain.get_array_mut("fields").unwrap().truncate(7);
        assert_eq!(
            lack(&[&plain], name, Kind::Heatmap { attention: false }),
            Ok(Lack::Attributes(ours(false).skip(2).collect()))
        );
    }

    #[test]
    fn attention_is_declared_where_it_is_measured() {
        let name = "person_grad_layer_1";
        let wanted = Kind::Heatmap { attention: true };
        let Ok(Lack::Attributes(missing)) = lack(&[&stored()], name, wanted) else { panic!("it lacks some") };
        assert_eq!(
            missing.iter().map(|attribute| attribute.0).collect::<Vec<_>>(),
            ["attended_class", "attention_on", "attention"]
        );
        let declared = field_entry(name, wanted, DateTime::from_millis(0));
        assert_eq!(lack(&[&declared], name, wanted), Ok(Lack::Nothing));
        assert_eq!(lack(&[&declared], name, Kind::Heatmap { attention: false }), Ok(Lack::Nothing), "an earlier run's stay");
        let attention = inner(&declared).find(|entry| entry.get_str("name").ok() == Some("attention")).expect("it is declared");
        assert_eq!(attention.get_str("subfield").ok(), Some("fiftyone.core.fields.EmbeddedDocumentField"));
        assert_eq!(attention.get_str("embedded_doc_type").ok(), Some(DYNAMIC));
        assert_eq!(
            inner(attention).filter_map(|entry| entry.get_str("name").ok()).collect::<Vec<_>>(),
            ["label", "share", "area"]
        );
        let mut other = stored();
        let scalar = doc! {"name": "attention", "ftype": "fiftyone.core.fields.FloatField"};
        other.get_array_mut("fields").unwrap().push(Bson::Document(scalar));
        assert!(lack(&[&other], name, wanted).unwrap_err().contains("`attention` is of type FloatField, not list of"));
    }

    #[test]
    fn foreign_fields_are_left_alone() {
        let name = "person_grad_layer_1";
        let mut other = stored();
        other.insert("embedded_doc_type", "fiftyone.core.labels.Segmentation");
        assert!(lack(&[&other], name, Kind::Heatmap { attention: false }).unwrap_err().contains("of type Segmentation"));
        let mut locked = stored();
        locked.insert("read_only", true);
        assert!(lack(&[&locked], name, Kind::Heatmap { attention: false }).unwrap_err().contains("read-only"));
        let mut typed = stored();
        typed.get_array_mut("fields").unwrap()[6] =
            Bson::Document(doc! {"name": "score", "ftype": "fiftyone.core.fields.StringField"});
        assert!(
            lack(&[&typed], name, Kind::Heatmap { attention: false }).unwrap_err().contains("`score` is of type StringField")
        );
        let mut renamed = stored();
        renamed.insert("name", "new");
        assert!(lack(&[&renamed], name, Kind::Heatmap { attention: false }).unwrap_err().contains("field `new`"));
    }

    #[test]
    fn detections_of_others_are_left_alone() {
        let name = "person_layercam_layer_head_detections";
        let ours = field_entry(name, Kind::Detections { attention: false }, DateTime::from_millis(0));
        assert_eq!(lack(&[&ours], name, Kind::Detections { attention: false }), Ok(Lack::Nothing));
        assert!(lack(&[&ours], name, Kind::Heatmap { attention: false }).unwrap_err().contains("of type Detections"));
        let list = inner(&ours).next().expect("the list").clone();
        let names: Vec<&str> = inner(&list).filter_map(|entry| entry.get_str("name").ok()).collect();
        let theirs = ["id", "tags", "attributes", "label", "bounding_box", "mask", "mask_path", "confidence", "index"];
        assert_eq!(names[..9], theirs);
        assert!(["score", "energy_inside", "map_path", "npy_path", "range"].iter().all(|ours| names.contains(ours)), "{names:?}");
        assert_eq!(names.iter().filter(|name| **name == "confidence").count(), 1);
        let mut of_a_user = ours.clone();
        of_a_user.get_array_mut("fields").unwrap().truncate(1);
        assert!(lack(&[&of_a_user], name, Kind::Detections { attention: false }).unwrap_err().contains("camflow did not make"));
        let mut earlier = ours.clone();
        let of_each = earlier.get_array_mut("fields").unwrap()[0].as_document_mut().unwrap().get_array_mut("fields").unwrap();
        let last = of_each.pop().and_then(|entry| Some(entry.as_document()?.get_str("name").ok()?.to_owned()));
        assert_eq!(last.as_deref(), Some("outcome_iou"));
        let missing = vec![("outcome_iou", "FloatField", None)];
        assert_eq!(lack(&[&earlier], name, Kind::Detections { attention: false }), Ok(Lack::OfDetections(Vec::new(), missing)));
    }

    #[test]
    fn predictions_have_fiftyones_entries_and_labels_of_others_are_left_alone() {
        for (kind, theirs) in [
            (PredictionKind::Classification, &["id", "tags", "label", "confidence", "logits"][..]),
            (PredictionKind::Detections, &["detections"][..]),
            (PredictionKind::Segmentation { unseen: 0 }, &["id", "tags", "mask", "mask_path", "mask_checksum"][..]),
        ] {
            let kind = Kind::Predictions(kind);
            let ours = field_entry("predictions", kind, DateTime::from_millis(0));
            let names: Vec<&str> = inner(&ours).filter_map(|entry| entry.get_str("name").ok()).collect();
            assert_eq!(names, [theirs, &["model", "fingerprint"]].concat());
            assert_eq!(ours.get_str("embedded_doc_type").ok(), Some(kind.type_name()));
            assert_eq!(lack(&[&ours], "predictions", kind), Ok(Lack::Nothing));
            let mut of_a_user = ours.clone();
            of_a_user.get_array_mut("fields").unwrap().truncate(theirs.len());
            assert!(lack(&[&of_a_user], "predictions", kind).unwrap_err().contains("labels that camflow did not make"));
            let heatmaps = Kind::Detections { attention: false };
            assert!(lack(&[&ours], "predictions", heatmaps).is_err());
        }
        let heatmaps = field_entry("a_detections", Kind::Detections { attention: false }, DateTime::from_millis(0));
        let kind = Kind::Predictions(PredictionKind::Detections);
        assert!(lack(&[&heatmaps], "a_detections", kind).unwrap_err().contains("heatmaps of detections"));
    }
}
