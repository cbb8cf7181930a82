//! How the App shows new heatmap fields: a colour scale, a sidebar group of their own, and one of them ticked. Without this a field
//! gets a single colour, among them dark ones in which nothing is to be seen, and no heatmap is shown before somebody ticks it.
//!
//! What is there already is the user's: settings are made only where there are none, and only when a field is new, so that what
//! somebody resets stays as it is. A colour scheme is camflow's as long as it holds nothing but camflow's entries. FiftyOne stores no
//! empty lists: where the fields of a group or of the ticks are missing, there are none.
//!
//! The App paints with a dataset's colour scale from the first moment only if the scale's colours are stored beside its name: the
//! server hands a stored scheme to the page as it is, and adds the colours of a named scale only to what it is asked for later.
//! A scale counts where labels are coloured by value, which is for all labels of a dataset.

use bson::{Bson, Document, doc, oid::ObjectId};
use camflow_names::Choice;

use super::{dataset::Dataset, error::Error, retry::with_retries};

/// How heatmaps are coloured in the App.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppColors {
    /// Blue is little, red is much. Other labels are coloured by value, too.
    #[default]
    Jet,
    /// Each field in a colour of its own, the stronger the more.
    Field,
}

impl Choice for AppColors {
    const ALL: &'static [Self] = &[AppColors::Jet, AppColors::Field];

    fn name(self) -> &'static str {
        match self {
            AppColors::Jet => "jet",
            AppColors::Field => "field",
        }
    }
}

/// What the App is to show of new heatmap fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppView {
    /// What may be ticked: the one of which the first samples that are written have most, the first of equals.
    pub candidates: Vec<Ticked>,
    /// The colours.
    pub colors: AppColors,
}

/// What is ticked in the App.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticked {
    /// A field of heatmaps.
    pub field: String,
    /// The field of detections whose heatmaps it shows.
    pub detections: Option<String>,
}

impl Ticked {
    /// Both fields.
    fn fields(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.field.as_str()).chain(self.detections.as_deref())
    }
}

impl AppView {
    /// The candidate to tick, of samples that get labels in these fields.
    pub(super) fn most_frequent<'a>(&self, labelled: impl Iterator<Item = &'a str>) -> Option<&Ticked> {
        let mut counts = vec![0; self.candidates.len()];
        for field in labelled {
            let found = self.candidates.iter().position(|ticked| ticked.fields().any(|one| one == field));
            found.into_iter().for_each(|index| counts[index] += 1);
        }
        // Of equals `max_by_key` gives the last.
        self.candidates.iter().zip(counts).rev().max_by_key(|(_, count)| *count).map(|(ticked, _)| ticked)
    }
}

/// Colours that stand out from photographs, and from each other. Hardly anything in a picture is magenta; reds and greens are lost
/// on skin and leaves.
const COLOURS: [&str; 6] = ["#ff2df2", "#00e5ff", "#ffe600", "#2dff4a", "#ff8c1a", "#ff2d2d"];

/// Plotly's name of the scale, which is FiftyOne's.
const COLOUR_SCALE: &str = "jet";

/// Its colours, as Plotly has them: red, green and blue. FiftyOne spreads them evenly.
const COLOUR_STOPS: [[f64; 3]; 6] =
    [[0.0, 0.0, 131.0], [0.0, 60.0, 170.0], [5.0, 255.0, 255.0], [255.0, 255.0, 0.0], [250.0, 0.0, 0.0], [128.0, 0.0, 0.0]];

/// Colours in a scale; the App takes those of its own scales to be as many.
const NUM_COLOURS: u16 = 256;

/// The sidebar group of heatmap fields.
const GROUP: &str = "heatmaps";

/// Reading and writing again where somebody else was quicker.
const ATTEMPTS: usize = 8;

