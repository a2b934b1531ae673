"""The graph of a loaded torch.export program, rewritten for inference: the same function of the image.

    convolution, batch norm (eval)  -->  convolution with the norm in its weights: one pass and one tensor less
    aten.conv3d                     -->  kernels.conv3d

Weights stay parameters of the program, so that it moves between devices and types as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from volpipe.models import kernels

ATEN = torch.ops.aten
CONV3D = (ATEN.conv3d.default, ATEN.conv3d.padding)
CONVOLUTIONS = (*CONV3D, ATEN.conv2d.default, ATEN.conv2d.padding)


def rewritten(program: fx.GraphModule) -> fx.GraphModule:
    """The program, changed in place."""
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    for node in calls:
        if node.target in CONV3D:
            _use_fast_kernel(node, *node.args, **node.kwargs)
        elif node.target is ATEN.convolution.default:
            _use_fast_kernel_of_three_axes(node, *node.args, **node.kwargs)
    for node in calls:
        if node.target is ATEN.batch_norm.default:
            _fold(program, node)
    program.recompile()
    return program


def _use_fast_kernel(node: fx.Node, input: Any, *others: Any, **named: Any) -> None:
    node.target, node.args, node.kwargs = kernels.conv3d, (input, *others), named


def _use_fast_kernel_of_three_axes(
    node: fx.Node, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, *others: Any
) -> None:
    """Of the operator that stands for every convolution in a decomposed program."""
    transposed, _, groups = others
    if len(stride) == 3 and not transposed:
        _use_fast_kernel(node, input, weight, bias, stride, padding, dilation, groups)


def _fold(program: fx.GraphModule, norm: fx.Node) -> None:
    """Multiply a normalisation into the convolution before it, if nothing else sees what that gives."""
    conv, scale, shift, mean, variance, training, _, epsilon, _ = norm.args
    if training or not isinstance(conv, fx.Node) or len(conv.users) > 1 or conv.kwargs:
        return
    if conv.target not in (kernels.conv3d, *CONVOLUTIONS):
        return
    weight, bias = conv.args[1], conv.args[2] if len(conv.args) > 2 else None
    nodes = [weight, bias, mean, variance, scale, shift]
    held = [_held(program, node) for node in nodes]
    if any(value is None and node is not None for value, node in zip(held, nodes, strict=True)):
        return
    w, b, m, v, *affine = held
    fused = zip(("weight", "bias"), fuse_conv_bn_weights(w, b, m, v, epsilon, *affine), strict=True)  # type: ignore[arg-type]
    with program.graph.inserting_before(conv):
        new = [_hold(program, f"{conv.name}_{name}", value) for name, value in fused]
    conv.args = (conv.args[0], *new, *conv.args[3:])
    norm.replace_all_uses_with(conv)
    program.graph.erase_node(norm)
    for node in nodes:
        if isinstance(node, fx.Node):
            _drop(program, node)


def _held(program: fx.GraphModule, node: Any) -> Tensor | None:
    """The parameter or buffer that a node stands for; None for anything else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    path, _, name = str(node.target).rpartition(".")
    value = getattr(program.get_submodule(path), name)
    return value if isinstance(value, Tensor) else None


def _hold(program: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    program.register_parameter(f"folded_{name}", nn.Parameter(value.detach().clone(), requires_grad=False))
    return program.graph.get_attr(f"folded_{name}")


def _drop(program: fx.GraphModule, node: fx.Node) -> None:
    """What nothing uses any more is not held in memory either."""
    if node.users:
        return
    program.graph.erase_node(node)
    if all(other.target != node.target for other in program.graph.nodes if other.op == "get_attr"):
        path, _, name = str(node.target).rpartition(".")
        delattr(program.get_submodule(path), name)
