"""What of a network's file is structure, as one hash: files that differ in trained weights alone share it.

    structure   operations in their order, every number among their arguments (kernels, strides, sizes), attributes,
                which lengths are taken, shapes of all weights, and the content of every tensor that is no parameter
    not         the content of parameters, and of running means and variances (the probe sets them itself)

Why a footprint may be shared by it: (1) the hash tells apart all that the run of a network depends on but the content
of its parameters. (2) The probe measures with random parameters and poison that passes any of them, so that its answer
is a function of the rest; an answer that rests on a file's own weights is not shared (Probe.any_weights). (3) Only
operations of a list are let through, for which what an output reads is fixed by shapes and numbers: none takes a place,
a length or a choice from the values of a tensor (no index, where, sort or item; masks, index tables and fixed kernels
are buffers, so their content counts). A network with any other operation has no structure here and is remembered by
its file alone. (4) Whoever takes a shared answer runs the self-test with the weights at hand (probe.holds).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from volpipe.models.model import ModelRef

CONVOLUTIONS = (
    "conv1d conv2d conv3d _convolution _convolution_mode convolution conv_transpose1d conv_transpose2d conv_transpose3d"
)
PRODUCTS = "linear matmul mm bmm addmm baddbmm einsum scaled_dot_product_attention"
NORMS = "batch_norm instance_norm group_norm layer_norm native_layer_norm native_group_norm native_batch_norm"
POOLS = (
    "max_pool2d max_pool3d avg_pool2d avg_pool3d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d "
    "adaptive_max_pool3d max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d mean sum amax amin var std"
)
POINTWISE = (
    "relu relu6 leaky_relu elu selu celu gelu silu mish prelu softplus sigmoid tanh hardtanh hardswish hardsigmoid "
    "softmax log_softmax _softmax _log_softmax add sub rsub mul div neg abs exp log sqrt rsqrt square reciprocal clamp "
    "clamp_min clamp_max dropout feature_dropout maximum minimum"
)
LAYOUT = (
    "cat concat stack slice select narrow split split_with_sizes chunk unbind view reshape _unsafe_view flatten "
    "unflatten permute transpose t movedim squeeze unsqueeze expand expand_as view_as contiguous clone detach alias "
    "lift_fresh_copy to _to_copy roll flip repeat pixel_shuffle pixel_unshuffle channel_shuffle zeros ones full "
    "zeros_like ones_like full_like tensor scalar_tensor lift_fresh new_zeros new_ones new_full arange"
)
RESIZING = (
    "pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
    "replication_pad3d"
)
UPSAMPLING = ("upsample_", "_upsample_")
ASKED_OF_SHAPES = (
    "sym_size sym_numel size dim numel len is_floating_point _assert_scalar _assert_tensor_metadata and or not "
    "__getitem__ __and__ __or__ __is__ __isnot__ __not__ __contains__ append extend copy list format warn device dtype"
)
# of lengths alone: of other tensors they make masks, whole numbers or steps, in which a weight would choose
NUMBERS = (
    "Int Float Bool IntImplicit FloatImplicit ScalarImplicit eq ne lt le gt ge floordiv floor_divide remainder mod "
    "fmod floor ceil round to type_as"
)
STATEMENTS = (
    "Constant GetAttr ListConstruct ListUnpack TupleConstruct TupleUnpack TupleIndex If Loop RaiseException "
    "NumToTensor Uninitialized unchecked_cast device dtype min max data layout is_cuda"
)


def _words(*texts: str) -> frozenset[str]:
    return frozenset(" ".join(texts).split())


OPERATIONS = _words(CONVOLUTIONS, PRODUCTS, NORMS, POOLS, POINTWISE, LAYOUT, RESIZING, ASKED_OF_SHAPES)
OF_NUMBERS, LANGUAGE = _words(NUMBERS), _words(STATEMENTS)
POWER = "pow.Tensor_Scalar"  # with a tensor as exponent, 0 would hide NaN
PLAIN = (int, float, bool, str, type(None))
RUNNING = ("running_mean", "running_var", "num_batches_tracked")
MANGLED = re.compile(r"___torch_mangle_\d+")  # numbers classes of one name in the order a process met them
PLACE_IN_SOURCE = re.compile(r" # \S+:\d+:\d+$", re.MULTILINE)


class _NoStructure(Exception):
    """What a network reads may depend on values."""


def structure(ref: ModelRef, network: nn.Module) -> str | None:
    """SHA-256 of the structure of a torch.export or TorchScript file; None if it has none that is safe to share.

    Args:
        ref: names the file.
        network: as loaded from it.
    """
    try:
        if ref.kind == "exported":
            parts = _of_program(torch.export.load(ref.location))
        elif ref.kind == "script" and isinstance(network, torch.jit.ScriptModule):
            parts = _of_script(network)
        else:
            return None
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    except (_NoStructure, AttributeError, RuntimeError):  # another version of torch may hide what is asked for here
        return None


def _of_program(program: torch.export.ExportedProgram) -> Iterator[str]:
    for node in program.graph.nodes:
        if node.op not in ("placeholder", "output") and not _is_known(node):
            raise _NoStructure
        shape = f"{node.meta['val']}" if node.op == "placeholder" and not _is_tensor(node) else ""
        if node.op == "placeholder" and _is_tensor(node):
            shape = f"{tuple(node.meta['val'].shape)} {node.meta['val'].dtype}"
        yield f"{node.op} {node.name} {node.target} {node.args!r} {node.kwargs!r} {shape}"
    signature = program.graph_signature
    yield f"{signature.input_specs!r} {signature.output_specs!r}"
    yield f"{sorted((str(symbol), str(span)) for symbol, span in program.range_constraints.items())}"
    yield f"{program._guards_code!r}"
    parameters = set(signature.parameters)
    for name, value in sorted((program.state_dict | program.constants).items()):
        yield _tensor(name, value, trained=name in parameters)


def _is_tensor(node: torch.fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _is_known(node: torch.fx.Node) -> bool:
    """Arithmetic of lengths, or an operation of the list that makes numbers with a point of such numbers."""
    if node.op != "call_function":
        return False
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload):
        arithmetic = getattr(target, "__module__", "") in ("_operator", "math")
        return arithmetic or target in (torch.sym_max, torch.sym_min, torch.sym_not)
    given = [x for x in node.all_input_nodes if _is_tensor(x)]
    floats = all(x.meta["val"].is_floating_point() for x in [*given, node] if given and _is_tensor(x))
    return target.namespace == "aten" and floats and _in_list(target._schema.name[6:], target._overloadname)


def _in_list(name: str, overload: str) -> bool:
    known = name.startswith(UPSAMPLING) or bool(OPERATIONS & {name, name.removesuffix("_")})
    return known or f"{name}.{overload}" == POWER


def _of_script(network: torch.jit.ScriptModule) -> Iterator[str]:
    graph = network.inlined_graph
    names: dict[str, str] = {}
    text = PLACE_IN_SOURCE.sub("", str(graph))
    yield MANGLED.sub(lambda match: names.setdefault(match[0], f"class_{len(names)}"), text)
    modules: dict[str, tuple[str, Any]] = {next(graph.inputs()).debugName(): ("", network)}
    trained = {name for name, _ in network.named_parameters()}
    fixed: set[str] = set()
    for node in _nodes(graph):
        kind = node.kind()
        if kind == "prim::GetAttr":
            yield from _attribute(node, modules, trained)
        elif kind == "prim::Constant":
            yield from _constant(node)
        elif kind.startswith("aten::"):
            _require_known(node, fixed)
        elif kind.removeprefix("prim::") not in LANGUAGE:
            raise _NoStructure
        if kind in ("prim::NumToTensor", "prim::Constant"):
            fixed.update(out.debugName() for out in node.outputs())


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _require_known(node: Any, fixed: set[str]) -> None:
    """Args: fixed: tensors made of lengths and constants alone; tracing turns lengths into tensors and back."""
    name, _, overload = node.schema().partition("(")[0].removeprefix("aten::").partition(".")
    tensors = [x.debugName() for x in node.inputs() if x.type().isSubtypeOf(torch._C.TensorType.get())]
    if fixed.issuperset(tensors):
        fixed.update(out.debugName() for out in node.outputs())
    elif name in OF_NUMBERS or (_in_place(name) and tensors[0] in fixed):
        raise _NoStructure
    if name not in OF_NUMBERS and not _in_list(name, overload):
        raise _NoStructure


def _in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _attribute(node: Any, modules: dict[str, tuple[str, Any]], trained: set[str]) -> Iterator[str]:
    """Of a module: a module below it, a tensor, or a number that its code uses."""
    path, module = modules[next(node.inputs()).debugName()]
    path, value = f"{path}.{node.s('name')}".removeprefix("."), getattr(module, node.s("name"))
    if isinstance(value, nn.Module):
        modules[node.output().debugName()] = path, value
    elif isinstance(value, Tensor):
        yield _tensor(path, value, trained=path in trained)
    else:
        _require_plain(value)
        yield f"{path} {value!r}"


def _constant(node: Any) -> Iterator[str]:
    for name in node.attributeNames():
        kind = node.kindOf(name)
        if kind == "t":
            yield _tensor("constant", node.t(name), trained=False)
        elif kind not in ("i", "f", "s"):  # which the text of the graph shows
            raise _NoStructure


def _require_plain(value: Any) -> None:
    if isinstance(value, list | tuple):
        for inner in value:
            _require_plain(inner)
    elif not isinstance(value, PLAIN):
        raise _NoStructure


def _tensor(name: str, value: Any, *, trained: bool) -> str:
    if not isinstance(value, Tensor):
        raise _NoStructure
    text = f"{name} {tuple(value.shape)} {value.dtype}"
    if trained or name.rpartition(".")[2] in RUNNING:
        return text
    return f"{text} {hashlib.sha256(_bytes(value)).hexdigest()}"


def _bytes(value: Tensor) -> bytes:
    return bytes(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
