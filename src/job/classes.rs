//! `--class`: from a name to the model's output channel and to the value in the dataset's masks.

use std::collections::BTreeMap;

use crate::{
    media::MaskValue,
    names::{backticked, existing},
    pipeline::TargetClass,
};

/// Resolves the requested classes. `all` means every class that the model and, with labels as targets, the masks know, except
/// the background.
///
/// `model_classes` is channel -> name. `mask_targets` is name -> value as the dataset stores it; `None` when the dataset names no
/// mask values, so that the model's own numbering holds, and with predictions as targets, where there are no masks. A model whose only channel is the class
/// (`is_only_channel`) numbers nothing: there the one value beside 0 is the object.
///
/// # Errors
/// Every class that the model or the masks do not know, with the names that they know, and every one that is several values in
/// the masks.
pub fn resolve_classes(
    requested: &[String],
    model_classes: &BTreeMap<i64, String>,
    mask_targets: Option<&[(String, MaskValue)]>,
    from_labels: bool,
    is_only_channel: bool,
) -> Result<Vec<TargetClass>, Vec<String>> {
    let mask_values = |index: i64, name: &str| -> Vec<MaskValue> {
        match mask_targets {
            None if is_only_channel => vec![MaskValue::Object],
            None => vec![MaskValue::Index(index)],
            Some(targets) => targets.iter().filter(|(target, _)| target == name).map(|(_, value)| *value).collect(),
        }
    };
    if requested.iter().any(|class| class == "all") {
        let known = model_classes.iter().filter(|(_, name)| name.as_str() != "background");
        let classes: Vec<TargetClass> = known
            .filter_map(|(index, name)| {
                let mask_value = match (from_labels, &mask_values(*index, name)[..]) {
                    (false, _) => None,
                    (true, [value]) => Some(*value),
                    (true, _) => return None,
                };
                Some(TargetClass { name: name.clone(), index: *index, mask_value })
            })
            .collect();
        return if classes.is_empty() {
            Err(vec!["`--class all` finds no class that both the model and the masks know\nhint: name a class".to_owned()])
        } else {
            Ok(classes)
        };
    }
    let (mut classes, mut problems): (Vec<TargetClass>, Vec<String>) = (Vec::new(), Vec::new());
    for class in requested {
        let by_name = model_classes.iter().find(|(_, name)| *name == class).map(|(index, name)| (*index, name.clone()));
        let by_index = || {
            let index = class.parse::<i64>().ok()?;
            match model_classes.get(&index) {
                Some(name) => Some((index, name.clone())),
                None if model_classes.is_empty() => Some((index, class.clone())),
                None => None,
            }
        };
        let Some((index, name)) = by_name.or_else(by_index) else {
            problems.push(unknown(class, "the model", model_classes.values().map(String::as_str)));
            continue;
        };
        let mask_value = match (from_labels, &mask_values(index, &name)[..]) {
            (false, _) => None,
            (true, [value]) => Some(*value),
            (true, []) => {
                let names = mask_targets.unwrap_or_default().iter().map(|(name, _)| name.as_str());
                problems.push(unknown(&name, "the dataset's masks", names));
                continue;
            }
            (true, _) => {
                problems.push(format!(
                    "class `{name}` stands for several values in the dataset's masks\nhint: give each value its own name in FiftyOne's `mask_targets`"
                ));
                continue;
            }
        };
        if !classes.iter().any(|other| other.index == index) {
            classes.push(TargetClass { name, index, mask_value });
        }
    }
    if problems.is_empty() { Ok(classes) } else { Err(problems) }
}

/// Of the names that occur in a label field, those that the model knows as classes; `background` is none of them. What remains
/// comes second.
///
/// # Errors
/// The model knows none of them, or names no classes at all.
pub fn known_names(
    labelled: Vec<String>,
    model_classes: &BTreeMap<i64, String>,
    field: &str,
) -> Result<(Vec<String>, Vec<String>), String> {
    if model_classes.is_empty() {
        return Err(
            "the model names no classes, so the labels cannot be found among them\nhint: export it with class names".to_owned()
        );
    }
    let is_class = |name: &String| name != "background" && model_classes.values().any(|class| class == name);
    let (known, rest): (Vec<String>, Vec<String>) = labelled.into_iter().partition(is_class);
    if known.is_empty() {
        let some = |names: &mut dyn Iterator<Item = &String>| backticked(names.take(5));
        let labels = match rest.is_empty() {
            true => "there are no labels in it".to_owned(),
            false => format!("its labels include {}", some(&mut rest.iter())),
        };
        return Err(format!(
            "`--class all` finds no label in field `{field}` that is a class of the model\nhint: {labels}; the model's classes include {}",
            some(&mut model_classes.values()),
        ));
    }
    Ok((known, rest))
}

