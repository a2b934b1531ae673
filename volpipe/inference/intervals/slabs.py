"""The first layers in slabs, so that what stands between them is never whole.

The first tensors are the finest and have the widest halo, and two of them at once were the peak of a plan. The steps
from the input through the second window (a convolution, a pooling) therefore run as one: slab after slab of what they
make. Only what the second window reads beyond a slab is computed twice, by a convolution of few input channels.
Measured against the forward pass of overlap-and-crop, width 32, peak memory without and with slabs:
U-Net 3D L4, block 128: 0.46 and 0.31; ResNet-6 3D, 128: 0.49 and 0.17; FLOPs rise by less than 1 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from volpipe.geometry import Box
from volpipe.inference.intervals.plan import make_plan, run_plan
from volpipe.inference.intervals.program import Program, Step
from volpipe.inference.intervals.reduction import Reduction
from volpipe.inference.intervals.rule import Needs, cut
from volpipe.inference.intervals.window import Window

SLABS = 8  # a slab of the tensor between costs an eighth of it; more slabs compute more rows twice
THINNEST = 4  # voxels of a slab: of thinner ones more is computed twice than once
WINDOWS = 2  # in a run


@dataclass(frozen=True)
class Slabs:
    """The rule of a program that is run slab by slab: it has one input, and one tensor after the other."""

    program: Program

    def need(self, out: Box) -> Needs:
        """See `Rule`."""
        return (make_plan(self.program, out).read,)

    def run(self, out: Box, inputs: Sequence[Tensor]) -> Tensor:
        """See `Rule`."""
        (need,), (image,), made = self.need(out), inputs, None
        for slab in _slabs(out):
            plan = make_plan(self.program, slab)
            part = run_plan(plan, cut(image, plan.read.relative_to(need.start)))
            if made is None:
                made = part if slab == out else _empty_as(part, out)
            if made is not part:
                cut(made, slab.relative_to(out.start)).copy_(part)
            del part
        assert made is not None  # a box is not empty
        return made


def _empty_as(part: Tensor, box: Box) -> Tensor:
    """Of the layout that a slab came in: in another one the pooling behind takes almost three times as long."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(part.ndim, torch.contiguous_format)
    layout = last if part.is_contiguous(memory_format=last) else torch.contiguous_format
    shape = (*part.shape[:2], *box.shape)
    return torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=layout)


def _slabs(out: Box) -> Iterator[Box]:
    """Across the longest axis."""
    axis = max(range(out.ndim), key=lambda a: out.shape[a])
    thick = max(THINNEST, -(-out.shape[axis] // SLABS))
    for a in range(out.start[axis], out.stop[axis], thick):
        start, stop = list(out.start), list(out.stop)
        start[axis], stop[axis] = a, min(a + thick, out.stop[axis])
        yield Box(tuple(start), tuple(stop))


def in_slabs(program: Program) -> Program:
    """The same program with its first steps as one; itself where there is nothing between two steps."""
    run = _first_run(program)
    if len(run) < 2:
        return program
    first, last = run[0], run[-1]
    rule = Slabs(replace(program, steps=run, outputs=(last.tensor,)))
    return replace(program, steps=(replace(last, inputs=first.inputs, rule=rule), *program.steps[len(run) :]))


def _first_run(program: Program) -> tuple[Step, ...]:
    """From the input on, each the only one to read the tensor before it."""
    users = Counter(number for step in program.steps for number in set(step.inputs)) + Counter(program.outputs)
    run: list[Step] = []
    tensor, windows = program.input, 0
    for step in program.steps:
        windows += isinstance(step.rule, Window)
        whole = isinstance(step.rule, Reduction)
        if step.inputs != (tensor,) or users[tensor] > 1 or windows > WINDOWS or whole:
            break
        run.append(step)
        tensor = step.tensor
    return tuple(run)
