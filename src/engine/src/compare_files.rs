//! Two sets of heatmaps of the same samples, as files: a page, numbers, a table.

use std::{
    collections::{HashMap, HashSet},
    io::Write,
    path::Path,
};

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::{
    aborted,
    object_boxes::ObjectBoxes,
    written::{write_table, write_text},
};
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{Dataset, LabelField, MeasuredSource, Selection};
use camflow_measure::MeasuredSample;
use camflow_pipeline::{Cancellation, StoredTarget};
use camflow_study::{
    Finding,
    compare::{
        Comparison, Gate, HeatmapPair, Judged, MapPair, Quantity, Subject, comparison_json, comparison_page, pair_header,
        pair_rows, pairs, said,
    },
};

/// Samples whose maps are read at once, at most: each keeps some pictures of its objects until it is counted.
const AT_ONCE: usize = 32;

/// What is compared, and the files of it.
pub struct CompareFiles<'a> {
    /// What was typed for A and for B.
    pub names: [&'a str; 2],
    /// Each field of A with its field of B.
    pub fields: &'a [(String, String)],
    /// The page.
    pub page: &'a Path,
    /// The numbers.
    pub json: Option<&'a Path>,
    /// A line for each pair.
    pub csv: Option<&'a Path>,
    /// What samples are ranked by.
    pub ranked_by: Quantity,
    /// How many of the samples that changed most to show.
    pub num_most: usize,
    /// Whether the heatmaps' files are read.
    pub reads_maps: bool,
    /// The label field that says where objects are; by default that of the runs.
    pub objects: Option<LabelField>,
    /// What to judge.
    pub gates: &'a [Gate],
    /// Whether a gate is also crossed where the pairs do not say.
    pub is_strict: bool,
    /// The selection in words.
    pub selection: Option<String>,
}

/// What came of it.
pub struct Compared {
    /// The numbers.
    pub comparison: Comparison,
    /// What stands out.
    pub findings: Vec<Finding>,
    /// Each gate.
    pub judged: Vec<Judged>,
    /// What the user should know, lowercase, without a period.
    pub notices: Vec<String>,
}

impl CompareFiles<'_> {
    /// Reads pairs and writes the files, unless there is none. Less was read if it was cancelled, and nothing written.
    ///
    /// # Errors
    /// The database is lost, the selection is none, or a file cannot be written.
    pub fn write(
        &self,
        dataset: &Dataset,
        against: Option<&Dataset>,
        selection: Selection,
        cancellation: &Cancellation,
    ) -> Result<Compared, Diagnostic> {
        let mut notices = Vec::new();
        let objects = self.objects(dataset, &mut notices)?;
        let selection = Selection { label: objects.as_ref().map(|objects| objects.label.clone()), ..selection };
        let is_all = selection.ids.is_none() && selection.tags.is_empty() && selection.matching.is_none();
        let of_a: Vec<String> = distinct(self.fields.iter().map(|(a, _)| a));
        let of_b: Vec<String> = distinct(self.fields.iter().map(|(_, b)| b));
        let (fields, other) = match against {
            None => (distinct(of_a.iter().chain(&of_b)), None),
            Some(against) => (of_a, Some(MeasuredSource::new(against, of_b, &Selection::default())?)),
        };
        let mut reading = Reading {
            files: self,
            source: MeasuredSource::new(dataset, fields, &selection)?,
            other,
            objects,
            comparison: Comparison::new(self.ranked_by, self.num_most),
            num_found: 0,
        };
        notices.extend(reading.source.notices().to_vec());
        match self.csv {
            None => reading.all(cancellation, None)?,
            Some(path) => write_table(path, &pair_header(), cancellation, |table| reading.all(cancellation, Some(table)))?,
        }
        if let Some(other) = reading.other.as_ref().filter(|_| is_all) {
            reading.comparison.unpaired.samples_only_b = other.count()?.saturating_sub(reading.num_found);
        }
        let Reading { comparison, objects, .. } = reading;
        let findings = said(&comparison);
        let judged: Vec<Judged> = self.gates.iter().map(|gate| gate.judge(&comparison, self.is_strict)).collect();
        if !cancellation.is_cancelled() && comparison.num_pairs > 0 {
            let created = format!("{:.0}", jiff::Timestamp::now());
            let subject = Subject {
                dataset: dataset.name(),
                against: against.map(Dataset::name),
                names: self.names,
                created: &created,
                selection: self.selection.as_deref(),
                objects: objects.as_ref().map(|objects| objects.label.name.as_str()),
            };
            write_text(self.page, &comparison_page(&comparison, &judged, &findings, subject))?;
            if let Some(path) = self.json {
                write_text(path, &format!("{:#}\n", comparison_json(&comparison, &judged, &findings, subject)))?;
            }
        }
        Ok(Compared { comparison, findings, judged, notices })
    }

    fn objects(&self, dataset: &Dataset, notices: &mut Vec<String>) -> Result<Option<ObjectBoxes>, Diagnostic> {
        if !self.reads_maps {
            return Ok(None);
        }
        let fields: Vec<&String> = self.fields.iter().map(|(a, _)| a).collect();
        let found = match &self.objects {
            Some(label) => Some(ObjectBoxes::new(dataset, label.clone())?),
            None => ObjectBoxes::of_runs(dataset, &fields)?,
        };
        let are_detections = fields.iter().all(|field| dataset.detection_fields().contains(field));
        if found.is_none() && !are_detections {
            notices.push(
                "no label field says where the objects are, so mean heatmaps are of whole images; name one with `--align-on`"
                    .to_owned(),
            );
        }
        Ok(found)
    }
}

