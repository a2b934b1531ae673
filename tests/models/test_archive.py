"""No Python pickle is loaded and no code runs, whatever a model file holds."""

import io
import json
import pickle
import zipfile

import pytest
import torch
from torch import nn
from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

from volpipe.errors import ModelError
from volpipe.models import load_model, resolve_model
from volpipe.models.archive import UNREAD


class Bomb:
    """Unpickling it leaves a trace."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return (open, (self.trace, "w"))


@pytest.fixture
def trace(tmp_path):
    return tmp_path / "was_run"


@pytest.fixture
def exported(tmp_path):
    path = tmp_path / "net.pt2"
    dims = ({2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2), nn.Upsample(scale_factor=2.0)).eval()
    torch.export.save(torch.export.export(network, (torch.zeros(1, 1, 16, 16),), dynamic_shapes=dims), path)
    return path


def rewrite(path, changes):
    """The same archive with some records changed: name -> bytes, or function of the old bytes."""
    reader = PT2ArchiveReader(str(path))
    names = [name for name in reader.get_file_names() if not name.startswith((".data", "byteorder"))]
    records = {name: reader.read_bytes(name) for name in names}
    for name, change in changes.items():
        records[name] = change(records[name]) if callable(change) else change
    with PT2ArchiveWriter(str(path)) as writer:
        for name, content in records.items():
            writer.write_bytes(name, content)
    return str(path)


def dumped(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def in_json(old, new):
    def change(content):
        assert old in content.decode()
        return content.decode().replace(old, new).encode()

    return change


def edited(edit):
    def change(content):
        data = json.loads(content)
        edit(data)
        return json.dumps(data).encode()

    return change


MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def test_an_untouched_archive_is_loaded(exported):
    assert load_model(resolve_model(rewrite(exported, {}))).out_channels == 1


@pytest.mark.parametrize(
    "derive", [lambda dim: 2 * dim, lambda dim: dim + 2, lambda dim: 4 * dim - 8], ids=["2h", "h + 2", "4h - 8"]
)
def test_a_length_may_be_derived_from_another(tmp_path, derive):
    path = tmp_path / "net.pt2"
    h, w = torch.export.Dim("h", min=4), torch.export.Dim("w", min=4)
    shapes = ({2: derive(h), 3: derive(w)},)
    network = nn.Conv2d(1, 1, 3, padding=1).eval()
    torch.export.save(torch.export.export(network, (torch.zeros(1, 1, 24, 32),), dynamic_shapes=shapes), path)
    assert load_model(resolve_model(str(path))).out_channels == 1


def pickled_sample(trace):
    return {"data/sample_inputs/model.pt": dumped(((Bomb(trace),), {}))}


def pickled_weight(trace):
    use = in_json('"use_pickle": false', '"use_pickle": true')
    return {WEIGHTS: use, "data/weights/weight_0": dumped(Bomb(trace))}


def pickled_constant(trace):
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": None}
    config = json.dumps({"config": {"c": entry}}).encode()
    return {CONSTANTS: config, "data/constants/opaque_obj_0": pickle.dumps(Bomb(trace))}


def pickled_weights_of_old(trace):
    return {"data/weights/model.pt": dumped(Bomb(trace))}


def test_torchs_older_format_hidden_in_the_same_file_is_not_loaded(exported, trace):
    rewrite(exported, {"archive_version": b"9"})  # torch gives up here and turns to the older format
    with zipfile.ZipFile(exported, "a") as archive:
        archive.writestr("version", "8.9")
        archive.writestr("serialized_state_dict.pt", dumped(Bomb(trace)))
    with pytest.raises(ModelError, match=r"not a file of torch\.export"):
        load_model(resolve_model(str(exported), trust_code=True))
    assert not trace.exists()


@pytest.mark.parametrize("attack", [pickled_sample, pickled_weight, pickled_constant, pickled_weights_of_old])
@pytest.mark.parametrize("trust_code", [False, True])
def test_a_pickle_in_an_export_is_never_loaded(exported, trace, attack, trust_code):
    path = rewrite(exported, attack(trace))
    with pytest.raises(ModelError, match="Python pickle"):
        load_model(resolve_model(path, trust_code=trust_code))
    assert not trace.exists()


ANY_LENGTH = {"min_val": 2, "max_val": None}
NO_LENGTHS = ("eval('1')*2", "2*f(s0)", "s0.real", "2**s0", "s0*s1*s2", "2*s0 if s0 else 1", "", "2*s0 # s0")


def add_tensor(data, name):
    """A tensor of any name, with a size that is code."""
    tensors = data["graph_module"]["graph"]["tensor_values"]
    size = {"as_expr": {"expr_str": "eval('1')", "hint": {"as_int": 16}}}
    tensors[name] = {**tensors["conv2d"], "sizes": [size]}


@pytest.mark.parametrize(
    "change",
    [
        in_json("torch.ops.aten.conv2d.default", "torch.os.system"),
        in_json("torch.ops.aten.conv2d.default", "_operator.methodcaller"),
        edited(lambda data: data["guards_code"].append("__import__('os').getcwd()")),
        edited(lambda data: data["guards_code"].append("().__class__ == 1")),
        edited(lambda data: data["graph_module"]["graph"]["nodes"][0].update(name="x\nimport os")),
        edited(
            lambda data: data["graph_module"]["graph"]["tensor_values"]["conv2d"]["sizes"].__setitem__(
                2, {"as_expr": {"expr_str": "eval('1')", "hint": {"as_int": 16}}}
            )
        ),
        in_json("builtins.tuple", "collections.namedtuple"),
        *(edited(lambda data, name=name: data["range_constraints"].update({name: ANY_LENGTH})) for name in NO_LENGTHS),
        *(edited(lambda data, name=name: add_tensor(data, name)) for name in sorted(UNREAD)),
    ],
)
def test_code_in_an_export_is_refused_unless_trusted(exported, change):
    with pytest.raises(ModelError, match=r"more than torch's operators .*--trust-code"):
        load_model(resolve_model(rewrite(exported, {MODEL: change})))


def test_an_error_without_words_is_one_line(exported, monkeypatch):
    def wordless(path):
        raise RuntimeError

    monkeypatch.setattr("torch.export.pt2_archive.PT2ArchiveReader", wordless)
    with pytest.raises(ModelError, match=r"can be read \(RuntimeError at test_archive.py:\d+: raise RuntimeError\)"):
        load_model(resolve_model(str(exported)))


def test_a_pickled_state_dict_is_refused_with_the_way_to_convert_it(tmp_path, trace):
    for name, legacy in (("a.pt", False), ("b.pth", True)):
        torch.save(Bomb(trace), tmp_path / name, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ModelError, match=r"never loaded.*safetensors\.torch\.save_file"):
            resolve_model(str(tmp_path / name))
    assert not trace.exists()


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"nothing of the kind")
    (tmp_path / "net.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"not a file of torch\.export"):
        load_model(resolve_model(str(tmp_path / "net.pt2")))
    with pytest.raises(ModelError, match="no TorchScript"):
        resolve_model(str(tmp_path / "net.pt"))
