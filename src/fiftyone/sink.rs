//! Heatmaps into samples: one command for many samples, one atomic update for each sample with all its heatmap fields.
//!
//! The server is a standalone without transactions, so each update has to be right by itself, and making it twice has
//! to change nothing more: a lost connection is answered by sending the same command again. Each is conditional on the run's
//! lease and on what was read (docs/storage.md).

use std::{
    collections::HashMap,
    path::{Path, absolute},
    time::{Duration, Instant},
};

use bson::{Binary, Bson, Document, RawDocument, RawDocumentBuf, doc, oid::ObjectId, spec::BinarySubtype};
use futures_util::TryStreamExt;

use super::{
    dataset::Dataset,
    error::Error,
    lock::{Fence, Lock},
    retry::with_retries,
    schema::{HeatmapField, Schema},
    shard::Shard,
    stored_sample::{HEATMAP_KEYS, heatmap},
};
use crate::{
    measure::Measure,
    names::{Choice, shown},
    pipeline::{CommitOutcome, RunError, SampleUpdate, Sink, StoredHeatmap, StoredMap, WrittenHeatmap},
    storage::FolderLease,
};

/// Updates per command.
const OPS: usize = 1000;

/// How often updates are sent again that came after the end of the lease, each time under a lease that was renewed.
const ATTEMPTS: usize = 5;

/// Bytes per command. The driver sends a command as one document, for which the server's limit is 16 MiB and a little;
/// the rest is for the command's own keys.
const COMMAND_BYTES: usize = 15 << 20;

/// Milliseconds for an update to become safe, after which it is made again. Safe means in the journal, on most servers of a
/// replica set. A standalone server by itself answers up to 100 ms before that: if it crashed then, samples would refer again
/// to files that were removed on its word.
const SAFE: i32 = 60_000;

/// How often to look whether the fields are still declared. While one is not, FiftyOne cannot read the dataset; a look
/// costs less than a millisecond.
const LOOK: Duration = Duration::from_secs(1);

/// Makes the updates of a run.
#[derive(Debug)]
pub struct UpdateSink {
    dataset: Dataset,
    schema: Schema,
    looked: Option<Instant>,
    lock: Option<Lock>,
    /// On the folder of the files to which the updates refer.
    folder: Option<FolderLease>,
    /// The field that the App is to tick, if fields are new.
    ticked: Option<String>,
}

impl UpdateSink {
    pub(super) fn new(dataset: Dataset, fields: Vec<HeatmapField>) -> Result<Self, Error> {
        let schema = Schema::new(dataset.clone(), fields);
        schema.check()?;
        Ok(UpdateSink { dataset, schema, looked: None, lock: None, folder: None, ticked: None })
    }

    /// Takes the fields of a shard's samples for this run alone, as long as the sink lives.
    ///
    /// # Errors
    /// [`Error::Locked`] while another run writes one of them for samples of the shard, or the database fails.
    pub fn lock(&mut self, shard: Shard) -> Result<(), Error> {
        let fields: Vec<String> = self.schema.fields().map(|field| field.name.clone()).collect();
        self.lock = Some(Lock::acquire(&self.dataset, Some(&fields), shard)?);
        Ok(())
    }

    /// Keeps the folder of the files to which the updates refer from those who remove files, as long as the sink lives.
    pub fn hold(&mut self, folder: FolderLease) {
        self.folder = Some(folder);
    }

    /// Makes sure of the leases, that on the folder last: it ends after what is sent under the fence.
    fn fence(&self) -> Result<Option<Fence>, Error> {
        let fence = self.lock.as_ref().map(Lock::check).transpose()?;
        self.folder.as_ref().map_or(Ok(()), FolderLease::check)?;
        Ok(fence)
    }

    /// Has the App show new fields as soon as they are there, this one ticked, where the user has made no settings.
    pub fn show_in_app(&mut self, ticked: String) {
        self.ticked = Some(ticked);
    }

    /// The fields' declarations: call [`Schema::declare`] when the run is over.
    pub fn schema(&self) -> Schema {
        self.schema.clone()
    }

