"""What is known of a network's first norms where a block is computed: one set for all that it sees, or one a plane.

    OneSet      of the volume, or of all planes across an axis together; it travels with the work, 16 bytes a channel
    PlaneSets   of each plane; files, of which a worker reads those of the planes that it has in hand

    OUT.ome.zarr.norm/planes/z/0003/00000064     across z, layer 3, planes 64 to 127: rows of float64 (`Moments`); the
                                                 first file begins with the first plane that the product needs

A plane weighs 16 bytes a channel of every layer: 2,000 planes 41 MB where 20 layers have 64 channels, 168 MB for
CycleGAN's ResNet-9, and as much again for each further axis. Work that carried them would bring them to every batch of
blocks; with their place it is 300 bytes more, however many they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from volpipe.errors import RunError
from volpipe.inference.intervals import Moments
from volpipe.stitching.assembly import AXES
from volpipe.volume.folder import open_folder

PLANES = 64  # of a file: as thick as a chunk of a product, 256 KiB of 256 channels
BYTES = 40  # of a group and image in hand: 16 as they are read, 24 as a program holds them


class Statistics(Protocol):
    """Of the network's first norms; picklable."""

    @property
    def everywhere(self) -> bool:
        """Known of all of the volume; else of the planes of one product alone."""
        ...

    def of(self, axis: int | None, planes: range) -> tuple[Moments, ...]:
        """Of each plane across an axis, or of the volume (None, and one image)."""
        ...


@dataclass(frozen=True)
class OneSet:
    """One set for all.

    Attributes:
        sets: by axis, None for the volume, of one image; none where nothing is known.
    """

    sets: Mapping[int | None, tuple[Moments, ...]] = field(default_factory=dict)
    everywhere: ClassVar[bool] = True

    def of(self, axis: int | None, planes: range) -> tuple[Moments, ...]:
        """See `Statistics`."""
        return tuple(each.repeated(len(planes)) for each in self.sets.get(axis, ()))


@dataclass(frozen=True)
class PlaneSets:
    """Each plane's own.

    Attributes:
        folder: that holds the files.
        groups: by axis, of each layer that is known.
        planes: by axis, those that are.
    """

    folder: str
    groups: Mapping[int, tuple[int, ...]]
    planes: Mapping[int, range]
    everywhere: ClassVar[bool] = False

    def of(self, axis: int | None, planes: range) -> tuple[Moments, ...]:
        """See `Statistics`.

        Raises:
            RunError: a file is missing or torn.
        """
        assert axis is not None  # a volume is no plane
        layers = enumerate(self.groups.get(axis, ()))
        return tuple(self._read(axis, layer, groups, planes) for layer, groups in layers)

    def copy(self, to: str) -> None:
        """Bring the files into another folder."""
        source, target = open_folder(self.folder), open_folder(to)
        for key in self._keys():
            target.put(key, source.get(key) or b"")  # whoever reads an empty one says so

    def sha256(self, axis: int, layer: int) -> str:
        """Of the numbers that the files of a layer hold, as of `Moments`; a missing file holds none."""
        folder, numbers = open_folder(self.folder), hashlib.sha256()
        for first in self.planes[axis][::PLANES]:
            numbers.update(folder.get(_key(axis, layer, first)) or b"")
        return numbers.hexdigest()

    def _keys(self) -> Iterator[str]:
        for axis, groups in self.groups.items():
            for layer in range(len(groups)):
                yield from (_key(axis, layer, first) for first in self.planes[axis][::PLANES])

    def _read(self, axis: int, layer: int, groups: int, planes: range) -> Moments:
        begin = self.planes[axis].start
        first = begin + (planes.start - begin) // PLANES * PLANES
        parts = [self._part(axis, layer, groups, number) for number in range(first, planes.stop, PLANES)]
        found = Moments.stacked(parts).part(slice(planes.start - first, planes.stop - first))
        if len(found) < len(planes):
            raise _torn(self.folder, _key(axis, layer, first))
        return found

    def _part(self, axis: int, layer: int, groups: int, first: int) -> Moments:
        key = _key(axis, layer, first)
        try:
            return Moments.from_bytes(open_folder(self.folder).get(key) or b"", groups)
        except ValueError:
            raise _torn(self.folder, key) from None


def put_planes(place: str, axis: int, layer: int, first: int, moments: Moments) -> None:
    """Store those of neighbouring planes across an axis, which begin with the plane `first`."""
    folder = open_folder(place)
    for n in range(0, len(moments), PLANES):
        folder.put(_key(axis, layer, first + n), moments.part(slice(n, n + PLANES)).as_bytes())


def _key(axis: int, layer: int, first: int) -> str:
    return f"planes/{AXES[axis]}/{layer:04d}/{first:08d}"


def _torn(folder: str, key: str) -> RunError:
    return RunError(f"{folder}/{key}: statistics of planes are missing there; give the command that made them with "
                    "--restart, or the folder that holds them")  # fmt: skip
