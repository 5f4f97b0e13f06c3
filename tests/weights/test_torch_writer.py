"""PyTorch's zip format, written without it: what its own reader needs, and what ours gives back."""

import io
import pickletools
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from avjax.weights.torch_writer import ALIGNMENT, write_torch_zip
from avjax.weights.torch_zip import read_torch_zip

# What torch.load(weights_only=True) of 2.13 executes, of the opcodes that a writer of protocol 2
# may use.
OPCODES = {"PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "LONG1", "BINFLOAT",
           "BINUNICODE", "EMPTY_TUPLE", "TUPLE", "EMPTY_LIST", "APPENDS", "EMPTY_DICT", "SETITEMS",
           "GLOBAL", "BINPERSID", "REDUCE"}
SHARED = np.arange(6, dtype=np.float32).reshape(2, 3)
TREE = {
    "iteration": 500_000, "numbers": [0, -1, 127, 128, 255, -32_769, 1 << 40, 1e-9, True, False,
                                      None], "pair": (0.9, ()),
    "nothing": {}, "ü": "ü", "state": {
        "a": SHARED, "tied": SHARED, "turned": SHARED.T, "scalar": np.array(3.0),
        "empty": np.zeros((0, 3), np.int64), "half": np.ones(5, ml_dtypes.bfloat16),
        "big": np.arange(3, dtype=">i4"), "flags": np.array([True, False])}}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("writer") / "state.pt"
    write_torch_zip(path, TREE)
    return path


def test_our_reader_gives_everything_back(file):
    tree = read_torch_zip(str(file))
    assert {k: v for k, v in tree.items() if k != "state"} == {k: v for k, v in TREE.items() if k
                                                               != "state"}
    assert [type(x) for x in tree["numbers"]] == [type(x) for x in TREE["numbers"]]
    assert tree["state"].keys() == TREE["state"].keys()
    for name, value in TREE["state"].items():
        got = tree["state"][name]
        assert got.dtype == value.dtype.newbyteorder("=") and got.shape == value.shape, name
        np.testing.assert_array_equal(got, value, err_msg=name)


def test_the_file_is_what_torch_reads(file):
    with zipfile.ZipFile(file) as archive, open(file, "rb") as raw:
        assert archive.testzip() is None
        members = {info.filename: info for info in archive.infolist()}
        assert {"archive/data.pkl", "archive/byteorder", "archive/version"} < members.keys()
        assert archive.read("archive/byteorder") == b"little" and archive.read(
            "archive/version") == b"3\n"
        for info in members.values():
            raw.seek(info.header_offset + 26)
            start = info.header_offset + 30 + sum(struct.unpack("<HH", raw.read(4)))
            assert start % ALIGNMENT == 0 and info.compress_type == zipfile.ZIP_STORED
        program = archive.read("archive/data.pkl")
    assert {opcode.name for opcode, *_ in pickletools.genops(program)} <= OPCODES
    pickletools.dis(program, out=io.StringIO())  # checks the stack too
    # one array is there twice
    assert sum(name.startswith("archive/data/") for name in members) == len(TREE["state"]) - 1


def test_other_objects_are_refused(tmp_path):
    with pytest.raises(TypeError, match="object cannot be in a torch checkpoint"):
        write_torch_zip(tmp_path / "x.pt", {"a": object()})
    with pytest.raises(TypeError, match="array of <U1 cannot"):
        write_torch_zip(tmp_path / "x.pt", {"a": np.array(["x"])})
    assert not list(tmp_path.iterdir())
