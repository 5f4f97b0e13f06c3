"""Expression codes to vertices: equal to the recorded decoder, strict about files, and read for
lips."""

import json

import numpy as np
import pytest

from avjax.codecs import codec_avatar
from avjax.errors import UserError
from avjax.signal import mel
from avjax.weights.torch_writer import write_torch_zip
from data_pipelines import decode, geometry, prompting
from eval.benchmarks import clips
from eval.metrics import lips, reactions
from launch.jobs import video
from tests.eval import toys
from tests.golden_files import golden

RECORDED = golden("codec_avatar_geometry", "sd/")


def state_of(recorded) -> dict:
    return {name[3:]: array for name, array in recorded.items() if name.startswith("sd/")}


def write(folder, recorded, **extra):
    """The release's decoder folder, with tensors of its other branches."""
    folder.mkdir(exist_ok=True)
    other = {"viewmod.0.weight_v": np.zeros((8, 3), np.float32)}
    write_torch_zip(folder / "dec_params.pt", state_of(recorded) | other | extra)
    recorded["vert_mean"].astype(np.float32).tofile(folder / "vert_mean.bin")
    (folder / "vert_var.txt").write_text(f"{float(recorded['vert_var']):.9g}\n")
    return folder


@pytest.mark.parametrize("name, recorded", RECORDED)
def test_equals_the_recording(name, recorded):
    avatar = codec_avatar.from_state_dict(state_of(recorded), recorded["vert_mean"],
                                          float(recorded["vert_var"]))
    np.testing.assert_allclose(avatar.hidden_HZ, recorded["fused_encmod_weight"], rtol=1e-5,
                               atol=1e-7)
    found, truth = avatar(recorded["z"]), recorded["vertices"]
    assert np.abs(found - truth).max() <= 1e-4 * np.abs(truth).max()
    raw = codec_avatar.from_state_dict(state_of(recorded), 0 * recorded["vert_mean"], 1.0)
    scale = np.abs(recorded["face_geom"]).max()
    assert np.abs(raw(recorded["z"]) - recorded["face_geom"]).max() <= 1e-4 * scale
    some = [5, 0, 5]
    np.testing.assert_allclose(avatar.only(some)(recorded["z"]), found[:, some], rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate(list(avatar.chunks(recorded["z"]))), found)


@pytest.mark.parametrize("name, recorded", RECORDED)
def test_older_names_and_flat_gains_are_the_same(name, recorded):
    state = state_of(recorded)
    older = {n.replace("weight_v", "weight").replace("weight_g", "g"):
             a.ravel() if n.endswith("_g") else a for n, a in state.items()}
    new, old = (codec_avatar.from_state_dict(s, recorded["vert_mean"], 2.0) for s in (state, older))
    np.testing.assert_array_equal(new(recorded["z"]), old(recorded["z"]))


@pytest.mark.parametrize("name, recorded", RECORDED)
def test_all_that_does_not_fit_is_listed(name, recorded):
    state = state_of(recorded)
    state["geommod.0.bias"] = state["geommod.0.bias"][:-3]
    state["encmod.2.bias"] = np.zeros(3, np.float32)
    del state["encmod.0.weight_g"]
    with pytest.raises(UserError, match=r"encmod.0.weight_g is missing.*encmod.2.bias \(3,\) is "
                                        r"not known.*geommod.0.bias .* should be"):
        codec_avatar.from_state_dict(state, recorded["vert_mean"], 1.0, "dec_params.pt")
    with pytest.raises(UserError, match="a number above 0"):
        codec_avatar.from_state_dict(state_of(recorded), recorded["vert_mean"], np.nan)


@pytest.mark.parametrize("name, recorded", RECORDED)
def test_files_and_their_faults(name, recorded, tmp_path):
    folder = write(tmp_path / "decoder", recorded)
    mouth = tmp_path / "mouth.json"
    mouth.write_text(json.dumps({"inner": [[1, 2], [3, 4]], "corners": [5, 6]}))
    found = geometry.load(folder, {}, str(mouth))
    xyz = recorded["vertices"].astype(np.float64)
    aperture, width = found.mouth(recorded["z"])
    expected = [np.linalg.norm(xyz[:, a] - xyz[:, b], axis=-1) for a, b in ((1, 2), (3, 4), (5, 6))]
    np.testing.assert_allclose(aperture, (expected[0] + expected[1]) / 2, rtol=1e-4)
    np.testing.assert_allclose(width, expected[2], rtol=1e-4)
    mean = recorded["vert_mean"].astype(np.float64)
    np.testing.assert_allclose(found.smile(recorded["z"]),
                               width / np.linalg.norm(mean[5] - mean[6]), rtol=1e-4)
    brought = {"decoder": {"vert_mean": recorded["vert_mean"],
                           "vert_var": np.array([float(recorded["vert_var"])])}}
    (folder / "vert_mean.bin").rename(folder / "elsewhere.bin")
    np.testing.assert_allclose(geometry.load(folder, brought).avatar(recorded["z"]), xyz, rtol=1e-3,
                               atol=1e-3)
    with pytest.raises(UserError, match="no mean face"):
        geometry.load(folder, {})
    with pytest.raises(UserError, match="of another avatar"):
        geometry.load(folder, {"decoder": brought["decoder"] | {"weights_sha256": "0"}})
    with pytest.raises(UserError, match="no such decoder"):
        geometry.load(tmp_path / "none.pt", {})
    for text in ("{", '{"inner": [[1, 2, 3]], "corners": [1, 2]}', '{"inner": [[1, 2]]}'):
        mouth.write_text(text)
        with pytest.raises(UserError, match="no list of lip vertices"):
            geometry.read_lips(str(mouth))
    mouth.write_text('{"inner": [[1, 99999999]], "corners": [1, 2]}')
    with pytest.raises(UserError, match="no such vertex"):
        geometry.load(folder, brought, str(mouth))


