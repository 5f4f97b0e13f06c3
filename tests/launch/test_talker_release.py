"""Talker-T2AV's release in its owners' layout: imported whole, then a portrait speaks in a voice.
LIA-X's weights are read and told apart; what it computes (tests/codecs/test_lia_x.py) is a toy's
here, whose compilation does not take a minute."""

import ast
import json
import shutil

import av
import cv2
import jax
import numpy as np
import pytest
import safetensors.numpy
import soundfile

from avjax.codecs.lia_x import codec as lia_x
from avjax.encoders.voices import wavlm_ecapa
from avjax.errors import UserError
from avjax.inference.generator import Generator, Item
from avjax.systems import api
from avjax.systems.talker import published, release_layout
from avjax.systems.talker.config import INFERENCE
from avjax.weights.torch_writer import write_torch_zip
from configs import talker_0_6b
from data_pipelines.features.talker import audio_codec
from data_pipelines.ingest.talker import release as talker
from launch.jobs import generate, release, weights
from tests.data_pipelines.test_tokenizer import SPECIAL, tiny_qwen
from tests.encoders.test_wavlm_ecapa import write as write_voice
from tests.golden_files import some, under

pytestmark = pytest.mark.usefixtures("imports_on_one_device")
SIZES = dict(d_model=16, velocity_width=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
             d_ff=24, encoder_layers=1, encoder_heads=2, velocity_layers=1, velocity_heads=2,
             vocab=263, speaker_dim=24)  # the vocabulary's placeholders have no embedding
TEMPLATE = "{{ '<|im_start|>' }} ... <|im_end|> ... <think> ... </think>"  # never run
MEAN, STD = np.linspace(-0.1, 0.1, 40).astype(np.float32), np.full(40, 0.05, np.float32)
WORDS = "hey you"


def network():
    """Random parameters and their state dict, as the published model has them."""
    config = talker_0_6b.get_config().system
    config.update(SIZES)
    system, rng = api.build(config), np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.3 * rng.standard_normal(x.shape)).astype(np.float32),
                          api.abstract_params(system))
    return params, published.export_talker(params, config)


