//! How the App shows new heatmap fields: a colour for each, and one of them ticked. Without this a field gets one of the App's
//! colours, among them dark ones in which nothing is to be seen, and no heatmap is shown before somebody ticks it.
//!
//! What is there already is the user's: settings are made only where there are none, and only when a field is new, so that what
//! somebody resets stays as it is. A colour scheme is camflow's as long as it holds nothing but camflow's entries.
//!
//! The App paints a field's own colour from the first moment. A colour scale that the dataset names reaches it too late for that,
//! and only counts if people choose to colour by value; that choice is not made for them, as it would recolour all labels.

use bson::{Bson, Document, doc, oid::ObjectId};

use super::{dataset::Dataset, error::Error, retry::with_retries};

/// Colours that stand out from photographs, and from each other. Hardly anything in a picture is magenta; reds and greens are lost
/// on skin and leaves.
const COLOURS: [&str; 6] = ["#ff2df2", "#00e5ff", "#ffe600", "#2dff4a", "#ff8c1a", "#ff2d2d"];

/// For those who colour by value. Dark blue is nothing, red is much.
const COLOUR_SCALE: &str = "jet";

/// Reading and writing again where somebody else was quicker.
const ATTEMPTS: usize = 8;

/// Has the App show new heatmap fields: `ticked` first, each in a colour of its own. Fields that the dataset had when it was
/// opened are left as they are.
///
/// # Errors
/// The database fails.
pub(super) fn show_in_app(dataset: &Dataset, fields: &[&str], ticked: &str) -> Result<(), Error> {
    let is_new = |field: &&str| dataset.fields().iter().all(|known| known.name != *field);
    // The one that is seen first gets the first colour.
    let mut new: Vec<&str> = fields.iter().copied().filter(is_new).collect();
    new.sort_by_key(|field| *field != ticked);
    if new.is_empty() {
        return Ok(());
    }
    change_app_config(dataset, &|config| {
        let mut changes = Document::new();
        match config.get("color_scheme") {
            None | Some(Bson::Null) => changes.extend([("color_scheme".into(), Bson::from(colour_scheme(&new)))]),
            Some(Bson::Document(scheme)) if is_ours(scheme) => {
                changes.extend([("color_scheme".into(), Bson::from(with_fields(scheme, &new)))]);
            }
            Some(_) => {}
        }
        if matches!(config.get("active_fields"), None | Some(Bson::Null)) && new.contains(&ticked) {
            changes.insert("active_fields", doc! {"paths": ticked_by_default(dataset, Some(ticked))});
        }
        changes
    })
}

/// Takes away what the App was told of these fields, and what remains of settings that are camflow's alone.
///
/// # Errors
/// The database fails.
pub fn forget_in_app(dataset: &Dataset, fields: &[String]) -> Result<(), Error> {
    let goes = |path: Option<&str>| path.is_some_and(|path| fields.iter().any(|field| field == path));
    change_app_config(dataset, &|config| {
        let mut changes = Document::new();
        if let Ok(scheme) = config.get_document("color_scheme") {
            let mut kept = scheme.clone();
            for list in ["fields", "colorscales"] {
                if let Ok(entries) = kept.get_array_mut(list) {
                    entries.retain(|entry| !(entry.as_document().is_some_and(is_our_entry) && goes(path(entry))));
                }
            }
            let is_empty = is_ours(scheme) && entries(&kept).is_empty();
            if kept != *scheme {
                changes.insert("color_scheme", if is_empty { Bson::Null } else { Bson::from(kept) });
            }
        }
        if let Ok(groups) = config.get_array("sidebar_groups") {
            let mut kept = groups.clone();
            for group in kept.iter_mut().filter_map(Bson::as_document_mut) {
                if let Ok(paths) = group.get_array_mut("paths") {
                    paths.retain(|path| !goes(path.as_str()));
                }
            }
            if kept != *groups {
                changes.insert("sidebar_groups", kept);
            }
        }
        if let Ok(active) = config.get_document("active_fields") {
            let before: Vec<&str> = active.get_array("paths").into_iter().flatten().filter_map(Bson::as_str).collect();
            let paths: Vec<&str> = before.iter().copied().filter(|path| !goes(Some(path))).collect();
            if paths.len() < before.len() {
                // What the App ticks by itself needs no setting.
                let is_default = paths == ticked_by_default(dataset, None) && !active.get_bool("exclude").unwrap_or(false);
                let mut kept = active.clone();
                kept.insert("paths", paths);
                changes.insert("active_fields", if is_default { Bson::Null } else { Bson::from(kept) });
            }
        }
        changes
    })
}

/// The labels that the App ticks where nothing is set: all but masks and heatmaps; and one more.
fn ticked_by_default(dataset: &Dataset, more: Option<&str>) -> Vec<String> {
    let is_ticked = |kind: &str| kind != "Segmentation" && kind != "Heatmap";
    let fields = dataset.fields().iter().filter(|field| field.is_label && is_ticked(&field.kind));
    more.map(ToOwned::to_owned).into_iter().chain(fields.map(|field| field.name.clone())).collect()
}

