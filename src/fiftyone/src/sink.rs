//! Heatmaps into samples: one command for many samples, one atomic update for each sample with all its heatmap fields.
//!
//! The server is a standalone without transactions, so each update has to be right by itself, and making it twice has
//! to change nothing more: a lost connection is answered by sending the same command again. Each is conditional on the run's
//! lease and on what was read (docs/storage.md).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bson::{Bson, Document, RawDocumentBuf, doc, oid::ObjectId};
use futures_util::TryStreamExt;

use super::{
    app_config::{AppView, show_in_app},
    dataset::Dataset,
    detection_view::save_views,
    error::Error,
    lock::{Fence, Lock},
    operation::{COMMAND_BYTES, Operation, operation},
    retry::with_retries,
    schema::{HeatmapField, Schema},
    shard::Shard,
    stored_heatmap::HEATMAP_KEYS,
};
use camflow_names::shown;
use camflow_pipeline::{CommitOutcome, PredictionField, RunError, SampleUpdate, Sink};
use camflow_storage::FolderLease;

/// Updates per command.
const OPS: usize = 1000;

/// How often updates are sent again that came after the end of the lease, each time under a lease that was renewed.
const ATTEMPTS: usize = 5;

/// Milliseconds for an update to become safe, after which it is made again. Safe means in the journal, on most servers of a
/// replica set. A standalone server by itself answers up to 100 ms before that: if it crashed then, samples would refer again
/// to files that were removed on its word.
const SAFE: i32 = 60_000;

/// How often to look whether the fields are still declared. While one is not, FiftyOne cannot read the dataset; a look
/// costs less than a millisecond.
const LOOK: Duration = Duration::from_secs(1);

/// How many samples of the first commit are looked at again in the end; one alone may have been edited by itself.
const WITNESSES: usize = 16;

/// Makes the updates of a run.
#[derive(Debug)]
pub struct UpdateSink {
    dataset: Dataset,
    schema: Schema,
    looked: Option<Instant>,
    lock: Option<Lock>,
    /// On the folder of the files to which the updates refer.
    folder: Option<FolderLease>,
    /// What the App is to show, if fields are new, until that is noted.
    app_view: Option<AppView>,
    /// What the values in masks of predictions are called, until that is noted.
    mask_names: Option<(String, Vec<(i64, String)>)>,
    /// Samples of the first commit, with the fields that got labels.
    witnesses: Vec<(ObjectId, Vec<String>)>,
}

impl UpdateSink {
    /// Where the heatmaps of these fields go. Nothing is written yet: the fields are declared with the first update.
    ///
    /// # Errors
    /// One of the names is not allowed or is taken by something else.
    pub fn new(dataset: &Dataset, fields: Vec<HeatmapField>) -> Result<Self, Error> {
        let schema = Schema::new(dataset.clone(), fields);
        schema.check()?;
        Ok(UpdateSink {
            dataset: dataset.clone(),
            schema,
            looked: None,
            lock: None,
            folder: None,
            app_view: None,
            mask_names: None,
            witnesses: Vec::new(),
        })
    }

    /// The same, with a field for what the model predicts.
    ///
    /// # Errors
    /// As for [`UpdateSink::new`]; labels that camflow did not make are never replaced.
    pub fn with_predictions(self, field: PredictionField) -> Result<Self, Error> {
        let schema = self.schema.with_predictions(field);
        schema.check()?;
        Ok(UpdateSink { schema, ..self })
    }

