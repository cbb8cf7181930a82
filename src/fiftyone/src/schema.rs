//! The heatmap fields in a dataset's schema. A sample with a key that the schema lacks makes the whole dataset
//! unreadable for FiftyOne, so the entries come before the first sample, are only ever appended, and are looked after
//! while the run lasts.

use bson::{Bson, DateTime, Document, doc};

use super::{
    dataset::Dataset,
    error::Error,
    schema_entry::{Attribute, DETECTIONS, Kind, Lack, attribute_entry, field_entry, lack},
};
use camflow_pipeline::PredictionField;

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
    /// Of a field of detections that have heatmaps of their own: the heatmap field in which a view of them shows each heatmap.
    pub shown_in: Option<String>,
    /// The label field whose classes its heatmaps are measured on.
    pub attention_on: Option<String>,
}

impl HeatmapField {
    /// Whether it holds detections, each with its heatmap.
    pub fn is_of_detections(&self) -> bool {
        self.shown_in.is_some()
    }
}

/// What the name of a field of detections has behind that of the heatmap field in which a view shows their heatmaps.
const OF_DETECTIONS_SUFFIX: &str = "_detections";

/// The name of the field of detections whose heatmaps this field shows in a view.
pub fn detections_of(heatmap_field: &str) -> String {
    format!("{heatmap_field}{OF_DETECTIONS_SUFFIX}")
}

/// The other way round.
pub fn shown_in(detection_field: &str) -> Option<&str> {
    detection_field.strip_suffix(OF_DETECTIONS_SUFFIX)
}

/// Keeps the heatmap fields declared.
#[derive(Clone, Debug)]
pub struct Schema {
    dataset: Dataset,
    fields: Vec<HeatmapField>,
    /// The field that gets what the model predicts.
    predictions: Option<PredictionField>,
}

impl Schema {
    pub(super) fn new(dataset: Dataset, fields: Vec<HeatmapField>) -> Self {
        Schema { dataset, fields, predictions: None }
    }

    /// The same with a field for what the model predicts.
    pub(super) fn with_predictions(self, field: PredictionField) -> Self {
        Schema { predictions: Some(field), ..self }
    }

    /// The field that gets what the model predicts.
    pub(super) fn predictions(&self) -> Option<&PredictionField> {
        self.predictions.as_ref()
    }

    /// The names of all fields that samples get.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let predictions = self.predictions.iter().map(|field| field.name.as_str());
        self.fields.iter().map(|field| field.name.as_str()).chain(predictions)
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = &HeatmapField> {
        self.fields.iter()
    }

    pub(super) fn field(&self, name: &str) -> Option<&HeatmapField> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// What is declared: the fields that are written, and those in which views show the heatmaps of detections.
    fn declared(&self) -> impl Iterator<Item = (&str, Kind)> {
        let written = self.fields.iter().map(|field| {
            let attention = field.attention_on.is_some();
            let of_detections = field.is_of_detections();
            let kind = if of_detections { Kind::Detections { attention } } else { Kind::Heatmap { attention } };
            (field.name.as_str(), kind)
        });
        let shown = self
            .fields
            .iter()
            .filter_map(|field| Some((field.shown_in.as_deref()?, Kind::Heatmap { attention: field.attention_on.is_some() })));
        let predictions = self.predictions.iter().map(|field| (field.name.as_str(), Kind::Predictions(field.kind)));
        written.chain(shown).chain(predictions)
    }

    /// Whether the fields can be declared; writes nothing.
    ///
    /// # Errors
    /// A name is not allowed, or taken by a field of another type; the dataset is gone.
    pub fn check(&self) -> Result<(), Error> {
        for (field, _) in self.declared() {
            if let Some(reason) = unusable(field, self.dataset.group().is_some()) {
                return Err(self.conflict(field, reason));
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
            for ((field, kind), lack) in self.declared().zip(lacks) {
                match lack {
                    Lack::Nothing => continue,
                    Lack::Field => self.push_field(field, kind)?,
                    Lack::Attributes(missing) => self.push_attributes(field, kind.type_name(), &missing)?,
                    Lack::OfDetections(of_all, of_each) => {
                        self.push_attributes(field, DETECTIONS, &of_all)?;
                        self.push_detection_attributes(field, &of_each)?;
                    }
                }
                if !declared.iter().any(|known| known == field) {
                    declared.push(field.to_owned());
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
        self.declared().map(|(field, kind)| lack(&entries, field, kind).map_err(|reason| self.conflict(field, reason))).collect()
    }

    fn push_field(&self, field: &str, kind: Kind) -> Result<(), Error> {
        let now = DateTime::now();
        let query = doc! {"_id": self.dataset.id, "sample_fields.name": {"$ne": field}};
        let update = doc! {"$push": {"sample_fields": field_entry(field, kind, now)}, "$set": {"last_modified_at": now}};
        self.update(query, update, Vec::new(), field)
    }

    fn push_attributes(&self, field: &str, of: &str, missing: &[Attribute]) -> Result<(), Error> {
        for missing @ (name, ..) in missing {
            let now = DateTime::now();
            let query = doc! {"_id": self.dataset.id, "sample_fields": {"$elemMatch": {
                "name": field, "embedded_doc_type": of, "fields.name": {"$ne": *name},
            }}};
            let attribute = attribute_entry(*missing, now);
            let update = doc! {"$push": {"sample_fields.$.fields": attribute}, "$set": {"last_modified_at": now}};
            self.update(query, update, Vec::new(), field)?;
        }
        Ok(())
    }

    /// The same within the list of detections.
    fn push_detection_attributes(&self, field: &str, missing: &[Attribute]) -> Result<(), Error> {
        for missing @ (name, ..) in missing {
            let now = DateTime::now();
            let attribute = attribute_entry(*missing, now);
            let update = doc! {
                "$push": {"sample_fields.$[field].fields.$[list].fields": attribute}, "$set": {"last_modified_at": now},
            };
            let filters = vec![
                doc! {"field.name": field, "field.embedded_doc_type": DETECTIONS},
                doc! {"list.name": "detections", "list.fields.name": {"$ne": *name}},
            ];
            self.update(doc! {"_id": self.dataset.id}, update, filters, field)?;
        }
        Ok(())
    }

    fn update(&self, query: Document, update: Document, filters: Vec<Document>, field: &str) -> Result<(), Error> {
        let doing = format!("declaring field `{field}` of dataset `{}`", self.dataset.name);
        let datasets = self.dataset.database.collection::<Document>("datasets");
        let filters = (!filters.is_empty()).then_some(filters);
        let made = self.dataset.database.run(&doing, async {
            let update = datasets.update_one(query, update);
            match filters {
                Some(filters) => update.array_filters(filters).await,
                None => update.await,
            }
        });
        made.map(drop)
    }

    fn conflict(&self, field: &str, reason: String) -> Error {
        let (dataset, is_prediction) =
            (self.dataset.name.clone(), self.predictions.as_ref().is_some_and(|own| own.name == field));
        match is_prediction {
            true => Error::PredictionField { field: field.to_owned(), dataset, reason },
            false => Error::HeatmapField { field: field.to_owned(), dataset, reason },
        }
    }
}

/// Why FiftyOne could not use a field of this name: it refuses these, or can no longer read the samples of a dataset that has one.
pub(super) fn unusable(name: &str, grouped: bool) -> Option<String> {
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
#[cfg(test)]
mod tests {
    use super::*;

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
