//! A table of what confidences become in images with something replaced.

use std::fmt::Write;

use super::{cell, with_code};
use crate::{
    Confidences, Study,
    findings::{ENOUGH, Names},
};
use camflow_measure::Series;

/// Rows; the JSON has all.
const MAX_ROWS: usize = 60;

/// What the columns are, each with what it says when it is pointed at.
const HEADS: [(&str, &str); 6] = [
    ("confidence", "mean confidence of the model in the class, in the images as they are"),
    ("without object", "the same where the pixels of the object are replaced"),
    ("without background", "the same where all pixels but the object's are replaced"),
    (
        "without attended region",
        "the same where those pixels of the background are replaced where the heatmap is highest, as many as the object has",
    ),
    ("context reliance", "what is lost with the background, divided by what is lost with the object and with the background"),
    ("more lost with background, %", "in how many percent of the images more is lost with the background than with the object"),
];

/// The series of which the model was asked, those first whose models lean on context most.
pub(super) fn counterfactuals(study: &Study, names: &Names) -> String {
    let mut rows: Vec<(&Series, &Confidences)> = study.counterfactuals.iter().collect();
    if rows.is_empty() {
        return String::new();
    }
    // What too few images say comes after what enough of them do, and last where nothing is lost.
    let key = |of: &Confidences| (of.num_heatmaps >= ENOUGH, of.reliance().unwrap_or(-1.0));
    rows.sort_by(|(_, a), (_, b)| {
        let (a, b) = (key(a), key(b));
        b.0.cmp(&a.0).then(b.1.total_cmp(&a.1))
    });
    let mut html = format!(
        "<h2>Does it matter?</h2>\n<p class=\"soft\">The model was asked again about each image with some pixels replaced: those of the \
         object, all but those of the object (the background), or, as many as the object has, those of the background where the heatmap is \
         highest (the attended region). The numbers are mean confidences in the class. <i>Context reliance</i> is the confidence lost \
         with the background, divided by the sum of what is lost with the object and with the background: at 0 the model does \
         not need the background, at 1 it does not need the object, and above 0.5 it needs the background more. It is empty where \
         nearly nothing is lost with either. Rows of fewer than {ENOUGH} images, which say little, come last and are grey.</p>\n\
         <div class=\"wide\"><table><thead><tr><th class=\"sortable\">series</th><th class=\"sortable number\">images</th>"
    );
    for (head, title) in HEADS {
        let _ = write!(html, "<th class=\"sortable number\" title=\"{title}\">{head}</th>");
    }
    html += "</tr></thead><tbody>\n";
    for (series, of) in rows.iter().take(MAX_ROWS) {
        let soft = if of.num_heatmaps < ENOUGH { " class=\"soft\"" } else { "" };
        let [confidence, without_object, without_background] = of.means();
        let count = cell(Some(of.num_heatmaps as f64)).replace(".00<", "<");
        let _ = write!(html, "<tr{soft}><td>{}</td>{count}", with_code(&names.name(series)));
        for value in [Some(confidence), Some(without_object), Some(without_background), of.mean_attended()] {
            html += &cell(value);
        }
        let reliance = of.reliance();
        let is_high = reliance.is_some_and(|reliance| reliance >= 0.5) && of.num_heatmaps >= ENOUGH;
        html += &if is_high { cell(reliance).replace("\"number\"", "\"number low\"") } else { cell(reliance) };
        let percent = 100.0 * of.num_background as f64 / of.num_heatmaps as f64;
        html += &cell(Some(percent)).replace(&format!(">{percent:.2}<"), &format!(">{percent:.0}<"));
        html += "</tr>\n";
    }
    html += "</tbody></table></div>\n";
    if rows.len() > MAX_ROWS {
        let _ = writeln!(html, "<p class=\"soft\">{} more are in the JSON.</p>", rows.len() - MAX_ROWS);
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counterfactuals::tests::asked;

    #[test]
    fn those_that_lean_on_context_come_first_and_few_images_last() {
        let mut study = Study::new(1);
        for (class, count, confidences) in
            [("dog", 6, [0.9, 0.1, 0.8, 0.85]), ("<plane>", 6, [0.9, 0.8, 0.1, 0.3]), ("few", 4, [0.9, 0.9, 0.1, 0.3])]
        {
            for id in 0..count {
                let mut sample = asked(id, confidences);
                sample.heatmaps[0].series.class = class.into();
                study.observe(&sample);
            }
        }
        let html = counterfactuals(&study, &Names::of(&study));
        let place = |text: &str| html.find(text).unwrap_or_else(|| panic!("`{text}` in {html}"));
        assert!(place("&lt;plane&gt;") < place("dog") && place("dog") < place("<tr class=\"soft\"><td><code>few"), "{html}");
        assert!(html.contains(">0.89<") && html.contains("number low") && html.contains(">100<"), "{html}");
        assert_eq!(html.matches("number low").count(), 1, "not of few images");
        assert!(counterfactuals(&Study::new(1), &Names::of(&study)).is_empty());
    }
}
