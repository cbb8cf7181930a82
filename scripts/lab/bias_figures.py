"""What the benchmark of biases says in numbers: how well rankings agree with the truth, and the tables of docs/bias.md."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

FIRST = 10
LEAST = 5
# Right samples of a class before what its surroundings say for it counts, as in the program.
ENOUGH = 5
# Seeds that formulas and weights were chosen on; tables are of the others.
CHOSEN_ON = (0,)
RANKINGS = ("joint", "energy", "low confidence")


def auc(truth: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve; `None` where all is true or nothing."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores)) if 0 < truth.sum() < len(truth) else None


def column(rows: list[dict], name: str) -> np.ndarray:
    return np.array([float(row[name]) if row[name] != "" else np.nan for row in rows])


def joint(rows: list[dict]) -> np.ndarray:
    """The shortcut score of docs/measures.md, of the samples of one model, written down a second time."""
    is_wrong = np.array([row["predicted_class"] != row["class"] for row in rows])
    without_object, classes = column(rows, "confidence_without_object"), np.array([row["class"] for row in rows])
    usual, means = np.zeros(len(rows)), []
    for name in np.unique(classes):
        right = without_object[(classes == name) & ~is_wrong]
        usual[classes == name] = np.nanmean(right) if np.isfinite(right).any() else 0
        if np.isfinite(right).sum() >= ENOUGH:
            means.append(np.nanmean(right))
    tell = np.clip((np.sum(means) - 1) / (len(means) - 1), 0, 1) if len(means) > 1 else 1
    parts = [
        (2, np.where(is_wrong, usual - without_object, without_object)),
        (1, np.where(is_wrong, np.nan, column(rows, "context_reliance"))),
        (1, 1 - column(rows, "predicted_confidence")),
        (1, 1 / (1 + column(rows, "energy_ratio"))),
    ]
    weights = sum(weight * np.isfinite(part) for weight, part in parts)
    mean = sum(weight * np.nan_to_num(part) for weight, part in parts) / weights
    factor = 0.1 + 0.9 * tell if len(means) > 1 else 1
    return factor * np.where(is_wrong, 1, 0.5) * np.clip(mean, 0, 1)


def rankings(rows: list[dict]) -> dict[str, np.ndarray]:
    """Scores of the samples of one model, the most suspicious highest."""
    energy = column(rows, "energy_ratio")
    scores = (joint(rows), -np.where(np.isfinite(energy), energy, 1), -column(rows, "predicted_confidence"))
    return dict(zip(RANKINGS, scores, strict=True))


def figures(rows: list[dict], said: dict[str, dict]) -> list[dict]:
    """A line for each part of the dataset and each model; `said` are the reports on the parts.

    Raises:
        AssertionError: The report ranks otherwise than the definition.
    """
    lines = []
    for part, report in said.items():
        by_model: dict[str, list[dict]] = {}
        for row in rows:
            if row["part"] == part:
                by_model.setdefault(row["model"], []).append(row)
        fair = by_model.get("fair")
        fair_scores = rankings(fair) if fair else {}
        for model, of_model in by_model.items():
            scores = rankings(of_model)
            check(report, model, of_model, scores["joint"])
            decided = column(of_model, "changed") >= 0.5
            wrong = column(of_model, "answer") != column(of_model, "label")
            conflicting = column(of_model, "is_conflicting") > 0
            planted = wrong & conflicting
            line = {
                "part": part,
                "model": model,
                "samples": len(of_model),
                "accuracy_aligned": mean(~wrong[~conflicting]),
                "accuracy_conflicting": mean(~wrong[conflicting]),
                "decided": mean(decided),
                "errors": int(wrong.sum()),
                "planted_errors": int(planted.sum()),
                "surroundings_tell": next(
                    (one["surroundings_tell"] for one in report["shortcuts"] if one["model"] == model), None
                ),
                **slices(report, model, of_model, decided),
            }
            for name, score in scores.items():
                first = np.argsort(-score, kind="stable")[: min(FIRST, max(int(planted.sum()), 1))]
                line[f"{name}: within"] = auc(decided, score)
                line[f"{name}: precision"] = float(planted[first].mean()) if planted.sum() >= LEAST else None
                if fair and model != "fair":
                    both = np.concatenate([score, fair_scores[name]])
                    of_biased = np.repeat([True, False], [len(score), len(fair)])
                    line[f"{name}: by model"] = auc(of_biased, both)
                    line[f"{name}: decided"] = auc(np.concatenate([decided, column(fair, "changed") >= 0.5]), both)
            lines.append(line)
    return lines


def mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def check(report: dict, model: str, rows: list[dict], scores: np.ndarray) -> None:
    """The program's first samples are those of the definition, with its scores."""
    of = {row["sample"]: score for row, score in zip(rows, scores, strict=True)}
    told = next(one for one in report["shortcuts"] if one["model"] == model)["samples"]
    best = np.sort(scores)[::-1]
    for place, one in enumerate(told):
        assert abs(one["shortcut_score"] - of[one["sample"]]) < 1e-9, (model, one, of[one["sample"]])
        assert abs(one["shortcut_score"] - best[place]) < 1e-9, (model, place, one, best[place])