/// Has the App show new heatmap fields. Fields that the dataset had when it was opened are left as they are.
///
/// # Errors
/// The database fails.
pub(super) fn show_in_app(dataset: &Dataset, fields: &[&str], shown: &Ticked, colors: AppColors) -> Result<(), Error> {
    let ticked = shown.field.as_str();
    let is_new = |field: &&str| dataset.fields().iter().all(|known| known.name != *field);
    // The one that is seen first gets the first colour.
    let mut new: Vec<&str> = fields.iter().copied().filter(is_new).collect();
    if new.is_empty() {
        return Ok(());
    }
    let grouped = new.clone();
    new.sort_by_key(|field| *field != ticked);
    change_app_config(dataset, &|config| {
        let mut changes = Document::new();
        match config.get("color_scheme") {
            None | Some(Bson::Null) => changes.extend([("color_scheme".into(), colour_scheme(&new, colors).into())]),
            Some(Bson::Document(scheme)) if is_ours(scheme) => {
                changes.extend([("color_scheme".into(), Bson::from(with_fields(scheme, &new)))]);
            }
            Some(_) => {}
        }
        if let Some(groups) = with_group(config.get("sidebar_groups"), &grouped) {
            changes.insert("sidebar_groups", groups);
        }
        if new.contains(&ticked) {
            match config.get("active_fields") {
                None | Some(Bson::Null) => {
                    changes.insert("active_fields", doc! {"paths": ticked_by_default(dataset, shown.fields())});
                }
                Some(Bson::Document(active)) => {
                    let changed = if is_left_over(config.get("sidebar_groups")) {
                        ticked_too(active, &shown.fields().collect::<Vec<_>>())
                    } else {
                        ticked_instead(dataset, active, ticked)
                    };
                    changes.extend(changed.map(|active| ("active_fields".into(), active.into())));
                }
                Some(_) => {}
            }
        }
        changes
    })
}

/// The sidebar with new fields in the group of heatmaps; `None` where the groups are the user's. The App adds what is in no group to
/// groups of its own.
fn with_group(groups: Option<&Bson>, new: &[&str]) -> Option<Vec<Bson>> {
    let mut groups = match groups {
        None | Some(Bson::Null) => Vec::new(),
        Some(Bson::Array(groups)) => groups.clone(),
        Some(_) => return None,
    };
    if groups.is_empty() {
        groups.push(doc! {"name": GROUP, "paths": [], "expanded": null}.into());
    }
    let grouped: Vec<String> = groups.iter().flat_map(paths).map(ToOwned::to_owned).collect();
    let ours = groups
        .iter_mut()
        .filter_map(Bson::as_document_mut)
        .find(|group| group.get_str("name").is_ok_and(|name| name == GROUP))?;
    let more = new.iter().filter(|field| grouped.iter().all(|grouped| grouped != *field)).map(|field| Bson::from(*field));
    match ours.get_array_mut("paths") {
        Ok(paths) => paths.extend(more),
        Err(_) => drop(ours.insert("paths", more.collect::<Vec<_>>())),
    }
    Some(groups)
}

/// Whether the group of heatmaps is there without a field: Python deleted them, the ticked one too, and left the group.
fn is_left_over(groups: Option<&Bson>) -> bool {
    let groups = groups.and_then(Bson::as_array).into_iter().flatten();
    groups.filter(|group| name(group) == Some(GROUP)).any(|group| paths(group).next().is_none())
}

/// The ticks with the new fields before them.
fn ticked_too(active: &Document, new: &[&str]) -> Option<Document> {
    if active.get_bool("exclude").unwrap_or(false) {
        return None;
    }
    let is_other = |path: &&Bson| path.as_str().is_none_or(|path| !new.contains(&path));
    let others = active.get_array("paths").into_iter().flatten().filter(is_other).cloned();
    let paths: Vec<Bson> = new.iter().map(|field| Bson::from(*field)).chain(others).collect();
    let mut active = active.clone();
    active.insert("paths", paths);
    Some(active)
}

/// The ticks with the new field in the place of another heatmap's, which it would lie on. Whoever ticked several, or none, wants that.
fn ticked_instead(dataset: &Dataset, active: &Document, new: &str) -> Option<Document> {
    if active.get_bool("exclude").unwrap_or(false) {
        return None;
    }
    let heatmaps = dataset.heatmap_fields();
    let mut active = active.clone();
    let mut shown: Vec<&mut Bson> = active
        .get_array_mut("paths")
        .ok()?
        .iter_mut()
        .filter(|path| path.as_str().is_some_and(|path| heatmaps.iter().any(|field| field == path)))
        .collect();
    let [only] = &mut shown[..] else { return None };
    **only = new.into();
    Some(active)
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
                let is_left = |group: &Bson| name(group) == Some(GROUP) && paths(group).next().is_none();
                kept.retain(|group| !is_left(group));
                changes.insert("sidebar_groups", if kept.is_empty() { Bson::Null } else { Bson::from(kept) });
            }
        }
        if let Ok(active) = config.get_document("active_fields") {
            let before: Vec<&str> = active.get_array("paths").into_iter().flatten().filter_map(Bson::as_str).collect();
            let paths: Vec<&str> = before.iter().copied().filter(|path| !goes(Some(path))).collect();
            if paths.len() < before.len() {
                // What the App ticks by itself needs no setting.
                let is_default =
                    paths == ticked_by_default(dataset, std::iter::empty()) && !active.get_bool("exclude").unwrap_or(false);
                let mut kept = active.clone();
                kept.insert("paths", paths);
                changes.insert("active_fields", if is_default { Bson::Null } else { Bson::from(kept) });
            }
        }
        changes
    })
}

