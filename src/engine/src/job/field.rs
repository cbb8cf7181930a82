//! `--field`: how the sample fields are named.

use std::collections::BTreeMap;

use unicode_normalization::char::is_combining_mark;

use camflow_diagnostic::Diagnostic;
use camflow_names::{backticked, nearest};
use camflow_pipeline::TargetClass;

/// What stands in braces for something else.
const PLACEHOLDERS: [&str; 4] = ["class", "layer", "method", "model"];

/// A template with `{class}`, `{layer}`, `{method}` and `{model}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTemplate {
    text: String,
    /// What `{method}` is for Grad-CAM.
    gradcam: &'static str,
}

/// `person_grad_layer_4` for Grad-CAM, as in FiftyOne's tutorial, for other methods `person_layercam_layer_4`: whatever else a run
/// computes, so that a heatmap has the same field in every run.
impl Default for FieldTemplate {
    fn default() -> Self {
        FieldTemplate { text: "{class}_{method}_layer_{layer}".to_owned(), gradcam: "grad" }
    }
}

impl std::fmt::Display for FieldTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for FieldTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut rest, mut literal) = (text, String::new());
        while let Some(open) = rest.find('{') {
            let Some(close) = rest[open..].find('}') else {
                return Err(format!("`{text}` has an opening brace without a closing one"));
            };
            let placeholder = &rest[open + 1..open + close];
            if !PLACEHOLDERS.contains(&placeholder) {
                let near = nearest(placeholder, PLACEHOLDERS.iter().copied(), 1).concat();
                return Err(format!(
                    "`{{{placeholder}}}` is not known, did you mean `{{{near}}}`? There are {{class}}, {{layer}}, {{method}} and {{model}}"
                ));
            }
            literal += &rest[..open];
            rest = &rest[open + close + 1..];
        }
        literal += rest;
        match text.chars().next() {
            None => Err("a field needs a name".into()),
            Some('_') => Err("FiftyOne keeps names that begin with `_` for itself".into()),
            // A dot would be a place in a document; signs of classes and layers are another matter, as nobody chose them.
            Some(_) if identifier(&literal) != literal && text.contains(char::is_alphanumeric) => {
                let fitting: String =
                    text.chars().map(|c| if "{}".contains(c) { c.into() } else { identifier(&c.to_string()) }).collect();
                Err(format!("a field's name has letters, digits and `_` only, as in `{fitting}`"))
            }
            Some(_) => Ok(FieldTemplate { text: text.to_owned(), gradcam: "gradcam" }),
        }
    }
}

impl FieldTemplate {
    /// The field names by class and column, which is a method's name and a layer's label. What is neither letter nor digit becomes
    /// `_`, so that a field can be used as `sample.field`; `gradcam++` becomes `gradcampp`.
    ///
    /// # Errors
    /// Two heatmaps would get the same field, or nothing is left of a name.
    pub fn names(&self, classes: &[String], columns: &[(&str, &str)], model: &str) -> Result<Vec<Vec<String>>, Diagnostic> {
        let name = |class: &String, (method, layer): &(&str, &str)| {
            let method = if *method == "gradcam" { self.gradcam } else { *method };
            let filled = self
                .text
                .replace("{layer}", &identifier(layer))
                .replace("{method}", &identifier(&method.replace('+', "p")))
                .replace("{model}", &identifier(model))
                .replace("{class}", &identifier(class));
            // FiftyOne keeps names with a leading underscore for itself.
            identifier(&filled).trim_start_matches('_').to_owned()
        };
        let names: Vec<Vec<String>> =
            classes.iter().map(|class| columns.iter().map(|column| name(class, column)).collect()).collect();
        let mut seen = BTreeMap::<&str, Vec<(&String, &(&str, &str))>>::new();
        for (class, row) in classes.iter().zip(&names) {
            for (column, field) in columns.iter().zip(row) {
                seen.entry(field).or_default().push((class, column));
            }
        }
        if let Some((field, [(class, column), (other_class, other_column), ..])) =
            seen.iter().map(|(field, heatmaps)| (field, &heatmaps[..])).find(|(_, heatmaps)| heatmaps.len() > 1)
        {
            let differ = [
                ("{class}", class != other_class, class.as_str(), other_class.as_str()),
                ("{method}", column.0 != other_column.0, column.0, other_column.0),
                ("{layer}", column.1 != other_column.1, column.1, other_column.1),
            ];
            let (placeholder, _, one, other) = differ.into_iter().find(|(_, differs, ..)| *differs).unwrap_or(differ[0]);
            let hint = match self.text.contains(placeholder) {
                false => format!("put {placeholder} into `--field`; it is `{}`", self.text),
                true => "these names differ in nothing but signs; ask for one after the other, each with a `--field` of its own"
                    .into(),
            };
            let problem = format!("several heatmaps would go to the same field `{field}`: those of {}", backticked([one, other]));
            return Err(Diagnostic::invalid(problem).hint(hint));
        }
        if names.iter().flatten().any(String::is_empty) {
            return Err(Diagnostic::invalid("no letter or digit is left of a field's name")
                .hint(format!("`--field` is `{}`; put some into it", self.text)));
        }
        Ok(names)
    }
}

