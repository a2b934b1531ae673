"""A user's own network: torch.export file, TorchScript file, or factory with safetensors weights.

    file or factory -> network and what it tells -> one small tile is run -> Model

What the file does not tell, the options say, and the tile shows: channels, type, repeatability. The footprint is
measured in the driver (settle.py). `exactness` names normalisations by the tile's statistics; an empty one says only
that none was seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from volpipe.errors import ModelError, reason
from volpipe.geometry import ceil_to
from volpipe.models import factory, programs
from volpipe.models.archive import require_plain_export, require_torchscript
from volpipe.models.layers import Joined, OneByOne, for_inference, several, tile_statistics
from volpipe.models.model import Model, ModelRef, footprint_by_hand
from volpipe.models.normalisation import Normalisation
from volpipe.models.sizes import smallest_edge

BESIDE, ROUNDING = (1.0, 1e3, -1e3, 0.0), 1e-3  # times another image; relative, of fp32
TRIED_LENGTHS = (32, 64)  # a small tile first; a deep network may need the larger one
OF_TORCH = r"`isinstance\(treespec, LeafSpec\)`"
"""What torch 2.13 says of itself when an exported program is copied. Filtered once per process, when the first one is
loaded: `warnings.catch_warnings` around each copy is undone by another thread's, and workers have several."""
# the argument that is True where an operator was exported in training mode
TRAINING_ARGUMENT = {"aten.batch_norm.default": 5, "aten.dropout.default": 2}


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network and what its file tells of it."""

    network: nn.Module
    ndim: int | None
    in_channels: int | None
    exactness: str


@dataclass(frozen=True)
class Tried:
    """What a network takes and gives, as a tile showed; the several images of one are joined."""

    network: nn.Module
    ndim: int
    in_channels: int
    out_channels: int


def load_external(ref: ModelRef) -> Model:
    """Load, try and describe a user's network.

    Raises:
        ModelError: it cannot be loaded or trusted, or does not map an image to an image.
    """
    loaders = {"exported": _load_exported, "script": _load_script, "factory": _load_factory}
    loaded = loaders[ref.kind](ref)
    tried = _tried(ref, loaded)
    network, ndim, in_channels, out_channels = tried.network, tried.ndim, tried.in_channels, tried.out_channels
    return Model(
        network=network if keeps_apart(network, ndim, in_channels) else OneByOne(network),
        ndim=ndim,
        in_channels=in_channels,
        out_channels=out_channels,
        footprint=None,
        normalisation=Normalisation((ref.input_scale,) * in_channels, (ref.input_offset,) * in_channels),
        voxel_size_um=None,
        output_channels=tuple(f"channel {i}" for i in range(out_channels)),
        output_range=None,
        exactness=loaded.exactness,
    )


def _tried(ref: ModelRef, loaded: Loaded) -> Tried:
    """Run a tile.

    What was given goes before what a first weight seems to tell; where the network refuses it, the network is right,
    and the caller can say what does not fit.
    """
    given = ref.ndim or loaded.ndim, ref.in_channels or loaded.in_channels
    told = loaded.ndim or ref.ndim, loaded.in_channels or ref.in_channels
    try:
        return _try_input(ref, loaded.network, *given)
    except ModelError:
        if told == given:
            raise
        return _try_input(ref, loaded.network, *told)


def _try_input(ref: ModelRef, network: nn.Module, ndim: int | None, in_channels: int | None) -> Tried:
    if ndim not in (2, 3) or in_channels is None:
        raise ModelError(f"model {ref.location}: it does not tell its input; {_what_to_tell(ndim, in_channels)}")
    footprint = footprint_by_hand(ref, ndim)
    period = (1,) * ndim if footprint is None else footprint.period
    output = _try_tile(ref.location, network, in_channels, period)
    out_channels = sum(image.shape[1] for image in several(output))
    return Tried(network if isinstance(output, Tensor) else Joined(network), ndim, in_channels, out_channels)


def _what_to_tell(ndim: int | None, in_channels: int | None) -> str:
    """Only what is missing: under `bench` the volume tells the channels, and there is no such option."""
    asked = [("--ndim 2 or 3", "ndim=")] if ndim not in (2, 3) else []
    asked += [("--in-channels N", "in_channels=")] if in_channels is None else []
    options, arguments = (" and ".join(names) for names in zip(*asked, strict=True))
    return f"give {options} ({arguments} of resolve_model)"


def _load_exported(ref: ModelRef) -> Loaded:
    require_plain_export(Path(ref.location), ref.trust_code)
    warnings.filterwarnings("ignore", message=OF_TORCH, category=FutureWarning)  # for good: see there
    try:
        program = torch.export.load(ref.location)
    except Exception as error:
        raise ModelError(f"model {ref.location}: torch.export cannot load it ({reason(error)})") from error
    shape = _input_shape(ref.location, program)
    _require_eval(ref.location, program)
    network: nn.Module = programs.rewritten(program.module())
    if isinstance(shape[0], int):
        _require_batch_of_one(ref.location, shape[0])
        network = OneByOne(network)
    return Loaded(network.requires_grad_(False), len(shape) - 2, int(shape[1]), _exported_statistics(program))


def _input_shape(location: str, program: torch.export.ExportedProgram) -> tuple[int | torch.SymInt, ...]:
    """Shape of the only input; lengths that may differ are symbols."""
    inputs = program.graph_signature.user_inputs
    if len(inputs) != 1:
        raise ModelError(f"model {location}: takes {len(inputs)} inputs; export a network that takes one image")
    node = next(node for node in program.graph.nodes if node.name == inputs[0])
    shape = tuple(node.meta["val"].shape)
    if len(shape) not in (4, 5):
        raise ModelError(
            f"model {location}: takes {len(shape)} axes; export one that takes (n, c, y, x) or (n, c, z, y, x)"
        )
    fixed = [axis for axis, length in zip("zyx"[-len(shape) + 2 :], shape[2:], strict=True) if isinstance(length, int)]
    if fixed:
        raise ModelError(
            f"model {location}: takes one length only along {', '.join(fixed)}; export it again with "
            "dynamic_shapes, torch.export.Dim.AUTO for every spatial axis; where its code makes numbers of a length "
            "(torch.linspace(0, 1, n)), that fixes it: give it as package.module:factory"
        )
    return shape


def _require_eval(location: str, program: torch.export.ExportedProgram) -> None:
    for node in program.graph.nodes:
        position = TRAINING_ARGUMENT.get(str(node.target))
        if position is not None and node.args[position] is True:
            raise ModelError(
                f"model {location}: exported in training mode ({node.name}); call .eval() and export again"
            )


def _exported_statistics(program: torch.export.ExportedProgram) -> str:
    for node in program.graph.nodes:
        if str(node.target) == "aten.group_norm.default":
            return f"group norm: statistics of the tile (operator {node.name})"
        if str(node.target) == "aten.instance_norm.default" and node.args[5] is True:
            return f"instance norm: statistics of the tile (operator {node.name})"
    return ""


def _require_batch_of_one(location: str, batch: int) -> None:
    if batch != 1:
        raise ModelError(f"model {location}: exported for batches of {batch}; export it with a batch of 1 or a Dim")


@torch.inference_mode()
def keeps_apart(network: nn.Module, ndim: int, in_channels: int) -> bool:
    """True if an image gives what it gives alone when another one lies beside it, as bright, brighter, darker or black.

    Planes and tiles go through a network together, and attention over the wrong axis or a mean over the batch would
    mix them.
    """
    edge = smallest_edge(network, ndim, in_channels) or TRIED_LENGTHS[0]
    one, other = torch.rand((2, 1, in_channels, *(edge,) * ndim), generator=torch.Generator().manual_seed(0))
    try:
        alone = network(one)
        pairs = [network(torch.cat([one, times * other])) for times in BESIDE]
    except Exception:  # a user's network may raise anything; it took one image before
        return False
    allowed = ROUNDING * alone.abs().max()
    return all(len(both) == 2 and bool((both[:1] - alone).abs().max() <= allowed) for both in pairs)


def _load_script(ref: ModelRef) -> Loaded:
    require_torchscript(Path(ref.location))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # users' old files stay readable
            network: nn.Module = torch.jit.load(ref.location, map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ModelError(f"model {ref.location}: torch.jit cannot load it ({reason(error)})") from error
    return _describe(for_inference(network))


def _load_factory(ref: ModelRef) -> Loaded:
    network = factory.call(ref.location, ref.trust_code)
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"model {ref.location}: the factory returned {type(network).__name__}; return a torch.nn.Module"
        )
    weights = {} if ref.weights is None else _read_weights(ref.weights)
    if ref.weights is None and network.state_dict():
        raise ModelError(
            f"model {ref.location}: it has weights of its own making; give them by --weights FILE.safetensors"
        )
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        mismatch = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ModelError(f"model {ref.location}: --weights {ref.weights} do not fit it: {mismatch}") from None
    return _describe(for_inference(network))


def _read_weights(path: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"weights {path}: not a safetensors file that can be read ({error})") from None


def _describe(network: nn.Module) -> Loaded:
    """What the first convolution's weight (out, in, [z,] y, x) tells."""
    shapes = (parameter.shape for parameter in network.parameters())
    first = next((shape for shape in shapes if len(shape) in (4, 5)), None)
    if first is None:
        return Loaded(network, None, None, tile_statistics(network))
    return Loaded(network, len(first) - 2, first[1], tile_statistics(network))


