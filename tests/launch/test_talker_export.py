"""A workdir of Talker-T2AV as a release: what is written, under which names, and what is left out.
That the published classes load it and compute the same was tried by hand (docs/talker.md)."""

import ast
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from avjax.checkpoint.checkpoints import Checkpoints
from avjax.codecs import motion
from avjax.codecs.lia_x import codec as lia_x
from avjax.codecs.published import whisperx_vae
from avjax.encoders.voices import wavlm_ecapa
from avjax.errors import UserError
from avjax.systems import api
from avjax.systems.talker import config as talker_config
from avjax.systems.talker import published, release_layout
from avjax.weights.plain_pickle import Foreign
from avjax.weights.reader import flatten, read_checkpoint, read_state_dict
from avjax.weights.torch_writer import write_torch_zip
from configs import base
from data_pipelines.features.talker import audio_codec, frontend
from data_pipelines.features.talker.tokenizer import Tokenizer
from data_pipelines.store.schema import FAMILY
from launch.jobs import release
from launch.training import plain
from tests.data_pipelines.test_tokenizer import tiny_qwen
from tests.encoders.test_wavlm_ecapa import write as write_voice
from tests.golden_files import some, under
from tests.systems.talker_tiny import random_params

MEAN, STD = np.linspace(-1, 1, 40).astype(np.float32), np.full(40, 2, np.float32)
SIZES = dict(d_model=16, velocity_width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8,
             d_ff=24, encoder_layers=1, encoder_heads=2, velocity_layers=1, velocity_heads=2,
             speaker_dim=24, delay=2)


def fill(work, recipes, codecs, **sizes):
    """A workdir of random parameters; these."""
    c = base.get_config()
    c.system = talker_config.default()
    c.system.update(SIZES | sizes)
    params = random_params(api.build(c.system))
    (work / "recipes.json").write_text(json.dumps(recipes | {FAMILY: {"kind": "talker"}}))
    (work / "codecs").mkdir()
    for name, arrays in codecs.items():
        np.savez(work / f"codecs/{name}.npz", **arrays)
    checkpoints = Checkpoints(work)
    checkpoints.save(0, {"params": jax.tree.map(jax.numpy.asarray, params)}, {"config": plain(c)})
    checkpoints.close()
    return params


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(workdir, parameters, the exported folder, what was said) of a model of published parts: the
    audio codec as safetensors, LIA-X and WavLM as PyTorch's files."""
    near = tmp_path_factory.mktemp("near")
    work = near / "work"
    for name in ("audio_codec", "lia_x", "voice"):
        (work / name).mkdir(parents=True)
    gold = some("whisperx_vae")
    safetensors.numpy.save_file({n: np.ascontiguousarray(x) for n, x in under(gold, "sd/").items()},
                                work / "audio_codec/vae.safetensors")
    (work / "audio_codec/config.json").write_text(json.dumps(
        {"whisper": ast.literal_eval(str(gold["whisper"]))}))
    write_torch_zip(work / "lia_x/lia-x.pt", dict(under(some("lia_x"), "sd/")))
    write_voice(some("wavlm_ecapa"), work / "voice/wavlm.pth")
    scale = {"mean": MEAN, "std": STD}
    front = frontend.Encoder(
        Tokenizer(json.dumps(tiny_qwen()).encode(), "qwen3-chat"),
        audio_codec.WhisperXVAE.from_checkpoint(str(work / "audio_codec")),
        wavlm_ecapa.load(str(work / "voice/wavlm.pth")),
        motion.from_recipe(lia_x.LiaX.from_file(work / "lia_x").recipe | {"rate": 25.0}, scale),
        None)
    params = fill(work, front.recipes, front.codecs, vocab=front.tokenizer.vocabulary)
    told: list[str] = []
    release.export_folder(str(work), str(near / "release"), say=told.append)
    return work, params, near / "release", told


def test_the_release_is_laid_out(made):
    work, params, out, told = made
    found = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert found == {release_layout.WEIGHTS, release_layout.CONFIG, release_layout.TOKENIZER,
                     release_layout.TOKENIZER_CONFIG, release_layout.CHAT_TEMPLATE,
                     release_layout.AUDIO_CODEC, "whisperx-vae/config.json",
                     release_layout.RENDERER, release_layout.MOTION_MEAN, release_layout.MOTION_STD,
                     release_layout.VOICE}
    assert not any("left out" in line for line in told)
    assert "patch_size=4, delay=2, speech_embedding_dim=32" in told[-2]
    assert "velocity_layers 8 to 1" in told[-1] and "velocity_width 1024 to 16" in told[-1]
    for name, file in (("lia_x/lia-x.pt", release_layout.RENDERER),
                       ("voice/wavlm.pth", release_layout.VOICE)):
        assert (work / name).read_bytes() == (out / file).read_bytes()
    np.testing.assert_array_equal(np.load(out / release_layout.MOTION_STD), STD)


