"""What a workdir keeps is read whole or told to be damaged."""

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.storage import records


def test_what_was_written_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, "é"]}', encoding="utf-8")
    np.savez(tmp_path / "a.npz", a=np.arange(3))
    assert records.read_json(tmp_path / "a.json") == {"a": [1, "é"]}
    np.testing.assert_array_equal(records.read_arrays(tmp_path / "a.npz")["a"], [0, 1, 2])


@pytest.mark.parametrize("content", [b"", b"{\"a", b"\xff\xfe", b"PK\x03\x04 and no more"])
def test_what_is_damaged_is_told(tmp_path, content):
    for name, read in (("a.json", records.read_json), ("a.npz", records.read_arrays)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"damaged file of a work folder.*{name}.*copy"):
            read(tmp_path / name)


def test_arrays_that_were_cut_are_told(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(300), b=np.arange(300))
    whole = (tmp_path / "a.npz").read_bytes()
    for end in (len(whole) // 2, len(whole) - 30):
        (tmp_path / "a.npz").write_bytes(whole[:end])
        with pytest.raises(UserError, match="damaged file"):
            records.read_arrays(tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", np.arange(3))
    (tmp_path / "b.npy").rename(tmp_path / "a.npz")
    with pytest.raises(UserError, match="damaged file"):
        records.read_arrays(tmp_path / "a.npz")
