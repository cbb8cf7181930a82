//! Decoding as a whole, on real files.

use std::path::Path;

use super::{AttentionOn, Decoder, SeenMasks, Targets, check, decode};
use crate::{
    fields::HeatmapFields,
    fingerprint::{Fingerprint, Ingredient, SampleFingerprint},
    grid::{ClassIndex, ColumnIndex},
    label_names::LabelNames,
    message::{
        Channel, ClassTarget, Decoded, DecodedSample, Misclassified, SampleRef, SelectedSample, Skip, SkipReason, Step,
        StoredHeatmap, StoredMask, StoredObject, StoredShape, StoredTarget, TargetClass, TargetPixels,
    },
};
use camflow_media::{ExifPolicy, ImageLimits, Preprocess, PreprocessStep, RgbImage, encode_rgb};
use camflow_names::ClassNames;

/// A picture of 20 rows and 40 columns, of which the model sees the middle 20 x 20.
struct World {
    folder: tempfile::TempDir,
    crop: bool,
    /// Of a detector, each object by itself.
    per_detection: bool,
    /// The label that heatmaps are measured on.
    attention: Option<(AttentionOn, StoredTarget)>,
}

impl World {
    fn new(crop: bool) -> World {
        let folder = tempfile::tempdir().unwrap();
        let picture = encode_rgb(&RgbImage::new(20, 40, vec![7; 20 * 40 * 3])).unwrap();
        std::fs::write(folder.path().join("a.png"), picture).unwrap();
        World { folder, crop, per_detection: false, attention: None }
    }

    fn per_detection(crop: bool) -> World {
        World { per_detection: true, ..World::new(crop) }
    }

    fn decode_with(&self, targets: Targets, target: StoredTarget, existing: Vec<StoredHeatmap>) -> Step<Decoded> {
        let names = (0..targets.num_classes()).map(|class| vec![format!("field_{class}")]).collect();
        let identities = (0..targets.num_classes()).map(|class| format!("class {class}")).collect();
        let steps =
            if self.crop { vec![PreprocessStep::CenterCrop { height: 20, width: 20, rounds_down: false }] } else { Vec::new() };
        let decoder = Decoder {
            preprocess: Preprocess { steps },
            targets,
            labels: LabelNames::new(names_of_classes()),
            fields: HeatmapFields::new(names, identities, vec!["layer".into()]),
            limits: ImageLimits::default(),
            exif: ExifPolicy::Ignore,
            fingerprint: Fingerprint::of_job("model", "settings"),
            overwrite: false,
            is_detector: self.per_detection,
            has_truth: true,
            per_detection: self.per_detection,
            slicing: None,
            attention: self.attention.as_ref().map(|(on, _)| on.clone()),
            predictions: None,
            masks: SeenMasks::default(),
        };
        let sample = SampleRef { seq: 0, id: "0".into(), media_path: self.folder.path().join("a.png") };
        let attention = self.attention.as_ref().map(|(_, label)| label.clone());
        match check(&decoder, SelectedSample { sample, target, attention, existing }) {
            Step::Next(sample) => decode(&decoder, sample),
            Step::Skip(skip) => Step::Skip(skip),
            Step::Fail(failure) => Step::Fail(failure),
        }
    }

    fn ready(&self, targets: Targets, target: StoredTarget) -> DecodedSample {
        match self.decode_with(targets, target, Vec::new()) {
            Step::Next(Decoded::Ready(sample)) => *sample,
            other => panic!("{other:?}"),
        }
    }

    fn decode(&self, targets: &Targets, target: StoredTarget) -> Result<Vec<ClassTarget>, String> {
        match self.decode_with(targets.clone(), target, Vec::new()) {
            Step::Next(Decoded::Ready(sample)) => Ok(sample.targets),
            Step::Next(Decoded::Withdrawn(update)) => panic!("there was nothing: {update:?}"),
            Step::Skip(skip) => Err(skip.reason.to_string()),
            Step::Fail(failure) => Err(failure.error),
        }
    }

