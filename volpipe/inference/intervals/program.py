"""A captured network: its operations in order, each with its rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from volpipe.errors import GeometryError
from volpipe.geometry import Box
from volpipe.inference.intervals.moments import Moments
from volpipe.inference.intervals.recipe import held_bytes
from volpipe.inference.intervals.rule import Call, Rule, rule_of

if TYPE_CHECKING:
    from volpipe.inference.intervals.plan import Plan


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        tensor: the number of the tensor that it makes.
        inputs: of the volumetric tensors that it sees.
        rule: what it needs and how it runs.
        call: what the rule was made of.
    """

    tensor: int
    inputs: tuple[int, ...]
    rule: Rule
    call: Call

    @property
    def name(self) -> str:
        """Operation and module, for people."""
        return f"{self.call.name} in {self.call.where or 'the network itself'}"

    def to(self, device: str | torch.device) -> Step:
        """The same operation with its weights there."""
        call = self.call.to(device)
        return replace(self, rule=rule_of(call), call=call)


@dataclass(frozen=True, eq=False)
class Program:
    """A network on a volume of one shape; made by `capture`.

    Attributes:
        steps: in an order in which inputs come first.
        sizes: whole spatial size of every tensor, by its number.
        outputs: the tensors that the network returns.
        in_channels: of the input.
        dtype: of the input.
        device: of the weights.
        constant_bytes: that it holds beside the network's weights, or takes while it is captured.
        alone: it was traced with one image and is right for one at a time (`plan.takes_several`).
        input: the number of the input among the tensors.
    """

    steps: tuple[Step, ...]
    sizes: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]
    in_channels: int
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (it does not change)
    constant_bytes: int = 0
    alone: bool = False
    input: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        return self.sizes[self.outputs[0]]

    @cached_property
    def reductions(self) -> tuple[Step, ...]:
        """The steps that need the whole volume, in order: statistics that are not given."""
        from volpipe.inference.intervals.reduction import Reduction

        return tuple(step for step in self.steps if isinstance(step.rule, Reduction))

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """Of each reduction."""
        return tuple(step.call.args[1] for step in self.reductions)

    @cached_property
    def local(self) -> Program:
        """The same program with statistics of 0 and 1 where none are given: what it costs once they are."""
        return self.held()

    def held(self, images: int = 1, count: int | None = None) -> Program:
        """The same with such statistics of so many images, of the first `count` reductions or of all."""
        return self.given([Moments.unit(groups, images) for groups in self.groups[:count]])

    @cached_property
    def in_slabs(self) -> Program:
        """As it is run: see `slabs.py`."""
        from volpipe.inference.intervals.slabs import in_slabs

        return in_slabs(self)

    @cached_property
    def on_meta(self) -> Program:
        """The same program of weights without values, which prices plans."""
        return replace(self, steps=tuple(step.to("meta") for step in self.steps))

    @cached_property
    def weight_bytes(self) -> int:
        """Of all tensors that the operations hold; a view of a few values, spread over the volume, takes none."""
        tensors = (each for step in self.steps for each in step.call.tensors)
        return sum({id(each): held_bytes(each) for each in tensors}.values())

    def given(self, moments: Sequence[Moments]) -> Program:
        """The same program with the statistics of its first reductions; see `survey.py`."""
        from volpipe.inference.intervals.survey import given

        return given(self, moments) if moments else self

    def plan(self, block: Box) -> Plan:
        """How a block of the output is made.

        Raises:
            GeometryError: the block is empty, or not inside the output.
        """
        from volpipe.inference.intervals.plan import make_plan

        if block.is_empty or not Box.from_shape(self.shape).contains(block):
            raise GeometryError(f"block {block}: give one inside the output of {self.shape}")
        return make_plan(self, block)