/// Reads the App's settings and writes what `change` makes of them (null takes a setting away), as one step.
fn change_app_config(dataset: &Dataset, change: &dyn Fn(&Document) -> Document) -> Result<(), Error> {
    let doing = format!("setting how the App shows dataset `{}`", dataset.name);
    let datasets = dataset.database.collection::<Document>("datasets");
    for _ in 0..ATTEMPTS {
        let found = with_retries(|| {
            dataset
                .database
                .run(&doing, async { datasets.find_one(doc! {"_id": dataset.id}).projection(doc! {"app_config": 1}).await })
        })?;
        let Some(config) = found.as_ref().and_then(|found| found.get_document("app_config").ok()) else { return Ok(()) };
        let changes = change(config);
        if changes.is_empty() {
            return Ok(());
        }
        // Unless somebody has changed one of them meanwhile.
        let mut query = doc! {"_id": dataset.id, "app_config": {"$type": "object"}};
        let (mut set, mut unset) = (Document::new(), Document::new());
        for (name, value) in changes {
            let key = format!("app_config.{name}");
            query.insert(&key, config.get(&name).cloned().unwrap_or(Bson::Null));
            match value {
                Bson::Null => unset.insert(key, ""),
                value => set.insert(key, value),
            };
        }
        let mut update = doc! {"$currentDate": {"last_modified_at": true}};
        update.extend(
            [("$set", set), ("$unset", unset)]
                .into_iter()
                .filter(|(_, what)| !what.is_empty())
                .map(|(operator, what)| (operator.to_owned(), Bson::from(what))),
        );
        let updated = with_retries(|| {
            let (query, update) = (query.clone(), update.clone());
            dataset.database.run(&doing, async { datasets.update_one(query, update).await })
        })?;
        if updated.matched_count > 0 {
            return Ok(());
        }
    }
    // How it looks is not worth more.
    Ok(())
}

/// A colour scheme with nothing but colours for these fields, in FiftyOne's form.
fn colour_scheme(fields: &[&str]) -> Document {
    let empty = doc! {
        "_id": ObjectId::new(), "color_pool": null, "color_by": null, "fields": [], "label_tags": null, "temporal_tags": null,
        "multicolor_keypoints": null, "opacity": null, "show_skeletons": null, "default_mask_targets_colors": null,
        "colorscales": [], "default_colorscale": null,
    };
    with_fields(&empty, fields)
}

/// The same scheme with colours for more fields.
fn with_fields(scheme: &Document, fields: &[&str]) -> Document {
    let mut scheme = scheme.clone();
    let count = scheme.get_array("fields").map_or(0, Vec::len);
    let known: Vec<String> = entries(&scheme).iter().filter_map(|entry| path(entry).map(ToOwned::to_owned)).collect();
    let new: Vec<&str> = fields.iter().copied().filter(|field| known.iter().all(|known| known != field)).collect();
    let colours = new.iter().enumerate();
    let colours = colours.map(|(n, field)| doc! {"path": field, "fieldColor": COLOURS[(count + n) % COLOURS.len()]}.into());
    let scales = new.iter().map(|field| doc! {"path": field, "name": COLOUR_SCALE}.into());
    for (list, more) in [("fields", colours.collect::<Vec<Bson>>()), ("colorscales", scales.collect())] {
        let mut all = scheme.get_array(list).cloned().unwrap_or_default();
        all.extend(more);
        scheme.insert(list, all);
    }
    scheme
}

/// Whether there is nothing in a colour scheme that camflow would not have put there.
fn is_ours(scheme: &Document) -> bool {
    let is_unset = |value: &Bson| match value {
        Bson::Null => true,
        Bson::Array(items) => items.is_empty(),
        Bson::Document(items) => items.is_empty(),
        _ => false,
    };
    let others = scheme.iter().filter(|(key, _)| !matches!(key.as_str(), "_id" | "_cls" | "fields" | "colorscales"));
    others.into_iter().all(|(_, value)| is_unset(value))
        && entries(scheme).iter().all(|entry| entry.as_document().is_some_and(is_our_entry))
}

fn entries(scheme: &Document) -> Vec<Bson> {
    ["fields", "colorscales"].into_iter().filter_map(|list| scheme.get_array(list).ok()).flatten().cloned().collect()
}

fn path(entry: &Bson) -> Option<&str> {
    entry.as_document()?.get_str("path").ok()
}

/// Whether an entry for a field is as camflow writes it. The App adds keys that hold nothing when somebody saves a scheme.
fn is_our_entry(entry: &Document) -> bool {
    let set: Vec<(&str, &str)> = entry
        .iter()
        .filter(|(key, value)| *key != "path" && **value != Bson::Null)
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
        .collect();
    match set[..] {
        [("fieldColor", colour)] => COLOURS.contains(&colour),
        [("name", scale)] => scale == COLOUR_SCALE,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_ours_until_somebody_changes_it() {
        let mut scheme = colour_scheme(&["a", "b"]);
        assert!(is_ours(&scheme));
        scheme = with_fields(&scheme, &["b", "c"]);
        assert_eq!(entries(&scheme).len(), 6, "no field twice");
        assert!(is_ours(&scheme));
        for (key, value) in [("opacity", Bson::from(0.5)), ("color_by", "value".into()), ("color_pool", vec!["#ffffff"].into())] {
            let mut changed = scheme.clone();
            changed.insert(key, value);
            assert!(!is_ours(&changed), "{key}");
        }
        for entry in [
            doc! {"path": "a", "fieldColor": "#123456"},
            doc! {"path": "a", "name": "hsv"},
            doc! {"path": "a", "fieldColor": COLOURS[0], "colorByAttribute": "label"},
        ] {
            assert!(!is_our_entry(&entry), "{entry}");
        }
        // As the App saves it.
        let saved = doc! {"path": "a", "fieldColor": COLOURS[0], "valueColors": null, "maskTargetsColors": null};
        assert!(is_our_entry(&saved));
    }
}
