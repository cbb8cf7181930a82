//! Labels that are not up to date are made again: files first, then the database (docs/storage.md).

use std::{collections::BTreeMap, path::Path};

use bytesize::ByteSize;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::{Map, Value, json};

use super::{
    Failures, Localization, LocalizeSpec,
    heat::Heat,
    inline::InlineMaps,
    labels::{Cut, Found, mask},
};
use crate::{Exit, Observer, aborted, collect::remove_replaced};
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{
    Dataset, LocalizedChange, LocalizedKind, LocalizedLabel, LocalizedSample, LocalizedSchema, LocalizedSource, Lock, NewLabel,
    Provenance, RunNote, note_folder, note_mask_numbers, note_run, write_localized,
};
use camflow_measure::localization::Threshold;
use camflow_media::{
    Damage, Durability, ImageLimits, MediaError, RecordedChecksum, encode_gray, shown, sync_names, with_large_pictures_in_turn,
    with_suffix, write_with_checksum,
};
use camflow_pipeline::Cancellation;
use camflow_storage::{FolderLease, Journal, OutputFolder, Sharing, stem};

/// What the fingerprint of a label begins with: it says of which heatmap fields the label is.
pub(super) fn origin(fields: &[String]) -> String {
    let mut sorted: Vec<&str> = fields.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    blake3::hash(sorted.join("\0").as_bytes()).to_hex()[..8].to_owned()
}

/// Writes the labels of a dataset.
pub(super) struct Writer<'a> {
    spec: &'a LocalizeSpec,
    dataset: &'a Dataset,
    schema: LocalizedSchema,
    written: Vec<(String, LocalizedKind)>,
    /// `None` in a dry run.
    lock: Option<Lock>,
    folder: Option<FolderLease>,
    orphans: Option<Journal>,
    /// By field and class: the threshold, and the class's number in masks.
    cuts: BTreeMap<(&'a str, &'a str), (Threshold, u8)>,
    /// Whether the fields are declared.
    is_declared: bool,
    /// Method, layer and model of what was written.
    seen: [Vec<String>; 3],
}