    /// Before the first update and now and then.
    fn look_after_schema(&mut self) -> Result<(), Error> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            with_retries(|| self.schema.declare())?;
            if let Some(ticked) = self.ticked.take() {
                let fields: Vec<&str> = self.schema.fields().map(|field| field.name.as_str()).collect();
                self.dataset.show_in_app(&fields, &ticked)?;
            }
            self.looked = Some(Instant::now());
        }
        Ok(())
    }

    /// Sends the operations, and returns their outcomes in order.
    fn send(&self, operations: &[Operation]) -> Result<Vec<CommitOutcome>, Error> {
        let mut outcomes = vec![CommitOutcome::Committed; operations.len()];
        let mut pending: Vec<usize> = (0..operations.len()).collect();
        for _ in 0..ATTEMPTS {
            let fence = self.fence()?;
            let sent: Vec<&Operation> = pending.iter().map(|index| &operations[*index]).collect();
            let reply = self.send_once(&sent, fence.as_ref())?;
            let mut refused = HashMap::new();
            for error in reply.get_array("writeErrors").into_iter().flatten().filter_map(Bson::as_document) {
                if let Some(position) = error.get("index").and_then(number).and_then(|index| usize::try_from(index).ok()) {
                    refused.insert(position, explain(error));
                }
            }
            let matched = reply.get("n").and_then(number).and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
            let all_matched = matched + refused.len() >= sent.len();
            let stored = match all_matched {
                true => None,
                // Whoever lost the lease meanwhile has lost it for all samples. Else the reply counts, but does not say which.
                false => self.fence().and_then(|_| with_retries(|| self.stored(&sent))).map(Some)?,
            };
            let mut late = Vec::new();
            for (position, index) in pending.iter().enumerate() {
                if let Some(reason) = refused.remove(&position) {
                    outcomes[*index] = CommitOutcome::Refused(reason);
                } else if let Some(stored) = &stored {
                    match stored.get(&operations[*index].sample) {
                        None => outcomes[*index] = CommitOutcome::SampleGone,
                        Some(sample) => match operations[*index].changed(sample) {
                            Some(field) => outcomes[*index] = CommitOutcome::Abandoned(changed_meanwhile(field)),
                            // It was made, or it came too late: sent again it changes nothing more.
                            None => late.push(*index),
                        },
                    }
                }
            }
            if stored.as_ref().is_some_and(HashMap::is_empty) {
                with_retries(|| self.dataset.check_exists())?;
            }
            // All that is left was made if as many matched.
            if late.len() <= matched {
                return Ok(outcomes);
            }
            pending = late;
        }
        Err(Error::OutOfTime { dataset: self.dataset.name.clone() })
    }

    fn send_once(&self, operations: &[&Operation], fence: Option<&Fence>) -> Result<Document, Error> {
        let updates: Vec<Bson> = operations.iter().map(|operation| operation.statement(fence).into()).collect();
        let command = doc! {
            "update": &self.dataset.samples, "ordered": false, "updates": updates,
            "writeConcern": {"w": "majority", "j": true, "wtimeout": SAFE},
        };
        let doing = format!("updating samples of dataset `{}`", self.dataset.name);
        let database = &self.dataset.database;
        with_retries(|| {
            let command = command.clone();
            let reply = database.run(&doing, async { database.mongodb().run_command(command).await })?;
            check_durable(&doing, reply)
        })
    }

    /// The samples that are there, with what their labels are compared by.
    fn stored(&self, operations: &[&Operation]) -> Result<HashMap<ObjectId, RawDocumentBuf>, Error> {
        let ids: Vec<ObjectId> = operations.iter().map(|operation| operation.sample).collect();
        let mut projection = doc! {"_id": 1};
        for label in operations.iter().flat_map(|operation| &operation.labels) {
            projection.extend(HEATMAP_KEYS.map(|key| (format!("{}.{key}", label.field), 1.into())));
        }
        let database = &self.dataset.database;
        let found: Vec<RawDocumentBuf> =
            database.run(&format!("looking for samples of dataset `{}`", self.dataset.name), async {
                let samples = database.collection::<RawDocumentBuf>(&self.dataset.samples);
                samples.find(doc! {"_id": {"$in": ids}}).projection(projection).await?.try_collect().await
            })?;
        Ok(found.into_iter().filter_map(|sample| Some((sample.get_object_id("_id").ok()?, sample))).collect())
    }
}

impl Sink for UpdateSink {
    fn commit(&mut self, updates: &[SampleUpdate]) -> Result<Vec<CommitOutcome>, RunError> {
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        self.fence()?;
        self.look_after_schema()?;
        let mut outcomes: Vec<Option<CommitOutcome>> = vec![None; updates.len()];
        let mut pending = Vec::new();
        for (index, update) in updates.iter().enumerate() {
            match operation(update, &self.schema) {
                Ok(operation) => pending.push((index, operation)),
                Err(reason) => outcomes[index] = Some(CommitOutcome::Refused(reason)),
            }
        }
        while !pending.is_empty() {
            let rest = pending.split_off(fitting(&pending));
            let (indices, operations): (Vec<_>, Vec<_>) = std::mem::replace(&mut pending, rest).into_iter().unzip();
            for (index, outcome) in indices.into_iter().zip(self.send(&operations)?) {
                outcomes[index] = Some(outcome);
            }
        }
        // A field that was deleted before these updates arrived is now in samples but not in the schema.
        self.look_after_schema()?;
        Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or(CommitOutcome::Committed)).collect())
    }
}

