"""The constants of a network's input normalisation, from where the user says: never computed per tile.

model                       what the checkpoint states, or --input-scale and --input-offset; they go with no other form
range:LOW,HIGH              LOW -> 0, HIGH -> 1
mean-std:MEAN,STD           mean 0, standard deviation 1
percentiles:P,Q             as range, from the statistics stored beside the volume (`volpipe statistics`)
standard                    as mean-std, from the same statistics
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from volpipe.errors import ConfigError
from volpipe.models.normalisation import Normalisation

if TYPE_CHECKING:
    from volpipe.volume.statistics import Statistics  # numpy, which options do not wait for

FORMS = "model, range:LOW,HIGH, mean-std:MEAN,STD, percentiles:P,Q or standard"
_SENSE: dict[str, Callable[[float, float], bool]] = {
    "range": lambda low, high: low < high,
    "mean-std": lambda mean, std: std > 0,
    "percentiles": lambda low, high: 0 <= low < high <= 100,
}


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
    match parse_normalise(text):
        case "range", low, high:
            return Normalisation.from_range((low,) * channels, (high,) * channels)
        case "mean-std", mean, std:
            return Normalisation.from_mean_std((mean,) * channels, (std,) * channels)
        case "percentiles", low, high:
            found = statistics()
            return Normalisation.from_range(found.percentile(low), found.percentile(high))
        case ("standard",):
            found = statistics()
            return Normalisation.from_mean_std(found.mean, found.std)
    return of_model


def parse_normalise(text: str) -> tuple[str] | tuple[str, float, float]:
    """The form and its two numbers, if it has any.

    Raises:
        ConfigError: the text is none of the forms above, or its numbers make no sense.
    """
    kind, colon, rest = text.partition(":")
    if kind in ("model", "standard") and not colon:
        return (kind,)
    numbers = _numbers(text, rest)
    if len(numbers) == 2 and kind in _SENSE and _SENSE[kind](*numbers):
        return (kind, numbers[0], numbers[1])
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


def _numbers(text: str, rest: str) -> list[float]:
    try:
        return [float(part) for part in rest.split(",")] if rest else []
    except ValueError:
        raise _unknown(text) from None


def _unknown(text: str) -> ConfigError:
    return ConfigError(f"normalise {text!r}: give {FORMS}")
