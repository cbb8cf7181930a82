//! The pipeline with a source, an explainer and a sink in memory: no torch, no database, no terminal.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fs,
    path::{Path, PathBuf},
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use camflow_diagnostic::{Diagnose, Diagnostic};
use camflow_media::{
    Checksum, ExifPolicy, FrameRegion, ImageLimits, InputPixels, MaskValue, Preprocess, RecordedChecksum, RgbImage, encode_rgb,
};
use camflow_pipeline::{
    BatchLimit, Cancellation, Change, Channel, ClassHeatmaps, ClassIndex, ClassPart, ClassTarget, ColumnIndex, CommitOutcome,
    DecodedSample, Decoder, Encoder, Envelope, Event, ExplainedSample, Explainer, FailureCause, Fingerprint, Heatmap,
    HeatmapBatch, HeatmapFields, Ingredient, InputBatch, KnownFailures, LabelNames, MaxFailures, NpyFormat, Parts, RunError,
    RunOptions, SampleFailure, SampleRef, SampleUpdate, SeenMasks, SelectedSample, Sink, SkipReason, Source, SpaceCheck, Stage,
    Store, StoredHeatmap, StoredMap, StoredMask, StoredTarget, Summary, Survey, TargetClass, TargetPixels, Targets, run, survey,
};
use camflow_storage::{FileName, Journal, OutputFolder};

/// A zlib stream of a `.npy` u8 mask, as FiftyOne stores it.
fn mask(height: usize, width: usize, value: u8) -> StoredMask {
    use std::io::Write;
    let mut header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({height}, {width}), }}");
    let padding = 64 - (10 + header.len() + 1) % 64;
    header.push_str(&" ".repeat(padding % 64));
    header.push('\n');
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend(u16::try_from(header.len()).expect("a short header").to_le_bytes());
    npy.extend(header.bytes());
    npy.extend(vec![value; height * width]);
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&npy).expect("in memory");
    StoredMask::Inline(encoder.finish().expect("in memory"))
}

/// A dataset of samples in memory.
#[derive(Default)]
struct Memory {
    samples: Vec<(String, PathBuf, StoredTarget)>,
    stored: Mutex<BTreeMap<String, Vec<StoredHeatmap>>>,
    commits: AtomicU64,
    /// Samples that are gone when they are committed.
    gone: BTreeSet<String>,
    /// Updates that are refused.
    refused: BTreeSet<String>,
    fail_after: Option<u64>,
}

struct MemorySource<'a> {
    memory: &'a Memory,
    position: usize,
    cancel_at: Option<(usize, Cancellation)>,
}

impl Source for MemorySource<'_> {
    fn num_samples(&self) -> Option<u64> {
        Some(self.memory.samples.len() as u64)
    }

    fn next_samples(&mut self) -> Result<Vec<SelectedSample>, RunError> {
        let stored = self.memory.stored.lock().expect("not poisoned");
        let page: Vec<_> = self
            .memory
            .samples
            .iter()
            .enumerate()
            .skip(self.position)
            .take(3)
            .map(|(seq, (id, path, target))| SelectedSample {
                sample: SampleRef { seq: seq as u64, id: id.clone(), media_path: path.clone() },
                target: target.clone(),
                attention: None,
                existing: stored.get(id).cloned().unwrap_or_default(),
            })
            .collect();
        self.position += page.len();
        if let Some((at, cancellation)) = &self.cancel_at
            && self.position > *at
        {
            cancellation.cancel();
        }
        Ok(page)
    }
}

struct MemorySink<'a>(&'a Memory);

impl Sink for MemorySink<'_> {
    fn commit(&mut self, updates: &[SampleUpdate]) -> Result<Vec<CommitOutcome>, RunError> {
        let mut stored = self.0.stored.lock().expect("not poisoned");
        let mut outcomes = Vec::new();
        for update in updates {
            if self.0.fail_after.is_some_and(|limit| self.0.commits.load(Ordering::Relaxed) >= limit) {
                return Err(RunError::Database(Diagnostic::aborted("the database went away")));
            }
            self.0.commits.fetch_add(1, Ordering::Relaxed);
            let id = &update.sample.id;
            if self.0.gone.contains(id) {
                outcomes.push(CommitOutcome::SampleGone);
                continue;
            }
            if self.0.refused.contains(id) {
                outcomes.push(CommitOutcome::Refused("too large".into()));
                continue;
            }
            // The promise that everything rests on.
            assert!(update.files().all(Path::exists), "files are complete before the database mentions them");
            let recorded = |checksum: Option<Checksum>| checksum.map(|_| RecordedChecksum { checksum, is_damaged: false });
            let heatmaps = update.heatmaps.iter().map(|heatmap| StoredHeatmap {
                field: heatmap.field.clone(),
                fingerprint: Some(heatmap.fingerprint.clone()),
                map_path: match &heatmap.map {
                    StoredMap::File(path) => Some(path.clone()),
                    StoredMap::Inline(_) => None,
                },
                npy_path: heatmap.npy_path.clone(),
                map_checksum: recorded(heatmap.map_checksum),
                npy_checksum: recorded(heatmap.npy_checksum),
                detections: Vec::new(),
            });
            let stored = stored.entry(id.clone()).or_default();
            let changed = |old: &StoredHeatmap| {
                update.withdrawn.contains(&old.field) || update.heatmaps.iter().any(|new| new.field == old.field)
            };
            stored.retain(|old| !changed(old));
            stored.extend(heatmaps);
            outcomes.push(CommitOutcome::Committed);
        }
        Ok(outcomes)
    }
}

