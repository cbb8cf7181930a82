//! Which classes occur in a label field.

use std::{collections::BTreeSet, time::Duration};

use bson::{Bson, Document, doc};

use super::{
    dataset::Dataset,
    driver_error::command_code,
    error::Error,
    label_field::LabelField,
    retry::with_retries,
    saved_view::SavedView,
    selection::{IDS, among, parse_ids},
};

/// The longest to look for the classes of a field: this reads every label of the dataset.
const LOOKING: Duration = Duration::from_secs(120);

/// Whether a label of a field of detections, polylines or classifications has one of these names, in any sample. One that is
/// frequent is found at once; one that nobody has takes a look at every sample.
///
/// # Errors
/// The database fails.
pub fn has_label(dataset: &Dataset, field: &LabelField, names: &[&str]) -> Result<bool, Error> {
    let doing = format!("looking for a class in field `{}` of dataset `{}`", field.name, dataset.name);
    let samples = dataset.database.collection::<Document>(&dataset.samples);
    let query = doc! {field.name_key(): {"$in": names}};
    let find = || samples.find_one(query.clone()).projection(doc! {"_id": 1});
    Ok(with_retries(|| dataset.database.run(&doing, async { find().await }))?.is_some())
}

/// The names of the classes that occur in a field of detections, polylines or classifications, in any sample of the
/// dataset, or in what a view makes of its samples' labels, in alphabetical order.
///
/// # Errors
/// The database fails, or takes longer than two minutes.
pub fn label_names(dataset: &Dataset, field: &LabelField, view: Option<&SavedView>) -> Result<Vec<String>, Error> {
    /// MaxTimeMSExpired.
    const TOO_LONG: i32 = 50;
    let key = field.name_key();
    let doing = format!("looking for the classes in field `{}` of dataset `{}`", field.name, dataset.name);
    let samples = dataset.database.collection::<Document>(&dataset.samples);
    let viewed = view.and_then(|view| Some((parse_ids(dataset, &view.ids), &view.changes.as_ref()?.stages)));
    let found = match viewed {
        None => dataset.database.run(&doing, async { samples.distinct(key, doc! {}).max_time(LOOKING).await }),
        Some((ids, stages)) => {
            let ids = ids?;
            let mut found = BTreeSet::new();
            let path = format!("${key}");
            dataset
                .database
                .run(&doing, async {
                    for ids in ids.chunks(IDS) {
                        let mut all = vec![doc! {"$match": among(&Document::new(), ids)}];
                        all.extend(stages.iter().cloned());
                        // A list of labels gives a list of names.
                        all.extend([
                            doc! {"$project": {"name": &path}},
                            doc! {"$unwind": "$name"},
                            doc! {"$group": {"_id": "$name"}},
                        ]);
                        let mut names = samples.aggregate(all).max_time(LOOKING).await?;
                        while names.advance().await? {
                            found.extend(names.current().get_str("_id").ok().map(ToOwned::to_owned));
                        }
                    }
                    Ok(())
                })
                .map(|()| found.into_iter().map(Bson::String).collect())
        }
    };
    let found = found.map_err(|error| match error {
        Error::Driver { source, .. } if command_code(&source) == Some(TOO_LONG) => Error::LabelField {
            problem: format!("looking for the classes in field `{}` took longer than {} s", field.name, LOOKING.as_secs()),
            dataset: dataset.name.clone(),
            hint:
                "name the classes with `--class` instead of `all`, and with `--map LABEL=CLASS` labels that are spelt otherwise"
                    .to_owned(),
        },
        error => error,
    })?;
    let text = |value| if let Bson::String(name) = value { Some(name) } else { None };
    let mut names: Vec<String> = found.into_iter().filter_map(text).collect();
    names.sort();
    Ok(names)
}
