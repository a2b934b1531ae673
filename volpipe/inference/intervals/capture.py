"""From a network to its program: `torch.export` of the whole-volume call, on meta tensors of any size.

network --trace--> Trace (operations, no weights) --bind--> Program (rules that hold a network's weights)
"""

from __future__ import annotations

import copy
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from volpipe.errors import reason
from volpipe.inference.intervals import gather, pointwise, recipe, transposed, upsample, window  # noqa: F401  (their rules)
from volpipe.inference.intervals.plan import takes_several
from volpipe.inference.intervals.program import Program, Step
from volpipe.inference.intervals.recipe import Recipe, is_recipe, large
from volpipe.inference.intervals.reduction import split
from volpipe.inference.intervals.rule import Call, CannotCapture, Volume, rule_of
from volpipe.models import kernels
from volpipe.models.external import OF_TORCH
from volpipe.models.held import Held
from volpipe.models.layers import Joined, OneByOne

_OURS = {f"{kind.__module__}.{kind.__qualname__}" for kind in (Held, Joined, OneByOne)}  # around a user's network


def capture(network: nn.Module, shape: Sequence[int], in_channels: int = 1) -> Program:
    """The program of a network on a volume.

    Args:
        network: in evaluation mode; its weights are used, not copied.
        shape: spatial size of the volume; no memory is taken for it.
        in_channels: of the volume.

    Raises:
        CannotCapture: torch cannot export it (TorchScript, branches on values, a size that it does not take), or
            one of its operations has no rule.
    """
    return trace(network, shape, in_channels, _dtype(network)).bind(network)


def trace(network: nn.Module, shape: Sequence[int], in_channels: int, dtype: torch.dtype) -> Trace:
    """The operations of a network of a type on a volume; nearly all of the time of a capture.

    Raises:
        CannotCapture: torch cannot export it.
    """
    return Trace(_exported(network, (1, in_channels, *shape), dtype), in_channels)


@dataclass(frozen=True, eq=False)
class Trace:
    """What `torch.export` made of a network, on meta tensors."""

    exported: Any
    in_channels: int

    def bind(self, network: nn.Module | None = None) -> Program:
        """The program with the weights of this network, or without values.

        Args:
            network: the one that was traced, or one of the same modules.

        Raises:
            CannotCapture: an operation has no rule.
        """
        if any(map(_changes_a_tensor, self.exported.graph.nodes)):
            return self._bound(self._decomposed, network)
        try:
            return self._bound(self.exported, network)
        except CannotCapture:  # an operation may have no rule where those that it is made of have
            return self._bound(self._decomposed, network)

    @cached_property
    def _decomposed(self) -> Any:
        """No operation changes a tensor, and batch norms are those of inference; it takes longer than the export. The
        table is empty: the rest stays whole."""
        with _refusing(self._image.shape[2:]), torch.no_grad(), kernels.as_written():
            return self.exported.run_decompositions({})

    @cached_property
    def _image(self) -> Tensor:
        inputs = self.exported.graph_signature.user_inputs
        image: Tensor = next(node.meta["val"] for node in self.exported.graph.nodes if node.name in inputs)
        return image

    def _bound(self, exported: Any, network: nn.Module | None) -> Program:
        state = exported.state_dict | exported.constants if network is None else _state_of(network)
        device = _device(state)
        reader = _Reader(self._image.ndim - 2, _tensors_of(exported, state), device)
        last = {each: node for node in exported.graph.nodes for each in node.all_input_nodes}
        for node in exported.graph.nodes:
            reader.read(node)
            for each in node.all_input_nodes:
                if last[each] is node:
                    reader.let_go(each)
        steps, sizes, outputs = tuple(reader.steps), tuple(reader.sizes), tuple(reader.outputs)
        program = Program(steps, sizes, outputs, self.in_channels, self._image.dtype, device, reader.constant_bytes)
        return replace(program, alone=not takes_several(program))