    fn fingerprint(&self, target: StoredTarget) -> String {
        self.ready(classes(), target).envelope.fingerprint.of(ClassIndex(0)).to_string()
    }
}

fn classes() -> Targets {
    let class = |name: &str, index| TargetClass { name: name.into(), index, mask_value: None, reference: None };
    Targets::Classes(vec![class("cat", 3), class("dog", 5)])
}

fn names_of_classes() -> ClassNames {
    ClassNames::new([(3, "cat"), (5, "dog")].map(|(index, name)| (index, name.to_owned())).into())
}

fn object(label: Option<&str>, shape: StoredShape) -> StoredObject {
    StoredObject { id: None, label: label.map(str::to_owned), confidence: None, evaluated: None, shape }
}

fn boxed(label: &str, bounds: [f64; 4]) -> StoredObject {
    object(Some(label), StoredShape::Box { bounds, mask: None })
}

fn counts(targets: &[ClassTarget]) -> Vec<(usize, usize)> {
    let count = |target: &ClassTarget| match &target.pixels {
        TargetPixels::Mask(mask) => (target.class.0, mask.count()),
        other => panic!("{other:?}"),
    };
    targets.iter().map(count).collect()
}

const UNSEEN: &str = "class outside the part that the model sees, or smaller than a pixel";

#[test]
fn a_class_is_where_its_objects_are_together() {
    let objects = vec![
        boxed("cat", [0.0, 0.0, 0.5, 0.5]),
        boxed("cow", [0.5, 0.5, 0.5, 0.5]),
        boxed("cat", [0.25, 0.0, 0.5, 0.5]),
        object(None, StoredShape::Malformed("nobody asks for it".into())),
    ];
    let whole = World::new(false).decode(&classes(), StoredTarget::Objects(objects.clone())).unwrap();
    assert_eq!(counts(&whole), [(0, 30 * 10)], "two overlapping boxes of 20 x 10 pixels, and none of another name");
    assert_eq!(whole[0].channel, Channel::Index(3));
    // The crop sees the columns 10 to 30.
    let cropped = World::new(true).decode(&classes(), StoredTarget::Objects(objects)).unwrap();
    assert_eq!(counts(&cropped), [(0, 20 * 10)]);
    let beside = StoredTarget::Objects(vec![boxed("cat", [0.0, 0.0, 0.2, 0.5])]);
    assert_eq!(World::new(true).decode(&classes(), beside).unwrap_err(), UNSEEN);
}

#[test]
fn each_detection_is_a_target_of_its_own() {
    let id = |digit: char| String::from(digit).repeat(24);
    let with_id = |digit, object| StoredObject { id: Some(id(digit)), ..object };
    let triangle = vec![vec![[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]]];
    let line = |lines| StoredShape::Lines { lines, closed: true, filled: true };
    let objects = vec![
        with_id('a', boxed("cat", [0.25, 0.0, 0.25, 0.5])),
        with_id('b', boxed("dog", [0.5, 0.5, 0.5, 0.5])),
        with_id('c', object(Some("cat"), line(triangle))),
        with_id('d', object(Some("cat"), line(Vec::new()))),
        boxed("cow", [0.0, 0.0, 1.0, 1.0]),
    ];
    let world = World::per_detection(false);
    let targets = world.decode(&classes(), StoredTarget::Objects(objects.clone())).unwrap();
    let found: Vec<_> = targets.iter().map(|target| (target.class.0, target.detection.clone().expect("its own"))).collect();
    let known: Vec<_> = found.iter().map(|(class, detection)| (*class, detection.id.clone(), detection.bounds)).collect();
    let (cats, dogs) = (0, 1);
    assert_eq!(
        known,
        [(cats, id('a'), [0.25, 0.0, 0.25, 0.5]), (cats, id('c'), [0.0, 0.0, 0.5, 0.5]), (dogs, id('b'), [0.5, 0.5, 0.5, 0.5])]
    );
    assert_eq!(targets[0].pixels, TargetPixels::Boxes(vec![[0.25, 0.0, 0.5, 0.5]]));
    let marked: Vec<_> = found.iter().map(|(_, found)| found.mask.as_ref().map(|mask| mask.whole().count())).collect();
    assert!(matches!(marked[..], [None, Some(50..150), None]), "of the triangle half its box: {marked:?}");

    let error = world.decode(&classes(), StoredTarget::Objects(vec![boxed("cat", [0.0, 0.0, 0.5, 0.5])])).unwrap_err();
    assert!(error.contains("`cat` has no `_id`"), "{error}");
    // Only what is known by ids depends on them.
    let renamed: Vec<_> = objects.iter().cloned().map(|object| with_id('e', object)).collect();
    for (world, is_same) in [(World::new(false), true), (world, false)] {
        let of = |objects: &[StoredObject]| world.fingerprint(StoredTarget::Objects(objects.to_vec()));
        assert_eq!(of(&objects) == of(&renamed), is_same);
    }
}

