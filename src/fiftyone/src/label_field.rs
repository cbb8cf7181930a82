//! The label fields that can say where a class is: which kinds there are, which one is meant, what classes occur in it.

use std::fmt;

use super::{
    dataset::Dataset,
    error::Error,
    fields::{Field, InnerField, LIST_OF, is_of_camflow},
};
use camflow_names::{backticked, existing, similar};

/// The kinds of labels that can be targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelKind {
    /// One mask with a value for each class.
    Segmentation,
    /// One box, with a mask or without.
    Detection,
    /// Boxes.
    Detections,
    /// One polygon or line.
    Polyline,
    /// Polygons and lines.
    Polylines,
    /// One class for the image.
    Classification,
    /// Several classes for the image.
    Classifications,
}

impl LabelKind {
    /// Those that say most about where a class is come first; kinds of one group are equal.
    const GROUPS: [&'static [LabelKind]; 4] = [
        &[LabelKind::Segmentation],
        &[LabelKind::Detections, LabelKind::Detection],
        &[LabelKind::Polylines, LabelKind::Polyline],
        &[LabelKind::Classification, LabelKind::Classifications],
    ];

    /// FiftyOne's word for it.
    pub fn name(self) -> &'static str {
        match self {
            LabelKind::Segmentation => "Segmentation",
            LabelKind::Detection => "Detection",
            LabelKind::Detections => "Detections",
            LabelKind::Polyline => "Polyline",
            LabelKind::Polylines => "Polylines",
            LabelKind::Classification => "Classification",
            LabelKind::Classifications => "Classifications",
        }
    }

    /// Key of the list in the label, where it holds several.
    pub(super) fn list(self) -> Option<&'static str> {
        match self {
            LabelKind::Detections => Some("detections"),
            LabelKind::Polylines => Some("polylines"),
            LabelKind::Classifications => Some("classifications"),
            LabelKind::Segmentation | LabelKind::Detection | LabelKind::Polyline | LabelKind::Classification => None,
        }
    }

    /// What the labels of each member of the list are.
    fn of_members(self) -> Option<LabelKind> {
        match self {
            LabelKind::Detections => Some(LabelKind::Detection),
            LabelKind::Polylines => Some(LabelKind::Polyline),
            LabelKind::Classifications => Some(LabelKind::Classification),
            LabelKind::Segmentation | LabelKind::Detection | LabelKind::Polyline | LabelKind::Classification => None,
        }
    }

    /// Also whether the field holds the list alone, without a label around it.
    fn of(field: &Field) -> Option<(LabelKind, bool)> {
        let kinds = || Self::GROUPS.into_iter().flatten().copied();
        match field.kind.strip_prefix(LIST_OF) {
            None => kinds().find(|kind| kind.name() == field.kind).map(|kind| (kind, false)),
            Some(member) => kinds().find(|kind| kind.of_members().is_some_and(|of| of.name() == member)).map(|kind| (kind, true)),
        }
    }
}

impl fmt::Display for LabelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A field whose labels can be targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelField {
    /// Its name.
    pub name: String,
    /// What its labels are.
    pub kind: LabelKind,
    /// The way to it in the stored samples: keys with dots.
    pub(super) key: String,
    /// Whether it is a list of labels, without the label that holds such lists as a rule.
    pub(super) is_bare_list: bool,
    /// The key of the evaluation whose findings of each detection are read along.
    pub(super) evaluation: Option<String>,
}

impl LabelField {
    /// The label field to use: the one named, else the only one of the kind that says most: segmentations before detections
    /// before polylines before classifications.
    ///
    /// # Errors
    /// The named one does not exist or holds no such labels; there is none to choose, or more than one.
    pub fn choose(dataset: &Dataset, named: Option<&str>) -> Result<LabelField, Error> {
        choose(dataset.fields(), dataset.inner_fields(), named).map_err(|(problem, hint)| Error::LabelField {
            problem,
            dataset: dataset.name.clone(),
            hint,
        })
    }

