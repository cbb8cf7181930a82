//! `camflow check`: whether the files that labels of heatmaps and masks name are what was written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::{Value, json};

use super::{
    Exit, choice,
    dataset::{DatasetArgs, asked_heatmap_fields},
    print,
    signals::cancel_on_signals,
};
use crate::{
    diagnostic::{Diagnose, Diagnostic},
    fiftyone::{ChecksumNote, Dataset, Error, HeatmapLabel, HeatmapLabelSource, InlineMap, Lock, note_checksums},
    media::{Damage, FileForm, ImageLimits, RecordedChecksum, inflate_array, shown, with_large_pictures_in_turn},
    names::{Choice, counted, flag},
    pipeline::Cancellation,
    report::{Format, Level, Reporter, error_text},
};

/// Verify the files of heatmaps and masks against their sizes and checksums
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Only these fields of heatmaps or masks; default: all that camflow made
    #[arg(long, value_delimiter = ',', value_name = "FIELD")]
    fields: Vec<String>,
    /// Read the files and compare their contents too; without it sizes are compared, and the form of files without a checksum
    #[arg(long)]
    read_data: bool,
    /// Output format: text, or one JSON object for each damaged file
    #[arg(long, default_value = Format::Human.name(), value_parser = choice::<Format>())]
    pub format: Format,
}

/// Runs the subcommand.
pub(super) fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let cancellation = cancel_on_signals()?;
    let (_connected, dataset) = args.dataset.open()?;
    let fields = fields(&dataset, &args.fields)?;
    let mut source = HeatmapLabelSource::new(&dataset, fields, args.read_data);
    let mut check = Check {
        args,
        cancellation,
        localized: dataset.localized_fields(),
        makers: BTreeSet::new(),
        dataset,
        reporter: Reporter::new(args.format),
        counts: Counts::default(),
        unseen: BTreeMap::new(),
    };
    while !check.cancellation.is_cancelled() {
        let labels = source.next_page()?;
        if labels.is_empty() {
            check.finish();
            return Ok(check.exit());
        }
        check.page(&source, &labels)?;
    }
    check.finish();
    Ok(Exit::Interrupted)
}

fn fields(dataset: &Dataset, asked: &[String]) -> Result<Vec<String>, Diagnostic> {
    let known = [dataset.written_fields(), dataset.mask_fields()].concat();
    if known.is_empty() {
        let name = dataset.name();
        return Err(Diagnostic::invalid(format!("dataset `{name}` has no heatmaps"))
            .hint(format!("make them with `camflow annotate {}`", flag("--dataset", name))));
    }
    let asked = asked_heatmap_fields(dataset, &known, asked)?;
    Ok(if asked.is_empty() { known } else { asked })
}

/// What was found of one file, or of the map in a document.
struct Finding {
    /// Which of a label's two.
    file: FileForm,
    /// `None` for a map in the document, or one that is nowhere.
    path: Option<PathBuf>,
    state: State,
}

enum State {
    /// As far as was looked, it is what was written. The first: without a checksum to know it by.
    Unrecorded,
    Intact,
    Damaged(Damage),
    /// The label calls it damaged, and it is not.
    Restored,
    /// It cannot be seen or read.
    Unseen(io::Error),
}

impl Finding {
    /// Damaged, it seems, or better than its label says; a run that goes on may be about to say so itself.
    fn is_to_be_confirmed(&self) -> bool {
        matches!(self.state, State::Damaged(_) | State::Restored)
    }
}

#[derive(Default)]
struct Counts {
    heatmaps: u64,
    masks: u64,
    files: u64,
    inline: u64,
    unrecorded: u64,
    damaged: u64,
    /// Of these as many as their labels now say so.
    noted: u64,
    restored: u64,
    /// Could be damaged, but a run is writing the field.
    unsettled: u64,
    unseen: u64,
}

struct Check<'a> {
    args: &'a Args,
    cancellation: Cancellation,
    dataset: Dataset,
    reporter: Reporter,
    counts: Counts,
    /// The fields that `camflow localize` made.
    localized: Vec<String>,
    /// The commands that make what is damaged.
    makers: BTreeSet<&'static str>,
    /// Files that cannot be seen, by their folder and why: how many, and the first.
    unseen: BTreeMap<(PathBuf, String), (u64, PathBuf)>,
}

