//! The samples that are most likely decided by something beside the object, and the slices of class and context.

use std::fmt::Write;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::{Heading, cell, escaped, file, image, linked, number, thumbnail};
use crate::{Context, Shortcuts, Slice, Slices, Study, Suspect, findings::ENOUGH};

/// Samples that are shown of each model.
const MAX_SUSPECTS: usize = 12;
/// Slices and contexts that are shown of each model; the JSON has all.
const MAX_SLICES: usize = 12;

pub(super) fn shortcuts(study: &Study, heading: &Heading<'_>) -> String {
    let models: Vec<&String> =
        study.shortcuts.keys().chain(study.slices.keys().filter(|model| !study.shortcuts.contains_key(*model))).collect();
    let mut html = String::new();
    for model in &models {
        let (ranking, slices) = (study.shortcuts.get(*model), study.slices.get(*model));
        let of_samples = ranking.map_or_else(String::new, |ranking| samples(ranking, heading));
        let of_slices = slices.map_or_else(String::new, |slices| of_slices(slices, heading));
        if of_samples.is_empty() && of_slices.is_empty() {
            continue;
        }
        if models.len() > 1 {
            let _ = writeln!(html, "<h3><code>{}</code></h3>", escaped(model));
        }
        html += &of_samples;
        html += &of_slices;
    }
    if html.is_empty() {
        return html;
    }
    format!("<section class=\"shortcuts\">\n<h2>Decided by something beside the object?</h2>\n{html}</section>\n")
}

fn samples(ranking: &Shortcuts, heading: &Heading<'_>) -> String {
    let suspects = ranking.suspects();
    let lacks = ranking.lacks().map_or_else(String::new, |lacks| format!(" Not known: {}.", escaped(&lacks)));
    let tell = ranking.surroundings_tell().map_or_else(String::new, |tell| {
        format!(" The surroundings of objects alone tell the classes apart by <b>{tell:.2}</b> (0 is not at all, 1 is always).")
    });
    let mut html = format!(
        "<p class=\"soft\">The samples that are most likely decided by something beside the object, of {} that were ranked, by their \
         <i>shortcut score</i>: mistakes where what is around the object does not speak for the class as it does elsewhere come first, then \
         right answers that are still given without the object.{tell}{lacks}</p>\n",
        ranking.num_ranked,
    );
    let figures: Vec<String> = suspects[..suspects.len().min(MAX_SUSPECTS)].par_iter().map(|one| suspect(one, heading)).collect();
    let _ = writeln!(html, "<div class=\"gallery\">{}</div>", figures.concat());
    html
}

fn suspect(suspect: &Suspect, heading: &Heading<'_>) -> String {
    let Suspect { score, parts, class, example } = suspect;
    let image = linked(&image(&example.media_path, example.heatmap.as_ref()), &example.sample, heading);
    let predicted = example.heatmap.as_ref().and_then(|heatmap| heatmap.prediction.as_ref());
    let said = match (parts.is_wrong, predicted) {
        (Some(true), Some(predicted)) => format!(", taken for <b class=\"low\">{}</b>", escaped(&predicted.class)),
        _ => String::new(),
    };
    let without = parts.surroundings.map_or_else(String::new, |without| format!(", without object {}", number(Some(without))));
    format!(
        "<figure>{image}<figcaption {}<b>{}</b> {}{said}{without}</figcaption></figure>",
        file(&example.media_path, &example.sample),
        number(Some(*score)),
        escaped(class),
    )
}

