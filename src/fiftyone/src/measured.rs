//! Reading measures back from the labels, for reports.

use bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc, oid::ObjectId};

use std::collections::HashMap;

use super::{
    dataset::Dataset,
    error::Error,
    retry::with_retries,
    sample_page::sample_page,
    selection::{Selection, among, filter, parse_ids, told_tags, unknown_fields},
    source::unknown_ids,
    stored_label::numbers,
    stored_sample::SampleReader,
};
use camflow_measure::{Attention, Measure, MeasuredHeatmap, MeasuredSample, Measures, Series, StoredDetection, StoredPrediction};
use camflow_names::Choice;
use camflow_pipeline::StoredTarget;

/// Samples per query. A label with its measures takes about a kilobyte.
const PAGE: usize = 1000;

/// The same where labels are read along, which may hold masks.
const LABELLED_PAGE: usize = 32;

/// What a label says beside its measures.
const FACTS: [&str; 16] = [
    "fingerprint",
    "target_class",
    "layer",
    "method",
    "model",
    "map_path",
    "npy_path",
    "upsampling",
    "attention_on",
    "attention",
    "contrast_class",
    "predicted_class",
    "predicted_confidence",
    "true_class",
    "correct",
    "score",
];

/// Reads samples with measured heatmaps in the order of their ids.
#[derive(Debug)]
pub struct MeasuredSource {
    dataset: Dataset,
    fields: Vec<String>,
    filter: Document,
    /// Reads the label along, where one is wanted.
    label: Option<SampleReader>,
    last: Option<ObjectId>,
    /// What is left of the ids that were chosen, the next ones last; `None` where all samples are.
    ids: Option<Vec<ObjectId>>,
    notices: Vec<String>,
}

impl MeasuredSource {
    /// The measures that camflow left in these fields, of heatmaps or of detections that have heatmaps; the selection says of which
    /// samples, and which label to read along.
    ///
    /// # Errors
    /// The selection's query is none, or one of its ids.
    pub fn new(dataset: &Dataset, fields: Vec<String>, selection: &Selection) -> Result<MeasuredSource, Error> {
        let filter = filter(dataset, selection)?;
        let mut ids = selection.ids.as_deref().map(|ids| parse_ids(dataset, ids)).transpose()?;
        let mut notices = told_tags(dataset, &selection.tags)?;
        notices.extend(unknown_fields(dataset, selection.matching.as_deref()));
        notices.extend(unknown_ids(dataset, ids.as_deref().unwrap_or_default(), None)?);
        ids.iter_mut().for_each(|ids| ids.sort_unstable_by(|a, b| b.cmp(a)));
        let label = selection.label.clone().map(|label| SampleReader::new(Some(label), Vec::new(), None));
        Ok(MeasuredSource { dataset: dataset.clone(), fields, filter, label, last: None, ids, notices })
    }

    /// What the user should know about the selection, lowercase, without a period.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The next samples that have heatmaps of camflow's; an empty list ends the dataset.
    ///
    /// # Errors
    /// The database fails, or the dataset is gone.
    pub fn next_page(&mut self) -> Result<Vec<MeasuredSample>, Error> {
        Ok(self.next_labelled_page()?.into_iter().map(|(sample, _)| sample).collect())
    }

    /// The same, with what each sample has in the label field; [`StoredTarget::Unlabelled`] where none was chosen.
    ///
    /// # Errors
    /// The database fails, or the dataset is gone.
    pub fn next_labelled_page(&mut self) -> Result<Vec<(MeasuredSample, StoredTarget)>, Error> {
        let size = self.page_size();
        let page = loop {
            let chosen = self.ids.as_mut().map(|ids| ids.split_off(ids.len().saturating_sub(size)));
            let page = self.read_page(chosen.as_deref())?;
            // None of the chosen ones may have heatmaps, and there may be more of them.
            if !page.is_empty() || self.ids.as_ref().is_none_or(Vec::is_empty) {
                break page;
            }
        };
        match page.last() {
            None => with_retries(|| self.dataset.check_exists())?,
            Some(last) => self.last = last.get_object_id("_id").ok(),
        }
        let target = |sample: &RawDocument| match &self.label {
            None => StoredTarget::Unlabelled,
            Some(reader) => reader.read(0, sample).target,
        };
        Ok(page.iter().map(|sample| (self.read(sample), target(sample))).collect())
    }