/// A sample's update, ready to be sent.
struct Operation {
    sample: ObjectId,
    labels: Vec<Label>,
    update: Vec<Document>,
    bytes: usize,
}

/// One label of an update: what it was and what it becomes. It may be made only if the label is one of both.
struct Label {
    field: String,
    /// `None` if there was none.
    read: Option<StoredHeatmap>,
    /// The fingerprint; `None` for a label that is taken away.
    new: Option<String>,
}

impl Operation {
    /// The update, under all its conditions.
    fn statement(&self, fence: Option<&Fence>) -> Document {
        let mut query = doc! {"_id": self.sample};
        query.insert("$and", self.labels.iter().map(Label::condition).collect::<Vec<_>>());
        query.extend(fence.map(|fence| ("$expr".to_owned(), Bson::from(fence.condition()))));
        doc! {"q": query, "u": &self.update, "multi": false, "upsert": false}
    }

    /// The field that somebody else changed, if the sample is as it is stored here.
    fn changed(&self, sample: &RawDocument) -> Option<&str> {
        let stored = |field: &str| sample.get_document(field).ok().map(|label| heatmap(field, label));
        self.labels.iter().find(|label| !label.may_be(stored(&label.field).as_ref())).map(|label| label.field.as_str())
    }
}

impl Label {
    /// What the server compares.
    fn condition(&self) -> Document {
        let Label { field, read, new } = self;
        let is_none = || doc! {field: {"$not": {"$type": "object"}}};
        let as_read = match read {
            None => is_none(),
            Some(read) => {
                let mut all = vec![doc! {field: {"$type": "object"}}];
                all.push(match &read.fingerprint {
                    Some(fingerprint) => doc! {format!("{field}.fingerprint"): fingerprint},
                    // In a fragment it counts for nothing.
                    None => doc! {"$or": [
                        {format!("{field}.fingerprint"): {"$not": {"$type": "string"}}}, {format!("{field}._cls"): {"$ne": "Heatmap"}},
                    ]},
                });
                for (key, path) in [("map_path", &read.map_path), ("npy_path", &read.npy_path)] {
                    let key = format!("{field}.{key}");
                    all.push(match path {
                        Some(path) => doc! {key: path.to_string_lossy().as_ref()},
                        None => doc! {"$or": [{&key: {"$not": {"$type": "string"}}}, {&key: ""}]},
                    });
                }
                doc! {"$and": all}
            }
        };
        let as_wanted = match new {
            None => is_none(),
            Some(fingerprint) => doc! {format!("{field}.fingerprint"): fingerprint},
        };
        doc! {"$or": [as_read, as_wanted]}
    }

    /// The same of a label that is at hand.
    fn may_be(&self, stored: Option<&StoredHeatmap>) -> bool {
        let compared = |label: &StoredHeatmap| (label.fingerprint.clone(), label.map_path.clone(), label.npy_path.clone());
        let as_wanted = match &self.new {
            None => stored.is_none(),
            Some(_) => stored.is_some_and(|stored| stored.fingerprint == self.new),
        };
        as_wanted || stored.map(compared) == self.read.as_ref().map(compared)
    }
}

fn changed_meanwhile(field: &str) -> String {
    format!(
        "somebody changed its `{}` while it was computed; the label stays as it is\nhint: run the same command again, which looks at the sample as it is now",
        shown(field)
    )
}

/// How many of the operations go into the next command; at least one.
fn fitting(pending: &[(usize, Operation)]) -> usize {
    let mut bytes = 0;
    let fits = |(_, operation): &&(usize, Operation)| {
        bytes += operation.bytes;
        bytes <= COMMAND_BYTES
    };
    pending.iter().take(OPS).take_while(fits).count().max(1)
}