fn of_slices(slices: &Slices, heading: &Heading<'_>) -> String {
    let shown: Vec<&Slice> = slices.slices.iter().filter(|slice| slice.num_heatmaps >= ENOUGH).take(MAX_SLICES).collect();
    if shown.is_empty() {
        return String::new();
    }
    let contexts = match &slices.on {
        Some(field) => format!("A context is the class of <code>{}</code> that most of a heatmap lies on beside its own.", escaped(field)),
        None => "A context is a group of heatmaps that lie on what looks alike, in colours and textures; no label says what it is: look at its \
                 samples."
            .to_owned(),
    };
    let part = if slices.num_sampled < slices.num_heatmaps {
        format!(" Of {} heatmaps {} were drawn by chance.", slices.num_heatmaps, slices.num_sampled)
    } else {
        String::new()
    };
    let unreadable = match slices.num_unreadable {
        0 => String::new(),
        num => format!(" {num} of them have no file that can be read, and are left out."),
    };
    let mut html = format!(
        "<h4>Classes in contexts</h4>\n<p class=\"soft\">{contexts}{part}{unreadable} Those with the highest mean shortcut score come first; \
         where no score is known, those with most errors.</p>\n<div class=\"wide\"><table><thead><tr><th>class</th><th>context</th>"
    );
    for head in ["heatmaps", "wrong, %", "class elsewhere wrong, %", "p", "mean score"] {
        let _ = write!(html, "<th class=\"number\">{head}</th>");
    }
    html += "<th>samples</th></tr></thead><tbody>\n";
    let rows: Vec<String> = shown.par_iter().map(|slice| row(slices, slice, heading)).collect();
    html += &rows.concat();
    html += "</tbody></table></div>\n<details><summary>Contexts</summary>\n";
    let figures: Vec<String> = slices.contexts.par_iter().map(|one| context(one, heading)).collect();
    html += &figures.concat();
    html + "</details>\n"
}

fn row(slices: &Slices, slice: &Slice, heading: &Heading<'_>) -> String {
    let percent = |wrong: u64, judged: u64| (judged > 0).then(|| 100.0 * wrong as f64 / judged as f64);
    let whole = |value: Option<f64>| cell(value.map(f64::round)).replace(".00<", "<");
    let figures: String = slice.examples.iter().map(|example| thumbnail(example, heading)).collect();
    format!(
        "<tr><td><code>{}</code></td><td>{}</td>{}{}{}{}{}<td><div class=\"gallery small\">{figures}</div></td></tr>\n",
        escaped(&slice.class),
        escaped(&slices.contexts[slice.context].name),
        whole(Some(slice.num_heatmaps as f64)),
        whole(percent(slice.num_wrong, slice.num_judged)),
        whole(percent(slice.num_wrong_elsewhere, slice.num_judged_elsewhere)),
        cell((slice.num_judged > 0).then(|| slice.p_value())).replace(">0.00<", ">&lt; 0.01<"),
        cell(slice.mean_score),
    )
}

fn context(context: &Context, heading: &Heading<'_>) -> String {
    let figures: String = context.examples.iter().map(|example| thumbnail(example, heading)).collect();
    format!(
        "<h4>{} <span class=\"soft\">{} heatmaps</span></h4><div class=\"gallery small\">{figures}</div>\n",
        escaped(&context.name),
        context.num_heatmaps
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{page::tests::heading, shortcuts::tests::asked};
    use camflow_measure::Attention;

    #[test]
    fn samples_and_slices_are_shown_and_names_cannot_write_html() {
        let mut study = Study::new(2);
        for id in 0..20 {
            let mut sample = asked(id, if id < 8 { "<b>dog" } else { "person" }, 0.9, if id < 8 { 0.1 } else { 0.9 }, 0.5);
            let label = Some(if id < 8 { "<i>sand" } else { "grass" }.to_owned());
            sample.heatmaps[0].attention_on = Some("scene".into());
            sample.heatmaps[0].attention = vec![Attention { label, share: Some(0.7), area: 0.3 }];
            study.observe(&sample);
        }
        study.find_slices();
        let html = shortcuts(&study, &heading("street"));
        assert!(html.contains("taken for <b class=\"low\">&lt;b&gt;dog</b>") && html.contains("&lt;i&gt;sand"), "{html}");
        assert!(!html.contains("<b>dog") && !html.contains("<i>sand"));
        // A mistake with the surroundings of another class comes first: (2 * (0.9 - 0.1) + 0.1 + 2 / 3) / 4.
        assert!(html.find(">0.59<").expect("its score") < html.find(">0.32<").expect("that of a right answer"), "{html}");
        assert!(html.find("&lt;i&gt;sand").expect("a slice") < html.find(">grass<").expect("another"), "wrong ones first");
        assert_eq!(html.matches("<tr><td><code>person").count(), 2);
        assert!(shortcuts(&Study::new(2), &heading("street")).is_empty());
    }
}
