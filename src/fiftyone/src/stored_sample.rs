//! A sample as it is stored, read into what the pipeline needs of it. Labels may be null, absent, or fragments that an
//! edit left behind after somebody else removed the label; what is inside them may be anything.

use std::path::PathBuf;

use bson::{Bson, Document, RawArray, RawBsonRef, RawDocument, doc, raw::RawBinaryRef};

use super::{
    label_field::{LabelField, LabelKind},
    saved_view::ViewChanges,
};
use camflow_media::RecordedChecksum;
use camflow_pipeline::{SampleRef, SelectedSample, StoredHeatmap, StoredMask, StoredObject, StoredShape, StoredTarget};

/// Knows which keys of a sample to ask for, and reads them.
#[derive(Clone, Debug)]
pub(super) struct SampleReader {
    /// `None` when no label is needed.
    label: Option<LabelField>,
    heatmaps: Vec<String>,
    /// `None` where label and path are taken as they are stored. Heatmaps always are: a view may show none, or others.
    changes: Option<ViewChanges>,
}

/// Where a page of a view has what the view shows of a sample: a list of one.
const VIEWED: &str = "_viewed";

impl SampleReader {
    pub(super) fn new(label: Option<LabelField>, heatmaps: Vec<String>, changes: Option<ViewChanges>) -> Self {
        SampleReader { label, heatmaps, changes }
    }

    /// Only what is read: other labels of a sample can be megabytes.
    pub(super) fn projection(&self) -> Document {
        let mut projection = self.sources();
        projection.extend(self.stored());
        projection
    }

    /// The stages from stored samples to what is read of them, where a view makes something else of them. Its own stages run beside
    /// the stored sample, of which they may leave nothing.
    pub(super) fn viewed(&self, samples: &str) -> Option<[Document; 2]> {
        let mut view = self.changes.as_ref()?.stages.clone();
        view.push(doc! {"$project": self.sources()});
        let beside = doc! {"from": samples, "localField": "_id", "foreignField": "_id", "pipeline": view, "as": VIEWED};
        let mut stored = doc! {"filepath": 1};
        stored.extend(self.stored());
        Some([doc! {"$project": stored}, doc! {"$lookup": beside}])
    }

    /// What a heatmap is made of.
    fn sources(&self) -> Document {
        let mut projection = doc! {"filepath": 1};
        if let Some(label) = &self.label {
            let inner: &[&str] = match label.kind {
                LabelKind::Segmentation => &["mask", "mask_path"],
                LabelKind::Detection | LabelKind::Detections => &["label", "bounding_box", "mask", "mask_path"],
                LabelKind::Polyline | LabelKind::Polylines => &["label", "points", "closed", "filled"],
                LabelKind::Classification | LabelKind::Classifications => &["label"],
            };
            let prefix = label.labels();
            projection.insert(format!("{}._cls", label.key), 1);
            projection.extend(inner.iter().map(|inner| (format!("{prefix}.{inner}"), 1.into())));
        }
        projection
    }

    fn stored(&self) -> Document {
        let keys = self.heatmaps.iter().flat_map(|field| HEATMAP_KEYS.map(|key| (format!("{field}.{key}"), Bson::Int32(1))));
        keys.collect()
    }

    pub(super) fn read(&self, seq: u64, sample: &RawDocument) -> SelectedSample {
        let id = sample.get_object_id("_id").map(|id| id.to_hex()).unwrap_or_default();
        let shown = match self.changes {
            None => Some(sample),
            // Empty where the sample has left the view meanwhile.
            Some(_) => sample.get_array(VIEWED).ok().and_then(|viewed| viewed.get_document(0).ok()),
        };
        // Without a path, decoding fails for this sample with a message that names it.
        let media_path = path(shown.unwrap_or(sample), "filepath").unwrap_or_default();
        let target = match &self.label {
            None => StoredTarget::Unlabelled,
            Some(field) => match shown.and_then(|shown| at(shown, &field.key)) {
                Some(RawBsonRef::Document(label)) if !field.is_bare_list && is_of(label, field) => target(label, field),
                Some(RawBsonRef::Array(labels)) if field.is_bare_list => bare_list(labels, field),
                _ => StoredTarget::Missing,
            },
        };
        let existing =
            self.heatmaps.iter().filter_map(|field| sample.get_document(field).ok().map(|label| heatmap(field, label))).collect();
        SelectedSample { sample: SampleRef { seq, id, media_path }, target, existing }
    }
}