def decoder_of(folder, recorded, pairs="[[1, 2]]"):
    """Of a model whose faces are the recorded avatar's codes."""
    mouth = folder / "mouth.json"
    mouth.write_text(f'{{"inner": {pairs}, "corners": [5, 6]}}')
    recipes = {"mel": mel.RECIPE, "face": {"kind": "codec avatar expression"},
               "head": {"kind": "linear"}, "family": {"kind": "avflow"}}
    pose = {"pose": {"mean": np.zeros(7), "std": np.ones(7)}}
    return decode.Decoder(recipes, pose, iterations=1, lip_vertices=str(mouth),
                          geometry=str(write(folder / "decoder", recorded)))


@pytest.mark.parametrize("name, recorded", RECORDED)
def test_avjax_generate_writes_vertices(name, recorded, tmp_path, capsys):
    decoder = decoder_of(tmp_path, recorded)
    codes = np.repeat(recorded["z"], 20, axis=0)
    streams = {"mel": np.full((len(codes), 80), -3, np.float32), "face": codes,
               "head": np.zeros((len(codes), 7), np.float32)}
    prompt = prompting.Prompt("generate", ({},), len(codes), "a")
    files = video.write(tmp_path / "out", streams, decoder, prompt)
    assert files["vertices"] == tmp_path / "out.vertices.npy" and "wav" in files
    found, at_30hz = np.load(files["vertices"]), decoder.face(streams)
    assert found.shape == (len(at_30hz), *recorded["vert_mean"].shape)
    np.testing.assert_allclose(found[0], recorded["vertices"][0], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found, decoder.geometry.avatar(at_30hz))
    assert "--save_latents" not in capsys.readouterr().err


@pytest.mark.parametrize("name, recorded", RECORDED)
def test_avjax_evaluate_reads_lips_and_smiles_off_vertices(name, recorded, tmp_path, monkeypatch):
    width = recorded["z"].shape[1]
    monkeypatch.setattr(toys, "FACE", width)
    monkeypatch.setattr(toys, "TOKENS", toys.MEL + width + toys.HEAD)
    decoder = decoder_of(tmp_path, recorded)
    dataset = toys.write_corpus(tmp_path / "features")
    benchmark = clips.Benchmark(toys.config(), decoder, dataset, toys.System(), full=False)
    assert benchmark.has_lips and benchmark.recipes["F1_lips"]["read from"]["inner"] == [[1, 2]]
    truth, other = (benchmark.truth("valid", i) for i in (0, 1))
    aperture, width = truth.lips
    benchmark.lip_recipe = lips.RECIPE | {"tau": float(np.median(aperture / width)), "sweep": []}
    right, wrong = (benchmark.summarise([benchmark.score("valid", 0, x)], [])["F1_lips"]["value"]
                    for x in (truth, other))
    assert right == 1 and wrong < 1
    assert benchmark.smile_recipe["read from"]["weights"] == decoder.geometry.recipe["weights"]
    np.testing.assert_array_equal(truth.smile, decoder.geometry.smile(decoder.face(truth.streams)))
    assert benchmark.smile_recipe["tau"] == reactions.TAU["vertices"]["tau"]


@pytest.mark.parametrize("name, recorded", RECORDED)
def test_flags_that_do_not_fit_the_model(name, recorded, tmp_path):
    decoder = decoder_of(tmp_path, recorded)
    with pytest.raises(UserError, match="another width"):
        decoder.lips({"face": np.zeros((9, recorded["z"].shape[1] - 1), np.float32)})
    with pytest.raises(UserError, match="lips of which vertices"):
        decode.Decoder(decoder.recipes, {}, lip_vertices="mouth.json")
    with pytest.raises(UserError, match="no vertices.*puppet"):
        decode.Decoder(decoder.recipes | {"face": {"kind": "puppet"}}, {}, geometry="x")
