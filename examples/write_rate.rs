//! How fast a database takes updates, and a folder files, as the end of a run gives them, with nothing else running: no images, no
//! model. `scripts/lab/scale.py` predicts from it how far a cluster goes.
//!
//! ```text
//! cargo run --release --example write_rate -- updates URI DATASET WRITERS SECONDS FIELDS
//! cargo run --release --example write_rate -- files FOLDER WRITERS SECONDS BYTES
//! ```
//!
//! `updates`: each writer has a connection, a shard of the dataset and a lock of its own, as a process of a cluster has, and commits
//! its samples round and round, 128 at once, with `FIELDS` heatmaps each. `files`: each writer makes files of `BYTES` that survive a
//! power cut, and has their names flushed, 128 at once. Printed is one JSON object.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::{
    error::Error,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Barrier,
    time::{Duration, Instant},
};

use camflow::{
    fiftyone::{
        ConnectOptions, ConnectionUri, Database, DatabaseConfig, DatabaseLocation, Dataset, HeatmapField, SampleSource,
        Selection, Shard, UpdateSink,
    },
    measure::Measures,
    media::{Checksum, Durability, sync_names, write_atomically},
    names::Choice,
    pipeline::{
        CommitOutcome, SampleRef, SampleUpdate, Sink, Source, StoredHeatmap, StoredMap, WrittenHeatmap, WrittenPrediction,
    },
};

type Failure = Box<dyn Error + Send + Sync>;

/// As many as the commit stage takes at once.
const BULK: usize = 128;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match measure(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &[&str]) -> Result<String, Failure> {
    match arguments {
        ["updates", uri, dataset, writers, seconds, fields] => {
            let (writers, fields) = (writers.parse()?, fields.parse()?);
            let open = |index: usize| Committer::open(uri, dataset, format!("{}/{writers}", index + 1).parse()?, fields);
            together(writers, seconds.parse()?, &open, &|committer: &mut Committer| committer.commit())
        }
        ["files", folder, writers, seconds, bytes] => {
            let (folder, bytes) = (Path::new(folder), vec![90; bytes.parse()?]);
            let open = |index: usize| Ok((folder.join(index.to_string()), Vec::new()));
            together(writers.parse()?, seconds.parse()?, &open, &|(folder, made): &mut (PathBuf, Vec<PathBuf>)| {
                write(folder, made, &bytes)
            })
        }
        _ => Err("usage: write_rate updates URI DATASET WRITERS SECONDS FIELDS | files FOLDER WRITERS SECONDS BYTES".into()),
    }
}

/// Has all writers open what they need, begin at the same moment and work until the time is over. `work` says how many it did.
fn together<T>(
    writers: usize,
    seconds: f64,
    open: &(impl Fn(usize) -> Result<T, Failure> + Sync),
    work: &(impl Fn(&mut T) -> Result<usize, Failure> + Sync),
) -> Result<String, Failure> {
    let start = Barrier::new(writers);
    let one = |index| {
        let opened = open(index);
        // Those that could not open anything must not keep the others waiting.
        start.wait();
        let (mut writer, started, mut done) = (opened?, Instant::now(), 0);
        while started.elapsed() < Duration::from_secs_f64(seconds) {
            done += work(&mut writer)?;
        }
        Ok((done, started.elapsed().as_secs_f64()))
    };
    let ended: Vec<Result<(usize, f64), Failure>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers).map(|index| scope.spawn(move || one(index))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a writer panicked".into()))).collect()
    });
    let ended = ended.into_iter().collect::<Result<Vec<_>, _>>()?;
    let done: usize = ended.iter().map(|(done, _)| done).sum();
    let rate: f64 = ended.iter().map(|(done, elapsed)| *done as f64 / elapsed).sum();
    Ok(format!("{{\"writers\": {writers}, \"count\": {done}, \"per_s\": {rate}}}"))
}

/// What a process of a cluster commits with.
struct Committer {
    sink: UpdateSink,
    /// With what their labels hold.
    samples: Vec<(SampleRef, Vec<StoredHeatmap>)>,
    fields: Vec<String>,
    round: usize,
    next: usize,
}

