"""What FiftyOne does to a dataset while camflow works on it. Runs in a process of its own, as a person's Python would."""

from __future__ import annotations

import os
import warnings


def use(environment: dict[str, str]) -> None:
    """First of all: which database it is."""
    os.environ.update(environment)


def fiftyone():
    warnings.simplefilter("ignore")
    import fiftyone

    return fiftyone


def flip(mask):
    """The edit that people make here."""
    return mask[::-1].copy()


def flip_masks(name: str, ids: list[str] | None = None) -> None:
    """Edits the labels of these samples, of all without a list."""
    dataset = fiftyone().load_dataset(name)
    dataset.reload()
    for sample in dataset if ids is None else dataset.select(ids):
        sample.ground_truth.mask = flip(sample.ground_truth.mask)
        sample.save()


def copy_dataset(name: str, new: str) -> None:
    dataset = fiftyone().load_dataset(name).clone(new)
    dataset.persistent = True


def delete_samples(name: str, ids: list[str]) -> None:
    fiftyone().load_dataset(name).delete_samples(ids)


def delete_field(name: str, field: str) -> bool:
    """Whether there was one."""
    dataset = fiftyone().load_dataset(name)
    dataset.reload()
    if not dataset.has_field(field):
        return False
    dataset.delete_sample_field(field)
    return True


def copy_field(name: str, field: str, new: str) -> None:
    dataset = fiftyone().load_dataset(name)
    dataset.reload()
    dataset.clone_sample_field(field, new)


def rename_field(name: str, field: str, new: str) -> None:
    dataset = fiftyone().load_dataset(name)
    dataset.reload()
    dataset.rename_sample_field(field, new)


def nest(name: str, fields: tuple[str, ...], new: str) -> None:
    """Keeps the paths of labels in dictionaries in lists, in a field of another kind."""
    dataset = fiftyone().load_dataset(name)
    dataset.reload()
    for sample in dataset:
        paths = [{"of": field, "paths": [sample[field].map_path, sample[field].npy_path]} for field in fields if sample[field]]
        sample[new] = {"deep": paths}
        sample.save()


def copy_renamed(name: str, new: str, fields: tuple[str, ...]) -> None:
    copy_dataset(name, new)
    dataset = fiftyone().load_dataset(new)
    dataset.rename_sample_fields({field: f"v1_{field}" for field in fields})


def delete_if_exists(name: str) -> None:
    if fiftyone().dataset_exists(name):
        fiftyone().delete_dataset(name)


def rename_dataset(name: str, new: str) -> None:
    fiftyone().load_dataset(name).name = new


def delete_dataset(name: str) -> None:
    fiftyone().delete_dataset(name)


def dataset_exists(name: str) -> bool:
    return fiftyone().dataset_exists(name)


def read_all(name: str, fields: list[str]) -> int:
    """Reads every sample as FiftyOne's users do, and the pictures of some; the number of heatmaps."""
    dataset = fiftyone().load_dataset(name)
    dataset.reload()
    found = 0
    for sample in dataset:
        for field in fields:
            heatmap = sample[field] if sample.has_field(field) else None
            if heatmap is not None:
                assert heatmap.fingerprint, sample.id
                assert found % 20 or heatmap.get_map().shape == (32, 32), sample.id
                found += 1
    return found


def make_detections(name: str, folder: str, count: int, label: str, field: str, grid: int) -> None:
    """A dataset of images with three detections each, which lie in cells of a grid, and one of another class."""
    from pathlib import Path

    fo = fiftyone()
    samples = []
    for number, path in enumerate(sorted(Path(folder).rglob("*.jpg"))[:count]):
        cells = [(5 * number + 7 * one) % grid**2 for one in range(4)]
        boxes = [[cell % grid / grid, cell // grid / grid, 1 / grid, 1 / grid] for cell in cells]
        labels = [label, label, label, "other"]
        detections = [fo.Detection(label=own, bounding_box=box) for own, box in zip(labels, boxes, strict=True)]
        samples.append(fo.Sample(path, **{field: fo.Detections(detections=detections)}))
    dataset = fo.Dataset(name, persistent=True)
    dataset.add_samples(samples, progress=False)


def count_detections(name: str, field: str) -> int:
    """Reads every sample as FiftyOne's users do; the number of detections with a heatmap."""
    dataset = fiftyone().load_dataset(name)
    dataset.reload()
    labels = [sample[field] for sample in dataset if sample.has_field(field)]
    return sum(bool(one.map_path and one.npy_path) for label in labels if label is not None for one in label.detections)
