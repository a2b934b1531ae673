"""What is done with layers that see the whole volume (instance and group norm, pooling to one voxel): `--norm`.

refuse        one line that names the layer and the others of this list
exact         statistics of the whole volume, by passes over it, layer by layer; then the product: exact
pooled        by one pass, in which each block is normalised by its own; then the product: inexact
frozen:FILE   statistics that another run found: exact if it was `exact` on this very volume, else inexact
per-tile      each tile by its own: inexact

A 2D network sees planes, and `--norm-planes` says whose statistics passes find: of `each` plane, as the network on
that plane has them, or one set for all planes across an axis, those of the whole `volume`: inexact, without flicker
from plane to plane, and fit for another volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from volpipe.errors import ConfigError

Kind = Literal["refuse", "exact", "pooled", "frozen", "per-tile"]
Planes = Literal["", "each", "volume"]  # "" where a network sees the volume
POOLED = "norm pooled: statistics of the volume, of tiles that were normalised by their own"
OF_ALL_PLANES = "norm planes volume: one set of statistics for all planes, where each has its own"


@dataclass(frozen=True, slots=True)
class Norm:
    """`--norm`; `file` is that of `frozen`, which says itself whose planes it is of."""

    kind: Kind
    file: str = ""
    planes: Planes = ""

    @property
    def over_volume(self) -> bool:
        """Layers are given statistics, and tiles run by intervals."""
        return self.kind in ("exact", "pooled", "frozen")

    @property
    def by_passes(self) -> bool:
        """They are found by passes over the volume."""
        return self.kind in ("exact", "pooled")

    @property
    def inexact(self) -> str:
        """Why no product with these is exact, as far as the option tells; "" if one may be."""
        return inexact(self.kind, self.planes)

    @property
    def of_each_plane(self) -> bool:
        """Passes find a set for each plane."""
        return self.planes == "each"


def inexact(made: str, planes: Planes) -> str:
    """Why statistics that were made so give no exact product; "" if they may."""
    return POOLED if made == "pooled" else OF_ALL_PLANES if planes == "volume" else ""


def parse_norm(text: str, planes: Planes = "") -> Norm:
    """Read `--norm`.

    Raises:
        ConfigError: the text is none of the forms above.
    """
    kind, _, file = text.partition(":")
    if kind not in get_args(Kind) or (kind == "frozen") is not bool(file) or (":" in text and not file):
        raise ConfigError(f"norm {text!r}: give refuse, exact, pooled, frozen:FILE or per-tile")
    return Norm(cast(Kind, kind), file, planes)
