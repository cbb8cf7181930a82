//! `--class`: from a name to the model's output channel and to the value in the dataset's masks.

use std::collections::BTreeSet;

use super::NameList;
use camflow_diagnostic::Diagnostic;
use camflow_media::MaskValue;
use camflow_names::{ClassNames, Meaning, backticked, existing};
use camflow_pipeline::TargetClass;
use camflow_torch::program::OneChannel;

/// What the values in the masks of a dataset mean, where they are the targets.
#[derive(Clone, Copy, Debug)]
pub struct MaskNames<'a> {
    /// Name and value as the dataset stores them; `None` when it names no values, so that the model's own numbering holds.
    pub targets: Option<&'a [(String, MaskValue)]>,
    /// The classes of a model with one channel. It numbers nothing: the one value beside 0 is the object, and 0 is the other class.
    pub one_channel: Option<OneChannel>,
}

/// The classes that were asked for, and what was taken for what.
#[derive(Debug, Default)]
pub struct ResolvedClasses {
    /// In the order of the request, each once.
    pub classes: Vec<TargetClass>,
    /// What the user should know, lowercase, without a period.
    pub notices: Vec<String>,
}

/// Resolves the requested classes. `all` means every class that the model and,
/// where they are the targets, the masks know, except the background.
///
/// # Errors
/// Every class that the model or the masks do not know, with the names that they know, and every name that means several.
pub fn resolve_classes(
    requested: &NameList,
    names: &ClassNames,
    masks: Option<MaskNames<'_>>,
) -> Result<ResolvedClasses, Diagnostic> {
    let requested = split(requested, names);
    if requested.iter().any(|class| class == "all") {
        return all_classes(names, masks);
    }
    let (mut resolved, mut problems) = (ResolvedClasses::default(), Vec::new());
    for class in &requested {
        let found = channel_of(class, names).and_then(|(index, notice)| {
            let value = masks.map(|masks| masks.value(index, names)).transpose()?;
            Ok((index, notice, value))
        });
        match found {
            Ok((index, ..)) if resolved.classes.iter().any(|other| other.index == index) => {}
            Ok((index, notice, value)) => {
                let (mask_value, bridged) = value.unzip();
                resolved.classes.push(TargetClass { name: names.name(index), index, mask_value, reference: None });
                resolved.notices.extend(notice.into_iter().chain(bridged.flatten()));
            }
            Err(problem) => problems.push(problem),
        }
    }
    Diagnostic::join(problems).map_or(Ok(resolved), Err)
}

/// A text with commas is one name if it is written so, else several names if all of them are known, else whatever it is like.
fn split(requested: &NameList, names: &ClassNames) -> Vec<String> {
    let is_exact = |name: &str| matches!(names.meaning(name), Meaning::Exact(_) | Meaning::Mapped(_));
    requested.names(|text| {
        is_exact(text)
            || text.contains(',')
                && names.is_folded(text)
                && !camflow_names::split_list(text).iter().all(|part| is_exact(part) || part == "all")
    })
}

fn all_classes(names: &ClassNames, masks: Option<MaskNames<'_>>) -> Result<ResolvedClasses, Diagnostic> {
    let mut resolved = ResolvedClasses::default();
    for (&index, name) in names.classes().iter().filter(|(_, name)| name.as_str() != "background") {
        let mask_value = match masks.map(|masks| masks.value(index, names)) {
            None => None,
            Some(Ok((value, notice))) => {
                resolved.notices.extend(notice);
                Some(value)
            }
            Some(Err(_)) => continue,
        };
        resolved.classes.push(TargetClass { name: name.clone(), index, mask_value, reference: None });
    }
    match resolved.classes.is_empty() {
        true => {
            Err(Diagnostic::invalid("`--class all` finds no class that both the model and the masks know").hint("name a class"))
        }
        false => Ok(resolved),
    }
}

