"""Registration of slabs across missing tissue: from a pair of windows to a stack of slabs."""

from volpipe.registration.estimate import PairEstimate
from volpipe.registration.solve import StackSolution
from volpipe.registration.stack import register_slabs, register_stack

__all__ = ["PairEstimate", "StackSolution", "register_slabs", "register_stack"]
