//! `--target`: where the pixels that count come from.

use std::{fmt, str::FromStr};

/// Where targets come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    /// A label field; `None` takes the only one that fits.
    Labels(Option<String>),
    /// The model's own prediction.
    Predicted,
}

impl FromStr for TargetSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "labels" => Ok(TargetSpec::Labels(None)),
            None if text == "predicted" => Ok(TargetSpec::Predicted),
            Some(("labels", field)) if !field.is_empty() => Ok(TargetSpec::Labels(Some(field.to_owned()))),
            _ => Err(format!("`{text}` is not a target; use `labels`, `labels:FIELD` or `predicted`")),
        }
    }
}

impl fmt::Display for TargetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetSpec::Labels(None) => f.write_str("labels"),
            TargetSpec::Labels(Some(field)) => write!(f, "labels:{field}"),
            TargetSpec::Predicted => f.write_str("predicted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for text in ["labels", "labels:ground_truth", "predicted"] {
            assert_eq!(text.parse::<TargetSpec>().expect(text).to_string(), text);
        }
        for wrong in ["", "labels:", "label", "predicted:x"] {
            assert!(wrong.parse::<TargetSpec>().is_err(), "{wrong}");
        }
    }
}
