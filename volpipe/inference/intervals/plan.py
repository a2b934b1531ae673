"""The boxes of one block, and running them.

boxes      output block --need--> ... --need--> input window           once, backwards through the steps
run        input window --rule--> ... --rule--> output block           a tensor is dropped, or cut to what is left
                                                                       of its use, as soon as it can be
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import torch
from torch import Tensor

from volpipe.errors import GeometryError
from volpipe.geometry import Box
from volpipe.inference.intervals.pointwise import Pointwise
from volpipe.inference.intervals.program import Program, Step
from volpipe.inference.intervals.rule import cut
from volpipe.inference.price import ForwardPrice, count_pass

TRIM = 0.8  # a tensor is cut when less of it is still needed: a copy of nearly all of it would cost more than it frees

Key = tuple[tuple[int, tuple[int, ...], tuple[bool, ...]], ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """One block of a program's output. Called with the voxels of `read`, it returns the block.

    Attributes:
        program: what is run.
        block: of the output.
        boxes: of every tensor that is needed, by its number.
        edges: by (step's tensor, number of the input): what the step reads of it.
    """

    program: Program
    block: Box
    boxes: Mapping[int, Box]
    edges: Mapping[tuple[int, int], Box]

    @property
    def read(self) -> Box:
        """The voxels of the volume that the block needs."""
        return self.boxes[self.program.input]

    @cached_property
    def key(self) -> Key:
        """Blocks of equal keys run the same operations on the same shapes, with the same padding at faces."""
        return tuple((number, box.shape, _faces(box, self.program.sizes[number])) for number, box in self.boxes.items())

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """Those that the block needs."""
        return tuple(step for step in self.program.steps if step.tensor in self.boxes)

    @torch.no_grad()
    def __call__(self, window: Tensor) -> Tensor:
        """Compute the block.

        Args:
            window: (n, c, *read.shape); it is not changed. Where statistics of several images were given, of these.

        Returns:
            (n, c', *block.shape).

        Raises:
            GeometryError: the window has another shape.
        """
        if tuple(window.shape[2:]) != self.read.shape:
            raise GeometryError(f"window of {tuple(window.shape[2:])} voxels: this block reads {self.read.shape}")
        if self.program.alone and len(window) > 1:
            parts = [slice(n, n + 1) for n in range(len(window))]
            return torch.cat([self.of_images(part)(window[part]) for part in parts])
        return run_plan(make_plan(self.program.in_slabs, self.block), window)

    def of_images(self, images: slice) -> Plan:
        """The same block of some of the images that statistics were given of."""
        from volpipe.inference.intervals.survey import given_of

        return replace(self, program=given_of(self.program, images))

    def cost(self, batch: int = 1, device: str = "cpu") -> ForwardPrice:
        """Of `batch` images, each with a block of this shape, on meta tensors: nothing is computed. Counted as
        `forward_price` counts."""
        program = (self.of_images(slice(0, 1)) if self.program.alone else self).program
        plan = make_plan(program.on_meta, self.block)
        window = _empty(program, 1 if program.alone else batch, self.read)
        constants = (each for step in plan.program.steps for each in step.call.tensors)
        out_bytes = 0

        def run(window: Tensor) -> None:
            nonlocal out_bytes
            out_bytes = plan(window).nbytes

        flops, peak = count_pass(run, window, device, constants)
        if program.alone:  # one after the other, with the windows of all, and at the end their blocks twice
            flops, peak = flops * batch, peak + (batch - 1) * (window.nbytes + 2 * out_bytes)
        return ForwardPrice(flops, peak, program.weight_bytes)


def run_plan(plan: Plan, window: Tensor, after: Callable[[], object] | None = None) -> Tensor:
    """Step after step, without slabs; `after` is called behind each."""
    alive = _Alive(plan, window)
    del window
    for step in plan.steps:
        alive.make(step)
        if after is not None:
            after()
    return alive.tensors[plan.program.outputs[0]]


def takes_several(program: Program) -> bool:
    """Whether what was traced with one image serves several at once: two, on meta tensors, become two.

    Else a part of it is of that one (a constant beside it, a length of 1 in its code, the first of several), or knows
    no axes of space, so that its first axis may be anything.
    """
    if any(step.call.flat for step in program.steps):
        return False
    local = program.local.on_meta
    plan = make_plan(local, Box((0,) * len(program.shape), (1,) * len(program.shape)))
    try:
        return len(run_plan(plan, _empty(program, 2, plan.read))) == 2
    except (RuntimeError, ValueError, IndexError):  # of a shape that is that of one image
        return False


def _empty(program: Program, images: int, box: Box) -> Tensor:
    return torch.empty((images, program.in_channels, *box.shape), dtype=program.dtype, device="meta")


def make_plan(program: Program, block: Box) -> Plan:
    """Follow the block back to the input."""
    boxes = {program.outputs[0]: block}
    edges: dict[tuple[int, int], Box] = {}
    for step in reversed(program.steps):
        if step.tensor not in boxes:
            continue
        for number, box in zip(step.inputs, step.rule.need(boxes[step.tensor]), strict=True):
            boxes[number] = box.hull(boxes[number]) if number in boxes else box
            edge = (step.tensor, number)
            edges[edge] = box.hull(edges[edge]) if edge in edges else box
    return Plan(program, block, boxes, edges)


def _faces(box: Box, size: Sequence[int]) -> tuple[bool, ...]:
    return tuple(at for a, b, n in zip(box.start, box.stop, size, strict=True) for at in (a == 0, b == n))


class _Alive:
    """The tensors that are still needed, and what of the volume they hold."""

    def __init__(self, plan: Plan, window: Tensor) -> None:
        self._plan = plan
        self.tensors = {plan.program.input: window}
        self._boxes = {plan.program.input: plan.read}
        self._ours: set[int] = set()  # whose memory nobody else sees: neither the caller nor another tensor
        self._users: dict[int, list[int]] = {number: [] for number in plan.boxes}
        for user, number in plan.edges:
            self._users[number].append(user)
        self._users[plan.program.outputs[0]].append(-1)  # the caller

    def make(self, step: Step) -> None:
        """Run a step and let go of what nothing needs any more."""
        plan, out = self._plan, self._plan.boxes[step.tensor]
        inputs = [self._cut(number, plan.edges[step.tensor, number]) for number in step.inputs]
        last = [number for number in step.inputs if self._users[number] == [step.tensor]]
        change = self._in_place(step)
        made = step.rule.run(out, inputs) if change is None else change(inputs)
        self._keep(step, out, made, last)
        del inputs, made
        for number in dict.fromkeys(step.inputs):
            self._users[number].remove(step.tensor)
            self._let_go(number)

    def _in_place(self, step: Step) -> Callable[[Sequence[Tensor]], Tensor] | None:
        """The change of the first input, if it is ours and this is its last use."""
        if not isinstance(step.rule, Pointwise) or step.inputs.count(next(iter(step.inputs), None)) != 1:
            return None
        mine = step.inputs[0] in self._ours and self._users[step.inputs[0]] == [step.tensor]
        return step.rule.in_place if mine else None

    def _keep(self, step: Step, out: Box, made: Tensor, last: Sequence[int]) -> None:
        shared = [number for number in step.inputs if _share_memory(made, self.tensors[number])]
        if all(number in self._ours and number in last for number in shared):
            self._ours.add(step.tensor)
        self.tensors[step.tensor], self._boxes[step.tensor] = made, out

    def _let_go(self, number: int) -> None:
        users = self._users[number]
        if not users:
            del self.tensors[number], self._boxes[number]
            self._ours.discard(number)
            return
        if -1 in users:
            return
        rest = reduce(Box.hull, (self._plan.edges[user, number] for user in users))
        if rest.size < TRIM * self._boxes[number].size:
            self.tensors[number], self._boxes[number] = self._cut(number, rest).clone(), rest
            self._ours.add(number)

    def _cut(self, number: int, box: Box) -> Tensor:
        here = self._boxes[number]
        return self.tensors[number] if box == here else cut(self.tensors[number], box.relative_to(here.start))


def _share_memory(one: Tensor, two: Tensor) -> bool:
    # on the meta device, where plans are priced, storages have no addresses; torch has no public name for this
    return bool(one.untyped_storage()._cdata == two.untyped_storage()._cdata)
