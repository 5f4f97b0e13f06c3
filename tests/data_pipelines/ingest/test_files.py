"""Files in folders and archives, and arrays in them: read in place, never executed."""

import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from avjax.errors import UserError
from data_pipelines.ingest.common import arrays, logits, stereo
from data_pipelines.ingest.common.files import Files
from data_pipelines.store.dataset import Unusable
from tests.data_pipelines.ingest.code_trees import save, wav


def npy(array, **kw) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **kw)
    return stream.getvalue()


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """{name in the tree: array}, of which some are in a zip, some in a tar, some on disk."""
    root = tmp_path_factory.mktemp("packed")
    want = {f"sub/{k}.npy": np.arange(5.0) * i for i, k in enumerate("abcd")}
    (root / "sub").mkdir()
    with zipfile.ZipFile(root / "sub/one.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(want["sub/a.npy"]))
        archive.writestr("c.npy", npy(np.zeros(5)))  # the file on disk wins
        archive.writestr("../evil.npy", npy(np.zeros(5)))
    with tarfile.open(root / "sub/two.tar", "w") as archive:
        for name, data in (("b.npy", npy(want["sub/b.npy"])), ("/evil.npy", npy(np.zeros(5)))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    save(root / "sub/c.npy", want["sub/c.npy"])
    save(root / "sub/d.npy", want["sub/d.npy"])
    (root / "sub/note.md").write_text("not asked for")
    return root, want


def test_members_are_files_of_the_folder(packed):
    root, want = packed
    files = Files(root, (".npy",))
    assert list(files) == sorted(want)
    for name, array in want.items():
        np.testing.assert_array_equal(arrays.read(files, name, (None,)), array)
        with files.at(name) as path:
            np.testing.assert_array_equal(np.load(path), array)
        with files.open(name) as file:
            assert len(file.read()) == files.size(name)
    assert "two.tar" in files.where("sub/b.npy")
    with pytest.raises(Unusable, match="missing"):
        files.content("sub/e.npy")


@pytest.mark.parametrize(("name", "left"), [("one.zip", 300), ("two.tar", 600)])
def test_an_archive_cut_short_is_one_line(packed, tmp_path, name, left):
    data = (packed[0] / "sub" / name).read_bytes()
    (tmp_path / name).write_bytes(data[:left])
    with pytest.raises(UserError, match=f"damaged archive.*{name}"):
        Files(tmp_path, (".npy",))


def test_a_damaged_member_is_its_own_fault(packed, tmp_path):
    data = bytearray((packed[0] / "sub/one.zip").read_bytes())
    data[60] ^= 255  # inside the first member
    (tmp_path / "one.zip").write_bytes(data)
    files = Files(tmp_path, (".npy",))
    with pytest.raises(Unusable, match="damaged in its archive"):
        files.content("a.npy")
    assert files.content("c.npy").size


class Evil:
    def __reduce__(self):
        return os._exit, (1,)


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "not an array"),
    (b"PK\3\4" + bytes(60), "not an array"),
    (npy(np.zeros((4, 3)))[:-8], "an array is cut short"),
    (npy(np.zeros((4, 2))), "an array of another shape"),
    (npy(np.zeros((4, 3), complex)), "an array of another shape"),
    (npy(np.array([Evil()] * 3), allow_pickle=True), "an array of objects"),
    (pickle.dumps(Evil()), "not an array"),
    (npy(np.zeros((4, 3))).replace(b"(4, 3)", b"(10**9, 3)"), "not an array"),
])
def test_arrays_that_are_refused(tmp_path, data, reason):
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(Unusable) as error:
        arrays.read(Files(tmp_path, (".npy",)), "x.npy", (None, 3))
    assert error.value.reason == reason


def test_missing_frames_are_interpolated_and_held_at_the_ends():
    x = np.arange(8.0)[:, None, None] * np.ones((1, 2, 2))
    bad = np.array([1, 1, 0, 1, 1, 0, 0, 1], bool)
    out = arrays.filled(np.where(bad[:, None, None], np.nan, x), bad, "here", 1.0)
    np.testing.assert_allclose(out[:, 1, 0], [2, 2, 2, 3, 4, 5, 6, 6], atol=1e-6)
    with pytest.raises(Unusable, match="most frames are missing"):
        arrays.filled(x, bad, "here")
    with pytest.raises(Unusable, match="every frame is missing"):
        arrays.filled(x, np.ones(8, bool), "here", 1.0)


def test_two_voices_of_a_wav(tmp_path):
    x_NC = wav(tmp_path / "a.wav")
    sound, notes = stereo.read(Files(tmp_path, (".wav",)), "a.wav")
    assert notes == [] and sound.shape == (2, 45 * 735) and sound.dtype == np.int16
    for c in range(2):  # the same tone at 22050 Hz
        inside = slice(2000, -2000)
        times = np.arange(45 * 735) / 22050
        tone = np.interp(times, np.arange(len(x_NC)) / 48000, x_NC[:, c])
        np.testing.assert_allclose(sound[c, inside] / 32767, tone[inside], atol=2e-3)


@pytest.mark.parametrize(("change", "reason"), [
    (dict(channels=1), "not two channels"), (dict(rate=4000), "unknown sample rate")])
def test_wavs_that_are_refused(tmp_path, change, reason):
    wav(tmp_path / "a.wav", **change)
    with pytest.raises(Unusable) as error:
        stereo.read(Files(tmp_path, (".wav",)), "a.wav")
    assert error.value.reason == reason


@pytest.mark.parametrize(("spoil", "reason"), [
    (lambda data: b"", "unreadable sound"), (lambda data: data[:58], "truncated"),
    (lambda data: b"\0" * 200, "unreadable sound")])
def test_wavs_that_are_no_sound(tmp_path, spoil, reason):
    wav(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_bytes(spoil((tmp_path / "a.wav").read_bytes()))
    with pytest.raises(Unusable) as error:
        stereo.read(Files(tmp_path, (".wav",)), "a.wav")
    assert error.value.reason == reason


@pytest.mark.parametrize(("seconds", "total", "count", "index"), [
    (60.0, 90.0, 4499, 3000),  # within a chunk of 100 s
    (160.0, 250.0, 12497, 4999 + 3000),  # 4999 frames a chunk
    (160.0, 250.0, 12400, 7936),  # other tokens: evenly
    (250.0, 250.0, 12497, 12497)])
def test_tokens_are_cut_at_their_times(seconds, total, count, index):
    assert logits.index(seconds, count, total) == index
