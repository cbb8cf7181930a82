//! A sample as it is stored, read into what the pipeline needs of it. Labels may be null, absent, or fragments that an
//! edit left behind after somebody else removed the label; what is inside them may be anything.

use bson::{Bson, Document, RawBsonRef, RawDocument, doc};

use super::{
    label_field::{LabelField, LabelKind},
    saved_view::ViewChanges,
    stored_heatmap::{heatmap, heatmap_keys, path},
    stored_label::{bare_list, iou_key, is_of, target},
};
use camflow_pipeline::{SampleRef, SelectedSample, StoredTarget};

/// Knows which keys of a sample to ask for, and reads them.
#[derive(Clone, Debug)]
pub(super) struct SampleReader {
    /// `None` when no label is needed.
    label: Option<LabelField>,
    /// The label that heatmaps are measured on.
    attention: Option<LabelField>,
    heatmaps: Vec<String>,
    /// Whether these fields hold detections that have heatmaps.
    per_detection: bool,
    /// `None` where label and path are taken as they are stored. Heatmaps always are: a view may show none, or others.
    changes: Option<ViewChanges>,
}

/// Where a page of a view has what the view shows of a sample: a list of one.
const VIEWED: &str = "_viewed";

impl SampleReader {
    pub(super) fn new(label: Option<LabelField>, heatmaps: Vec<String>, changes: Option<ViewChanges>) -> Self {
        SampleReader { label, attention: None, heatmaps, per_detection: false, changes }
    }

    /// The same of fields that hold detections with heatmaps of their own.
    pub(super) fn per_detection(self, per_detection: bool) -> Self {
        SampleReader { per_detection, ..self }
    }

    /// The same, also of the label that heatmaps are measured on.
    pub(super) fn with_attention(self, attention: Option<LabelField>) -> Self {
        SampleReader { attention, ..self }
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
    pub(super) fn sources(&self) -> Document {
        let mut projection = doc! {"filepath": 1};
        for label in self.label.iter().chain(&self.attention) {
            let inner: &[&str] = match label.kind {
                LabelKind::Segmentation => &["mask", "mask_path"],
                LabelKind::Detection | LabelKind::Detections => {
                    &["_id", "label", "bounding_box", "confidence", "mask", "mask_path"]
                }
                LabelKind::Polyline | LabelKind::Polylines => &["_id", "label", "points", "confidence", "closed", "filled"],
                LabelKind::Classification | LabelKind::Classifications => &["label"],
            };
            let prefix = label.labels();
            projection.insert(format!("{}._cls", label.key), 1);
            projection.extend(inner.iter().map(|inner| (format!("{prefix}.{inner}"), 1.into())));
            let found = label.evaluation.iter().flat_map(|key| [key.clone(), iou_key(key)]);
            projection.extend(found.map(|key| (format!("{prefix}.{key}"), 1.into())));
        }
        projection
    }

    fn stored(&self) -> Document {
        let keys = |field| heatmap_keys(self.per_detection).map(move |key| (format!("{field}.{key}"), Bson::Int32(1)));
        self.heatmaps.iter().flat_map(keys).collect()
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
            Some(field) => label_of(shown, field),
        };
        let attention = self.attention.as_ref().map(|field| label_of(shown, field));
        let existing =
            self.heatmaps.iter().filter_map(|field| sample.get_document(field).ok().map(|label| heatmap(field, label))).collect();
        SelectedSample { sample: SampleRef { seq, id, media_path }, target, attention, existing }
    }
}

/// What a sample has in a label field.
fn label_of(sample: Option<&RawDocument>, field: &LabelField) -> StoredTarget {
    match sample.and_then(|sample| at(sample, &field.key)) {
        Some(RawBsonRef::Document(label)) if !field.is_bare_list && is_of(label, field) => target(label, field),
        Some(RawBsonRef::Array(labels)) if field.is_bare_list => bare_list(labels, field),
        _ => StoredTarget::Missing,
    }
}

/// What is at a path of keys with dots.
fn at<'a>(document: &'a RawDocument, path: &str) -> Option<RawBsonRef<'a>> {
    match path.split_once('.') {
        None => document.get(path).ok()?,
        Some((key, rest)) => at(document.get_document(key).ok()?, rest),
    }
}

#[cfg(test)]
mod tests {
    use bson::{Binary, RawDocumentBuf, oid::ObjectId, spec::BinarySubtype};

    use super::*;
    use camflow_media::{Checksum, RecordedChecksum};
    use camflow_pipeline::{StoredHeatmap, StoredMask, StoredObject, StoredShape};

    fn field(kind: LabelKind) -> LabelField {
        LabelField { name: "gt".into(), kind, key: "gt".into(), is_bare_list: false, evaluation: None }
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
    fn two_labels_are_read_beside_each_other() {
        let scene = LabelField { name: "scene".into(), key: "scene".into(), ..field(LabelKind::Detections) };
        let reader = SampleReader::new(Some(field(LabelKind::Segmentation)), Vec::new(), None).with_attention(Some(scene));
        let projection = reader.projection();
        assert!(
            ["gt.mask", "scene._cls", "scene.detections.label"].iter().all(|key| projection.contains_key(key)),
            "{projection}"
        );
        let read = |scene: Bson| {
            let gt = doc! {"_cls": "Segmentation", "mask": bytes()};
            let sample = doc! {"_id": ObjectId::from_bytes([7; 12]), "filepath": "/a.jpg", "gt": gt, "scene": scene};
            reader.read(0, &RawDocumentBuf::try_from(&sample).unwrap())
        };
        let both = read(doc! {"_cls": "Detections", "detections": []}.into());
        assert!(matches!(both.target, StoredTarget::Mask(_)));
        assert_eq!(both.attention, Some(StoredTarget::Objects(Vec::new())));
        assert_eq!(read(Bson::Null).attention, Some(StoredTarget::Missing));
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
        let expected = StoredObject {
            id: None,
            label: Some("cat".into()),
            confidence: None,
            evaluated: None,
            shape: StoredShape::Box { bounds: [0.0, 0.0, 1.0, 1.0], mask: None },
        };
        assert_eq!(target(LabelKind::Detection, single), StoredTarget::Objects(vec![expected]));
        let empty = StoredTarget::Objects(Vec::new());
        assert_eq!(target(LabelKind::Detections, doc! {"_cls": "Detections", "detections": []}), empty);
        assert_eq!(target(LabelKind::Detections, doc! {"_cls": "Detections"}), empty);
    }

    #[test]
    fn bare_lists_and_inner_fields_are_read_as_others_are() {
        let read = |key: &str, is_bare_list, sample: Document| {
            let label = LabelField { key: key.into(), is_bare_list, ..field(LabelKind::Detections) };
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
            "cam.npy_checksum": 1, "cam.mask_path": 1, "cam.mask_checksum": 1,
        };
        assert_eq!(reader.projection(), expected);
        let reader = SampleReader::new(Some(field(LabelKind::Classifications)), Vec::new(), None);
        assert_eq!(reader.projection(), doc! {"filepath": 1, "gt._cls": 1, "gt.classifications.label": 1});
    }
}
