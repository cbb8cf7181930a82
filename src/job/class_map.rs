//! `--map`: which class a label is.

use std::str::FromStr;

/// A label that means a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassMapping {
    /// The name in the dataset.
    pub label: String,
    /// The model's class, by name or channel number.
    pub class: String,
}

impl ClassMapping {
    /// What a flag takes for this: see [`ClassMapping::from_str`].
    pub fn argument(label: &str, class: &str) -> String {
        format!("{}={class}", label.replace('\\', "\\\\").replace('=', "\\="))
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
        let class = rest.as_str().to_owned();
        match label.is_empty() || class.is_empty() {
            true => Err(format!("`{text}` lacks a name beside the `=`")),
            false => Ok(ClassMapping { label, class }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for (label, class) in [("potted plant", "pottedplant"), ("a=b", "c=d"), (r"a\", "15"), (r"\=", r"\="), ("a,b", "c, d")] {
            let mapping = ClassMapping { label: label.into(), class: class.into() };
            assert_eq!(ClassMapping::argument(label, class).parse(), Ok(mapping));
        }
        for wrong in ["", "=", "a", "a=", "=b", r"a\=b"] {
            assert!(wrong.parse::<ClassMapping>().is_err(), "{wrong}");
        }
    }
}
