"""Folders and archives as people have them: pieces that are missing, hidden files, links."""

import tarfile
import zipfile

import pytest

from avjax.errors import UserError
from data_pipelines.media import archives, tar_tree


def zipped(path, names) -> bytes:
    with zipfile.ZipFile(path, "w") as out:
        for name in names:
            out.writestr(name, name * 100)
    return path.read_bytes()


@pytest.mark.parametrize("missing, number", [("aa", 1), ("ab", 2)])
def test_a_piece_that_is_missing_is_said(tmp_path, missing, number):
    content = zipped(tmp_path / "whole.zip", ["a", "b", "c"])
    third = len(content) // 3
    for k, name in enumerate(("aa", "ab", "ac")):
        if name != missing:
            part = content[k * third:] if k == 2 else content[k * third:(k + 1) * third]
            (tmp_path / f"x_part{name}").write_bytes(part)
    with pytest.raises(UserError, match=f"pieces of an archive.*missing: number {number}"):
        list(archives.walk(tmp_path))


def test_a_piece_that_is_no_archive_is_said(tmp_path):
    (tmp_path / "x_partaa").write_bytes(b"short")
    with pytest.raises(UserError, match="damaged archive.*1 pieces"):
        list(archives.walk(tmp_path))


def test_hidden_files_are_none_of_a_corpus(tmp_path):
    zipped(tmp_path / "z.zip", ["a/b.mp4", "__MACOSX/a/._b.mp4"])
    (tmp_path / "._z.zip").write_bytes(b"\0\5\26\7")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/c.mp4").touch()
    assert list(map(str, archives.walk(tmp_path))) == ["z.zip/a/b.mp4"]


def test_links(tmp_path):
    """One up is followed once; of one that leads nowhere the size is 0."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/up").symlink_to("..")
    (tmp_path / "a/gone.mp4").symlink_to("nowhere")
    [place] = archives.walk(tmp_path)
    assert (place.file, place.bytes(tmp_path)) == ("a/gone.mp4", 0)


def test_a_member_of_less_than_nothing(tmp_path):
    header = bytearray(tarfile.TarInfo("a.wav").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\0"  # its size, -512
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(bytes(header) + bytes(10240))
    with pytest.raises(tarfile.ReadError, match="ends inside a.wav"):
        list(tar_tree.plain(tmp_path / "x.tar", lambda name, why: None))