/// The update of one sample; an error is the reason why it cannot be made.
fn operation(update: &SampleUpdate, schema: &Schema) -> Result<Operation, String> {
    let sample = ObjectId::parse_str(&update.sample.id).map_err(|_| format!("`{}` is not a sample id", update.sample.id))?;
    let mut set = Document::new();
    let mut unset = Vec::new();
    let mut labels = Vec::new();
    let mut was_read = |field: &str, new: Option<String>| {
        let read = update.existing.iter().find(|stored| stored.field == field).cloned();
        labels.push(Label { field: field.to_owned(), read, new });
    };
    for heatmap in &update.heatmaps {
        let field =
            schema.field(&heatmap.field).ok_or_else(|| format!("field `{}` was not declared for this run", heatmap.field))?;
        was_read(&heatmap.field, Some(heatmap.fingerprint.clone()));
        set.insert(&heatmap.field, label(heatmap, field)?);
        unset.push(Bson::String(match heatmap.map {
            StoredMap::File(_) => format!("{}.map", heatmap.field),
            StoredMap::Inline(_) => format!("{}.map_path", heatmap.field),
        }));
    }
    update.withdrawn.iter().for_each(|field| was_read(field, None));
    unset.extend(update.withdrawn.iter().map(|field| Bson::String(field.clone())));
    if unset.is_empty() {
        return Err("the update names no heatmap".to_owned());
    }
    // The App saves a whole sample only if this moment is the one it saw, so without it a save in flight would undo
    // ours.
    set.insert("last_modified_at", "$$NOW");
    let update = vec![doc! {"$set": set}, doc! {"$unset": unset}];
    let mut operation = Operation { sample, labels, update, bytes: 0 };
    let bytes = operation.statement(None).to_vec().map_err(|error| error.to_string())?.len();
    if bytes > COMMAND_BYTES {
        return Err(format!("its heatmaps take {} MiB, more than MongoDB stores in one sample; use `--store path`", bytes >> 20));
    }
    // The key in the array of updates, and the fence.
    operation.bytes = bytes + 200;
    Ok(operation)
}

/// The expression whose value is the new label: a stored label keeps its id, its tags and what people added to it;
/// null, absent and fragmentary ones become whole.
fn label(heatmap: &WrittenHeatmap, field: &HeatmapField) -> Result<Document, String> {
    let stored = |key: &str| format!("${}.{key}", heatmap.field);
    let id = ObjectId::new();
    let mut values = doc! {"_cls": "Heatmap"};
    match &heatmap.map {
        // The App takes the range in stored pixel units.
        StoredMap::File(path) => values.extend(doc! {"map_path": path_text(path)?, "range": [0.0, 255.0]}),
        StoredMap::Inline(bytes) => {
            let map = Binary { subtype: BinarySubtype::Generic, bytes: bytes.clone() };
            values.extend(doc! {"map": map, "range": [0.0, 1.0]});
        }
    }
    values.extend(doc! {
        "npy_path": heatmap.npy_path.as_deref().map(path_text).transpose()?,
        // As text: a number would be taken for a measure.
        "map_checksum": heatmap.map_checksum.as_ref().map(ToString::to_string),
        "npy_checksum": heatmap.npy_checksum.as_ref().map(ToString::to_string),
        "fingerprint": &heatmap.fingerprint,
        "target_class": &heatmap.class,
        "layer": &field.layer,
        "method": &field.method,
        "model": &field.model,
        // FiftyOne's bounds over a field with a NaN are NaN.
        "score": Some(heatmap.score).filter(|score| score.is_finite()),
    });
    values.extend(Measure::ALL.iter().map(|measure| {
        let number = heatmap.measures.get(*measure);
        let value = if measure.is_yes_or_no() { number.map(|number| number != 0.0).into() } else { Bson::from(number) };
        (measure.name().to_owned(), value)
    }));
    Ok(doc! {"$mergeObjects": [
        // First, for the order of the keys.
        {"_id": id, "_cls": "Heatmap", "tags": []},
        format!("${}", heatmap.field),
        // Literally: a path or a name may begin with a dollar sign.
        {"$literal": values},
        {"_id": {"$ifNull": [stored("_id"), id]}, "tags": {"$ifNull": [stored("tags"), []]}},
    ]})
}

/// FiftyOne resolves relative paths against nothing.
fn path_text(path: &Path) -> Result<String, String> {
    let absolute = absolute(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|path| format!("the path `{}` is not UTF-8, which MongoDB needs", path.display()))
}

/// The update was made but may be lost with its server, so it is made again.
fn check_durable(doing: &str, reply: Document) -> Result<Document, Error> {
    match reply.get_document("writeConcernError") {
        Ok(error) => {
            let message = error.get_str("errmsg").unwrap_or("the write is not yet safe on the other servers");
            Err(Error::driver(doing, std::io::Error::other(message.to_owned()).into()))
        }
        Err(_) => Ok(reply),
    }
}