impl Committer {
    fn open(uri: &str, dataset: &str, shard: Shard, fields: usize) -> Result<Self, Failure> {
        let config = DatabaseConfig {
            location: DatabaseLocation::Server(ConnectionUri::new(uri.to_owned(), "the arguments")),
            name: "fiftyone".to_owned(),
        };
        let dataset = Dataset::open(&Database::connect(&config, &ConnectOptions::default())?.database, dataset)?;
        let fields: Vec<String> = (1..=fields).map(|layer| format!("write_rate_layer_{layer}")).collect();
        let heatmap_fields = fields.clone();
        let mut source = SampleSource::new(&dataset, Selection { shard: Some(shard), heatmap_fields, ..Selection::default() })?;
        let mut samples = Vec::new();
        loop {
            let page = source.next_samples()?;
            if page.is_empty() {
                break;
            }
            samples.extend(page.into_iter().map(|selected| (selected.sample, selected.existing)));
        }
        if samples.is_empty() {
            return Err(format!("shard {shard} has no samples; take a larger dataset").into());
        }
        let field = |name: &String| HeatmapField {
            name: name.clone(),
            layer: "backbone.layer4".to_owned(),
            method: "gradcam".to_owned(),
            model: "write_rate".to_owned(),
            shown_in: None,
            attention_on: None,
        };
        let mut sink = UpdateSink::new(&dataset, fields.iter().map(field).collect())?;
        sink.lock(shard)?;
        Ok(Committer { sink, samples, fields, round: 0, next: 0 })
    }

    /// One bulk; how many samples it had.
    fn commit(&mut self) -> Result<usize, Failure> {
        // Other values in each round, or the server would find nothing to change.
        if self.next >= self.samples.len() {
            (self.next, self.round) = (0, self.round + 1);
        }
        let bulk: Vec<SampleUpdate> =
            self.samples[self.next..].iter().take(BULK).map(|(sample, read)| self.update(sample, read)).collect();
        let outcomes = self.sink.commit(&bulk)?;
        match outcomes.iter().find(|outcome| **outcome != CommitOutcome::Committed) {
            None => {
                for (update, (_, read)) in bulk.iter().zip(&mut self.samples[self.next..]) {
                    *read = update.heatmaps.iter().map(stored).collect();
                }
                self.next += bulk.len();
                Ok(bulk.len())
            }
            Some(outcome) => Err(format!("an update was not made: {outcome:?}").into()),
        }
    }

    fn update(&self, sample: &SampleRef, read: &[StoredHeatmap]) -> SampleUpdate {
        let mut measures = Measures::default();
        for measure in camflow::measure::Measure::ALL.iter().filter(|measure| !measure.is_yes_or_no()) {
            measures = measures.with(*measure, 0.5);
        }
        let path =
            |field: &str, suffix: &str| PathBuf::from(format!("/shared/maps/{field}/{}.{:08x}.{suffix}", sample.id, self.round));
        let heatmap = |field: &String| WrittenHeatmap {
            detection: None,
            contrast: None,
            map_checksum: Some(Checksum::of(b"map")),
            npy_checksum: Some(Checksum::of(b"npy")),
            upsampling: None,
            field: field.clone(),
            class: "person".to_owned(),
            map: StoredMap::File(path(field, "png")),
            npy_path: Some(path(field, "npy")),
            score: 0.5,
            measures,
            attention: None,
            prediction: WrittenPrediction::default(),
            fingerprint: format!("{:032x}", self.round),
        };
        let heatmaps = self.fields.iter().map(heatmap).collect();
        SampleUpdate {
            sample: sample.clone(),
            heatmaps,
            predictions: None,
            withdrawn: Vec::new(),
            superseded: Vec::new(),
            existing: read.to_vec(),
        }
    }
}

/// What the next update finds.
fn stored(written: &WrittenHeatmap) -> StoredHeatmap {
    let map_path = match &written.map {
        StoredMap::File(path) => Some(path.clone()),
        StoredMap::Inline(_) => None,
    };
    let (field, fingerprint) = (written.field.clone(), Some(written.fingerprint.clone()));
    StoredHeatmap { field, fingerprint, map_path, npy_path: written.npy_path.clone(), ..StoredHeatmap::default() }
}

/// One file, and after as many as a bulk has samples their names; how many files.
fn write(folder: &Path, made: &mut Vec<PathBuf>, bytes: &[u8]) -> Result<usize, Failure> {
    let n = made.len();
    // Spread as heatmaps are: over 256 folders.
    made.push(folder.join(format!("{:02x}", n % 256)).join(format!("{n}.bin")));
    write_atomically(&made[n], Durability::Machine, |writer| writer.write_all(bytes))?;
    if made.len().is_multiple_of(BULK) {
        let latest = made[made.len() - BULK..].iter().map(PathBuf::as_path);
        sync_names(latest).map_err(|(folder, error)| format!("`{}`: {error}", folder.display()))?;
    }
    Ok(1)
}
