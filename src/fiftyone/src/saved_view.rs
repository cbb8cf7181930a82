//! Saved views. Their stages are FiftyOne's Python classes, dozens of them, so FiftyOne itself says which samples are in a view, and what
//! it shows of them.

use std::{
    fmt,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use bson::{Bson, Document, doc};
use serde::Deserialize;
use serde_json::json;

use super::{
    config::redacted,
    dataset::Dataset,
    error::Error,
    label_field::LabelField,
    retry::with_retries,
    service::{find_python, wait_within},
};
use camflow_media::shown;
use camflow_names::{backticked, existing};

/// Writes what [`Answer`] holds, as BSON, which keeps every type of the stages, and the ids of the samples.
const SCRIPT: &str = include_str!("saved_view.py");

/// FiftyOne's import takes seconds, and a view of a million samples a minute; a view may sort by something costly.
const RESOLVING: Duration = Duration::from_secs(600);

/// A view as FiftyOne resolves it.
#[derive(Clone, Debug)]
pub struct SavedView {
    /// The ids of its samples, in its order.
    pub ids: Vec<String>,
    /// `None` where it shows them as they are stored.
    pub changes: Option<ViewChanges>,
    /// What the user should know, lowercase, without a period.
    pub notices: Vec<String>,
}

/// What a view makes of each sample: of its labels, of its path.
#[derive(Clone, Debug)]
pub struct ViewChanges {
    /// Aggregation stages of FiftyOne's that take one stored sample to what the view shows of it. Those that choose or order samples
    /// are left out.
    pub(super) stages: Vec<Document>,
}

/// Which view of a dataset.
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    /// The one that is saved under this name.
    Saved(&'a str),
    /// The one whose stages are in this file, as FiftyOne writes them, in JSON.
    Stages(&'a Path),
}

impl fmt::Display for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            View::Saved(name) => write!(f, "the saved view `{name}`"),
            // Whoever wrote the file has a view open.
            View::Stages(_) => f.write_str("the view"),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    /// The kind of view, if FiftyOne makes samples for it.
    generated: Option<String>,
    /// A stage that cannot be honoured, and why.
    refused: Option<String>,
    why: String,
    todo: String,
    notes: Vec<String>,
    stages: Vec<Document>,
    changing: Vec<String>,
    hidden: Vec<String>,
}

/// A view: its samples, and what it shows in these label fields where that is not what is stored.
///
/// # Errors
/// There is no such view; its samples are patches, frames or clips, which FiftyOne makes for it; what it shows cannot be told of
/// each sample by itself; no Python with FiftyOne is found, or it fails.
pub fn resolve_view(dataset: &Dataset, view: View, labels: &[&LabelField], python: Option<PathBuf>) -> Result<SavedView, Error> {
    let fields: Vec<&str> = labels.iter().map(|label| label.name.as_str()).collect();
    let (answer, ids) = checked(dataset, view, &fields, false, python)?;
    let mut notices: Vec<String> = answer.notes.iter().map(|note| format!("{view} {note}")).collect();
    if !answer.changing.is_empty() {
        let what = match fields[..] {
            [] => "samples".to_owned(),
            [field] => format!("labels in field `{field}`"),
            _ => format!("labels in fields {}", backticked(&fields)),
        };
        notices.push(format!(
            "{what} are taken as {view} shows them, which changes them by {}",
            backticked(answer.changing.iter().map(String::as_str))
        ));
    }
    let changes = (!answer.changing.is_empty()).then_some(ViewChanges { stages: answer.stages });
    Ok(SavedView { ids, changes, notices })
}

/// The samples of a view whose heatmaps are looked at: their ids, and those of these fields that the view shows. Heatmaps are taken
/// as they are stored.
///
/// # Errors
/// As for [`resolve_view`], or the view shows other heatmaps than are stored.
pub fn view_of_heatmaps(
    dataset: &Dataset,
    view: View,
    fields: &[String],
    python: Option<PathBuf>,
) -> Result<(Vec<String>, Vec<String>), Error> {
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let (answer, ids) = checked(dataset, view, &fields, true, python)?;
    if !answer.changing.is_empty() {
        let stages = backticked(answer.changing.iter().map(String::as_str));
        return Err(refuse(
            dataset,
            format!("{view} changes heatmaps or paths by {stages}, and heatmaps count as they are stored"),
            "save a view without these stages, or leave the fields that they change out with `--fields`".to_owned(),
        ));
    }
    let shown = fields.iter().filter(|field| !answer.hidden.iter().any(|hidden| hidden == *field));
    Ok((ids, shown.map(ToString::to_string).collect()))
}

fn refuse(dataset: &Dataset, reason: String, hint: String) -> Error {
    Error::Selection { dataset: dataset.name.clone(), reason, hint }
}

/// What FiftyOne says of a view that can be honoured.
fn checked(
    dataset: &Dataset,
    view: View,
    fields: &[&str],
    leave_out: bool,
    python: Option<PathBuf>,
) -> Result<(Answer, Vec<String>), Error> {
    if let View::Saved(name) = view {
        let known = saved_views(dataset)?;
        if !known.iter().any(|known| known == name) {
            let there_are = match known.is_empty() {
                true => "the dataset has no saved views; save one in the App, or with `dataset.save_view(NAME, view)`".to_owned(),
                false => existing("saved views", name, &known),
            };
            return Err(refuse(dataset, format!("there is no saved view `{name}`"), there_are));
        }
    }
    let (answer, ids) = resolve(dataset, view, fields, leave_out, python)?;
    if let Some(kind) = answer.generated {
        return Err(refuse(dataset,
            format!("{view} holds patches, frames or clips, which FiftyOne makes for it ({kind})"),
            "save a view of the samples themselves; of their labels, `filter_labels` chooses some, and camflow takes those that the view shows".to_owned(),
        ));
    }
    if let Some(stage) = answer.refused {
        let reason = format!("the stage `{stage}` of {view} {}", answer.why);
        let ids = "for the view's samples with their labels as they are stored, write their ids to a file for `--ids`";
        return Err(refuse(dataset, reason, format!("{}; {ids}", answer.todo)));
    }
    Ok((answer, ids))
}

/// Asks FiftyOne.
fn resolve(
    dataset: &Dataset,
    view: View,
    fields: &[&str],
    leave_out: bool,
    python: Option<PathBuf>,
) -> Result<(Answer, Vec<String>), Error> {
    let failed = |reason: String| {
        let hint = match view {
            View::Saved(name) => {
                format!("look at it with `fiftyone.load_dataset({:?}).load_saved_view({name:?})`", dataset.name)
            }
            View::Stages(path) => format!("`{}` has to hold what `view._serialize()` gives, as JSON", shown(path)),
        };
        refuse(dataset, format!("FiftyOne cannot load {view} ({reason})"), hint)
    };
    let which = match view {
        View::Saved(name) => json!({"dataset": dataset.name, "name": name}),
        View::Stages(path) => json!({"dataset": dataset.name, "stages": path}),
    };
    let wanted = json!({"view": which, "fields": fields, "leave_out": leave_out}).to_string();
    let python = find_python(python)?;
    let io = |error: std::io::Error| failed(error.to_string());
    let mut answer = tempfile::NamedTempFile::new().map_err(io)?;
    let mut said = tempfile::tempfile().map_err(io)?;
    let mut child = Command::new(&python.executable)
        .args(["-c", SCRIPT, &wanted])
        .arg(answer.path())
        // The address may hold a password, which other users would see among the arguments.
        .env("FIFTYONE_DATABASE_URI", dataset.database.reveal_uri())
        .env("FIFTYONE_DATABASE_NAME", dataset.database.name())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone().map_err(io)?)
        .spawn()
        .map_err(io)?;
    let ended = wait_within(&mut child, RESOLVING).map_err(io)?;
    if !ended.is_some_and(|status| status.success()) {
        let mut text = Vec::new();
        said.seek(SeekFrom::Start(0)).and_then(|_| said.read_to_end(&mut text)).map_err(io)?;
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it ended without a word");
        let reason = match ended {
            Some(_) => last.replace(dataset.database.reveal_uri(), &redacted(dataset.database.reveal_uri())),
            None => format!("it took longer than {} s", RESOLVING.as_secs()),
        };
        return Err(failed(reason));
    }
    let malformed = |error: bson::error::Error| failed(format!("its answer cannot be read: {error}"));
    let said = Document::from_reader(&mut answer).map_err(malformed)?;
    let mut ids = String::new();
    answer.read_to_string(&mut ids).map_err(io)?;
    Ok((bson::deserialize_from_document(said).map_err(malformed)?, ids.lines().map(ToOwned::to_owned).collect()))
}

/// The names of the saved views.
fn saved_views(dataset: &Dataset) -> Result<Vec<String>, Error> {
    let names = with_retries(|| {
        dataset.database.run(&format!("looking for the saved views of dataset `{}`", dataset.name), async {
            dataset.database.collection::<Document>("views").distinct("name", doc! {"_dataset_id": dataset.id}).await
        })
    })?;
    Ok(names.into_iter().filter_map(|name| if let Bson::String(name) = name { Some(name) } else { None }).collect())
}