#[test]
fn a_malformed_object_costs_its_own_class_only() {
    let world = World::new(false);
    let bad = |label: &str, shape| StoredTarget::Objects(vec![boxed("dog", [0.0, 0.0, 1.0, 1.0]), object(Some(label), shape)]);
    let shapes = [
        StoredShape::Malformed("no box".into()),
        StoredShape::Box { bounds: [0.0, f64::NAN, 1.0, 1.0], mask: None },
        StoredShape::Box { bounds: [0.0, 0.0, 1.0, 1.0], mask: Some(StoredMask::Inline(vec![0x78, 0x9c, 1])) },
        StoredShape::Box { bounds: [0.0, 0.0, 1.0, 1.0], mask: Some(StoredMask::File("/no/mask.png".into())) },
        StoredShape::Lines { lines: vec![vec![[0.0, 0.0], [1e9, 0.0]]], closed: false, filled: true },
    ];
    for shape in shapes {
        let error = world.decode(&classes(), bad("cat", shape.clone())).unwrap_err();
        assert!(error != "class not in label" && !error.contains('\n'), "{error}");
        assert_eq!(counts(&world.decode(&classes(), bad("horse", shape)).unwrap()), [(1, 20 * 40)]);
    }
    assert_eq!(world.decode(&classes(), StoredTarget::Malformed("no list".into())).unwrap_err(), "label: no list");
    assert_eq!(world.decode(&classes(), StoredTarget::Missing).unwrap_err(), "no label");
    assert_eq!(world.decode(&classes(), StoredTarget::Objects(Vec::new())).unwrap_err(), "class not in label");
}

#[test]
fn an_image_whose_levels_are_cut_says_so() {
    let world = World::new(false);
    let is_clipped = || world.ready(classes(), StoredTarget::Unlabelled).is_clipped;
    assert!(!is_clipped());
    let wide = Path::new("../media/testdata/color_gray16.png").to_owned();
    std::fs::copy(wide, world.folder.path().join("a.png")).unwrap();
    assert!(is_clipped());
}

