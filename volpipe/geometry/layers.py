"""The layers of a stack: which slab, or which gap, each layer of the reconstruction belongs to.

    layer      0  1  2  3  4  5  6  7  8  9       slabs of 4, 2 and 3 layers, gaps of 1 and 0
    owner     |slab 0     |g0|slab1|slab 2  |     nothing follows the last slab

Law: every layer is owned by exactly one slab or one gap.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from volpipe.errors import GeometryError


@dataclass(frozen=True, slots=True)
class Place:
    """A run of layers with one owner.

    Attributes:
        slab: number of the slab, or None: lost tissue.
        first_layer: of the reconstruction.
        layers: how many.
    """

    slab: int | None
    first_layer: int
    layers: int

    @property
    def stop(self) -> int:
        """The first layer after it."""
        return self.first_layer + self.layers


@dataclass(frozen=True)
class Layers:
    """Slabs one below the other.

    Attributes:
        slabs: layers of each, 1 or more.
        gaps: layers lost between slab i and the next, 0 or more; one fewer than slabs.

    Raises:
        GeometryError: these are not.
    """

    slabs: tuple[int, ...]
    gaps: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.slabs or min(self.slabs) < 1:
            raise GeometryError(
                f"layers: slabs of {self.slabs} layers; give one slab at least, each of 1 or more layers"
            )
        if len(self.gaps) != len(self.slabs) - 1 or min(self.gaps, default=0) < 0:
            raise GeometryError(
                f"layers: gaps of {self.gaps} layers for {len(self.slabs)} slabs; give one between each two, 0 or more"
            )

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Slabs and gaps from above; a gap of no layers has no place."""
        lengths = [n for slab, gap in zip(self.slabs, (*self.gaps, 0), strict=True) for n in (slab, gap)]
        firsts = accumulate(lengths, initial=0)
        owners = [owner for number in range(len(self.slabs)) for owner in (number, None)]
        return tuple(Place(*place) for place in zip(owners, firsts, lengths, strict=False) if place[2])

    @property
    def depth(self) -> int:
        """Layers of the whole reconstruction."""
        return self.places[-1].stop

    def owner(self, layer: int) -> Place:
        """Of one layer.

        Raises:
            GeometryError: there is no such layer.
        """
        if not 0 <= layer < self.depth:
            raise GeometryError(f"layers: layer {layer}; give 0 to {self.depth - 1}")
        return self.places[bisect_right(self.places, layer, key=lambda place: place.first_layer) - 1]


def runs(owners: Sequence[Place], first: int = 0) -> Iterator[tuple[Place, range]]:
    """Neighbouring layers with one owner, as (owner, layers); `owners` are those of layers `first` and on."""
    start = 0
    for stop in range(1, len(owners) + 1):
        if stop == len(owners) or owners[stop] != owners[start]:
            yield owners[start], range(first + start, first + stop)
            start = stop