def _try_tile(location: str, network: nn.Module, in_channels: int, period: tuple[int, ...]) -> Any:
    """Run a small tile that the network takes, check what it shows, and return it."""
    for length in _lengths_to_try(network, in_channels, len(period)):
        shape = (1, in_channels, *(ceil_to(length, p) for p in period))
        tile = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        try:
            with torch.inference_mode():
                outputs: list[Any] = [network(tile), network(tile)]
        except Exception as error:  # a user's network may raise anything
            failure = error
            continue
        images, again = (_images(location, output) for output in outputs)
        for image in images:
            _require_image(location, tile, image)
        if not all(map(torch.equal, images, again)):
            raise ModelError(
                f"model {location}: the same tile gives two results (dropout left on?); make it repeatable"
            )
        return outputs[0]
    raise ModelError(
        f"model {location}: fails on a tile of shape {shape} ({reason(failure)}); "
        "check its axes, its channels and --period"
    ) from failure


def _lengths_to_try(network: nn.Module, in_channels: int, ndim: int) -> Iterator[int]:
    """The usual ones; then one that networks without padding or with an odd period take."""
    yield from TRIED_LENGTHS
    if (edge := smallest_edge(Joined(network), ndim, in_channels)) is not None:
        yield edge


def _images(location: str, output: Any) -> list[Tensor]:
    """What a network returned, of one size."""
    try:
        images = several(output)
    except TypeError as error:
        raise ModelError(f"model {location}: {error}; wrap it so that it returns tensors") from None
    sizes = {tuple(image.shape[2:]) for image in images}
    if len(sizes) > 1:
        raise ModelError(
            f"model {location}: returns images of {' and '.join(map(str, sorted(sizes)))} voxels; wrap it so that they "
            "have one size, or that it returns one of them"
        )
    return images


def _require_image(location: str, tile: Tensor, output: Tensor) -> None:
    if output.ndim != tile.ndim or output.shape[0] != 1:
        shapes = f"maps shape {tuple(tile.shape)} to {tuple(output.shape)}"
        raise ModelError(f"model {location}: {shapes}; return an image with the axes of the input")
    if not output.is_floating_point():
        raise ModelError(f"model {location}: returns {output.dtype}; return scores, labels are chosen after stitching")
    if not torch.isfinite(output).all():
        raise ModelError(f"model {location}: returns NaN or infinity on values in [0, 1); check its weights")