    fn page_size(&self) -> usize {
        if self.label.is_some() { LABELLED_PAGE } else { PAGE }
    }

    fn read_page(&self, chosen: Option<&[ObjectId]>) -> Result<Vec<RawDocumentBuf>, Error> {
        let query = chosen.map_or_else(|| self.query(), |ids| among(&self.query(), ids));
        sample_page(&self.dataset, &query, self.last, &self.projection(), self.page_size(), &self.doing())
    }

    fn doing(&self) -> String {
        format!("reading the measures of dataset `{}`", self.dataset.name)
    }

    /// The samples of these images that have heatmaps, by image; several of an image that several samples have.
    ///
    /// # Errors
    /// The database fails.
    pub fn of_images(&self, paths: &[String]) -> Result<HashMap<String, Vec<MeasuredSample>>, Error> {
        let query = doc! {"$and": [{"filepath": {"$in": paths}}, self.query()]};
        let mut found: HashMap<String, Vec<MeasuredSample>> = HashMap::new();
        let mut last = None;
        loop {
            let page = sample_page(&self.dataset, &query, last, &self.projection(), PAGE, &self.doing())?;
            let Some(end) = page.last() else { return Ok(found) };
            last = end.get_object_id("_id").ok();
            for sample in &page {
                let path = sample.get_str("filepath").unwrap_or_default().to_owned();
                found.entry(path).or_default().push(self.read(sample));
            }
        }
    }

    /// How many samples of the selection have heatmaps; chosen ids are not looked at.
    ///
    /// # Errors
    /// The database fails.
    pub fn count(&self) -> Result<u64, Error> {
        let samples = self.dataset.database.collection::<Document>(&self.dataset.samples);
        with_retries(|| {
            let query = self.query();
            self.dataset.database.run(&self.doing(), async { samples.count_documents(query).await })
        })
    }

    fn query(&self) -> Document {
        let has = |field: &String| Bson::Document(doc! {format!("{field}.fingerprint"): {"$type": "string"}});
        let any = doc! {"$or": self.fields.iter().map(has).collect::<Vec<_>>()};
        doc! {"$and": [self.filter.clone(), any]}
    }

    fn projection(&self) -> Document {
        let mut projection = doc! {"filepath": 1, "tags": 1};
        let detections = self.dataset.detection_fields();
        for field in &self.fields {
            let attributes = || FACTS.into_iter().chain(Measure::ALL.iter().map(|measure| measure.name()));
            projection.extend(attributes().map(|attribute| (format!("{field}.{attribute}"), 1.into())));
            if detections.contains(field) {
                let of_each = attributes().chain(["_id", "label", "bounding_box", "rank", "outcome", "outcome_iou"]);
                projection.extend(of_each.map(|attribute| (format!("{field}.detections.{attribute}"), 1.into())));
            }
        }
        if let Some(reader) = &self.label {
            projection.extend(reader.projection());
        }
        projection
    }

    fn read(&self, sample: &RawDocument) -> MeasuredSample {
        let label = |field: &String| sample.get_document(field).map_or_else(|_| Vec::new(), |label| heatmaps(field, label));
        let tags = sample.get_array("tags").ok().into_iter().flatten();
        MeasuredSample {
            id: sample.get_object_id("_id").map(|id| id.to_hex()).unwrap_or_default(),
            media_path: sample.get_str("filepath").unwrap_or_default().into(),
            tags: tags.filter_map(|tag| tag.ok()?.as_str().map(ToOwned::to_owned)).collect(),
            heatmaps: self.fields.iter().flat_map(label).collect(),
        }
    }
}

