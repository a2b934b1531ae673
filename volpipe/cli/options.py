"""Click options made from a pydantic model: a field is described once, and is an option, a YAML key and an argument.

tile: tuple[int, int, int] | None   -->   --tile Z,Y,X
pyramid: bool = True                -->   --pyramid / --no-pyramid
stitching: Literal["overlap", ...]  -->   --stitching [overlap|tile]
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from volpipe.jobs.fields import Fields

M = TypeVar("M", bound=Fields)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers separated by commas."""

    def __init__(self, kind: type, count: int | None) -> None:
        self.kind, self.count = kind, count
        axes = {2: "A,B", 3: "Z,Y,X"}
        self.name = axes.get(count or 0, "N,N,...")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Read the text; one number stands for all axes."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r}: give {self.name} in {'whole ' if self.kind is int else ''}numbers", param, ctx)
        if len(numbers) == 1 and self.count == 3:
            numbers *= 3
        if self.count is not None and len(numbers) != self.count:
            self.fail(f"{value!r}: give {self.count} numbers, as {self.name}", param, ctx)
        return numbers


class Words(click.ParamType[tuple[str, ...]]):
    """Some of a few words, separated by commas."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.name = ",".join(words)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Read the text."""
        given = value if isinstance(value, tuple) else tuple(value.split(","))
        if not set(given) <= set(self.words):
            self.fail(f"{value!r}: give some of {self.name}", param, ctx)
        return given


class Names(click.ParamType[tuple[str, ...]]):
    """Words of any kind, separated by commas."""

    name = "NAME,NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Read the text."""
        return value if isinstance(value, tuple) else tuple(value.split(","))


def options(model: type[BaseModel], arguments: tuple[str, ...] = (), leave_out: tuple[str, ...] = ()) -> Decorator:
    """Add the fields of a model to a command: `arguments` by position, the rest as options."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(model.model_fields.items()):
            if name not in arguments and name not in leave_out:
                function = _option(name, field)(function)
        for name in reversed(arguments):
            function = click.argument(name, metavar=name.upper())(function)
        return function

    return decorate


def build(model: type[M], values: dict[str, Any]) -> M:
    """The model of the options given; those not given take the model's defaults.

    Raises:
        ConfigError: every wrong field, one a line, with its path.
    """
    given = {name: value for name, value in values.items() if name in model.model_fields and value is not None}
    return model(**given)


def _option(name: str, field: FieldInfo) -> Decorator:
    flag, kind = f"--{name.replace('_', '-')}", _without_none(field.annotation)
    text = field.description or ""
    if kind is bool:
        default = field.default is True
        return click.option(
            f"{flag}/--no-{flag[2:]}" if default else flag, name, is_flag=True, default=default, help=text
        )
    default_text = "" if field.default in (None, PydanticUndefined) else f" [default: {_text(field.default)}]"
    return click.option(
        flag, name, type=_click_type(kind), default=None, required=field.is_required(), help=text + default_text
    )


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(arm for arm in get_args(annotation) if arm is not type(None))
    return annotation


def _click_type(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if get_origin(parts[0]) is Literal:
            return Words(get_args(parts[0]))
        if parts[0] is str:
            return Names()
        return Numbers(parts[0], None if parts[-1] is Ellipsis else len(parts))
    return kind
