//! `--target`: where the pixels that count come from.

use std::{fmt, path::PathBuf, str::FromStr};

/// Where targets come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    /// A label field; `None` takes the only one that fits.
    Labels(Option<String>),
    /// The model's own prediction.
    Predicted,
    /// The class that the model itself puts first, where it puts it.
    Top,
    /// Of the samples that a classifier misclassifies by this label field: the predicted class, the true one, and their difference;
    /// `None` takes the only field that fits.
    Wrong(Option<String>),
    /// One pixel of the image.
    Pixel {
        /// Column, from 0.
        x: u32,
        /// Row, from 0.
        y: u32,
    },
    /// A number of the output as it is, that of a regression say: nothing is decided by it.
    Component,
    /// How near the image's embedding is to another one.
    Similar(Similarity),
}

/// How near an embedding is to another one: the cosine of the angle between them, or what is missing to 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Similarity {
    /// Where that other one comes from.
    pub to: Reference,
    /// Whether it is the distance, 1 less the cosine.
    pub is_distance: bool,
}

/// Where a reference embedding comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A file: `.npy`, or an image, of which the model makes it.
    File(PathBuf),
    /// The images that a label field says are of the class: the mean of theirs.
    Field(String),
}

/// What similarities are called, and whether they are distances.
const SIMILARITIES: [(&str, bool); 2] = [("similar", false), ("different", true)];

impl Similarity {
    /// What it is called.
    pub fn word(&self) -> &'static str {
        SIMILARITIES[usize::from(self.is_distance)].0
    }
}

impl TargetSpec {
    /// Whether it is a number that is no score of a class: nothing is decided by it, and it has no probability.
    pub fn is_value(&self) -> bool {
        matches!(self, TargetSpec::Component | TargetSpec::Similar(_))
    }
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
        for (word, is_distance) in SIMILARITIES {
            let Some(rest) = text.strip_prefix(word) else { continue };
            let to = match rest.split_at_checked(1) {
                Some(("=", file)) if !file.is_empty() => Reference::File(file.into()),
                Some((":", field)) if !field.is_empty() => Reference::Field(field.to_owned()),
                _ => {
                    return Err(format!(
                        "`{text}` does not say to what; use `{word}=FILE` with an image or a `.npy` embedding, or `{word}:FIELD` with a label field"
                    ));
                }
            };
            return Ok(TargetSpec::Similar(Similarity { to, is_distance }));
        }
        match text.split_once(':') {
            None if text == "labels" => Ok(TargetSpec::Labels(None)),
            None if text == "predicted" => Ok(TargetSpec::Predicted),
            None if text == "top" => Ok(TargetSpec::Top),
            None if text == "wrong" => Ok(TargetSpec::Wrong(None)),
            Some(("wrong", field)) if !field.is_empty() => Ok(TargetSpec::Wrong(Some(field.to_owned()))),
            None if text == "component" => Ok(TargetSpec::Component),
            Some(("labels", field)) if !field.is_empty() => Ok(TargetSpec::Labels(Some(field.to_owned()))),
            Some(("component", name)) if !name.is_empty() => {
                Err(format!("`{text}` is not a target; use `component`, and name it with `--class {name}`"))
            }
            _ => Err(format!(
                "`{text}` is not a target; use `labels`, `labels:FIELD`, `predicted`, `top`, `wrong`, `wrong:FIELD`, `pixel=X,Y`, `component`, `similar=FILE` or `similar:FIELD`"
            )),
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
            TargetSpec::Wrong(None) => f.write_str("wrong"),
            TargetSpec::Wrong(Some(field)) => write!(f, "wrong:{field}"),
            TargetSpec::Pixel { x, y } => write!(f, "pixel={x},{y}"),
            TargetSpec::Component => f.write_str("component"),
            TargetSpec::Similar(similarity) => {
                let word = similarity.word();
                match &similarity.to {
                    Reference::File(file) => write!(f, "{word}={}", file.display()),
                    Reference::Field(field) => write!(f, "{word}:{field}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for text in [
            "labels",
            "labels:ground_truth",
            "predicted",
            "top",
            "wrong",
            "wrong:ground_truth",
            "pixel=0,479",
            "component",
            "similar=refs/cat.npy",
            "similar:ground_truth",
            "different=cat:1.jpg",
        ] {
            assert_eq!(text.parse::<TargetSpec>().expect(text).to_string(), text);
        }
        for wrong in [
            "",
            "labels:",
            "label",
            "predicted:x",
            "top:1",
            "wrong:",
            "pixel",
            "pixel=",
            "pixel=3",
            "pixel=-1,2",
            "pixel=+1,2",
            "pixel=1,2,3",
            "pixel=1.5,2",
            "pixel=,",
            "pixel=99999999999,1",
            "component:age",
            "similar",
            "similar=",
            "similar:",
            "similarity=a.npy",
        ] {
            assert!(wrong.parse::<TargetSpec>().is_err(), "{wrong}");
        }
    }
}