#[test]
fn masks_that_were_once_drawn_otherwise_are_stale_and_others_are_not() {
    let deflated = |npy: Vec<u8>| {
        let mut stream = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut stream, &npy).unwrap();
        stream.finish().unwrap()
    };
    let npy = |kind: &str, values: &[u8]| {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (2, 2), }}");
        let mut npy = b"\x93NUMPY\x01\0".to_vec();
        npy.extend((header.len() as u16 + 1).to_le_bytes());
        npy.extend(header.bytes().chain([b'\n']).chain(values.iter().copied()));
        StoredMask::Inline(deflated(npy))
    };
    let world = World::new(false);
    let masked = |mask: &StoredMask| {
        let shape = StoredShape::Box { bounds: [0.0, 0.0, 1.0, 1.0], mask: Some(mask.clone()) };
        StoredTarget::Objects(vec![object(Some("cat"), shape)])
    };
    let label = |fingerprint: &str| fingerprint.rsplit('-').next().unwrap().to_owned();
    // The digest that labels of every dataset hold.
    let as_ever = |what: &str, content: &[u8]| {
        let bounds: Vec<u8> = [0.0, 0.0, 1.0, 1.0].into_iter().flat_map(f64::to_le_bytes).collect();
        let object = Fingerprint::of_job("", "").and(Ingredient::Label, "object", b"cat").and(Ingredient::Label, "box", &bounds);
        label(&object.and(Ingredient::Label, what, content).to_string())
    };
    for (kind, values, is_same) in
        [("|b1", [0, 1, 1, 1], true), ("|u1", [0, 1, 1, 1], true), ("|u1", [0, 255, 1, 1], false), ("|u1", [0, 2, 1, 1], false)]
    {
        let mask = npy(kind, &values);
        let StoredMask::Inline(bytes) = &mask else { unreachable!() };
        assert_eq!(label(&world.fingerprint(masked(&mask))) == as_ever("mask", bytes), is_same, "{kind} {values:?}");
    }
}

#[test]
fn fingerprints_hold_what_objects_are_and_where() {
    let world = World::new(false);
    let of = |objects: Vec<StoredObject>| world.fingerprint(StoredTarget::Objects(objects));
    let cat = || boxed("cat", [0.0, 0.0, 1.0, 1.0]);
    let lines = |closed, filled, points: &[[f64; 2]]| {
        vec![object(Some("cat"), StoredShape::Lines { lines: vec![points.to_vec()], closed, filled })]
    };
    let triangle = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]];
    let mask = StoredMask::File("/no/mask.png".into());
    let masked = object(Some("horse"), StoredShape::Box { bounds: [0.0; 4], mask: Some(mask) });
    let different = [
        of(vec![cat()]),
        of(vec![boxed("cat", [0.0, 0.0, 1.0, 0.5])]),
        of(vec![cat(), boxed("horse", [0.0, 0.0, 1.0, 1.0])]),
        of(vec![cat(), masked]),
        of(lines(true, true, &triangle)),
        of(lines(true, false, &triangle)),
        of(lines(false, false, &triangle)),
        of(lines(false, false, &triangle[..2])),
    ];
    let distinct: std::collections::BTreeSet<_> = different.iter().collect();
    assert_eq!(distinct.len(), different.len());
    assert_eq!(of(vec![cat()]), of(vec![cat()]));
    // A name says only that the class is there: other names beside it change nothing.
    let names = |names: &[&str]| world.fingerprint(StoredTarget::Names(names.iter().map(|name| (*name).into()).collect()));
    assert_eq!(names(&["cat"]), names(&["cat", "horse"]));
}

#[test]
fn names_say_that_a_class_is_there() {
    let world = World::new(false);
    let names = |names: &[&str]| StoredTarget::Names(names.iter().map(|name| (*name).into()).collect());
    let dog = ClassTarget { class: ClassIndex(1), channel: Channel::Index(5), pixels: TargetPixels::Labelled, detection: None };
    assert_eq!(world.decode(&classes(), names(&["horse", "dog"])).unwrap(), [dog]);
    assert_eq!(world.decode(&classes(), names(&["horse"])).unwrap_err(), "class not in label");
    let own = Targets::OwnClass;
    let dog = ClassTarget { class: ClassIndex(0), channel: Channel::Index(5), pixels: TargetPixels::Labelled, detection: None };
    assert_eq!(world.decode(&own, names(&["dog"])).unwrap(), [dog]);
    assert_eq!(world.decode(&own, names(&["horse"])).unwrap_err(), "label is not a class of the model");
    let top = ClassTarget { class: ClassIndex(0), channel: Channel::Top, pixels: TargetPixels::Predicted, detection: None };
    assert_eq!(world.decode(&Targets::Top, StoredTarget::Unlabelled).unwrap(), [top]);
}