/// The labels that the App ticks where nothing is set: all but masks and heatmaps; and some more.
fn ticked_by_default<'a>(dataset: &Dataset, more: impl Iterator<Item = &'a str>) -> Vec<String> {
    let is_ticked = |kind: &str| kind != "Segmentation" && kind != "Heatmap";
    let fields = dataset.fields().iter().filter(|field| field.is_label && is_ticked(&field.kind));
    more.map(ToOwned::to_owned).chain(fields.map(|field| field.name.clone())).collect()
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

/// A colour scheme with nothing but what these fields need, in FiftyOne's form.
fn colour_scheme(fields: &[&str], colors: AppColors) -> Document {
    let (color_by, scale) = match colors {
        AppColors::Jet => (Bson::from("value"), Bson::from(doc! {"name": COLOUR_SCALE, "list": null, "rgb": scale()})),
        AppColors::Field => (Bson::Null, Bson::Null),
    };
    let empty = doc! {
        "_id": ObjectId::new(), "color_pool": null, "color_by": color_by, "fields": [], "label_tags": null, "temporal_tags": null,
        "multicolor_keypoints": null, "opacity": null, "show_skeletons": null, "default_mask_targets_colors": null,
        "colorscales": [], "default_colorscale": scale,
    };
    with_fields(&empty, fields)
}

/// The colours of [`COLOUR_SCALE`] as the App's server would look them up.
fn scale() -> Vec<Bson> {
    let color = |level: u16| {
        let place = f64::from(level) / f64::from(NUM_COLOURS - 1) * (COLOUR_STOPS.len() - 1) as f64;
        let below = (place as usize).min(COLOUR_STOPS.len() - 2);
        let (low, high, part) = (COLOUR_STOPS[below], COLOUR_STOPS[below + 1], place - below as f64);
        let channel = |channel: usize| Bson::from((low[channel] + part * (high[channel] - low[channel])) as i32);
        Bson::from([0, 1, 2].map(channel).to_vec())
    };
    (0..NUM_COLOURS).map(color).collect()
}

/// The same scheme with colours for more fields.
fn with_fields(scheme: &Document, fields: &[&str]) -> Document {
    let mut scheme = scheme.clone();
    let mut all = scheme.get_array("fields").cloned().unwrap_or_default();
    let count = all.len();
    let is_new = |field: &&str| all.iter().all(|entry| path(entry) != Some(field));
    let new: Vec<&str> = fields.iter().copied().filter(is_new).collect();
    let colours = new.iter().enumerate();
    all.extend(colours.map(|(n, field)| doc! {"path": field, "fieldColor": COLOURS[(count + n) % COLOURS.len()]}.into()));
    scheme.insert("fields", all);
    scheme
}

/// Whether there is nothing in a colour scheme that camflow would not have put there. One that somebody saved in the App has lost the
/// colours of its scale, and is theirs.
fn is_ours(scheme: &Document) -> bool {
    let is_unset = |value: &Bson| match value {
        Bson::Null => true,
        Bson::Array(items) => items.is_empty(),
        Bson::Document(items) => items.is_empty(),
        _ => false,
    };
    let is_by_value = scheme.get_str("color_by").is_ok_and(|by| by == "value")
        && scheme.get_document("default_colorscale").is_ok_and(|stored| stored.get_array("rgb").is_ok_and(|rgb| *rgb == scale()));
    let known = |key: &str| match key {
        "_id" | "_cls" | "fields" | "colorscales" => true,
        "color_by" | "default_colorscale" => is_by_value,
        _ => false,
    };
    scheme.iter().all(|(key, value)| known(key) || is_unset(value))
        && entries(scheme).iter().all(|entry| entry.as_document().is_some_and(is_our_entry))
}

fn entries(scheme: &Document) -> Vec<Bson> {
    ["fields", "colorscales"].into_iter().filter_map(|list| scheme.get_array(list).ok()).flatten().cloned().collect()
}

fn path(entry: &Bson) -> Option<&str> {
    entry.as_document()?.get_str("path").ok()
}

/// The name of a sidebar group.
fn name(group: &Bson) -> Option<&str> {
    group.as_document()?.get_str("name").ok()
}

/// The fields of a sidebar group.
fn paths(group: &Bson) -> impl Iterator<Item = &str> {
    group.as_document().and_then(|group| group.get_array("paths").ok()).into_iter().flatten().filter_map(Bson::as_str)
}

/// Whether an entry for a field is as camflow writes it. The App adds keys that hold nothing when somebody saves a scheme. Earlier
/// versions named a scale for each field.
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
        for colors in [AppColors::Jet, AppColors::Field] {
            let mut scheme = colour_scheme(&["a", "b"], colors);
            assert!(is_ours(&scheme));
            scheme = with_fields(&scheme, &["b", "c"]);
            assert_eq!(entries(&scheme).len(), 3, "no field twice");
            assert!(is_ours(&scheme));
            let saved_in_the_app = doc! {"name": COLOUR_SCALE, "list": []};
            for (key, value) in [
                ("opacity", Bson::from(0.5)),
                ("color_by", "instance".into()),
                ("color_pool", vec!["#ffffff"].into()),
                ("default_colorscale", saved_in_the_app.into()),
            ] {
                let mut changed = scheme.clone();
                changed.insert(key, value);
                assert!(!is_ours(&changed), "{key}");
            }
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

    #[test]
    fn the_field_with_most_labels_is_ticked() {
        let ticked = |field: &str| Ticked { field: field.into(), detections: None };
        let boxes = Ticked { field: "boxes".into(), detections: Some("boxes_detections".into()) };
        let view = AppView { candidates: vec![ticked("a"), ticked("b"), boxes.clone()], colors: AppColors::Jet };
        let shown = |labelled: &[&str]| view.most_frequent(labelled.iter().copied()).expect("a candidate");
        assert_eq!(shown(&[]), &ticked("a"));
        assert_eq!(shown(&["b", "c", "c", "a"]), &ticked("a"), "the first of equals");
        assert_eq!(shown(&["b", "c", "c"]), &ticked("b"));
        assert_eq!(shown(&["b", "boxes_detections", "boxes_detections"]), &boxes);
        assert_eq!(AppView { candidates: Vec::new(), ..view }.most_frequent(["a"].into_iter()), None);
    }

    #[test]
    fn groups_of_the_user_stay_as_they_are() {
        let first = with_group(None, &["a", "b"]).expect("a group");
        assert_eq!(first.iter().flat_map(paths).collect::<Vec<_>>(), ["a", "b"]);
        let second = with_group(Some(&first.clone().into()), &["b", "c"]).expect("the same group");
        assert_eq!(second.iter().flat_map(paths).collect::<Vec<_>>(), ["a", "b", "c"]);
        let own = Bson::from(vec![doc! {"name": "labels", "paths": ["c"]}]);
        assert_eq!(with_group(Some(&own), &["d"]), None);
        let both = Bson::from(vec![doc! {"name": "labels", "paths": ["c"]}, doc! {"name": GROUP, "paths": ["a"]}]);
        let joined = with_group(Some(&both), &["c", "d"]).expect("its group");
        assert_eq!(joined.iter().flat_map(paths).collect::<Vec<_>>(), ["c", "a", "d"], "what has a group already keeps it");
        let emptied = Bson::from(vec![doc! {"name": "labels", "paths": ["c"]}, doc! {"name": GROUP}]);
        assert!(is_left_over(Some(&emptied)) && !is_left_over(Some(&both)) && !is_left_over(Some(&own)) && !is_left_over(None));
        let filled = with_group(Some(&emptied), &["d"]).expect("its group");
        assert_eq!(filled.iter().flat_map(paths).collect::<Vec<_>>(), ["c", "d"], "the group that fields were deleted from");
        assert_eq!(ticked_too(&doc! {}, &["d"]), Some(doc! {"paths": ["d"]}));
        assert_eq!(
            ticked_too(&doc! {"paths": ["c", "d"], "exclude": false}, &["d"]).unwrap().get_array("paths").unwrap().len(),
            2
        );
        assert_eq!(ticked_too(&doc! {"paths": ["c"], "exclude": true}, &["d"]), None, "all but these");
        assert_eq!(ticked_too(&doc! {"paths": ["c", "e"]}, &["d", "e"]), Some(doc! {"paths": ["d", "e", "c"]}));
    }
}
