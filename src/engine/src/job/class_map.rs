//! `--map`: which class a label is.

use std::{fmt, str::FromStr};

/// A label that means a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassMapping {
    /// The name in the dataset.
    pub label: String,
    /// The model's class, by name or channel number.
    pub class: String,
}

impl ClassMapping {
    /// A label and the class that it means.
    ///
    /// # Errors
    /// One of the two has no name.
    pub fn new(label: impl Into<String>, class: impl Into<String>) -> Result<Self, String> {
        let mapping = ClassMapping { label: label.into(), class: class.into() };
        match mapping.label.is_empty() || mapping.class.is_empty() {
            true => Err(format!("`{}={}` lacks a name beside the `=`", mapping.label, mapping.class)),
            false => Ok(mapping),
        }
    }
}

/// As it is read.
impl fmt::Display for ClassMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.label.replace('\\', "\\\\").replace('=', "\\="), self.class)
    }
}

impl FromStr for ClassMapping {
    type Err = String;

    /// Reads `LABEL=CLASS`. A `=` that is part of the label is written `\=`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (mut label, mut rest) = (String::new(), text.chars());
        loop {
            match rest.next() {
                None => {
                    return Err(format!("`{text}` is not LABEL=CLASS, a label of the dataset and the model's class that it is"));
                }
                Some('=') => break,
                Some('\\') if rest.as_str().starts_with(['=', '\\']) => label.extend(rest.next()),
                Some(c) => label.push(c),
            }
        }
        ClassMapping::new(label, rest.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for (label, class) in [("potted plant", "pottedplant"), ("a=b", "c=d"), (r"a\", "15"), (r"\=", r"\="), ("a,b", "c, d")] {
            let mapping = ClassMapping::new(label, class).expect("a mapping");
            assert_eq!(mapping.to_string().parse(), Ok(mapping));
        }
        for wrong in ["", "=", "a", "a=", "=b", r"a\=b"] {
            assert!(wrong.parse::<ClassMapping>().is_err(), "{wrong}");
        }
    }
}