/// A sample with labels that are to be made.
struct Stale<'a> {
    sample: &'a LocalizedSample,
    cuts: Vec<Cut<'a>>,
    /// By their places among the fields that are written, with their fingerprints.
    labels: Vec<(usize, String)>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        spec: &'a LocalizeSpec,
        dataset: &'a Dataset,
        schema: LocalizedSchema,
        lock: Option<Lock>,
        cuts: BTreeMap<(&'a str, &'a str), (Threshold, u8)>,
    ) -> Result<Self, Diagnostic> {
        let mut writer = Writer {
            spec,
            dataset,
            schema,
            written: spec.written(),
            lock,
            folder: None,
            orphans: None,
            cuts,
            is_declared: false,
            seen: Default::default(),
        };
        if spec.masks.is_some() && writer.lock.is_some() {
            let folder = OutputFolder::create(&spec.folder).map_err(aborted)?;
            let what = format!("camflow localize of dataset `{}`", dataset.name());
            writer.folder = Some(FolderLease::acquire(&folder, Sharing::Shared, &what).map_err(aborted)?);
            folder.note_dataset(&dataset.id()).map_err(aborted)?;
            note_folder(dataset, folder.identity(), &spec.folder).map_err(aborted)?;
            writer.orphans = Some(Journal::new(&spec.folder));
        }
        Ok(writer)
    }

    /// Looks at all samples, and makes what is to be made, until it is cancelled.
    pub(super) fn write(
        &mut self,
        source: &mut LocalizedSource,
        failures: &mut Failures<'_>,
        localization: &mut Localization,
        cancellation: &Cancellation,
        observer: &dyn Observer,
    ) -> Result<(), Diagnostic> {
        let started = jiff::Timestamp::now();
        source.rewind();
        while !cancellation.is_cancelled() {
            let page = source.next_page().map_err(aborted)?;
            if page.is_empty() {
                break;
            }
            self.page(source, &page, failures, localization)?;
        }
        if self.is_declared {
            self.schema.declare().map_err(aborted)?;
            let exit = match (cancellation.is_cancelled(), failures.count) {
                (true, _) => Exit::Interrupted,
                (false, 0) => Exit::Done,
                (false, _) => Exit::SomeFailed,
            };
            self.note(localization, started, failures.count, exit)?;
        }
        self.folder = None;
        self.tidy(cancellation, observer);
        Ok(())
    }

    fn page(
        &mut self,
        source: &LocalizedSource,
        page: &[LocalizedSample],
        failures: &mut Failures<'_>,
        localization: &mut Localization,
    ) -> Result<(), Diagnostic> {
        let mut changes = Vec::new();
        let mut stale = Vec::new();
        for sample in page {
            let cuts = self.cuts_of(sample);
            let mut labels = Vec::new();
            let mut is_withdrawn = false;
            for (place, (field, kind)) in self.written.iter().enumerate() {
                let read = sample.labels[place].as_ref();
                if read.is_some_and(|read| read.fingerprint.is_none()) && !self.spec.replace {
                    localization.num_kept += 1;
                    continue;
                }
                if cuts.is_empty() {
                    if let Some(read) = read.filter(|read| read.fingerprint.is_some()) {
                        is_withdrawn = true;
                        changes.push(change(sample, field, Some(read), NewLabel::None));
                    }
                    continue;
                }
                let fingerprint = self.fingerprint(*kind, &cuts);
                if !read.is_some_and(|read| is_up_to_date(read, &fingerprint)) {
                    labels.push((place, fingerprint));
                }
            }
            match (labels.is_empty(), is_withdrawn) {
                (false, _) => stale.push(Stale { sample, cuts, labels }),
                (true, true) => localization.num_withdrawn += 1,
                (true, false) => localization.num_up_to_date += u64::from(!cuts.is_empty()),
            }
        }
        if self.lock.is_none() {
            localization.num_written += stale.len() as u64;
            return Ok(());
        }
        let heatmaps = stale.iter().flat_map(|stale| stale.cuts.iter().map(move |cut| (stale.sample, cut.heatmap)));
        let inline = InlineMaps::read(source, heatmaps).map_err(aborted)?;
        let make = |stale: &Stale<'_>| with_large_pictures_in_turn(|| self.make(stale, &inline));
        // One after the other in the order of samples, whoever is done first.
        let made: Vec<Result<Made, Failed>> = stale.par_iter().map(make).collect();
        for (stale, made) in stale.iter().zip(made) {
            match made {
                Ok(Made { changes: of_sample }) => {
                    localization.num_written += 1;
                    for cut in &stale.cuts {
                        let said = [&cut.heatmap.method, &cut.heatmap.layer, &cut.heatmap.model];
                        for (seen, new) in self.seen.iter_mut().zip(said) {
                            if !seen.contains(new) {
                                seen.push(new.clone());
                            }
                        }
                    }
                    changes.extend(of_sample);
                }
                Err(Failed::Sample(field, error)) => failures.add(stale.sample, &field, &error),
                Err(Failed::Folder(error)) => return Err(aborted(*error)),
            }
        }
        self.commit(&changes)
    }

    /// The heatmaps of a sample whose class is known. Of one that came meanwhile the next run knows.
    fn cuts_of<'s>(&self, sample: &'s LocalizedSample) -> Vec<Cut<'s>> {
        let cut = |heatmap: &'s camflow_fiftyone::SourceHeatmap| {
            let (threshold, number) = self.cuts.get(&(heatmap.field.as_str(), heatmap.class.as_str()))?;
            Some(Cut { heatmap, threshold: *threshold, number: *number })
        };
        sample.heatmaps.iter().filter_map(cut).collect()
    }

    /// Of all that a label depends on.
    fn fingerprint(&self, kind: LocalizedKind, cuts: &[Cut<'_>]) -> String {
        let of_each = |cut: &Cut<'_>| {
            let number = (kind == LocalizedKind::Masks).then_some(cut.number);
            json!([cut.heatmap.field, cut.heatmap.class, cut.heatmap.fingerprint, cut.threshold.share(), number])
        };
        let content = json!({
            "version": 1, "kind": kind.name(), "heatmaps": cuts.iter().map(of_each).collect::<Vec<_>>(),
            "min_area": self.spec.min_area, "largest": self.spec.largest, "learnt_on": self.learnt_on(),
        });
        format!("{}-{}", origin(&self.spec.fields), &blake3::hash(content.to_string().as_bytes()).to_hex()[..16])
    }

    fn learnt_on(&self) -> Option<&str> {
        self.spec.truth.as_deref().filter(|_| self.spec.threshold.is_none())
    }

    /// The labels of a sample; when this returns their files are complete.
    fn make(&self, stale: &Stale<'_>, inline: &InlineMaps) -> Result<Made, Failed> {
        let mut found = Vec::new();
        for cut in &stale.cuts {
            let heat = Heat::read(cut.heatmap, inline.get(&stale.sample.id, &cut.heatmap.field), &ImageLimits::default());
            let heat = heat.map_err(|error| Failed::Sample(cut.heatmap.field.clone(), error))?;
            found.push(Found::new(*cut, heat, self.spec.rule()));
        }
        let mut changes = Vec::new();
        for (place, fingerprint) in &stale.labels {
            let (field, kind) = &self.written[*place];
            let read = stale.sample.labels[*place].as_ref();
            let provenance = Provenance {
                heatmaps: stale.cuts.iter().map(|cut| cut.heatmap.field.clone()).collect(),
                thresholds: stale.cuts.iter().map(|cut| cut.threshold.share()).collect(),
                learnt_on: self.learnt_on().map(str::to_owned),
                fingerprint: fingerprint.clone(),
            };
            // The same label again where its file was gone, but for what a check noted of that.
            let is_same = |checksum| {
                let recorded = RecordedChecksum { checksum: Some(checksum), is_damaged: false };
                read.is_some_and(|read| read.fingerprint.as_ref() == Some(fingerprint) && read.mask_checksum == Some(recorded))
            };
            let label = match kind {
                LocalizedKind::Boxes => NewLabel::Boxes(found.iter().flat_map(Found::boxes).collect(), provenance),
                LocalizedKind::Masks => {
                    let path = with_suffix(&stem(&self.spec.folder, field, &stale.sample.id, fingerprint), ".png");
                    let ((height, width), numbers) = mask(&found);
                    let png = encode_gray(height, width, &numbers).map_err(|error| Failed::Folder(Box::new(error)))?;
                    let written = write_with_checksum(&path, Durability::Machine, |file| file.write_all(&png));
                    let checksum = written.map_err(|error| Failed::Folder(Box::new(error)))?;
                    if is_same(checksum) {
                        continue;
                    }
                    // The name is UTF-8, as the folder's was looked at.
                    NewLabel::Mask(path.to_string_lossy().into_owned(), checksum, provenance)
                }
            };
            changes.push(change(stale.sample, field, read, label));
        }
        Ok(Made { changes })
    }

    fn commit(&mut self, changes: &[LocalizedChange]) -> Result<(), Diagnostic> {
        let Some(lock) = self.lock.as_ref().filter(|_| !changes.is_empty()) else { return Ok(()) };
        // Somebody may delete a field at any time, and FiftyOne could not read samples that have it then.
        self.schema.declare().map_err(aborted)?;
        if !self.is_declared {
            if let Some(field) = &self.spec.masks {
                let (classes, numbers): (Vec<String>, Vec<u8>) =
                    self.cuts.iter().map(|((_, class), (_, number))| ((*class).to_owned(), *number)).unzip();
                note_mask_numbers(self.dataset, field, &classes, &numbers).map_err(aborted)?;
            }
            self.is_declared = true;
        }
        let files = changes.iter().filter_map(|change| match &change.label {
            NewLabel::Mask(path, ..) => Some(Path::new(path)),
            _ => None,
        });
        sync_names(files.clone()).map_err(|(path, error)| {
            Diagnostic::aborted(format!("cannot bring the names of files in `{}` to the disk", shown(&path))).because(&error)
        })?;
        self.folder.as_ref().map_or(Ok(()), FolderLease::check).map_err(aborted)?;
        write_localized(self.dataset, changes, lock).map_err(aborted)?;
        if let Some(orphans) = &mut self.orphans {
            let kept: Vec<&Path> = files.collect();
            let before = changes.iter().filter_map(|change| change.read.as_ref()?.mask_path.as_deref());
            orphans.note(before.filter(|path| !kept.contains(path)));
        }
        Ok(())
    }

    /// Leaves the run in the dataset, as FiftyOne's custom run.
    fn note(&self, localization: &Localization, started: jiff::Timestamp, num_failed: u64, exit: Exit) -> Result<(), Diagnostic> {
        let ending = exit.ending();
        let [methods, layers, models] = &self.seen;
        let thresholds: Vec<Value> = self
            .cuts
            .iter()
            .map(|((field, class), (threshold, _))| json!({"field": field, "class": class, "threshold": threshold.share()}))
            .collect();
        let details = json!({
            "command": "localize",
            "model": models.join(", "), "model_digest": "of the heatmaps", "layers": layers, "methods": methods,
            "heatmap_fields": self.spec.fields, "thresholds": thresholds, "learnt_on": self.learnt_on(),
            "min_area": self.spec.min_area, "largest": self.spec.largest,
            "camflow_version": env!("CARGO_PKG_VERSION"),
            "started": started.to_string(), "ended": jiff::Timestamp::now().to_string(),
            "exit": ending.name, "exit_code": ending.exit_code,
            "counts": {
                "num_committed": localization.num_written, "num_heatmaps": localization.num_written,
                "num_skipped": localization.num_up_to_date, "num_failed": num_failed,
            },
        });
        let note = RunNote {
            job: None,
            fields: self.written.iter().map(|(field, _)| field.clone()).collect(),
            folder: self.spec.masks.as_ref().map(|_| self.spec.folder.clone()),
            part: None,
            details: match details {
                Value::Object(details) => details,
                _ => Map::new(),
            },
        };
        note_run(self.dataset, &note).map(drop).map_err(aborted)
    }

    /// Removes what runs have replaced, once its grace period is over. The next run will, if it cannot be done now.
    fn tidy(&self, cancellation: &Cancellation, observer: &dyn Observer) {
        if self.orphans.is_none() {
            return;
        }
        match remove_replaced(&self.spec.folder, self.dataset, self.spec.grace, cancellation) {
            Ok(removed) if removed.count > 0 => {
                let bytes = ByteSize(removed.bytes).display().iec();
                observer.notice(&format!("removed {} files, {bytes}, that runs had replaced", removed.count));
            }
            Ok(_) => {}
            Err(error) => observer.warning(&format!("what runs had replaced was not removed: {error}")),
        }
    }
}

/// What was made of a sample.
struct Made {
    changes: Vec<LocalizedChange>,
}

/// Why a sample's labels could not be made.
enum Failed {
    /// A heatmap of this field cannot be read, which costs the sample.
    Sample(String, MediaError),
    /// The folder cannot be written to, which ends the run.
    Folder(Box<MediaError>),
}

/// Whether it is the label that would be made, with its file.
fn is_up_to_date(read: &LocalizedLabel, fingerprint: &str) -> bool {
    let is_there = |path: &Path| matches!(Damage::at_a_glance(path, read.mask_checksum.as_ref()), Ok(None));
    read.fingerprint.as_deref() == Some(fingerprint) && read.mask_path.as_deref().is_none_or(is_there)
}

fn change(sample: &LocalizedSample, field: &str, read: Option<&LocalizedLabel>, label: NewLabel) -> LocalizedChange {
    LocalizedChange { sample: sample.id.clone(), field: field.to_owned(), read: read.cloned(), label }
}
