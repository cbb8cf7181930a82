"""Builds camflow's wheel for `pip install .`: maturin, with the libtorch of the environment that pip installs into.

The wheel holds the program, which finds this libtorch at run time, and the Python package: a wheel is for the environment it
was built for.
A LIBTORCH that is set wins.
"""

from __future__ import annotations

import os

import maturin
import torch_folder
from maturin import (  # noqa: F401  (hooks that pip calls)
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """What pip calls."""
    use_torch()
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """What `pip install -e` calls. A compiled program is the same either way."""
    use_torch()
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


def use_torch() -> None:
    """Sets LIBTORCH, where it is not set."""
    if not os.environ.get("LIBTORCH"):
        os.environ["LIBTORCH"] = torch_folder.find()
