"""The scores by name. Each is a callable of one signature (`comparison.Score`): a learned one can stand beside them."""

from __future__ import annotations

from volpipe.errors import ConfigError
from volpipe.registration.comparison import Score
from volpipe.registration.likelihood import likelihood
from volpipe.registration.pixels import cosine, mutual_information, ncc, pixel_ncc, trivial

SCORES: dict[str, Score] = {
    "likelihood": likelihood,
    "ncc": ncc,
    "mutual-information": mutual_information,
    "pixel_ncc": pixel_ncc,
    "2d": cosine,
    "trivial": trivial,
}


def score_of(score: str | Score) -> Score:
    """A score by its name, or itself.

    Raises:
        ConfigError: no such name, or no callable.
    """
    found = SCORES.get(score) if isinstance(score, str) else score
    if not callable(found):
        raise ConfigError(f"score {score!r}: give one of {', '.join(SCORES)}, or a callable")
    return found
