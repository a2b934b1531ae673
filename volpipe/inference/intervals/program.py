"""A captured network: its operations in order, each with its rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volpipe.errors import GeometryError
from volpipe.geometry import Box
from volpipe.inference.intervals.rule import Rule

if TYPE_CHECKING:
    from volpipe.inference.intervals.plan import Plan

INPUT = 0  # the number of the input among the tensors


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        tensor: the number of the tensor that it makes.
        inputs: of the volumetric tensors that it sees.
        rule: what it needs and how it runs.
        name: of operation and module, for people.
    """

    tensor: int
    inputs: tuple[int, ...]
    rule: Rule
    name: str


@dataclass(frozen=True, eq=False)
class Program:
    """A network on a volume of one shape; made by `capture`.

    Attributes:
        steps: in an order in which inputs come first.
        sizes: whole spatial size of every tensor, by its number.
        outputs: the tensors that the network returns.
        in_channels: of the input.
    """

    steps: tuple[Step, ...]
    sizes: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]
    in_channels: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        return self.sizes[self.outputs[0]]

    def plan(self, block: Box) -> Plan:
        """How a block of the output is made.

        Raises:
            GeometryError: the block is empty, or not inside the output.
        """
        from volpipe.inference.intervals.plan import make_plan

        if block.is_empty or not Box.from_shape(self.shape).contains(block):
            raise GeometryError(f"block {block}: give one inside the output of {self.shape}")
        return make_plan(self, block)
