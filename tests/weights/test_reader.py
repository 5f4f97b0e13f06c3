"""Checkpoints are read exactly, and never executed. `fixtures/*.pt` were written by torch.save of
torch 2.13."""

import os
import pathlib
import pickle

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from avjax.errors import UserError
from avjax.weights.fold import fold_weight_norm
from avjax.weights.reader import file_sha256, flatten, read_checkpoint, read_state_dict
from tests.weights.torch_zips import Call, Global, Pickler, dumps, tensor, zip_pickle

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
BASE = np.arange(24, dtype=np.float32)


def test_every_dtype_layout_and_container():
    tree = read_checkpoint(FIXTURES / "everything.pt")
    expected = {
        "bf16": np.array([1.5, -2.25], ml_dtypes.bfloat16), "f16": np.array([0.5], np.float16),
        "f64": np.array(3.25), "i64": np.array([[-1, 2]]), "i8": np.array([-3], np.int8),
        "u8": np.array([200], np.uint8), "u16": np.array([60000], np.uint16),
        "bool": np.array([True, False]), "c64": np.array([1 + 2j], np.complex64),
        "f8": np.array([0.5, 2.0], ml_dtypes.float8_e4m3fn),
        "param": np.arange(6, dtype=np.float32).reshape(2, 3), "shared": BASE,
        "transposed": BASE.reshape(4, 6).T, "window": BASE.reshape(4, 6)[1:3, 2:5],
        "expanded": np.full((2, 3), 9, np.float32), "empty": np.zeros((0, 4), np.float32),
        "numpy": np.arange(6, dtype=np.int16).reshape(2, 3),
        "numpy_f": np.arange(6.0).reshape(2, 3), "numpy_big": np.arange(3, dtype=">f4"),
        "scalar": np.float64(2.5)}
    for name, value in expected.items():
        assert tree[name].dtype == value.dtype and tree[name].shape == value.shape, name
        np.testing.assert_array_equal(tree[name], value, err_msg=name)
    assert tree["iteration"] == 5
    assert tree["size"] == (1, 2)
    assert tree["set"] == {1, 2}
    assert tree["dtype"] == "float16"
    assert tree["nested"][1] == (2.5, "text", None)
    np.testing.assert_array_equal(tree["nested"][2]["a"], [1, 1])


def test_a_bare_tensor_is_an_array():
    array = read_checkpoint(FIXTURES / "bare.pt")
    np.testing.assert_array_equal(array, np.arange(6, dtype=np.float16).reshape(2, 3))
    assert flatten(array).keys() == {"(bare array)"}


def test_state_dict_is_found_where_scripts_put_it(tmp_path):
    state = read_state_dict(FIXTURES / "everything.pt")
    np.testing.assert_array_equal(state["bias"], [7, 8])
    assert read_state_dict(FIXTURES / "everything.pt", "model_state_dict").keys() == state.keys()
    with pytest.raises(UserError, match="'ema'.*found: iteration: int, model_state_dict: dict"):
        read_state_dict(FIXTURES / "everything.pt", "ema.model")
    with pytest.raises(UserError, match="found no weights.*bare ndarray"):
        read_state_dict(FIXTURES / "bare.pt")
    np.savez(tmp_path / "parallel.npz", **{"module.a.weight": BASE, "module.b": BASE})
    assert read_state_dict(tmp_path / "parallel.npz").keys() == {"a.weight", "b"}


def test_hand_made_zip_and_big_endian(tmp_path):
    pickled = dumps({"w": tensor((4, 6), (6, 1))})
    little = read_checkpoint(zip_pickle(tmp_path / "little.pt", pickled, {"0": BASE.tobytes()}))
    big = read_checkpoint(zip_pickle(tmp_path / "big.ckpt", pickled,
                                     {"0": BASE.astype(">f4").tobytes()},
                                     byteorder=b"big"))
    np.testing.assert_array_equal(little["w"], BASE.reshape(4, 6))
    np.testing.assert_array_equal(big["w"], BASE.reshape(4, 6))


@pytest.mark.parametrize(("module", "name", "args"), [
    ("os", "system", ("touch {}",)), ("posix", "system", ("touch {}",)),
    ("builtins", "eval", ("open('{}', 'w')",)), ("subprocess", "call", (["touch", "{}"],)),
    ("argparse", "Namespace", ()), ("numpy", "load", ("{}",)),
    ("torch._utils", "_rebuild_tensor_v2.__globals__", ())])
def test_foreign_globals_are_refused_by_name_and_not_executed(tmp_path, module, name, args):
    bait = tmp_path / "executed"
    args = [a.format(bait) if isinstance(a, str) else [part.format(bait) for part in a]
            for a in args]
    path = zip_pickle(tmp_path / "bad.pt", dumps({"weight": Call(Global(module, name), *args)}))
    with pytest.raises(UserError,
                       match=f"not executed.*found: {module}.{name}.*hint: .*safetensors"):
        read_checkpoint(path)
    assert not bait.exists()