#[test]
fn a_mistake_is_known_by_the_class_that_the_label_names() {
    let world = World::new(false);
    let names = |names: &[&str]| StoredTarget::Names(names.iter().map(|name| (*name).into()).collect());
    let found = world.decode(&Targets::Wrong, names(&["dog"])).unwrap();
    let wrong = |less| TargetPixels::Wrong(Misclassified { own: vec![5], less });
    let of = |target: &ClassTarget| (target.class.0, target.channel, target.pixels.clone());
    let wanted = [(0, Channel::Top, wrong(None)), (1, Channel::Index(5), wrong(None)), (2, Channel::Top, wrong(Some(5)))];
    assert_eq!(found.iter().map(of).collect::<Vec<_>>(), wanted);
    assert_eq!(world.decode(&Targets::Wrong, names(&["horse"])).unwrap_err(), "label is not a class of the model");
    assert_eq!(world.decode(&Targets::Wrong, StoredTarget::Missing).unwrap_err(), "no label");
    // What is true goes along, where a label says one class for the image.
    let truth =
        |targets: Targets, target| world.ready(targets, target).envelope.true_class.map(|truth| (truth.name, truth.channels));
    assert_eq!(truth(Targets::Wrong, names(&["Dog"])), Some(("dog".to_owned(), vec![5])));
    assert_eq!(truth(Targets::Top, StoredTarget::Unlabelled), None);
}

#[test]
fn an_own_class_that_changed_is_made_again() {
    let world = World::new(false);
    let own = Targets::OwnClass;
    let named = |name: &str| StoredTarget::Names(vec![name.into()]);
    let cat = world.ready(own.clone(), named("cat"));
    let fields = HeatmapFields::new(vec![vec!["field_0".into()]], vec!["class 0".into()], vec!["layer".into()]);
    let fingerprint = Some(fields.fingerprint(&cat.envelope.fingerprint, ClassIndex(0), ColumnIndex(0)).to_string());
    let stored = StoredHeatmap { field: "field_0".into(), fingerprint, ..StoredHeatmap::default() };
    let again = world.decode_with(own.clone(), named("cat"), vec![stored.clone()]);
    assert!(matches!(again, Step::Skip(Skip { reason: SkipReason::UpToDate, .. })), "{again:?}");
    assert!(matches!(world.decode_with(own, named("dog"), vec![stored]), Step::Next(Decoded::Ready(_))));
}

#[test]
fn labels_that_are_written_otherwise_change_only_their_class() {
    let world = World::new(false);
    let fingerprints = |label: &str| {
        let objects = vec![boxed("dog", [0.0, 0.0, 0.5, 1.0]), boxed(label, [0.5, 0.0, 0.5, 1.0])];
        let sample = world.ready(classes(), StoredTarget::Objects(objects));
        (sample.targets.len(), [0, 1].map(|class| sample.envelope.fingerprint.of(ClassIndex(class))))
    };
    let (num_exact, exact) = fingerprints("cat");
    assert_eq!((num_exact, exact[0]), (2, exact[1]), "nothing is added where all is written the same");
    let (num_other, other) = fingerprints("CAT");
    assert_eq!(num_other, 2);
    assert_ne!(other[0], other[1]);
    // What an earlier camflow wrote of the dog stays up to date.
    let mut plain = SampleFingerprint::from(other[1]);
    plain.add(ClassIndex(0), Ingredient::Label, "read otherwise", b"CAT");
    assert_eq!(other[0], plain.of(ClassIndex(0)));
    let names = |names: &[&str]| StoredTarget::Names(names.iter().map(|name| (*name).into()).collect());
    assert_eq!(world.decode(&classes(), names(&["Dog"])).unwrap().len(), 1);
    assert_eq!(world.decode(&Targets::OwnClass, names(&["Dog"])).unwrap()[0].channel, Channel::Index(5));
}

