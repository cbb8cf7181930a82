//! The schema of a dataset: the fields of its samples, and the fields within these.

use bson::{Bson, Document};

/// The attribute of labels that were made of heatmaps, and of no others: the fields of these.
pub(super) const HEATMAPS: &str = "heatmaps";

/// What FiftyOne calls a field's class, before the last dot.
const FIELDS: &str = "fiftyone.core.fields.";
const LABELS: &str = "fiftyone.core.labels.";

/// A field of the samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its key in the stored samples; nearly always the same.
    pub(super) key: String,
    /// FiftyOne's word for its type: the label's class (`Segmentation`), else the field's (`StringField`); of a list of labels
    /// `list of Detection`.
    pub kind: String,
    /// Whether it holds labels.
    pub(super) is_label: bool,
}

/// A field within another one. Its name is the path to it, with dots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InnerField {
    pub(super) field: Field,
    /// Where that is a list or a label, in words: a sample may have several of the field, or it is a part of what a label says.
    pub(super) part_of: Option<String>,
}

pub(super) fn read_fields(document: &Document) -> Vec<Field> {
    entries(document, "sample_fields").filter_map(|entry| read(entry, None)).collect()
}

/// All fields within others, at any depth.
pub(super) fn read_inner_fields(document: &Document) -> Vec<InnerField> {
    let mut found = Vec::new();
    let mut outer: Vec<(&Document, InnerField)> = entries(document, "sample_fields")
        .filter_map(|entry| Some((entry, InnerField { field: read(entry, None)?, part_of: None })))
        .collect();
    while let Some((entry, InnerField { field: outside, part_of })) = outer.pop() {
        let part_of = part_of.or_else(|| match (outside.is_label, is_list(entry)) {
            (true, _) => Some(format!("is a part of the labels in field `{}`", outside.name)),
            (false, true) => Some(format!("lies in the list `{}`, so that a sample has several of it", outside.name)),
            (false, false) => None,
        });
        for entry in entries(entry, "fields") {
            let Some(field) = read(entry, Some(&outside)) else { continue };
            let inner = InnerField { field, part_of: part_of.clone() };
            outer.push((entry, inner.clone()));
            found.push(inner);
        }
    }
    found
}

/// Whether the labels of a field say what camflow made them of: heatmaps, what these localize, or a model's predictions.
pub(super) fn is_of_camflow(field: &Field, inner: &[InnerField]) -> bool {
    holds_heatmaps(field, inner) || holds_predictions(field, inner) || is_localized(field, inner)
}

/// Whether they are heatmaps of camflow's, or detections with such.
pub(super) fn holds_heatmaps(field: &Field, inner: &[InnerField]) -> bool {
    has(field, inner, &["fingerprint", "method", "layer"])
}

/// Whether they are what a model predicts, as camflow stored it.
pub(super) fn holds_predictions(field: &Field, inner: &[InnerField]) -> bool {
    has(field, inner, &["fingerprint", "model"]) && !has(field, inner, &["method"]) && !is_localized(field, inner)
}

/// Whether they are boxes or masks of heatmaps, which they name.
pub(super) fn is_localized(field: &Field, inner: &[InnerField]) -> bool {
    matches!(field.kind.as_str(), "Detections" | "Segmentation") && has(field, inner, &["fingerprint", HEATMAPS])
}

fn has(field: &Field, inner: &[InnerField], attributes: &[&str]) -> bool {
    attributes.iter().all(|attribute| {
        let path = format!("{}.{attribute}", field.name);
        inner.iter().any(|inner| inner.field.name == path)
    })
}

fn entries<'a>(document: &'a Document, key: &str) -> impl Iterator<Item = &'a Document> {
    document.get_array(key).ok().into_iter().flatten().filter_map(Bson::as_document)
}

fn read(entry: &Document, outside: Option<&Field>) -> Option<Field> {
    let name = entry.get_str("name").ok()?;
    let key = entry.get_str("db_field").unwrap_or(name);
    let within = |path: &str, outer: fn(&Field) -> &str| match outside {
        Some(outside) => format!("{}.{path}", outer(outside)),
        None => path.to_owned(),
    };
    Some(Field {
        name: within(name, |field| &field.name),
        key: within(key, |field| &field.key),
        kind: kind_of(entry),
        is_label: entry.get_str("embedded_doc_type").is_ok_and(|class| class.starts_with(LABELS)) && !is_dict(entry),
    })
}

