"""FVD's I3D beside its recorded numbers, and the metric that it gives."""

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.sharding import rows
from avjax.weights.reader import read_state_dict
from avjax.weights.torch_writer import write_torch_zip
from eval.metrics import frechet
from eval.networks.pictures import i3d
from tests import golden_files
from tests.eval import toys

MAPS, LOGITS = 1e-4, 1e-5


@pytest.fixture(scope="module")
def recorded():
    return golden_files.some("i3d")


@pytest.fixture(scope="module")
def folder(recorded, tmp_path_factory):
    """Of the weights as they are published."""
    folder = tmp_path_factory.mktemp("i3d")
    write_torch_zip(folder / i3d.FILE, {name: np.array(x) for name, x in
                                        golden_files.under(recorded, "sd/").items()})
    return folder


@pytest.fixture(scope="module")
def clip(recorded):
    """(16, 224, 224, 3)."""
    times = golden_files.config(recorded)["repeat"]
    return recorded["clip_uint8"][0].repeat(times, 2).repeat(times, 3).transpose(1, 2, 3, 0)


def alone(folder) -> i3d.I3D:
    """On one device, a clip at a time: the tests' eight would take eight."""
    return i3d.I3D(read_state_dict(folder / i3d.FILE), together=1, mesh=rows.one_device())


def test_every_block_is_the_recorded_one(recorded, clip):
    params = i3d.import_params(golden_files.under(recorded, "sd/"))
    every = golden_files.config(recorded)["strides"]
    found = dict(i3d.maps(params, i3d.resized(clip[None])))
    assert len(found) == len(recorded["full/endpoint_names"])
    for block, ours in found.items():
        step = every[block]
        ours = np.moveaxis(np.asarray(ours)[:, :, ::step, ::step], -1, 1)
        assert golden_files.relative_error(ours, recorded[f"inter/{block}"]) < MAPS, block


def test_logits_are_the_recorded_ones_whatever_the_batch(recorded, clip, folder):
    network = alone(folder)
    found = network(iter(np.concatenate([clip, clip[::-1], clip[:5]])))
    assert found.shape[:2] == (2, 2)  # what is left over is no clip
    assert golden_files.relative_error(found[:1, 0], recorded["logits"]) < LOGITS
    np.testing.assert_array_equal(found[:, 0], found[:, 1])  # a square is not cropped
    assert np.ptp(found[:, 0], axis=0).max() > 1e-3
    together = i3d.I3D(golden_files.under(recorded, "sd/"), together=2, mesh=rows.one_device())
    both = together(np.concatenate([clip, clip[::-1]]))
    assert golden_files.relative_error(both, found) < LOGITS
    assert network(iter(clip[:15])).shape == (0, 2, 0)


def test_pictures_are_resized_as_recorded_and_cropped(recorded):
    video = recorded["preprocess/video_uint8"]
    ours = np.moveaxis(np.asarray(i3d.resized(video))[:, :, ::9, ::9], -1, 1)
    assert golden_files.relative_error(ours, recorded["preprocess/out_every9"]) < 1e-5
    # twice as wide: the middle half of it, at the same height
    wide = np.random.default_rng(0).integers(0, 256, (1, 1, 112, 224, 3)).astype(np.uint8)
    cropped = np.asarray(i3d.resized(wide, crop=True))[:, :, :, 2:-2]
    middle = np.asarray(i3d.resized(wide[:, :, :, 56:168]))[:, :, :, 2:-2]
    assert cropped.shape == (1, 1, 224, 220, 3)
    np.testing.assert_allclose(cropped, middle, atol=1e-5)


def test_the_distance_is_the_recorded_one(recorded):
    own, true = frechet.Moments(12), frechet.Moments(12)
    for moments, name in ((own, "x"), (true, "y")):
        for part in np.array_split(recorded[f"frechet/{name}"], 5):
            moments.add(part)
    found = frechet.distance(*own.gaussian(), *true.gaussian())
    assert found == pytest.approx(float(recorded["f64/frechet/fvd"]), rel=1e-10)


def test_names_and_shapes_are_the_published_ones(recorded):
    sizes = [tuple(n for n in shape if n) for shape in recorded["full/weight_shapes"]]
    published = dict(zip(map(str, recorded["full/weight_names"]), sizes, strict=True))
    state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in published.items()}
    assert i3d.expected(state) == published
    assert published["logits.conv3d.bias"] == (400,)


def test_another_file_is_told_by_every_array(recorded):
    state = dict(golden_files.under(recorded, "sd/"))
    del state["Mixed_4b.b0.bn.bias"]
    state["logits.conv3d.weight"] = state["logits.conv3d.weight"][:, 1:]
    state["Mixed_6a.b0.bn.bias"] = np.zeros(3)
    with pytest.raises(UserError) as error:
        i3d.I3D(state, where="some.pt")
    for part in ("some.pt", "missing: Mixed_4b.b0.bn.bias", "left over: Mixed_6a.b0.bn.bias",
                 "logits.conv3d.weight"):
        assert part in str(error.value)


def test_fvd_of_a_command_is_that_of_its_clips(folder, tmp_path):
    benchmark = toys.benchmark(toys.write_corpus(tmp_path / "corpus"), networks=str(folder))
    benchmark.load_networks()
    assert benchmark.recipes["FVD"]["networks"]["i3d"]["file"] == i3d.FILE
    benchmark.networks._loaded["i3d"] = alone(folder)
    truth = benchmark.truth("other", 0)
    truth.streams = {k: x[:95] for k, x in truth.streams.items()}  # two clips
    other = benchmark.baseline("shuffled", "other", 0)
    found = benchmark.summarise([{}], [benchmark.kept("other", 0, other)])
    own, true = (x.seen["i3d"][:, 0] for x in (other, truth))
    assert len(own) == len(true) == 2
    assert found["FVD"]["value"] == pytest.approx(frechet.frechet(own, true), rel=1e-5)
    assert found["FVD"] == found["FVD_crop"]  # drawn pictures are square
    assert "FID" not in found
