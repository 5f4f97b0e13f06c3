"""Arrays out of ONNX files, and files that are damaged."""

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.weights.reader import read_checkpoint
from tests.encoders.onnx_files import onnx

ARRAYS = {"a.weight": np.arange(600, dtype=np.float32).reshape(2, 300), "b": np.float32([0.5])}


def test_arrays_come_back(tmp_path):
    (tmp_path / "net.onnx").write_bytes(onnx(ARRAYS))
    found = read_checkpoint(tmp_path / "net.onnx")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("damage", [lambda b: b[:-10], lambda b: b[:100], lambda b: b[:2],
                                    lambda b: b"\xff" * 40, lambda b: onnx({}),
                                    lambda b: b.replace(b"\x08\x02", b"\x08\x03", 1)])
def test_damage_is_one_line(tmp_path, damage):
    (tmp_path / "net.onnx").write_bytes(damage(onnx(ARRAYS)))
    with pytest.raises(UserError, match="ONNX file.*net.onnx"):
        read_checkpoint(tmp_path / "net.onnx")
