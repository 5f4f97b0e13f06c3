"""Number formats and pickles that real files hold. The fixtures were written by torch 2.13 and
safetensors 0.8."""

import os
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from avjax.errors import UserError
from avjax.weights.plain_pickle import fields
from avjax.weights.reader import read_checkpoint, read_state_dict
from avjax.weights.torch_zip import WAY_OUT
from tests.weights.torch_zips import Call, Global, dumps, tensor, zip_pickle

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
RECORDS = np.array([(1, 2.5, (3, 4)), (5, 6.5, (7, 8))],
                   [("a", "<i4"), ("b", "<f4"), ("c", ">i2", (2,))])
FORMATS = {
    "float8_e4m3fn": np.array([0.5, -2, 4], ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.array([0.5, -2, 4], ml_dtypes.float8_e5m2),
    "float8_e4m3fnuz": np.array([0.5, -2, 4], ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2fnuz": np.array([0.5, -2, 4], ml_dtypes.float8_e5m2fnuz),
    "float8_e8m0fnu": np.array([0.5, 2, 4], ml_dtypes.float8_e8m0fnu),
    "float4": np.array([[0.5, 1, 1.5, 2], [6, -6, -1, -0.0]], ml_dtypes.float4_e2m1fn),
    "uint16": np.array([0, 1, 3], np.uint16), "uint32": np.array([0, 1, 3], np.uint32),
    "uint64": np.array([0, 1, 3], np.uint64), "complex64": np.array([0, 1, 3], np.complex64),
    "bfloat16": np.array([0, 1, 3], ml_dtypes.bfloat16), "bool": np.array([False, True, True]),
    "zero_d": np.array(3, ml_dtypes.float8_e5m2),
    "empty": np.zeros((2, 0), ml_dtypes.float8_e4m3fn)}


def check(found, expected, name=""):
    assert found.dtype == expected.dtype and found.shape == expected.shape, name
    np.testing.assert_array_equal(found, expected, err_msg=name)


def test_every_format_of_safetensors_and_its_listing():
    from launch.jobs.weights import describe

    arrays = read_state_dict(FIXTURES / "formats.safetensors")
    assert arrays.keys() == FORMATS.keys()
    for name, expected in FORMATS.items():
        check(arrays[name], expected, name)
    lines = describe(str(FIXTURES / "formats.safetensors")).splitlines()
    assert ["float8_e4m3fn", "(3,)", "float8_e4m3fn", "3"] in [line.split() for line in lines]
    assert lines[-2].startswith("14 arrays, 42 numbers")


def test_formats_and_put_off_arithmetic_of_a_torch_file_without_crcs():
    """Written under torch.serialization.set_crc32_options(False)."""
    arrays = read_checkpoint(FIXTURES / "formats_without_crcs.pt")
    more = {"conj": np.array([1 - 2j, 3 + 1j], np.complex64), "neg": np.array([-1, -2], np.float32),
            "imag": np.array([-2, 1], np.float32),
            "view": np.array([[6, 12], [8, 14], [10, 16]], ml_dtypes.float8_e4m3fn),
            "float4_view": np.array([[0.5, 0, 1, 0], [3, 0, 4, 0]], ml_dtypes.float4_e2m1fn)}
    for name, expected in (FORMATS | more).items():
        check(arrays[name], expected, name)


def test_one_absent_crc_among_others_is_corruption(tmp_path):
    path = zip_pickle(tmp_path / "w.pt", dumps({"w": tensor((2,), (1,))}),
                      {"0": struct.pack("<2f", 1, 2)})
    with zipfile.ZipFile(path) as archive:
        crc = struct.pack("<I", archive.getinfo("archive/data/0").CRC)
    whole = path.read_bytes()
    # in the directory
    path.write_bytes(whole[:whole.rindex(crc)] + bytes(4) + whole[whole.rindex(crc) + 4:])
    with pytest.raises(UserError, match="corrupt.*data/0.*expected: CRC 00000000"):
        read_checkpoint(path)


@pytest.mark.parametrize("protocol", [2, 5])
def test_numpy_and_python_values_of_both_protocols(protocol):
    tree = read_checkpoint(FIXTURES / f"protocol{protocol}.pt")
    six = np.arange(6.0).reshape(2, 3)
    aligned = np.ones(2, np.dtype([("a", "u1"), ("b", "f8")], align=True))
    arrays = {"tensor": six.astype(np.float32), "array": six.astype(np.int16), "fortran": six.T,
              "strided": six[:, ::2], "empty": np.zeros((0, 3), np.float32),
              "big": np.arange(3, dtype=">f4"), "bf16": np.array([1.5, -2], ml_dtypes.bfloat16),
              "records": RECORDS, "recarray": RECORDS, "record": RECORDS[1], "aligned": aligned,
              "dates": np.array(["2020-01-31"], "M8[D]"), "times": np.array([5], "m8[25us]"),
              "matrix": np.array([[1, 2]]), "text": np.array(["é", "xx"]),
              "scalar": np.float32(2.5), 7: np.ones(1, np.float32)}
    for name, expected in arrays.items():
        check(tree[name], expected, name)
    rest = {"bytes": b"ab", "no_bytes": b"", "bytearray": bytearray(b"xy"),
            "dtype": str(RECORDS.dtype), "counter": {"a": 2, "b": 1}, "defaultdict": {1: [2]},
            "float16": "key"}
    assert {name: tree[name] for name in tree if name not in arrays} == rest


def test_big_endian_bfloat16(tmp_path):
    pickled = dumps({"w": tensor((2,), (1,), storage="BFloat16Storage")})
    path = zip_pickle(tmp_path / "w.pt", pickled, {"0": b"\x3f\xc0\xc0\x00"}, byteorder=b"big")
    check(read_checkpoint(path)["w"], np.array([1.5, -2], ml_dtypes.bfloat16))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts the process's open files")
def test_a_checkpoint_of_many_storages_holds_one_file_open(tmp_path):
    keys = [str(i) for i in range(40)]
    pickled = dumps({key: tensor((2,), (1,), key=key) for key in keys})
    path = zip_pickle(tmp_path / "w.pt", pickled,
                      {key: struct.pack("<2f", int(key), 1) for key in keys})
    before = len(os.listdir("/proc/self/fd"))
    tree = read_checkpoint(path)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    check(tree["39"], np.array([39, 1], np.float32))


@pytest.mark.parametrize(("module", "name", "kind", "hint"), [
    ("torch._utils", "_rebuild_sparse_tensor", "a sparse tensor", "to_dense"),
    ("torch._utils", "_rebuild_qtensor", "a quantised tensor", "dequantize"),
    ("torch._utils", "_rebuild_nested_tensor", "a nested tensor", "to_padded_tensor"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage", "a meta tensor", "no numbers"),
    ("torch._utils", "_rebuild_wrapper_subclass", "a wrapped tensor", "full_tensor"),
    ("torch", "complex32", "a complex32 tensor", "complex64"),
    ("torch.nn.modules.container", "Sequential", "not plain data", "safetensors")])
def test_tensors_without_an_array_say_what_to_do(tmp_path, module, name, kind, hint):
    path = zip_pickle(tmp_path / "w.pt", dumps({"w": Call(Global(module, name))}))
    with pytest.raises(UserError, match=f"{kind}.*found: {module}.{name}; hint: .*{hint}"):
        read_checkpoint(path)


def before_1_6(tree, *, order="<", keys=("7",), version=1001, numbers=(1, 2)):
    """As torch wrote them, and fairseq still does: pickles, then storages."""
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    return b"".join([
        magic, pickle.dumps(version, 2),
        pickle.dumps({"protocol_version": version, "little_endian": order == "<"}, 2),
        dumps(tree), pickle.dumps(list(keys), 2), struct.pack(f"{order}q", len(numbers)),
        struct.pack(f"{order}{len(numbers)}f", *numbers)])


def legacy_tensor(view=None):
    return Call(Global("torch._utils", "_rebuild_tensor_v2"),
                ("persistent", "storage", Global("torch", "FloatStorage"), "7", "cpu", 2, view),
                0, (2,), (1,), False, Call(Global("collections", "OrderedDict")))


def test_files_from_before_torch_1_6(tmp_path):
    path = tmp_path / "old.pt"
    args = Call(Global("argparse", "Namespace"), state={"heads": 4})
    for order in "<>":
        path.write_bytes(before_1_6({"args": args, "model": {"w": legacy_tensor()}}, order=order))
        assert read_state_dict(path)["w"].tolist() == [1, 2]
        assert fields(read_checkpoint(path, foreign=True)["args"]) == {"heads": 4}
        with pytest.raises(UserError, match="not executed.*argparse.Namespace"):
            read_checkpoint(path)
    bait = Call(Global("os", "system"), f"touch {tmp_path / 'bait'}")
    for wrong, words in ((dict(version=7), "version 7 of the format"),
                         (dict(keys=()), "not understood"), (dict(keys=("8",)), "'8'"),
                         (dict(numbers=(1,)), "not understood")):
        path.write_bytes(before_1_6({"w": legacy_tensor()}, **wrong))
        with pytest.raises(UserError, match=words):
            read_checkpoint(path)
    path.write_bytes(before_1_6({"w": legacy_tensor(("v", 0, 1))}))
    with pytest.raises(UserError, match="a part of another"):
        read_checkpoint(path)
    path.write_bytes(before_1_6({"x": bait, "model": {"w": legacy_tensor()}}))
    assert read_state_dict(path)["w"].tolist() == [1, 2] and not (tmp_path / "bait").exists()
    assert read_checkpoint(FIXTURES / "legacy.pt")  # written by PyTorch
    published = tmp_path / "syncnet_v2.model"  # the name does not matter
    published.write_bytes((FIXTURES / "legacy.pt").read_bytes())
    assert read_checkpoint(published).keys() == read_checkpoint(FIXTURES / "legacy.pt").keys()
    (tmp_path / "tar.pt").write_bytes(bytes(257) + b"ustar\x0000" + bytes(300))
    with pytest.raises(UserError, match="before version 0.4.*found: a tar"):
        read_checkpoint(tmp_path / "tar.pt")


DTYPE = Call(Global("numpy", "dtype"), "f4")
FROMBUFFER = Global("numpy._core.numeric", "_frombuffer")


@pytest.mark.parametrize("value", [
    Call(FROMBUFFER, b"12345678", Call(Global("numpy", "dtype"), "O"), (1,), "C"),
    Call(FROMBUFFER, b"12345678", DTYPE, (3,), "C"),
    Call(FROMBUFFER, 2**40, DTYPE, (3,), "C"),
    Call(Global("numpy", "dtype"), "V8", state=(  # objects hidden in a record
        3, "|", None, ("a",), {"a": (Call(Global("numpy", "dtype"), "O8"), 0)}, 8, 1, 16)),
    Call(Global("numpy", "dtype"), ["f4"]),
    Call(Global("builtins", "bytes"), 2**40),
    Call(Global("builtins", "bytearray"), 2**40),
    Call(Global("builtins", "dict"), ()),
    {Global("torch", "Size"): 1}], ids=range(9))
def test_hostile_data_through_the_newer_globals(tmp_path, value):
    path = zip_pickle(tmp_path / "bad.pt", dumps([value]))
    with pytest.raises(UserError, match=f"not executed.*hint: {WAY_OUT[:20]}"):
        read_checkpoint(path)


def test_numbers_that_would_be_misread_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    f8 = np.ones(2, ml_dtypes.float8_e4m3fn)
    header = (b'{"a.weight":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},'
              b'"a.weight_scale_inv":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}')
    path.write_bytes(struct.pack("<Q", len(header)) + header + f8.tobytes() + bytes(4))
    with pytest.raises(UserError, match="quantised.*a.weight.*float8_e4m3fn with its scales in "
                                        "a.weight_scale_inv"):
        read_state_dict(path)
    header = header.replace(b"F8_E4M3", b"F6_E2M3").replace(b"[2]",
                                                            b"[8]").replace(b"[0,2]", b"[0,6]")
    header = header.replace(b"[2,6]", b"[6,10]")
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(10))
    with pytest.raises(UserError, match="number format.*a.weight.*found: F6_E2M3"):
        read_state_dict(path)
    # numpy writes it as |V2
    np.savez(tmp_path / "w.npz", a=np.ones(2), b=np.ones(2, ml_dtypes.bfloat16))
    with pytest.raises(UserError, match=r"plain numbers.*w.npz, b; .*found: \|V2"):
        read_state_dict(tmp_path / "w.npz")


def test_wrappers_integer_keys_and_parts_of_real_layouts(tmp_path):
    a = tensor((4, 6), (6, 1))
    storage = {"0": np.arange(24, dtype=np.float32).tobytes()}
    for i, tree in enumerate([{"_orig_mod.a": a},
                              {"state_dict": {"n_averaged": a, "module._orig_mod.a": a}}]):
        path = zip_pickle(tmp_path / f"{i}.pt", dumps(tree), storage)
        check(read_state_dict(path)["a"], np.arange(24, dtype=np.float32).reshape(4, 6))
        assert len(read_state_dict(path)) == 1
    path = zip_pickle(tmp_path / "parts.pt",
                      dumps([{"ema": {0: a, 1: a}}, {"net.a": a, "net.b.c": a, "head.a": a}]),
                      storage)
    assert read_state_dict(path, "0.ema").keys() == {"0", "1"}
    assert read_state_dict(path, "1.net").keys() == {"a", "b.c"}
    assert read_state_dict(path, "1.net.b").keys() == {"c"}
    with pytest.raises(UserError, match="no such part.*key 'tail'"):
        read_state_dict(path, "1.tail")


def test_published_names_without_an_extension(tmp_path):
    path = zip_pickle(tmp_path / "g_05000000", dumps({"w": tensor((2,), (1,))}),
                      {"0": struct.pack("<2f", 1, 2)})
    assert read_state_dict(path)["w"].tolist() == [1, 2]
    safetensors.numpy.save_file({"w": np.ones(2)}, tmp_path / "w.bin")
    with pytest.raises(UserError, match="not a PyTorch checkpoint"):
        read_state_dict(tmp_path / "w.bin")
