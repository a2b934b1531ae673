"""Statistics over the volume, by passes over its blocks: what a pass measures, and a program that knows them.

    exact     pass 1 | m1 |           a pass measures the reductions that wait for none that is not known yet
              pass 2 | known m1 | m2 |
    pooled    pass 1 | m1 | m2 | ...  a pass measures all; behind each a block goes on with its own moments

A block of a pass owns its part of every tensor that is measured, so that each voxel is counted once. `pooled` goes on
with the moments of that part: with those of all that later layers need, or of all that a tile with its halo sees, what
it finds is further off (benchmarks/normalisation.py: 0.20 and 0.15 std instead of 0.09).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from volpipe.errors import ModelError
from volpipe.geometry import Box
from volpipe.inference.intervals.moments import Moments
from volpipe.inference.intervals.plan import Plan, make_plan
from volpipe.inference.intervals.program import Program, Step
from volpipe.inference.intervals.reduction import of_images, of_part, with_moments
from volpipe.inference.intervals.rule import Call, Volume, rule_of


def given(program: Program, moments: Sequence[Moments]) -> Program:
    """The program with the statistics of its first reductions, of one image or of each that a plan is called with.

    Raises:
        ModelError: they are not of these reductions.
    """
    reductions = program.reductions
    if len(moments) > len(reductions):
        raise ModelError(f"statistics of {len(moments)} layers for a network that has {len(reductions)}")
    found = {}
    for step, each in zip(reductions, moments, strict=False):
        call, groups, given = step.call, step.call.args[1], each.groups
        if groups != given:
            name = f"{call.kwargs['of']} of module {call.where or 'the network itself'}"
            raise ModelError(f"{name}: has {groups} groups, the statistics are of {given}")
        found[step.tensor] = each

    def knows(step: Step) -> Step:
        if not step.inputs or step.inputs[-1] not in found:
            return step
        return _made_by(step, with_moments(step.call, found[step.inputs[-1]], program.device), step.inputs[:-1])

    return replace(program, steps=tuple(knows(step) for step in program.steps if step.tensor not in found))


def given_of(program: Program, images: slice) -> Program:
    """The program that was given statistics of several images, for some of them."""

    def narrowed(step: Step) -> Step:
        call = of_images(step.call, images)
        return step if call is step.call else _made_by(step, call, step.inputs)

    return replace(program, steps=tuple(map(narrowed, program.steps)))


@dataclass(frozen=True, eq=False)
class Survey:
    """A pass that measures the first `count` reductions of a program that are not known; of images that are given
    together each has its own."""

    program: Program
    count: int

    @property
    def measured(self) -> tuple[Step, ...]:
        """In the order of the graph."""
        return self.program.reductions[: self.count]

    @property
    def size(self) -> tuple[int, ...]:
        """What its blocks are blocks of: the last tensor that is measured."""
        return self.program.sizes[self.measured[-1].inputs[0]]

    def plan(self, block: Box) -> Plan:
        """How the moments of a block are made: one voxel of them all, which `moments` reads."""
        owned = {step.tensor: self._own(step, block) for step in self.measured}
        steps = [
            _made_by(step, of_part(step.call, owned[step.tensor]), step.inputs) if step.tensor in owned else step
            for step in self.program.steps
        ]
        one, last = (1,) * len(self.size), len(self.program.sizes)
        inputs = [Volume(number) for number in range(self.count)]
        together = Call(torch.ops.aten.cat.default, (inputs, 1), {}, (one,) * self.count, one, dtype=torch.float64)
        steps.append(Step(last, tuple(owned), rule_of(together), together))
        sizes = (*self.program.sizes, one)
        program = replace(self.program, steps=_needed(steps, last), sizes=sizes, outputs=(last,))
        return make_plan(program, Box.from_shape(one))

    def moments(self, values: Tensor) -> list[Moments]:
        """What a plan of this pass made."""
        sizes = [3 * step.call.args[1] for step in self.measured]
        return [Moments.of_tensor(each) for each in torch.split(values, sizes, 1)]

    def _own(self, step: Step, block: Box) -> Box:
        """The part of a measured tensor that a block owns: as far along it; at least a voxel."""
        size = self.program.sizes[step.inputs[0]]
        start = tuple(a * n // m for a, n, m in zip(block.start, size, self.size, strict=True))
        stop = (b * n // m for b, n, m in zip(block.stop, size, self.size, strict=True))
        return Box(start, tuple(max(a + 1, b) for a, b in zip(start, stop, strict=True)))


def passes(program: Program) -> list[int]:
    """How many reductions each pass measures until all are known: neighbours of one size that wait for none of them."""
    found: list[int] = []
    ready: list[Step] = []
    for step in program.reductions:
        size = program.sizes[step.inputs[0]]
        before = {other.tensor for other in _needed(program.steps, step.inputs[0])}
        waits = any(other.tensor in before or program.sizes[other.inputs[0]] != size for other in ready)
        if waits or not ready:
            found.append(0)
            ready = []
        found[-1] += 1
        ready.append(step)
    return found


def _made_by(step: Step, call: Call, inputs: tuple[int, ...]) -> Step:
    return replace(step, call=call, rule=rule_of(call), inputs=inputs)


def _needed(steps: Sequence[Step], tensor: int) -> tuple[Step, ...]:
    """Those that a tensor is made by."""
    needed, found = {tensor}, []
    for step in reversed(steps):
        if step.tensor in needed:
            needed.update(step.inputs)
            found.append(step)
    return tuple(reversed(found))
