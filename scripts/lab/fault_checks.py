"""What has to hold whatever happened: what a sample refers to is complete and right, and FiftyOne can read all of it.

`self_test` breaks each of these on purpose: a check that cannot fail proves nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import fault_fiftyone
from bson import ObjectId
from fault_world import EDITED, FIELDS, MEASURED, MEASURES, ORIGINAL, Dataset, digest, measures

# What every label of camflow's has.
KEYS = {
    "_id",
    "_cls",
    "tags",
    "range",
    "map_path",
    "npy_path",
    "fingerprint",
    "target_class",
    "layer",
    "method",
    "model",
    "score",
}
KEYS |= {*MEASURES}
OUR_NAME = re.compile(r"[0-9a-f]{24}\.[0-9a-f]{8}\.(npy|png)|\.camflow-.*\.tmp")


def violations(dataset: Dataset, complete: bool, fields: tuple[str, ...] = FIELDS, unsure: bool = False) -> list[str]:
    """Everything that is wrong. A dataset is `complete` after a run that came to its end; before, heatmaps may be missing or
    be those of earlier labels, but never be wrong. Where images cannot be looked at, a run may be `unsure` whether they are
    still what it read, and leave the next run to make their heatmaps again."""
    document, samples, reading = dataset.as_read_by(fault_fiftyone.read_all, list(fields))
    found = [f"{dataset.name}: {problem}" for problem in undeclared(document, samples)]
    ids = {str(sample["_id"]) for sample in samples}
    for what, those in (("gone", dataset.labels.keys() - ids), ("not ours", ids - dataset.labels.keys())):
        found += [f"{dataset.name}: sample {one} is {what}" for one in sorted(those)]
    seen = Counter()
    for sample in samples:
        for field in fields:
            key = (str(sample["_id"]), field)
            label = sample.get(field)
            if label is None:
                if complete:
                    found.append(f"{dataset.name}: {key} has no heatmap")
                continue
            seen[label.get("_id")] += 1
            found += [f"{dataset.name}: {key} {problem}" for problem in wrong(dataset, key, label, complete, unsure)]
    found += [f"{dataset.name}: {count} labels have the id {one}" for one, count in seen.items() if count > 1]
    if error := reading.exception():
        found.append(f"{dataset.name}: FiftyOne cannot read it: {type(error).__name__}: {error}")
    elif reading.result() != seen.total():
        found.append(f"{dataset.name}: FiftyOne sees {reading.result()} heatmaps of {seen.total()}")
    return found


def undeclared(document: dict, samples: list[dict]):
    """Keys of samples that the schema lacks, which keep FiftyOne from reading the dataset, and entries that are there twice."""
    declared = Counter(field["db_field"] for field in document["sample_fields"])
    yield from (f"field `{name}` is declared {count} times" for name, count in declared.items() if count > 1)
    keys = {key for sample in samples for key in sample} - {"_rand", "_media_type", "_dataset_id"}
    yield from (f"field `{key}` of samples is not declared" for key in sorted(keys - declared.keys()))
    for field in document["sample_fields"]:
        if field["name"] in FIELDS:
            lacking = {"id" if key == "_id" else key for key in KEYS - {"_cls"}} - {one["name"] for one in field["fields"]}
            yield from (f"attribute `{one}` of field `{field['name']}` is not declared" for one in sorted(lacking))


def of_unknown_image(known: dict[str, dict], label: dict) -> dict | None:
    """What is right for a label whose fingerprint says all that it should, but of no image that there is."""
    model, settings, _, target = label["fingerprint"].split("-")
    for fingerprint, right in known.items():
        if [model, settings, target] == fingerprint.split("-")[:2] + fingerprint.split("-")[3:]:
            # Names hold fingerprints; what is in the files is the same.
            contents = {
                suffix: set().union(*(right[name] for name in right if name.endswith(suffix))) for suffix in (".npy", ".png")
            }
            paths = (Path(label[of]) for of in ("npy_path", "map_path"))
            return {MEASURED: right[MEASURED], **{path.name: contents[path.suffix] for path in paths}}
    return None


def wrong(dataset: Dataset, key: tuple[str, str], label: dict, complete: bool, unsure: bool):
    """What is wrong with one label."""
    if KEYS - label.keys() or label["_cls"] != "Heatmap":
        yield f"lacks {sorted(KEYS - label.keys())}, or is no Heatmap"
        return
    world, fingerprint = dataset.world, label["fingerprint"]
    right = world.right[key].get(fingerprint)
    if right is None and unsure:
        right = of_unknown_image(world.right[key], label)
        fingerprint = None
    if right is None:
        yield f"has the fingerprint {fingerprint}, which no undisturbed run gave it"
        return
    if complete and fingerprint and key[0] in dataset.labels and fingerprint != world.current[dataset.labels[key[0]]][key]:
        yield "is that of an earlier label"
    if measures(label) not in right[MEASURED]:
        yield f"measures {measures(label)}, which no undisturbed run did"
    for of in ("map_path", "npy_path"):
        path = Path(label[of])
        if not path.is_relative_to(dataset.out / key[1]) or path.name not in right:
            yield f"refers to `{path}`, which is not its file"
        elif not path.is_file():
            yield f"refers to `{path}`, which does not exist"
        elif digest(path) not in right[path.name]:
            yield f"refers to `{path}`, whose content is not that of an undisturbed run"


def dangling(world, below: Path) -> list[str]:
    """Files that anything in any sample of any dataset names, at any depth, and that are not there."""

    def named(value):
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                yield from named(part)

    found = []
    for document in world.database.datasets.find():
        for sample in world.database[document["sample_collection_name"]].find():
            paths = (path for path in named(sample) if path.startswith(f"{below}/") and path.endswith((".npy", ".png")))
            missing = (path for path in paths if not Path(path).exists())
            found += [f"{document['name']}: {sample['_id']} names `{path}`, which does not exist" for path in missing]
    return found


def orphans(world, out: Path) -> list[Path]:
    """Files below a folder with names that camflow gives, which no label refers to."""
    referred = set()
    for document in world.database.datasets.find():
        for sample in world.database[document["sample_collection_name"]].find():
            labels = (value for value in sample.values() if isinstance(value, dict))
            referred |= {label.get(of) for label in labels for of in ("npy_path", "map_path")}
    found = (path for path in out.rglob("*") if OUR_NAME.fullmatch(path.name) and str(path) not in referred)
    # What camflow keeps for itself is not heatmaps'.
    return [path for path in found if ".camflow" not in path.parts]


def adds_up(summary: dict, num_samples: int | None = None) -> list[str]:
    """Every sample that was read ended exactly once."""
    if not summary:
        return ["the run told no summary"]
    ended = sum(summary[f"num_{how}"] for how in ("committed", "skipped", "failed", "abandoned"))
    found = [] if summary["num_read"] == ended else [f"{summary['num_read']} samples read, {ended} ended"]
    if num_samples is not None and summary["num_read"] - summary["num_abandoned"] != num_samples:
        found.append(f"{num_samples} samples, {summary['num_read']} read, {summary['num_abandoned']} abandoned")
    return found


def self_test(world) -> int:
    """Breaks a dataset in every way that the checks are there for, each alone; how many ways. Raises where one goes unnoticed."""

    def path(dataset: Dataset, of: str) -> Path:
        # A copy instead of the link: others share the file.
        found = Path(dataset.samples()[3][FIELDS[0]][of])
        content = found.read_bytes()
        found.unlink()
        found.write_bytes(content)
        return found

    def flip_byte(dataset: Dataset) -> None:
        file = path(dataset, "npy_path")
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)

    def truncate(dataset: Dataset) -> None:
        file = path(dataset, "map_path")
        file.write_bytes(file.read_bytes()[:-1])

    def update(dataset: Dataset, change, number: int = 3) -> None:
        sample = dataset.samples()[number]
        world.database[dataset.document()["sample_collection_name"]].update_one({"_id": sample["_id"]}, change)

    def swap(dataset: Dataset) -> None:
        update(dataset, {"$set": {FIELDS[0]: dataset.samples()[4][FIELDS[0]] | {"_id": ObjectId()}}})

    def undeclare(dataset: Dataset) -> None:
        world.database.datasets.update_one({"name": dataset.name}, {"$pull": {"sample_fields": {"name": FIELDS[1]}}})

    def insert(dataset: Dataset) -> None:
        stray = dataset.samples()[3] | {"_id": ObjectId()}
        for field in FIELDS:
            del stray[field]
        world.database[dataset.document()["sample_collection_name"]].insert_one(stray)

    def delete(dataset: Dataset) -> None:
        world.database[dataset.document()["sample_collection_name"]].delete_one({"_id": dataset.samples()[3]["_id"]})

    field = FIELDS[0]
    breaks = {
        "does not exist": lambda dataset: path(dataset, "npy_path").unlink(),
        "content is not that": flip_byte,
        "content is not": truncate,
        "not its file": lambda dataset: update(dataset, {"$set": {f"{field}.map_path": dataset.samples()[4][field]["map_path"]}}),
        "no undisturbed run gave it": swap,
        "0000, which no undisturbed run gave it": lambda dataset: update(dataset, {"$set": {f"{field}.fingerprint": "0" * 32}}),
        "which no undisturbed run did": lambda dataset: update(dataset, {"$set": {f"{field}.energy_ratio": 0.125}}),
        "has no heatmap": lambda dataset: update(dataset, {"$set": {field: None}}),
        "lacks ['npy_path']": lambda dataset: update(dataset, {"$unset": {f"{field}.npy_path": ""}}),
        "labels have the id": lambda dataset: update(dataset, {"$set": {f"{field}._id": dataset.samples()[4][field]["_id"]}}),
        f"`{FIELDS[1]}` of samples is not declared": undeclare,
        "FiftyOne cannot read it": undeclare,
        "`stray` of samples is not declared": lambda dataset: update(dataset, {"$set": {"stray": 1}}),
        "is not ours": insert,
        "is gone": delete,
        "is that of an earlier label": lambda dataset: dataset.labels.update({str(dataset.samples()[3]["_id"]): EDITED}),
    }
    for expected, damage in breaks.items():
        dataset = world.clone(ORIGINAL, annotated=True, most=12)
        if before := violations(dataset, complete=True):
            raise SystemExit(f"error: the checks find faults where there are none: {before[:3]}")
        damage(dataset)
        found = violations(dataset, complete=True)
        if not any(expected in one for one in found):
            raise SystemExit(f"error: the checks do not notice `{expected}`; they found {found[:3]}")
        dataset.delete()
    summary = {"num_read": 3, "num_committed": 1, "num_skipped": 1, "num_failed": 0, "num_abandoned": 0}
    if (
        not adds_up(summary)
        or not adds_up({})
        or adds_up(summary | {"num_failed": 1}, 3)
        or not adds_up(summary | {"num_failed": 1}, 4)
    ):
        raise SystemExit("error: the checks do not notice a summary that does not add up")
    return len(breaks) + 1
