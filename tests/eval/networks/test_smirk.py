"""SMIRK beside its recorded numbers, and the metrics that its codes give."""

import jax
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.sharding import rows
from avjax.weights.torch_writer import write_torch_zip
from data_pipelines.media import landmarks
from eval.metrics import frechet
from eval.metrics.judged import smirk as metrics
from eval.networks.pictures import mobilenet, smirk
from tests import golden_files
from tests.eval import real_faces, toys

# block behind which the recording looks, of each kind
FEATURES = {mobilenet.SMALL: ("", "blocks.0.0", "blocks.1.1", "blocks.3.1", "blocks.5.0"),
            mobilenet.LARGE: ("blocks.0.0", "blocks.1.1", "blocks.2.2", "blocks.4.1", "blocks.6.0")}


@pytest.fixture(scope="module")
def recorded():
    return golden_files.some("smirk")


@pytest.fixture(scope="module")
def pictures(recorded):
    every = golden_files.config(recorded)["repeat"]
    low = recorded["image_uint8"].transpose(0, 2, 3, 1)
    return low.repeat(every, 1).repeat(every, 2)


@pytest.mark.parametrize("part", smirk.PARTS)
def test_every_map_and_what_comes_out_is_the_recorded_one(recorded, pictures, part):
    params = smirk.import_params(golden_files.under(recorded, "sd/"))
    kind, every = smirk.PARTS[part].kind, golden_files.config(recorded)["strides"]
    x = np.float32(pictures / 255)
    found, ours = jax.jit(lambda params, x: (
        dict(mobilenet.maps(params[part]["blocks"], kind, x)), smirk.raw(params, part, x)))(
            params, x)
    for number, block in enumerate(FEATURES[kind]):
        name = f"{part}.feature{number}"
        seen = np.moveaxis(np.asarray(found[block]), -1, 1)[..., ::every[name], ::every[name]]
        assert golden_files.relative_error(seen, recorded[f"inter/{name}"]) < 1e-4, name
    assert golden_files.relative_error(ours, recorded[f"inter/{part}.raw"]) < 1e-4


def test_codes_are_the_recorded_ones_whatever_the_batch(recorded, pictures):
    state = golden_files.under(recorded, "sd/")
    state = {f"smirk_encoder.{name}": x for name, x in state.items()}
    state["smirk_generator.final.weight"] = np.zeros(3)  # the file has another network, too
    found = smirk.Smirk(state)(iter(pictures))
    for name, theirs in (("pose", "pose_params"), ("expression", "expression_params"),
                         ("eyelids", "eyelid_params"), ("jaw", "jaw_params")):
        assert golden_files.relative_error(found[:, smirk.COLUMNS[name]], recorded[theirs]) < 1e-4
    together = smirk.Smirk(state, together=4, mesh=rows.one_device())
    np.testing.assert_allclose(together(pictures[[0, 1, 0]]), found[[0, 1, 0]], atol=1e-5)
    assert smirk.Smirk(state)([]).shape == (0, 58)


def test_names_and_shapes_are_the_published_ones(recorded):
    sizes = [tuple(n for n in shape if n) for shape in recorded["full/weight_shapes"]]
    published = dict(zip(map(str, recorded["full/weight_names"]), sizes, strict=True))
    state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in published.items()}
    assert smirk.import_params(state)["shape_encoder"]["head"]["kernel"].shape == (960, 300)


def test_another_file_is_told_by_every_array(recorded):
    state = dict(golden_files.under(recorded, "sd/"))
    del state["pose_encoder.encoder.blocks.1.0.bn2.running_var"]
    state["shape_encoder.shape_layers.0.weight"] = np.zeros((100, 240))
    state["expression_encoder.encoder.blocks.1.0.se.conv_reduce.weight"] = np.zeros(3)
    with pytest.raises(UserError) as error:
        smirk.Smirk(state, where="some.pt")
    for part in ("some.pt", "missing: pose_encoder.encoder.blocks.1.0.bn2.running_var",
                 "left over: expression_encoder.encoder.blocks.1.0.se", "(100, 240)"):
        assert part in str(error.value)


