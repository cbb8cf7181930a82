"""Which samples: saved views, lists, tags, queries, random parts, and what is said of each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import fiftyone as fo
import pytest
from fiftyone import ViewField as F

FIELD = "light_grad_layer_1"


@pytest.fixture
def annotate(camflow, tiny_model, tmp_path):
    def run(dataset, *flags, code=0, target="labels"):
        return camflow(
            *("annotate", "--dataset", dataset.name, "--class", "light", "--model", tiny_model, "--target", target),
            *("--out", tmp_path / "maps", "--device", "cpu", "--format", "json", *flags),
            code=code,
        )

    return run


@pytest.fixture
def plan(annotate):
    """The numbers of the samples that a run would annotate, in its order."""

    def run(dataset, *flags):
        done = annotate(dataset, "--explain-plan", *flags)
        return [int(Path(e["media_path"]).stem) for e in done.events if e["event"] == "sample_stale"]

    return run


def error(done) -> str:
    return next(event["message"] for event in done.events if event["event"] == "error")


def notices(done) -> str:
    return "\n".join(event["message"] for event in done.events if event["event"] == "notice")


def test_a_saved_view_is_read_in_its_order(tiny_dataset, annotate, plan, tmp_path):
    dataset = tiny_dataset(12, tags=lambda n: ["even"] if n % 2 == 0 else ["odd"])
    dataset.save_view("last first", dataset.match(F("n") > 2).sort_by("n", reverse=True))
    assert plan(dataset, "--view", "last first", "--tags", "even", "--limit", "3") == [10, 8, 6]
    ids = dict(zip(*dataset.values(["n", "id"]), strict=True))
    (tmp_path / "ids").write_text("\n".join(ids[n] for n in (7, 1, 9, 4)))
    assert plan(dataset, "--ids", tmp_path / "ids") == [7, 1, 9, 4]
    assert plan(dataset, "--ids", tmp_path / "ids", "--view", "last first", "--match", '{"n": {"$lt": 9}}') == [7, 4]

    annotate(dataset, "--view", "last first", "--limit", "4")
    dataset.reload()
    assert sorted(dataset.exists(FIELD).values("n")) == [8, 9, 10, 11]


def test_views_that_camflow_cannot_read_are_refused(tiny_dataset, annotate):
    box = fo.Detection(label="light", bounding_box=[0, 0, 1, 1])
    dataset = tiny_dataset(2, boxes=lambda n: fo.Detections(detections=[box.copy()]))
    refused = error(annotate(dataset, "--view", "lost", code=2))
    assert "no saved view `lost`" in refused and "hint: the dataset has no saved views" in refused
    dataset.save_view("everything", dataset.view())
    dataset.save_view("patches", dataset.to_patches("boxes"))
    assert "`everything`, `patches`" in error(annotate(dataset, "--view", "everythin", code=2))
    refused = error(annotate(dataset, "--view", "patches", code=2))
    assert "holds patches" in refused and "hint: save a view of the samples" in refused
    # FiftyOne's own words where it fails.
    view = dataset.load_saved_view("everything")
    dataset.save_view("broken", dataset.match(F("n") > 0))
    dataset._doc.reload()
    saved = next(doc for doc in dataset._doc.saved_views if doc.name == "broken")
    saved.view_stages = ['{"_cls": "fiftyone.core.stages.NoSuchStage", "kwargs": []}']
    saved.save()
    assert len(view) == 2
    refused = error(annotate(dataset, "--view", "broken", code=2))
    assert "NoSuchStage" in refused and "load_saved_view" in refused


def test_a_view_of_groups_has_all_their_images(tiny_dataset, plan):
    dataset = tiny_dataset(6)
    grouped = fo.Dataset(f"{dataset.name}-groups", persistent=True)
    try:
        grouped.add_group_field("group", default="left")
        groups = [fo.Group() for _ in range(3)]
        for sample in dataset:
            side = ("left", "right")[sample.n % 2]
            copy = fo.Sample(
                sample.filepath, ground_truth=sample.ground_truth, n=sample.n, group=groups[sample.n // 2].element(side)
            )
            grouped.add_sample(copy)
        grouped.default_mask_targets = dataset.default_mask_targets
        grouped.save_view("later", grouped.match(F("n") > 1))
        assert sorted(plan(grouped, "--view", "later")) == [2, 3, 4, 5]
        assert sorted(plan(grouped, "--slices", "left")) == [0, 2, 4]
    finally:
        grouped.delete()


def test_a_random_part_is_the_same_each_time(tiny_dataset, plan, annotate):
    dataset = tiny_dataset(40, tags=lambda n: ["even"] if n % 2 == 0 else [])
    first = plan(dataset, "--shuffle", "--limit", "10")
    assert len(set(first)) == 10 and first != sorted(first)
    assert plan(dataset, "--shuffle", "--limit", "10") == first
    whole = plan(dataset, "--shuffle")
    assert sorted(whole) == list(range(40)) and whole[:10] == first
    assert plan(dataset, "--shuffle", "--seed", "1", "--limit", "10") != first
    # What else is asked for comes before the draw, and what is deleted moves nobody else.
    assert plan(dataset, "--shuffle", "--tags", "even", "--limit", "5") == [n for n in whole if n % 2 == 0][:5]
    dataset.delete_samples(dataset.match(F("n") == first[3]).values("id"))
    assert plan(dataset, "--shuffle", "--limit", "9") == first[:3] + first[4:]
    assert "add `--shuffle`" in error(annotate(dataset, "--seed", "1", "--dry-run", code=2))


def test_each_mistake_says_what_to_do(tiny_dataset, annotate, tmp_path):
    dataset = tiny_dataset(3, tags=lambda n: ["validation"])
    dry = ("--dry-run",)
    said = notices(annotate(dataset, "--tags", "validation,valdation", *dry))
    assert "no sample of dataset" in said and "the tags are `validation`" in said
    said = notices(annotate(dataset, "--tags", "validation", "--match", '{"n": 9}', *dry))
    assert "matches no sample" in said
    (tmp_path / "ids").write_text("6b03690476852489c1dd7256\nabc")
    for flags, words in (
        (("--ids", tmp_path / "ids"), "`abc` is not a sample id"),
        (("--ids", tmp_path / "none"), "hint: `--ids` takes a text file"),
        (("--match", "{n: 3}"), "is not a query"),
        (("--match", '{"n": {"$near_to": 3}}'), "$near_to"),
        (("--slices", "left"), "it has no slices"),
    ):
        refused = error(annotate(dataset, *flags, *dry, code=2))
        assert words in refused and "hint: " in refused, refused
    dataset.clone_sample_field("ground_truth", "prediction")
    refused = error(annotate(dataset, *dry, code=2))
    assert (
        "there are 2 Segmentation fields" in refused and "`ground_truth` (Segmentation), `prediction` (Segmentation)" in refused
    )


def test_a_query_about_fields_that_are_not_there_is_told(tiny_dataset, annotate, plan):
    """In MongoDB they are equal to nothing and unequal to everything, so that a slip selects no sample, or all."""
    dataset = tiny_dataset(3, quality=lambda n: ["good", "bad", "good"][n])
    assert plan(dataset, "--match", '{"quality": {"$ne": "bad"}}') == [0, 2]

    def warnings(query):
        done = annotate(dataset, "--match", query, "--dry-run")
        return "\n".join(event["message"] for event in done.events if event["event"] == "warning")

    said = warnings('{"qualty": {"$ne": "bad"}}')
    assert f"`--match` names field `qualty`, which dataset `{dataset.name}` does not have: the fields are `quality`" in said
    nested = '{"$and": [{"n": 1}, {"$or": [{"ground_truth.x": 3}, {"Quality": "bad"}]}]}'
    assert "names field `Quality`" in (said := warnings(nested)) and "field `ground" not in said
    assert "names field `id`, which" in (said := warnings('{"id": 1}')) and said.endswith("it is stored as `_id`")
    for right in ('{"_id": {"$ne": 1}}', '{"quality": "good", "tags": []}', '{"_rand": {"$lt": 2}}'):
        assert not warnings(right), right
    # Night after night, even by a job that tells only of what went wrong.
    annotate(dataset)
    for format in ("human", "json"):
        done = annotate(dataset, "--match", '{"qualty": {"$ne": "bad"}}', "--quiet", "--format", format)
        assert "names field `qualty`" in done.stdout + done.stderr


def test_a_selection_of_nothing_says_what_leaves_none(tiny_dataset, annotate, tmp_path):
    dataset = tiny_dataset(3, tags=lambda n: ["night"] if n else [])
    dataset.save_view("late", dataset.match(F("n") > 9))
    (tmp_path / "ids").write_text("")
    (tmp_path / "first").write_text(dataset.first().id)
    for flags, why in (
        (("--match", '{"n": "1"}'), "none is as `--match` says"),
        (("--tags", "night", "--match", '{"n": 0}'), "none is as all of these say: `--tags`, `--match`"),
        (("--ids", tmp_path / "ids"), "the view or the list of ids is empty"),
        (("--view", "late"), "the view or the list of ids is empty"),
        (
            ("--ids", tmp_path / "first", "--tags", "night"),
            "none is as all of these say: `--tags`, `the view or the list of ids`",
        ),
    ):
        said = notices(annotate(dataset, *flags, "--dry-run"))
        assert f"the selection matches no sample of dataset `{dataset.name}`: {why}" in said, (flags, said)
    assert "matches no sample of dataset" in (said := notices(annotate(tiny_dataset(0), "--dry-run", target="predicted")))
    assert said.endswith(": it has none")


def test_lists_are_read_as_windows_writes_them(tiny_dataset, plan, tmp_path):
    dataset = tiny_dataset(4)
    (tmp_path / "ids").write_bytes(("\ufeff" + "\r\n".join(dataset.values("id")[1:3]) + "\r\n").encode())
    assert plan(dataset, "--ids", tmp_path / "ids") == [1, 2]


def test_a_file_without_stages_is_not_the_whole_dataset(tiny_dataset, annotate, plan, tmp_path):
    dataset = tiny_dataset(2)
    stages = tmp_path / "stages"
    stages.write_text(json.dumps(dataset.match(F("n") > 0)._serialize()))
    assert plan(dataset, "--view-stages", stages) == [1]
    for wrong in ("{}", "null", '"view"'):
        stages.write_text(wrong)
        refused = error(annotate(dataset, "--view-stages", stages, "--dry-run", code=2))
        assert "cannot load the view (ValueError: the file holds no list of stages)" in refused and "hint: " in refused, refused
