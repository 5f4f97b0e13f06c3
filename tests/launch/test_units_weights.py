"""Speech networks bound to their centroids by `avjax weights`: recorded units, centroids out again,
and tables of another network, layer or make."""

import json
import types

import jax
import numpy as np
import pytest

from avjax.encoders import units as unit_library
from avjax.encoders.published import bound_units
from avjax.encoders.speech_frames import read_network
from avjax.errors import UserError
from avjax.weights.torch_writer import write_torch_zip
from data_pipelines.features.common import units as common_units
from launch.jobs import units
from tests import commands
from tests.golden_files import config as recorded_config
from tests.golden_files import some, under


@pytest.fixture(scope="module")
def record():
    return some("xlsr")


@pytest.fixture
def files(record, tmp_path):
    """The recorded network as transformers lays it out, and the centroids of one of its layers."""
    network = tmp_path / "network" / "pytorch_model.bin"
    network.parent.mkdir()
    write_torch_zip(str(network), under(record, "sd/"))
    (network.parent / "config.json").write_text(json.dumps(
        {"num_attention_heads": recorded_config(record)["num_attention_heads"]}))
    np.save(tmp_path / "kmeans.npy", record["centroids"])
    return types.SimpleNamespace(network=network, centroids=tmp_path / "kmeans.npy",
                                 layer=int(record["kmeans_layer"]) + 1)


def bring_in(files, folder, **changes):
    return units.bring_in(str(changes.get("network", files.network)), str(files.centroids),
                          str(folder), layer=changes.get("layer", files.layer),
                          count=changes.get("count"))


def test_recorded_units_through_the_command(record, files, tmp_path):
    folder, count = tmp_path / "units", len(record["centroids"])
    run = commands.run("weights", "import", "--system=units", f"--file={files.network.parent}",
                       f"--centroids={files.centroids}", f"--layer={files.layer}",
                       f"--num_units={count}", f"--workdir={folder}")
    assert run.returncode == 0, run.stderr
    assert f"layer {files.layer} of 4, {count} centroids of width 32" in run.stdout
    layer = files.layer
    network, centroids = common_units.chosen(str(folder), None, layer)
    encoder = unit_library.published(network, centroids, layer=layer)
    wav = record["wav"][0]
    np.testing.assert_array_equal(encoder([wav])[0], record["units"])
    named = unit_library.published(str(files.network), str(files.centroids), layer=layer)
    assert named.recipe == encoder.recipe  # so that features of both can be mixed
    assert common_units.chosen(str(folder), None, layer, like=True) == (network, None)
    assert common_units.chosen("mel", None, 35) == ("mel", None)

    run = commands.run("weights", "export", f"--workdir={folder}", f"--out={tmp_path}/out.npy")
    assert run.returncode == 0, run.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), record["centroids"])
    with pytest.raises(UserError, match="it exists"):
        units.take_out(str(folder), f"{tmp_path}/out.npy")

    out = tmp_path / "hf" / "model.safetensors"
    out.parent.mkdir()
    run = commands.run("weights", "export", f"--workdir={folder}", f"--out={out}")
    assert run.returncode == 0, run.stderr
    again = read_network(str(out))
    jax.tree.map(np.testing.assert_array_equal, again, read_network(str(files.network)))
    encoder = unit_library.published(str(out.parent), str(files.centroids), layer=layer)
    np.testing.assert_array_equal(encoder([wav])[0], record["units"])
    bound = bound_units.read(str(folder))
    with pytest.raises(UserError, match="it exists"):
        units.take_out_network(bound, str(out))
    units.take_out_network(bound, str(out.with_name("pytorch_model.bin")))  # beside the same config
    same = read_network(str(out.with_name("pytorch_model.bin")))
    jax.tree.map(np.testing.assert_array_equal, same, again)
    out.with_name("config.json").write_text("{}")
    with pytest.raises(UserError, match="another file lies where"):
        units.take_out_network(bound, str(out.with_name("other.pt")))
    assert not out.with_name("other.pt").exists()

    for flags, words in (((None, layer - 1), f"another layer.*expected: {layer}"),
                         (("x.npy", layer), "centroids twice.*x.npy")):
        with pytest.raises(UserError, match=words):
            common_units.chosen(str(folder), *flags)
    (folder / "centroids.npy").unlink()
    with pytest.raises(UserError, match="a file of the units has gone.*centroids.npy"):
        common_units.chosen(str(folder), None, layer)


@pytest.mark.parametrize(("change", "words"), [
    ({"table": lambda x: x[:, 1:]}, "centroids of another width"),
    ({"table": lambda x: np.concatenate([x, x[:2]])}, "centroids that are the same.*2 repeated"),
    ({"table": lambda x: x * np.nan}, "not a table of centroids"),
    ({"count": 10000}, "another number of centroids.*expected: 10000"),
    ({"layer": 35}, "not a network for units.*found: layer 35"),
    ({"network": "absent.bin"}, "no such weights file")])
def test_what_does_not_belong_together_leaves_nothing(record, files, tmp_path, change, words):
    np.save(files.centroids, change.pop("table", lambda x: x)(record["centroids"]))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=words):
        bring_in(files, tmp_path / "units", **change)
    assert sorted(tmp_path.iterdir()) == before


def test_flags_of_another_import(tmp_path):
    run = commands.run("weights", "import", "--system=vocoder", "--file=x", "--layer=3",
                       f"--workdir={tmp_path}/w")
    assert run.returncode == 2 and "a flag that this import does not take" in run.stderr
