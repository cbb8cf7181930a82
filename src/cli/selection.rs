//! The samples that a subcommand looks at: its flags, and what they say in words.

use std::path::{Path, PathBuf};

use super::dataset::DatasetArgs;
use crate::{
    diagnostic::Diagnostic,
    engine::{chosen_ids, chosen_tags, listed_ids},
    fiftyone::{Dataset, Selection},
    job::NameList,
    media::shown,
    names::backticked,
};

/// Which samples of the dataset.
#[derive(Debug, clap::Args)]
pub(super) struct SelectionArgs {
    /// Only samples with one of these tags
    #[arg(long, value_name = "TAG")]
    tags: Vec<String>,
    /// Only samples that match this MongoDB query (JSON)
    #[arg(long = "match", value_name = "QUERY")]
    matching: Option<String>,
    /// Only the samples of this saved view
    #[arg(long, value_name = "VIEW")]
    view: Option<String>,
    /// Only the samples whose ids stand in this file, one a line
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
}

impl SelectionArgs {
    /// The file of `--ids`.
    pub(super) fn ids_file(&self) -> Option<&Path> {
        self.ids.as_deref()
    }

    /// The samples, and which of these fields the saved view hides.
    ///
    /// # Errors
    /// The view or the file of ids cannot be read, or the database is lost.
    pub(super) fn samples(
        &self,
        of: &DatasetArgs,
        dataset: &Dataset,
        fields: &[String],
    ) -> Result<(Selection, Vec<String>), Diagnostic> {
        let (viewed, hidden) = match &self.view {
            None => (None, Vec::new()),
            Some(view) => {
                let (ids, seen) = of.viewed(dataset, view, fields)?;
                (Some(ids), fields.iter().filter(|field| !seen.contains(field)).cloned().collect())
            }
        };
        let selection = Selection {
            tags: chosen_tags(dataset, &NameList::from_texts(&self.tags))?,
            matching: self.matching.clone(),
            ids: chosen_ids(viewed, self.ids_file().map(listed_ids).transpose()?),
            ..Selection::default()
        };
        Ok((selection, hidden))
    }

    /// The samples.
    ///
    /// # Errors
    /// As `samples`, or the saved view hides one of the fields.
    pub(super) fn samples_of_all(&self, of: &DatasetArgs, dataset: &Dataset, fields: &[String]) -> Result<Selection, Diagnostic> {
        match self.samples(of, dataset, fields)? {
            (selection, hidden) if hidden.is_empty() => Ok(selection),
            (_, hidden) => Err(self.hides(&hidden)),
        }
    }

    /// The refusal of a saved view that hides what is asked for.
    pub(super) fn hides(&self, hidden: &[String]) -> Diagnostic {
        Diagnostic::invalid(self.hiding(hidden)).hint("keep the heatmaps in the view, or list its samples in a file for `--ids`")
    }

    /// That the saved view hides these fields.
    pub(super) fn hiding(&self, hidden: &[String]) -> String {
        let view = self.view.as_deref().unwrap_or_default();
        format!("the saved view `{view}` hides {}", backticked(hidden.iter().map(String::as_str)))
    }

    /// The selection in words; `None` where all samples are looked at.
    pub(super) fn text(&self) -> Option<String> {
        let tags = (!self.tags.is_empty()).then(|| format!("tagged {}", self.tags.join(" or ")));
        let matching = self.matching.as_ref().map(|query| format!("matching {query}"));
        let view = self.view.as_ref().map(|view| format!("of the view {view}"));
        let ids = self.ids.as_ref().map(|path| format!("listed in {}", shown(path)));
        let parts: Vec<String> = tags.into_iter().chain(matching).chain(view).chain(ids).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}
