"""Who makes a network untileable: the module, or in a file without modules the operation, for the probe's refusals.

Whether a network can be tiled is decided by what it does (probe.py); names serve the message alone, but for those that
read a number from the image. Every operation
of one pass is watched, with the innermost module that runs it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from volpipe.models.held import Held
from volpipe.models.layers import Joined, OneByOne
from volpipe.models.trial import Refused, Trial

RANDOM = ("dropout", "bernoulli", "rand", "normal_", "uniform_", "multinomial")
OF_THE_PLACE = ("adaptive", "arange", "linspace", "fft", "roll", "flip", "sort")
ASK_ONLY = ("isnan", "empty_like", "zeros_like", "ones_like", "full_like", "sym_size")
ASKS_A_VALUE = ("_local_scalar_dense", "equal", "is_nonzero")
Sign = Callable[[str, Sequence[Any], dict[str, Any], Any], bool]


def require_repeatable(trial: Trial) -> None:
    """Raises: Refused: the same image gives two results."""
    image = trial.image()
    if not torch.equal(*(trial.run(image).nan_to_num() for _ in range(2))):
        who = _first(trial, image, lambda name, *_: any(word in name for word in RANDOM))
        raise Refused(f"the same tile gives two results{who}")


def require_nan_shows(trial: Trial) -> None:
    """Raises: Refused: an image of NaN gives values, so that nothing could be probed."""
    output = trial.run(_all_nan(trial))
    if output.is_floating_point() and torch.isnan(output).any() and not torch.isnan(output).all():
        raise Refused("some of its output does not depend on the image at all (padding that was moved inside?)")
    if not output.is_floating_point() or not torch.isnan(output).all():
        kind = "values" if output.is_floating_point() else f"labels ({output.dtype})"
        raise Refused(f"an image of NaN gives {kind}{of_hidden(trial)}; return scores")


def require_no_choice(trial: Trial) -> None:
    """Raises: Refused: a number read from the image may decide what is run; tiles have other numbers."""
    image = trial.image()
    if who := _first(trial, image, _chooses(image)):
        what = f"a number read from the image decides what it does{who}"
        raise Refused(f"{what}; normalise outside of the network, or remove the check")


def of_hidden(trial: Trial) -> str:
    """What makes values of NaN, so that its need may not show."""
    return _first(trial, _all_nan(trial), _hides)


def of_reach(trial: Trial, axis: int, length: int) -> str:
    """What turns an image that is clean in its middle into one without a clean voxel."""
    return _first(trial, trial.strip(axis).poisoned(length, length // 4, 3 * length // 4), _spreads)


def of_places(trial: Trial) -> str:
    """What depends on the length of the image or on the place in it, as far as its name tells."""
    return _first(trial, trial.image(), _knows_the_place)


def of_lengths(trial: Trial, axis: int, length: int) -> str:
    """Why images of two lengths that begin alike do not give outputs that do; `length` is 4 times the reach or more."""
    far = trial.strip(axis).poisoned(length, 0, length - 1)
    if _starts_poisoned(trial.run(far), 2 + axis):
        return f"its output at one face depends on the other{_first(trial, far, _wraps(2 + axis))}"
    return f"its output depends on the length of its input{of_places(trial)}"


def _starts_poisoned(values: Tensor, axis: int) -> bool:
    return _share(values.narrow(axis, 0, values.shape[axis] // 4)) > 0


def _all_nan(trial: Trial) -> Tensor:
    return torch.full_like(trial.image(), math.nan)


def _wraps(axis: int) -> Sign:
    """Poison at the end of an axis appears at its beginning."""

    def sign(name: str, inputs: Sequence[Tensor], known: dict[str, Any], out: Any) -> bool:
        return isinstance(out, Tensor) and "empty" not in name and out.ndim > axis and _starts_poisoned(out, axis)

    return sign


def _chooses(image: Tensor) -> Sign:
    """A number is read from what the image was made into."""
    made, kept = {_memory(image)}, []  # kept, so that no other tensor is laid into the same memory

    def sign(name: str, inputs: Sequence[Tensor], known: dict[str, Any], out: Any) -> bool:
        if made.isdisjoint(map(_memory, inputs)):
            return False
        outputs = _tensors([out])
        made.update(map(_memory, outputs))
        kept.extend(outputs)
        return name in ASKS_A_VALUE

    return sign


def _memory(values: Tensor) -> int:
    return values.untyped_storage().data_ptr()


def _first(trial: Trial, image: Tensor, sign: Sign) -> str:
    """ " (module ...)" of the first operation that shows a sign, or ""."""
    program = next((m for m in trial.network.modules() if isinstance(m, torch.fx.GraphModule)), None)
    with _watched(trial.network, sign) as watch, contextlib.suppress(Exception):
        trial.run(image, None if program is None else _Stepped(program, watch))
    return watch.found


class _Stepped(nn.Module):
    """An exported program, run node by node: it has no modules, but each node knows whose it was."""

    def __init__(self, program: torch.fx.GraphModule, watch: _Watch) -> None:
        super().__init__()
        self.program, self.watch = program, watch

    def forward(self, image: Tensor) -> Any:
        watch = self.watch

        class Steps(torch.fx.Interpreter):
            def run_node(self, n: torch.fx.Node) -> Any:
                owners = [owner for owner in n.meta.get("nn_module_stack", {}).values() if owner[0]]
                watch.modules = [f"module {_path(path)}: {_class_name(kind)}" for path, kind in owners]
                watch.name = str(n.target).split(".")[1] if isinstance(n.target, torch._ops.OpOverload) else ""
                return super().run_node(n)

        return Steps(self.program).run(image)


def _path(path: str) -> str:
    """As torch.export writes it: L['self'].down, or down."""
    return path.removeprefix("L['self'].").replace("slice(None, None, None).", "")


def _class_name(kind: Any) -> str:
    return str(kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, sign: Sign) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sign, self.found, self.name = sign, "", ""
        self.modules: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        arguments = [argument.name for argument in func._schema.arguments]
        name, known = func.overloadpacket.__name__, dict(zip(arguments, args, strict=False)) | kwargs
        out = func(*args, **kwargs)
        if not self.found and self.sign(name, _tensors(args), known, out):
            operation = f"operation {self.name or name}"  # that of the program, or the one that it comes down to
            self.found = f" ({self.modules[-1]}, {operation})" if self.modules else f" ({operation})"
        return out


@contextlib.contextmanager
def _watched(network: nn.Module, sign: Sign) -> Iterator[_Watch]:
    watch, hooks = _Watch(sign), []
    theirs = network  # named as whoever wrote it knows it
    while isinstance(theirs, OneByOne | Joined | Held):
        theirs = theirs.network
    for path, module in theirs.named_modules():
        if path and not isinstance(module, torch.jit.ScriptModule):  # scripts take no hooks
            text = f"module {path}: {type(module).__name__}"
            hooks.append(module.register_forward_pre_hook(lambda *_, text=text: watch.modules.append(text)))
            hooks.append(module.register_forward_hook(lambda *_: watch.modules.pop() and None))
    try:
        with watch:
            yield watch
    finally:
        for hook in hooks:
            hook.remove()


def _hides(name: str, inputs: Sequence[Tensor], known: dict[str, Any], out: Any) -> bool:
    if not isinstance(out, Tensor) or out.dtype == torch.bool or name in ASK_ONLY:
        return False
    return any(_share(x) for x in inputs) and _share(out) == 0


def _spreads(name: str, inputs: Sequence[Tensor], known: dict[str, Any], out: Any) -> bool:
    made = out[0] if isinstance(out, tuple | list) and out else out
    return isinstance(made, Tensor) and _share(made) == 1 and any(0 < _share(x) < 1 for x in inputs)


def _knows_the_place(name: str, inputs: Sequence[Tensor], known: dict[str, Any], out: Any) -> bool:
    return known.get("align_corners") is True or any(word in name for word in OF_THE_PLACE)


def _share(values: Tensor) -> float:
    """Share of the voxels that are NaN."""
    if not values.numel() or not (values.is_floating_point() or values.is_complex()):
        return 0.0
    return float(torch.isnan(values).double().mean())


def _tensors(arguments: Sequence[Any]) -> list[Tensor]:
    flat = (x for argument in arguments for x in (argument if isinstance(argument, tuple | list) else (argument,)))
    return [x for x in flat if isinstance(x, Tensor)]