def _changes_a_tensor(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _exported(network: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    image = torch.empty(shape, dtype=dtype, device="meta")
    warnings.filterwarnings("ignore", OF_TORCH, FutureWarning)
    with _refusing(shape[2:]), torch.no_grad(), kernels.as_written():
        return torch.export.export(_twin(network, dtype), (image,), strict=False)


def _twin(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """On the meta device, and without the activations that change their input, which would have to be decomposed."""
    twin = copy.deepcopy(network).to(device="meta", dtype=dtype)
    for module in twin.modules():
        if getattr(module, "inplace", False) is True:
            setattr(module, "inplace", False)  # noqa: B010  (nn.Module types its attributes as modules)
    return twin


@contextmanager
def _refusing(shape: Sequence[int]) -> Iterator[None]:
    of_torch = logging.getLogger("torch._subclasses.fake_tensor")  # which logs what it raises, with its traceback
    level = of_torch.level
    of_torch.setLevel(logging.CRITICAL)
    try:
        yield
    except CannotCapture:
        raise
    except Exception as error:  # torch.export raises whatever the network's code does
        why = reason(error)
        if "meta" in why and "cpu" in why:  # traced without values, on a device of its own
            why += "; where its code makes a tensor, give it device=x.device"
        raise CannotCapture(f"torch.export cannot trace it on {tuple(shape)} voxels: {why}") from error
    finally:
        of_torch.setLevel(level)


def _state_of(network: nn.Module) -> dict[str, Tensor]:
    """By name, shared ones under each of theirs."""
    parameters = network.named_parameters(remove_duplicate=False)
    return dict(parameters) | dict(network.named_buffers(remove_duplicate=False))


def _tensors_of(exported: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the name of a graph's input: the network's own weights and constants."""
    signature = exported.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    found = {place: state[name].detach() for place, name in names.items()}
    constants = {place: exported.constants[name] for place, name in signature.inputs_to_lifted_tensor_constants.items()}
    if any(constant.is_meta for constant in constants.values()):  # made where the image was, while it was traced
        raise CannotCapture("it makes a tensor of numbers on the device of the image, which has no values while it is "
                            "traced; make it in __init__, with register_buffer")  # fmt: skip
    return found | constants


def _dtype(network: nn.Module) -> torch.dtype:
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)


def _device(state: Mapping[str, Tensor]) -> torch.device:
    return next((tensor.device for tensor in state.values()), torch.device("cpu"))


@dataclass
class _Reader:
    """Reads a graph node by node. Volumetric tensors have numbers, everything else is computed at once."""

    ndim: int
    given: Mapping[str, Tensor]
    device: torch.device
    steps: list[Step] = field(default_factory=list)
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    numbers: dict[fx.Node, int] = field(default_factory=dict)
    constants: dict[fx.Node, Any] = field(default_factory=dict)
    several: set[fx.Node] = field(default_factory=set)  # operations whose result is a tuple
    made: dict[fx.Node, dict[int, int]] = field(default_factory=dict)  # what computed constants hold: `_stored`
    held: dict[int, int] = field(default_factory=dict)  # what steps hold beside the network's weights
    on_the_way: dict[int, int] = field(default_factory=dict)  # whole constants that one operation is given
    constant_bytes: int = 0  # the most that all of these took at once, with what a whole constant takes to be made

    def let_go(self, node: fx.Node) -> None:
        """Of a node that no later one is given; steps hold what they need."""
        self.constants.pop(node, None)
        self.made.pop(node, None)

    def _count(self, to_make: int = 0) -> None:
        alive = {key: nbytes for stored in self.made.values() for key, nbytes in stored.items()}
        alive |= self.held | self.on_the_way
        self.constant_bytes = max(self.constant_bytes, sum(alive.values()) + to_make)

    def _beside(self, value: Any) -> dict[int, int]:
        """What a value holds beside the network's weights."""
        return {key: nbytes for key, nbytes in _stored(value).items() if key not in self._weights}

    @cached_property
    def _weights(self) -> frozenset[int]:
        return frozenset(_stored(list(self.given.values())))

    def read(self, node: fx.Node) -> None:
        """Take one more node."""
        if node.op == "placeholder":
            self._read_input(node)
        elif node.op == "output":
            self._read_output(node)
        elif node.target is operator.getitem and (whole := node.all_input_nodes[0]) in self.several:
            self._add(node, whole, pick=node.args[1])
        elif node.meta.get("val") is None and not node.users:
            return  # a check of types, which were checked now
        elif not any(each in self.numbers for each in node.all_input_nodes):
            self.constants[node] = self._computed(node)
            self.made[node] = self._beside(self.constants[node])
            self._count()
            self.on_the_way.clear()
        elif isinstance(node.meta["val"], list | tuple):
            self.several.add(node)
        else:
            self._add(node, node)

    def _read_input(self, node: fx.Node) -> None:
        if node.name in self.given:
            self.constants[node] = self.given[node.name]
        else:
            self.numbers[node] = self._tensor(tuple(node.meta["val"].shape[2:]))

    def _read_output(self, node: fx.Node) -> None:
        outputs = node.all_input_nodes
        if len(outputs) != 1 or outputs[0] not in self.numbers:
            raise CannotCapture(f"it returns {len(outputs)} tensors; a network returns one image")
        self.outputs = [self.numbers[outputs[0]]]

    def _tensor(self, size: tuple[int, ...]) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def _step(self, call: Call, inputs: tuple[int, ...]) -> int:
        self.steps.append(Step(self._tensor(call.size), inputs, rule_of(call), call))
        self.held |= self._beside(call.tensors)
        self._count()
        return self.steps[-1].tensor

    def _computed(self, node: fx.Node) -> Any:
        """A constant; a large one is not computed, unless an operation needs all of it."""
        args, kwargs = _mapped((node.args, dict(node.kwargs)), self._here)
        value = node.meta.get("val")
        if isinstance(value, Tensor) and node.target is not operator.getitem and _nbytes(value) > recipe.LARGE_BYTES:
            return large(node.target, args, kwargs, value)
        args, kwargs = (tree_map_only(Recipe, self._whole, each, is_leaf=is_recipe) for each in (args, kwargs))
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _here(self, each: fx.Node | torch.device) -> Any:
        """An argument of a constant: on the device of the weights, wherever it was traced."""
        return self.constants[each] if isinstance(each, fx.Node) else self.device

    def _constant(self, node: fx.Node) -> Any:
        """As an operation on the image is given it: a recipe if it has the image's extent and can be cut like one."""
        made = self.constants[node]
        if isinstance(made, Recipe):
            last = made.shape[-self.ndim :]
            extent = any(all(n in (1, m) for n, m in zip(last[::-1], size[::-1], strict=False)) for size in self.sizes)
            cut = [axis - len(last) + len(made.shape) for axis, n in enumerate(last) if n != 1]
            if not extent or not made.is_local(cut):
                made = self.constants[node] = self._whole(made)
        return made

    def _whole(self, made: Recipe) -> Tensor:
        if made.bytes_to_make > max(recipe.WHOLE_BYTES, 4 * made.bytes_given):
            raise CannotCapture(f"operation {made.target} needs all of a constant of {made.nbytes / 2**30:.1f} GiB, "
                                "which is not made voxel by voxel of coordinates")  # fmt: skip
        self._count(made.bytes_to_make)
        whole = made.whole()
        self.on_the_way |= self._beside(whole)
        return whole

    def _add(self, node: fx.Node, operation: fx.Node, pick: Any = None) -> None:
        value, where, one = node.meta["val"], _module(operation), (1,) * self.ndim
        inputs = [each for each in operation.all_input_nodes if each in self.numbers]
        sizes = tuple(self.sizes[self.numbers[each]] for each in inputs)
        flat = any(each.ndim != self.ndim + 2 for each in (value, *(each.meta["val"] for each in inputs)))
        places = {each: Volume(number) for number, each in enumerate(inputs)}

        def stand_in(each: fx.Node | torch.device) -> Any:
            if isinstance(each, torch.device):
                return each
            return places[each] if each in places else self._constant(each)

        named = {name: each for name, each in operation.kwargs.items() if name != "device"}  # where its input is
        args, kwargs = _mapped(operation.args, stand_in), _mapped(named, stand_in)
        numbers, channels = tuple(self.numbers[each] for each in inputs), (*value.shape, 1, 1)[1]
        size = one if flat else tuple(value.shape[2:])
        call = Call(operation.target, args, kwargs, sizes, size, where, value.dtype, pick, channels, flat)
        small = flat and set(sizes) == {one}
        if not small and (two := split(call)) is not None:
            first, call = two
            numbers = (*numbers, self._step(first, numbers))[-len(call.sizes) :]
        elif flat and not small:
            name = f"{operation.target} of module {where or 'the network itself'}"
            raise CannotCapture(f"operation {name} takes or gives a tensor without the axes of space")
        self.numbers[node] = self._step(call, numbers)


def _stored(value: Any) -> dict[int, int]:
    """Bytes of what the tensors of a value hold, by what holds them: a view holds all of what it sees a part of."""
    storages = [each.untyped_storage() for each in tree_leaves(value) if isinstance(each, Tensor)]
    return {storage._cdata: storage.nbytes() for storage in storages}


def _nbytes(traced: Tensor) -> int:
    return traced.numel() * traced.element_size()


def _mapped(value: Any, function: Any) -> Any:
    """`fx.node.map_arg`, which would make lists of its own kind."""
    if isinstance(value, fx.Node | torch.device):
        return function(value)
    if isinstance(value, Mapping):
        return {name: _mapped(each, function) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return (
            type(value)(_mapped(each, function) for each in value)
            if type(value) in (list, tuple)
            else [_mapped(each, function) for each in value]
        )
    return value


def _module(node: fx.Node) -> str:
    """The path of the module that calls an operation, as whoever wrote the network knows it."""
    stack = list((node.meta.get("nn_module_stack") or {"": ("", None)}).values())
    ours = sum(kind in _OURS for _, kind in stack)
    return ".".join(str(stack[-1][0]).split(".")[ours:])
