//! `--target`: where the pixels that count come from.

use std::{fmt, str::FromStr};

/// Where targets come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    /// A label field; `None` takes the only one that fits.
    Labels(Option<String>),
    /// The model's own prediction.
    Predicted,
    /// The class that the model itself puts first, where it puts it.
    Top,
    /// One pixel of the image.
    Pixel {
        /// Column, from 0.
        x: u32,
        /// Row, from 0.
        y: u32,
    },
}

impl Default for TargetSpec {
    fn default() -> Self {
        TargetSpec::Labels(None)
    }
}

impl FromStr for TargetSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(pixel) = text.strip_prefix("pixel=") {
            // `parse` would take a sign.
            let number = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok())?;
            return match pixel.split_once(',').map(|(x, y)| (number(x), number(y))) {
                Some((Some(x), Some(y))) => Ok(TargetSpec::Pixel { x, y }),
                _ => Err(format!("`{text}` is not a pixel; use `pixel=X,Y` with column and row, counted from 0 at the top left")),
            };
        }
        match text.split_once(':') {
            None if text == "labels" => Ok(TargetSpec::Labels(None)),
            None if text == "predicted" => Ok(TargetSpec::Predicted),
            None if text == "top" => Ok(TargetSpec::Top),
            Some(("labels", field)) if !field.is_empty() => Ok(TargetSpec::Labels(Some(field.to_owned()))),
            _ => Err(format!("`{text}` is not a target; use `labels`, `labels:FIELD`, `predicted`, `top` or `pixel=X,Y`")),
        }
    }
}

impl fmt::Display for TargetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetSpec::Labels(None) => f.write_str("labels"),
            TargetSpec::Labels(Some(field)) => write!(f, "labels:{field}"),
            TargetSpec::Predicted => f.write_str("predicted"),
            TargetSpec::Top => f.write_str("top"),
            TargetSpec::Pixel { x, y } => write!(f, "pixel={x},{y}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for text in ["labels", "labels:ground_truth", "predicted", "top", "pixel=0,479"] {
            assert_eq!(text.parse::<TargetSpec>().expect(text).to_string(), text);
        }
        for wrong in [
            "",
            "labels:",
            "label",
            "predicted:x",
            "top:1",
            "pixel",
            "pixel=",
            "pixel=3",
            "pixel=-1,2",
            "pixel=+1,2",
            "pixel=1,2,3",
            "pixel=1.5,2",
            "pixel=,",
            "pixel=99999999999,1",
        ] {
            assert!(wrong.parse::<TargetSpec>().is_err(), "{wrong}");
        }
    }
}