/// What is at a path of keys with dots.
fn at<'a>(document: &'a RawDocument, path: &str) -> Option<RawBsonRef<'a>> {
    match path.split_once('.') {
        None => document.get(path).ok()?,
        Some((key, rest)) => at(document.get_document(key).ok()?, rest),
    }
}

fn is_of(label: &RawDocument, field: &LabelField) -> bool {
    label.get_str("_cls").ok() == Some(field.label_class())
}

/// What a label of this field's kind says.
fn target(label: &RawDocument, field: &LabelField) -> StoredTarget {
    match field.kind.list().map(|list| members(label, list)) {
        None => target_of(vec![label], field),
        Some(Ok(members)) => target_of(members, field),
        Some(Err(reason)) => StoredTarget::Malformed(format!("the {} in `{}` {reason}", field.kind, field.name)),
    }
}

/// The same of a field that holds the labels themselves, as a list.
fn bare_list<'a>(labels: &'a RawArray, field: &LabelField) -> StoredTarget {
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
    StoredObject { label: name, shape }
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
fn numbers<const N: usize>(values: &RawArray) -> Option<[f64; N]> {
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

/// What [`heatmap`] reads.
pub(super) const HEATMAP_KEYS: [&str; 6] = ["_cls", "fingerprint", "map_path", "npy_path", "map_checksum", "npy_checksum"];

/// What a label of this field is known by.
pub(super) fn heatmap(field: &str, label: &RawDocument) -> StoredHeatmap {
    // The fingerprint vouches for a whole label. In a fragment it would keep the heatmap from being made again.
    let whole = label.get_str("_cls").ok() == Some("Heatmap");
    StoredHeatmap {
        field: field.to_owned(),
        fingerprint: label.get_str("fingerprint").ok().filter(|_| whole).map(str::to_owned),
        map_path: path(label, "map_path"),
        npy_path: path(label, "npy_path"),
        map_checksum: label.get_str("map_checksum").ok().and_then(RecordedChecksum::parse),
        npy_checksum: label.get_str("npy_checksum").ok().and_then(RecordedChecksum::parse),
    }
}

fn path(document: &RawDocument, key: &str) -> Option<PathBuf> {
    document.get_str(key).ok().filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use bson::{Binary, RawDocumentBuf, oid::ObjectId, spec::BinarySubtype};

    use super::*;
    use camflow_media::Checksum;

    fn field(kind: LabelKind) -> LabelField {
        LabelField { name: "gt".into(), kind, key: "gt".into(), is_bare_list: false }
    }

    fn read(kind: LabelKind, label: Bson, heatmap: Bson) -> SelectedSample {
        let sample = doc! {"_id": ObjectId::from_bytes([7; 12]), "filepath": "/data/a.jpg", "gt": label, "cam": heatmap};
        let raw = RawDocumentBuf::try_from(&sample).unwrap();
        SampleReader::new(Some(field(kind)), vec!["cam".into()], None).read(3, &raw)
    }

    fn target(kind: LabelKind, label: impl Into<Bson>) -> StoredTarget {
        read(kind, label.into(), Bson::Null).target
    }

    fn bytes() -> Bson {
        Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2] })
    }

    fn segmentation(label: impl Into<Bson>) -> StoredTarget {
        target(LabelKind::Segmentation, label)
    }

    #[test]
    fn masks_are_read_from_the_document_or_by_path() {
        let inline = StoredTarget::Mask(StoredMask::Inline(vec![1, 2]));
        assert_eq!(segmentation(doc! {"_cls": "Segmentation", "mask": bytes()}), inline);
        assert_eq!(segmentation(doc! {"_cls": "Segmentation", "mask": bytes(), "mask_path": "/m.png"}), inline);
        let file = StoredTarget::Mask(StoredMask::File("/m.png".into()));
        assert_eq!(segmentation(doc! {"_cls": "Segmentation", "mask": null, "mask_path": "/m.png"}), file);
        let damaged = StoredTarget::Mask(StoredMask::Inline(Vec::new()));
        assert_eq!(segmentation(doc! {"_cls": "Segmentation", "mask": "?"}), damaged);
    }

    #[test]
    fn of_a_view_labels_count_as_shown_and_heatmaps_as_stored() {
        let changes = Some(ViewChanges { stages: vec![doc! {"$set": {"gt": "..."}}] });
        let reader = SampleReader::new(Some(field(LabelKind::Classification)), vec!["cam".into()], changes);
        let [stored, beside] = reader.viewed("samples.5f").unwrap();
        assert!(!stored.to_string().contains("gt") && stored.to_string().contains("cam.fingerprint"), "{stored}");
        let stages = beside.get_document("$lookup").unwrap().get_array("pipeline").unwrap();
        assert!(stages[0].to_string().contains("$set") && stages[1].to_string().contains("gt.label"), "{stages:?}");
        let read = |viewed: Bson| {
            let cam = doc! {"_cls": "Heatmap", "fingerprint": "f"};
            let sample = doc! {"_id": ObjectId::from_bytes([7; 12]), "filepath": "/a.jpg", "cam": cam, VIEWED: viewed};
            reader.read(0, &RawDocumentBuf::try_from(&sample).unwrap())
        };
        let shown = read(vec![doc! {"filepath": "/b.jpg", "gt": {"_cls": "Classification", "label": "cat"}}].into());
        assert_eq!((shown.target, shown.sample.media_path), (StoredTarget::Names(vec!["cat".into()]), "/b.jpg".into()));
        assert_eq!(shown.existing[0].fingerprint.as_deref(), Some("f"));
        // It has left the view.
        let left = read(Bson::Array(Vec::new()));
        assert_eq!((left.target, left.sample.media_path), (StoredTarget::Missing, "/a.jpg".into()));
    }

    #[test]
    fn null_and_fragments_are_no_labels() {
        let kinds = [LabelKind::Segmentation, LabelKind::Detections, LabelKind::Polyline, LabelKind::Classification];
        let cases: [Bson; 5] = [Bson::Null, doc! {}.into(), doc! {"note": "x"}.into(), doc! {"_cls": "Heatmap"}.into(), 3.into()];
        for label in cases {
            for kind in kinds {
                assert_eq!(target(kind, label.clone()), StoredTarget::Missing, "{kind} {label}");
            }
        }
        assert_eq!(segmentation(doc! {"_cls": "Segmentation"}), StoredTarget::Missing);
        assert_eq!(target(LabelKind::Classification, doc! {"_cls": "Classification", "label": null}), StoredTarget::Missing);
    }

    #[test]
    fn detections_are_boxes_with_or_without_masks() {
        let label = doc! {"_cls": "Detections", "detections": [
            {"label": "cat", "bounding_box": [0.25, 0.5, 0.125, 1], "mask": bytes()},
            {"label": "dog", "bounding_box": [0, 0, 1, 1], "mask_path": "/m.png"},
            {"bounding_box": [0.0, 0.0, 0.5, f64::NAN]},
        ]};
        let StoredTarget::Objects(objects) = target(LabelKind::Detections, label) else { panic!("objects") };
        let names: Vec<_> = objects.iter().map(|object| object.label.as_deref()).collect();
        assert_eq!(names, [Some("cat"), Some("dog"), None]);
        let mask = Some(StoredMask::Inline(vec![1, 2]));
        assert_eq!(objects[0].shape, StoredShape::Box { bounds: [0.25, 0.5, 0.125, 1.0], mask });
        let mask = Some(StoredMask::File("/m.png".into()));
        assert_eq!(objects[1].shape, StoredShape::Box { bounds: [0.0, 0.0, 1.0, 1.0], mask });
        let single = doc! {"_cls": "Detection", "label": "cat", "bounding_box": [0.0, 0.0, 1.0, 1.0]};
        let expected =
            StoredObject { label: Some("cat".into()), shape: StoredShape::Box { bounds: [0.0, 0.0, 1.0, 1.0], mask: None } };
        assert_eq!(target(LabelKind::Detection, single), StoredTarget::Objects(vec![expected]));
        let empty = StoredTarget::Objects(Vec::new());
        assert_eq!(target(LabelKind::Detections, doc! {"_cls": "Detections", "detections": []}), empty);
        assert_eq!(target(LabelKind::Detections, doc! {"_cls": "Detections"}), empty);
    }

    #[test]
    fn bare_lists_and_inner_fields_are_read_as_others_are() {
        let read = |key: &str, is_bare_list, sample: Document| {
            let label = LabelField { name: "gt".into(), kind: LabelKind::Detections, key: key.into(), is_bare_list };
            let reader = SampleReader::new(Some(label), Vec::new(), None);
            reader.read(0, &RawDocumentBuf::try_from(&sample).unwrap()).target
        };
        let one = || doc! {"_cls": "Detection", "label": "cat", "bounding_box": [0.0, 0.0, 1.0, 1.0]};
        let wanted = target(LabelKind::Detections, doc! {"_cls": "Detections", "detections": [one()]});
        assert!(matches!(&wanted, StoredTarget::Objects(objects) if objects.len() == 1));
        assert_eq!(read("raw", true, doc! {"raw": [one()]}), wanted);
        assert_eq!(read("meta.raw", true, doc! {"meta": {"raw": [one()]}}), wanted);
        assert_eq!(read("meta.gt", false, doc! {"meta": {"gt": {"_cls": "Detections", "detections": [one()]}}}), wanted);
        assert_eq!(read("raw", true, doc! {"raw": []}), StoredTarget::Objects(Vec::new()));
        for nothing in [doc! {}, doc! {"meta": null}, doc! {"meta": {"raw": null}}, doc! {"meta": 3}, doc! {"meta": {"raw": 3}}] {
            assert_eq!(read("meta.raw", true, nothing), StoredTarget::Missing);
        }
        let wrong = read("raw", true, doc! {"raw": [one(), {"_cls": "Polyline"}]});
        assert!(matches!(&wrong, StoredTarget::Malformed(text) if text.contains("no Detection")), "{wrong:?}");
    }

    #[test]
    fn polylines_are_lists_of_points() {
        let label = doc! {"_cls": "Polylines", "polylines": [
            {"label": "road", "points": [[[0.0, 0.5], [1, 0.25]], []], "closed": true, "filled": true},
            {"label": "wire", "points": [[[0.5, 0.5]]]},
        ]};
        let StoredTarget::Objects(objects) = target(LabelKind::Polylines, label) else { panic!("objects") };
        let lines = vec![vec![[0.0, 0.5], [1.0, 0.25]], Vec::new()];
        assert_eq!(objects[0].shape, StoredShape::Lines { lines, closed: true, filled: true });
        assert_eq!(objects[1].shape, StoredShape::Lines { lines: vec![vec![[0.5, 0.5]]], closed: false, filled: false });
    }

    #[test]
    fn classifications_are_names() {
        let names = |names: &[&str]| StoredTarget::Names(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(target(LabelKind::Classification, doc! {"_cls": "Classification", "label": "cat"}), names(&["cat"]));
        let label = doc! {"_cls": "Classifications", "classifications": [{"label": "cat"}, {"label": null}, {"label": "dog"}]};
        assert_eq!(target(LabelKind::Classifications, label), names(&["cat", "dog"]));
        assert_eq!(target(LabelKind::Classifications, doc! {"_cls": "Classifications", "classifications": []}), names(&[]));
    }

    #[test]
    fn malformed_objects_say_what_is_wrong_with_them() {
        let pairs = |points: Bson| doc! {"label": "x", "points": points};
        let polylines: [Bson; 5] = [3.into(), vec![3].into(), vec![vec![3]].into(), vec![vec![vec![1.0]]].into(), "far".into()];
        for points in polylines {
            let label = doc! {"_cls": "Polylines", "polylines": [pairs(points.clone())]};
            let StoredTarget::Objects(objects) = target(LabelKind::Polylines, label) else { panic!("objects") };
            assert!(matches!(&objects[0].shape, StoredShape::Malformed(text) if text.contains("`points`")), "{points}");
        }
        for label in [
            doc! {},
            doc! {"bounding_box": null},
            doc! {"bounding_box": [0.0, 0.0, 1.0]},
            doc! {"bounding_box": [0.0, 0.0, 1.0, "1"]},
            doc! {"bounding_box": [0.0, 0.0, 1.0, 1.0, 1.0]},
        ] {
            let label = doc! {"_cls": "Detections", "detections": [label]};
            let StoredTarget::Objects(objects) = target(LabelKind::Detections, label) else { panic!("objects") };
            assert!(matches!(&objects[0].shape, StoredShape::Malformed(text) if text.contains("`bounding_box`")));
        }
        for list in [Bson::from(3), vec![3].into(), doc! {"a": 1}.into()] {
            let target = target(LabelKind::Detections, doc! {"_cls": "Detections", "detections": list});
            assert!(matches!(&target, StoredTarget::Malformed(text) if text.contains("`gt`")), "{target:?}");
        }
    }

    #[test]
    fn stored_heatmaps_are_read_back() {
        let checksum = Checksum::of(b"four");
        let label = doc! {
            "_cls": "Heatmap", "fingerprint": "f", "map_path": "/a.png", "npy_path": null, "map_checksum": checksum.to_string(),
        };
        let sample = read(LabelKind::Segmentation, Bson::Null, label.into());
        let expected = StoredHeatmap {
            field: "cam".into(),
            fingerprint: Some("f".into()),
            map_path: Some("/a.png".into()),
            map_checksum: Some(RecordedChecksum { checksum: Some(checksum), is_damaged: false }),
            ..StoredHeatmap::default()
        };
        assert_eq!(sample.existing, [expected]);
        assert_eq!((sample.sample.seq, sample.sample.id.len()), (3, 24));
        let fragment = read(LabelKind::Segmentation, Bson::Null, doc! {"fingerprint": "f"}.into());
        assert_eq!(fragment.existing[0].fingerprint, None);
        assert!(read(LabelKind::Segmentation, Bson::Null, Bson::Null).existing.is_empty());
    }

    #[test]
    fn only_what_is_read_is_asked_for() {
        let reader = SampleReader::new(None, vec!["cam".into()], None);
        let expected = doc! {
            "filepath": 1, "cam._cls": 1, "cam.fingerprint": 1, "cam.map_path": 1, "cam.npy_path": 1, "cam.map_checksum": 1,
            "cam.npy_checksum": 1,
        };
        assert_eq!(reader.projection(), expected);
        let reader = SampleReader::new(Some(field(LabelKind::Classifications)), Vec::new(), None);
        assert_eq!(reader.projection(), doc! {"filepath": 1, "gt._cls": 1, "gt.classifications.label": 1});
    }
}
