"""The scores by name. Each is a callable of one signature (`comparison.Score`): a learned one can stand beside them."""

from __future__ import annotations

from volpipe.errors import ConfigError
from volpipe.registration.comparison import Prepared, Score
from volpipe.registration.likelihood import likelihood
from volpipe.registration.pixels import cosine, mutual_information, ncc, pixel_ncc, trivial
from volpipe.registration.window import Window

SCORES: dict[str, Score] = {
    "likelihood": likelihood,
    "ncc": ncc,
    "mutual-information": mutual_information,
    "pixel_ncc": pixel_ncc,
    "2d": cosine,
    "trivial": trivial,
}


def prepared_by(score: str | Score, upper: Window, lower: Window, gap: int) -> Prepared:
    """What a score, or one by its name, prepares of two windows.

    Raises:
        ConfigError: no such name, no callable, or one that is no score.
    """
    found = SCORES.get(score) if isinstance(score, str) else score
    if not callable(found):
        raise ConfigError(f"score {score!r}: give one of {', '.join(SCORES)}, or a callable")
    prepared = found(upper, lower, gap)
    if not callable(prepared):
        raise ConfigError(f"score: gives {prepared!r}; give one that takes two windows and a gap, and gives what takes "
                          "a factor and gives a Comparison (volpipe.registration.comparison)")  # fmt: skip
    return prepared
