//! A label as it is stored, read into what the pipeline needs of it; what is inside of it may be anything.

use bson::{RawArray, RawBsonRef, RawDocument, raw::RawBinaryRef};

use super::{
    label_field::{LabelField, LabelKind},
    stored_heatmap::path,
};
use camflow_pipeline::{Evaluated, StoredMask, StoredObject, StoredShape, StoredTarget};

/// Whether it is of the field's class: else it is a fragment.
pub(super) fn is_of(label: &RawDocument, field: &LabelField) -> bool {
    label.get_str("_cls").ok() == Some(field.label_class())
}

/// What a label of this field's kind says.
pub(super) fn target(label: &RawDocument, field: &LabelField) -> StoredTarget {
    match field.kind.list().map(|list| members(label, list)) {
        None => target_of(vec![label], field),
        Some(Ok(members)) => target_of(members, field),
        Some(Err(reason)) => StoredTarget::Malformed(format!("the {} in `{}` {reason}", field.kind, field.name)),
    }
}

/// The same of a field that holds the labels themselves, as a list.
pub(super) fn bare_list<'a>(labels: &'a RawArray, field: &LabelField) -> StoredTarget {
    let label = |label: bson::error::Result<RawBsonRef<'a>>| label.ok()?.as_document().filter(|label| is_of(label, field));
    match labels.into_iter().map(label).collect::<Option<Vec<_>>>() {
        Some(labels) => target_of(labels, field),
        None => StoredTarget::Malformed(format!("the list in `{}` holds what is no {}", field.name, field.label_class())),
    }
}

fn target_of(members: Vec<&RawDocument>, field: &LabelField) -> StoredTarget {
    match field.kind {
        LabelKind::Segmentation => {
            members.first().and_then(|label| mask(label)).map_or(StoredTarget::Missing, StoredTarget::Mask)
        }
        LabelKind::Detection | LabelKind::Detections | LabelKind::Polyline | LabelKind::Polylines => {
            StoredTarget::Objects(members.into_iter().map(|member| object(member, field)).collect())
        }
        LabelKind::Classification | LabelKind::Classifications => {
            let names: Vec<String> = members.into_iter().filter_map(name).collect();
            // A classification that names nothing is none, but a list may well be empty.
            if names.is_empty() && field.kind == LabelKind::Classification {
                return StoredTarget::Missing;
            }
            StoredTarget::Names(names)
        }
    }
}

/// The labels in a list of labels; an error goes on from "the Detections in `field`".
fn members<'a>(label: &'a RawDocument, list: &str) -> Result<Vec<&'a RawDocument>, String> {
    let members = match label.get(list) {
        Ok(None | Some(RawBsonRef::Null)) => return Ok(Vec::new()),
        Ok(Some(RawBsonRef::Array(members))) => members,
        _ => return Err(format!("have a `{list}` that is no list")),
    };
    let member = |member: bson::error::Result<RawBsonRef<'a>>| member.ok()?.as_document();
    members.into_iter().map(member).collect::<Option<_>>().ok_or_else(|| format!("have {list} that are no labels"))
}

fn name(label: &RawDocument) -> Option<String> {
    label.get_str("label").ok().map(str::to_owned)
}

fn object(label: &RawDocument, field: &LabelField) -> StoredObject {
    let name = name(label);
    let shape = match field.kind {
        LabelKind::Polyline | LabelKind::Polylines => lines(label),
        _ => bounding_box(label),
    };
    let shape = shape.unwrap_or_else(|reason| {
        let of = name.as_deref().map_or_else(String::new, |name| format!(" `{name}`"));
        StoredShape::Malformed(format!("an object{of} in `{}` has {reason}", field.name))
    });
    StoredObject {
        id: label.get_object_id("_id").ok().map(|id| id.to_hex()),
        label: name,
        confidence: number(label, "confidence"),
        evaluated: field.evaluation.as_deref().and_then(|key| evaluated(label, key)),
        shape,
    }
}

/// What an evaluation of this key found of a detection.
fn evaluated(label: &RawDocument, key: &str) -> Option<Evaluated> {
    let outcome = label.get_str(key).ok()?.to_owned();
    Some(Evaluated { outcome, iou: number(label, &iou_key(key)) })
}

/// Where an evaluation of this key keeps the overlap.
pub(super) fn iou_key(key: &str) -> String {
    format!("{key}_iou")
}

/// A number that is one.
fn number(label: &RawDocument, key: &str) -> Option<f64> {
    let number = match label.get(key).ok()?? {
        RawBsonRef::Double(value) => value,
        RawBsonRef::Int32(value) => f64::from(value),
        RawBsonRef::Int64(value) => value as f64,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

fn bounding_box(detection: &RawDocument) -> Result<StoredShape, &'static str> {
    const WRONG: &str = "no `bounding_box` of four numbers";
    let bounds = detection.get_array("bounding_box").ok().and_then(numbers).ok_or(WRONG)?;
    Ok(StoredShape::Box { bounds, mask: mask(detection) })
}

fn lines(polyline: &RawDocument) -> Result<StoredShape, &'static str> {
    const WRONG: &str = "`points` that are no lists of pairs of numbers";
    let lines = match polyline.get("points") {
        Ok(None | Some(RawBsonRef::Null)) => Vec::new(),
        Ok(Some(RawBsonRef::Array(lines))) => {
            let line = |line: &RawArray| line.into_iter().map(|point| numbers(array(point)?)).collect::<Option<Vec<_>>>();
            lines.into_iter().map(|points| line(array(points)?)).collect::<Option<_>>().ok_or(WRONG)?
        }
        _ => return Err(WRONG),
    };
    let flag = |key| polyline.get_bool(key).unwrap_or(false);
    Ok(StoredShape::Lines { lines, closed: flag("closed"), filled: flag("filled") })
}

fn array(value: bson::error::Result<RawBsonRef<'_>>) -> Option<&RawArray> {
    value.ok()?.as_array()
}

/// Exactly `N` numbers.
pub(super) fn numbers<const N: usize>(values: &RawArray) -> Option<[f64; N]> {
    let mut numbers = [0.0; N];
    let mut values = values.into_iter();
    for number in &mut numbers {
        *number = match values.next()?.ok()? {
            RawBsonRef::Double(value) => value,
            RawBsonRef::Int32(value) => f64::from(value),
            RawBsonRef::Int64(value) => value as f64,
            _ => return None,
        };
    }
    values.next().is_none().then_some(numbers)
}

/// FiftyOne prefers the array where a label has both.
fn mask(label: &RawDocument) -> Option<StoredMask> {
    match label.get("mask").ok().flatten() {
        Some(RawBsonRef::Binary(RawBinaryRef { bytes, .. })) => Some(StoredMask::Inline(bytes.to_vec())),
        None | Some(RawBsonRef::Null) => path(label, "mask_path").map(StoredMask::File),
        // No array: an empty one fails in decoding, which names the sample, where "no label" would hide the damage.
        Some(_) => Some(StoredMask::Inline(Vec::new())),
    }
}
