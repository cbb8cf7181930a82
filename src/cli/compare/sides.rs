//! What A and B are, and which field of A belongs to which of B.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    diagnostic::Diagnostic,
    fiftyone::{Dataset, stored_runs},
    names::{backticked, existing, flag},
};

/// Fields of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Side {
    /// What was typed.
    text: String,
    /// Whether that was a name with `*`.
    is_pattern: bool,
    /// In the dataset's order.
    fields: Vec<String>,
}

/// Which fields belong together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pairing {
    /// Of A and of B.
    pub fields: Vec<(String, String)>,
    /// What to say of those that belong to none.
    pub left: Vec<String>,
}

impl Side {
    /// A heatmap field, all fields of a name with `*`, or those of a run.
    ///
    /// # Errors
    /// There is nothing of this name; the database fails.
    pub(super) fn find(dataset: &Dataset, text: &str) -> Result<Side, Diagnostic> {
        let known = dataset.written_fields();
        let side = |fields| Side { text: text.to_owned(), is_pattern: text.contains('*'), fields };
        let name = dataset.name();
        if known.is_empty() {
            return Err(Diagnostic::invalid(format!("dataset `{name}` has no heatmaps"))
                .hint(format!("make them with `camflow annotate {}`", flag("--dataset", name))));
        }
        if known.iter().any(|field| field == text) {
            return Ok(side(vec![text.to_owned()]));
        }
        if text.contains('*') {
            let fields: Vec<String> = known.iter().filter(|field| stars(text, field).is_some()).cloned().collect();
            if fields.is_empty() {
                return Err(Diagnostic::invalid(format!("no heatmap field of dataset `{name}` is named like `{text}`"))
                    .hint(existing("heatmap fields", text, &known))
                    .hint(keep_both(dataset)));
            }
            return Ok(side(fields));
        }
        let runs = stored_runs(dataset)?;
        if let Some(run) = runs.iter().find(|run| run.key == text) {
            // Somebody may have deleted one since.
            let fields: Vec<String> = known.into_iter().filter(|field| run.fields.contains(field)).collect();
            if fields.is_empty() {
                return Err(Diagnostic::invalid(format!("the run `{text}` of dataset `{name}` has no fields any more"))
                    .hint("`camflow runs` lists the runs with their fields"));
            }
            return Ok(side(fields));
        }
        let error = Diagnostic::invalid(format!("dataset `{name}` has no heatmap field or run `{text}`"));
        let error = error.hint(existing("heatmap fields", text, &known));
        let keys: Vec<&str> = runs.iter().map(|run| run.key.as_str()).collect();
        let error = if keys.is_empty() { error } else { error.hint(existing("runs", text, &keys)) };
        Err(error.hint(keep_both(dataset)))
    }
}

/// How there come to be two sets of heatmaps: a run writes into the fields of the one before that is named like it.
pub(super) fn keep_both(dataset: &Dataset) -> String {
    format!(
        "to have the heatmaps of two models or nights side by side, give each run fields of its own: `camflow annotate {} --field \
         'v2_{{class}}_{{method}}_layer_{{layer}}'`; what `--replace` or `--overwrite` took the place of is gone",
        flag("--dataset", dataset.name())
    )
}

/// Pairs the fields of two sides: two single ones; of two names with as many `*` those for which these stand for the same; else those
/// whose names are the same without the words that all names of one side have and none of the other's.
///
/// # Errors
/// None belongs to another.
pub(super) fn pairing(sides: &[Side; 2], are_two_datasets: bool) -> Result<Pairing, Diagnostic> {
    let [a, b] = sides;
    let num_stars = |side: &Side| side.text.matches('*').count();
    let keys: [Vec<Option<String>>; 2] = match (&a.fields[..], &b.fields[..]) {
        ([_], [_]) => [vec![Some(String::new())], vec![Some(String::new())]],
        _ if a.is_pattern && b.is_pattern && num_stars(a) == num_stars(b) => {
            [a, b].map(|side| side.fields.iter().map(|field| Some(stars(&side.text, field)?.join("*"))).collect())
        }
        _ => [own_words(a, b), own_words(b, a)].map(|keys| keys.into_iter().map(Some).collect()),
    };
    let by_key = |side: &Side, keys: &[Option<String>]| {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (field, key) in side.fields.iter().zip(keys) {
            found.entry(key.clone().unwrap_or_default()).or_default().push(field.clone());
        }
        found
    };
    let of_b = by_key(b, &keys[1]);
    let of_a = by_key(a, &keys[0]);
    let is_same = |a: &str, b: &str| !are_two_datasets && a == b;
    let mut fields = Vec::new();
    for (field, key) in a.fields.iter().zip(&keys[0]) {
        let key = key.as_deref().unwrap_or_default();
        if let (Some([_]), Some([other])) = (of_a.get(key).map(Vec::as_slice), of_b.get(key).map(Vec::as_slice))
            && !is_same(field, other)
        {
            fields.push((field.clone(), other.clone()));
        }
    }
    if fields.is_empty() {
        let are_same = !are_two_datasets && a.fields == b.fields;
        let problem = match are_same {
            true => format!("`{}` and `{}` are the same heatmaps", a.text, b.text),
            false => format!("no heatmap field of `{}` belongs to one of `{}`", a.text, b.text),
        };
        let error = Diagnostic::invalid(problem);
        return Err(match are_same {
            true => error.hint("name the fields of two models, methods or nights"),
            false => error.hint(format!(
                "A has {}, B has {}; name single fields, or names in which `*` stands for what both have: `'v1_*' 'v2_*'`",
                backticked(&a.fields),
                backticked(&b.fields)
            )),
        });
    }
    let left = |side: &Side, other: &Side, letter: &str, is_paired: &dyn Fn(&String) -> bool| {
        let others = if are_two_datasets { &[][..] } else { &other.fields[..] };
        let left: Vec<&String> = side.fields.iter().filter(|field| !is_paired(field) && !others.contains(field)).collect();
        (!left.is_empty()).then(|| format!("of {letter}, {} have no counterpart: left out", backticked(left)))
    };
    let left = [
        left(a, b, "A", &|field| fields.iter().any(|(a, _)| a == field)),
        left(b, a, "B", &|field| fields.iter().any(|(_, b)| b == field)),
    ];
    Ok(Pairing { fields, left: left.into_iter().flatten().collect() })
}