def lay_out(folder):
    """A whole release; the parameters of its network."""
    params, state = network()
    texts = folder / release_layout.NETWORK
    for place in (texts, folder / "whisperx-vae", folder / "lia_x", folder / "deps/LIA-X"):
        place.mkdir(parents=True)
    safetensors.numpy.save_file(state, texts / "model.safetensors", {"format": "pt"})
    (texts / "config.json").write_text(json.dumps({
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8,
        "num_key_value_heads": 1, "intermediate_size": 24, "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}))
    (texts / "tokenizer.json").write_text(json.dumps(tiny_qwen(
        [*SPECIAL, *release_layout.PLACEHOLDERS])))
    (texts / "tokenizer_config.json").write_text("{}")
    (texts / "chat_template.jinja").write_text(TEMPLATE)
    vae = some("whisperx_vae")
    write_torch_zip(folder / release_layout.AUDIO_CODEC, {"state_dict": {
        n: np.ascontiguousarray(x) for n, x in under(vae, "sd/").items()}})
    (folder / "whisperx-vae/config.json").write_text(json.dumps({"whisper": ast.literal_eval(
        str(vae["whisper"]))}))
    np.save(folder / release_layout.MOTION_MEAN, MEAN)
    np.save(folder / release_layout.MOTION_STD, STD)
    write_torch_zip(folder / "deps/LIA-X/lia-x.pt", {
        n: np.ascontiguousarray(x) for n, x in under(some("lia_x"), "sd/").items()})
    write_voice(some("wavlm_ecapa"), folder / release_layout.VOICE)
    return params


def imported(folder, **kw):
    told: list[str] = []
    config = release.import_folder("talker", str(folder), str(folder.parent / "work"),
                                   say=told.append, **kw)
    return config, told


@pytest.fixture(scope="module", autouse=True)
def toy():
    """Motion: of the picture's mean. Drawn: the portrait, darker by the motion."""
    def encode(params, picture_HWC):
        motion_BM = np.full((1, 40), picture_HWC.mean() / 1000, np.float32)
        return params["dec.direction.weight"][:1], motion_BM, [picture_HWC]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lia_x, "_encode", encode)
        patch.setattr(lia_x, "_draw", lambda params, identity, features, motion_M: np.clip(
            features[0] - 500 * motion_M[0], 0, 255).astype(np.uint8))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the release, its workdir, config, what was said, parameters)"""
    near = tmp_path_factory.mktemp("near")
    params = lay_out(near / "release")
    config, told = imported(near / "release")
    rng = np.random.default_rng(0)
    soundfile.write(near / "voice.wav", 0.1 * rng.standard_normal(16000), 16000, "FLOAT")
    for name, size in (("face", (64, 64)), ("wide", (64, 80))):
        cv2.imwrite(str(near / f"{name}.png"), rng.integers(0, 255, (*size, 3), np.uint8))
    return near / "release", near / "work", config, told, params


def test_what_was_taken(made):
    folder, work, config, told, params = made
    c = config.system
    assert {name: c[name] for name in SIZES} == SIZES
    assert (c.rope_theta, c.rms_eps) == (5e5, 1e-5)
    assert {name: c[name] for name in INFERENCE} == INFERENCE
    assert [line.partition(":")[0] for line in told] == [
        "network", "sampler", "tokenizer and chat template", "motion's statistics", "sound",
        "voices", "faces"] and not any("none found" in line for line in told)
    assert (work / "lia_x/lia-x.pt").samefile(folder / "deps/LIA-X/lia-x.pt")
    assert (work / "texts/chat_template.jinja").read_text() == TEMPLATE
    avatar = generate.Avatar(work)
    jax.tree.map(np.testing.assert_array_equal, dict(avatar.params), params)
    recipes = avatar.decoder.recipes
    assert recipes["tokens"]["kind"] == "qwen3-chat" and recipes["audio"]["level"] is None
    assert recipes["voice"]["weights"] and recipes["motion"]["weights"]


def test_a_portrait_speaks_in_a_voice(made, tmp_path):
    """What comes out is, part by part, what the parts of the release give."""
    folder, work, _, _, params = made
    voice = str(folder.parent / "voice.wav")
    asked = dict(text=WORDS, audio=voice, portrait=str(folder.parent / "face.png"),
                 face="unchecked", max_seconds=1.12)
    files = generate.generate(work, out=tmp_path / "out", save_latents=True, steps=2, **asked)
    with np.load(files["npz"]) as latents:
        audio, motion, portrait = (latents[n] for n in ("audio", "motion", "portrait"))
    assert audio.shape == (28, 32) and motion.shape == (28, 40)
    avatar = generate.Avatar(work, steps=2)
    given = avatar.prompt(**asked)
    assert given.task == "t2av"
    sound = soundfile.read(voice, dtype="float32")[0]
    heard = wavlm_ecapa.load(str(folder / release_layout.VOICE))(sound)
    np.testing.assert_allclose(given.conditions["speaker"], heard, atol=1e-4)
    faces = lia_x.loaded(str(folder / "deps/LIA-X/lia-x.pt"))
    on = faces.portrait(portrait[0])
    np.testing.assert_allclose(given.conditions["first_motion"], (on.motion_M - MEAN) / STD,
                               atol=1e-4)
    [(_, out, _)] = Generator(avatar.system, seed=0).batches(
        params, [Item(WORDS, lambda: (given.conditions, given.frames), True)], "t2av")
    np.testing.assert_allclose(out["audio"][0, :28], audio, atol=1e-4)
    vae = audio_codec.WhisperXVAE.from_checkpoint(str(folder / release_layout.AUDIO_CODEC))
    wav, rate = soundfile.read(files["wav"])
    assert rate == 24000
    np.testing.assert_allclose(wav, np.clip(vae.waveform(audio), -1, 1), atol=1e-4)
    with av.open(str(files["mp4"])) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 28
    drawn = np.stack(list(faces.draw(on, motion * STD + MEAN))).mean((1, 2, 3))
    np.testing.assert_allclose(np.mean(frames, (1, 2, 3)), drawn, atol=4)  # a film is lossy
    assert np.ptp(drawn) > 12


def test_a_folder_that_lacks_the_authors_networks(made, tmp_path):
    folder, *_, = made
    part = tmp_path / "release"
    shutil.copytree(folder, part)
    (part / release_layout.VOICE).unlink()
    shutil.rmtree(part / "deps")
    shutil.move(part / "talker-t2av", part / "ckpts/hf_weights/talker-t2av")
    _, told = imported(part)
    assert told[-2:] == ["voices: none found; avjax generate --audio wants --voice=FILE",
                         "faces: none found; avjax generate --portrait wants --face_codec=FILE"]
    avatar = generate.Avatar(tmp_path / "work")
    near, voice = folder.parent, str(folder / release_layout.VOICE)
    asked = dict(text=WORDS, audio=str(near / "voice.wav"))
    with pytest.raises(UserError, match="made by WavLM.*--voice.*wavlm_large_finetune.pth"):
        avatar.prompt(**asked)
    with pytest.raises(UserError, match="nobody's voice.*--audio"):
        avatar.prompt(text=WORDS)
    with pytest.raises(UserError, match="nothing to draw with.*--face_codec"):
        avatar.prompt(**asked, voice=voice, portrait=str(near / "face.png"), face="unchecked")
    assert avatar.prompt(**asked, voice=voice).conditions["speaker"].std() > 0
    assert len(avatar.prompt(**asked | {"text": f"{WORDS}. " * 200}, voice=voice).pieces) > 1


def test_there_and_back(made, tmp_path):
    """Exported and imported again: the same, to the bit; the placeholders, which no prompt holds,
    are embedded now."""
    _, work, config, _, params = made
    release.export_folder(str(work), str(tmp_path / "release"), say=lambda line: None)
    again, _ = imported(tmp_path / "release")
    vocab = config.system.vocab
    assert again.system.vocab == vocab + len(release_layout.PLACEHOLDERS)
    assert again.to_dict() | {"system": dict(again.system, vocab=vocab)} == config.to_dict()
    for name in ("lia_x/lia-x.pt", "voice/wavlm_large_finetune.pth", "texts/tokenizer.json"):
        assert (tmp_path / "work" / name).read_bytes() == (work / name).read_bytes(), name
    before, after = (json.loads((place / "recipes.json").read_text())
                     for place in (work, tmp_path / "work"))
    for recipes in (before, after):  # written anew with its weight norm, to rounding
        del recipes["audio"]
    assert after == before
    for file in ("motion.npz", "tokenizer.npz"):
        paths = work / "codecs" / file, tmp_path / "work/codecs" / file
        with np.load(paths[0]) as old, np.load(paths[1]) as new:
            for name in old.keys() | new.keys():
                np.testing.assert_array_equal(new[name], old[name], err_msg=name)
    read = dict(generate.Avatar(tmp_path / "work").params)
    read["backbone"] = dict(read["backbone"], embedding=read["backbone"]["embedding"][:vocab])
    jax.tree.map(np.testing.assert_array_equal, read, params)


@pytest.mark.parametrize("request_, message", [
    ({"portrait": "face.png"}, "a portrait without a face"),
    ({"portrait": "wide.png", "face": "unchecked"}, "not square.*80 x 64"),
    ({"audio": "short.wav"}, "too little sound.*where: --audio;.*1 s of speech.*0.50 s"),
    ({"audio": "silent.wav"}, "too little sound.*silent"),
])
def test_a_request_that_is_refused(made, request_, message):
    folder, work, *_ = made
    near = folder.parent
    soundfile.write(near / "short.wav", np.random.default_rng(0).standard_normal(8000), 16000)
    soundfile.write(near / "silent.wav", np.zeros(32000), 16000)
    request_ = {"audio": "voice.wav", "text": WORDS} | request_
    with pytest.raises(UserError, match=message):
        generate.Avatar(work).prompt(**{name: str(near / value) if "." in value else value
                                        for name, value in request_.items()})


def spoil(folder, what):
    """Takes out or changes a part of a release."""
    texts = folder / release_layout.NETWORK
    match what:
        case "network":
            (texts / "model.safetensors").unlink()
        case "audio codec":
            (folder / release_layout.AUDIO_CODEC).unlink()
        case "tokenizer":
            (texts / "tokenizer.json").unlink()
        case "larger tokenizer":
            (texts / "tokenizer.json").write_text(json.dumps(tiny_qwen([*SPECIAL, "<more>"])))
        case "template":
            (texts / "chat_template.jinja").write_text("[INST] {{ text }} [/INST]")
        case "statistics":
            (folder / release_layout.MOTION_STD).unlink()
        case "width":
            np.save(folder / release_layout.MOTION_STD, STD[:20])
        case "config":
            (texts / "config.json").write_text(json.dumps({"num_attention_heads": 16}))
        case "rotary":
            (texts / "config.json").write_text(json.dumps({"rope_scaling": {"rope_type": "yarn"}}))
        case "voice":
            write_torch_zip(folder / release_layout.VOICE, {"model": {"a": np.ones(2, "f4")}})
        case "faces":
            write_torch_zip(folder / "deps/LIA-X/lia-x.pt", {"enc.a.weight": np.ones((2, 2), "f4")})
        case "arrays":
            state = network()[1]
            del state["head_stop.proj.bias"]
            state["motion_cfm.more.weight"] = np.ones(3, np.float32)
            safetensors.numpy.save_file(state, texts / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("what, message", [
    ("network", "no network in the folder.*talker-t2av/model.safetensors"),
    ("audio codec", "no audio codec.*whisperx-vae/model.ckpt"),
    ("tokenizer", "tokenizer missing.*talker-t2av.*tokenizer.json"),
    ("larger tokenizer", "tokenizer is of another network.*ids below 263.*263"),
    ("template", "another chat template.*im_start"),
    ("statistics", "motion statistics missing.*motion_std.npy"),
    ("width", r"statistics of another kind.*\(40,\).*\(20,\)"),
    ("config", "config is of another network.*num_heads = 2.*num_heads = 16"),
    ("rotary", "rotary embedding of another kind.*yarn"),
    ("voice", "not the weights of WavLM with ECAPA-TDNN"),
    ("faces", "these are not the weights of LIA-X"),
    ("arrays", r"missing: head_stop.proj.bias \| left over: motion_cfm.more.weight"),
    ("folder", "no such folder.*--folder"),
])
def test_what_is_no_whole_release_leaves_nothing(made, what, message, tmp_path):
    folder = tmp_path / "release"
    shutil.copytree(made[0], folder)
    spoil(folder, what)
    with pytest.raises(UserError, match=message):
        imported(tmp_path / "gone" / "release" if what == "folder" else folder)
    assert {p.name for p in tmp_path.iterdir()} == {"release"}


def test_stage_one_speaks(tmp_path):
    """Text to speech alone, under the names that its trainer gave: its parts, the others fresh."""
    params, state = network()
    older = {}
    for name, x in state.items():
        if name.startswith(("motion_", "projector_motion", "task_")):
            continue
        for today, then in (("speech_cfm.", "motion_cfm."), ("speech_patch_encoder.",
                                                             "patch_encoder."),
                            (".input_proj.", ".in_proj." if "encoder" in name else ".input_proj."),
                            (".global_cond_proj.", ".spk_proj.")):
            name = name.replace(today, then)
        older[name] = x
    older["projector_speech.linear2.weight"] = np.ones((16, 16), np.float32)
    file = tmp_path / "checkpoint-45000/model.safetensors"
    file.parent.mkdir()
    safetensors.numpy.save_file(older, file, {"format": "pt"})
    assert {"motion_cfm.estimator.spk_proj.weight", "patch_encoder.in_proj.weight"} < older.keys()
    config = weights.published_config("talker", older)
    assert {name: config.system[name] for name in SIZES} == SIZES
    read = published.read(older, config.system)
    assert read.keys() == params.keys() - {"motion_encoder", "motion_head", "motion_projector",
                                           "motion_pad", "task"}
    for part, leaves in read.items():
        jax.tree.map(np.testing.assert_array_equal, leaves, params[part])
    with pytest.raises(UserError, match="left over: more"):
        published.read(older | {"more": np.ones(2)}, config.system)
    del older["head_stop.proj.bias"]
    with pytest.raises(UserError, match="missing: head_stop.proj.bias"):
        published.read(older, config.system)


def test_files_of_the_folder_itself(made):
    """The network's own folder, with the other parts beside it."""
    folder = made[0]
    parts = talker.parts(str(folder / "talker-t2av"))
    assert parts.network.parent == parts.texts == folder / "talker-t2av"
    assert parts.audio == folder.resolve() / release_layout.AUDIO_CODEC
