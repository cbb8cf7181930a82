"""Functions that return a module: `module:function` and `file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path

from ..messages import ExportError, first_line
from . import LoadedModel

# What a script does at its end, and a module does not.
EXITS = "let a script's own work stand below `if __name__ == '__main__':`"


def load(ref: str) -> LoadedModel:
    """What the function gives that `ref` names, in a file or a module of the current folder or of this Python.

    Raises:
        ExportError: there is no such file, module or function, or it raised.
    """
    place, _, function = ref.rpartition(":")
    try:
        if place.endswith(".py"):
            path = Path(place)
            if not path.is_file():
                raise ExportError(f"there is no file `{place}`", code=2)
            sys.path.insert(0, str(path.resolve().parent))  # so that the file can import its neighbours
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec and spec.loader, "the name of a Python file has a loader"
            namespace = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = namespace  # dataclasses and pickles look their module up here
            spec.loader.exec_module(namespace)
        else:
            sys.path.insert(0, str(Path.cwd()))
            namespace = importlib.import_module(place)
    except SystemExit as error:
        raise ExportError(f"`{place}` ends Python when it is imported (`sys.exit`)", EXITS, code=2) from error
    except ModuleNotFoundError as error:
        raise ExportError(
            f"could not import `{place}`: {first_line(error)}",
            "MODEL is a model's name, `fiftyone:`, `torchvision:` or `timm:` and a name, `module:function` or `file.py:function`",
            code=2,
        ) from error
    if not callable(getattr(namespace, function, None)):
        defined = [n for n, v in vars(namespace).items() if callable(v) and getattr(v, "__module__", None) == namespace.__name__]
        raise ExportError(
            f"`{place}` has no function `{function}`", f"it defines {', '.join(f'`{n}`' for n in defined[:8]) or 'none'}", code=2
        )
    source = f"file:{Path(place).name}:{function}" if place.endswith(".py") else f"module:{ref}"
    try:
        return LoadedModel(getattr(namespace, function)(), function, source, {})
    except SystemExit as error:
        raise ExportError(f"`{ref}` ends Python (`sys.exit`) and gives no model", EXITS, code=2) from error
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ExportError(
            f"`{ref}` raised {type(error).__name__}: {said} ({frame.filename}:{frame.lineno})",
            "the function is called without arguments and returns an nn.Module",
        ) from error
