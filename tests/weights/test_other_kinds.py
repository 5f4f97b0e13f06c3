"""Files that are no weights, whatever they are called: one line says what they are."""

import gzip
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from avjax.errors import UserError
from avjax.weights.reader import read_state_dict

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.npz", "w.ckpt", "w"])
@pytest.mark.parametrize(("content", "found"), [
    (POINTER, "found: a Git LFS pointer.*hint: git lfs pull"), (b"", "found: an empty file.*fetch"),
    (b"<!DOCTYPE html>\n<html>", "found: a web page.*download"),
    (b'{"error":"not found"}', "found: JSON text.*download"),
    (b"GGUF\3\0\0\0" + bytes(99), "found: a GGUF file"),
    (b"\x89HDF\r\n\x1a\n" + bytes(99), "found: an HDF5 file"),
    (gzip.compress(b"w"), "found: a gzip archive.*unpack")], ids=range(7))
def test_what_a_file_is_shows_in_its_first_bytes(tmp_path, name, content, found):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^not a .*{found}") as error:
        read_state_dict(tmp_path / name)
    assert "allow_pickle" not in str(error.value)


def test_names_that_say_another_format(tmp_path):
    safetensors.numpy.save_file({"w": np.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="not a PyTorch checkpoint.*a safetensors file.*rename"):
        read_state_dict(tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(UserError, match="corrupt.*without an array, e.g. archive/data.pkl"):
        read_state_dict(tmp_path / "w.npz")


def test_a_safetensors_whose_length_reads_like_text(tmp_path):
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(0x227b)
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header
                                             + struct.pack("<f", 3))
    assert read_state_dict(tmp_path / "w.safetensors")["w"].tolist() == [3]