/// Gives each sample maps that hold its first pixel, so that mixed-up samples would show. A batch is done when the next one comes,
/// as on a device that is not waited for.
#[derive(Default)]
struct FirstPixel {
    batches: Vec<usize>,
    launched: HeatmapBatch,
}

impl Explainer for FirstPixel {
    fn explain(&mut self, batch: InputBatch) -> Result<HeatmapBatch, RunError> {
        self.batches.push(batch.samples.len());
        let mut result = HeatmapBatch::default();
        for sample in batch.samples {
            let InputPixels::Levels(levels) = &sample.pixels else { panic!("an image of 8 bits") };
            let pixel = f32::from(levels[0]) / 255.0;
            let map =
                |layer: f32| Heatmap { height: 1, width: 2, values: vec![pixel, layer], levels: vec![0, 255], layer_map: None };
            let classes = sample.targets.iter().map(|target| ClassHeatmaps {
                class: target.class,
                detection: target.detection.clone(),
                channel: 15,
                contrast: None,
                score: f64::from(pixel),
                confidence: None,
                object: None,
                detections: None,
                heatmaps: vec![map(0.25), map(0.75)],
                examined: Vec::new(),
            });
            let classes = classes.collect();
            result.explained.push(ExplainedSample {
                part: ClassPart::WHOLE,
                envelope: sample.envelope,
                seen: None,
                attention: None,
                classes,
                prediction: None,
                detected: None,
                pixels: None,
                num_unmatched: 0,
            });
        }
        Ok(std::mem::replace(&mut self.launched, result))
    }

    fn finish(&mut self) -> Result<HeatmapBatch, RunError> {
        Ok(std::mem::take(&mut self.launched))
    }
}

/// Holds its first batch until every other device has one too.
struct Together<'a> {
    maps: FirstPixel,
    devices: &'a Meeting,
}

/// Where devices meet; they give up after a minute, so that a device that never gets a batch fails the test and does not hang it.
struct Meeting {
    missing: Mutex<usize>,
    arrived: Condvar,
}

impl Explainer for Together<'_> {
    fn explain(&mut self, batch: InputBatch) -> Result<HeatmapBatch, RunError> {
        if self.maps.batches.is_empty() {
            let mut missing = self.devices.missing.lock().expect("not poisoned");
            *missing -= 1;
            self.devices.arrived.notify_all();
            let patience = Duration::from_secs(60);
            drop(self.devices.arrived.wait_timeout_while(missing, patience, |missing| *missing > 0).expect("not poisoned"));
        }
        self.maps.explain(batch)
    }

    fn finish(&mut self) -> Result<HeatmapBatch, RunError> {
        self.maps.finish()
    }
}

/// Learns with its first batch how large the next ones may be.
#[derive(Default)]
struct Learning(FirstPixel);

impl Explainer for Learning {
    fn explain(&mut self, batch: InputBatch) -> Result<HeatmapBatch, RunError> {
        self.0.explain(batch)
    }

    fn finish(&mut self) -> Result<HeatmapBatch, RunError> {
        self.0.finish()
    }

    fn batch_limit(&self) -> BatchLimit {
        BatchLimit::samples(if self.0.batches.is_empty() { 1 } else { 4 })
    }
}

/// Gives each sample in three parts, of which one has its class, another one for each sample.
#[derive(Default)]
struct InParts {
    maps: FirstPixel,
    waiting: VecDeque<HeatmapBatch>,
    /// The sample whose last part fails.
    fails: Option<u64>,
}

impl Explainer for InParts {
    fn explain(&mut self, batch: InputBatch) -> Result<HeatmapBatch, RunError> {
        assert!(self.waiting.is_empty(), "the last batch is not done with");
        let count = 3;
        for whole in self.maps.explain_now(batch)?.explained {
            let sample = &whole.envelope.sample;
            for number in 0..count {
                let mut part = HeatmapBatch::default();
                if number == count - 1 && self.fails == Some(sample.seq) {
                    part.failed.push(SampleFailure { sample: sample.clone(), stage: Stage::Device, error: "torn".into() });
                } else {
                    let classes = if number == sample.seq as usize % count { whole.classes.clone() } else { Vec::new() };
                    part.explained.push(ExplainedSample { part: ClassPart { number, count }, classes, ..whole.clone() });
                }
                self.waiting.push_back(part);
            }
        }
        Ok(HeatmapBatch::default())
    }

    fn next_part(&mut self) -> Result<Option<HeatmapBatch>, RunError> {
        Ok(self.waiting.pop_front())
    }
}

