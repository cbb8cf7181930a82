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
