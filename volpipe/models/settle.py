"""Which footprint a job uses: what is known of the network, what was given by hand, and what that promises.

    ours      closed form   --+
    a user's  probe         --+--> known:    it stands; a halo by hand must cover it, or is used and declared inexact
                              +--> refused:  no halo makes it exact; by hand, declared inexact
                              +--> failed:   nothing is known; by hand, on trust, and never called exact

A halo by hand says what tiles read around themselves and where reads begin; what the network loses and its resolution
stay as they are known. In the driver alone: workers are told what was settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from volpipe.errors import GeometryError, ModelError
from volpipe.geometry import AxisFootprint, Footprint, ceil_to
from volpipe.models.held import Held
from volpipe.models.measured import measured
from volpipe.models.model import Model, ModelRef, commas, footprint_by_hand
from volpipe.models.sizes import output_shape
from volpipe.models.smallest import with_smallest

ByHand = Literal["ignored", "checked", "taken"]
TRIED = 64  # voxels; a shorter tile may be refused by a deep network
TRIED_STEPS = 4  # of a lattice; a network whose period is larger refuses some


@dataclass(frozen=True)
class Settled:
    """What a job knows of a network.

    Attributes:
        footprint: on the network's axes; None if neither known nor given.
        exactness: why tiles cannot give the whole-volume result; "" if they can.
        on_trust: why nothing proves what was given by hand; "" for what was measured or follows from the layers.
        unknown: why nothing is known of the footprint; "" if it is.
        measured: the footprint is that of the probe, which knows the shortest length too.
        by_intervals_alone: it is that of the network's graph on one volume, and tiles cannot be run by themselves.
    """

    footprint: Footprint | None
    exactness: str = ""
    on_trust: str = ""
    unknown: str = ""
    measured: bool = False
    by_intervals_alone: bool = False


def settle(ref: ModelRef, model: Model, *, halo: ByHand, allow_inexact: bool, held: bool = False) -> Settled:
    """Settle the footprint of a model.

    Args:
        ref: with halo and period by hand, if any were given.
        model: loaded.
        halo: what becomes of one by hand: the stitching mode reads none ("ignored"), rests on it ("checked"), or
            declares its product inexact for what it is ("taken").
        allow_inexact: take a halo by hand that is too short, and declare it.
        held: settle it as it is once its statistics over the volume are known (`held.py`).

    Raises:
        ModelError: the halo by hand is short of the need, or its period no multiple.
    """
    if held:
        model = replace(model, network=Held(model.network), exactness="")
    settled = _settled(ref, model, halo, allow_inexact)
    if settled.footprint is None or settled.measured:
        return settled
    return replace(settled, footprint=with_smallest(model.network, model.in_channels, settled.footprint))


def _settled(ref: ModelRef, model: Model, halo: ByHand, allow_inexact: bool) -> Settled:
    given, known = footprint_by_hand(ref, model.ndim), _known(ref, model)
    if known.footprint is None:
        _require_size_kept(ref, model, given, known.unknown)
        on_trust = "" if given is None else f"halo and period are taken on trust, {known.unknown}"
        return Settled(given, known.exactness, on_trust, known.unknown)
    if given is None or halo == "ignored" or _covers(given, known.footprint):
        return known
    short = _short(ref, known.footprint)
    if halo == "checked" and not allow_inexact:
        raise ModelError(
            f"model {ref.location}: {short}; leave both options out, they are known, or give --allow-inexact"
        )
    footprint = _by_hand(ref, model, given, known.footprint)
    return Settled(footprint, known.exactness or ("" if halo == "taken" else short))


def _known(ref: ModelRef, model: Model) -> Settled:
    """Without what was given by hand."""
    if model.footprint is not None:
        return Settled(model.footprint, model.exactness)
    found = measured(ref, model)
    if found.failure:
        return Settled(None, model.exactness, unknown=f"the probe failed: {found.failure}")
    if found.refusal:  # a normalisation that the layers tell of is named as such
        return Settled(None, model.exactness or found.refusal, unknown=found.refusal)
    return Settled(found.footprint, measured=True)


def _require_size_kept(ref: ModelRef, model: Model, given: Footprint | None, unknown: str) -> None:
    """Nothing is known of the network, and a halo by hand says nothing of lost voxels."""
    period = (1,) * model.ndim if given is None else given.period
    shape = [ceil_to(TRIED, p) for p in period]
    found = output_shape(model.network, model.in_channels, shape)
    if min(found) and list(found) != shape:
        raise ModelError(
            f"model {ref.location}: maps {shape} voxels to {list(found)}, which no halo by hand tells of, and is not "
            f"known: {unknown}"
        )


def _covers(given: Footprint, known: Footprint) -> bool:
    """True if reading by the one gives what reading by the other does."""
    return all(
        mine.need_before >= own.need_before and mine.need_after >= own.need_after and mine.period % own.period == 0
        for mine, own in zip(given.axes, known.axes, strict=True)
    )


def _by_hand(ref: ModelRef, model: Model, given: Footprint, known: Footprint) -> Footprint:
    """What was given, of a network of which more is known.

    Raises:
        ModelError: the network cannot be run on such tiles.
    """
    lost = [axis.lost_inputs for axis in known.axes]
    if any(mine.need_before + mine.need_after < n for mine, n in zip(given.axes, lost, strict=True)):
        raise ModelError(
            f"model {ref.location}: --halo {commas(ref.halo or ())}, but it loses {commas(lost)} voxels; leave it out, "
            "it is known"
        )
    try:
        footprint = Footprint(tuple(map(_with_need, known.axes, given.axes)))
    except GeometryError as error:
        raise ModelError(f"model {ref.location}: --period {ref.period}: {error}") from None
    if (shape := _refused_shape(model, footprint.axes)) is not None:
        raise ModelError(
            f"model {ref.location}: --period {ref.period}, but it does not take {shape} voxels; give a multiple of "
            f"{list(known.period)}"
        )
    return footprint


def _with_need(known: AxisFootprint, given: AxisFootprint) -> AxisFootprint:
    size_class = known.size_class % given.period
    return replace(known, need_before=given.need_before, need_after=given.need_after, period=given.period,
                   size_class=size_class)  # fmt: skip


def _refused_shape(model: Model, axes: Sequence[AxisFootprint]) -> list[int] | None:
    """Of images that tiles on this lattice would have, one that the network does not take, or not as is known."""
    first = [axis.admissible(axis.lost_inputs + TRIED) for axis in axes]
    for steps in range(TRIED_STEPS):
        shape = [n + steps * axis.period for n, axis in zip(first, axes, strict=True)]
        gives = [int(n * axis.scale) - axis.lost for n, axis in zip(shape, axes, strict=True)]
        if list(output_shape(model.network, model.in_channels, shape)) != gives:
            return shape
    return None


def _short(ref: ModelRef, known: Footprint) -> str:
    needs = [max(axis.need_before, axis.need_after) for axis in known.axes]
    given = f"--halo {commas(ref.halo or ())} --period {commas(ref.period or ())}"
    return f"{given}, but it needs {commas(needs)} and {commas(known.period)}"
