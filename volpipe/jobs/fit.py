"""A network fitted to a volume: loaded, its footprint settled, its stitching chosen; each check is one line.

options, shape, channels --> model --> assembly, footprint, mode, normalisation, encoding
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from volpipe.errors import ConfigError, GeometryError, ModelError
from volpipe.geometry import Box, Footprint
from volpipe.inference.block import BlockInference, seen_shape, without
from volpipe.inference.intervals import Program, footprint_of
from volpipe.inference.intervals.rule import CannotCapture
from volpipe.inference.predictor import program_to_price
from volpipe.inference.statistics import OneSet
from volpipe.jobs.network_options import NetworkOptions
from volpipe.jobs.norm import parse_norm
from volpipe.jobs.norm_statistics import Layer, NormStatistics, layers_of, read_norm
from volpipe.jobs.normalise import check_alone, normalisation_from
from volpipe.models.model import Model, ModelRef, load_model, resolve_model
from volpipe.models.settle import ByHand, Settled, settle
from volpipe.plan import Budget
from volpipe.stitching import Assembly, Encoding, Mode, mode_of
from volpipe.stitching.assembly import AXES
from volpipe.volume.statistics import Statistics


class Fit:
    """A network that can be applied to a volume.

    Args:
        options: what the user said.
        shape: of the volume, z, y, x.
        channels: of the volume.
        where: the volume, as errors name it.
        statistics: of the volume; called only where the normalisation asks for them.
    """

    def __init__(
        self,
        options: NetworkOptions,
        shape: tuple[int, ...],
        channels: int,
        where: str,
        statistics: Callable[[], Statistics],
    ) -> None:
        check_alone(options.normalise, options.input_scale, options.input_offset)
        self.options, self.shape, self.channels, self.where = options, shape, channels, where
        self.assembly = Assembly(options.assembly, options.axis)
        self.norm = parse_norm(options.norm, "" if self.assembly.ndim == 3 else options.norm_planes)
        self._check_norm()
        self.ref: ModelRef = self._model_ref()
        loaded = load_model(self.ref)
        self._check_shape(loaded)
        self.not_exact = ""  # why a network that `overlap` serves, or nothing does, cannot be run by intervals
        self.settled = self._settle(loaded)
        self.model: Model = replace(loaded, footprint=self.settled.footprint, exactness=self.settled.exactness)
        self._check_exactness()
        self.footprint = self._footprint()
        self.mode: Mode = self._mode()
        self._check_mode()
        self.normalisation = normalisation_from(options.normalise, self.model.normalisation, channels, statistics)
        self.encoding = Encoding(options.output_dtype, options.output_range or self.model.output_range)
        self.norm_statistics: NormStatistics | None = self._frozen()

    def _model_ref(self) -> ModelRef:
        """A user's model is first tried on what the volume has; ours say what they take."""
        options = self.options
        ref = resolve_model(
            options.model, weights=options.weights, trust_code=options.trust_code, halo=options.halo,
            period=options.period, input_scale=options.input_scale, input_offset=options.input_offset,
        )  # fmt: skip
        if ref.kind in ("preset", "checkpoint"):
            return ref
        return replace(ref, ndim=self.assembly.ndim, in_channels=self.channels)

    def _halo_by_hand(self) -> ByHand:
        if self.options.stitching in ("tile", "windows"):
            return "ignored"
        return "checked" if self.options.blend is None else "taken"

    def _settle(self, model: Model) -> Settled:
        """What is known of the network; of one that no halo makes exact, what its graph on this volume tells."""
        options, held = self.options, self.norm.over_volume
        settled = self._settled(model, held=held)
        if settled.footprint is None and self.norm.kind == "per-tile":  # the norms apart, it may have one
            apart = self._settled(model, held=True)
            return settled if apart.footprint is None else replace(apart, exactness=settled.exactness)
        asked = options.stitching in (None, "exact") and options.halo is None and options.blend is None
        if settled.footprint is not None or not asked or options.batch > 1 or options.assembly == "orthoslice":
            return settled
        across = AXES.index(options.axis) if options.assembly == "2d" else None
        try:
            program = program_to_price(self.ref, options.precision, without(self.shape, across))
            if program.reductions and not held:
                return settled  # a block of it reads all of the volume
            return Settled(footprint_of(program.local), by_intervals_alone=True)
        except CannotCapture as error:
            self.not_exact = str(error)
            return settled

    def _settled(self, model: Model, *, held: bool) -> Settled:
        halo, inexact = self._halo_by_hand(), self.options.allow_inexact
        return settle(self.ref, model, halo=halo, allow_inexact=inexact, held=held)

    def _check_shape(self, model: Model) -> None:
        name = self.options.model
        if model.ndim != self.assembly.ndim:
            other = "2d" if model.ndim == 2 else "3d"
            raise ModelError(
                f"{name}: a {model.ndim}D network under --assembly {self.assembly.name}; give --assembly {other}"
            )
        if self.options.output_dtype == "labels" and model.out_channels < 2:
            raise ModelError(f"{name}: has one output channel, and labels are the largest of several; give "
                             "--output-dtype uint8 or float32")  # fmt: skip
        if model.in_channels != self.channels:
            raise ModelError(
                f"{name}: takes {model.in_channels} channels, {self.where} has {self.channels}; "
                "pick one with --channel or give another model"
            )

    def _check_norm(self) -> None:
        """Statistics over the volume are given to the layers of the whole volume or its planes, by intervals alone."""
        given, options = f"norm {self.options.norm}", self.options
        if not self.norm.over_volume:
            return
        if options.stitching not in (None, "exact") or options.blend is not None:
            asked = f"--stitching {options.stitching or 'overlap'}" + (" and --blend" if options.blend else "")
            raise ConfigError(f"{given}: runs a network by intervals; leave {asked} out")
        if options.faces != "crop":
            raise ConfigError(f"{given}: is of the volume without a mirror; leave --faces {options.faces} out")
        if options.batch > 1:
            raise ConfigError(f"{given}: runs every tile alone; leave --batch {options.batch} out")

    def _check_exactness(self) -> None:
        options, exactness = self.options, self.model.exactness
        if exactness and self.norm.kind == "refuse" and not options.allow_inexact:
            neither = f", and it cannot be run by intervals ({self.not_exact})" if self.not_exact else ""
            raise ModelError(
                f"{options.model}: {exactness}{neither}; no halo makes its tiles equal whole-volume inference; for a "
                "normalisation give --norm exact (passes over the volume first), pooled (one pass, inexact), "
                "frozen:FILE or per-tile (inexact), or --allow-inexact for anything else, to run it all the same, "
                "declared inexact"
            )

    def _footprint(self) -> Footprint:
        """On the axes of the volume; of a network that nobody knows, nothing."""
        try:
            return self.assembly.footprint(self.model.footprint or Footprint.pointwise(self.model.ndim))
        except GeometryError:  # of orthoslice alone: the others have one footprint
            raise ModelError(
                f"{self.options.model}: loses voxels, changes the resolution or sees a fixed window, so that planes "
                "across z, y and x do not meet; give --assembly 2d, or a padded network"
            ) from None

    def _mode(self) -> Mode:
        """As asked for, or the one that fits the network: `exact` in place of `overlap` or `valid`, where it can be."""
        options, named = self.options, "exact" if self.norm.over_volume else self.options.stitching
        mode = mode_of(named, self.footprint, blend=options.blend, faces=options.faces)
        fits = mode.name in ("overlap", "valid") and options.blend is None and options.faces == "crop"
        if named is not None or not fits or not self._may_be_exact():
            return mode
        self.not_exact = self._uncaptured()
        return mode if self.not_exact else mode_of("exact", self.footprint)

    def _may_be_exact(self) -> bool:
        """Of what is not known, or not exact at all, the others say why; and they alone make batches of tiles."""
        known = self.model.footprint is not None and not self.settled.on_trust
        return known and not self.model.exactness and self.options.batch == 1

    def _uncaptured(self) -> str:
        """Why the network cannot be run by intervals; "" if it can."""
        try:
            programs = [self.program(axis) for axis in self.assembly.axes]
        except CannotCapture as error:
            return str(error)
        if programs[0].reductions and not self.norm.over_volume:
            layer = programs[0].reductions[0].call.where or "the network itself"
            return f"module {layer} sees the whole volume, of which --norm exact finds statistics"
        return ""

    def program(self, axis: int | None) -> Program:
        """The network on the whole volume, or on a plane across an axis, of the type that it computes in; without the
        statistics that it takes of the volume.

        Raises:
            CannotCapture: it cannot be run by intervals.
        """
        return program_to_price(self.ref, self.options.precision, seen_shape(self.shape, self.footprint, axis))

    def _check_mode(self) -> None:
        options = self.options
        if self.model.footprint is None and self.norm.over_volume:
            script = "TorchScript cannot be traced: give the network as .pt2 (torch.export), or "
            raise ModelError(
                f"{options.model}: {self.settled.unknown}; statistics over the volume are of instance and group norm "
                "and of means of everything alone, in networks that can be traced; "
                f"{script if self.ref.kind == 'script' else ''}give --norm per-tile --stitching tile"
            )
        if self.model.footprint is None and self.mode.reads_halo:
            raise ModelError(
                f"{options.model}: its footprint is not known ({self.settled.unknown}), and "
                f"stitching {self.mode.name} needs it; give --halo and --period, or --stitching tile"
            )
        instead = "--norm per-tile" if self.norm.over_volume else "--stitching overlap"
        if misfit := self.mode.misfit(self.footprint):
            misfit = f"{misfit.partition(';')[0]}; give {instead}" if self.norm.over_volume else misfit
            raise ModelError(f"{options.model}: {misfit}")
        if not self.mode.by_intervals:
            return
        if options.batch > 1:
            raise ConfigError(f"batch {options.batch}: with --stitching exact a tile may be as large as memory allows, "
                              "and is run alone; leave it out, or give --stitching overlap")  # fmt: skip
        if why := self._uncaptured():
            raise ModelError(f"{options.model}: cannot be run by intervals: {why}; give {instead}")

    # ------------------------------------------------------------------ statistics over the volume

    def _frozen(self) -> NormStatistics | None:
        """What `--norm frozen:FILE` names, if it is of this network; none where passes must find them first."""
        if self.norm.kind != "frozen":
            return None
        found = read_norm(self.norm.file).across(self.assembly.axes)
        needed = {axis: self._planes_made(axis) for axis in self.assembly.axes if axis is not None}
        found.check(self.norm.file, self.ref.sha256, self.norm_layers(), self.shape, needed)
        return found

    def region(self) -> Box:
        """Of the product: all that the network has outputs for."""
        return self.mode.region(self.shape, self.footprint)

    def planes(self, axis: int | None) -> range:
        """Those across an axis that passes measure: each that is made, or all of the volume for one set."""
        if axis is None:
            return range(1)
        return self._planes_made(axis) if self.norm.of_each_plane else range(self.shape[axis])

    def _planes_made(self, axis: int) -> range:
        region = self.region()
        return range(region.start[axis], region.stop[axis])

    def norm_layers(self) -> list[Layer]:
        """Those that see the whole volume, or whole planes; of planes across one axis after the other."""
        return [layer for axis in self.assembly.axes for layer in layers_of(self.program(axis), axis)]

    def made_of(self) -> dict[str, Any]:
        """What statistics over the volume depend on, beside the network."""
        return {
            "volume": self.where, "shape": list(self.shape), "normalisation": asdict(self.normalisation),
            "precision": self.options.precision, "nan": self.options.nan,
        }  # fmt: skip

    # ------------------------------------------------------------------ what came of it

    def inference(self, tile: Sequence[int], budget: Budget, promised_bytes: int) -> BlockInference:
        """What workers are told, for tiles of this size, and bytes that were promised where they compute."""
        return BlockInference(
            volume=self.shape, model=self.ref, normalisation=self.normalisation, mode=self.mode,
            assembly=self.assembly, encoding=self.encoding, footprint=self.footprint, tile=tuple(tile),
            batch=self.options.batch, out_channels=self.model.out_channels, precision=self.options.precision,
            device=budget.device, threads=budget.threads, promised_bytes=promised_bytes, nan=self.options.nan,
            statistics=OneSet() if self.norm_statistics is None else self.norm_statistics.sets,
        )  # fmt: skip

    def on_trust(self) -> str:
        """Why nothing proves halo and period by hand, of a network that could not be probed; else ""."""
        return self.settled.on_trust

    def inexact(self) -> str:
        """Why a product is not the whole-volume result, or "" where the footprint says that it is."""
        norm = self.norm.inexact if self.norm_statistics is None else self.norm_statistics.inexact(self.made_of())
        return self.model.exactness or norm or self.mode.inexact