struct World {
    folder: tempfile::TempDir,
    memory: Memory,
    batch_limit: Option<BatchLimit>,
    /// Of runs that came to their end.
    known: Mutex<HashMap<String, FailureCause>>,
}

impl World {
    /// `count` images of two shapes; each third label lacks the class, each fifth is missing.
    fn new(count: usize) -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let mut memory = Memory::default();
        for number in 0..count {
            let (height, width) = if number % 2 == 0 { (4, 6) } else { (5, 3) };
            let path = folder.path().join(format!("{number}.png"));
            let pixels = vec![u8::try_from(number).expect("few samples"); height * width * 3];
            std::fs::write(&path, encode_rgb(&RgbImage::new(height, width, pixels)).expect("a picture")).expect("written");
            let target = match number {
                n if n % 5 == 4 => StoredTarget::Missing,
                n if n % 3 == 2 => StoredTarget::Mask(mask(height, width, 0)),
                _ => StoredTarget::Mask(mask(height, width, 15)),
            };
            memory.samples.push((format!("{number:024x}"), path, target));
        }
        World { folder, memory, batch_limit: Some(BatchLimit::samples(2)), known: Mutex::default() }
    }

    fn decoder(&self) -> Decoder {
        let person = TargetClass { name: "person".into(), index: 15, mask_value: Some(MaskValue::Index(15)), reference: None };
        Decoder {
            preprocess: Preprocess { steps: Vec::new() },
            targets: Targets::Classes(vec![person]),
            labels: LabelNames::default(),
            fields: fields(),
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
        }
    }

    fn encoder(&self) -> Encoder {
        let (folder, class_names) = (self.folder.path().join("maps"), BTreeMap::from([(15, "person".into())]));
        Encoder {
            folder,
            fields: fields(),
            preceding: vec![None, Some(ColumnIndex(0))],
            store: Store::Path,
            npy: NpyFormat::F32,
            absence: SkipReason::NotPredicted,
            predictions: None,
            class_names,
        }
    }

    fn run(&self, explainer: &mut FirstPixel) -> (Summary, Option<RunError>) {
        self.run_with(explainer, &self.decoder(), &self.encoder(), None, None)
    }

    fn run_with(
        &self,
        explainer: &mut FirstPixel,
        decoder: &Decoder,
        encoder: &Encoder,
        cancel_at: Option<usize>,
        max_failures: Option<MaxFailures>,
    ) -> (Summary, Option<RunError>) {
        self.run_on(vec![explainer], decoder, encoder, cancel_at, max_failures)
    }

    fn run_on(
        &self,
        explainers: Vec<&mut dyn Explainer>,
        decoder: &Decoder,
        encoder: &Encoder,
        cancel_at: Option<usize>,
        max_failures: Option<MaxFailures>,
    ) -> (Summary, Option<RunError>) {
        let cancellation = Cancellation::default();
        let mut source =
            MemorySource { memory: &self.memory, position: 0, cancel_at: cancel_at.map(|at| (at, cancellation.clone())) };
        let events = Mutex::new(0u64);
        let tell = |event: Event| {
            if matches!(event, Event::SampleCommitted { .. } | Event::SampleSkipped(_) | Event::SampleFailed { .. }) {
                *events.lock().expect("not poisoned") += 1;
            }
        };
        let options = RunOptions {
            batch_limit: self.batch_limit,
            num_workers: 2,
            max_failures,
            space_check: SpaceCheck::Refuse,
            most_bytes: None,
        };
        let mut sink = MemorySink(&self.memory);
        let explainers = explainers.into_iter().map(|explainer| explainer as _).collect();
        let mut orphans = Journal::new(&encoder.folder);
        let mut known = KnownFailures::new(self.known.lock().expect("not poisoned").clone());
        let parts = Parts {
            source: &mut source,
            decoder,
            explainers,
            encoder,
            sink: &mut sink,
            orphans: Some(&mut orphans),
            known: &mut known,
        };
        let (summary, fault) = run(parts, options, &cancellation, &tell);
        if fault.is_none() {
            let mut kept = self.known.lock().expect("not poisoned");
            kept.retain(|sample, _| known.healed().all(|healed| healed != sample));
            kept.extend(known.noted().map(|(sample, cause)| (sample.to_owned(), cause)));
        }
        let ended = summary.num_committed + summary.num_skipped() + summary.num_failed;
        assert_eq!(summary.num_read, ended + summary.num_abandoned, "every sample ends exactly once");
        assert_eq!(*events.lock().expect("not poisoned"), ended, "and is told exactly once");
        if fault.is_none() {
            assert_eq!(summary.num_abandoned, 0);
        }
        (summary, fault)
    }

    /// What is noted as left over.
    fn orphans(&self) -> Vec<FileName> {
        let folder = OutputFolder::create(&self.folder.path().join("maps")).expect("a folder");
        folder.orphans().expect("they can be read").into_keys().collect()
    }

    /// All files are referred to, or noted as left over.
    fn check_leftovers(&self) {
        let referenced = self.referenced();
        let left: Vec<FileName> =
            self.files().iter().filter(|path| !referenced.contains(*path)).filter_map(|path| FileName::of_path(path)).collect();
        assert!(!left.is_empty());
        assert_eq!(self.orphans(), left);
    }

    fn survey(&self) -> Survey {
        self.survey_with(&self.decoder())
    }

    fn survey_with(&self, decoder: &Decoder) -> Survey {
        let mut source = MemorySource { memory: &self.memory, position: 0, cancel_at: None };
        let before = self.files();
        let survey = survey(&mut source, decoder, &KnownFailures::default(), 2, &Cancellation::default(), &|_| {})
            .expect("the source lasts");
        assert_eq!(self.files(), before, "a survey changes nothing");
        assert_eq!(survey.num_read, survey.num_stale() + survey.skipped.values().sum::<u64>() + survey.num_failed);
        survey
    }

    fn files(&self) -> BTreeSet<PathBuf> {
        fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() { walk(&entry.path(), found) } else { found.extend([entry.path()]) }
            }
        }
        let mut found = BTreeSet::new();
        walk(&self.folder.path().join("maps"), &mut found);
        found.retain(|path| FileName::of_path(path).is_some());
        found
    }

    fn referenced(&self) -> BTreeSet<PathBuf> {
        let stored = self.memory.stored.lock().expect("not poisoned");
        stored.values().flatten().flat_map(|heatmap| [heatmap.map_path.clone(), heatmap.npy_path.clone()]).flatten().collect()
    }
}

