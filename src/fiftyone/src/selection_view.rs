//! Saved views of chosen samples: those that show what a report says.

use std::collections::BTreeSet;

use bson::{Bson, Document, doc, oid::ObjectId};
use futures_util::TryStreamExt;
use serde_json::json;

use super::{
    dataset::Dataset,
    error::Error,
    retry::with_retries,
    view_document::{doing, insert_view, list_view, remove_view, slug, update_view, views_of},
};

/// How the description of a view begins that is one of these: whoever wants to keep one changes it.
const MARK: &str = "camflow report: ";

/// Samples to be shown together.
#[derive(Clone, Debug)]
pub struct ChosenSamples<'a> {
    /// What they show.
    pub text: &'a str,
    /// Their ids, in the order in which they are shown; without any there is no view.
    pub ids: Vec<String>,
}

/// Saves a view of each of these, named `camflow finding 1` and so on, in place of those that an earlier report saved. What stands for
/// each in the App's addresses; `None` for one that would take the place of a view of the user's, which stays.
///
/// # Errors
/// The database fails.
pub fn save_chosen(dataset: &Dataset, chosen: &[ChosenSamples<'_>]) -> Result<Vec<Option<String>>, Error> {
    let mut ours = own_views(dataset)?;
    let mut saved = Vec::new();
    for (number, ChosenSamples { text, ids }) in (1..).zip(chosen) {
        let name = view_name(number);
        let (others, before): (Vec<Document>, Vec<Document>) =
            views_of(dataset, &[&name])?.into_iter().partition(|view| !is_ours(view));
        if ids.is_empty() || !others.is_empty() {
            saved.push(None);
            continue;
        }
        let stages = [stage(ids)];
        let description = format!("{MARK}{text}");
        let id = match before.first().and_then(|view| view.get_object_id("_id").ok()) {
            Some(id) => {
                update_view(dataset, id, &description, &stages)?;
                id
            }
            None => insert_view(dataset, &name, &description, &stages)?,
        };
        list_view(dataset, id)?;
        ours.remove(&id);
        saved.push(Some(slug(&name)));
    }
    ours.into_iter().try_for_each(|id| remove_view(dataset, id))?;
    Ok(saved)
}

/// What the view of the finding with that number, from 1, is called.
pub fn view_name(number: usize) -> String {
    format!("camflow finding {number}")
}

fn own_views(dataset: &Dataset) -> Result<BTreeSet<ObjectId>, Error> {
    let query = doc! {"_dataset_id": dataset.id, "description": {"$regex": format!("^{MARK}")}};
    let found: Vec<Document> = with_retries(|| {
        dataset.database.run(&doing(dataset), async {
            dataset.database.collection::<Document>("views").find(query.clone()).await?.try_collect().await
        })
    })?;
    Ok(found.iter().filter_map(|view| view.get_object_id("_id").ok()).collect())
}

fn is_ours(view: &Document) -> bool {
    view.get("description").and_then(Bson::as_str).is_some_and(|text| text.starts_with(MARK))
}

/// Those samples, in that order.
fn stage(ids: &[String]) -> String {
    json!({"_cls": "fiftyone.core.stages.Select", "kwargs": [["sample_ids", ids], ["ordered", true]]}).to_string()
}