    /// The label field of this name, whose labels say where classes are; `flag` is the one that named it.
    ///
    /// # Errors
    /// There is none, or it holds other things.
    pub fn with_places(dataset: &Dataset, name: &str, flag: &str) -> Result<LabelField, Error> {
        with_places(dataset.fields(), dataset.inner_fields(), name, flag).map_err(|(problem, hint)| Error::LabelField {
            problem,
            dataset: dataset.name.clone(),
            hint,
        })
    }

    /// The field that says one class for each image: the one named, else the only one.
    ///
    /// # Errors
    /// The named one does not exist or holds other labels; there is none to choose, or more than one.
    pub fn choose_classification(dataset: &Dataset, named: Option<&str>) -> Result<LabelField, Error> {
        choose_classification(dataset.fields(), dataset.inner_fields(), named).map_err(|(problem, hint)| Error::LabelField {
            problem,
            dataset: dataset.name.clone(),
            hint,
        })
    }

    /// The same, with what an evaluation found of each of its detections.
    ///
    /// # Errors
    /// The dataset has no such evaluation, or it is about other fields.
    pub fn with_evaluation(self, dataset: &Dataset, key: &str) -> Result<LabelField, Error> {
        let (predictions, truth) = evaluation(dataset, key, "evaluate_detections")?;
        let fields: Vec<String> = predictions.into_iter().chain(truth).collect();
        if !fields.contains(&self.name) {
            return Err(Error::LabelField {
                problem: format!("the evaluation `{key}` is about other detections than those of field `{}`", self.name),
                dataset: dataset.name.clone(),
                hint: format!("it is about {}; name one with `--target labels:FIELD`", backticked(&fields)),
            });
        }
        Ok(LabelField { evaluation: Some(key.to_owned()), ..self })
    }

    /// The field that an evaluation compared the predictions of a classifier with: one class for each image.
    ///
    /// # Errors
    /// The dataset has no such evaluation; another field is named; what it is about does not say one class for each image.
    pub fn evaluated_truth(dataset: &Dataset, named: Option<&str>, key: &str) -> Result<LabelField, Error> {
        let (_, truth) = evaluation(dataset, key, "evaluate_classifications")?;
        match (named, truth) {
            (Some(named), Some(truth)) if named != truth => Err(Error::LabelField {
                problem: format!("the evaluation `{key}` compares with field `{truth}`, not with `{named}`"),
                dataset: dataset.name.clone(),
                hint: "leave out either the field or `--eval-key`".to_owned(),
            }),
            (named, truth) => LabelField::choose_classification(dataset, truth.as_deref().or(named)),
        }
    }

    /// FiftyOne's word for its type.
    pub fn type_name(&self) -> String {
        match self.kind.of_members().filter(|_| self.is_bare_list) {
            Some(member) => format!("{LIST_OF}{member}"),
            None => self.kind.to_string(),
        }
    }

    /// The way to the label, or to each of its labels.
    pub(super) fn labels(&self) -> String {
        match self.kind.list().filter(|_| !self.is_bare_list) {
            Some(list) => format!("{}.{list}", self.key),
            None => self.key.clone(),
        }
    }

    /// Where the names of its labels are in the stored samples.
    pub(super) fn name_key(&self) -> String {
        format!("{}.label", self.labels())
    }

    /// The query, as JSON, for the samples of which a label has this name.
    pub fn holds(&self, name: &str) -> String {
        serde_json::json!({ self.name_key(): name }).to_string()
    }

    /// The class of what the field holds, or of what is in its list.
    pub(super) fn label_class(&self) -> &'static str {
        self.kind.of_members().filter(|_| self.is_bare_list).unwrap_or(self.kind).name()
    }
}

/// The fields, (predictions, truth), that an evaluation of the dataset compared; `maker` is FiftyOne's method that makes such ones.
fn evaluation(dataset: &Dataset, key: &str, maker: &str) -> Result<(Option<String>, Option<String>), Error> {
    let known = dataset.evaluations();
    if known.iter().any(|known| known == key) {
        return dataset.evaluated_fields(key);
    }
    let hint = match known.is_empty() {
        true => {
            format!("it has none: `dataset.{maker}(\"predictions\", gt_field=\"ground_truth\", eval_key=\"eval\")` makes one")
        }
        false => existing("evaluations", key, &known),
    };
    Err(Error::LabelField { problem: format!("there is no evaluation `{key}`"), dataset: dataset.name.clone(), hint })
}