fn unknown<'a>(class: &str, place: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    let hint = match names.len() {
        0 => "it names no classes; give the channel's number".to_owned(),
        _ => existing("classes", class, &names),
    };
    format!("there is no class `{class}` in {place}\nhint: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voc() -> BTreeMap<i64, String> {
        [(0, "background"), (7, "car"), (15, "person")].map(|(index, name)| (index, name.to_owned())).into()
    }

    fn requested(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_models_numbering_holds_where_the_dataset_names_nothing() {
        let classes = resolve_classes(&requested(&["person", "15", "7"]), &voc(), None, true, false).expect("classes");
        assert_eq!(
            classes.iter().map(|c| (c.index, c.mask_value)).collect::<Vec<_>>(),
            [(15, Some(MaskValue::Index(15))), (7, Some(MaskValue::Index(7)))]
        );
    }

    #[test]
    fn what_a_mask_marks_is_the_object_of_a_model_with_one_channel() {
        let model = BTreeMap::from([(0, "polyp".to_owned())]);
        let value =
            |targets| resolve_classes(&requested(&["polyp"]), &model, targets, true, true).expect("classes")[0].mask_value;
        assert_eq!(value(None), Some(MaskValue::Object));
        assert_eq!(value(Some(&[("polyp".to_owned(), MaskValue::Index(7))])), Some(MaskValue::Index(7)));
    }

    #[test]
    fn mask_targets_decide_the_mask_value_and_the_model_the_channel() {
        let targets = [("person".to_owned(), MaskValue::Index(255))];
        let classes = resolve_classes(&requested(&["person"]), &voc(), Some(&targets), true, false).expect("classes");
        assert_eq!((classes[0].index, classes[0].mask_value), (15, Some(MaskValue::Index(255))));
        let problems =
            resolve_classes(&requested(&["car"]), &voc(), Some(&targets), true, false).expect_err("no car in the masks");
        assert!(problems[0].contains("the dataset's masks") && problems[0].contains("`person`"), "{problems:?}");
    }

    #[test]
    fn a_name_of_two_mask_values_is_ambiguous() {
        let targets = [("person".to_owned(), MaskValue::Index(1)), ("person".to_owned(), MaskValue::Index(7))];
        let problems = resolve_classes(&requested(&["person"]), &voc(), Some(&targets), true, false).expect_err("two values");
        assert!(problems[0].contains("several values"), "{problems:?}");
    }

    #[test]
    fn every_unknown_class_is_reported_with_those_there_are() {
        let problems = resolve_classes(&requested(&["persn", "21"]), &voc(), None, false, false).expect_err("unknown");
        assert_eq!(problems.len(), 2);
        assert!(problems[0].contains("`background`, `car`, `person`"), "{problems:?}");
    }

    #[test]
    fn labels_are_the_models_classes_or_not() {
        let (known, rest) = known_names(requested(&["Car", "background", "car", "cart"]), &voc(), "gt").expect("a class");
        assert_eq!((known, rest), (requested(&["car"]), requested(&["Car", "background", "cart"])));
        let error = known_names(requested(&["cart"]), &voc(), "gt").expect_err("none");
        assert!(error.contains("`gt`") && error.contains("`cart`") && error.contains("`person`"), "{error}");
        assert!(known_names(requested(&["cart"]), &BTreeMap::new(), "gt").is_err());
    }

    #[test]
    fn all_leaves_the_background_out() {
        let classes = resolve_classes(&requested(&["all"]), &voc(), None, false, false).expect("classes");
        assert_eq!(classes.iter().map(|c| c.index).collect::<Vec<_>>(), [7, 15]);
    }
}
