"""The constants of a network's input normalisation, from where the user says: never computed per tile.

model                       what the checkpoint states, or --input-scale and --input-offset; they go with no other form
range:LOW,HIGH              LOW -> 0, HIGH -> 1
mean-std:MEAN,STD           mean 0, standard deviation 1
percentiles:P,Q             as range, from the statistics stored beside the volume (`volpipe statistics`)
standard                    as mean-std, from the same statistics
"""

from __future__ import annotations

from collections.abc import Callable

from volpipe.errors import ConfigError
from volpipe.models.normalisation import Normalisation
from volpipe.volume.statistics import Statistics

FORMS = "model, range:LOW,HIGH, mean-std:MEAN,STD, percentiles:P,Q or standard"


def normalisation_from(
    text: str, of_model: Normalisation, channels: int, statistics: Callable[[], Statistics]
) -> Normalisation:
    """Read `--normalise`.

    Args:
        text: one of the forms above.
        of_model: what the model states.
        channels: of the volume.
        statistics: of the volume; called for the forms that need them.

    Raises:
        ConfigError: the text is none of the forms above.
        VolumeError: the volume has no statistics, or they are of another volume.
    """
    kind, _, rest = text.partition(":")
    numbers = _numbers(text, rest)
    if kind == "model" and not numbers:
        return of_model
    if kind == "standard" and not numbers:
        found = statistics()
        return Normalisation.from_mean_std(found.mean, found.std)
    if len(numbers) == 2 and kind == "percentiles" and 0 <= numbers[0] < numbers[1] <= 100:
        found = statistics()
        return Normalisation.from_range(found.percentile(numbers[0]), found.percentile(numbers[1]))
    if len(numbers) == 2:
        return _from_pair(kind, numbers[0], numbers[1], text, channels)
    raise _unknown(text)


def check_alone(text: str, scale: float, offset: float) -> None:
    """Refuse a scale and offset beside constants that would take their place.

    Raises:
        ConfigError: `--normalise` is not `model`, and scale or offset say something.
    """
    if text != "model" and (scale, offset) != (1.0, 0.0):
        raise ConfigError(
            f"normalise {text!r}: --input-scale {scale:g} and --input-offset {offset:g} go with model only; leave "
            "them out, or give --normalise model"
        )


def _from_pair(kind: str, first: float, second: float, text: str, channels: int) -> Normalisation:
    if kind == "range" and first < second:
        return Normalisation.from_range((first,) * channels, (second,) * channels)
    if kind == "mean-std" and second > 0:
        return Normalisation.from_mean_std((first,) * channels, (second,) * channels)
    raise _unknown(text)


def _numbers(text: str, rest: str) -> list[float]:
    try:
        return [float(part) for part in rest.split(",")] if rest else []
    except ValueError:
        raise _unknown(text) from None


def _unknown(text: str) -> ConfigError:
    return ConfigError(f"normalise {text!r}: give {FORMS}")
