"""Registration of slabs across missing tissue.

    pair    two windows across a gap, as cut and in its middle (window, ranks, coherence, likelihood, pixels, scores,
            search, refine, inside, flow), and what has more freedom than a turn and a shift (freedom, bend, stretch)
    coarse  any angle and a mirror, for slabs that are not laid out yet
    tree    coarse to fine over a slab: each node starts from its parent's motion
    stack   all pairs of a stack of slabs, one robust solve (faces, slant, solve)
    field   the trusted nodes as one smooth displacement without folds; warp renders by it
    trials  inverse problems with a known motion (intact), registered again on shifted windows (consistency)

Nothing is imported here: `volpipe.register_pair` and its kin load what they need.
"""
