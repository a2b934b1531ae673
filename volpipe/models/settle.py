"""Which footprint a job uses: what is known of the network, what was given by hand, and what that promises.

    ours      closed form   --+
    a user's  probe         --+--> known:    it stands; a halo by hand must cover it, or is used and declared inexact
                              +--> refused:  no halo makes it exact; by hand, declared inexact
                              +--> failed:   nothing is known; by hand, and the promise says so

In the driver alone: workers are told what was settled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from volpipe.errors import ModelError
from volpipe.geometry import Footprint, ceil_to
from volpipe.models.measured import measured
from volpipe.models.model import Model, ModelRef, footprint_by_hand
from volpipe.models.sizes import output_shape
from volpipe.models.smallest import with_smallest

ByHand = Literal["ignored", "checked", "taken"]
TRIED = 64  # voxels; a shorter tile may be refused by a deep network
ON_TRUST = ", if halo and period as given are right"


@dataclass(frozen=True)
class Settled:
    """What a job knows of a network.

    Attributes:
        footprint: on the network's axes; None if neither known nor given.
        exactness: why tiles cannot give the whole-volume result; "" if they can.
        condition: what that rests on, as the end of a sentence; "" for what was measured or follows from the layers.
        unknown: why nothing is known of the footprint; "" if it is.
    """

    footprint: Footprint | None
    exactness: str = ""
    condition: str = ""
    unknown: str = ""


def settle(ref: ModelRef, model: Model, *, halo: ByHand, allow_inexact: bool) -> Settled:
    """Settle the footprint of a model.

    Args:
        ref: with halo and period by hand, if any were given.
        model: loaded.
        halo: what becomes of one by hand: the stitching mode reads none ("ignored"), rests on it ("checked"), or
            declares its product inexact for what it is ("taken").
        allow_inexact: take a halo by hand that is too short, and declare it.

    Raises:
        ModelError: the halo by hand is short of the need, or its period no multiple.
    """
    settled = _settled(ref, model, halo, allow_inexact)
    if settled.footprint is None:
        return settled
    return replace(settled, footprint=with_smallest(model.network, model.in_channels, settled.footprint))


def _settled(ref: ModelRef, model: Model, halo: ByHand, allow_inexact: bool) -> Settled:
    given, known = footprint_by_hand(ref, model.ndim), _known(ref, model)
    if known.footprint is None:
        _require_size_kept(ref, model, given)
        return Settled(given, known.exactness, "" if given is None else ON_TRUST, known.unknown)
    if given is None or halo == "ignored" or _covers(given, known.footprint):
        return known
    if halo == "taken":
        return Settled(given, known.exactness)
    short = _short(ref, known.footprint)
    if not allow_inexact:
        raise ModelError(
            f"model {ref.location}: {short}; leave both options out, they are known, or give --allow-inexact"
        )
    return Settled(given, known.exactness or short)


def _known(ref: ModelRef, model: Model) -> Settled:
    """Without what was given by hand."""
    if model.footprint is not None:
        return Settled(model.footprint, model.exactness)
    found = measured(ref, model)
    if found.failure:
        return Settled(None, model.exactness, unknown=f"the probe failed: {found.failure}")
    if found.refusal:  # a normalisation that the layers tell of is named as such
        return Settled(None, model.exactness or found.refusal, unknown=found.refusal)
    if found.footprint is None or min(axis.lost for axis in found.footprint.axes) < 0:
        raise ModelError(f"model {ref.location}: returns more voxels than it sees; crop them in the network")
    axes = zip(found.footprint.axes, found.scale, strict=True)
    return Settled(Footprint(tuple(replace(axis, scale=scale) for axis, scale in axes)))


def _require_size_kept(ref: ModelRef, model: Model, given: Footprint | None) -> None:
    """A halo by hand says nothing of lost voxels."""
    period = (1,) * model.ndim if given is None else given.period
    shape = [ceil_to(TRIED, p) for p in period]
    found = output_shape(model.network, model.in_channels, shape)
    if min(found) and list(found) != shape:
        raise ModelError(
            f"model {ref.location}: maps {shape} voxels to {list(found)}; a network that loses voxels must be one that "
            "can be probed"
        )


def _covers(given: Footprint, known: Footprint) -> bool:
    """True if reading by the one gives what reading by the other does."""
    return all(
        mine.need_before >= own.need_before and mine.need_after >= own.need_after and mine.period % own.period == 0
        for mine, own in zip(given.axes, known.axes, strict=True)
    )


def _short(ref: ModelRef, known: Footprint) -> str:
    needs = [max(axis.need_before, axis.need_after) for axis in known.axes]
    return f"--halo {ref.halo} --period {ref.period}, but it needs {needs} and {list(known.period)}"