    /// Takes the fields of a shard's samples for this run alone, as long as the sink lives.
    ///
    /// # Errors
    /// [`Error::Locked`] while another run writes one of them for samples of the shard, or the database fails.
    pub fn lock(&mut self, shard: Shard) -> Result<(), Error> {
        let fields: Vec<String> = self.schema.names().map(str::to_owned).collect();
        self.lock = Some(Lock::acquire_shard(&self.dataset, Some(&fields), shard)?);
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

    /// Has the App show new fields so as soon as they are there, where the user has made no settings.
    pub fn show_in_app(&mut self, view: AppView) {
        self.app_view = Some(view);
    }

    /// Has the values in masks of predictions named as soon as there are some, where they have no names.
    pub fn name_masks(&mut self, field: &str, names: Vec<(i64, String)>) {
        self.mask_names = Some((field.to_owned(), names));
    }

    /// The fields' declarations: call [`Schema::declare`] when the run is over.
    pub fn schema(&self) -> Schema {
        self.schema.clone()
    }

    /// Whether somebody is deleting a field just now: FiftyOne takes it from the samples first and from the schema afterwards, so
    /// the labels that this run wrote first are gone while the field is still declared. What was written since then will be left
    /// undeclared.
    ///
    /// # Errors
    /// The database fails.
    pub fn is_losing_a_field(&self) -> Result<bool, Error> {
        let ids: Vec<ObjectId> = self.witnesses.iter().map(|(id, _)| *id).collect();
        let fields = self.schema.names().map(|field| (field.to_owned(), Bson::from(1)));
        let projection: Document = fields.chain([("_id".to_owned(), 1.into())]).collect();
        let stored = with_retries(|| self.find(&ids, projection.clone()))?;
        Ok(self.schema.names().any(|field| {
            let has_label = |id: &ObjectId| Some(stored.get(id)?.get_document(field).is_ok());
            let labelled = self.witnesses.iter().filter(|(_, fields)| fields.iter().any(|labelled| labelled == field));
            let found: Vec<bool> = labelled.filter_map(|(id, _)| has_label(id)).collect();
            !found.is_empty() && !found.contains(&true)
        }))
    }

    /// Before the first update and now and then.
    fn look_after_schema(&mut self) -> Result<(), Error> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            with_retries(|| self.schema.declare())?;
            if let Some((field, names)) = self.mask_names.take() {
                with_retries(|| self.dataset.name_masks(&field, &names))?;
            }
            self.looked = Some(Instant::now());
        }
        Ok(())
    }

    /// Says once how the App is to show new fields, of which these are the first labels.
    fn look_after_app(&mut self, operations: &[(usize, Operation)]) -> Result<(), Error> {
        let Some(view) = self.app_view.take() else { return Ok(()) };
        let labelled = operations.iter().flat_map(|(_, operation)| operation.new_labels());
        if let Some(ticked) = view.most_frequent(labelled) {
            let written = self.schema.fields().map(|field| field.name.as_str());
            // A view shows the heatmaps of detections in these.
            let shown = self.schema.fields().filter_map(|field| field.shown_in.as_deref());
            show_in_app(&self.dataset, &written.chain(shown).collect::<Vec<_>>(), ticked, view.colors)?;
        }
        save_views(&self.dataset, &self.schema.fields().collect::<Vec<_>>())
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
        for field in operations.iter().flat_map(|operation| operation.fields()) {
            projection.extend(HEATMAP_KEYS.map(|key| (format!("{field}.{key}"), 1.into())));
        }
        self.find(&ids, projection)
    }

    fn find(&self, ids: &[ObjectId], projection: Document) -> Result<HashMap<ObjectId, RawDocumentBuf>, Error> {
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
        let is_first = self.witnesses.is_empty();
        let mut pending = Vec::new();
        for (index, update) in updates.iter().enumerate() {
            match operation(update, &self.schema) {
                Ok(operation) => pending.push((index, operation)),
                Err(reason) => outcomes[index] = Some(CommitOutcome::Refused(reason)),
            }
        }
        self.look_after_app(&pending)?;
        while !pending.is_empty() {
            let rest = pending.split_off(fitting(&pending));
            let (indices, operations): (Vec<_>, Vec<_>) = std::mem::replace(&mut pending, rest).into_iter().unzip();
            for ((index, operation), outcome) in indices.into_iter().zip(&operations).zip(self.send(&operations)?) {
                if is_first && outcome == CommitOutcome::Committed && self.witnesses.len() < WITNESSES {
                    self.witnesses.push((operation.sample, operation.new_labels().map(str::to_owned).collect()));
                }
                outcomes[index] = Some(outcome);
            }
        }
        // A field that was deleted before these updates arrived is now in samples but not in the schema.
        self.look_after_schema()?;
        Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or(CommitOutcome::Committed)).collect())
    }
}

fn changed_meanwhile(field: &str) -> String {
    format!(
        "somebody changed its `{}` while it was computed; the label stays as it is; run the same command again, which looks at the sample as it is now",
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
    use super::{super::operation::testing::operation_of, *};

    #[test]
    fn commands_are_cut_by_bytes_and_number() {
        let operations = |count: usize, bytes: usize| -> Vec<_> { (0..count).map(|n| (n, operation_of(bytes))).collect() };
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