/// What stands for each class in the names of fields: its name, and its channel where another class of the model would have the same
/// field. It does not matter which of them are asked for, so that a class has the same field in every run.
pub fn distinct_names(asked: &[TargetClass], model_classes: &BTreeMap<i64, String>) -> Vec<String> {
    let mut counts = BTreeMap::<String, usize>::new();
    for name in model_classes.values() {
        *counts.entry(at_the_front(name)).or_default() += 1;
    }
    let name = |class: &TargetClass| match counts.get(&at_the_front(&class.name)) {
        Some(2..) => format!("{}_{}", class.name, class.index),
        _ => class.name.clone(),
    };
    asked.iter().map(name).collect()
}

/// What a field's name begins with, where it begins with a class.
fn at_the_front(class: &str) -> String {
    identifier(class).trim_start_matches('_').to_owned()
}

/// Letters and digits of any script, with their marks; everything else becomes `_`.
fn identifier(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() || is_combining_mark(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_that_of_the_tutorial() {
        let template = FieldTemplate::default();
        let names = template.names(&["person".into()], &[("gradcam", "1"), ("gradcam", "layer4.2.conv3")], "m");
        assert_eq!(names.expect("names"), [["person_grad_layer_1", "person_grad_layer_layer4_2_conv3"]]);
        let names = template.names(&["dining table".into()], &[("gradcam", "4")], "m");
        assert_eq!(names.expect("names"), [["dining_table_grad_layer_4"]]);
        // The same one beside other methods.
        let names = template.names(&["cat".into()], &[("gradcam", "4"), ("gradcam++", "4"), ("fullgrad", "all")], "m");
        assert_eq!(names.expect("names"), [["cat_grad_layer_4", "cat_gradcampp_layer_4", "cat_fullgrad_layer_all"]]);
    }

    #[test]
    fn signs_that_a_field_cannot_have_are_told() {
        for (text, fitting) in [("a.b", "`a_b`"), ("{class} grad-{layer}", "`{class}_grad_{layer}`"), ("{class}.", "`{class}_`")]
        {
            let error = text.parse::<FieldTemplate>().expect_err(text);
            assert!(error.contains(fitting), "{error}");
        }
        for text in ["{class}_{layer}", "собака_{class}", "a_b", "{class}{method}"] {
            assert!(text.parse::<FieldTemplate>().is_ok(), "{text}");
        }
    }

    #[test]
    fn letters_of_any_script_are_kept() {
        let template: FieldTemplate = "{class}_grad".parse().expect("template");
        let classes = ["собака", "Größe", "N/A", "$cash", "__background__", "हिन्दी", "15"].map(String::from);
        let names = template.names(&classes, &[("gradcam", "4")], "m").expect("names").concat();
        assert_eq!(names, ["собака_grad", "Größe_grad", "N_A_grad", "cash_grad", "background___grad", "हिन्दी_grad", "15_grad"]);
        let template: FieldTemplate = "{model}_{class}".parse().expect("template");
        assert_eq!(template.names(&["cat".into()], &[("gradcam", "4")], "resnet 50").expect("names"), [["resnet_50_cat"]]);
    }

    #[test]
    fn classes_of_one_name_are_told_apart_by_their_channels() {
        let model: BTreeMap<i64, String> = [
            (1, "crane"),
            (2, "crane"),
            (3, "hot dog"),
            (4, "hot_dog"),
            (5, "cat"),
            (6, "$cash"),
            (7, "cash"),
            (8, "#"),
            (9, "犬"),
        ]
        .map(|(n, name)| (n, name.to_owned()))
        .into();
        let asked = |numbers: &[i64]| {
            let class =
                |number: &i64| TargetClass { name: model[number].clone(), index: *number, mask_value: None, reference: None };
            distinct_names(&numbers.iter().map(class).collect::<Vec<_>>(), &model)
        };
        assert_eq!(asked(&[1, 2, 5]), ["crane_1", "crane_2", "cat"]);
        assert_eq!(asked(&[4]), ["hot_dog_4"]);
        // FiftyOne takes no field that begins with `_`.
        assert_eq!(asked(&[6, 7, 8, 9]), ["$cash_6", "cash_7", "#", "犬"]);
    }

    #[test]
    fn collisions_say_what_would_tell_them_apart() {
        let two = [("gradcam", "1"), ("gradcam", "2")];
        let refused = |template: &str, classes: &[&str], columns: &[(&str, &str)]| {
            let template: FieldTemplate = template.parse().expect("template");
            let classes: Vec<String> = classes.iter().map(|class| (*class).to_owned()).collect();
            let error = template.names(&classes, columns, "m").expect_err("one field for two");
            format!("{error}; {}", error.hints.concat())
        };
        let error = refused("{class}", &["person"], &two);
        assert!(error.contains("`person`") && error.contains("put {layer} into"), "{error}");
        let error = refused("{class}_{layer}", &["a-b", "a b"], &two[..1]);
        assert!(error.contains("`a-b`, `a b`") && error.contains("one after the other"), "{error}");
        assert!(refused("{class}", &["-", "+"], &two[..1]).contains("differ in nothing"));
        assert!(refused("-", &["x"], &two[..1]).contains("no letter or digit"));
        let error = "{klass}".parse::<FieldTemplate>().expect_err("unknown");
        assert!(error.contains("did you mean `{class}`?"), "{error}");
        assert!("_{class}".parse::<FieldTemplate>().is_err());
    }
}
