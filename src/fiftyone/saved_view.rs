//! Saved views. Their stages are FiftyOne's Python classes, dozens of them, so FiftyOne itself says which samples are in a view.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use bson::{Bson, Document, doc};

use super::{
    config::redacted,
    dataset::Dataset,
    error::Error,
    retry::with_retries,
    service::{find_python, wait_within},
};
use crate::names::existing;

/// Writes the ids of a view's samples to a file, after a line that says what kind of samples they are. Nothing is imported from the
/// current folder, which may be anybody's. FiftyOne's own words go to
/// standard output, among them notices of the database.
const SCRIPT: &str = r#"
import sys
sys.path[:] = [p for p in sys.path if p]
import os
os.dup2(2, 1)
import fiftyone as fo
dataset, view, path = sys.argv[1:]
view = fo.load_dataset(dataset).load_saved_view(view)
with open(path, "w") as file:
    if view._is_generated:
        file.write("generated\n")
    else:
        if view.media_type == "group":
            view = view.select_group_slices(media_type="image")
        file.write("\n".join(["samples", *view.values("id")]))
"#;

/// FiftyOne's import takes seconds, and a view of a million samples a minute; a view may sort by something costly.
const RESOLVING: Duration = Duration::from_secs(600);

impl Dataset {
    /// The ids of the samples in a saved view, in its order. Stages that filter what is in labels select samples only: stored
    /// labels are read whole.
    ///
    /// # Errors
    /// There is no such view; its samples are patches, frames or clips, which FiftyOne makes for it; no Python with FiftyOne is
    /// found, or it fails.
    pub fn saved_view(&self, name: &str, python: Option<PathBuf>) -> Result<Vec<String>, Error> {
        let refuse = |reason: String, hint: String| Error::Selection { dataset: self.name.clone(), reason, hint };
        let known = self.saved_views()?;
        if !known.iter().any(|known| known == name) {
            let there_are = match known.is_empty() {
                true => "the dataset has no saved views; save one in the App, or with `dataset.save_view(NAME, view)`".to_owned(),
                false => existing("saved views", name, &known),
            };
            return Err(refuse(format!("there is no saved view `{name}`"), there_are));
        }
        let failed = |reason: String| {
            let load = format!("look at it with `fiftyone.load_dataset({:?}).load_saved_view({name:?})`", self.name);
            refuse(format!("FiftyOne cannot load the saved view `{name}` ({reason})"), load)
        };
        let python = find_python(python)?;
        let io = |error: std::io::Error| failed(error.to_string());
        let answer = tempfile::NamedTempFile::new().map_err(io)?;
        let mut said = tempfile::tempfile().map_err(io)?;
        let mut child = Command::new(&python.executable)
            .args(["-c", SCRIPT, &self.name, name])
            .arg(answer.path())
            // The address may hold a password, which other users would see among the arguments.
            .env("FIFTYONE_DATABASE_URI", self.database.reveal_uri())
            .env("FIFTYONE_DATABASE_NAME", self.database.name())
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
                Some(_) => last.replace(self.database.reveal_uri(), &redacted(self.database.reveal_uri())),
                None => format!("it took longer than {} s", RESOLVING.as_secs()),
            };
            return Err(failed(reason));
        }
        let answer = fs::read_to_string(answer.path()).map_err(io)?;
        let mut lines = answer.lines();
        match lines.next() {
            Some("samples") => Ok(lines.map(ToOwned::to_owned).collect()),
            Some("generated") => Err(refuse(
                format!("the saved view `{name}` holds patches, frames or clips, which FiftyOne makes for it"),
                "save a view of the samples themselves; camflow explains whole images".to_owned(),
            )),
            _ => Err(failed("it gave no answer".to_owned())),
        }
    }

    /// The names of the saved views.
    fn saved_views(&self) -> Result<Vec<String>, Error> {
        let names = with_retries(|| {
            self.database.run(&format!("looking for the saved views of dataset `{}`", self.name), async {
                self.database.collection::<Document>("views").distinct("name", doc! {"_dataset_id": self.id}).await
            })
        })?;
        Ok(names.into_iter().filter_map(|name| if let Bson::String(name) = name { Some(name) } else { None }).collect())
    }
}