impl MaskNames<'_> {
    /// The value of a class in the masks, and what to say if its name is spelt otherwise there.
    fn value(&self, index: i64, names: &ClassNames) -> Result<(MaskValue, Option<String>), Diagnostic> {
        let Some(targets) = self.targets else {
            let value = match self.one_channel {
                Some(classes) if classes.negative == Some(index) => MaskValue::Index(0),
                Some(_) => MaskValue::Object,
                None => MaskValue::Index(index),
            };
            return Ok((value, None));
        };
        let name = names.name(index);
        let all = || targets.iter().filter(|(target, _)| names.means(target, (&name, index)));
        let exact: Vec<_> = all().filter(|(target, _)| *target == name).collect();
        let found = if exact.is_empty() { all().collect() } else { exact };
        match found[..] {
            [(target, value)] => Ok((*value, (*target != name).then(|| taken("mask value", target, &name)))),
            [] => {
                let doubt = targets.iter().find_map(|(target, _)| names.doubt(target, &names.meaning(target), index));
                let known = targets.iter().map(|(name, _)| name.as_str());
                Err(doubt.map_or_else(
                    || unknown(&name, "the dataset's masks", known),
                    |doubt| Diagnostic::invalid(format!("mask value: {doubt}")),
                ))
            }
            _ => {
                let distinct: BTreeSet<&str> = found.iter().map(|(target, _)| target.as_str()).collect();
                let problem =
                    format!("class `{name}` stands for several values in the dataset's masks: {}", backticked(distinct));
                Err(Diagnostic::invalid(problem).hint("give each value its own name in FiftyOne's `mask_targets`"))
            }
        }
    }
}

/// The model's channel for a class that somebody wrote, and what to say if it is spelt otherwise there.
///
/// # Errors
/// There is none, or there are several.
pub fn channel_of(class: &str, names: &ClassNames) -> Result<(i64, Option<String>), Diagnostic> {
    let by_number = || {
        let number = class.parse::<i64>().ok()?;
        (names.classes().is_empty() || names.classes().contains_key(&number)).then_some(number)
    };
    let several = |channels: &[i64]| {
        let listed: Vec<String> =
            channels.iter().map(|channel| format!("channel {channel} `{}`", names.name(*channel))).collect();
        let problem = format!("`{class}` may be any of {} classes of the model: {}", listed.len(), listed.join(", "));
        Err(Diagnostic::invalid(problem).hint("give the channel's number"))
    };
    match names.meaning(class) {
        Meaning::Mapped(channel) => Ok((channel, None)),
        Meaning::Exact(&[channel]) => {
            let other = by_number().filter(|number| *number != channel);
            let notice = |other| {
                format!(
                    "class `{class}` is taken as the name of channel {channel}, not as the number of channel {other} `{}`",
                    names.name(other)
                )
            };
            Ok((channel, other.map(notice)))
        }
        Meaning::Exact(channels) => several(channels),
        other => match (by_number(), other) {
            (Some(number), _) => Ok((number, None)),
            (None, Meaning::Alike(channels)) => match channels[..] {
                [channel] => Ok((channel, Some(taken("class", class, &names.name(channel))))),
                _ => several(&channels),
            },
            (None, Meaning::Ambiguous(channels)) => several(&channels),
            (None, _) => Err(unknown(class, "the model", names.classes().values().map(String::as_str))),
        },
    }
}

/// Says that a name is not written as the model writes it.
fn taken(what: &str, name: &str, class: &str) -> String {
    format!("{what} `{name}` is taken as the model's class `{class}`")
}

/// How a model gets names for its classes.
pub(crate) const WITH_CLASS_NAMES: &str =
    "export it with `--classes NAMES`: a file with one name a line, in the order of the channels";

/// The classes of the model that the labels of a field are of, in the order of their channels, with the labels that are of none. Of
/// several channels with one name it is all; `background` is none.
///
/// # Errors
/// There is none, or the model names no classes at all.
pub fn known_labels(labels: &[String], names: &ClassNames, field: &str) -> Result<(Vec<TargetClass>, Vec<String>), Diagnostic> {
    if names.classes().is_empty() {
        return Err(
            Diagnostic::invalid("the model names no classes, so the labels cannot be found among them").hint(WITH_CLASS_NAMES)
        );
    }
    let (mut channels, mut rest) = (BTreeSet::new(), Vec::new());
    for label in labels {
        let of = match names.meaning(label) {
            Meaning::Mapped(channel) => vec![channel],
            Meaning::Exact(channels) => channels.to_vec(),
            Meaning::Alike(channels) => channels,
            Meaning::Ambiguous(_) | Meaning::Unknown => Vec::new(),
        };
        let of: Vec<i64> = of.into_iter().filter(|channel| names.name(*channel) != "background").collect();
        if of.is_empty() {
            rest.push(label.clone());
        }
        channels.extend(of);
    }
    if channels.is_empty() {
        let some = |names: &mut dyn Iterator<Item = &String>| backticked(names.take(5));
        let labels = match rest.is_empty() {
            true => "there are no labels in it".to_owned(),
            false => format!("its labels include {}", some(&mut rest.iter())),
        };
        let problem = format!("`--class all` finds no label in field `{field}` that is a class of the model");
        return Err(Diagnostic::invalid(problem).hint(format!(
            "{labels}; the model's classes include {}; `--map LABEL=CLASS` says which is which",
            some(&mut names.classes().values()),
        )));
    }
    let class = |index| TargetClass { name: names.name(index), index, mask_value: None, reference: None };
    Ok((channels.into_iter().map(class).collect(), rest))
}

