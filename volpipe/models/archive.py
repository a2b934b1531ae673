"""What a model file may hold before torch opens it: numbers and operators, no Python pickles and no code.

torch.export.load unpickles what an archive marks as pickled, evaluates its size expressions and looks
operators up by name, so a file made for it can run anything. Here all of that is read as text first, with
torch's own reader, and only torch's operators and plain arithmetic pass. TorchScript holds its own language,
read by a reader of its own; a file of torch.save is a Python pickle and is refused.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from volpipe.errors import ModelError, reason

OPERATORS = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_\w+|math\.(ceil|floor|trunc)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
WORD = re.compile(r"[\w .,:+>-]*")
# a length of the input: s77, or 2*s77 + 1 where its Dim was derived from another
LENGTH = re.compile(r"-?(\d+\*)?\w+( [+-] (\d+\*)?\w+)*")
NAMES = frozenset(
    {"L", "max", "min", "true", "false", "Symbol", "Integer", "Float", "Rational", "Identity", "ToFloat"}
    | {"Add", "Mul", "Pow", "Mod", "PythonMod", "Max", "Min", "PowByNatural", "IntTrueDiv", "FloatTrueDiv"}
    | {"FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing", "CeilToInt", "FloorToInt", "TruncToInt", "RoundToInt"}
    | {"Eq", "Ne", "Ge", "Gt", "Le", "Lt", "And", "Or", "Not", "Equality", "Unequality"}
    | {"GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan"}
)
ARITHMETIC = (
    ast.Expression, ast.Expr, ast.Load, ast.Constant, ast.Name, ast.Call, ast.keyword, ast.Attribute,
    ast.Subscript, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.operator, ast.cmpop, ast.boolop,
    ast.unaryop,
)  # fmt: skip
ATTRIBUTES = frozenset({"size", "shape"})
# text for people; a dictionary of that name is read
UNREAD = frozenset({"stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "torch_version"})
TREE_TYPES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})


def require_torchscript(path: Path) -> None:
    """Refuse a .pt file that is not a TorchScript archive.

    Raises:
        ModelError: says what it is instead and how to convert it.
    """
    names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    if not any(name.endswith("/constants.pkl") for name in names):
        raise ModelError(
            f"model {path}: a Python pickle (or no TorchScript at all), which is never loaded; in the "
            "program that made it, write the weights with "
            "safetensors.torch.save_file(network.state_dict(), 'net.safetensors') and give "
            "package.module:factory with --weights net.safetensors, or export the network with torch.export"
        )


def require_plain_export(path: Path, trust_code: bool) -> None:
    """Refuse a .pt2 file that holds pickles, and, unless trusted, one that holds more than torch's operators.

    Raises:
        ModelError: names what was found.
    """
    try:
        from torch.export.pt2_archive import PT2ArchiveReader  # here, because torch takes seconds to import

        reader = PT2ArchiveReader(str(path))
        names = reader.get_file_names()
        graphs = [json.loads(reader.read_string(name)) for name in names if name.startswith("models/")]
        payloads = [json.loads(reader.read_string(name))["config"] for name in names if name.endswith("_config.json")]
    except Exception as error:  # whatever torch's reader raises, the file is not what it should be
        raise ModelError(f"model {path}: not a file of torch.export.save that can be read ({reason(error)})") from error
    for found in (*_pickles(names, payloads), *_pickled_samples(names, reader.read_bytes)):
        raise ModelError(
            f"model {path}: holds a Python pickle ({found}), which is never loaded; export it again, with the torch "
            "that is installed here and without objects of your own"
        )
    if not trust_code:
        for found in (text for graph in graphs for text in _code(graph, "")):
            raise ModelError(
                f"model {path}: holds more than torch's operators ({found[:60]!r}); --trust-code runs it all the same"
            )


def _pickles(names: list[str], payloads: list[dict[str, Any]]) -> Iterator[str]:
    """Parts that torch.export.load would unpickle, or run as machine code."""
    for payload in payloads:
        for key, entry in payload.items():
            if entry["use_pickle"] or not re.match(r"(weight|tensor)_", entry["path_name"]):
                yield key
    for name in names:
        if name.startswith("data/aotinductor") or re.fullmatch(r"data/(weights|constants)/.*\.pt", name):
            yield name


def _pickled_samples(names: list[str], read: Callable[[str], bytes]) -> Iterator[str]:
    """Example inputs that are more than tensors: torch would fall back to unpickling them."""
    import torch

    for name in names:
        content = read(name) if name.startswith("data/sample_inputs/") else b""
        try:
            if content:
                torch.load(io.BytesIO(content), weights_only=True)
        except Exception:  # the restricted reader refuses in many ways
            yield name


def _code(value: Any, key: str) -> Iterator[str]:
    """Texts of a graph that are not plain: each kind of place has its own rule."""
    if isinstance(value, dict):
        is_plain = NAME_RULES.get(key, _is_word)
        for name, part in value.items():
            if not is_plain(name):
                yield name
            yield from _code(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _code(part, key)
    elif isinstance(value, str) and key not in UNREAD and not RULES.get(key, _is_word)(value):
        yield value


def _is_word(text: str) -> bool:
    return WORD.fullmatch(text) is not None


def _is_length(text: str) -> bool:
    """A sum of names and whole multiples of names."""
    return LENGTH.fullmatch(text) is not None


def _is_operator(text: str) -> bool:
    return OPERATORS.fullmatch(text) is not None


def _is_arithmetic(text: str) -> bool:
    """Numbers, sizes and comparisons; no name that could reach anything else."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError):
        return False
    return all(isinstance(node, ARITHMETIC) for node in nodes) and all(
        (not isinstance(node, ast.Name) or node.id in NAMES)
        and (not isinstance(node, ast.Attribute) or node.attr in ATTRIBUTES)
        and (not isinstance(node, ast.Constant) or not isinstance(node.value, str) or _is_word(node.value))
        for node in nodes
    )


def _is_tree(text: str) -> bool:
    """The nesting of arguments, of Python's own containers only."""
    try:
        return all(node.get("type") in TREE_TYPES for node in _tree_nodes(json.loads(text)))
    except ValueError:
        return False


def _tree_nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _tree_nodes(part)


RULES: dict[str, Callable[[str], bool]] = {
    "target": _is_operator,
    "expr_str": _is_arithmetic,
    "guards_code": _is_arithmetic,
    "in_spec": _is_tree,
    "out_spec": _is_tree,
}
NAME_RULES: dict[str, Callable[[str], bool]] = {"range_constraints": _is_length}