fn fields() -> HeatmapFields {
    let names = vec![vec!["person_1".to_owned(), "person_2".to_owned()]];
    HeatmapFields::new(names, vec!["person".into()], vec!["layer1".into(), "layer2".into()])
}

#[test]
fn every_sample_ends_once_and_gets_its_own_maps() {
    let world = World::new(30);
    let mut explainer = FirstPixel::default();
    let (summary, fault) = world.run(&mut explainer);
    assert!(fault.is_none(), "{fault:?}");
    assert_eq!((summary.num_read, summary.num_failed), (30, 0));
    assert_eq!(summary.skipped[&SkipReason::NoLabel], 6);
    assert_eq!(summary.skipped[&SkipReason::ClassAbsent], 8);
    assert_eq!((summary.num_committed, summary.num_heatmaps), (16, 32));
    assert!(explainer.batches.contains(&2), "shapes are grouped: {:?}", explainer.batches);
    assert_eq!(world.files(), world.referenced());
    // Each file holds its own sample's first pixel and its own layer's number.
    let stored = world.memory.stored.lock().expect("not poisoned");
    for (id, heatmaps) in stored.iter() {
        let number = usize::from_str_radix(id, 16).expect("a number");
        for (layer, heatmap) in heatmaps.iter().enumerate() {
            let path = heatmap.npy_path.as_ref().expect("an array");
            let array = camflow_media::read_array_file(path, 1 << 20).expect("an array");
            assert_eq!(array.values.to_f32(), [number as f32 / 255.0, [0.25, 0.75][layer]]);
        }
    }
}

