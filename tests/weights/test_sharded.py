"""Checkpoints of several files, as Hugging Face's libraries lay them out."""

import json
import shutil
import struct

import numpy as np
import pytest
import safetensors.numpy

from avjax.errors import UserError
from avjax.weights.reader import file_sha256, read_checkpoint, read_state_dict
from tests.weights.torch_zips import dumps, tensor, zip_pickle

NAMES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tmp_path):
    safetensors.numpy.save_file({"a": np.arange(3), "b": np.ones(2)}, tmp_path / NAMES[0])
    safetensors.numpy.save_file({"c": np.zeros(1)}, tmp_path / NAMES[1])
    write_index(tmp_path, {"a": NAMES[0], "b": NAMES[0], "c": NAMES[1]})
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def write_index(folder, weight_map, name="model.safetensors.index.json"):
    (folder
     / name).write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": weight_map}))


def test_the_index_and_its_folder_give_the_whole(folder):
    for path in (folder / "model.safetensors.index.json", folder, f"{folder}/"):
        arrays = read_state_dict(path)
        assert arrays.keys() == {"a", "b", "c"} and arrays["a"].tolist() == [0, 1, 2]
    assert file_sha256(folder) == file_sha256(folder / "model.safetensors.index.json")
    assert len(file_sha256(folder)) == 64 and file_sha256(folder) != file_sha256(folder / NAMES[0])
    (folder / "model.safetensors.index.json").rename(folder / "model.safetensors.index.fp16.json")
    assert read_state_dict(folder).keys() == {"a", "b", "c"}


def test_the_listing_of_a_sharded_checkpoint(folder):
    from launch.jobs.weights import describe

    assert "3 arrays, 6 numbers" in describe(str(folder))


def test_pytorch_shards(tmp_path):
    for i, name in enumerate(("pytorch_model-00001-of-00002.bin",
                              "pytorch_model-00002-of-00002.bin")):
        zip_pickle(tmp_path / name, dumps({f"w{i}": tensor((2,), (1,))}),
                   {"0": struct.pack("<2f", i, 1)})
    write_index(tmp_path, {"w0": "pytorch_model-00001-of-00002.bin",
                           "w1": "pytorch_model-00002-of-00002.bin"},
                "pytorch_model.bin.index.json")
    (tmp_path / "training_args.bin").write_bytes(b"")
    for path in (tmp_path, tmp_path / "pytorch_model.bin.index.json"):
        assert {k: v.tolist() for k,
                v in read_state_dict(path).items()} == {"w0": [0, 1], "w1": [1, 1]}
    with pytest.raises(UserError, match="one shard.*shard 1 of 2; hint: pass "
                                        ".*pytorch_model.bin.index.json"):
        read_state_dict(tmp_path / "pytorch_model-00001-of-00002.bin")


def test_one_shard_never_passes_for_the_whole(folder):
    with pytest.raises(UserError, match="one shard of a checkpoint.*shard 2 of 2; hint: pass "
                                        ".*index.json"):
        read_state_dict(folder / NAMES[1])
    assert read_checkpoint(folder / NAMES[1]).keys() == {"c"}  # to look at, it may be opened
    (folder / NAMES[0]).rename(folder / "first.safetensors")
    write_index(folder, {"a": "first.safetensors", "b": "first.safetensors", "c": NAMES[1]})
    with pytest.raises(UserError, match="one shard.*a shard of model.safetensors.index.json"):
        read_state_dict(folder / "first.safetensors")
    alone = folder / "alone"
    alone.mkdir()
    shutil.copy(folder / NAMES[1], alone)
    for path in (alone / NAMES[1], alone):
        with pytest.raises(UserError, match="one shard of a checkpoint|incomplete.*expected: 2 "
                                            "shards"):
            read_state_dict(path)
    shutil.copy(folder / "first.safetensors", alone / NAMES[0])
    assert read_state_dict(alone).keys() == {"a", "b", "c"}  # all shards without their index
    (alone / NAMES[0]).unlink()
    (alone / NAMES[1]).rename(alone / "model-00001-of-00001.safetensors")
    assert read_state_dict(alone / "model-00001-of-00001.safetensors").keys() == {"c"}


def test_what_an_index_promises_must_be_there(folder):
    index = folder / "model.safetensors.index.json"
    write_index(folder, {"a": NAMES[0], "b": NAMES[0], "c": NAMES[1], "d": NAMES[1]})
    with pytest.raises(UserError, match=f"lacks arrays.*{NAMES[1]}.*expected: d"):
        read_state_dict(folder)
    safetensors.numpy.save_file({"c": np.zeros(1), "a": np.zeros(3)}, folder / NAMES[1])
    write_index(folder, {"a": NAMES[0], "b": NAMES[0], "c": NAMES[1]})
    with pytest.raises(UserError, match="two shards hold one array.*found: a"):
        read_state_dict(index)
    (folder / NAMES[1]).unlink()
    with pytest.raises(UserError, match=f"shards of the checkpoint are missing.*{NAMES[1]}"):
        read_state_dict(index)
    write_index(folder, {"a": "../secret.safetensors"})
    with pytest.raises(UserError, match="points out of its folder.*secret"):
        read_state_dict(folder)
    for text in ("{}", "[]", "{", '{"weight_map": {"a": 1}}'):
        index.write_text(text)
        with pytest.raises(UserError, match="not the index of a sharded checkpoint"):
            read_state_dict(index)


def test_a_folder_with_one_file_and_with_several(tmp_path):
    with pytest.raises(UserError, match="no weights file in the folder.*found: nothing"):
        read_state_dict(tmp_path)
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "model.safetensors")
    # the same weights once more, as hubs have them
    zip_pickle(tmp_path / "pytorch_model.bin", dumps({}))
    assert read_state_dict(tmp_path).keys() == {"a"}
    assert file_sha256(tmp_path) == file_sha256(tmp_path / "model.safetensors")
    # of no account where the file itself is given
    (tmp_path / "old.safetensors.index.json").write_text("{")
    assert read_state_dict(tmp_path / "model.safetensors").keys() == {"a"}
    (tmp_path / "old.safetensors.index.json").unlink()
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "consolidated.safetensors")
    with pytest.raises(UserError, match="several checkpoints.*found: consolidated.safetensors, "
                                        "model.safetensors"):
        read_state_dict(tmp_path)