/// The fields of labels. What camflow made of labels is one only where somebody names it.
fn label_fields(fields: &[Field], inner: &[InnerField], named: Option<&str>) -> Vec<LabelField> {
    let label_field = |field: &Field| {
        let (kind, is_bare_list) = LabelKind::of(field)?;
        Some(LabelField { kind, name: field.name.clone(), key: field.key.clone(), is_bare_list, evaluation: None })
    };
    let within = inner.iter().filter(|inner| inner.part_of.is_none()).map(|inner| &inner.field);
    let is_offered = |field: &&Field| named == Some(field.name.as_str()) || !is_of_camflow(field, inner);
    fields.iter().chain(within).filter(is_offered).filter_map(label_field).collect()
}

fn listed(fields: &[&LabelField]) -> String {
    let described = fields.iter().map(|field| format!("`{}` ({})", field.name, field.type_name()));
    described.collect::<Vec<_>>().join(", ")
}

/// An error is what is wrong and what to do.
fn with_places(fields: &[Field], inner: &[InnerField], name: &str, flag: &str) -> Result<LabelField, (String, String)> {
    let has_places = |field: &&LabelField| !matches!(field.kind, LabelKind::Classification | LabelKind::Classifications);
    let candidates = label_fields(fields, inner, Some(name));
    let usable: Vec<&LabelField> = candidates.iter().filter(has_places).collect();
    if let Some(field) = usable.iter().find(|field| field.name == name) {
        return Ok((*field).clone());
    }
    let there_are = match usable[..] {
        [] => format!("it has no field of segmentations, detections or polylines; leave out `{flag}`"),
        _ => format!("the fields whose labels say where classes are: {}", listed(&usable)),
    };
    let mut known = fields.iter().chain(inner.iter().map(|inner| &inner.field));
    Err(match (inner.iter().find(|inner| inner.field.name == name), known.find(|field| field.name == name)) {
        (Some(InnerField { part_of: Some(part_of), .. }), _) => (format!("field `{name}` {part_of}"), there_are),
        (_, Some(field)) => {
            (format!("field `{name}` is of type {}, which does not say where classes are,", field.kind), there_are)
        }
        (_, None) => {
            let near = similar(name, fields.iter().map(|field| &field.name));
            let near = match near.is_empty() {
                true => String::new(),
                false => format!("; similar names: {}", camflow_names::backticked(near)),
            };
            (format!("there is no field `{name}`"), format!("{there_are}{near}"))
        }
    })
}

/// An error is what is wrong and what to do.
fn choose(fields: &[Field], inner: &[InnerField], named: Option<&str>) -> Result<LabelField, (String, String)> {
    let candidates = label_fields(fields, inner, named);
    let all: Vec<&LabelField> = candidates.iter().collect();
    let there_are = || match all[..] {
        [] => "it has no label field that can say where a class is; `--target predicted` needs none".to_owned(),
        _ => format!("the label fields are {}", listed(&all)),
    };
    if let Some(name) = named {
        if let Some(field) = candidates.iter().find(|field| field.name == name) {
            return Ok(field.clone());
        }
        if let Some(InnerField { part_of: Some(part_of), .. }) = inner.iter().find(|inner| inner.field.name == name) {
            return Err((format!("field `{name}` {part_of}, and cannot be a target,"), there_are()));
        }
        let known = || fields.iter().chain(inner.iter().map(|inner| &inner.field));
        return Err(match known().find(|field| field.name == name) {
            Some(field) => (format!("field `{name}` is of type {}, which cannot be a target,", field.kind), there_are()),
            None if name.contains('.') => (
                format!("there is no field `{name}`"),
                format!(
                    "{}; what samples have without its being declared, `dataset.add_dynamic_sample_fields()` declares",
                    there_are()
                ),
            ),
            None => {
                let near = similar(name, fields.iter().map(|field| &field.name));
                let near = match near.is_empty() {
                    true => String::new(),
                    false => format!("; similar names: {}", camflow_names::backticked(near)),
                };
                (format!("there is no field `{name}`"), format!("{}{near}", there_are()))
            }
        });
    }
    // A field of labels goes before others that hold some, too.
    let is_plain = |field: &LabelField| !field.is_bare_list && !field.name.contains('.');
    let in_group = |group: &[LabelKind], plain: bool| {
        all.iter().filter(|field| group.contains(&field.kind) && is_plain(field) == plain).copied().collect::<Vec<_>>()
    };
    let mut groups = [true, false].into_iter().flat_map(|plain| LabelKind::GROUPS.map(|group| in_group(group, plain)));
    match groups.find(|group| !group.is_empty()).as_deref() {
        Some([only]) => Ok((*only).clone()),
        Some(several) => Err((
            format!("there are {} {} fields", several.len(), several[0].type_name()),
            format!("name one with `--target labels:FIELD`: {}", listed(&all)),
        )),
        None => Err((
            "there is no label field that can say where a class is".to_owned(),
            "use the model's own prediction with `--target predicted` or `--target top`".to_owned(),
        )),
    }
}