/// What a label says, if it is one of camflow's: of a heatmap, or of each of its detections.
fn heatmaps(field: &str, label: &RawDocument) -> Vec<MeasuredHeatmap> {
    if label.get_str("fingerprint").is_err() {
        return Vec::new();
    }
    let Ok(detections) = label.get_array("detections") else { return vec![heatmap(field, label, label)] };
    let each = detections.into_iter().filter_map(|detection| detection.ok()?.as_document());
    each.map(|detection| MeasuredHeatmap { detection: Some(stored_detection(detection)), ..heatmap(field, label, detection) })
        .collect()
}

fn stored_detection(detection: &RawDocument) -> StoredDetection {
    StoredDetection {
        id: detection.get_object_id("_id").map(|id| id.to_hex()).unwrap_or_default(),
        bounds: detection.get_array("bounding_box").ok().and_then(numbers),
        rank: number(detection, "rank").map(|rank| rank as u64),
        outcome: detection.get_str("outcome").ok().map(ToOwned::to_owned),
        outcome_iou: number(detection, "outcome_iou"),
    }
}

/// What is said of a heatmap; `all` says what it shares with others of its label.
fn heatmap(field: &str, all: &RawDocument, label: &RawDocument) -> MeasuredHeatmap {
    let text = |key: &str| label.get_str(key).or_else(|_| all.get_str(key)).ok().map(ToOwned::to_owned);
    let number = |key: &str| number(label, key);
    let series = Series {
        field: field.to_owned(),
        class: text("target_class").or_else(|| text("label")).unwrap_or_default(),
        layer: text("layer").unwrap_or_default(),
        method: text("method").unwrap_or_default(),
        model: text("model").unwrap_or_default(),
    };
    let measures =
        Measure::ALL.iter().fold(Measures::default(), |measures, measure| measures.with(*measure, number(measure.name())));
    let (map_path, npy_path) = (text("map_path").map(Into::into), text("npy_path").map(Into::into));
    let integer = |item: RawBsonRef<'_>| item.as_i64().or_else(|| item.as_i32().map(i64::from));
    let upsampling = label.get_array("upsampling").ok();
    let upsampling =
        upsampling.and_then(|numbers| numbers.into_iter().map(|item| integer(item.ok()?)).collect()).unwrap_or_default();
    let prediction = text("predicted_class").map(|class| StoredPrediction {
        class,
        confidence: number("predicted_confidence"),
        true_class: text("true_class"),
        is_correct: label.get_bool("correct").ok(),
    });
    MeasuredHeatmap {
        series,
        score: number("score"),
        measures,
        attention_on: text("attention_on"),
        attention: label.get_array("attention").ok().into_iter().flatten().filter_map(|one| attention(one.ok()?)).collect(),
        contrast: text("contrast_class"),
        prediction,
        detection: None,
        map_path,
        npy_path,
        upsampling,
    }
}

fn number(label: &RawDocument, key: &str) -> Option<f64> {
    as_number(label.get(key).ok()??)
}

fn as_number(value: RawBsonRef<'_>) -> Option<f64> {
    match value {
        RawBsonRef::Double(number) => Some(number),
        RawBsonRef::Int32(number) => Some(f64::from(number)),
        RawBsonRef::Int64(number) => Some(number as f64),
        RawBsonRef::Boolean(yes) => Some(f64::from(u8::from(yes))),
        _ => None,
    }
}

/// What of a heatmap lies on one class.
fn attention(one: RawBsonRef<'_>) -> Option<Attention> {
    let one = one.as_document()?;
    let label = one.get_str("label").ok().map(ToOwned::to_owned);
    Some(Attention { label, share: number(one, "share"), area: number(one, "area")? })
}
