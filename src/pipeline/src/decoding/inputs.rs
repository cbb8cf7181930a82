//! The files that a sample is decoded from, and whether they are still what its fingerprint stands for.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::{fingerprint::Ingredient, message::StoredMask};
use camflow_media::{FileContent, ImageLimits, InstanceMask, LabelMask, MediaError, Stamp};

/// Reads the files of a sample, and notices which are not what they were when it was checked.
pub(super) struct InputFiles<'a> {
    stamps: &'a BTreeMap<PathBuf, Stamp>,
    limits: &'a ImageLimits,
    moved: RefCell<BTreeSet<Ingredient>>,
}

impl<'a> InputFiles<'a> {
    pub(super) fn of(stamps: &'a BTreeMap<PathBuf, Stamp>, limits: &'a ImageLimits) -> Self {
        InputFiles { stamps, limits, moved: RefCell::default() }
    }

    /// All of a file, from one descriptor.
    pub(super) fn read(&self, ingredient: Ingredient, path: &Path) -> Result<Vec<u8>, MediaError> {
        let FileContent { bytes, stamp } = FileContent::read(path, self.limits.max_bytes)?;
        if stamp.is_none() || stamp.as_ref() != self.stamps.get(path) {
            self.moved.borrow_mut().insert(ingredient);
        }
        Ok(bytes)
    }

    pub(super) fn mask(&self, mask: &StoredMask) -> Result<LabelMask, MediaError> {
        match mask {
            StoredMask::Inline(bytes) => LabelMask::inflate(bytes, self.limits),
            StoredMask::File(path) => LabelMask::parse(path, &self.read(Ingredient::Label, path)?, self.limits),
        }
    }

    pub(super) fn instance_mask(&self, mask: &StoredMask) -> Result<InstanceMask, MediaError> {
        match mask {
            StoredMask::Inline(bytes) => InstanceMask::inflate(bytes, self.limits),
            StoredMask::File(path) => InstanceMask::parse(path, &self.read(Ingredient::Label, path)?, self.limits),
        }
    }

    /// What was read of another file than the fingerprint stands for, or of one that changed meanwhile.
    pub(super) fn moved(self) -> BTreeSet<Ingredient> {
        self.moved.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, fs::File};

    use super::*;
    use crate::{
        decoding::{Decoder, SeenMasks, Targets, check, decode},
        fields::HeatmapFields,
        fingerprint::{Change, Fingerprint},
        grid::{ClassIndex, ColumnIndex},
        label_names::LabelNames,
        message::{
            Decoded, SampleRef, SelectedSample, StaleSample, Step, StoredHeatmap, StoredObject, StoredShape, StoredTarget,
            TargetClass,
        },
    };
    use camflow_media::{ExifPolicy, InputPixels, MaskValue, Preprocess, RgbImage, encode_gray, encode_rgb};

    /// A sample with an image file and mask files, and the job on it.
    struct World {
        folder: tempfile::TempDir,
        decoder: Decoder,
    }

    impl World {
        fn new() -> World {
            let class = |name: &str, index| TargetClass {
                name: name.into(),
                index,
                mask_value: Some(MaskValue::Index(index)),
                reference: None,
            };
            let world = World {
                folder: tempfile::tempdir().unwrap(),
                decoder: Decoder {
                    preprocess: Preprocess { steps: Vec::new() },
                    targets: Targets::Classes(vec![class("cat", 1)]),
                    labels: LabelNames::default(),
                    fields: HeatmapFields::new(vec![vec!["cam".into()]], vec!["cat".into()], vec!["layer".into()]),
                    limits: ImageLimits::default(),
                    exif: ExifPolicy::Ignore,
                    fingerprint: Fingerprint::of_job("model", "settings"),
                    overwrite: false,
                    is_detector: false,
                    has_truth: false,
                    per_detection: false,
                    slicing: None,
                    attention: None,
                    predictions: None,
                    masks: SeenMasks::default(),
                },
            };
            world.draw("a.png", 7);
            for name in ["mask.png", "other.png"] {
                fs::write(world.at(name), encode_gray(4, 4, &[1; 16]).unwrap()).unwrap();
            }
            world
        }

        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// A picture of one level; of whatever level, the file has the same size.
        fn draw(&self, name: &str, level: u8) {
            fs::write(self.at(name), encode_rgb(&RgbImage::new(4, 4, vec![level; 48])).unwrap()).unwrap();
        }

        fn check(&self, target: StoredTarget, existing: Vec<StoredHeatmap>) -> Step<StaleSample> {
            let sample = SampleRef { seq: 0, id: "0".into(), media_path: self.at("a.png") };
            check(&self.decoder, SelectedSample { sample, target, attention: None, existing })
        }