def test_the_crop_is_a_square_about_the_points():
    """A ramp of 4 grey levels a pixel tells where every pixel of the crop was."""
    picture = np.broadcast_to(np.arange(0, 240, 4, np.uint8)[:, None], (60, 60))
    picture = np.stack([picture.T, picture, np.zeros_like(picture)], -1)
    points = np.array([(20, 24), (40, 34), (30, 30)])
    found = smirk.cropped(picture, points).astype(float)
    side = int(15 * 1.4)
    at = (30 - side / 2) + np.arange(224) * side / 223
    np.testing.assert_allclose(found[100, :, 0], 4 * at, atol=1)
    np.testing.assert_allclose(found[:, 100, 1], 4 * (at - 1), atol=1)
    assert smirk.cropped(picture, points + 100).max() == 0


@pytest.fixture(scope="module")
def benchmark(recorded, tmp_path_factory):
    """Of clips with landmarks; the network has the recorded weights."""
    folder = tmp_path_factory.mktemp("smirk")
    write_torch_zip(folder / smirk.FILE, {f"smirk_encoder.{n}": np.array(x) for n, x in
                                          golden_files.under(recorded, "sd/").items()})
    with pytest.MonkeyPatch.context() as patch:
        yield real_faces.benchmark(folder / "data", patch, networks=str(folder))


def test_a_command_scores_faces_by_what_the_network_reads(benchmark):
    assert benchmark.recipes["FD_e_smirk"]["networks"]["smirk"]["file"] == smirk.FILE
    truth = benchmark.truth("other", 0)
    truth.streams = {k: x[:60] for k, x in truth.streams.items()}  # fewer pictures
    other = benchmark.baseline("shuffled", "other", 0)
    find = landmarks.finder(real_faces.KIND)
    read = benchmark.networks["smirk"](
        smirk.cropped(p, landmarks.in_crop(p, find)[0] * len(p)) for p in other.faces())
    same, row = (benchmark.score("other", 0, x) for x in (truth, other))
    assert same["FD_e_smirk"] == pytest.approx(0, abs=1e-6) == same["MSE_e_smirk"]
    true = truth.seen["smirk"]
    assert row["MSE_e_smirk"] == pytest.approx(np.mean((read[:, :50] - true[:, :50]) ** 2))
    assert row["FD_h_smirk"] == pytest.approx(frechet.frechet(
        np.concatenate([read[:, 55:58], read[:, 52:55]], 1),
        np.concatenate([true[:, 55:58], true[:, 52:55]], 1)))
    assert row["var_e_smirk"] == pytest.approx(read[:, :50].var(), rel=1e-5)
    summary = benchmark.summarise([row], [benchmark.frames("other", 0, other)])
    assert summary["FD_e_smirk"]["value"] == pytest.approx(row["FD_e_smirk"])
    bare = toys.benchmark(benchmark.dataset)
    bare.reader = benchmark.reader
    assert bare.without_network["jaw_corr_smirk"].startswith(f"needs {smirk.FILE} (github.com/")


def test_scores_of_known_motion():
    time = np.arange(90) / 30
    codes = np.zeros((90, 58))
    codes[:, 52] = 0.2 + 0.1 * np.sin(9 * time)
    codes[20:23, 50:52], codes[40, 50:52] = 1, 1  # a blink, and a frame that is none
    late = np.roll(codes, 3, axis=0)
    late[:, 0] = 2.0
    found = metrics.scores(late, codes, 30, aligned=True)
    assert found["blinks_per_minute_smirk"] == pytest.approx(20)
    assert found["MSE_e_smirk"] == pytest.approx(4 / 50) and found["FD_e_smirk"] > 3.9
    assert found["jaw_corr_smirk"] == pytest.approx(np.corrcoef(late[:, 52], codes[:, 52])[0, 1])
    assert not {"MSE_e_smirk", "jaw_corr_smirk"} & metrics.scores(late, codes, 30, False).keys()
    assert np.isnan(metrics.scores(codes * 0, codes, 30, True)["jaw_corr_smirk"])


def test_frames_without_a_face_are_interpolated():
    codes = np.array([[0.0], [3.0], [9.0]])
    known = np.array([True, False, False, True, True])
    np.testing.assert_allclose(metrics._filled(codes, known)[:, 0], [0, 1, 2, 3, 9])
    assert len(metrics._filled(codes[:0], np.zeros(4, bool))) == 0
