"""Run a network on exactly the intervals of every tensor that a block of its output needs.

    capture(network, shape) -> Program     the graph of the whole-volume call, traced on the meta device
    Program.plan(block)     -> Plan        one box per tensor: what the block needs, followed back to the input
    Plan.read               -> Box         the voxels that must be read
    Plan(window)            -> Tensor      the block, equal to network(volume)[block]
    Survey(program, count)                 a pass over the volume: statistics of the first norms, of their parts
    Program.given(moments)  -> Program     which knows them: without them a block behind a norm reads the whole volume

Every tensor is thought of as the whole volume's; boxes are in its own voxels and clipped to its own size, so that
strides, odd sizes and padding at faces need no special case. What an operation needs and how it runs on a box is its
rule (`rule.py`); operations without one are refused by name. Source: the receptive field arithmetic of Araujo et al.,
Distill 2019, on intervals.
"""

from volpipe.inference.intervals.capture import Trace, capture, trace
from volpipe.inference.intervals.footprint import footprint_of
from volpipe.inference.intervals.moments import Moments
from volpipe.inference.intervals.plan import Plan
from volpipe.inference.intervals.program import Program
from volpipe.inference.intervals.rule import Call, Rule, rule
from volpipe.inference.intervals.survey import Survey, passes

__all__ = [
    "Call", "Moments", "Plan", "Program", "Rule", "Survey", "Trace", "capture", "footprint_of", "passes", "rule",
    "trace",
]  # fmt: skip
