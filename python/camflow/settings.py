"""Settings of camflow as keyword arguments of Python: `store="inline"` is `--store=inline`."""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable, Mapping
from typing import Any


def names(values: str | int | Iterable[Any] | None, flag: str) -> list[str]:
    """One flag for each name, in which no comma separates: the names of classes may hold some.

    Raises:
        TypeError: `values` are no names.
        ValueError: there are none. Without the flag all would be taken, or what is usual: nobody means that by an empty list.
    """
    if values is None:
        return []
    given = [values] if isinstance(values, (str, numbers.Real)) else values
    if not isinstance(given, Iterable):
        raise TypeError(f"`{flag}` takes names, not a {type(values).__name__}")
    made = [f"{flag}={_escaped(value, ',')}" for value in given]
    if not made:
        raise ValueError(f"the list for `{flag}` is empty: name something in it, or leave it out")
    return made


def texts(values: str | Iterable[str] | None, template: str | None) -> list[str]:
    """The flags of the texts that a CLIP-like model scores, and of the template that makes texts of classes.

    Raises:
        TypeError: something is no text.
        ValueError: there are none.
    """
    given = [] if values is None else [values] if isinstance(values, str) else list(values)
    if values is not None and not given:
        raise ValueError("the list for `text` is empty: name something in it, or leave it out")
    for text in [*given, *([] if template is None else [template])]:
        if not isinstance(text, str):
            raise TypeError(f"a text is a str, not a {type(text).__name__}")
    return [f"--text={text}" for text in given] + ([] if template is None else [f"--text-template={template}"])


def sentences(named: str | Iterable[str] | None, template: str | None, text: str | Iterable[str] | None) -> list[str] | None:
    """What a CLIP-like model is to score of what is `named`, by `text` or as classes; None where neither text nor template is given."""
    if text is None and template is None:
        return None
    given = [] if named is None else [named] if isinstance(named, str) else list(named)
    return [(template or "{}").replace("{}", name) for name in given]


def flags(settings: Mapping[str, Any]) -> list[str]:
    """The flags of `settings`: None and False are left out, True is the flag alone, items of a list are flags of their own.

    Raises:
        TypeError: a value is nothing that can be written as a flag.
        ValueError: a list is empty.
    """
    made: list[str] = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if value is None or value is False:
            continue
        if value is True:
            made.append(flag)
        elif isinstance(value, Mapping):
            made += [f"{flag}={_escaped(key, '=')}={item}" for key, item in value.items()]
        elif isinstance(value, (str, numbers.Real, os.PathLike)):
            made.append(f"{flag}={os.fspath(value) if isinstance(value, os.PathLike) else value}")
        elif isinstance(value, Iterable):
            made += names(value, flag)
        else:
            raise TypeError(f"`{name}` is a {type(value).__name__}, which is no setting of camflow's")
    return made


def _escaped(name: object, end: str) -> str:
    """A name in which the character that would end it does not."""
    return str(name).replace("\\", "\\\\").replace(end, f"\\{end}")
