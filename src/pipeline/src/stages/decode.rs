//! Decode: image file to pixels, label to targets.

use std::path::Path;

use super::{inputs::InputFiles, masks::SeenMasks};
use crate::{
    Channel, ClassTarget, DecodedSample, Fingerprint, HeatmapFields, Ingredient, LabelNames, SampleFailure, SampleFingerprint,
    SampleRef, SampleUpdate, SelectedSample, Skip, SkipReason, Stage, StaleSample, StoredHeatmap, StoredShape, StoredTarget,
    TargetClass, TargetPixels,
};
use camflow_media::{
    BinaryMask, ExifPolicy, FrameRegion, ImageLimits, MediaError, Outside, Preprocess, parse_image, with_large_pictures_in_turn,
};

/// What a job explains in each sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// These classes, where the sample's label or else the model's prediction puts them.
    Classes(Vec<TargetClass>),
    /// These classes at one pixel of the image as it is read.
    Pixel {
        /// The classes.
        classes: Vec<TargetClass>,
        /// Column, from 0.
        x: u32,
        /// Row, from 0.
        y: u32,
    },
    /// The class that the model itself puts first.
    Top,
    /// The class that the sample is labelled with.
    OwnClass,
}

impl Targets {
    /// How many classes a sample can have: the length of the job's list of classes.
    pub fn num_classes(&self) -> usize {
        match self {
            Targets::Classes(classes) | Targets::Pixel { classes, .. } => classes.len(),
            Targets::Top | Targets::OwnClass => 1,
        }
    }
}

/// Turns a selected sample into the model's input.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The model's own preprocessing.
    pub preprocess: Preprocess,
    /// What the job explains.
    pub targets: Targets,
    /// Which labels are of which class.
    pub labels: LabelNames,
    /// The fields that the job writes.
    pub fields: HeatmapFields,
    /// How large a file may be.
    pub limits: ImageLimits,
    /// Whether images are turned as their EXIF data say.
    pub exif: ExifPolicy,
    /// Of the job's settings.
    pub fingerprint: Fingerprint,
    /// Compute again what is up to date.
    pub overwrite: bool,
    /// Notes the masks that are read.
    pub masks: SeenMasks,
}

/// How decoding a sample ended.
#[derive(Debug)]
pub enum Decoded {
    /// Ready for the device.
    Ready(Box<DecodedSample>),
    /// The same, but somebody wrote one of its files since it was checked: its fingerprint is that of no sample.
    Moved(Box<DecodedSample>),
    /// There is nothing to explain any more, and heatmaps of before are to go.
    Withdrawn(SampleUpdate),
    /// Nothing to do.
    Skipped(Skip),
    /// A fault of this sample.
    Failed(SampleFailure),
}

/// A class that a sample has, before its image is read.
struct Found<'a> {
    class: usize,
    channel: Channel,
    place: Place<'a>,
}

/// Where a class is, before the image's size is known.
enum Place<'a> {
    /// In a mask over the whole image.
    Mask(BinaryMask),
    /// Where these shapes are.
    Shapes(Vec<&'a StoredShape>),
    /// At this pixel.
    Pixel { x: u32, y: u32 },
    /// Where the model says.
    Predicted,
    /// Where the model says, because the label says only that it is there.
    Labelled,
}

impl Decoder {
    /// Decodes one sample; never panics on what files and labels contain.
    pub fn decode(&self, stale: StaleSample) -> Decoded {
        let StaleSample { selected: SelectedSample { sample, existing, .. }, wanted, .. } = &stale;
        let files = InputFiles::of(&stale, &self.limits);
        let decoded = with_large_pictures_in_turn(|| self.try_decode(&stale, &files));
        let moved = files.moved();
        match decoded {
            Ok(Ok(decoded)) if moved.is_empty() => Decoded::Ready(Box::new(decoded)),
            Ok(Ok(mut decoded)) => {
                decoded.fingerprint = moved.into_iter().fold(decoded.fingerprint, SampleFingerprint::unsettled);
                Decoded::Moved(Box::new(decoded))
            }
            Ok(Err(reason)) => self.without_targets(sample.clone(), reason, wanted, existing),
            Err(error) if moved.is_empty() => Decoded::Failed(failure(sample.clone(), &error)),
            Err(error) => {
                let failure = failure(sample.clone(), &error);
                let error = format!("{} (somebody changed it while it was read; the next run tries again)", failure.error);
                Decoded::Failed(SampleFailure { error, ..failure })
            }
        }
    }

