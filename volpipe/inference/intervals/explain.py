"""What a plan does, layer by layer, beside what overlap-and-crop costs for the same block.

A layer is an operation with the activations behind it, which change no interval. Its **own part** is the block at the
layer's scale; what it computes beyond that is **halo**.

    tensor voxel t  -->  (t - offset) / scale   voxel of the product, per axis: all layers on one ruler
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import torch

from volpipe.geometry import Box
from volpipe.inference.intervals.gather import Gather
from volpipe.inference.intervals.plan import Plan, make_plan, run_plan
from volpipe.inference.intervals.pointwise import Pointwise
from volpipe.inference.intervals.program import Program, Step
from volpipe.inference.intervals.rule import Rule
from volpipe.inference.intervals.window import Window
from volpipe.inference.precision import Precision
from volpipe.inference.price import Count, ForwardPrice, forward_price
from volpipe.models.model import Model

Scale = tuple[Fraction, ...]
NAMES = {
    "native_batch_norm_legit_no_training": "batch_norm",
    "constant_pad_nd": "pad",
    "cat": "concatenate",
    "normalised": "norm",
}
VIEWS = {"slice", "alias", "detach", "contiguous"}


@dataclass(frozen=True)
class Layer:
    """One row of an explanation.

    Attributes:
        module: path of what runs it; "" is the network itself.
        operations: their short names.
        box: the part of its output that the block needs, in the tensor's own voxels.
        size: of the whole tensor.
        scale, offset: per axis, see the module.
        own: the block at this scale, inside the box.
        flops: of this layer; a multiply-add is two.
        padded: faces where it adds padding, as "z0" before the first voxel along z and "z1" behind the last.
    """

    module: str
    operations: tuple[str, ...]
    box: Box
    size: tuple[int, ...]
    scale: tuple[Fraction, ...]
    offset: tuple[Fraction, ...]
    own: Box
    flops: float = 0.0
    padded: tuple[str, ...] = ()

    @property
    def halo_share(self) -> float:
        """Of the voxels of the box."""
        return 1 - self.own.size / self.box.size

    def on_ruler(self, box: Box, axis: int) -> tuple[float, float]:
        """Start and stop of a box of this tensor in voxels of the product."""
        ends = (box.start[axis], box.stop[axis])
        first, last = ((end - self.offset[axis]) / self.scale[axis] for end in ends)
        return float(first), float(last)


@dataclass(frozen=True)
class Explanation:
    """Of one block.

    Attributes:
        block: of the product.
        read: voxels of the volume that it needs.
        layers: from the input on, which is the first and costs nothing.
        price: of the block by intervals.
        tile: what overlap-and-crop reads for the block; None where no footprint is known.
        tile_price: of its forward pass.
        reductions: layers that see the whole volume; their statistics are taken as given.
    """

    block: Box
    read: Box
    layers: tuple[Layer, ...]
    price: ForwardPrice
    tile: Box | None = None
    tile_price: ForwardPrice | None = None
    reductions: int = 0


def explain(model: Model, program: Program, block: Box) -> Explanation:
    """What a block costs and why; nothing is computed.

    Args:
        model: what `program` was captured from.
        block: of the program's output.

    Raises:
        GeometryError: the block is not inside the output.
    """
    plan = program.local.plan(block)
    found = Explanation(block, plan.read, layers(plan), plan.cost(), reductions=len(program.reductions))
    if model.footprint is None:
        return found
    ends = zip(model.footprint.axes, block.start, block.stop, program.sizes[program.input], strict=True)
    start, stop = zip(*(axis.read(a, b, n) for axis, a, b, n in ends), strict=True)
    tile = Box(start, stop)
    price = forward_price(model, tile.shape, 1, Precision("fp32"))
    return replace(found, tile=tile, tile_price=price)


def layers(plan: Plan) -> tuple[Layer, ...]:
    """The input, and every operation that the block needs with the activations behind it."""
    first, scales = plan.program.input, _scales(plan.program)
    found = [Layer("", ("input",), plan.read, plan.program.sizes[first], *_place(plan, first, scales[first]))]
    for step, flops in zip(plan.steps, _flops(plan), strict=True):
        if not step.inputs:  # statistics that are given
            continue
        layer = _layer(plan, step, scales[step.tensor], flops)
        if len(found) > 1 and _follows(step, layer, found[-1]):
            before = found.pop()
            layer = replace(
                before, module=_common(before.module, layer.module), operations=before.operations + layer.operations,
                flops=before.flops + flops,
            )  # fmt: skip
        found.append(layer)
    return tuple(found)


def _layer(plan: Plan, step: Step, scale: Scale, flops: float) -> Layer:
    box, size = plan.boxes[step.tensor], plan.program.sizes[step.tensor]
    padded = _padded(step.rule, box, [plan.program.sizes[number] for number in step.inputs])
    return Layer(step.call.where, _short(step), box, size, *_place(plan, step.tensor, scale), flops, padded)


def _place(plan: Plan, number: int, scale: Scale) -> tuple[Scale, tuple[Fraction, ...], Box]:
    """(scale, offset, own part) of a tensor. What a valid network loses lies half on each side."""
    size, whole, box = plan.program.sizes[number], plan.program.shape, plan.boxes[number]
    offset = tuple(_offset(n - m * s) for n, m, s in zip(size, whole, scale, strict=True))
    start = tuple(math.floor(a * s + o) for a, s, o in zip(plan.block.start, scale, offset, strict=True))
    stop = tuple(math.ceil(b * s + o) for b, s, o in zip(plan.block.stop, scale, offset, strict=True))
    return scale, offset, Box(start, stop).intersect(box)


def _scales(program: Program) -> dict[int, Scale]:
    """Of every tensor against the product. From step to step: over a whole valid network what is lost adds up."""
    sizes, found = program.sizes, {program.input: (Fraction(1),) * len(program.shape)}
    for step in program.steps:
        before = next(iter(step.inputs), program.input)
        axes = zip(found[before], sizes[step.tensor], sizes[before], strict=True)
        found[step.tensor] = tuple(scale * _ratio(n, m) for scale, n, m in axes)
    last = found[program.outputs[0]]
    return {number: tuple(s / t for s, t in zip(scale, last, strict=True)) for number, scale in found.items()}


def _ratio(voxels: int, of: int) -> Fraction:
    """Of a step's output and input: a whole number, or one over a whole number."""
    return Fraction(round(voxels / of)) if voxels >= of else Fraction(1, round(of / voxels))