@pytest.mark.parametrize("value", [
    tensor((5, 6), (6, 1)),  # longer than its storage
    tensor((4, 6), (6, 1), offset=1), tensor((2,), (-1,)), tensor((2**40, 2**40), (2**40, 1)),
    tensor((2,), (1, 1)),
    Call(Global("numpy", "dtype"), "O"),  # objects would be pickles in the pickle
    Call(Global("numpy", "ndarray"), (2, 2)),
    Call(Global("torch._tensor", "_rebuild_from_type_v2"), print, None, (), None),
    # an allowed global may not stay behind as a value
    Global("torch._utils", "_rebuild_tensor_v2"),
    ("persistent", "storage", Global("torch", "QInt8Storage"), "0", "cpu", 1)])
def test_malformed_or_hostile_plain_data_is_one_clear_error(tmp_path, value):
    path = zip_pickle(tmp_path / "bad.pt", dumps([value]), {"0": BASE.tobytes()})
    with pytest.raises(UserError, match="hint"):
        read_checkpoint(path)


def test_a_pickle_cannot_change_what_later_files_mean(tmp_path):
    """BUILD on an allowed global would, on a plain function or class, set its attributes."""
    state = (None, {"_function": Global("collections", "OrderedDict")})

    class Build:
        def __init__(self, target):
            self.target = target

    Pickler.dispatch[Build] = lambda p, v: (p.save(v.target), p.save(state), p.write(pickle.BUILD))
    path = zip_pickle(tmp_path / "bad.pt",
                      dumps([Build(Global("torch._utils", "_rebuild_tensor_v2"))]))
    with pytest.raises(UserError, match="state given to"):
        read_checkpoint(path)
    assert read_checkpoint(FIXTURES / "bare.pt").shape == (2, 3)


def test_damaged_files(tmp_path):
    whole = (FIXTURES / "everything.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"truncated or corrupt.*cut\.pt.*hint: fetch"):
        read_checkpoint(tmp_path / "cut.pt")
    moved = zip_pickle(tmp_path / "moved.pt", dumps({}))
    content = moved.read_bytes()
    start = content.rindex(b"PK\5\6") + 16  # where the directory is said to begin
    moved.write_bytes(content[:start] + b"\xff\xff\xff\x7f" + content[start + 4:])
    with pytest.raises(UserError, match="truncated or corrupt"):
        read_checkpoint(moved)
    at = whole.index(BASE.tobytes())
    (tmp_path / "flipped.pt").write_bytes(whole[:at] + b"\xff" + whole[at + 1:])
    with pytest.raises(UserError, match="corrupt.*CRC"):
        read_checkpoint(tmp_path / "flipped.pt")
    legacy = (FIXTURES / "legacy.pt").read_bytes()
    for size in range(70, len(legacy), 7):
        (tmp_path / "cut.pt").write_bytes(legacy[:size])
        with pytest.raises(UserError, match=r"not (understood|a PyTorch)"):
            read_checkpoint(tmp_path / "cut.pt")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(UserError, match="not a PyTorch checkpoint.*<html>"):
        read_checkpoint(tmp_path / "page.pth")
    with pytest.raises(UserError, match="no such weights file.*nothing"):
        read_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(UserError, match="unknown kind.*found: .h5"):
        read_checkpoint(_touch(tmp_path / "weights.h5"))
    zip_pickle(tmp_path / "script.pt", dumps({}), None,
               **{"constants.pkl": b"", "code/model.py": b"pass"})
    with pytest.raises(UserError, match="TorchScript"):
        read_checkpoint(tmp_path / "script.pt")


def test_safetensors_and_npz(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float16).reshape(2, 3),
              "b": np.array([1.5, 3], ml_dtypes.bfloat16)}
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file(arrays, path)
    for name, value in read_state_dict(path).items():
        assert value.dtype == arrays[name].dtype
        np.testing.assert_array_equal(value, arrays[name])
    assert len(file_sha256(path)) == 64
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="truncated or corrupt"):
        read_checkpoint(path)
    np.savez(tmp_path / "objects.npz", a=np.array([{"code": 1}], dtype=object))
    with pytest.raises(UserError, match="corrupt.*allow_pickle"):
        read_checkpoint(tmp_path / "objects.npz")


@pytest.mark.parametrize("names", [("weight_g", "weight_v"),
                                   ("parametrizations.weight.original0",
                                    "parametrizations.weight.original1")])
@pytest.mark.parametrize("g_shape", [(4, 1, 1), (1, 1, 5)])
def test_weight_norm_folds(names, g_shape):
    rng = np.random.default_rng(0)
    g, v = rng.normal(size=g_shape).astype(np.float32), rng.normal(size=(4, 3,
                                                                         5)).astype(np.float32)
    folded = fold_weight_norm({f"x.conv.{names[0]}": g, f"x.conv.{names[1]}": v,
                               "x.conv.bias": BASE})
    assert folded.keys() == {"x.conv.weight", "x.conv.bias"}
    axis = tuple(i for i, n in enumerate(g_shape) if n == 1)
    np.testing.assert_allclose(np.sqrt((folded["x.conv.weight"] ** 2).sum(axis)),
                               np.abs(g).squeeze(), rtol=1e-5)
    np.testing.assert_allclose(folded["x.conv.weight"] / v
                               * np.sqrt((v**2).sum(axis, keepdims=True)),
                               np.broadcast_to(g, v.shape), rtol=1e-4)
    with pytest.raises(UserError, match="incomplete"):
        fold_weight_norm({f"x.conv.{names[0]}": g})


def _touch(path):
    path.write_bytes(os.urandom(64))
    return path