#[test]
fn a_sample_in_parts_is_one_update() {
    let whole = World::new(9);
    let (wanted, fault) = whole.run(&mut FirstPixel::default());
    assert!(fault.is_none() && wanted.num_committed > 3);
    for fails in [None, Some(1)] {
        let world = World::new(9);
        let mut explainer = InParts { fails, ..InParts::default() };
        let (summary, fault) = world.run_on(vec![&mut explainer], &world.decoder(), &world.encoder(), None, None);
        assert!(fault.is_none(), "{fault:?}");
        let num_failed = u64::from(fails.is_some());
        assert_eq!(summary.num_failed, wanted.num_failed + num_failed);
        assert_eq!(summary.num_committed, wanted.num_committed - num_failed);
        assert_eq!(summary.num_heatmaps, wanted.num_heatmaps - 2 * num_failed);
        let stored = |world: &World| {
            let mut stored = world.memory.stored.lock().expect("not poisoned").clone();
            stored.remove(&world.memory.samples[1].0);
            let of_sample = |(id, heatmaps): (String, Vec<StoredHeatmap>)| {
                assert!(heatmaps.iter().flat_map(StoredHeatmap::files).all(Path::exists));
                (id, heatmaps.into_iter().map(|heatmap| heatmap.field).collect::<Vec<_>>())
            };
            stored.into_iter().map(of_sample).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(stored(&world), stored(&whole), "the same fields");
    }
    // Whoever wants samples as a whole has them.
    let sample = |seq: u64| DecodedSample {
        envelope: Envelope::without_fields(
            SampleRef { seq, id: seq.to_string(), media_path: "a.png".into() },
            Fingerprint::of_job("model", "settings"),
        ),
        pixels: InputPixels::Levels(vec![7; 3]),
        height: 1,
        width: 1,
        region: FrameRegion::whole(1, 1),
        targets: vec![ClassTarget {
            class: ClassIndex(0),
            channel: Channel::Index(15),
            pixels: TargetPixels::Predicted,
            detection: None,
        }],
        attention: None,
        slices: None,
        is_clipped: false,
        is_moved: false,
    };
    let batch = InputBatch { samples: (0..3).map(sample).collect(), height: 1, width: 1 };
    let made = InParts { fails: Some(1), ..InParts::default() }.explain_now(batch).expect("made");
    let found: Vec<_> = made.explained.iter().map(|one| (one.envelope.sample.seq, one.part, one.classes.len())).collect();
    assert_eq!(found, [(0, ClassPart::WHOLE, 1), (2, ClassPart::WHOLE, 1)]);
    assert_eq!(made.failed.iter().map(|failure| failure.sample.seq).collect::<Vec<_>>(), [1]);
}

#[test]
fn devices_work_side_by_side_from_one_queue() {
    let world = World::new(30);
    let meeting = Meeting { missing: Mutex::new(2), arrived: Condvar::new() };
    let mut devices = [(); 2].map(|()| Together { maps: FirstPixel::default(), devices: &meeting });
    let explainers = devices.iter_mut().map(|device| device as &mut dyn Explainer).collect();
    let (summary, fault) = world.run_on(explainers, &world.decoder(), &world.encoder(), None, None);
    assert!(fault.is_none(), "{fault:?}");
    assert_eq!(*meeting.missing.lock().expect("not poisoned"), 0, "both had a batch at the same time");
    assert_eq!(summary.num_committed, 16);
    assert_eq!(summary.stages[&Stage::Device].num_threads, 2);
    assert_eq!(devices.iter().flat_map(|device| &device.maps.batches).sum::<usize>(), 16);
    assert_eq!(world.files(), world.referenced());
}

#[test]
fn each_device_gets_batches_of_its_own_size() {
    struct UpTo(usize, FirstPixel);
    impl Explainer for UpTo {
        fn explain(&mut self, batch: InputBatch) -> Result<HeatmapBatch, RunError> {
            self.1.explain(batch)
        }

        fn finish(&mut self) -> Result<HeatmapBatch, RunError> {
            self.1.finish()
        }

        fn batch_limit(&self) -> BatchLimit {
            BatchLimit::samples(self.0)
        }
    }
    let world = World { batch_limit: None, ..World::new(60) };
    let mut devices = [1, 4].map(|most| UpTo(most, FirstPixel::default()));
    let explainers = devices.iter_mut().map(|device| device as &mut dyn Explainer).collect();
    let (summary, fault) = world.run_on(explainers, &world.decoder(), &world.encoder(), None, None);
    assert!(fault.is_none(), "{fault:?}");
    assert_eq!(devices.iter().flat_map(|device| &device.1.batches).sum::<usize>() as u64, summary.num_committed);
    for UpTo(most, maps) in &devices {
        assert!(maps.batches.iter().all(|size| size <= most), "{most}: {:?}", maps.batches);
    }
    assert_eq!(world.files(), world.referenced());
}

#[test]
fn what_was_learnt_of_batches_holds_for_the_next_run() {
    let world = World { batch_limit: None, ..World::new(30) };
    let decoder = Decoder { overwrite: true, ..world.decoder() };
    let mut explainer = Learning::default();
    let run = |explainer: &mut Learning| {
        let (summary, fault) = world.run_on(vec![explainer], &decoder, &world.encoder(), None, None);
        assert!(fault.is_none() && summary.num_committed == 16, "{fault:?}");
    };
    run(&mut explainer);
    assert_eq!(explainer.0.batches[0], 1);
    let num_before = explainer.0.batches.len();
    run(&mut explainer);
    assert_eq!(explainer.0.batches[num_before..], [4, 4, 4, 4]);
}

#[test]
fn a_second_run_has_nothing_to_do_and_an_edit_is_noticed() {
    let mut world = World::new(12);
    let first = world.run(&mut FirstPixel::default()).0;
    let num_blocks: u64 = world.files().iter().map(|file| fs::metadata(file).expect("a file").len().div_ceil(4096)).sum();
    assert!(num_blocks > 0);
    assert_eq!(first.num_bytes, 4096 * num_blocks);
    let anew = Decoder { overwrite: true, ..world.decoder() };
    let anew = world.run_with(&mut FirstPixel::default(), &anew, &world.encoder(), None, None).0;
    assert_eq!((anew.num_committed, anew.num_bytes), (first.num_committed, 0), "the same files in their own places");
    let (second, _) = world.run(&mut FirstPixel::default());
    assert_eq!((second.num_committed, second.skipped[&SkipReason::UpToDate]), (0, first.num_committed));

    // The label of sample 0 is edited: that one is computed again, its old files are noted.
    let before = world.files();
    world.memory.samples[0].2 = StoredTarget::Mask(mask(4, 5, 15));
    let (third, _) = world.run(&mut FirstPixel::default());
    assert_eq!(third.num_committed, 1);
    assert!(before.is_subset(&world.files()), "nobody's young files are taken");
    world.check_leftovers();

    // Someone deletes a picture: it is made again.
    let lost = world.referenced().into_iter().next().expect("a file");
    std::fs::remove_file(&lost).expect("removed");
    assert_eq!(world.run(&mut FirstPixel::default()).0.num_committed, 1);
    assert!(lost.exists());
}

#[test]
fn a_file_that_is_not_what_was_written_is_made_again() {
    let world = World::new(12);
    world.run(&mut FirstPixel::default());
    let contents = || world.referenced().into_iter().map(|path| (path.clone(), std::fs::read(path).ok())).collect::<Vec<_>>();
    let whole = contents();
    let of_sample = |index: usize| {
        let stored = world.memory.stored.lock().expect("not poisoned");
        let heatmap = stored[&world.memory.samples[index].0][0].clone();
        [heatmap.map_path, heatmap.npy_path].map(|path| path.expect("a file"))
    };
    let cut = |path: &Path, size: u64| {
        std::fs::File::options().write(true).open(path).expect("a file").set_len(size).expect("cut");
    };
    cut(&of_sample(0)[0], 0);
    cut(&of_sample(1)[1], 100);
    // Of an earlier camflow, which noted no checksums: only that it is empty shows.
    let forget = |index: usize, checksum: Option<RecordedChecksum>| {
        let mut stored = world.memory.stored.lock().expect("not poisoned");
        let heatmaps = stored.get_mut(&world.memory.samples[index].0).expect("annotated");
        heatmaps.iter_mut().for_each(|heatmap| (heatmap.map_checksum, heatmap.npy_checksum) = (checksum, checksum));
    };
    forget(3, None);
    cut(&of_sample(3)[0], 0);
    forget(6, None);
    cut(&of_sample(6)[0], 60);
    // Somebody read it and found it damaged.
    forget(7, Some(RecordedChecksum { checksum: None, is_damaged: true }));
    let damaged = BTreeSet::from([Change::FileDamaged]);
    assert_eq!(world.survey().stale, BTreeMap::from([(damaged, 4)]));
    assert_eq!(world.run(&mut FirstPixel::default()).0.num_committed, 4);
    assert_eq!(world.survey().num_stale(), 0);
    let different = contents().iter().zip(&whole).filter(|(now, before)| now != before).count();
    assert_eq!(different, 1, "all are as they were, but the one that nobody can know of");
}

#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_seen_is_no_file_that_is_gone() {
    let world = World::new(3);
    world.run(&mut FirstPixel::default());
    let stored = world.memory.stored.lock().expect("not poisoned")[&world.memory.samples[0].0][0].clone();
    let folder = stored.map_path.as_deref().and_then(Path::parent).expect("a folder").to_owned();
    std::fs::rename(&folder, world.folder.path().join("away")).expect("renamed");
    // As a disk that fails: the path leads in a circle.
    std::os::unix::fs::symlink(&folder, &folder).expect("a link");
    let (summary, fault) = world.run(&mut FirstPixel::default());
    assert!(fault.is_none() && summary.num_committed == 0 && summary.num_failed == 1, "{summary:?}");
    assert!(summary.failures[0].error.contains("cannot see the heatmap"), "{:?}", summary.failures);
    // Nobody needs to see what is made again in any case.
    std::fs::remove_file(&folder).expect("removed");
    std::fs::rename(world.folder.path().join("away"), &folder).expect("renamed");
    assert_eq!(world.survey().num_stale(), 0);
}

