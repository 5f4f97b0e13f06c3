"""FID's Inception beside its recorded numbers, and the metric that it gives."""

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.sharding import rows
from avjax.weights.torch_writer import write_torch_zip
from eval.metrics import frechet
from eval.networks.pictures import inception
from eval.networks.pictures.convolutions import shapes
from tests import golden_files
from tests.eval import toys

MAPS, POOLED = 3e-4, 1e-4  # what the recording's own float64 allows


@pytest.fixture(scope="module")
def recorded():
    return golden_files.some("inception_fid")


@pytest.fixture(scope="module")
def folder(recorded, tmp_path_factory):
    """Of the weights as they are published."""
    folder = tmp_path_factory.mktemp("inception")
    state = {name: np.array(x) for name, x in golden_files.under(recorded, "sd/").items()}
    state |= {"fc.weight": np.ones((5, len(state["Mixed_7c.branch1x1.bn.bias"])), np.float32),
              "fc.bias": np.ones(5, np.float32)}
    write_torch_zip(folder / inception.FILE, state)
    return folder


@pytest.fixture(scope="module")
def pictures(recorded):
    return recorded["image_uint8"].transpose(0, 2, 3, 1)


def test_every_block_is_the_recorded_one(recorded, pictures):
    params = inception.import_params(golden_files.under(recorded, "sd/"))
    x = inception.resized(pictures)
    ours = np.moveaxis(np.asarray(x)[:, ::13, ::13], -1, 1)
    assert golden_files.relative_error(ours, recorded["network_input_every13"]) < 1e-5
    every = golden_files.config(recorded)["strides"]
    found = dict(inception.maps(params, x))
    found["block2"] = found["Mixed_6e"]
    compared = 0
    for block, ours in found.items():
        name = block if block in recorded else f"inter/{block}"
        step = every[name]
        ours = np.moveaxis(np.asarray(ours)[:, ::step, ::step], -1, 1)
        assert golden_files.relative_error(ours, recorded[name]) < MAPS, block
        compared += 1
    assert compared == 19


def test_features_are_the_recorded_ones_whatever_the_batch(recorded, pictures, folder):
    network = inception.load(folder / inception.FILE)
    found = network(iter(pictures))
    assert golden_files.relative_error(found, recorded["pooled"]) < POOLED
    together = inception.Inception(golden_files.under(recorded, "sd/"), together=4,
                                   mesh=rows.one_device())
    three = together(pictures[[0, 1, 0]])
    assert golden_files.relative_error(three, found[[0, 1, 0]]) < 1e-5


def test_names_and_shapes_are_the_published_ones(recorded):
    sizes = [tuple(n for n in shape if n) for shape in recorded["full/weight_shapes"]]
    published = dict(zip(map(str, recorded["full/weight_names"]), sizes, strict=True))
    state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in published.items()}
    found, width = shapes(inception.BLOCKS, state, "conv")
    assert found == published and width == 2048


def test_another_file_is_told_by_every_array(recorded):
    state = dict(golden_files.under(recorded, "sd/"))
    del state["Mixed_6b.branch7x7_2.bn.running_var"]
    state["Mixed_7c.branch_pool.conv.weight"] = state["Mixed_7c.branch_pool.conv.weight"][:, 1:]
    state["AuxLogits.fc.bias"] = np.zeros(3)
    with pytest.raises(UserError) as error:
        inception.Inception(state, where="some.pth")
    for part in ("some.pth", "missing: Mixed_6b.branch7x7_2.bn.running_var",
                 "left over: AuxLogits.fc.bias", "Mixed_7c.branch_pool.conv.weight"):
        assert part in str(error.value)


@pytest.fixture(scope="module")
def benchmark(folder, tmp_path_factory):
    dataset = toys.write_corpus(tmp_path_factory.mktemp("fid") / "corpus")
    benchmark = toys.benchmark(dataset, networks=str(folder))
    benchmark.load_networks()
    return benchmark


def test_fid_of_a_command_is_that_of_all_pictures_together(benchmark):
    """Streams of several examples, against a distance by hand; none of the truth from itself."""
    assert benchmark.recipes["FID"]["networks"]["inception"]["file"] == inception.FILE
    network = benchmark.networks["inception"]
    split, indices, seen, kept = "other", (0, 1), [], {"truth": [], "shuffled": []}
    for index in indices:
        truth = benchmark.truth(split, index)
        truth.streams = {k: x[:9] for k, x in truth.streams.items()}  # fewer pictures
        other = benchmark.baseline("shuffled", split, index)
        seen.append([network(benchmark.pictures(x.streams, {})) for x in (other, truth)])
        for variant, signals in (("truth", truth), ("shuffled", other)):
            kept[variant].append(benchmark.kept(split, index, signals))
    own, true = (np.concatenate(x) for x in zip(*seen, strict=True))
    fid = {v: benchmark.summarise([{}] * 2, kept[v])["FID"] for v in kept}
    assert fid["truth"]["value"] < 1e-6 and fid["shuffled"]["n"] == 2
    assert fid["shuffled"]["value"] == pytest.approx(frechet.frechet(own, true), rel=1e-5)
    assert benchmark.summarise([{}], [{}]).get("FID") is None


def test_without_its_file_fid_says_what_it_needs(benchmark):
    bare = toys.benchmark(benchmark.dataset)
    assert bare.without_network["FID"].startswith(f"needs {inception.FILE} (github.com/mseitzer")
    assert "inception" not in bare.kept("other", 0, bare.truth("other", 0))


@pytest.mark.parametrize("parts", [1, 2, 64])
def test_moments_do_not_depend_on_the_parts(parts):
    x = np.random.default_rng(0).normal(3, 2, (200, 7)) @ np.random.default_rng(1).normal(
        size=(7, 7))
    first, second = frechet.Moments(7), frechet.Moments(7)
    pieces = np.array_split(x, parts)
    for k, piece in enumerate(pieces):
        (first if k % 3 else second).add(piece)
    first.merge(second)
    first.add(x[:0])
    mean, covariance = first.gaussian()
    assert first.count == 200
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-10)
    np.testing.assert_allclose(covariance, np.cov(x, rowvar=False), rtol=1e-10)
    with pytest.raises(ValueError, match="2 samples"):
        frechet.Moments(3).gaussian()
