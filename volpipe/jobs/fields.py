"""What every model that a user fills in shares (the jobs, and the runtime's settings): how its fields are refused.

ApplyJob(halo="six", ...)                   ConfigError: halo: must be a list (given: 'six')
a pipeline file, its first job              ConfigError: p.yaml: jobs.0.apply.halo: must be ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from volpipe.errors import ConfigError, VolpipeError

LONGEST = 80  # characters of a wrong value that an error repeats
Size = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # of a voxel, along an axis


class Fields(BaseModel):
    """A frozen model that knows all of its fields.

    Raises:
        ConfigError: every wrong field, one a line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(validation_text(error)) from None

    # pydantic's own mark of an `__init__` that only validates: inside a pipeline it is not called, so that the errors
    # of all jobs are collected, each with its path
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def one_number(value: Any) -> Any:
    """6 as (6,), one number for all axes of a model; anything else as it is."""
    return (value,) if _is_number(value) else value


def one_for_three(value: Any) -> Any:
    """64 as (64, 64, 64), one number for z, y and x; anything else as it is."""
    return (value,) * 3 if _is_number(value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_by(parse: Callable[[str], Any]) -> Callable[[str | None], str | None]:
    """A validator that keeps a text as it is, and refuses one that `parse` does with what `parse` says: after the text,
    which the error of a field names at its end.

    As a ValueError: pydantic would let ours through, without its path and in place of all other errors.
    """

    def check(text: str | None) -> str | None:
        try:
            if text is not None:
                parse(text)
        except VolpipeError as error:
            said = str(error)
            raise ValueError(said.partition(f"{text!r}: ")[2] or said) from None
        return text

    return check


def validation_text(error: ValidationError, prefix: str = "") -> str:
    """Every error with its path, one a line: `jobs.0.apply.stitching: ... (given: ...)`."""
    return "\n".join(prefix + _line(details) for details in error.errors())


def _line(details: ErrorDetails) -> str:
    place = ".".join(map(str, details["loc"]))
    said = f"{_said(details)} (given: {_short(details)})" if details["type"] != "missing" else "missing; give it"
    return f"{place}: {said}" if place else said


OURS = {  # with what pydantic counted
    "extra_forbidden": "no such setting",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "too_long": "give {max_length} values at most",
}


def _said(details: ErrorDetails) -> str:
    """In words of our own, or pydantic's, which know what is wanted."""
    if ours := OURS.get(details["type"]):
        return ours.format(**details.get("ctx", {}))
    said = details["msg"].removeprefix("Value error, ")  # before what our own validators say
    return re.sub("^Input should ", "must ", said)


def check_value(what: str, value: float, dtype: np.dtype[Any]) -> None:
    """That voxels of a type can have a value.

    Raises:
        ConfigError: they are integers, and it is none of these.
    """
    if dtype.kind not in "iu":
        return
    ends = np.iinfo(dtype)
    if not ends.min <= value <= ends.max or value != int(value):
        raise ConfigError(
            f"{what} {value:g}: no value of {dtype.name}; give a whole number from {ends.min} to {ends.max}"
        )


def _short(details: ErrorDetails) -> str:
    """The wrong value; of a whole job only the names of what it holds."""
    value = details["input"]
    text = ", ".join(map(str, value)) if isinstance(value, Mapping) and value else repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
