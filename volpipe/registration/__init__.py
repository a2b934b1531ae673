"""Registration of slabs across missing tissue: from a pair of windows to a stack of slabs."""

from volpipe.registration.estimate import PairEstimate

__all__ = ["PairEstimate"]