def _offset(longer: Fraction) -> Fraction:
    """Of a tensor that is so many voxels longer than its scale says; less than two are an odd size, rounded."""
    return longer / 2 if abs(longer) > 1 else Fraction(0)


def _flops(plan: Plan) -> list[float]:
    """Per step."""
    program, totals = plan.program, [0.0]
    window = torch.empty((1, program.in_channels, *plan.read.shape), dtype=program.dtype, device="meta")
    with torch.no_grad(), Count() as counted:
        run_plan(make_plan(program.on_meta, plan.block), window, lambda: totals.append(counted.flops))
    return [after - before for before, after in pairwise(totals)]


def _follows(step: Step, layer: Layer, before: Layer) -> bool:
    """Whether it changes neither the interval nor what it is of: an activation, a slice of everything."""
    single = isinstance(step.rule, Pointwise | Gather) and len(step.inputs) == 1
    return single and not layer.padded and (layer.box, layer.size) == (before.box, before.size)


def _short(step: Step) -> tuple[str, ...]:
    """Its name for people; none for a view of everything."""
    name = step.call.name.removeprefix("aten::").split(".")[0].strip("_")
    if name in VIEWS and step.call.sizes == (step.call.size,):
        return ()
    return (NAMES.get(name, name),)


def _padded(rule: Rule, out: Box, sizes: Sequence[Sequence[int]]) -> tuple[str, ...]:
    if isinstance(rule, Window) or (isinstance(rule, Gather) and rule.shift is not None):
        seen, names = rule.seen(out), "zyx"[-out.ndim :]
        ends = zip(names, seen.start, seen.stop, sizes[0], strict=True)
        return tuple(face for name, a, b, n in ends for face, at in ((f"{name}0", a < 0), (f"{name}1", b > n)) if at)
    return ()


def _common(one: str, two: str) -> str:
    """The module that holds both; the first where that is the network itself."""
    shared = []
    for left, right in zip(one.split("."), two.split("."), strict=False):
        if left != right:
            break
        shared.append(left)
    return ".".join(shared) or one
