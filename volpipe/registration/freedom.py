"""What a score says of a motion that has more freedom than the search: stretch, or a bend.

With more freedom a score climbs higher on noise alone, so it is weighed against a prior. Of a height z in units of the
scatter it says log p = z |z| / (2 TEMPER) + constant, whose slope is that of the wide search.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from volpipe.geometry import Rigid
from volpipe.registration.comparison import LEAST_OVERLAP, Comparison
from volpipe.registration.resample import as_motion, moved
from volpipe.registration.search import canvas_of, level_and_scatter

TEMPER = 4.0  # by how much less a peak says than its height; what is made up and what is found was tried with it


@torch.no_grad()
def log_likely(comparison: Comparison, start: Rigid) -> Callable[[Tensor], Tensor] | None:
    """log p of images that were moved by a motion about `start`, differentiable.

    Args:
        comparison: the windows, at a scale.
        start: `upper_from_lower`; where nothing fits is told around it.

    Returns:
        None where what is known of the windows hardly overlaps there.
    """
    size = (int(comparison.moving.shape[-2]), int(comparison.moving.shape[-1]))
    turned = moved(comparison.moving, as_motion(start), comparison.spacing)
    surface = comparison.surface(turned, canvas_of(size, (size[0] // 4, size[1] // 4)))
    if not float(surface.overlap[0, 0]) > LEAST_OVERLAP:
        return None
    level, scatter = level_and_scatter(surface.score[surface.overlap > LEAST_OVERLAP])

    def of_moved(images: Tensor) -> Tensor:
        height = ((comparison.value(images) - level) / scatter).double()
        return height * height.abs() / (2 * TEMPER)

    return of_moved
