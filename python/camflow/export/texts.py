"""Texts beside an image tower: what its archive says of them, and their embeddings in files, each made once."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .messages import ExportError

if TYPE_CHECKING:
    from .loaders import TextTower

# Its embedding stands in the archive: what embeds texts later has to give the same.
CHECKED = "a photo of a cat"
# How far its numbers may be apart, relative to the largest. Threads add numbers up in another order; another network is nowhere near.
TOLERANCE = 1e-3


def described(tower: TextTower, source: str, weights: str, seed: int) -> dict[str, Any]:
    """What camflow.json says of the texts of an image tower: where they are embedded, how they are scored.

    `key` names the tower in the cache; `check` is the embedding of `CHECKED`.
    """
    check = tower.embed([CHECKED])[0]
    digest = hashlib.sha256(f"{source}\0{weights}\0{seed}\0".encode())
    digest.update(check.numpy().tobytes())
    return {
        "source": source,
        "weights": weights,
        "seed": seed,
        "key": digest.hexdigest()[:32],
        "scale": tower.scale,
        "bias": tower.bias,
        "scores": tower.scores,
        "prompt": tower.prompt,
        "check": check.tolist(),
    }


def read_description(archive: Path) -> dict[str, Any]:
    """What the camflow.json of an archive says of texts.

    Raises:
        ExportError: it is no image tower's, or cannot be read.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            entry = next(name for name in file.namelist() if name.endswith("/extra/camflow.json"))
            found: dict[str, Any] | None = json.loads(file.read(entry)).get("texts")
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile) as error:
        raise ExportError(f"`{archive}` is no model of camflow's: {error}", code=2) from error
    if not found:
        raise ExportError(
            f"`{archive}` is no image tower that texts can be laid beside",
            "`camflow export NAME --task embedding` exports that of a CLIP-like model",
            code=2,
        )
    return found


def reloaded(archive: Path) -> TextTower:
    """What embeds texts for the image tower in `archive`: its model is loaded again, from where it was exported.

    Raises:
        ExportError: it is not there any more, or is another one now.
    """
    from .loading import load_model

    said = read_description(archive)
    source = said["source"]
    if source.startswith("object:"):
        raise ExportError(
            f"`{archive}` was exported from an object in Python, which is not here to embed texts",
            "`camflow.compute_heatmaps` embeds its `text` when it is given the object; or export the model by its name or folder",
        )
    if source.startswith("hf:/") and not Path(source[3:]).is_dir():
        raise ExportError(
            f"the folder `{source[3:]}` is gone, whose text tower belongs to `{archive}`",
            "put it back, or export the model again from where it is now",
        )
    tower = load_model(source, said["weights"], said["seed"], task="embedding").texts
    if tower is None:
        raise ExportError(f"`{source}` has no text tower any more", "export the model again")
    check(tower, said, str(archive))
    return tower


def check(tower: TextTower, said: dict[str, Any], archive: str) -> None:
    """Raise `ExportError` if the tower is another one than that which the archive `said` it was exported with."""
    found, wanted = tower.embed([CHECKED])[0].tolist(), said["check"]
    largest = max(map(abs, wanted))
    if len(found) != len(wanted) or max(abs(a - b) for a, b in zip(found, wanted, strict=True)) > TOLERANCE * largest:
        raise ExportError(
            f"the text tower of `{said['source']}` is not the one that `{archive}` was exported with",
            "export the model again: `camflow export MODEL --task embedding --force`",
        )


def file_of(text: str, folder: Path) -> Path:
    """Where the embedding of a text is kept in the folder of its tower."""
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def write(tower: TextTower, texts: Iterable[str], folder: Path) -> None:
    """Embeds texts and keeps each in a file of its own in `folder`, which appears whole or not at all. Those that are there stay.

    Raises:
        ExportError: a text is longer than the tower reads, or has no embedding.
        OSError: a file cannot be written.
    """
    import torch

    missing = [text for text in dict.fromkeys(texts) if not file_of(text, folder).is_file()]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    # one by one, so that the numbers of a text do not depend on what else is asked: others would pad it
    embedded = torch.cat([tower.embed([text]) for text in missing])
    for text, row in zip(missing, embedded, strict=True):
        if not torch.isfinite(row).all() or not row.abs().max() > 0:
            raise ExportError(f"the embedding of the text `{text}` is zero or not finite, so nothing can be compared with it")
        content = json.dumps({"text": text, "embedding": row.tolist()}, ensure_ascii=False)
        path = file_of(text, folder)
        whole = path.with_suffix(f".{uuid.uuid4().hex}.tmp")  # other machines may share the folder
        try:
            with open(whole, "w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(whole, path)
        finally:
            whole.unlink(missing_ok=True)


def embed(archive: Path, request: Path) -> None:
    """What `--embed-texts` does: embeds the texts of a JSON file {"texts": [...], "folder": "..."} for the tower in `archive`.

    Raises:
        ExportError: they cannot be embedded.
    """
    asked = json.loads(request.read_text(encoding="utf-8"))
    write(reloaded(archive), asked["texts"], Path(asked["folder"]))
