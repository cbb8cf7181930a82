//! `--field`: how the sample fields are named.

use crate::names::backticked;

/// A template with `{class}`, `{layer}` and `{method}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTemplate(String);

impl FieldTemplate {
    /// `person_grad_layer_4` for Grad-CAM alone, as in FiftyOne's tutorial; for other methods `person_layercam_layer_4`.
    pub fn default_for(methods: &[&str]) -> Self {
        FieldTemplate(
            if methods == ["gradcam"] { "{class}_grad_layer_{layer}" } else { "{class}_{method}_layer_{layer}" }.to_owned(),
        )
    }
}

impl std::str::FromStr for FieldTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let Some(close) = rest[open..].find('}') else {
                return Err(format!("`{text}` has an opening brace without a closing one"));
            };
            let placeholder = &rest[open + 1..open + close];
            if !["class", "layer", "method"].contains(&placeholder) {
                return Err(format!("`{{{placeholder}}}` is not known; use {{class}}, {{layer}} and {{method}}"));
            }
            rest = &rest[open + close + 1..];
        }
        if text.is_empty() { Err("a field needs a name".into()) } else { Ok(FieldTemplate(text.to_owned())) }
    }
}

impl FieldTemplate {
    /// The field names by class and column, which is a method's name and a layer's label. Characters that would make a field
    /// unusable as `sample.field` become `_`; `gradcam++` becomes `gradcampp`.
    ///
    /// # Errors
    /// Two heatmaps would get the same field, or a name would be refused by FiftyOne.
    pub fn names(&self, classes: &[String], columns: &[(&str, &str)]) -> Result<Vec<Vec<String>>, String> {
        // A class without a name is its channel's number, which cannot begin a field's name.
        let begin = |class: &str| match self.0.starts_with("{class}") && class.starts_with(|c: char| c.is_ascii_digit()) {
            true => format!("class_{class}"),
            false => class.to_owned(),
        };
        let name = |class: &String, (method, layer): &(&str, &str)| {
            let filled = self
                .0
                .replace("{class}", &identifier(&begin(class)))
                .replace("{layer}", &identifier(layer))
                .replace("{method}", &identifier(&method.replace('+', "p")));
            identifier(&filled)
        };
        let names: Vec<Vec<String>> =
            classes.iter().map(|class| columns.iter().map(|column| name(class, column)).collect()).collect();
        let mut seen = std::collections::BTreeMap::<&str, usize>::new();
        for field in names.iter().flatten() {
            *seen.entry(field).or_default() += 1;
        }
        let twice: Vec<&str> = seen.iter().filter(|(_, count)| **count > 1).map(|(name, _)| *name).collect();
        if !twice.is_empty() {
            let fields = backticked(twice);
            return Err(format!(
                "several heatmaps would go to the same field {fields}\nhint: put {{class}}, {{method}} and {{layer}} into `--field`; it is `{}`",
                self.0
            ));
        }
        // FiftyOne keeps names with a leading underscore for itself.
        if let Some(private) = names.iter().flatten().find(|name| !name.starts_with(|c: char| c.is_ascii_alphabetic())) {
            return Err(format!("FiftyOne takes no field named `{private}`\nhint: begin `--field` with a letter"));
        }
        Ok(names)
    }
}

/// Letters, digits and `_`; everything else becomes `_`.
fn identifier(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_that_of_the_tutorial() {
        let template = FieldTemplate::default_for(&["gradcam"]);
        let names = template.names(&["person".into()], &[("gradcam", "1"), ("gradcam", "layer4.2.conv3")]);
        assert_eq!(names.expect("names"), [["person_grad_layer_1", "person_grad_layer_layer4_2_conv3"]]);
        let names = template.names(&["dining table".into()], &[("gradcam", "4")]);
        assert_eq!(names.expect("names"), [["dining_table_grad_layer_4"]]);
        let names = template.names(&["15".into()], &[("gradcam", "4")]);
        assert_eq!(names.expect("names"), [["class_15_grad_layer_4"]]);
        let template = FieldTemplate::default_for(&["gradcam++", "fullgrad"]);
        let names = template.names(&["cat".into()], &[("gradcam++", "4"), ("fullgrad", "all")]);
        assert_eq!(names.expect("names"), [["cat_gradcampp_layer_4", "cat_fullgrad_layer_all"]]);
    }

    #[test]
    fn collisions_and_private_names_are_refused() {
        let template: FieldTemplate = "{class}".parse().expect("template");
        let error = template.names(&["person".into()], &[("gradcam", "1"), ("gradcam", "2")]).expect_err("one field for two");
        assert!(error.contains("`person`"), "{error}");
        let template: FieldTemplate = "_{layer}".parse().expect("template");
        assert!(template.names(&["person".into()], &[("gradcam", "1")]).is_err());
        assert!("{klass}".parse::<FieldTemplate>().is_err());
    }
}
