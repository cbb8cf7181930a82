//! Reading measures back from the labels, for reports.

use bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc, oid::ObjectId};

use super::{
    dataset::Dataset,
    error::Error,
    retry::with_retries,
    sample_page::sample_page,
    selection::{Selection, among, filter, parse_ids, told_tags, unknown_fields},
    source::unknown_ids,
    stored_label::numbers,
};
use camflow_measure::{Attention, Measure, MeasuredHeatmap, MeasuredSample, Measures, Series, StoredDetection, StoredPrediction};
use camflow_names::Choice;

/// Samples per query. A label with its measures takes about a kilobyte.
const PAGE: usize = 1000;

/// Reads samples with measured heatmaps in the order of their ids.
#[derive(Debug)]
pub struct MeasuredSource {
    dataset: Dataset,
    fields: Vec<String>,
    filter: Document,
    last: Option<ObjectId>,
    /// What is left of the ids that were chosen, the next ones last; `None` where all samples are.
    ids: Option<Vec<ObjectId>>,
    notices: Vec<String>,
}

impl MeasuredSource {
    /// The measures that camflow left in these fields; the selection says of which samples.
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
        Ok(MeasuredSource { dataset: dataset.clone(), fields, filter, last: None, ids, notices })
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
        let page = loop {
            let chosen = self.ids.as_mut().map(|ids| ids.split_off(ids.len().saturating_sub(PAGE)));
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
        Ok(page.iter().map(|sample| self.read(sample)).collect())
    }

    fn read_page(&self, chosen: Option<&[ObjectId]>) -> Result<Vec<RawDocumentBuf>, Error> {
        let doing = format!("reading the measures of dataset `{}`", self.dataset.name);
        let query = chosen.map_or_else(|| self.query(), |ids| among(&self.query(), ids));
        sample_page(&self.dataset, &query, self.last, &self.projection(), PAGE, &doing)
    }

    fn query(&self) -> Document {
        let has = |field: &String| Bson::Document(doc! {format!("{field}.fingerprint"): {"$type": "string"}});
        let any = doc! {"$or": self.fields.iter().map(has).collect::<Vec<_>>()};
        doc! {"$and": [self.filter.clone(), any]}
    }

    fn projection(&self) -> Document {
        const FACTS: [&str; 15] = [
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
        ];
        const OF_DETECTIONS: [&str; 5] = ["_id", "bounding_box", "rank", "outcome", "outcome_iou"];
        let mut projection = doc! {"filepath": 1, "tags": 1};
        let attributes = || FACTS.into_iter().chain(["score"]).chain(Measure::ALL.iter().map(|measure| measure.name()));
        for field in &self.fields {
            projection.extend(attributes().map(|attribute| (format!("{field}.{attribute}"), 1.into())));
            let of_each = attributes().chain(OF_DETECTIONS);
            projection.extend(of_each.map(|attribute| (format!("{field}.detections.{attribute}"), 1.into())));
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
        class: text("target_class").unwrap_or_default(),
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
    match label.get(key).ok()?? {
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