def test_the_network_comes_back(made):
    work, params, out, _ = made
    config = json.loads((out / release_layout.CONFIG).read_text())
    vocab = Tokenizer.from_file(out / release_layout.NETWORK).vocabulary
    assert (config["hidden_size"], config["num_key_value_heads"]) == (16, 1)
    assert config["vocab_size"] == vocab + 2, "the placeholders are embedded"
    state = read_state_dict(str(out / release_layout.WEIGHTS))
    assert len(state["llm.lm_head.weight"]) == vocab + 2
    c = talker_config.default()
    c.update(SIZES | {"vocab": vocab + 2})
    again = published.import_talker(state, c)
    np.testing.assert_array_equal(again["backbone"].pop("embedding")[:vocab],
                                  params["backbone"]["embedding"])
    rest = params | {"backbone": {k: x for k, x in params["backbone"].items() if k != "embedding"}}
    jax.tree.map(np.testing.assert_array_equal, again, dict(rest))


def test_the_audio_codec_is_written_anew(made):
    """Weight norm apart, for the published class, which looks for it and passes over the rest."""
    work, _, out, _ = made
    file = str(out / release_layout.AUDIO_CODEC)
    tree = read_checkpoint(file, foreign=True)
    assert {"CodecDec.model.0.weight_g", "CodecDec.model.0.weight_v", "vae.in_proj.weight_g",
            "semantic_model.encoder.conv1.weight"} <= tree["state_dict"].keys()
    assert not any(n.startswith("CodecDec") and n.endswith(".weight") for n in tree["state_dict"])
    assert isinstance(tree["hyper_parameters"]["cfg"], Foreign)
    before = whisperx_vae.split(read_state_dict(str(work / "audio_codec")))[0]
    after = whisperx_vae.split(read_state_dict(file))[0]
    for name, x in flatten(before).items():
        np.testing.assert_allclose(after[name], x, atol=1e-6)


def test_what_the_published_code_has_no_place_for(made, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    tokens = Tokenizer.fit(["Hello.", "Go home."], 300)
    recipes = {"audio": {"kind": "mel-pca"}, "voice": {"kind": "mel-statistics"},
               "tokens": tokens.recipe, "motion": {"kind": "face+pose"}}
    fill(work, recipes, {"tokenizer": tokens.arrays()}, vocab=300)
    told: list[str] = []
    release.export_folder(str(work), str(tmp_path / "out"), say=told.append)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {release_layout.NETWORK}
    lines = "\n".join(told)
    for word in ("mel-pca", "mel-statistics", "face codes", "plain text"):
        assert word in lines
    assert "'<|im_start|>' + m.content" in (tmp_path / "out"
                                            / release_layout.CHAT_TEMPLATE).read_text()


def test_what_is_refused(made, tmp_path):
    work, _, out, _ = made
    with pytest.raises(UserError, match="cannot write the release.*it exists"):
        release.export_folder(str(work), str(out))
    joint = tmp_path / "joint"
    joint.mkdir()
    recipes = json.loads((work / "recipes.json").read_text())
    codecs = {p.stem: dict(np.load(p)) for p in (work / "codecs").glob("*.npz")}
    fill(joint, recipes, codecs, coupling="joint", vocab=300)
    with pytest.raises(UserError, match="no such network; where: config.system.coupling"):
        release.export_folder(str(joint), str(tmp_path / "out"))
    said = tmp_path / "said"
    said.mkdir()
    fill(said, recipes | {"tokens": {"kind": "phonemes"}}, codecs, vocab=300)
    with pytest.raises(UserError, match="reads no such text.*phonemes.*model.safetensors"):
        release.export_folder(str(said), str(tmp_path / "out"))
    other = dict(under(some("lia_x"), "sd/"))
    other["dec.direction.weight"] = other["dec.direction.weight"] + 1
    write_torch_zip(work / "lia_x/lia-x.pt", other)
    with pytest.raises(UserError, match="the weights of another LIA-X"):
        release.export_folder(str(work), str(tmp_path / "out"))
    assert not any(tmp_path.glob("*out*")), "nothing half-written"