#[test]
fn a_pixel_is_one_of_the_image() {
    let Targets::Classes(classes) = classes() else { panic!("classes") };
    let at = |crop, x, y| {
        let targets = Targets::Pixel { classes: classes[..1].to_vec(), x, y };
        World::new(crop).decode(&targets, StoredTarget::Unlabelled).map(|targets| targets[0].pixels.clone())
    };
    assert_eq!(at(false, 0, 19).unwrap(), TargetPixels::Point { y: 0.975, x: 0.0125 });
    assert_eq!(at(true, 10, 0).unwrap(), TargetPixels::Point { y: 0.025, x: 0.025 });
    assert_eq!(at(false, 40, 0).unwrap_err(), "pixel outside the image");
    assert_eq!(at(false, 0, 20).unwrap_err(), "pixel outside the image");
    assert_eq!(at(true, 9, 0).unwrap_err(), "pixel outside the part that the model sees");
    assert_eq!(at(true, 30, 0).unwrap_err(), "pixel outside the part that the model sees");
}

#[test]
fn the_classes_that_heatmaps_are_measured_on_come_along_and_are_part_of_the_label() {
    let target = || StoredTarget::Objects(vec![boxed("cat", [0.25, 0.0, 0.5, 0.5])]);
    let on = AttentionOn::new("scene".into(), Vec::new());
    let with = |label: StoredTarget| World { attention: Some((on.clone(), label)), ..World::new(true) };
    let scene =
        || vec![boxed("sky", [0.0, 0.0, 1.0, 0.5]), boxed("a.$b", [0.0, 0.0, 0.5, 1.0]), boxed("sky", [0.0, 0.0, 0.5, 0.5])];
    let sample = with(StoredTarget::Objects(scene())).ready(classes(), target());
    let map = sample.attention.expect("a map over the image");
    assert_eq!(((map.height, map.width), map.classes()), ((20, 40), &["a.$b".to_owned(), "sky".to_owned()][..]));
    assert_eq!(with(StoredTarget::Missing).ready(classes(), target()).attention, None);
    // Whoever does not ask has the fingerprint of before.
    // Each world has an image of its own.
    let parts = |world: World| {
        let parts: Vec<String> = world.fingerprint(target()).split('-').map(ToOwned::to_owned).collect();
        (parts[..2].to_vec(), parts[3].clone())
    };
    let plain = parts(World::new(true));
    let missing = parts(with(StoredTarget::Missing));
    let labelled = parts(with(StoredTarget::Objects(scene())));
    let moved = parts(with(StoredTarget::Objects(vec![boxed("sky", [0.0, 0.0, 1.0, 0.25])])));
    assert!(plain.1 != missing.1 && missing.1 != labelled.1 && labelled.1 != moved.1);
    assert_eq!(labelled, parts(with(StoredTarget::Objects(scene()))));
    assert_eq!(plain.0, labelled.0, "only the label differs");
    let renamed = AttentionOn::new("scene".into(), vec![("sky".into(), camflow_media::MaskValue::Index(1))]);
    let renamed = World { attention: Some((renamed, StoredTarget::Objects(scene()))), ..World::new(true) };
    assert_ne!(parts(renamed).1, labelled.1, "mask targets name classes");
    for broken in [
        StoredTarget::Malformed("the Detections in `scene` have detections that are no labels".into()),
        StoredTarget::Objects(vec![boxed("sky", [0.0, 0.0, 700.0, 0.25])]),
        StoredTarget::Mask(StoredMask::File("/nowhere/mask.png".into())),
    ] {
        let error = with(broken).decode(&classes(), target()).unwrap_err();
        assert!(error.contains("field `scene` of `--attention-on`: "), "{error}");
    }
    assert_eq!(on.notices().len(), 1, "{:?}", on.notices());
}