        /// What becomes of a sample whose files are changed between its check and its decoding; also the level of its pixels,
        /// and what the next run says of it.
        fn moved(&self, target: StoredTarget, change: impl FnOnce()) -> (bool, u8, BTreeSet<Change>) {
            let Step::Next(stale) = self.check(target.clone(), Vec::new()) else { panic!("a stale sample") };
            // Files that change within one tick of the clock are the same file, and are read as what they are then.
            std::thread::sleep(std::time::Duration::from_millis(25));
            change();
            let Step::Next(Decoded::Ready(decoded)) = decode(&self.decoder, stale) else { panic!("a decoded sample") };
            let of_sample = &decoded.envelope.fingerprint;
            let fingerprint = Some(self.decoder.fields.fingerprint(of_sample, ClassIndex(0), ColumnIndex(0)).to_string());
            let existing = vec![StoredHeatmap { field: "cam".into(), fingerprint, ..StoredHeatmap::default() }];
            let changes = match self.check(target, existing) {
                Step::Next(stale) => stale.changes,
                Step::Skip(_) => BTreeSet::new(),
                Step::Fail(failure) => panic!("{failure:?}"),
            };
            let InputPixels::Levels(levels) = &decoded.pixels else { panic!("an image of 8 bits") };
            (decoded.is_moved, levels[0], changes)
        }
    }

    fn set_modified(path: &Path, time: std::time::SystemTime) {
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    const IMAGE: Change = Change::Changed(Ingredient::Image);
    const LABEL: Change = Change::Changed(Ingredient::Label);

    #[test]
    fn an_image_that_nobody_touches_is_up_to_date() {
        let world = World::new();
        assert_eq!(world.moved(StoredTarget::Unlabelled, || ()), (false, 7, BTreeSet::new()));
    }

    #[test]
    fn an_image_that_moved_is_computed_from_what_was_read_and_looked_at_again() {
        for restore_time in [false, true] {
            let world = World::new();
            let path = world.at("a.png");
            let before = fs::metadata(&path).unwrap();
            let rewrite = || {
                world.draw("a.png", 9);
                assert_eq!(fs::metadata(&path).unwrap().len(), before.len(), "the size tells nothing");
                if restore_time {
                    set_modified(&path, before.modified().unwrap());
                }
            };
            assert_eq!(world.moved(StoredTarget::Unlabelled, rewrite), (true, 9, BTreeSet::from([IMAGE])));
        }
        let world = World::new();
        let replace = || {
            world.draw("b.png", 9);
            set_modified(&world.at("b.png"), fs::metadata(world.at("a.png")).unwrap().modified().unwrap());
            fs::rename(world.at("b.png"), world.at("a.png")).unwrap();
        };
        assert_eq!(world.moved(StoredTarget::Unlabelled, replace), (true, 9, BTreeSet::from([IMAGE])));
    }

    #[test]
    fn masks_that_moved_are_looked_at_again_if_they_were_read() {
        let masked = |label: &str, name: &Path| StoredObject {
            id: None,
            label: Some(label.into()),
            confidence: None,
            evaluated: None,
            shape: StoredShape::Box { bounds: [0.0, 0.0, 1.0, 1.0], mask: Some(StoredMask::File(name.to_owned())) },
        };
        let world = World::new();
        let targets = [
            StoredTarget::Mask(StoredMask::File(world.at("mask.png"))),
            StoredTarget::Objects(vec![masked("cat", &world.at("mask.png")), masked("dog", &world.at("other.png"))]),
        ];
        for target in targets {
            let rewrite = |name: &str, level: u8| {
                let path = world.at(name);
                let before = fs::metadata(&path).unwrap().modified().unwrap();
                fs::write(&path, encode_gray(4, 4, &[level, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]).unwrap()).unwrap();
                set_modified(&path, before);
            };
            assert_eq!(world.moved(target.clone(), || ()), (false, 7, BTreeSet::new()));
            assert_eq!(world.moved(target.clone(), || rewrite("mask.png", 3)), (true, 7, BTreeSet::from([LABEL])));
            // Nobody reads the dog's.
            assert_eq!(world.moved(target.clone(), || rewrite("other.png", 4)), (false, 7, BTreeSet::new()));
        }
    }

    #[test]
    fn a_failure_says_that_somebody_wrote_meanwhile() {
        let world = World::new();
        let Step::Next(stale) = world.check(StoredTarget::Unlabelled, Vec::new()) else { panic!("a stale sample") };
        fs::write(world.at("a.png"), &fs::read(world.at("a.png")).unwrap()[..30]).unwrap();
        let Step::Fail(failure) = decode(&world.decoder, stale) else { panic!("half a picture") };
        assert!(failure.error.contains("a.png") && failure.error.contains("changed it while it was read"), "{failure:?}");
        assert!(!failure.error.contains('\n'));
    }
}