/// The same among fields that say one class for each image.
fn choose_classification(fields: &[Field], inner: &[InnerField], named: Option<&str>) -> Result<LabelField, (String, String)> {
    let is_one = |field: &&Field| field.kind == LabelKind::Classification.name() && !is_of_camflow(field, inner);
    let names: Vec<&str> = fields.iter().filter(is_one).map(|field| field.name.as_str()).collect();
    let others = || match names[..] {
        [] => "it has no Classification field that could say so".to_owned(),
        _ => format!("name a Classification field with `--target wrong:FIELD`: {}", camflow_names::backticked(&names)),
    };
    match (named, &names[..]) {
        (None, []) => {
            let problem = "there is no Classification field that says the true class of each image";
            Err((problem.to_owned(), "`--target top` explains what the model predicts, and needs no label".to_owned()))
        }
        (None, [only]) => choose(fields, inner, Some(*only)),
        (None, several) => Err((format!("there are {} Classification fields", several.len()), others())),
        (Some(name), _) => match choose(fields, inner, Some(name))? {
            field if field.kind == LabelKind::Classification => Ok(field),
            field => {
                let kind = field.type_name();
                Err((format!("field `{name}` is of type {kind}, and does not say one true class for each image: it"), others()))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&str, &str)]) -> Vec<Field> {
        let field = |(name, kind): &(&str, &str)| Field {
            name: (*name).into(),
            key: (*name).into(),
            kind: (*kind).into(),
            is_label: *kind != "StringField",
        };
        fields.iter().map(field).collect()
    }

    fn chosen(stored: &[(&str, &str)], named: Option<&str>) -> Result<String, String> {
        choose(&fields(stored), &[], named).map(|field| field.name).map_err(|(problem, hint)| format!("{problem}: {hint}"))
    }

    #[test]
    fn the_field_that_says_most_is_taken_if_it_is_the_only_one() {
        let stored =
            [("weather", "Classification"), ("boxes", "Detections"), ("outlines", "Polylines"), ("masks", "Segmentation")];
        assert_eq!(chosen(&stored, None).as_deref(), Ok("masks"));
        assert_eq!(chosen(&stored[..3], None).as_deref(), Ok("boxes"));
        assert_eq!(chosen(&[stored[0], stored[2]], None).as_deref(), Ok("outlines"));
        assert_eq!(chosen(&stored[..1], None).as_deref(), Ok("weather"));
        assert_eq!(chosen(&stored, Some("boxes")).as_deref(), Ok("boxes"));
    }

    #[test]
    fn what_cannot_be_chosen_is_listed_with_its_kind() {
        let two = [("gt", "Detections"), ("model", "Detections"), ("scene", "Classification"), ("note", "StringField")];
        let error = chosen(&two, None).unwrap_err();
        assert!(error.contains("`gt` (Detections), `model` (Detections), `scene` (Classification)"), "{error}");
        assert!(!error.contains("note"), "{error}");
        let error = chosen(&two, Some("note")).unwrap_err();
        assert!(error.contains("StringField") && error.contains("`gt` (Detections)"), "{error}");
        let error = chosen(&two, Some("scen")).unwrap_err();
        assert!(error.contains("no field `scen`") && error.contains("similar names: `scene`"), "{error}");
        assert!(chosen(&[("note", "StringField")], None).unwrap_err().contains("--target predicted"));
    }

    #[test]
    fn attention_is_on_fields_that_say_where_classes_are() {
        let stored = [("scene", "Classification"), ("boxes", "Detections"), ("masks", "Segmentation"), ("note", "StringField")];
        let inner = InnerField { field: fields(&[("meta.lines", "list of Polyline")]).remove(0), part_of: None };
        let inner = [inner];
        let found = |name| {
            with_places(&fields(&stored), &inner, name, "--attention-on")
                .map(|field| field.name)
                .map_err(|(problem, hint)| format!("{problem}: {hint}"))
        };
        for name in ["boxes", "masks", "meta.lines"] {
            assert_eq!(found(name).as_deref(), Ok(name));
        }
        let error = found("mask").unwrap_err();
        assert!(
            error.contains("no field `mask`") && error.contains("`masks` (Segmentation)") && !error.contains("scene"),
            "{error}"
        );
        assert!(found("scene").unwrap_err().contains("is of type Classification, which does not say where classes are"));
        assert!(found("note").unwrap_err().contains("is of type StringField"));
        assert!(
            with_places(&fields(&stored[..1]), &[], "x", "--attention-on").unwrap_err().1.contains("leave out `--attention-on`")
        );
    }

    #[test]
    fn the_true_class_is_one_for_each_image() {
        let stored = [("ground_truth", "Classification"), ("tags_of", "Classifications"), ("masks", "Segmentation")];
        let chosen = |stored: &[(&str, &str)], named| {
            let found = choose_classification(&fields(stored), &[], named);
            found.map(|field| field.name).map_err(|(problem, hint)| format!("{problem}: {hint}"))
        };
        assert_eq!(chosen(&stored, None).as_deref(), Ok("ground_truth"));
        assert_eq!(chosen(&stored, Some("ground_truth")).as_deref(), Ok("ground_truth"));
        let error = chosen(&stored, Some("tags_of")).unwrap_err();
        assert!(error.contains("Classifications") && error.contains("`ground_truth`"), "{error}");
        assert!(chosen(&stored[1..], None).unwrap_err().contains("no Classification field"));
        let two = [stored[0], ("predictions", "Classification")];
        assert!(chosen(&two, None).unwrap_err().contains("`--target wrong:FIELD`: `ground_truth`, `predictions`"));
    }

    #[test]
    fn lists_and_inner_fields_are_chosen_by_name_or_where_there_is_nothing_else() {
        let stored = [("raw", "list of Polyline"), ("boxes", "Detections"), ("many", "list of Detections")];
        assert_eq!(chosen(&stored, None).as_deref(), Ok("boxes"));
        assert_eq!(chosen(&stored, Some("raw")).as_deref(), Ok("raw"));
        assert_eq!(chosen(&stored[..1], None).as_deref(), Ok("raw"));
        let error = chosen(&stored, Some("many")).unwrap_err();
        assert!(
            error.contains("list of Detections, which cannot be a target") && error.contains("`raw` (list of Polyline)"),
            "{error}"
        );
        let inner = |(name, kind): (&str, &str), part_of: Option<&str>| InnerField {
            field: fields(&[(name, kind)]).remove(0),
            part_of: part_of.map(ToOwned::to_owned),
        };
        let all = [inner(("meta.gt", "Detections"), None), inner(("boxes.sub", "Classification"), Some("is a part of a label"))];
        let choose = |named| {
            choose(&fields(&stored), &all, named).map(|field| field.key).map_err(|(problem, hint)| format!("{problem}: {hint}"))
        };
        assert_eq!(choose(None).as_deref(), Ok("boxes"));
        assert_eq!(choose(Some("meta.gt")).as_deref(), Ok("meta.gt"));
        let error = choose(Some("boxes.sub")).unwrap_err();
        assert!(error.contains("is a part of a label") && error.contains("`meta.gt` (Detections)"), "{error}");
        assert!(choose(Some("meta.other")).unwrap_err().contains("add_dynamic_sample_fields"));
    }
}
