"""The slabs file: what it says, and one line for each thing that is wrong with it."""

import pytest
import yaml

from volpipe.errors import ConfigError
from volpipe.jobs.slabs import load_slabs

FULL = {"slabs": ["a.zarr", {"volume": "b.h5:/raw", "layers": [3, 70]}, {"layers": 75}, "s3://bucket/c.zarr"]}


@pytest.fixture
def load(tmp_path):
    def go(content):
        path = tmp_path / "slabs.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return load_slabs(path)

    return go


def test_places_are_those_from_the_files_folder(load, tmp_path):
    slabs = load(FULL | {"gap_layers": [1, 2, 3]})
    places = [str(tmp_path / "a.zarr"), str(tmp_path / "b.h5:/raw"), None, "s3://bucket/c.zarr"]
    assert [entry.volume for entry in slabs.entries] == places
    assert [entry.layers for entry in slabs.entries] == [None, (3, 70), (75,), None]
    assert [entry.run for entry in slabs.entries] == [None, (3, 70), (0, 75), None]
    assert slabs.gaps == (1, 2, 3)
    assert load(FULL | {"gap_layers": 2}).gaps == (2, 2, 2)


def test_what_lies_between_two_cuts_is_lost_unless_it_is_said_otherwise(load, tmp_path):
    cuts = {"volume": "brain.zarr", "cuts": [[0, 75], [77, 150], [150, 200]]}
    slabs = load(cuts)
    assert [(entry.volume, entry.layers) for entry in slabs.entries] == [
        (str(tmp_path / "brain.zarr"), cut) for cut in ((0, 75), (77, 150), (150, 200))
    ]
    assert slabs.gaps == (2, 0)
    assert load(cuts | {"gap_layers": 5}).gaps == (5, 5)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("slabs: [", "slabs.yaml: is not YAML: "),
        ("3", "slabs.yaml: holds no fields"),
        ({"gap_layers": 1}, "give slabs, or one volume with its cuts"),
        ({"volume": "a.zarr", "gap_layers": 1}, "give slabs, or one volume with its cuts"),
        (FULL | {"volume": "a.zarr", "cuts": [[0, 1], [2, 3]]}, "give slabs, or one volume with its cuts"),
        (FULL, "gap_layers: missing; give how many layers were lost"),
        (FULL | {"gap_layers": [1, 2]}, "gap_layers: 2 given for 3 seams"),
        (FULL | {"gap_layers": -1}, "gap_layers.0: must be greater"),
        (FULL | {"gap_layers": 1, "shift": 2}, "shift: no such setting"),
        ({"slabs": ["a.zarr", {"layers": 3}], "gap_layers": 1}, "give two at least that are not missing"),
        ({"slabs": [{"layers": 3}, "a.zarr", "b.zarr"], "gap_layers": 1}, "the first is missing"),
        ({"slabs": ["a.zarr", None], "gap_layers": 1}, r"slabs.1: must be a mapping \(given: None\)"),
        ({"slabs": None, "gap_layers": 1}, r"slabs: must be a list \(given: None\)"),
        (FULL | {"gap_layers": 1, "voxel_size_um": [1, 2, 3, 4]}, "voxel_size_um: give 3 values at most "),
        (FULL | {"gap_layers": 1, "voxel_size_um": [1, 2]}, "voxel_size_um.2: missing; give it"),
        ({"slabs": ["a.zarr", {"volume": None}], "gap_layers": 1}, "slabs.1: a missing slab: give how many layers"),
        ({"slabs": ["a.zarr", {"volume": "b", "layers": 5}], "gap_layers": 1}, r"slabs.1: layers \[5\]: .*stop\]"),
        ({"slabs": ["a.zarr", {"volume": "b", "layers": [5, 5]}], "gap_layers": 1}, "with first below stop"),
        ({"volume": "a.zarr", "cuts": [[0, 5], [4, 8]]}, "cuts: give them from above, none over another"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(load, content, said):
    with pytest.raises(ConfigError, match=said) as refusal:
        load(content)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read"):
        load_slabs(tmp_path / "none.yaml")