/// What the stars of a pattern stand for in a name, each as little as possible but for the last; `None` where it is none of these names.
fn stars<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    let mut parts = pattern.split('*');
    let mut rest = name.strip_prefix(parts.next()?)?;
    let parts: Vec<&str> = parts.collect();
    let (last, between) = parts.split_last()?;
    let mut found = Vec::new();
    for part in between {
        let at = rest.find(part)?;
        found.push(&rest[..at]);
        rest = &rest[at + part.len()..];
    }
    found.push(rest.strip_suffix(last)?);
    Some(found)
}

/// The names of a side's fields without the words that all of them have and no field of the other side has.
fn own_words(side: &Side, other: &Side) -> Vec<String> {
    let words = |field: &String| field.split('_').map(str::to_owned).collect::<BTreeSet<String>>();
    let all: Vec<BTreeSet<String>> = side.fields.iter().map(words).collect();
    let others: BTreeSet<String> = other.fields.iter().flat_map(words).collect();
    let is_usual = |word: &str| all.iter().all(|words| words.contains(word)) && !others.contains(word);
    side.fields.iter().map(|field| field.split('_').filter(|word| !is_usual(word)).collect::<Vec<_>>().join("_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(text: &str, fields: &[&str]) -> Side {
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        Side { text: text.to_owned(), is_pattern: text.contains('*'), fields }
    }

    fn paired(a: &Side, b: &Side) -> Vec<String> {
        let found = pairing(&[a.clone(), b.clone()], false).expect("pairs");
        found.fields.iter().map(|(a, b)| format!("{a}|{b}")).collect()
    }

    #[test]
    fn stars_stand_for_the_same() {
        assert_eq!(stars("v1_*", "v1_dog_layer_4"), Some(vec!["dog_layer_4"]));
        assert_eq!(stars("*_grad_layer_*", "dog_grad_layer_4"), Some(vec!["dog", "4"]));
        assert_eq!((stars("v1_*", "v2_dog"), stars("*_b", "a_c")), (None, None));
        let a = side("*_grad_layer_*", &["dog_grad_layer_3", "dog_grad_layer_4", "cat_grad_layer_4"]);
        let b = side("*_scorecam_layer_*", &["cat_scorecam_layer_4", "dog_scorecam_layer_3", "cat_scorecam_layer_3"]);
        assert_eq!(paired(&a, &b), ["dog_grad_layer_3|dog_scorecam_layer_3", "cat_grad_layer_4|cat_scorecam_layer_4"]);
        let left = pairing(&[a, b], false).expect("pairs").left;
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left[0].contains("of A, `dog_grad_layer_4`") && left[1].contains("of B, `cat_scorecam_layer_3`"), "{left:?}");
    }

    #[test]
    fn the_fields_of_runs_belong_together_by_their_names() {
        let first = side("one", &["person_grad_layer_3", "person_grad_layer_4", "traffic_light_grad_layer_4"]);
        let second = side("two", &["v2_person_scorecam_layer_4", "v2_traffic_light_scorecam_layer_4", "v2_car_scorecam_layer_4"]);
        let wanted =
            ["person_grad_layer_4|v2_person_scorecam_layer_4", "traffic_light_grad_layer_4|v2_traffic_light_scorecam_layer_4"];
        assert_eq!(paired(&first, &second), wanted);
        // Two single fields belong together whatever they are called.
        assert_eq!(paired(&side("a", &["a"]), &side("b", &["b_4"])), ["a|b_4"]);
    }

    #[test]
    fn a_pattern_that_holds_the_other_one_leaves_nothing_over() {
        let all = side("*", &["dog_layer_4", "v2_dog_layer_4"]);
        let found = pairing(&[all, side("v2_*", &["v2_dog_layer_4"])], false).expect("pairs");
        assert_eq!((found.fields.len(), found.left.len()), (1, 0));
    }

    #[test]
    fn nothing_in_common_is_an_error_with_what_there_is() {
        let (a, b) = (side("v1_*", &["v1_dog", "v1_cat"]), side("v2_*", &["v2_bird"]));
        let error = pairing(&[a.clone(), b], false).expect_err("nothing in common");
        assert!(error.to_string().contains("`v1_*`"), "{error:?}");
        assert!(pairing(&[a.clone(), a.clone()], false).is_err(), "the same heatmaps");
        assert_eq!(pairing(&[a.clone(), a], true).expect("in two datasets").fields.len(), 2);
    }
}
