//! The heatmap fields in a dataset's schema. A sample with a key that the schema lacks makes the whole dataset
//! unreadable for FiftyOne, so the entries come before the first sample, are only ever appended, and are looked after
//! while the run lasts.

use bson::{Bson, DateTime, Document, doc};

use super::{dataset::Dataset, error::Error, fields::kind_of};
use camflow_measure::Measure;
use camflow_names::Choice;

/// A field that holds heatmaps, and what all its heatmaps have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeatmapField {
    /// Its name in the samples.
    pub name: String,
    /// The target layer, by its module path.
    pub layer: String,
    /// The CAM method.
    pub method: String,
    /// The model's name.
    pub model: String,
}

/// The type of a field of heatmaps.
pub(super) const HEATMAP: &str = "fiftyone.core.labels.Heatmap";

/// What FiftyOne declares for every heatmap: name, type, type of the items, key in the document.
const OF_FIFTYONE: [(&str, &str, Option<&str>, &str); 5] = [
    ("id", "ObjectIdField", None, "_id"),
    ("tags", "ListField", Some("StringField"), "tags"),
    ("map", "ArrayField", None, "map"),
    ("map_path", "StringField", None, "map_path"),
    ("range", "HeatmapRangeField", Some("FloatField"), "range"),
];

/// The name of an attribute, its type, and that of the items of a list.
type Attribute = (&'static str, &'static str, Option<&'static str>);

/// Our own attributes before the measures. Declared, they can be filtered by in the App's sidebar; every label of ours has them all,
/// because FiftyOne raises AttributeError for a declared attribute that a label lacks.
const BEFORE_MEASURES: [Attribute; 2] = [("target_class", "StringField", None), ("score", "FloatField", None)];

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

/// Our attributes.
fn ours() -> impl Iterator<Item = Attribute> {
    let kind = |measure: Measure| if measure.is_yes_or_no() { "BooleanField" } else { "FloatField" };
    let measures = measures_shown().map(move |measure| (measure.name(), kind(measure), None));
    BEFORE_MEASURES.into_iter().chain(measures).chain(AFTER_MEASURES)
}

/// The measures in the order in which the App shows them: how sure the model is comes first.
pub(super) fn measures_shown() -> impl Iterator<Item = Measure> {
    let others = Measure::ALL.iter().copied().filter(|measure| *measure != Measure::Confidence);
    std::iter::once(Measure::Confidence).chain(others)
}

/// Keeps the heatmap fields declared.
#[derive(Clone, Debug)]
pub struct Schema {
    dataset: Dataset,
    fields: Vec<HeatmapField>,
}

/// What a schema lacks of one field.
#[derive(Debug, PartialEq, Eq)]
enum Lack {
    Nothing,
    Field,
    Attributes(Vec<Attribute>),
}

impl Schema {
    pub(super) fn new(dataset: Dataset, fields: Vec<HeatmapField>) -> Self {
        Schema { dataset, fields }
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = &HeatmapField> {
        self.fields.iter()
    }

    pub(super) fn field(&self, name: &str) -> Option<&HeatmapField> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Whether the fields can be declared; writes nothing.
    ///
    /// # Errors
    /// A name is not allowed, or taken by a field of another type; the dataset is gone.
    pub fn check(&self) -> Result<(), Error> {
        for field in &self.fields {
            if let Some(reason) = unusable(&field.name, self.dataset.group().is_some()) {
                return Err(self.conflict(&field.name, reason));
            }
        }
        self.lacks().map(drop)
    }

    /// Declares what is missing and returns the names of the fields that it had to declare or complete: at the start of
    /// a first run all of them, later those that somebody deleted meanwhile. Call it again after the run: without the
    /// entry of a field that was deleted under us, FiftyOne could not read the dataset.
    ///
    /// # Errors
    /// As for [`Schema::check`], or the database fails.
    pub fn declare(&self) -> Result<Vec<String>, Error> {
        let mut declared = Vec::new();
        // Another program may declare the same between our look and our push; its entry is then checked in the next
        // round.
        for _ in 0..4 {
            let lacks = self.lacks()?;
            if lacks.iter().all(|lack| *lack == Lack::Nothing) {
                return Ok(declared);
            }
            for (field, lack) in self.fields.iter().zip(lacks) {
                match lack {
                    Lack::Nothing => continue,
                    Lack::Field => self.push_field(field)?,
                    Lack::Attributes(missing) => self.push_attributes(field, &missing)?,
                }
                if !declared.contains(&field.name) {
                    declared.push(field.name.clone());
                }
            }
        }
        Err(Error::MalformedDataset {
            name: self.dataset.name.clone(),
            reason: "its fields change faster than heatmap fields can be added".to_owned(),
        })
    }

    /// Per field, what is missing of it.
    fn lacks(&self) -> Result<Vec<Lack>, Error> {
        let doing = format!("reading the fields of dataset `{}`", self.dataset.name);
        let stored = self.dataset.database.run(&doing, async {
            let datasets = self.dataset.database.collection::<Document>("datasets");
            datasets.find_one(doc! {"_id": self.dataset.id}).projection(doc! {"sample_fields": 1}).await
        })?;
        let Some(stored) = stored else { return Err(Error::DatasetGone { name: self.dataset.name.clone() }) };
        let entries: Vec<&Document> =
            stored.get_array("sample_fields").into_iter().flatten().filter_map(Bson::as_document).collect();
        self.fields.iter().map(|field| lack(&entries, &field.name).map_err(|reason| self.conflict(&field.name, reason))).collect()
    }

    fn push_field(&self, field: &HeatmapField) -> Result<(), Error> {
        let now = DateTime::now();
        let query = doc! {"_id": self.dataset.id, "sample_fields.name": {"$ne": &field.name}};
        let update = doc! {"$push": {"sample_fields": field_entry(&field.name, now)}, "$set": {"last_modified_at": now}};
        self.update(query, update, &field.name)
    }

    fn push_attributes(&self, field: &HeatmapField, missing: &[Attribute]) -> Result<(), Error> {
        for (name, kind, items) in missing {
            let now = DateTime::now();
            let query = doc! {"_id": self.dataset.id, "sample_fields": {"$elemMatch": {
                "name": &field.name, "embedded_doc_type": HEATMAP, "fields.name": {"$ne": *name},
            }}};
            let attribute = entry(name, kind, None, *items, Vec::new(), name, now);
            let update = doc! {"$push": {"sample_fields.$.fields": attribute}, "$set": {"last_modified_at": now}};
            self.update(query, update, &field.name)?;
        }
        Ok(())
    }

    fn update(&self, query: Document, update: Document, field: &str) -> Result<(), Error> {
        let doing = format!("declaring field `{field}` of dataset `{}`", self.dataset.name);
        self.dataset
            .database
            .run(&doing, async { self.dataset.database.collection::<Document>("datasets").update_one(query, update).await })
            .map(drop)
    }

    fn conflict(&self, field: &str, reason: String) -> Error {
        Error::HeatmapField { field: field.to_owned(), dataset: self.dataset.name.clone(), reason }
    }
}

/// Why FiftyOne could not use a field of this name: it refuses these, or can no longer read the samples of a dataset that has one.
fn unusable(name: &str, grouped: bool) -> Option<String> {
    /// Fields of every sample, and attributes of the class of samples.
    const RESERVED: [&str; 24] = [
        "STRICT",
        "add_implied_field",
        "clean",
        "created_at",
        "ensure_indexes",
        "fancy_repr",
        "field_names",
        "filepath",
        "frames",
        "from_dict",
        "get_field",
        "get_field_schema",
        "groups",
        "id",
        "last_modified_at",
        "media_reference",
        "merge_field_schema",
        "metadata",
        "pk",
        "reload",
        "set_field",
        "tags",
        "to_dict",
        "to_mongo",
    ];
    let is_reserved = RESERVED.contains(&name) && (grouped || !matches!(name, "frames" | "groups"));
    match name {
        "" => Some("a field needs a name".to_owned()),
        _ if name.starts_with('_') => Some("FiftyOne takes no names that begin with `_`".to_owned()),
        _ if name.contains(['.', '$', '\0', '/']) => Some("the name holds one of `.`, `$` and `/`".to_owned()),
        _ if is_reserved => Some("FiftyOne keeps this name for itself".to_owned()),
        _ => None,
    }
}

/// What the stored entries lack of the field; an error is the reason why it cannot be ours.
fn lack(entries: &[&Document], name: &str) -> Result<Lack, String> {
    let Some(stored) = entries.iter().find(|entry| entry.get_str("name").ok() == Some(name)) else {
        // Another field may be stored under this key: renamed fields keep their key in old datasets.
        return match entries.iter().find(|entry| entry.get_str("db_field").ok() == Some(name)) {
            Some(other) => Err(format!("field `{}` is stored under this name", other.get_str("name").unwrap_or_default())),
            None => Ok(Lack::Field),
        };
    };
    if stored.get_str("embedded_doc_type").ok() != Some(HEATMAP) {
        return Err(format!("it exists already and is of type {}", kind_of(stored)));
    }
    if stored.get_str("db_field").is_ok_and(|key| key != name) {
        return Err("it exists already and is stored under another name".to_owned());
    }
    if stored.get_bool("read_only").ok() == Some(true) {
        return Err("it is read-only".to_owned());
    }
    let attributes: Vec<&Document> = stored.get_array("fields").into_iter().flatten().filter_map(Bson::as_document).collect();
    let mut missing = Vec::new();
    for (attribute, kind, items) in ours() {
        match attributes.iter().find(|entry| entry.get_str("name").ok() == Some(attribute)) {
            None => missing.push((attribute, kind, items)),
            Some(entry) if kind_of(entry) == kind => {}
            Some(entry) => {
                return Err(format!("its attribute `{attribute}` is of type {}, not {kind}", kind_of(entry)));
            }
        }
    }
    Ok(if missing.is_empty() { Lack::Nothing } else { Lack::Attributes(missing) })
}

/// The schema entry of a heatmap field, as FiftyOne would write it.
fn field_entry(name: &str, now: DateTime) -> Document {
    let theirs = OF_FIFTYONE.map(|(name, kind, items, key)| entry(name, kind, None, items, Vec::new(), key, now));
    let ours = ours().map(|(name, kind, items)| entry(name, kind, None, items, Vec::new(), name, now));
    let attributes = theirs.into_iter().chain(ours).map(Bson::Document).collect();
    entry(name, "EmbeddedDocumentField", Some(HEATMAP), None, attributes, name, now)
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
        field_entry("person_grad_layer_1", DateTime::from_millis(0))
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
        assert_eq!(lack(&[], name), Ok(Lack::Field));
        assert_eq!(lack(&[&stored()], name), Ok(Lack::Nothing));
        let mut plain = stored();
        plain.get_array_mut("fields").unwrap().truncate(7);
        assert_eq!(lack(&[&plain], name), Ok(Lack::Attributes(ours().skip(2).collect())));
    }

    #[test]
    fn foreign_fields_are_left_alone() {
        let name = "person_grad_layer_1";
        let mut other = stored();
        other.insert("embedded_doc_type", "fiftyone.core.labels.Segmentation");
        assert!(lack(&[&other], name).unwrap_err().contains("of type Segmentation"));
        let mut locked = stored();
        locked.insert("read_only", true);
        assert!(lack(&[&locked], name).unwrap_err().contains("read-only"));
        let mut typed = stored();
        typed.get_array_mut("fields").unwrap()[6] =
            Bson::Document(doc! {"name": "score", "ftype": "fiftyone.core.fields.StringField"});
        assert!(lack(&[&typed], name).unwrap_err().contains("`score` is of type StringField"));
        let mut renamed = stored();
        renamed.insert("name", "new");
        assert!(lack(&[&renamed], name).unwrap_err().contains("field `new`"));
    }

    #[test]
    fn names_have_to_suit_fiftyone() {
        for name in ["person_grad_layer_1", "A", "frames", "1a", "15_grad_layer_4", "é", "собака_grad"] {
            assert_eq!(unusable(name, false), None, "{name}");
        }
        for name in ["", "_x", "$x", "a.b", "a$b", "a/b", "id", "filepath", "pk", "to_dict", "clean"] {
            assert!(unusable(name, false).is_some(), "{name}");
        }
        assert!(unusable("groups", true).is_some());
    }
}
