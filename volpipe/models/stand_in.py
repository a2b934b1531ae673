"""What the probe runs in a network's place: in float64, with random weights, on fewer channels, on meta tensors.

    own        its weights, all its channels, in float64                       the last word of the self-test
    unit gain  random weights, every layer keeps the variance of what it gets  shows what usual weights damp
    thinned    the same on a k-th of the channels                              k * k times cheaper
    on meta    shapes alone

What a network reads does not depend on its weights, so random ones show it, and show it for every training of the
same network. Thinning is by shape: a length of a weight that k divides is cut to its k-th. A k fits if every operation
of one pass makes what it made before, but for those lengths; the k that leaves the least to compute is taken.
"""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from volpipe.models.shapes import Pass

LEAST_CHANNELS = 4  # of a thinned layer; with fewer a whole layer may die in a ReLU
CUTS = (2, 4, 8, 16, 32, 64)
DRAWS = 6  # of random weights, until one leaves no layer dead
FIRST_SEED = 7
LOW = (torch.float32, torch.float16, torch.bfloat16)
Run = Callable[[nn.Module], Any]
Shapes = list[tuple[str, list[tuple[int, ...]]]]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without gradients, and without warnings: of torch's internals, and of a user's network for images of NaN."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@quietly()
def in_float64(network: nn.Module) -> nn.Module:
    """A copy in float64, constants that are no buffers included."""
    copied = copy.deepcopy(network).double()
    return _with_loose_tensors(copied, lambda x: x.double() if x.is_floating_point() else x)


@quietly()
def on_meta(network: nn.Module) -> nn.Module | None:
    """A copy that computes shapes alone; None for what cannot be moved, such as a script with constants."""
    try:
        return _with_loose_tensors(copy.deepcopy(network).to("meta"), lambda x: x.to("meta"))
    except Exception:  # a user's module may refuse in any way
        return None


def _with_loose_tensors(network: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """Change tensors that hang on a module without being its parameters or buffers; a script hides its own."""
    for module in network.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            loose = {name: value for name, value in vars(module).items() if type(value) is Tensor}
            vars(module).update({name: change(value) for name, value in loose.items()})
    return network


class StayInFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Casts to fewer bits, and checks that they happened, do nothing; constants of fewer bits are cast to float64."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_assert_tensor_metadata" in str(func):
            return None
        kwargs = {name: torch.float64 if value in LOW else value for name, value in (kwargs or {}).items()}
        if not func._schema.is_mutable:
            args = tree_map_only(Tensor, lambda x: x.double() if x.dtype in LOW else x, args)
        return func(*args, **kwargs)


class Trace(Pass):  # type: ignore[no-untyped-call]
    """What the operations of one pass make.

    Attributes:
        shapes: per operation, its name and the shapes of what it makes.
        dead: operations that make one value everywhere of values that differ.
        lowers: True if one leaves float64.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Shapes = []
        self.dead, self.lowers = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        given, made = list(_floats(args)), list(_floats(out))
        self.shapes.append((str(func), [tuple(x.shape) for x in made]))
        self.dead += any(map(_is_flat, made)) and not all(map(_is_flat, given))
        self.lowers |= any(x.dtype in LOW for x in made) and any(x.dtype not in LOW for x in given)
        return out


def traced(network: nn.Module, run: Run) -> Trace:
    """One pass, watched."""
    trace = Trace()
    with trace:
        run(network)
    return trace


def best_cut(network: nn.Module, run: Run) -> int:
    """The k that leaves the least to compute of those with which the network differs in its channels alone; 1 if none.

    Args:
        network: in float64 or on meta tensors.
        run: one pass; what it raises means that a k does not fit.
    """
    cuts = [k for k in CUTS if any(_kth_of(weight.shape, k) != [*weight.shape] for weight in network.parameters())]
    full: Shapes = traced(network, run).shapes if cuts else []
    costs = {1: math.inf}
    for k in cuts:
        thin = cut(network, k)
        with contextlib.suppress(Exception):  # a length that the code itself names, such as groups
            if _same_but_for(k, full, traced(thin, run).shapes):
                costs[k] = operations(thin, run)
    return min(costs, key=costs.__getitem__)


def operations(network: nn.Module, run: Run) -> float:
    """Floating-point operations of one pass."""
    with FlopCounterMode(display=False) as counter, Pass():
        run(network)
    return float(counter.get_total_flops())


@quietly()
def cut(network: nn.Module, k: int) -> nn.Module:
    """A copy whose weights are a corner of the network's."""
    thin = copy.deepcopy(network)
    for values in (*thin.parameters(), *thin.buffers()):
        values.data = values.data[tuple(map(slice, _kth_of(values.shape, k)))].clone()
    return thin


def _kth_of(shape: Sequence[int], k: int) -> list[int]:
    """What is left of a weight: channels stand on its first two axes."""
    return [_kth(n, k) if axis < 2 else n for axis, n in enumerate(shape)]


def _kth(length: int, k: int) -> int:
    return length // k if length % k == 0 and length // k >= LEAST_CHANNELS else length


def _same_but_for(k: int, full: Shapes, thin: Shapes) -> bool:
    """True if the passes differ in lengths that are a k-th, and in those alone."""
    if [name for name, _ in full] != [name for name, _ in thin]:
        return False
    pairs = [(a, b) for (_, one), (_, other) in zip(full, thin, strict=True) for a, b in zip(one, other, strict=True)]
    return all(len(a) == len(b) and all(m in (n, n // k) and n % m == 0 for n, m in zip(a, b, strict=True) if n)
               for a, b in pairs)  # fmt: skip


def with_unit_gain(network: nn.Module, seed: int = FIRST_SEED) -> nn.Module:
    """Random weights, in place and by shape alone: a file may know no classes of layers.

    A linear layer keeps the variance. He's factor of 2 for ReLU would let sums of residual blocks grow until a tanh at
    the end is saturated and hides everything; without it 20 layers keep a thousandth, which shows well in float64.
    Factors per channel leave 0, where training starts some of them; a bias stays small.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        values = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        if weight.ndim > 1:
            weight.data = values * math.sqrt(weight.shape[0] / max(1, weight.numel()))
        else:
            weight.data = values * 0.1 + (0.0 if name.endswith("bias") else 1.0)
    for name, values in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            values.fill_(float(name.endswith("var")))
    return network


def lively(network: nn.Module, run: Run) -> Trace:
    """Unit gain, in place, of the draw that leaves the fewest layers dead: a dead path would hide its period."""
    seeds = range(FIRST_SEED, FIRST_SEED + DRAWS)
    best, seed = traced(with_unit_gain(network), run), FIRST_SEED
    for other in seeds[1:]:
        if not best.dead:
            return best
        trace = traced(with_unit_gain(network, other), run)
        best, seed = min((best, seed), (trace, other), key=lambda pair: pair[0].dead)
    with_unit_gain(network, seed)
    return best


def _floats(nested: Any) -> Iterator[Tensor]:
    for x in nested if isinstance(nested, tuple | list) else (nested,):
        if isinstance(x, tuple | list):
            yield from _floats(x)
        elif isinstance(x, Tensor) and x.is_floating_point():
            yield x


def _is_flat(x: Tensor) -> bool:
    return not x.is_meta and x.numel() > 1 and bool((x == x.flatten()[0]).all())
