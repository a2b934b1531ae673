"""What of a layer can be registered: a part of it is known (NaN and infinity are not), and not all of one value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_KNOWN = 0.05  # of a layer: what is less is no layer


def has_structure(layer: NDArray[Any], least: float = LEAST_KNOWN) -> bool:
    """Whether more than a share of a layer is known, and not all of one value."""
    known = layer[np.isfinite(layer)]
    return bool(known.size > least * layer.size) and bool(known.min() < known.max())
