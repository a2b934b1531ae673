"""The laws of `apply` over all that can be put together, in float64: every mode x assembly x engine.

    exact modes      the product is the network on the whole volume, on the volume in a mirror, or the mean of three
    inexact modes    the product says that it is not, and why
    all              engine, blocks and workers change nothing

The first law is tried against a halo one period short and a read off the lattice, axis by axis: what was never seen to
fail tests nothing. Networks are the smallest of their kind, so that 37 voxels hold a tile with all of its context;
networks of the papers' depth are in tests/stitching/test_laws.py.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from distributed import LocalCluster

from volpipe.errors import ModelError, VolpipeError
from volpipe.geometry import Box, Footprint
from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.fit import Fit
from volpipe.models.mae import MAEArchitecture
from volpipe.models.unet import UNetArchitecture
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.stitching.overlap import Overlap
from volpipe.stitching.valid import Valid
from volpipe.volume import open_product

EXACT = 1e-12  # of the reference's standard deviation
SHOWS = 1e-4  # the same, of a planted fault
LOST = 16  # voxels, by the network without padding
ENGINES = ("blocks", "map-overlap")
TILE, ON_TILES, OFF_TILES = (8, 8, 8), (16, 16, 16), (5, 13, 10)  # the blocks of the last cut tiles


@dataclass(frozen=True)
class Mode:
    """The network that a mode is for, the options that ask for it, and why its product is not exact."""

    network: str
    options: dict
    inexact: str = ""


NETWORKS = {
    "padded": lambda ndim: UNetArchitecture(ndim, levels=2, width=2),
    "unpadded": lambda ndim: UNetArchitecture(ndim, levels=2, width=2, padding="valid"),
    "normed": lambda ndim: UNetArchitecture(ndim, levels=2, width=2, norm="instance"),
    "windowed": lambda ndim: MAEArchitecture(ndim, 16, patch=8, width=4 * ndim, depth=1, decoder_depth=1),
}
MODES = {
    "tile": Mode("padded", {"stitching": "tile"}, "tile: tiles see nothing of each other"),
    "overlap": Mode("padded", {"stitching": "overlap"}),
    "exact": Mode("padded", {"stitching": "exact"}),
    "linear": Mode("padded", {"blend": "linear"}, "blend linear: the rims of tiles"),
    "hann": Mode("padded", {"blend": "hann"}, "blend hann: the rims of tiles"),
    "gaussian": Mode("padded", {"blend": "gaussian"}, "blend gaussian: the rims of tiles"),
    "crop": Mode("unpadded", {"stitching": "valid"}),
    "exact crop": Mode("unpadded", {"stitching": "exact"}),
    "reflect": Mode("unpadded", {"faces": "reflect"}),
    "windows": Mode("windowed", {}, "fixed window: the network sees one window at a time"),
}
ACROSS = {"2d z": [0], "2d y": [1], "2d x": [2], "3d": [None], "orthoslice": [0, 1, 2]}  # axes that planes are across
CELLS = [(m, a) for m in MODES for a in ACROSS if a != "orthoslice" or MODES[m].network == "padded"]
EXACT_CELLS = [(mode, assembly) for mode, assembly in CELLS if not MODES[mode].inexact]
TRIED = [(m, a) for m, a in EXACT_CELLS if a in ("3d", "orthoslice", "2d y")]  # planes across z and x are as across y
AXES = [(m, a, axis) for m, a in TRIED for axis in range(3) if ACROSS[a] != [axis]]
LATTICE_AXES = [cell for cell in AXES if "exact" not in cell[0]]  # which knows where in the volume a layer is

every_cell = pytest.mark.parametrize(("mode", "assembly"), CELLS)
every_axis = pytest.mark.parametrize(("mode", "assembly", "axis"), AXES)
every_engine = pytest.mark.parametrize("engine", ENGINES)


def shape_of(mode, assembly, long=None):
    """Ragged, and 37 voxels of product along one axis that the network sees; thin across its planes."""
    long = max(axis for axis in range(3) if ACROSS[assembly] != [axis]) if long is None else long
    shape = [37 if axis == long else (9, 11, 13)[axis] for axis in range(3)]
    if mode.endswith("crop"):
        shape = [n + LOST for n in shape]
    return tuple(5 if ACROSS[assembly] == [axis] else n for axis, n in enumerate(shape))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, write_as, noise, network):
    """`inputs(mode, assembly, shape) -> (location, model, voxels)`."""

    @cache
    def stored(shape):
        voxels = noise(shape)
        return write_as("zarr3", voxels, tmp_path_factory.mktemp("volume")), voxels

    @cache
    def model(name, ndim):
        return network(NETWORKS[name](ndim))

    def give(mode, assembly, shape):
        source, voxels = stored(shape)
        return source, model(MODES[mode].network, 3 if assembly == "3d" else 2), voxels

    return give


@pytest.fixture(scope="module")
def make(tmp_path_factory, inputs):
    """`make(mode, assembly, engine, block, long) -> (attributes, voxels)`, serial unless there is a cluster."""

    def go(mode, assembly, engine="blocks", *, block=ON_TILES, long=None, audit=0, cluster=None):
        source, model, _ = inputs(mode, assembly, shape_of(mode, assembly, long))
        name, *axis = assembly.split()
        options = {"assembly": name, "tile": TILE, **MODES[mode].options} | ({"axis": axis[0]} if axis else {})
        if mode == "windows":
            del options["tile"]
        job = ApplyJob(
            input=source, output=str(tmp_path_factory.mktemp("made") / "out.ome.zarr"), model=model, block=block,
            precision="fp64", output_dtype="float64", pyramid=False, audit=audit, **options,
        )  # fmt: skip
        where = {"serial": True, "threads": 1} if cluster is None else {"cluster": cluster, "workers": 2}
        run(job, RunSettings(engine=engine, memory_per_worker="2GiB", retries=0, **where), progress=None)
        product = open_product(job.output)
        return product.attributes, product.read(Box.from_shape(product.layout.shape))

    return go


@pytest.fixture(scope="module")
def made(make):
    """`made(mode, assembly, engine, block, cluster)`: as `make`, audited, and no product is made twice."""

    @cache
    def go(mode, assembly, engine, block=ON_TILES, cluster=None):
        return make(mode, assembly, engine, block=block, audit=2 * (block == ON_TILES), cluster=cluster)

    return go


@pytest.fixture
def reference(inputs, whole):
    """`reference(mode, assembly, long)`: what the product of an exact mode should be."""

    def of(mode, assembly, long=None):
        _, model, voxels = inputs(mode, assembly, shape_of(mode, assembly, long))
        shape = voxels.shape
        if mode == "reflect":  # a mirror up to a length that the network takes
            more = [(LOST // 2, LOST // 2 + n % 2) if ACROSS[assembly] != [i] else (0, 0) for i, n in enumerate(shape)]
            voxels = np.pad(voxels, more, mode="reflect")
        values = [whole(model, voxels, across) for across in ACROSS[assembly]]
        return (sum(values) / len(values))[(slice(None), *(slice(n) for n in shape))]

    return of


@every_engine
@every_cell
def test_the_product_is_its_reference_or_says_why_not(made, reference, error, mode, assembly, engine):
    attributes, voxels = made(mode, assembly, engine)
    reason = MODES[mode].inexact
    assert attributes["exact"] is not bool(reason)
    assert attributes["exact_reason"].startswith(reason)
    if mode != "windows":  # which has no reference
        assert (error(voxels, reference(mode, assembly)) < EXACT) is not bool(reason)
    else:
        assert voxels.std() > 0


@every_cell
def test_the_product_says_how_it_was_stitched(made, mode, assembly):
    said = made(mode, assembly, "blocks")[0]["stitching"]
    names = {"padded": "overlap", "unpadded": "valid", "windowed": "windows"}
    asked = {"mode": names[MODES[mode].network]} | MODES[mode].options | {"assembly": assembly.split()[0]}
    asked["mode"] = asked.pop("stitching", asked["mode"])
    assert said.items() >= asked.items()
    assert said["axis"] == (assembly.split()[1] if assembly.startswith("2d") else None)


@every_cell
def test_the_engines_make_the_same_product(made, mode, assembly):
    """To the bit: blocks of whole tiles have the same tiles in each; blended ones are summed in another order."""
    (_, one), (_, two) = (made(mode, assembly, engine) for engine in ENGINES)
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-13 if "blend" in MODES[mode].options else 0)


@pytest.mark.parametrize(
    ("mode", "assembly", "engine"),
    [(m, a, e) for m, a in CELLS for e in ENGINES if e == "blocks" or m not in ("linear", "hann")],  # as gaussian
)
def test_the_blocks_change_nothing(made, error, mode, assembly, engine):
    """To the bit where a tile that a block cuts is computed whole."""
    (_, one), (_, two) = made(mode, assembly, engine), made(mode, assembly, engine, block=OFF_TILES)
    assert error(two, one) < EXACT
    if mode in ("tile", "windows"):
        np.testing.assert_array_equal(two, one)


@pytest.fixture(scope="module")
def two_workers():
    """The address of a scheduler that has them."""
    with LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="2GiB", dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize(
    ("mode", "assembly", "engine"),
    [*(("overlap", "orthoslice", engine) for engine in ENGINES), ("windows", "3d", "blocks")],
)
def test_two_workers_change_nothing(made, two_workers, mode, assembly, engine):
    """To the bit, in a mean of three, where the order of summation counts."""
    (_, one), (_, two) = made(mode, assembly, engine), made(mode, assembly, engine, cluster=two_workers)
    np.testing.assert_array_equal(two, one)


def test_two_workers_find_the_statistics_of_one(make, inputs, reference, error, two_workers, monkeypatch):
    monkeypatch.setitem(MODES, "norm", Mode("normed", {"norm": "exact"}))
    attributes, voxels = make("norm", "3d", audit=2, cluster=two_workers)
    assert attributes["exact"] is True
    assert error(voxels, reference("norm", "3d")) < EXACT


@pytest.mark.parametrize("side", ["need_before", "need_after"])
@every_axis
def test_one_period_less_of_halo_fails(make, reference, error, monkeypatch, mode, assembly, axis, side):
    """A padded network gives other values; one without padding gives too few, or a layer finds too few, and the run
    fails."""
    right = Fit._footprint

    def short(fit):
        axes = list(right(fit).axes)
        axes[axis] = replace(axes[axis], **{side: getattr(axes[axis], side) - axes[axis].period})
        return Footprint(tuple(axes))

    monkeypatch.setattr(Fit, "_footprint", short)
    if mode == "overlap":
        _, voxels = make(mode, assembly, long=axis)
        assert error(voxels, reference(mode, assembly, axis)) > SHOWS
    else:
        with pytest.raises(VolpipeError, match="and its footprint says" if "exact" in mode else "could not broadcast"):
            make(mode, assembly, long=axis)


@pytest.mark.parametrize(("mode", "assembly", "axis"), LATTICE_AXES)
def test_a_read_off_the_lattice_fails(make, reference, error, monkeypatch, mode, assembly, axis):
    """Reads that start one voxel beside it, with more context than is needed."""
    kind = Overlap if mode == "overlap" else Valid
    right = kind.alone

    def shifted(self, own, volume, footprint):
        tile = right(self, own, volume, footprint)
        start, stop = list(tile.read.start), list(tile.read.stop)
        if len(volume) == 3 and start[axis] > 0 and stop[axis] < volume[axis]:  # prices are found axis by axis
            start[axis], stop[axis] = start[axis] - 1, stop[axis] + 1
        return replace(tile, read=Box(tuple(start), tuple(stop)))

    monkeypatch.setattr(kind, "alone", shifted)
    _, voxels = make(mode, assembly, long=axis)
    assert error(voxels, reference(mode, assembly, axis)) > SHOWS


@pytest.mark.parametrize("mode", ["crop", "exact crop", "reflect", "windows"])
def test_planes_that_do_not_meet_have_no_mean(make, mode):
    """The cells that the others leave out."""
    with pytest.raises(ModelError, match="planes across z, y and x do not meet; give --assembly 2d"):
        make(mode, "orthoslice")
