//! What a job asks of counterfactuals, and whether they are possible.

use super::JobSpec;
use crate::job::TargetSpec;
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{LabelField, LabelKind};
use camflow_media::shown;
use camflow_names::Choice;
use camflow_torch::explain::Replacement;
use camflow_torch::program::Program;

/// What takes the place of objects, of their backgrounds and of what is attended there, if the model is to be asked about that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counterfactuals(pub Option<Replacement>);

impl Choice for Counterfactuals {
    const ALL: &'static [Self] = &[
        Counterfactuals(None),
        Counterfactuals(Some(Replacement::Blur)),
        Counterfactuals(Some(Replacement::Mean)),
        Counterfactuals(Some(Replacement::Impute)),
    ];

    fn name(self) -> &'static str {
        self.0.map_or("none", Replacement::name)
    }
}

/// What was measured, as fingerprints have it: the version, and what was asked for.
pub(crate) fn measures_setting(faithfulness: bool, Counterfactuals(replacement): Counterfactuals) -> String {
    let mut setting = "2".to_owned();
    if faithfulness {
        setting += " and faithfulness";
    }
    if let Some(replacement) = replacement {
        setting += &format!(" and counterfactuals by {}", replacement.name());
    }
    setting
}

/// Makes sure that heatmaps have an object, where one is to be replaced.
///
/// # Errors
/// None will have one.
pub(crate) fn check_object(program: &Program, spec: &JobSpec, label: Option<&LabelField>) -> Result<(), Diagnostic> {
    if spec.counterfactuals.0.is_none() {
        return Ok(());
    }
    let model = shown(program.path());
    let is_of_image = program.num_dimensions() == Some(2);
    let says_where = |label: &LabelField| !matches!(label.kind, LabelKind::Classification | LabelKind::Classifications);
    let why = match (spec.target(), label) {
        (TargetSpec::Labels(_), Some(label)) if says_where(label) || !is_of_image => return Ok(()),
        (TargetSpec::Labels(_), Some(label)) => format!(
            "field `{}`, of type {}, and model `{model}`, whose scores are of whole images, say none",
            label.name,
            label.type_name()
        ),
        (TargetSpec::Labels(_) | TargetSpec::Predicted | TargetSpec::Top, _) if !is_of_image => return Ok(()),
        (TargetSpec::Labels(_) | TargetSpec::Predicted | TargetSpec::Top, _) => {
            format!("model `{model}` says none: its scores are of whole images")
        }
        (TargetSpec::Pixel { .. }, _) => "`--target pixel=X,Y` is one pixel".to_owned(),
        (TargetSpec::Component | TargetSpec::Similar(_), _) => "the target has neither a class nor an object".to_owned(),
        (TargetSpec::Wrong(_), _) => "`--target wrong` is about whole images".to_owned(),
    };
    Err(Diagnostic::invalid(format!("`--counterfactuals` replaces the pixels of the object, and {why}"))
        .hint("name a field that says where objects are, segmentations, detections or polylines: `--target labels:FIELD`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_it_the_setting_is_what_it_was() {
        assert_eq!(measures_setting(false, Counterfactuals::default()), "2");
        assert_eq!(measures_setting(true, Counterfactuals::default()), "2 and faithfulness");
        let texts: Vec<String> = Counterfactuals::ALL.iter().map(|asked| measures_setting(true, *asked)).collect();
        assert_eq!(texts[3], "2 and faithfulness and counterfactuals by impute");
    }
}