fn is_list(entry: &Document) -> bool {
    entry.get_str("ftype").is_ok_and(|class| class.ends_with(".ListField"))
}

fn is_dict(entry: &Document) -> bool {
    entry.get_str("ftype").is_ok_and(|class| class.ends_with(".DictField"))
}

/// The short name of a schema entry's type.
pub(super) fn kind_of(entry: &Document) -> String {
    let of_items = entry.get_str("embedded_doc_type").ok().filter(|_| !is_dict(entry));
    let full = of_items.or_else(|| entry.get_str("ftype").ok()).unwrap_or("unknown type");
    let short = full.strip_prefix(LABELS).or_else(|| full.strip_prefix(FIELDS)).unwrap_or(full);
    if of_items.is_some() && is_list(entry) { format!("{LIST_OF}{short}") } else { short.to_owned() }
}

/// How the kind of a list of labels begins.
pub(super) const LIST_OF: &str = "list of ";

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    const EMBEDDED: &str = "fiftyone.core.fields.EmbeddedDocumentField";

    fn label(name: &str, class: &str, fields: Vec<Document>) -> Document {
        let class = format!("fiftyone.core.labels.{class}");
        doc! {"name": name, "ftype": EMBEDDED, "embedded_doc_type": class, "db_field": name, "fields": fields}
    }

    fn list(name: &str, class: &str, fields: Vec<Document>) -> Document {
        doc! {"name": name, "ftype": "fiftyone.core.fields.ListField", "subfield": EMBEDDED, "embedded_doc_type": class, "fields": fields}
    }

    #[test]
    fn fields_are_named_by_their_label() {
        let document = doc! {"sample_fields": [
            {"name": "id", "ftype": "fiftyone.core.fields.ObjectIdField", "embedded_doc_type": null, "db_field": "_id"},
            label("gt", "Segmentation", Vec::new()),
            list("raw", "fiftyone.core.labels.Detection", Vec::new()),
            {"name": "more", "ftype": "fiftyone.core.fields.DictField", "embedded_doc_type": "fiftyone.core.labels.Attribute"},
            {"name": "any", "ftype": "fiftyone.core.fields.ListField", "subfield": null},
        ]};
        let fields = read_fields(&document);
        assert_eq!(fields[0], Field { name: "id".into(), key: "_id".into(), kind: "ObjectIdField".into(), is_label: false });
        assert_eq!((fields[1].kind.as_str(), fields[1].is_label), ("Segmentation", true));
        let kinds: Vec<&str> = fields[2..].iter().map(|field| field.kind.as_str()).collect();
        assert_eq!(kinds, ["list of Detection", "DictField", "ListField"]);
    }

    #[test]
    fn fields_within_others_know_what_they_are_part_of() {
        let meta = "fiftyone.core.odm.embedded_document.DynamicEmbeddedDocument";
        let boxes = || label("boxes", "Detections", vec![list("detections", "fiftyone.core.labels.Detection", Vec::new())]);
        let document = doc! {"sample_fields": [
            {"name": "meta", "db_field": "_m", "ftype": EMBEDDED, "embedded_doc_type": meta, "fields": [boxes()]},
            list("metas", meta, vec![boxes()]),
        ]};
        let inner = read_inner_fields(&document);
        let of = |name: &str| inner.iter().find(|inner| inner.field.name == name).unwrap();
        let boxes = of("meta.boxes");
        assert_eq!((boxes.field.key.as_str(), boxes.field.kind.as_str(), &boxes.part_of), ("_m.boxes", "Detections", &None));
        assert!(of("meta.boxes.detections").part_of.as_ref().unwrap().contains("the labels in field `meta.boxes`"));
        assert!(of("metas.boxes").part_of.as_ref().unwrap().contains("the list `metas`"));
        assert!(of("metas.boxes.detections").part_of.as_ref().unwrap().contains("the list `metas`"));
    }
}