/// Reads pair by pair.
struct Reading<'a> {
    files: &'a CompareFiles<'a>,
    source: MeasuredSource,
    /// The source of B, where it is another dataset.
    other: Option<MeasuredSource>,
    objects: Option<ObjectBoxes>,
    comparison: Comparison,
    /// Samples of the other dataset that were found.
    num_found: u64,
}

impl Reading<'_> {
    fn all(&mut self, cancellation: &Cancellation, mut table: Option<&mut dyn Write>) -> Result<(), Diagnostic> {
        while !cancellation.is_cancelled() {
            let page = self.source.next_labelled_page().map_err(aborted)?;
            if page.is_empty() {
                break;
            }
            let paired = self.paired(page)?;
            for part in paired.chunks(AT_ONCE) {
                if cancellation.is_cancelled() {
                    break;
                }
                let read: Vec<Vec<HeatmapPair>> = part.par_iter().map(|paired| self.maps(paired)).collect();
                for (paired, pairs) in part.iter().zip(read) {
                    self.comparison.observe(&paired.sample, &pairs);
                    if let Some(table) = &mut table {
                        table
                            .write_all(pair_rows(&paired.sample, &pairs).as_bytes())
                            .map_err(|error| Diagnostic::aborted("the table cannot be written").because(&error))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The samples of a page that have pairs; what has none is counted.
    fn paired(&mut self, page: Vec<(MeasuredSample, StoredTarget)>) -> Result<Vec<Paired>, Diagnostic> {
        let fields = self.files.fields;
        let mut found = Vec::new();
        let mut others = match &self.other {
            None => None,
            Some(other) => {
                let paths = page.iter().map(|(sample, _)| sample.media_path.to_string_lossy().into_owned());
                Some(other.of_images(&paths.collect::<Vec<_>>()).map_err(aborted)?)
            }
        };
        for (mut sample, target) in page {
            let of_b = match &mut others {
                None => sample.heatmaps.clone(),
                Some(others) => match others.get(&*sample.media_path.to_string_lossy()).map(Vec::as_slice) {
                    Some([one]) => {
                        self.num_found += 1;
                        one.heatmaps.clone()
                    }
                    Some([_, _, ..]) => {
                        self.comparison.unpaired.samples_several += 1;
                        continue;
                    }
                    Some([]) | None => {
                        self.comparison.unpaired.samples_only_a += 1;
                        continue;
                    }
                },
            };
            let of_a = std::mem::take(&mut sample.heatmaps);
            let pairs = pairs(&of_a, &of_b, fields, &mut self.comparison.unpaired);
            let pairs: Vec<HeatmapPair> =
                pairs.into_iter().map(|(a, b)| HeatmapPair { a: a.clone(), b: b.clone(), maps: MapPair::Unread }).collect();
            if !pairs.is_empty() {
                found.push(Paired { sample, target, pairs });
            }
        }
        Ok(found)
    }

    /// The pairs of a sample with what their files say.
    fn maps(&self, paired: &Paired) -> Vec<HeatmapPair> {
        let mut pairs = paired.pairs.clone();
        if !self.files.reads_maps {
            return pairs;
        }
        // A mask is decoded once for all layers.
        let mut by_class: HashMap<String, Vec<[f64; 4]>> = HashMap::new();
        for pair in &mut pairs {
            let boxes = match (&pair.a.detection, &self.objects) {
                (Some(detection), _) => detection.bounds.into_iter().collect(),
                (None, Some(objects)) => {
                    let class = &pair.a.series.class;
                    by_class.entry(class.clone()).or_insert_with(|| objects.of_class(&paired.target, class)).clone()
                }
                (None, None) => Vec::new(),
            };
            pair.maps = MapPair::read(&pair.a, &pair.b, &boxes);
        }
        pairs
    }
}

/// A sample with pairs, of which nothing was read.
struct Paired {
    sample: MeasuredSample,
    target: StoredTarget,
    pairs: Vec<HeatmapPair>,
}

fn distinct<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = HashSet::new();
    names.filter(|name| seen.insert(*name)).cloned().collect()
}