#[cfg(unix)]
#[test]
fn a_sample_that_somebody_writes_meanwhile_is_counted_and_looked_at_again() {
    let world = World::new(3);
    let path = &world.memory.samples[0].1;
    let content = std::fs::read(path).expect("a picture");
    let ([has_begun, is_done], mut rounds) = ([(); 2].map(|()| AtomicBool::new(false)), 0);
    let summary = std::thread::scope(|scope| {
        scope.spawn(|| {
            // The same bytes, so that the picture stays one.
            let file = std::fs::File::options().write(true).open(path).expect("a picture");
            while !is_done.load(Ordering::Relaxed) {
                std::os::unix::fs::FileExt::write_all_at(&file, &content, 0).expect("written");
                has_begun.store(true, Ordering::Relaxed);
            }
        });
        while !has_begun.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        let decoder = Decoder { overwrite: true, ..world.decoder() };
        let summary = loop {
            let (summary, fault) = world.run_with(&mut FirstPixel::default(), &decoder, &world.encoder(), None, None);
            assert!(fault.is_none() && summary.num_committed == 2, "{fault:?}");
            rounds += 1;
            if summary.num_moved > 0 || rounds == 1000 {
                break summary;
            }
        };
        is_done.store(true, Ordering::Relaxed);
        summary
    });
    assert_eq!(summary.num_moved, 1);
    let image_changed = BTreeSet::from([Change::Changed(Ingredient::Image)]);
    assert_eq!(world.survey().stale, BTreeMap::from([(image_changed, 1)]));
    let (next, _) = world.run(&mut FirstPixel::default());
    assert_eq!((next.num_committed, next.num_moved, world.survey().num_stale()), (1, 0, 0));
    world.check_leftovers();
}