/// The server's reason for refusing one update, in words for the user where they are known.
fn explain(error: &Document) -> String {
    /// BSONObjectTooLarge, and the same from an update's expression.
    const TOO_LARGE: [i64; 2] = [10334, 17419];
    let message = error.get_str("errmsg").unwrap_or("no reason given");
    match error.get("code").and_then(number) {
        Some(code) if TOO_LARGE.contains(&code) => {
            "the sample would exceed MongoDB's 16 MiB; use `--store path`, or `--size layer` for smaller maps".to_owned()
        }
        Some(code) => format!("{message} (error {code})"),
        None => message.to_owned(),
    }
}

fn number(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) if number.fract() == 0.0 => Some(*number as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Checksum;

    fn field() -> HeatmapField {
        let text = |text: &str| text.to_owned();
        HeatmapField { name: text("cam"), layer: text("layer4"), method: text("gradcam"), model: text("m") }
    }

    fn heatmap(map: StoredMap) -> WrittenHeatmap {
        let (field, class, fingerprint) = ("cam".into(), "$person".into(), "f".into());
        WrittenHeatmap {
            field,
            class,
            map,
            npy_path: None,
            map_checksum: None,
            npy_checksum: None,
            score: f64::NAN,
            measures: crate::measure::Measures::default(),
            fingerprint,
        }
    }

    fn values(expression: &Document) -> &Document {
        let parts = expression.get_array("$mergeObjects").unwrap();
        parts[2].as_document().unwrap().get_document("$literal").unwrap()
    }

    #[test]
    fn every_declared_attribute_is_written() {
        let expression = label(&heatmap(StoredMap::File("/maps/a.png".into())), &field()).unwrap();
        let expected = doc! {
            "_cls": "Heatmap", "map_path": "/maps/a.png", "range": [0.0, 255.0], "npy_path": null,
            "map_checksum": null, "npy_checksum": null, "fingerprint": "f",
            "target_class": "$person", "layer": "layer4", "method": "gradcam", "model": "m", "score": null,
            "energy_inside": null, "energy_ratio": null, "pointing_hit": null, "best_iou": null, "best_threshold": null,
            "center_offset": null, "object_area": null, "entropy": null, "rank_correlation": null,
            "confidence": null, "confidence_drop": null, "confidence_increase": null, "deletion_auc": null,
            "insertion_auc": null, "road": null,
        };
        assert_eq!(*values(&expression), expected);
    }

    #[test]
    fn checksums_of_files_are_texts() {
        let [map, npy] = [b"map", b"npy"].map(|bytes| Some(Checksum::of(bytes)));
        let file = StoredMap::File("/maps/a.png".into());
        let written = WrittenHeatmap { map_checksum: map, npy_checksum: npy, ..heatmap(file) };
        let expression = label(&written, &field()).unwrap();
        let of = |key: &str| values(&expression).get_str(key).ok()?.parse::<Checksum>().ok();
        assert_eq!((of("map_checksum"), of("npy_checksum")), (map, npy));
    }

    #[test]
    fn inline_maps_are_generic_binaries() {
        let expression = label(&heatmap(StoredMap::Inline(vec![1, 2, 3])), &field()).unwrap();
        let map = Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 3] });
        assert_eq!(values(&expression).get("map"), Some(&map));
        assert!(!values(&expression).contains_key("map_path"));
    }

    #[test]
    fn paths_are_stored_absolute() {
        let text = path_text(Path::new("maps/a.png")).unwrap();
        assert!(Path::new(&text).is_absolute() && text.ends_with("maps/a.png"), "{text}");
    }

    #[test]
    fn commands_are_cut_by_bytes_and_number() {
        let operations = |count: usize, bytes: usize| -> Vec<_> {
            (0..count)
                .map(|n| (n, Operation { sample: ObjectId::new(), labels: Vec::new(), update: Vec::new(), bytes }))
                .collect()
        };
        assert_eq!(fitting(&operations(2000, 10)), OPS);
        assert_eq!(fitting(&operations(10, 4 << 20)), 3);
        assert_eq!(fitting(&operations(1, COMMAND_BYTES + 1)), 1);
    }

    #[test]
    fn refusals_say_what_to_do() {
        assert!(explain(&doc! {"index": 0, "code": 10334, "errmsg": "BSONObj size"}).contains("--store path"));
        assert_eq!(explain(&doc! {"code": 40400, "errmsg": "no object"}), "no object (error 40400)");
    }
}
