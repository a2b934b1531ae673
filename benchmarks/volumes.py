"""Volumes that benchmarks are given: .npz under the key vol, or whatever volpipe opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.geometry import Box
from volpipe.volume import open_source


def read(path: Path) -> NDArray[Any]:
    """A volume (z, y, x)."""
    if path.suffix == ".npz":
        return np.load(path)["vol"]
    source = open_source(path)
    return source.read(Box.from_shape(source.shape))[0]