#[test]
fn heatmaps_of_what_is_not_there_any_more_are_taken_away() {
    let mut world = World::new(12);
    let first = world.run(&mut FirstPixel::default()).0;
    // In sample 0 the class is edited away, sample 1 loses its label; sample 3 belongs to another program.
    world.memory.samples[0].2 = StoredTarget::Mask(mask(4, 6, 0));
    world.memory.samples[1].2 = StoredTarget::Missing;
    world.memory.samples[3].2 = StoredTarget::Missing;
    let foreign = world.memory.samples[3].0.clone();
    for heatmap in world.memory.stored.lock().expect("not poisoned").get_mut(&foreign).expect("annotated") {
        heatmap.fingerprint = None;
    }
    let survey = world.survey();
    let label_changed = BTreeSet::from([Change::Changed(Ingredient::Label)]);
    assert_eq!((survey.stale, survey.num_withdrawn), (BTreeMap::from([(label_changed, 2)]), 2));
    assert_eq!(survey.skipped[&SkipReason::UpToDate], first.num_committed - 3);

    let (summary, fault) = world.run(&mut FirstPixel::default());
    assert!(fault.is_none());
    assert_eq!((summary.num_committed, summary.num_heatmaps, summary.num_withdrawn), (2, 0, 4));
    world.check_leftovers();
    assert!(world.memory.stored.lock().expect("not poisoned").contains_key(&foreign));
    assert!(world.survey().stale.is_empty(), "the second time there is nothing to do");
}

#[test]
fn a_survey_says_what_a_run_will_do() {
    let mut world = World::new(30);
    let survey = world.survey();
    let (summary, _) = world.run(&mut FirstPixel::default());
    assert_eq!(survey.stale, BTreeMap::from([(BTreeSet::from([Change::New]), summary.num_committed)]));
    assert_eq!((survey.num_read, survey.num_targets), (summary.num_read, summary.num_committed));
    assert_eq!(survey.skipped, summary.skipped);

    std::fs::remove_file(world.referenced().into_iter().next().expect("a file")).expect("removed");
    world.memory.samples[6].2 = StoredTarget::Mask(mask(4, 5, 15));
    let stale = world.survey().stale;
    let expected = [Change::FileMissing, Change::Changed(Ingredient::Label)].map(|change| (BTreeSet::from([change]), 1));
    assert_eq!(stale, BTreeMap::from(expected));
    let other_job = Decoder { fingerprint: Fingerprint::of_job("another", "settings"), ..world.decoder() };
    let changes: BTreeSet<Change> = world.survey_with(&other_job).stale.into_keys().flatten().collect();
    assert!(changes.contains(&Change::Changed(Ingredient::Model)) && !changes.contains(&Change::Changed(Ingredient::Settings)));
    assert_eq!(world.survey_with(&Decoder { overwrite: true, ..world.decoder() }).num_stale(), summary.num_committed);
}

#[test]
fn a_bad_sample_costs_only_itself() {
    let world = World::new(6);
    std::fs::write(&world.memory.samples[0].1, b"not a picture").expect("written");
    std::fs::remove_file(&world.memory.samples[1].1).expect("removed");
    let (summary, fault) = world.run(&mut FirstPixel::default());
    assert!(fault.is_none());
    assert_eq!((summary.num_failed, summary.num_committed), (2, 1));
    for failure in &summary.failures {
        assert_eq!(failure.stage, Stage::Decode);
        assert!(failure.error.contains(&*failure.sample.media_path.to_string_lossy()), "{}", failure.error);
    }
}

#[test]
fn a_share_of_failures_is_one_of_all_samples() {
    let world = World::new(6);
    std::fs::write(&world.memory.samples[0].1, b"not a picture").expect("written");
    std::fs::remove_file(&world.memory.samples[1].1).expect("removed");
    let limited = |limit| world.run_with(&mut FirstPixel::default(), &world.decoder(), &world.encoder(), None, Some(limit)).1;
    let failed = |fault: Option<RunError>| match fault {
        Some(RunError::TooManyFailures { failed, num_samples, .. }) => Some((failed, num_samples)),
        Some(other) => panic!("{other}"),
        None => None,
    };
    // The one that can be annotated is up to date after the first run, and counts all the same.
    for _ in 0..2 {
        assert_eq!(failed(limited(MaxFailures::Count(1))), Some((2, 6)));
        assert_eq!(failed(limited(MaxFailures::Share(0.16))), Some((2, 6)));
    }
    assert!(world.known.lock().expect("not poisoned").is_empty(), "what broke the limit is no known failure");
    assert_eq!(failed(limited(MaxFailures::Share(0.2))), None);

    // Of many samples it is known before the end that they are too many.
    let world = World::new(120);
    let with_class = world.memory.samples.iter().enumerate().filter(|(number, _)| number % 3 != 2 && number % 5 != 4);
    with_class.take(30).for_each(|(_, sample)| std::fs::remove_file(&sample.1).expect("removed"));
    let limited = |limit| world.run_with(&mut FirstPixel::default(), &world.decoder(), &world.encoder(), None, Some(limit)).1;
    assert_eq!(failed(limited(MaxFailures::Share(0.1))), Some((13, 120)));
    assert_eq!(failed(limited(MaxFailures::Share(0.25))), None);
}