fn unknown<'a>(class: &str, place: &str, names: impl Iterator<Item = &'a str>) -> Diagnostic {
    let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    let hint = match names.len() {
        0 => "it names no classes; give the channel's number".to_owned(),
        _ => existing("classes", class, &names),
    };
    Diagnostic::invalid(format!("there is no class `{class}` in {place}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(classes: &[(i64, &str)]) -> ClassNames {
        ClassNames::new(classes.iter().map(|(index, name)| (*index, (*name).to_owned())).collect())
    }

    fn voc() -> ClassNames {
        names(&[(0, "background"), (7, "car"), (15, "person")])
    }

    fn requested(names: &[&str]) -> NameList {
        NameList::from_texts(names.iter().copied())
    }

    fn masks<'a>(targets: Option<&'a [(String, MaskValue)]>) -> Option<MaskNames<'a>> {
        Some(MaskNames { targets, one_channel: None })
    }

    /// The texts of everything that is wrong, each with its hints.
    fn texts(error: &Diagnostic) -> Vec<String> {
        error.each().into_iter().map(|found| format!("{found}; {}", found.hints.join("; "))).collect()
    }

    fn channels(asked: &[&str], names: &ClassNames) -> Result<(Vec<i64>, Vec<String>), Vec<String>> {
        let found = resolve_classes(&requested(asked), names, None);
        let ResolvedClasses { classes, notices } = found.map_err(|error| texts(&error))?;
        Ok((classes.iter().map(|class| class.index).collect(), notices))
    }

    #[test]
    fn the_models_numbering_holds_where_the_dataset_names_nothing() {
        let classes = resolve_classes(&requested(&["person", "15", "7"]), &voc(), masks(None)).expect("classes").classes;
        assert_eq!(
            classes.iter().map(|c| (c.index, c.mask_value)).collect::<Vec<_>>(),
            [(15, Some(MaskValue::Index(15))), (7, Some(MaskValue::Index(7)))]
        );
    }

    #[test]
    fn one_channel_is_marked_by_whatever_value() {
        let resolve = |model: &[(i64, &str)], class: &str, targets: Option<&[(String, MaskValue)]>| {
            let model = names(model);
            let masks = Some(MaskNames { targets, one_channel: Some(OneChannel::of(model.classes())) });
            let resolved = resolve_classes(&requested(&[class]), &model, masks).expect("classes");
            (resolved.classes[0].index, resolved.classes[0].mask_value)
        };
        assert_eq!(resolve(&[(0, "polyp")], "polyp", None), (0, Some(MaskValue::Object)));
        let targets = [("polyp".to_owned(), MaskValue::Index(255))];
        assert_eq!(resolve(&[(0, "polyp")], "polyp", Some(&targets)), (0, Some(MaskValue::Index(255))));
        let two = [(0, "tissue"), (1, "polyp")];
        assert_eq!(resolve(&two, "polyp", None), (1, Some(MaskValue::Object)));
        assert_eq!(resolve(&two, "tissue", None), (0, Some(MaskValue::Index(0))));
    }

    #[test]
    fn mask_targets_decide_the_mask_value_and_the_model_the_channel() {
        let targets = [("person".to_owned(), MaskValue::Index(255))];
        let classes = resolve_classes(&requested(&["person"]), &voc(), masks(Some(&targets))).expect("classes").classes;
        assert_eq!((classes[0].index, classes[0].mask_value), (15, Some(MaskValue::Index(255))));
        let error = resolve_classes(&requested(&["car"]), &voc(), masks(Some(&targets))).expect_err("no car in the masks");
        let problems = texts(&error);
        assert!(problems[0].contains("the dataset's masks") && problems[0].contains("`person`"), "{problems:?}");
    }

    #[test]
    fn mask_targets_may_be_spelt_otherwise() {
        let value = |targets: &[(&str, i64)]| {
            let targets: Vec<_> = targets.iter().map(|(name, value)| ((*name).to_owned(), MaskValue::Index(*value))).collect();
            let found = resolve_classes(&requested(&["person"]), &voc(), masks(Some(&targets)));
            found.map(|found| (found.classes[0].mask_value, found.notices)).map_err(|error| texts(&error).concat())
        };
        let (found, notices) = value(&[("Person", 3)]).expect("a value");
        assert_eq!(found, Some(MaskValue::Index(3)));
        assert_eq!(notices, ["mask value `Person` is taken as the model's class `person`"]);
        assert_eq!(value(&[("Person", 3), ("person", 4)]).expect("a value"), (Some(MaskValue::Index(4)), Vec::new()));
        let error = value(&[("Person", 3), ("PERSON", 4)]).expect_err("two");
        assert!(error.contains("several values") && error.contains("`PERSON`, `Person`"), "{error}");
        assert!(value(&[("person", 1), ("person", 7)]).expect_err("two").contains("several values"));
    }

    #[test]
    fn every_unknown_class_is_reported_with_those_there_are() {
        let problems = channels(&["persn", "21"], &voc()).expect_err("unknown");
        assert_eq!(problems.len(), 2);
        assert!(problems[0].contains("the classes are `person`, `background`, `car`"), "{problems:?}");
    }

    #[test]
    fn a_name_with_commas_is_taken_whole_and_lists_are_split() {
        let model = names(&[(0, "tabby, tabby cat"), (1, "dog"), (2, "cat"), (3, "cat, dog")]);
        let found = |asked: &[&str]| channels(asked, &model).expect("classes").0;
        assert_eq!(found(&["tabby, tabby cat"]), [0]);
        assert_eq!(found(&["Tabby,Tabby Cat", "dog"]), [0, 1]);
        assert_eq!(found(&["dog, tabby"]), [1, 0]);
        assert_eq!(found(&["cat, dog"]), [3]);
        assert_eq!(found(&["cat,dog"]), [2, 1], "as each of them is a class by its own name");
        assert_eq!(found(&[r"tabby\, tabby cat,dog"]), [0, 1]);
        let problems = channels(&["cow, hen"], &model).expect_err("two");
        assert!(problems[0].contains("`cow`") && problems[1].contains("`hen`"), "{problems:?}");
    }

    #[test]
    fn names_of_several_channels_are_errors_with_their_numbers() {
        let model = names(&[(134, "crane"), (517, "crane"), (3, "Car"), (4, "car")]);
        let error = channels(&["crane"], &model).expect_err("two").concat();
        assert!(error.contains("channel 134 `crane`, channel 517 `crane`; give the channel's number"), "{error}");
        assert_eq!(channels(&["517"], &model).expect("a channel").0, [517]);
        assert!(channels(&["CAR"], &model).expect_err("two").concat().contains("channel 3 `Car`, channel 4 `car`"));
        assert_eq!(channels(&["car"], &model).expect("a class"), (vec![4], Vec::new()));
        let all = resolve_classes(&requested(&["all"]), &model, None).expect("all").classes;
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn other_spellings_are_told_and_maps_are_not() {
        let mut model = names(&[(1, "motorbike"), (2, "car")]);
        let (found, notices) = channels(&["motorcycle"], &model).expect("a class");
        assert_eq!(
            (found, &notices[..]),
            (vec![1], &["class `motorcycle` is taken as the model's class `motorbike`".to_owned()][..])
        );
        model.map("lorry".into(), 2);
        assert_eq!(channels(&["lorry"], &model).expect("a class"), (vec![2], Vec::new()));
    }

    #[test]
    fn labels_are_the_models_classes_or_not() {
        let labels = ["Car", "background", "cart"].map(String::from);
        let (known, rest) = known_labels(&labels, &voc(), "gt").expect("a class");
        assert_eq!((known[0].index, known.len(), &rest[..]), (7, 1, &labels[1..]));
        let error = texts(&known_labels(&labels[2..], &voc(), "gt").expect_err("none")).concat();
        assert!(error.contains("`gt`") && error.contains("`cart`") && error.contains("`person`"), "{error}");
        assert!(known_labels(&labels[2..], &ClassNames::default(), "gt").is_err());
    }

    #[test]
    fn all_leaves_the_background_out() {
        assert_eq!(channels(&["all"], &voc()).expect("classes").0, [7, 15]);
    }
}