    /// How many of the wanted classes the sample's label has, or why it has none, without the image: a class may still lie
    /// outside the part of it that the model sees, or not be predicted.
    pub fn count_targets(&self, stale: &StaleSample) -> Result<Result<usize, SkipReason>, SampleFailure> {
        let StaleSample { selected: SelectedSample { sample, target, .. }, wanted, .. } = stale;
        let files = InputFiles::of(stale, &self.limits);
        let found = self.find(target, wanted, &files).map_err(|error| failure(sample.clone(), &error))?;
        Ok(found.and_then(|found| if found.is_empty() { Err(self.absence(wanted)) } else { Ok(found.len()) }))
    }

    /// Why a sample has no target when none of the wanted classes is there.
    fn absence(&self, wanted: &[usize]) -> SkipReason {
        if wanted.len() < self.targets.num_classes() { SkipReason::UpToDate } else { SkipReason::ClassAbsent }
    }

    /// Whether a sample without targets loses heatmaps.
    pub fn withdraws(&self, stale: &StaleSample) -> bool {
        self.withdrawn(&stale.wanted, &stale.selected.existing).next().is_some()
    }

    fn withdrawn<'a>(&self, wanted: &[usize], existing: &'a [StoredHeatmap]) -> impl Iterator<Item = &'a StoredHeatmap> {
        self.fields.withdrawn(existing, |class| wanted.contains(&class))
    }

    fn without_targets(&self, sample: SampleRef, reason: SkipReason, wanted: &[usize], existing: &[StoredHeatmap]) -> Decoded {
        // A pixel beside the image is rather a slip than a reason to take away what another pixel gave.
        let is_slip = matches!(reason, SkipReason::PixelOutsideImage | SkipReason::PixelOutsideCrop);
        let withdrawn: Vec<_> = self.withdrawn(wanted, existing).filter(|_| !is_slip).cloned().collect();
        if withdrawn.is_empty() {
            return Decoded::Skipped(Skip { sample, reason });
        }
        Decoded::Withdrawn(SampleUpdate {
            sample,
            heatmaps: Vec::new(),
            withdrawn: withdrawn.iter().map(|heatmap| heatmap.field.clone()).collect(),
            superseded: withdrawn.iter().flat_map(StoredHeatmap::files).map(Path::to_owned).collect(),
            existing: existing.to_vec(),
        })
    }

    fn try_decode(&self, stale: &StaleSample, files: &InputFiles<'_>) -> Result<Result<DecodedSample, SkipReason>, MediaError> {
        let StaleSample { selected: SelectedSample { sample, target, existing }, fingerprint, wanted, .. } = stale;
        let found = match self.find(target, wanted, files)? {
            Ok(found) => found,
            Err(reason) => return Ok(Err(reason)),
        };
        if found.is_empty() {
            return Ok(Err(self.absence(wanted)));
        }

        let path = &sample.media_path;
        let image = parse_image(path, &files.read(Ingredient::Image, path)?, &self.limits, self.exif)?;
        let input = self.preprocess.apply(&image)?;
        let region = input.region;
        let mut targets = Vec::with_capacity(found.len());
        for Found { class, channel, place } in found {
            let pixels = match place {
                Place::Predicted => TargetPixels::Predicted,
                Place::Labelled => TargetPixels::Labelled,
                Place::Pixel { x, y } => match region.place(y as usize, x as usize, input.height, input.width) {
                    Ok((y, x)) => TargetPixels::Point { y, x },
                    Err(Outside::Image) => return Ok(Err(SkipReason::PixelOutsideImage)),
                    Err(Outside::Crop) => return Ok(Err(SkipReason::PixelOutsideCrop)),
                },
                Place::Mask(mask) => TargetPixels::Mask(mask.on_input(&region, input.height, input.width)),
                Place::Shapes(shapes) => {
                    TargetPixels::Mask(draw(&shapes, &region, files)?.on_input(&region, input.height, input.width))
                }
            };
            // A class may lie wholly outside the crop, or its box be smaller than a pixel.
            if !matches!(&pixels, TargetPixels::Mask(mask) if mask.count() == 0) {
                targets.push(ClassTarget { class, channel, pixels });
            }
        }
        if targets.is_empty() {
            return Ok(Err(SkipReason::ClassAbsent));
        }
        Ok(Ok(DecodedSample {
            sample: sample.clone(),
            pixels: input.pixels,
            height: input.height,
            width: input.width,
            region,
            targets,
            fingerprint: fingerprint.clone(),
            wanted: wanted.clone(),
            existing: existing.clone(),
            is_clipped: image.is_clipped,
        }))
    }

    /// The wanted classes that the sample has, with where they are.
    fn find<'a>(
        &self,
        target: &'a StoredTarget,
        wanted: &[usize],
        files: &InputFiles<'_>,
    ) -> Result<Result<Vec<Found<'a>>, SkipReason>, MediaError> {
        if *target == StoredTarget::Missing {
            return Ok(Err(SkipReason::NoLabel));
        }
        let classes = match &self.targets {
            Targets::Top => return Ok(Ok(vec![Found { class: 0, channel: Channel::Top, place: Place::Predicted }])),
            Targets::OwnClass => {
                let StoredTarget::Names(names) = target else { return Ok(Err(SkipReason::NoLabel)) };
                let found = self.labels.own(names).map_err(MediaError::shape)?;
                let found =
                    found.map(|(_, channel)| Found { class: 0, channel: Channel::Index(channel), place: Place::Labelled });
                return Ok(found.map(|found| vec![found]).ok_or(SkipReason::UnknownClass));
            }
            Targets::Classes(classes) | Targets::Pixel { classes, .. } => classes,
        };
        let mask = match target {
            StoredTarget::Mask(mask) => Some(files.mask(mask)?),
            _ => None,
        };
        let named: Vec<_> = target.names().map(|name| (name, self.labels.meaning(name))).collect();
        let mut found = Vec::new();
        for &class in wanted {
            let asked @ TargetClass { index, mask_value, .. } = &classes[class];
            if let Some(doubt) = named.iter().find_map(|(name, meaning)| self.labels.doubt(name, meaning, asked)) {
                return Err(MediaError::shape(doubt));
            }
            let place = match (&self.targets, target) {
                (Targets::Pixel { x, y, .. }, _) => Place::Pixel { x: *x, y: *y },
                (_, StoredTarget::Unlabelled) => Place::Predicted,
                (_, StoredTarget::Names(names)) if self.labels.have(names, asked) => Place::Labelled,
                (_, StoredTarget::Objects(objects)) => {
                    let labelled = objects.iter().filter(|object| object.label.is_some()).zip(&named);
                    let of_class = labelled.filter(|(_, (name, meaning))| self.labels.is_of(name, meaning, asked));
                    Place::Shapes(of_class.map(|(object, _)| &object.shape).collect())
                }
                (_, StoredTarget::Mask(_)) => match (&mask, mask_value) {
                    (Some(mask), Some(value)) => Place::Mask(mask.select(value)?),
                    _ => continue,
                },
                _ => continue,
            };
            let is_nowhere = match &place {
                Place::Mask(mask) => mask.count() == 0,
                Place::Shapes(shapes) => shapes.is_empty(),
                Place::Pixel { .. } | Place::Predicted | Place::Labelled => false,
            };
            if !is_nowhere {
                found.push(Found { class, channel: Channel::Index(*index), place });
            }
        }
        if let Some(mask) = &mask {
            self.masks.note(mask, !found.is_empty());
        }
        Ok(Ok(found))
    }
}