def slices(report: dict, model: str, rows: list[dict], decided: np.ndarray) -> dict:
    """What the contexts are worth that no mask and no label was asked for."""
    told = next((one for one in report["slices"] if one["model"] == model), None)
    if told is None:
        return {}
    of = {row["sample"]: (row, bool(yes)) for row, yes in zip(rows, decided, strict=True)}
    # Samples that name a context should be of one backdrop.
    alike = []
    for context in told["contexts"]:
        cues = [of[sample][0]["cue"] for sample in context["samples"]]
        alike.append(max(cues.count(cue) for cue in cues) / len(cues))
    shown = [one for one in told["slices"] if one["num_heatmaps"] >= LEAST]
    clear = [one for one in shown if one["p_value"] * len(told["slices"]) <= 0.05]
    # Of a slice that is accused, the samples that show it.
    samples = [of[sample][0] for one in clear for sample in one["samples"]]
    planted = [row["is_conflicting"] in ("1", 1) and row["answer"] != row["label"] for row in samples]
    first = [of[sample][1] for one in shown[:3] for sample in one["samples"]]
    return {
        "contexts": len(told["contexts"]),
        "contexts_alike": float(np.mean(alike)),
        "slices_accused": len(clear),
        "slices_accused_planted": float(np.mean(planted)) if planted else None,
        "first_slices_decided": float(np.mean(first)) if first else None,
    }


def print_tables(folder: Path) -> None:
    """The figures of a folder as Markdown, mean and standard deviation over seeds."""
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    seeds = {line["seed"] for line in lines}
    kept = [line for line in lines if line["seed"] not in CHOSEN_ON or seeds <= set(CHOSEN_ON)]
    groups: dict[tuple, list[dict]] = {}
    for line in kept:
        groups.setdefault((line["world"], line["grade"], line["part"], line["model"]), []).append(line)

    def cell(of: list[dict], key: str, digits: int = 3) -> str:
        known = [line[key] for line in of if line.get(key) is not None]
        spread = f" ± {np.std(known):.{digits}f}" if len(known) > 1 else ""
        return f"{np.mean(known):.{digits}f}{spread}" if known else ""

    def table(title: str, heads: list[str], keys: list[str], which, digits: int = 3) -> None:
        print(f"\n{title}\n\n| world | cue | part | model | seeds |" + "".join(f" {head} |" for head in heads))
        print("|---|---|---|---|---|" + "---|" * len(heads))
        for (world, grade, part, model), of in sorted(groups.items()):
            if which(model):
                cells = "".join(f" {cell(of, key, digits)} |" for key in keys)
                print(f"| {world} | {grade:g} | {part} | {model} | {len(of)} |{cells}")

    biased = lambda model: model != "fair"
    heads = ["right, aligned", "right, conflicting", "decided by backdrop", "planted errors", "surroundings tell"]
    keys = ["accuracy_aligned", "accuracy_conflicting", "decided", "planted_errors", "surroundings_tell"]
    table("What was planted", heads, keys, lambda model: True, 2)
    for title, kind in [
        ("AUC, fair against biased: by model", "by model"),
        ("AUC, fair and biased: decided by the backdrop", "decided"),
        ("AUC within the biased model: decided by the backdrop", "within"),
        ("Precision of the first ten (or of as many as there are planted errors)", "precision"),
    ]:
        table(title, list(RANKINGS), [f"{name}: {kind}" for name in RANKINGS], biased)
    heads = ["contexts", "named by one backdrop", "slices accused", "their samples planted", "samples of the first three decided"]
    keys = ["contexts", "contexts_alike", "slices_accused", "slices_accused_planted", "first_slices_decided"]
    table("Slices", heads, keys, lambda model: True, 2)
