//! What an evaluation found of detections: the false positives that the model is surest of, and the objects that it misses.

use std::{collections::BTreeMap, fmt::Write};

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::{
    super::{EvaluatedDetection, Study, Tally, outcomes::frequent},
    Heading, MAX_ROWS, cell, escaped, file, image, linked, number,
};
use camflow_measure::Measure;

pub(super) fn detections(study: &Study, heading: &Heading<'_>) -> String {
    let mut html = String::new();
    let parts = study.outcomes.iter().flat_map(|(model, outcomes)| {
        [
            ("false positives", model, &outcomes.most_confident, &outcomes.false_positives),
            ("missed objects", model, &outcomes.nearly_detected, &outcomes.missed),
        ]
    });
    for (what, model, first, classes) in parts.filter(|(.., classes)| !classes.is_empty()) {
        let of = if study.outcomes.len() > 1 { format!(" of <code>{}</code>", escaped(model)) } else { String::new() };
        let figures: Vec<String> = first.par_iter().map(|one| figure(one, heading)).collect();
        let _ = writeln!(html, "<h3>{}{of}</h3><div class=\"gallery\">{}</div>", capitalised(what), figures.concat());
        html += &table(what, classes);
    }
    if html.is_empty() {
        return html;
    }
    let text = "What an evaluation of FiftyOne's found of detections that have heatmaps of their own: those that are no object, and labelled \
                objects that are not detected, each by the confidence that the model has there. What lies inside is the share of the \
                heatmap in the detection's own box, which is outlined.";
    format!("<h2>Detections that are wrong</h2>\n<p class=\"soft\">{text}</p>\n{html}")
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn table(what: &str, classes: &BTreeMap<String, Tally>) -> String {
    let mut html = format!(
        "<details open><summary>By class</summary><table><thead><tr><th>class</th><th class=\"number\">{what}</th>\
         <th class=\"number\">mean confidence</th><th class=\"number\">mean energy inside</th></tr></thead><tbody>\n"
    );
    let classes = frequent(classes);
    for (class, tally) in classes.iter().take(MAX_ROWS) {
        let _ = writeln!(
            html,
            "<tr><td><code>{}</code></td><td class=\"number\">{}</td>{}{}</tr>",
            escaped(class),
            tally.count,
            cell(tally.mean_confidence()),
            cell(tally.mean_inside()),
        );
    }
    html += "</tbody></table></details>\n";
    if classes.len() > MAX_ROWS {
        let _ = writeln!(html, "<p class=\"soft\">{} more are in the JSON.</p>", classes.len() - MAX_ROWS);
    }
    html
}

fn figure(found: &EvaluatedDetection, heading: &Heading<'_>) -> String {
    let EvaluatedDetection { sample, media_path, confidence, heatmap, .. } = found;
    let inside = heatmap.measures.get(Measure::EnergyInside);
    let inside = inside.map_or_else(String::new, |inside| format!(", {} inside", number(Some(inside))));
    format!(
        "<figure>{}<figcaption {}<b class=\"low\">{}</b> {}{inside}</figcaption></figure>",
        linked(&image(media_path, Some(heatmap)), sample, heading),
        file(media_path, sample),
        number(*confidence),
        escaped(&heatmap.series.class),
    )
}

#[cfg(test)]
mod tests {
    use super::{super::super::outcomes::tests::evaluated, super::tests::heading, *};

    #[test]
    fn the_surest_are_shown_and_classes_cannot_write_html() {
        let mut study = Study::new(2);
        assert_eq!(detections(&study, &heading("street")), "");
        (0..3).for_each(|id| study.observe(&evaluated(id, "<b>dog", "fp", 0.9 + 0.01 * f64::from(id), true)));
        study.observe(&evaluated(9, "cat", "tp", 0.5, true));
        let html = detections(&study, &heading("street"));
        assert_eq!(html.matches("<figure>").count(), 2, "as many as were to be kept");
        assert!(html.contains("False positives") && !html.contains("Missed objects"), "{html}");
        assert!(!html.contains("<b>dog") && html.contains("&lt;b&gt;dog") && html.contains("0.92"), "{html}");
        study.observe(&evaluated(10, "cat", "fn", 0.5, false));
        assert!(detections(&study, &heading("street")).contains("Missed objects"));
    }
}