/// The pixels of the image that the shapes cover together.
fn draw(shapes: &[&StoredShape], region: &FrameRegion, files: &InputFiles<'_>) -> Result<BinaryMask, MediaError> {
    let mut drawn = BinaryMask::empty(region.image_height, region.image_width);
    for shape in shapes {
        match shape {
            StoredShape::Box { bounds, mask: None } => drawn.add_box(*bounds, None)?,
            StoredShape::Box { bounds, mask: Some(mask) } => {
                drawn.add_box(*bounds, Some(&files.instance_mask(mask)?))?;
            }
            StoredShape::Lines { lines, filled: true, .. } => drawn.add_polygon(lines)?,
            StoredShape::Lines { lines, closed, filled: false } => drawn.add_lines(lines, *closed)?,
            StoredShape::Malformed(reason) => return Err(MediaError::shape(reason.clone())),
        }
    }
    Ok(drawn)
}

pub(super) fn failure(sample: SampleRef, error: &MediaError) -> SampleFailure {
    SampleFailure { sample, stage: Stage::Decode, error: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StoredMask, StoredObject, stages::check::Checked};
    use camflow_media::{PreprocessStep, RgbImage, encode_rgb};
    use camflow_names::ClassNames;

    /// A picture of 20 rows and 40 columns, of which the model sees the middle 20 x 20.
    struct World {
        folder: tempfile::TempDir,
        crop: bool,
    }

    impl World {
        fn new(crop: bool) -> World {
            let folder = tempfile::tempdir().unwrap();
            let picture = encode_rgb(&RgbImage::new(20, 40, vec![7; 20 * 40 * 3])).unwrap();
            std::fs::write(folder.path().join("a.png"), picture).unwrap();
            World { folder, crop }
        }

        fn decode_with(&self, targets: Targets, target: StoredTarget, existing: Vec<StoredHeatmap>) -> Decoded {
            let names = (0..targets.num_classes()).map(|class| vec![format!("field_{class}")]).collect();
            let identities = (0..targets.num_classes()).map(|class| format!("class {class}")).collect();
            let steps = if self.crop { vec![PreprocessStep::CenterCrop { height: 20, width: 20 }] } else { Vec::new() };
            let decoder = Decoder {
                preprocess: Preprocess { steps },
                targets,
                labels: LabelNames::new(names_of_classes()),
                fields: HeatmapFields::new(names, identities, vec!["layer".into()]),
                limits: ImageLimits::default(),
                exif: ExifPolicy::Ignore,
                fingerprint: Fingerprint::of_job("model", "settings"),
                overwrite: false,
                masks: SeenMasks::default(),
            };
            let sample = SampleRef { seq: 0, id: "0".into(), media_path: self.folder.path().join("a.png") };
            match decoder.check(SelectedSample { sample, target, existing }) {
                Checked::Stale(sample) => decoder.decode(*sample),
                Checked::Skipped(skip) => Decoded::Skipped(skip),
                Checked::Failed(failure) => Decoded::Failed(failure),
            }
        }

        fn decode(&self, targets: &Targets, target: StoredTarget) -> Result<Vec<ClassTarget>, String> {
            match self.decode_with(targets.clone(), target, Vec::new()) {
                Decoded::Ready(sample) | Decoded::Moved(sample) => Ok(sample.targets),
                Decoded::Withdrawn(update) => panic!("there was nothing: {update:?}"),
                Decoded::Skipped(skip) => Err(skip.reason.to_string()),
                Decoded::Failed(failure) => Err(failure.error),
            }
        }

        fn fingerprint(&self, target: StoredTarget) -> String {
            match self.decode_with(classes(), target, Vec::new()) {
                Decoded::Ready(sample) => sample.fingerprint.of(0).to_string(),
                other => panic!("{other:?}"),
            }
        }
    }

    fn classes() -> Targets {
        let class = |name: &str, index| TargetClass { name: name.into(), index, mask_value: None };
        Targets::Classes(vec![class("cat", 3), class("dog", 5)])
    }

    fn names_of_classes() -> ClassNames {
        ClassNames::new([(3, "cat"), (5, "dog")].map(|(index, name)| (index, name.to_owned())).into())
    }

    fn boxed(label: &str, bounds: [f64; 4]) -> StoredObject {
        StoredObject { label: Some(label.into()), shape: StoredShape::Box { bounds, mask: None } }
    }

    fn counts(targets: &[ClassTarget]) -> Vec<(usize, usize)> {
        let count = |target: &ClassTarget| match &target.pixels {
            TargetPixels::Mask(mask) => (target.class, mask.count()),
            other => panic!("{other:?}"),
        };
        targets.iter().map(count).collect()
    }

    #[test]
    fn a_class_is_where_its_objects_are_together() {
        let objects = vec![
            boxed("cat", [0.0, 0.0, 0.5, 0.5]),
            boxed("cow", [0.5, 0.5, 0.5, 0.5]),
            boxed("cat", [0.25, 0.0, 0.5, 0.5]),
            StoredObject { label: None, shape: StoredShape::Malformed("nobody asks for it".into()) },
        ];
        let whole = World::new(false).decode(&classes(), StoredTarget::Objects(objects.clone())).unwrap();
        assert_eq!(counts(&whole), [(0, 30 * 10)], "two overlapping boxes of 20 x 10 pixels, and none of another name");
        assert_eq!(whole[0].channel, Channel::Index(3));
        // The crop sees the columns 10 to 30.
        let cropped = World::new(true).decode(&classes(), StoredTarget::Objects(objects)).unwrap();
        assert_eq!(counts(&cropped), [(0, 20 * 10)]);
        let beside = StoredTarget::Objects(vec![boxed("cat", [0.0, 0.0, 0.2, 0.5])]);
        assert_eq!(World::new(true).decode(&classes(), beside).unwrap_err(), "class absent");
    }

    #[test]
    fn a_malformed_object_costs_its_own_class_only() {
        let world = World::new(false);
        let bad = |label: &str, shape| {
            StoredTarget::Objects(vec![boxed("dog", [0.0, 0.0, 1.0, 1.0]), StoredObject { label: Some(label.into()), shape }])
        };
        let shapes = [
            StoredShape::Malformed("no box".into()),
            StoredShape::Box { bounds: [0.0, f64::NAN, 1.0, 1.0], mask: None },
            StoredShape::Box { bounds: [0.0, 0.0, 1.0, 1.0], mask: Some(StoredMask::Inline(vec![0x78, 0x9c, 1])) },
            StoredShape::Box { bounds: [0.0, 0.0, 1.0, 1.0], mask: Some(StoredMask::File("/no/mask.png".into())) },
            StoredShape::Lines { lines: vec![vec![[0.0, 0.0], [1e9, 0.0]]], closed: false, filled: true },
        ];
        for shape in shapes {
            let error = world.decode(&classes(), bad("cat", shape.clone())).unwrap_err();
            assert!(error != "class absent" && !error.contains('\n'), "{error}");
            assert_eq!(counts(&world.decode(&classes(), bad("horse", shape)).unwrap()), [(1, 20 * 40)]);
        }
        assert_eq!(world.decode(&classes(), StoredTarget::Malformed("no list".into())).unwrap_err(), "label: no list");
        assert_eq!(world.decode(&classes(), StoredTarget::Missing).unwrap_err(), "no label");
        assert_eq!(world.decode(&classes(), StoredTarget::Objects(Vec::new())).unwrap_err(), "class absent");
    }

    #[test]
    fn an_image_whose_levels_are_cut_says_so() {
        let world = World::new(false);
        let is_clipped = || match world.decode_with(classes(), StoredTarget::Unlabelled, Vec::new()) {
            Decoded::Ready(sample) => sample.is_clipped,
            other => panic!("{other:?}"),
        };
        assert!(!is_clipped());
        let wide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../media/testdata/color_gray16.png");
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
            StoredTarget::Objects(vec![StoredObject { label: Some("cat".into()), shape }])
        };
        let label = |fingerprint: &str| fingerprint.rsplit('-').next().unwrap().to_owned();
        // The digest that labels of every dataset hold.
        let as_ever = |what: &str, content: &[u8]| {
            let bounds: Vec<u8> = [0.0, 0.0, 1.0, 1.0].into_iter().flat_map(f64::to_le_bytes).collect();
            let object =
                Fingerprint::of_job("", "").and(Ingredient::Label, "object", b"cat").and(Ingredient::Label, "box", &bounds);
            label(&object.and(Ingredient::Label, what, content).to_string())
        };
        for (kind, values, is_same) in [
            ("|b1", [0, 1, 1, 1], true),
            ("|u1", [0, 1, 1, 1], true),
            ("|u1", [0, 255, 1, 1], false),
            ("|u1", [0, 2, 1, 1], false),
        ] {
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
            vec![StoredObject {
                label: Some("cat".into()),
                shape: StoredShape::Lines { lines: vec![points.to_vec()], closed, filled },
            }]
        };
        let triangle = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]];
        let mask = StoredMask::File("/no/mask.png".into());
        let masked = StoredObject { label: Some("horse".into()), shape: StoredShape::Box { bounds: [0.0; 4], mask: Some(mask) } };
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
        let dog = ClassTarget { class: 1, channel: Channel::Index(5), pixels: TargetPixels::Labelled };
        assert_eq!(world.decode(&classes(), names(&["horse", "dog"])).unwrap(), [dog]);
        assert_eq!(world.decode(&classes(), names(&["horse"])).unwrap_err(), "class absent");
        let own = Targets::OwnClass;
        let dog = ClassTarget { class: 0, channel: Channel::Index(5), pixels: TargetPixels::Labelled };
        assert_eq!(world.decode(&own, names(&["dog"])).unwrap(), [dog]);
        assert_eq!(world.decode(&own, names(&["horse"])).unwrap_err(), "class unknown to the model");
        let top = ClassTarget { class: 0, channel: Channel::Top, pixels: TargetPixels::Predicted };
        assert_eq!(world.decode(&Targets::Top, StoredTarget::Unlabelled).unwrap(), [top]);
    }

    #[test]
    fn an_own_class_that_changed_is_made_again() {
        let world = World::new(false);
        let own = Targets::OwnClass;
        let named = |name: &str| StoredTarget::Names(vec![name.into()]);
        let Decoded::Ready(cat) = world.decode_with(own.clone(), named("cat"), Vec::new()) else { panic!("a cat") };
        let fields = HeatmapFields::new(vec![vec!["field_0".into()]], vec!["class 0".into()], vec!["layer".into()]);
        let fingerprint = Some(fields.fingerprint(&cat.fingerprint, 0, 0).to_string());
        let stored = StoredHeatmap { field: "field_0".into(), fingerprint, ..StoredHeatmap::default() };
        let again = world.decode_with(own.clone(), named("cat"), vec![stored.clone()]);
        assert!(matches!(again, Decoded::Skipped(Skip { reason: SkipReason::UpToDate, .. })), "{again:?}");
        assert!(matches!(world.decode_with(own, named("dog"), vec![stored]), Decoded::Ready(_)));
    }

    #[test]
    fn labels_that_are_written_otherwise_change_only_their_class() {
        let world = World::new(false);
        let fingerprints = |label: &str| {
            let objects = vec![boxed("dog", [0.0, 0.0, 0.5, 1.0]), boxed(label, [0.5, 0.0, 0.5, 1.0])];
            match world.decode_with(classes(), StoredTarget::Objects(objects), Vec::new()) {
                Decoded::Ready(sample) => (sample.targets.len(), [0, 1].map(|class| sample.fingerprint.of(class))),
                other => panic!("{other:?}"),
            }
        };
        let (num_exact, exact) = fingerprints("cat");
        assert_eq!((num_exact, exact[0]), (2, exact[1]), "nothing is added where all is written the same");
        let (num_other, other) = fingerprints("CAT");
        assert_eq!(num_other, 2);
        assert_ne!(other[0], other[1]);
        // What an earlier camflow wrote of the dog stays up to date.
        let mut plain = SampleFingerprint::from(other[1]);
        plain.add(0, Ingredient::Label, "read otherwise", b"CAT");
        assert_eq!(other[0], plain.of(0));
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
}
