//! `--field`: how the sample fields are named.

use crate::{
    names::{Choice, backticked},
    program::Layer,
};

/// A template with `{class}`, `{layer}` and `{method}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTemplate(String);

/// `person_grad_layer_4`, as in FiftyOne's tutorial.
pub const DEFAULT_TEMPLATE: &str = "{class}_grad_layer_{layer}";

impl Default for FieldTemplate {
    fn default() -> Self {
        FieldTemplate(DEFAULT_TEMPLATE.to_owned())
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
    /// The field names by class and layer. Characters that would make a field unusable as `sample.field` become `_`.
    ///
    /// # Errors
    /// Two heatmaps would get the same field, or a name would be refused by FiftyOne.
    pub fn names<M: Choice>(&self, classes: &[String], layers: &[Layer], method: M) -> Result<Vec<Vec<String>>, String> {
        let name = |class: &String, layer: &Layer| {
            let filled = self
                .0
                .replace("{class}", &identifier(class))
                .replace("{layer}", &identifier(&layer.label))
                .replace("{method}", &identifier(method.name()));
            identifier(&filled)
        };
        let names: Vec<Vec<String>> =
            classes.iter().map(|class| layers.iter().map(|layer| name(class, layer)).collect()).collect();
        let mut seen = std::collections::BTreeMap::<&str, usize>::new();
        for field in names.iter().flatten() {
            *seen.entry(field).or_default() += 1;
        }
        let twice: Vec<&str> = seen.iter().filter(|(_, count)| **count > 1).map(|(name, _)| *name).collect();
        if !twice.is_empty() {
            let fields = backticked(twice);
            return Err(format!(
                "several heatmaps would go to the same field {fields}\nhint: put {{class}} and {{layer}} into `--field`; it is `{}`",
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
    use crate::{explain::Method, program::Layout};

    fn layer(label: &str) -> Layer {
        Layer {
            label: label.into(),
            path: format!("backbone.{label}"),
            tap: crate::program::ValueId::default(),
            layout: Layout::Nchw,
            tokens: None,
        }
    }

    #[test]
    fn the_default_is_that_of_the_tutorial() {
        let names = FieldTemplate::default().names(&["person".into()], &[layer("1"), layer("layer4.2.conv3")], Method::Gradcam);
        assert_eq!(names.expect("names"), [["person_grad_layer_1", "person_grad_layer_layer4_2_conv3"]]);
        let names = FieldTemplate::default().names(&["dining table".into()], &[layer("4")], Method::Gradcam);
        assert_eq!(names.expect("names"), [["dining_table_grad_layer_4"]]);
    }

    #[test]
    fn collisions_and_private_names_are_refused() {
        let template: FieldTemplate = "{class}".parse().expect("template");
        let error =
            template.names(&["person".into()], &[layer("1"), layer("2")], Method::Gradcam).expect_err("one field for two");
        assert!(error.contains("`person`"), "{error}");
        let template: FieldTemplate = "_{layer}".parse().expect("template");
        assert!(template.names(&["person".into()], &[layer("1")], Method::Gradcam).is_err());
        assert!("{klass}".parse::<FieldTemplate>().is_err());
    }
}