impl Check<'_> {
    fn page(&mut self, source: &HeatmapLabelSource, labels: &[HeatmapLabel]) -> Result<(), Error> {
        let read_data = self.args.read_data;
        let cancellation = &self.cancellation;
        let look = |label| (!cancellation.is_cancelled()).then(|| look(label, read_data));
        let Some(found) = labels.par_iter().map(look).collect::<Option<Vec<_>>>() else { return Ok(()) };
        let mut suspects = Vec::new();
        for (label, findings) in labels.iter().zip(found) {
            let count = if label.is_mask() { &mut self.counts.masks } else { &mut self.counts.heatmaps };
            *count += 1;
            if findings.iter().any(Finding::is_to_be_confirmed) {
                suspects.push(label);
            } else {
                findings.into_iter().for_each(|finding| self.count(label, &finding));
            }
        }
        if suspects.is_empty() { Ok(()) } else { self.confirm(source, &suspects) }
    }

    /// Looks again at labels and files while no run writes them, so that both are of the same moment.
    fn confirm(&mut self, source: &HeatmapLabelSource, suspects: &[&HeatmapLabel]) -> Result<(), Error> {
        let mut fields: Vec<String> = suspects.iter().map(|label| label.stored.field.clone()).collect();
        fields.sort();
        fields.dedup();
        let lock = match Lock::acquire(&self.dataset, Some(&fields)) {
            Ok(lock) => lock,
            Err(error @ Error::Locked { .. }) => {
                if self.counts.unsettled == 0 {
                    self.reporter.warning(&error_text(&error.diagnose()));
                }
                self.counts.unsettled += suspects.len() as u64;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let read_data = self.args.read_data;
        let now = source.again(suspects)?;
        let found: Vec<(&HeatmapLabel, Vec<Finding>)> = now.par_iter().map(|label| (label, look(label, read_data))).collect();
        let findings = || found.iter().flat_map(|(label, findings)| findings.iter().map(move |finding| (*label, finding)));
        let notes: Vec<ChecksumNote<'_>> = findings().filter_map(|(label, finding)| note(label, finding)).collect();
        self.counts.noted += note_checksums(&self.dataset, &notes, &lock)?;
        findings().for_each(|(label, finding)| self.count(label, finding));
        Ok(())
    }

    fn count(&mut self, label: &HeatmapLabel, finding: &Finding) {
        let counts = &mut self.counts;
        match finding.path {
            Some(_) => counts.files += 1,
            None => counts.inline += u64::from(label.inline != InlineMap::Absent),
        }
        match (&finding.state, &finding.path) {
            (State::Intact, _) => {}
            (State::Unrecorded, _) => counts.unrecorded += 1,
            (State::Restored, _) => counts.restored += 1,
            (State::Damaged(damage), path) => {
                counts.damaged += 1;
                let is_localized = self.localized.contains(&label.stored.field);
                self.makers.insert(if is_localized { "`camflow localize`" } else { "`camflow annotate`" });
                self.tell_damaged(label, path.as_deref(), damage);
            }
            (State::Unseen(error), path) => {
                counts.unseen += 1;
                let path = path.clone().unwrap_or_default();
                let folder = output_folder(&path).unwrap_or(&path).to_owned();
                self.unseen.entry((folder, error.to_string())).or_insert((0, path)).0 += 1;
            }
        }
    }

    fn tell_damaged(&self, label: &HeatmapLabel, path: Option<&Path>, damage: &Damage) {
        let (dataset, sample, field) = (self.dataset.name(), label.sample(), &label.stored.field);
        match self.args.format {
            Format::Human => {
                let file = path.map_or_else(|| "the map in the document".to_owned(), |path| format!("`{}`", shown(path)));
                print(&format!("damaged: dataset `{dataset}`, sample `{sample}`, field `{field}`: {file}: {damage}"));
            }
            Format::Json => {
                let (file, what) = (path.map(Path::to_string_lossy), damage.to_string());
                let fields = json!({"dataset": dataset, "sample": sample, "field": field, "file": file, "damage": what});
                self.reporter.found(Level::Warn, "file_damaged", fields);
            }
        }
    }

    fn finish(&self) {
        for ((folder, error), (count, first)) in &self.unseen {
            match self.args.format {
                Format::Human => {
                    let (files, folder, first) = (counted(*count, "file", "files"), shown(folder), shown(first));
                    let unseen =
                        Diagnostic::invalid(format!("cannot see {files} below `{folder}`: {error} (the first: `{first}`)"));
                    print(&error_text(&unseen.hint(
                        "mount the folder or make it readable, and look again; nothing is said of these files, and nothing was changed",
                    )));
                }
                Format::Json => {
                    let (folder, first) = (folder.to_string_lossy(), first.to_string_lossy());
                    let fields = json!({"folder": folder, "error": error, "num_files": count, "first": first});
                    self.reporter.found(Level::Error, "files_unseen", fields);
                }
            }
        }
        match self.args.format {
            Format::Human => self.lines().iter().for_each(|line| print(line)),
            Format::Json => {
                let level = if self.exit() == Exit::Done { Level::Info } else { Level::Warn };
                self.reporter.found(level, "check_finished", self.json());
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        let Counts { heatmaps, masks, files, inline, unrecorded, damaged, noted, restored, unsettled, unseen } = self.counts;
        let name = self.dataset.name();
        let how = if self.args.read_data { "contents compared" } else { "sizes compared; `--read-data` compares contents" };
        let labels = match (heatmaps, masks) {
            (_, 0) => counted(heatmaps, "heatmap", "heatmaps"),
            (0, _) => counted(masks, "mask", "masks"),
            _ => format!("{} and {}", counted(heatmaps, "heatmap", "heatmaps"), counted(masks, "mask", "masks")),
        };
        let mut lines = vec![format!(
            "dataset `{name}`: {labels} with {} looked at ({how}): {damaged} damaged, {unseen} not seen",
            counted(files, "file", "files"),
        )];
        let mut add = |count: u64, text: String| lines.extend((count > 0).then_some(text));
        let maps =
            if self.args.read_data { "all of them complete unless named above" } else { "which only `--read-data` looks at" };
        add(inline, format!("  maps in the documents, {maps}: {inline}"));
        add(unrecorded, format!("  without a checksum, so that only their form was looked at: {unrecorded}"));
        add(restored, format!("  found damaged by an earlier check, and whole again: {restored}"));
        add(
            unsettled,
            format!("  left out, as another run writes these fields: {unsettled} heatmaps; look again when it has ended"),
        );
        add(noted - restored.min(noted), format!("  noted in their labels: {}", noted - restored.min(noted)));
        let makers: Vec<&str> = self.makers.iter().copied().collect();
        add(damaged, format!("the next {} of the same job makes the damaged ones again", makers.join(" or ")));
        lines
    }

    fn json(&self) -> Value {
        let counts = &self.counts;
        json!({
            "dataset": self.dataset.name(),
            "read_data": self.args.read_data,
            "num_heatmaps": counts.heatmaps,
            "num_masks": counts.masks,
            "num_files": counts.files,
            "num_inline": counts.inline,
            "num_unrecorded": counts.unrecorded,
            "num_damaged": counts.damaged,
            "num_restored": counts.restored,
            "num_unsettled": counts.unsettled,
            "num_unseen": counts.unseen,
        })
    }

    fn exit(&self) -> Exit {
        let Counts { damaged, unseen, unsettled, .. } = self.counts;
        let exits = [(unseen, Exit::Aborted), (damaged, Exit::SomeFailed), (unsettled, Exit::Locked)];
        exits.into_iter().find(|(count, _)| *count > 0).map_or(Exit::Done, |(_, exit)| exit)
    }
}

/// Everything about one label.
fn look(label: &HeatmapLabel, read_data: bool) -> Vec<Finding> {
    with_large_pictures_in_turn(|| findings(label, read_data))
}

fn findings(label: &HeatmapLabel, read_data: bool) -> Vec<Finding> {
    let stored = &label.stored;
    let files = [(FileForm::Png, &stored.map_path, stored.map_checksum), (FileForm::Npy, &stored.npy_path, stored.npy_checksum)];
    let mut findings: Vec<Finding> = files
        .into_iter()
        .filter_map(|(file, path, recorded)| {
            let path = path.clone()?;
            let state = state_of_file(&path, file, recorded, read_data).unwrap_or_else(State::Unseen);
            Some(Finding { file, path: Some(path), state })
        })
        .collect();
    if stored.map_path.is_none() {
        findings.push(Finding { file: FileForm::Png, path: None, state: state_of_map(label) });
    }
    findings
}

fn state_of_file(path: &Path, form: FileForm, recorded: Option<RecordedChecksum>, read_data: bool) -> io::Result<State> {
    let checksum = recorded.and_then(|recorded| recorded.checksum);
    let damage = match (read_data, checksum) {
        (true, _) => Damage::by_reading(path, form, checksum)?,
        (false, Some(_)) => Damage::at_a_glance(path, recorded.as_ref())?,
        (false, None) => match Damage::at_a_glance(path, recorded.as_ref())? {
            None => Damage::of_ends(path, form)?,
            damage => damage,
        },
    };
    if damage == Some(Damage::Missing) {
        check_folder(path)?;
    }
    let is_noted = recorded.is_some_and(|recorded| recorded.is_damaged);
    Ok(match damage {
        Some(damage) => State::Damaged(damage),
        None if is_noted => State::Restored,
        None if checksum.is_none() => State::Unrecorded,
        None => State::Intact,
    })
}

/// Of a label that names no file for its map.
fn state_of_map(label: &HeatmapLabel) -> State {
    let is_noted = label.stored.map_checksum.is_some_and(|recorded| recorded.is_damaged);
    let damage = match &label.inline {
        InlineMap::Absent => Some("the label names no map, and holds none".to_owned()),
        InlineMap::Unread => return if is_noted { State::Damaged(Damage::Noted) } else { State::Intact },
        InlineMap::Content(map) => inflate_array(map, ImageLimits::default().max_bytes).err().map(|error| error.to_string()),
    };
    match damage {
        Some(reason) => State::Damaged(Damage::Form(reason)),
        None if is_noted => State::Restored,
        None => State::Intact,
    }
}

/// What the label is to say that it does not say yet: a run that looks at a file's metadata does not see it.
fn note<'a>(label: &'a HeatmapLabel, finding: &Finding) -> Option<ChecksumNote<'a>> {
    let recorded = match finding.file {
        FileForm::Png => label.stored.map_checksum,
        FileForm::Npy => label.stored.npy_checksum,
    };
    let is_noted = recorded.is_some_and(|recorded| recorded.is_damaged);
    let is_damaged = match &finding.state {
        State::Damaged(damage) if !damage.shows_at_a_glance() => true,
        State::Restored => false,
        _ => return None,
    };
    let checksum = recorded.and_then(|recorded| recorded.checksum);
    let is_said = is_damaged || checksum.is_some();
    let checksum = is_said.then_some(RecordedChecksum { checksum, is_damaged });
    (is_damaged != is_noted).then_some(ChecksumNote { label, file: finding.file, checksum })
}

/// `FOLDER/<field>/<bucket>/<file>`
fn output_folder(file: &Path) -> Option<&Path> {
    file.ancestors().nth(3).filter(|folder| folder.parent().is_some())
}

/// That a file is not there means something only in a folder that is there, and is the one in which camflow wrote: a disk that is
/// not mounted leaves an empty folder.
fn check_folder(file: &Path) -> io::Result<()> {
    let wanted = "the file is not there, and neither is a folder of camflow's around it";
    let missing = || io::Error::new(io::ErrorKind::NotFound, wanted);
    let folder = output_folder(file).ok_or_else(missing)?;
    fs::read_dir(folder)?;
    match fs::read_dir(folder.join(".camflow")) {
        Ok(mut notes) => notes.next().ok_or_else(missing)?.map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
        Err(error) => Err(error),
    }
}