#[test]
fn what_fails_again_by_the_same_inputs_is_known() {
    let world = World::new(6);
    let broken = &world.memory.samples[0].1;
    let picture = std::fs::read(broken).expect("a picture");
    std::fs::write(broken, b"not a picture").expect("written");
    std::fs::remove_file(&world.memory.samples[1].1).expect("removed");
    let strict = || {
        let none = Some(MaxFailures::Share(0.0));
        let (summary, fault) = world.run_with(&mut FirstPixel::default(), &world.decoder(), &world.encoder(), None, none);
        (summary.num_failed, summary.num_known_failed, fault.is_none(), summary)
    };
    let (num_failed, num_known, is_well, summary) = strict();
    assert_eq!((num_failed, num_known, is_well, summary.failures.len()), (2, 0, false, 2));
    world.run(&mut FirstPixel::default());
    let (num_failed, num_known, is_well, summary) = strict();
    assert_eq!((num_failed, num_known, is_well), (2, 2, true));
    assert!(summary.failures.is_empty() && summary.known_failures.len() == 2);
    // Another content that is no picture either is news.
    std::fs::write(broken, b"no picture, and longer").expect("written");
    let (num_failed, num_known, is_well, summary) = strict();
    assert_eq!((num_failed, num_known, is_well), (2, 1, false));
    assert_eq!((&summary.failures[0].sample.media_path, summary.known_failures.len()), (broken, 1));
    // It is tried each time, and forgotten once it is well.
    std::fs::write(broken, picture).expect("written");
    let (num_failed, num_known, is_well, summary) = strict();
    assert_eq!((num_failed, num_known, is_well, summary.num_committed), (1, 1, true, 1));
    assert_eq!(world.known.lock().expect("not poisoned").keys().collect::<Vec<_>>(), [&world.memory.samples[1].0]);
}

#[test]
fn a_lost_database_aborts_and_the_next_run_goes_on() {
    let mut world = World::new(30);
    world.memory.fail_after = Some(3);
    let (summary, fault) = world.run(&mut FirstPixel::default());
    assert!(matches!(fault, Some(RunError::Database(_))), "{fault:?}");
    assert!(summary.num_abandoned > 0);
    assert!(world.referenced().iter().all(|path| path.exists()));

    world.memory.fail_after = None;
    let (summary, fault) = world.run(&mut FirstPixel::default());
    assert!(fault.is_none());
    let up_to_date = summary.skipped.get(&SkipReason::UpToDate).copied().unwrap_or(0);
    assert_eq!(summary.num_committed + up_to_date, 16);
    assert_eq!(world.files(), world.referenced(), "what the aborted run left behind was written over");
}

#[test]
fn cancelling_drains_what_is_in_flight() {
    let world = World::new(60);
    let (summary, fault) = world.run_with(&mut FirstPixel::default(), &world.decoder(), &world.encoder(), Some(9), None);
    assert!(fault.is_none());
    assert!(summary.interrupted);
    assert!(summary.num_read < 60, "reading stopped: {}", summary.num_read);
    assert_eq!(world.files(), world.referenced(), "what was read was finished and committed");
}

#[test]
fn files_of_samples_that_vanish_are_noted_and_stay() {
    let mut world = World::new(6);
    world.memory.gone.insert(world.memory.samples[0].0.clone());
    world.memory.refused.insert(world.memory.samples[1].0.clone());
    let (summary, fault) = world.run(&mut FirstPixel::default());
    assert!(fault.is_none());
    assert_eq!(summary.skipped[&SkipReason::SampleGone], 1);
    assert_eq!((summary.num_failed, summary.failures[0].stage), (1, Stage::Commit));
    let of = |sample: usize| {
        let id = &world.memory.samples[sample].0;
        world
            .files()
            .iter()
            .filter_map(|path| FileName::of_path(path))
            .filter(|name| name.sample() == Some(id))
            .collect::<Vec<_>>()
    };
    assert!(!of(0).is_empty() && !of(1).is_empty());
    // Those of an update that was refused are wanted again by the next run.
    assert_eq!(world.orphans(), of(0));
}

#[test]
fn an_unwritable_folder_ends_the_run_with_a_clear_word() {
    let world = World::new(6);
    // A file where a folder should be cannot be written into, not even by root.
    let blocked = world.folder.path().join("blocked");
    std::fs::write(&blocked, b"").expect("written");
    let encoder = Encoder { folder: blocked, ..world.encoder() };
    let (summary, fault) = world.run_with(&mut FirstPixel::default(), &world.decoder(), &encoder, None, None);
    let fault = fault.expect("a fault");
    assert!(fault.diagnose().hints[0].contains("--out"), "{fault}");
    assert_eq!(summary.num_committed, 0);
}
