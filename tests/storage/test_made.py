"""Files that are complete or not there, and records of what was made with which arguments."""

import errno

import pytest

from avjax.errors import DiskFull, UserError
from avjax.storage import atomic, made


def test_an_error_leaves_the_former_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    atomic.write(path, "old")
    for error, raised in ((KeyboardInterrupt(), KeyboardInterrupt),
                          (OSError(errno.ENOSPC, "No space left on device"), DiskFull)):
        with pytest.raises(raised), atomic.file(path, shared=True) as temporary:
            temporary.write_text("half")
            assert temporary.suffix == ".json" and temporary.name.startswith(".")
            raise error
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    atomic.write(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_the_first_record_is_everybodys(tmp_path):
    path = tmp_path / "parts.json"
    assert made.agree(path, {"parts": 2}) == {"parts": 2} == made.agree(path, {"parts": 3})
    assert list(tmp_path.iterdir()) == [path]


def test_arguments_that_differ_are_named(tmp_path):
    before, now = {"a": (1, 2), "weights": "/x/w.pt", "b": 1}, {"a": [1, 2], "weights": "/y/w.pt"}
    assert made.differing(before, now) == ["b", "weights"]
    assert made.differing(before, now, places=("weights",)) == ["b"]
    with pytest.raises(UserError, match="made otherwise; where: here; expected: b=1; found: "
                                        "b=None; hint: repeat those"):
        made.check(before, now, what="made otherwise", where="here", hint="repeat those",
                   names=["b"])
    made.check(before, before, what="", where="", hint="")
    made.write(tmp_path / "record", before)
    assert made.differing(made.read(tmp_path / "record"), before) == []
    assert made.read(tmp_path / "none") is None
    for damaged in ("{", "[]"):
        (tmp_path / "record").write_text(damaged)
        with pytest.raises(UserError, match="unreadable; where: .*record"):
            made.read(tmp_path / "record")
