"""What the exporter says to people: errors, warnings, the first line of what a library says."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable


class ExportError(Exception):
    """Something the user can act on: a message, an optional hint, and the exit code (2: the request was wrong)."""

    def __init__(self, message: str, hint: str | None = None, code: int = 1) -> None:
        """The parts of the error."""
        super().__init__(message)
        self.hint, self.code = hint, code


def say(text: str) -> None:
    """Everything for people goes to stderr: stdout belongs to the result."""
    print(text, file=sys.stderr, flush=True)


def first_line(error: BaseException) -> str:
    """The first line with words in it of an exception's message; torch's messages go on for pages."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def unknown(name: str, names: Iterable[str], where: str = "FiftyOne's zoo, torchvision and timm") -> ExportError:
    """The error for a name nobody knows, with the nearest ones."""
    names = list(names)
    near = (
        difflib.get_close_matches(name, sorted(set(names)), n=4, cutoff=0.5) or [n for n in names if name in n or n in name][:4]
    )
    hint = f"the nearest are {', '.join(f'`{n}`' for n in near)}" if near else "give a model's name or `file.py:function`"
    return ExportError(f"no model `{name}` in {where}", hint, code=2)
