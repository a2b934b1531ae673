"""Images of the lower window as they lie in the upper one, differentiable in the motion.

    moved(q) = image(A^-1 (q - t) + d(q)),  q from the canvas's centre, in the unit of shifts; A = R, or R (1 + stretch)

The canvas may be larger than the image (room for shifts); both have the same centre. Outside the image it is 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from volpipe.geometry import Rigid

# Angle (rad), shift in y, shift in x; then perhaps a symmetric stretch: of y along y, of x along x, of each along the
# other.
Motion = tuple[Tensor, ...]


def as_motion(motion: Rigid) -> Motion:
    """To move images by."""
    return tuple(torch.tensor(one, dtype=torch.float32) for one in (motion.angle_rad, *motion.shift))


def moved(
    images: Tensor,
    motion: Motion,
    spacing: tuple[float, float],
    canvas: tuple[int, int] | None = None,
    by: Tensor | None = None,
) -> Tensor:
    """Turn and shift images, by a cubic kernel, which keeps fine details.

    Args:
        images: (c, h, w).
        motion: `upper_from_lower`; three scalars, or six, that may carry gradients.
        spacing: (y, x) of one voxel, in the unit of the shift.
        canvas: height and width of what is returned; the images' own if not given.
        by: (2, rows, columns) d in y and x, in the unit of shifts: how much further each voxel comes from.
    """
    height, width = images.shape[-2:]
    rows, columns = canvas or (height, width)
    matrix = _canvas_to_image(motion, spacing, (height, width), (rows, columns), images.dtype)
    y, x = (_from_centre(count).to(images.dtype) for count in (rows, columns))
    # affine_grid takes twice as long
    grid = torch.stack([a * x + (b * y[:, None] + c) for a, b, c in matrix], -1)[None]
    if by is not None:
        grid = grid + torch.stack([by[1] / (spacing[1] * width / 2), by[0] / (spacing[0] * height / 2)], -1)
    return F.grid_sample(images[None], grid, mode="bicubic", padding_mode="zeros", align_corners=False)[0]


def _from_centre(count: int) -> Tensor:
    """(count,) where voxels lie along an axis, in halves of its extent."""
    return (2 * torch.arange(count) + 1 - count) / count


def _canvas_to_image(
    motion: Motion, spacing: tuple[float, float], size: tuple[int, int], canvas: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """(2, 3) as `affine_grid` takes it: (x, y) in halves of the canvas's extent to (x, y) in halves of the image's."""
    angle, ty, tx, *stretch = motion
    cos, sin = torch.cos(angle), torch.sin(angle)
    down, across = (spacing[i] * canvas[i] / 2 for i in (0, 1))  # halves of the canvas, in the unit of shifts
    row_x = torch.stack([cos * across, sin * down, -(cos * tx + sin * ty)])
    row_y = torch.stack([-sin * across, cos * down, sin * tx - cos * ty])
    if stretch:
        row_y, row_x = _unstretched(row_y, row_x, *stretch)
    return torch.stack([row_x / (spacing[1] * size[1] / 2), row_y / (spacing[0] * size[0] / 2)]).to(dtype)


def _unstretched(y: Tensor, x: Tensor, along_y: Tensor, along_x: Tensor, askew: Tensor) -> tuple[Tensor, Tensor]:
    """(1 + stretch)^-1 of (y, x)."""
    area = (1 + along_y) * (1 + along_x) - askew**2
    return ((1 + along_x) * y - askew * x) / area, ((1 + along_y) * x - askew * y) / area
