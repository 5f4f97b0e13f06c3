"""AV-Flow's release in its owners' layout: imported whole, then driven by sound and by tokens."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from avjax.checkpoint.checkpoints import load_meta
from avjax.errors import UserError
from avjax.inference.generator import Generator, Item
from avjax.signal import mel
from avjax.systems import api
from avjax.systems.avflow import published
from avjax.weights.torch_writer import write_torch_zip
from configs import avflow_50h
from data_pipelines import decode, extract
from data_pipelines.features.common import ctc
from launch.jobs import generate, release
from launch.training import RECIPES_FILE
from tests import commands
from tests.data_pipelines.ingest import code_trees as trees
from tests.data_pipelines.ingest.reading import made as prepared
from tests.data_pipelines.test_vocoder import SIZES, generator
from tests.golden_files import config as golden_config
from tests.golden_files import some, under

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("imports_on_one_device")
RATE = 86.13281230  # as the published code writes it
SECONDS = 1.5
PARTNERS = {"monadic": {}, "dyadic": published.DYADIC, "photoreal": {"partner_token_dim": 29}}


def experiment(**partner):
    """The release's at a small size."""
    c = avflow_50h.get_config()
    c.system.update(dict(d_model=16, num_blocks=2, num_heads=2, d_ff=8)
                    | dict.fromkeys(published.DYADIC, 0) | partner)
    return c


def network(config):
    """Random parameters, gates included, and the file that the release's trainer saves of them."""
    system = api.build(config.system)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape).astype(np.float32),
                          api.abstract_params(system))
    file = published.trainer_file(published.export_avflow(params, config.system), 7)
    return system, params, file


def add_parts(folder, near=None):
    """The vocoder, beside its discriminators; the network that hears; text to tokens."""
    vocoder = folder / "bigvgan_base_22khz_80band_finetuned"
    vocoder.mkdir()
    state = {k.replace("conv_pre.weight", "conv_pre.weight_v"): v
             for k, v in generator(SIZES).items()}  # one layer with its weight norm
    state["conv_pre.weight_g"] = np.sqrt(np.square(state["conv_pre.weight_v"]).sum((1, 2),
                                                                                 keepdims=True))
    write_torch_zip(vocoder / "bigvgan_generator.pt", {"generator": state})
    write_torch_zip(vocoder / "bigvgan_discriminator_optimizer.pt", {"mpd": {}})
    (vocoder / "config.json").write_text(json.dumps(SIZES))
    record = some("wav2vec2_ctc")
    write_torch_zip(folder / "wav2vec2_fairseq_base_ls960_asr_ls960.pth", under(record, "sd/"))
    (folder / "config.json").write_text(json.dumps(golden_config(record)))
    write_torch_zip((near or folder) / "text_to_tokens.pth", under(some("avflow_text"), "sd/"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the release's folder, its workdir, what was said, system, parameters, head VAE)"""
    near = tmp_path_factory.mktemp("release")
    folder = near / "50h_dataset"
    vae = trees.fifty_hours(folder)
    config = experiment()
    system, params, file = network(config)
    write_torch_zip(folder / "av_flow_ckpt_50h.pt", file)
    add_parts(folder, near)
    soundfile.write(near / "speech.wav", np.resize(some("wav2vec2_ctc")["wav"][0],
                                                   int(SECONDS * 16000)), 16000, "FLOAT")
    told: list[str] = []
    release.import_folder("avflow", str(folder), str(near / "work"), config=config,
                          say=told.append)
    return folder, near / "work", told, system, params, vae


def test_the_workdir_is_as_one_trained_on_the_corpus(made, tmp_path):
    """Recipes and codecs are those of the features that a training would go on with."""
    folder, work, told, *_ = made
    prepared("avflow50h", folder, tmp_path / "clips", participant=False)
    features = extract.extract(tmp_path / "clips", tmp_path / "features", tokens="given",
                               head="vae", mode="released", loudness="recorded", progress=False)
    recipes = json.loads((work / RECIPES_FILE).read_text())
    streams = ("mel", "tokens", "face", "head", "family")
    assert {k: recipes[k] for k in streams} == {k: features.recipes[k] for k in streams}
    assert {p.stem for p in (work / "codecs").glob("*.npz")} == set(features.codecs)
    for name in features.codecs:
        with np.load(work / "codecs" / f"{name}.npz") as arrays:
            assert arrays.keys() == features.codec(name).keys()
            for key, array in features.codec(name).items():
                np.testing.assert_array_equal(arrays[key], array, err_msg=f"{name}, {key}")
    names = [line.partition(":")[0] for line in told]
    assert names == ["network", "vocoder", "sound to tokens", "text to tokens"]
    assert sorted(p.name for p in (work / "vocoder").iterdir()) == ["bigvgan_generator.pt",
                                                                    "config.json"]
    text = load_meta(work / "text")
    assert text["system"] == "avflow.text" and text["config"]["system"]["std"] == 4.5255
    spoken = generate.Avatar(work).prompt(text="Hello.").conditions["tokens"]
    assert spoken.shape[1] == ctc.WIDTH and spoken.std() > 0.1


def torch_linear(x_TC, frames, scale):
    """torch's interpolate(scale_factor, mode="linear")."""
    at = np.clip((np.arange(frames) + 0.5) / scale - 0.5, 0, len(x_TC) - 1)
    flat = x_TC.reshape(len(x_TC), -1)
    out = np.stack([np.interp(at, np.arange(len(flat)), c) for c in flat.T], 1)
    return out.reshape(frames, *x_TC.shape[1:])


def test_sound_becomes_the_published_chains_streams(made, tmp_path):
    """As the published code goes about it: logits interpolated by the rates, 16 Euler steps, the
    head VAE at the mel's rate, rotations interpolated as matrices, frames floored."""
    _, work, _, system, params, (vae, vae_params) = made
    speech = str(work.parent / "speech.wav")
    files = generate.generate(work, out=tmp_path / "out", save_latents=True, audio=speech)
    assert {k: p.name for k, p in files.items()} == {
        "npz": "out.npz", "wav": "out.wav", "expression_codes.npy": "out.expression_codes.npy",
        "headpose.npy": "out.headpose.npy"}
    logits = ctc.load(str(work / "ctc"))(soundfile.read(speech, dtype="float32")[0])
    frames = int(len(logits) * (RATE / 49.99))
    tokens = torch_linear(logits, frames, RATE / 49.99).astype(np.float32)
    [(_, out, _)] = Generator(system, seed=0).batches(
        params, [Item("speech.wav", lambda: ({"tokens": tokens}, frames))])
    assert system.config.euler_steps == 16
    with np.load(files["npz"]) as latents:
        for name in ("mel", "face", "head"):
            np.testing.assert_allclose(latents[name], out[name][0, :frames], atol=2e-4)
        streams = dict(latents)
    count = int(frames * (30 / RATE))
    np.testing.assert_allclose(np.load(files["expression_codes.npy"]),
                               torch_linear(streams["face"], count, 30 / RATE), atol=1e-4)
    z_T7 = np.asarray(vae.decode(vae_params, streams["head"][None]))[0]
    pose = z_T7 * [*[2.0] * 4, *[60.0] * 3] + [*[0.1] * 4, *[3.0] * 3]
    q = pose[:, :4] / np.linalg.norm(pose[:, :4], axis=1, keepdims=True)
    turned = np.stack([rotate(q, axis) for axis in np.eye(3)], -1)
    headpose = np.load(files["headpose.npy"])
    np.testing.assert_allclose(headpose[:, :, :3], torch_linear(turned, count, 30 / RATE),
                               atol=1e-4)
    np.testing.assert_allclose(headpose[:, :, 3], torch_linear(pose[:, 4:], count, 30 / RATE),
                               atol=2e-3)
    sound, rate = soundfile.read(files["wav"])
    assert rate == 22050 and len(sound) == frames * 256 and sound.std() > 1e-4

    (tmp_path / "owners").mkdir()
    owners = tmp_path / "owners/speech.wav"  # of the same name, which names the noise
    with open(owners, "wb") as file:
        np.save(file, np.stack([0 * logits, logits]))
    again = generate.generate(work, out=tmp_path / "by_tokens", tokens=str(owners), channel=2)
    for name in ("expression_codes.npy", "headpose.npy"):
        np.testing.assert_allclose(np.load(again[name]), np.load(files[name]), atol=1e-4)


def rotate(q_T4, v_3):
    """v turned by unit quaternions wxyz."""
    w, u = q_T4[:, :1], q_T4[:, 1:]
    return v_3 + 2 * np.cross(u, np.cross(u, v_3) + w * v_3)


@pytest.mark.parametrize("kind", PARTNERS)
def test_a_network_that_listens_finds_its_ranges(kind, tmp_path):
    """Sizes of all releases' networks are read off the file; four numbers of head are angles,
    which nothing normalises."""
    folder, partner = tmp_path / "PXB184", PARTNERS[kind]
    config = experiment(**partner)
    _, _, file = network(config)
    trees.fifty_hours(folder)
    if kind == "photoreal":
        trees.vae(folder / "head_vae/iter-0500000.pt", 4)
    for number in (9, 10):
        write_torch_zip(folder / f"iter-{number:07}.pt", file | {"iteration": number})
    told: list[str] = []
    made = release.import_folder("avflow", str(folder), str(tmp_path / "work"),
                                 say=told.append)
    assert told[0].endswith("iter-0000010.pt") and "Griffin-Lim" in told[1]
    assert {n: made.system[n] for n in published.DYADIC} == dict.fromkeys(
        published.DYADIC, 0) | partner
    assert (made.system.d_model, made.system.face_dim, made.system.num_heads) == (16, 256, 4)
    codecs = {p.stem: dict(np.load(p)) for p in (tmp_path / "work/codecs").glob("*.npz")}
    assert ("partner" in codecs) == (kind == "dyadic")
    assert str(codecs["speakers"]["names"][0]) == ("PXB184" if kind == "photoreal" else "actor")
    assert len(codecs["pose"]["mean"]) == (4 if kind == "photoreal" else 7)
    assert made.system.mel_recipe.to_dict() == mel.RECIPE


def test_angles_of_neck_and_head_are_smoothed(tmp_path):
    """A Gaussian of 5 frames at 30 Hz over what the head VAE makes at the mel's rate."""
    folder, config = tmp_path / "PXB184", experiment()
    _, _, file = network(config)
    system, params = trees.vae(folder / "head_vae/iter-0500000.pt", 4)
    write_torch_zip(folder / "iter-0000001.pt", file)
    release.import_folder("avflow", str(folder), str(tmp_path / "work"), config=config,
                          say=lambda line: None)
    rng = np.random.default_rng(0)
    streams = {name: rng.standard_normal((150, width)).astype(np.float32)
               for name, width in (("mel", 80), ("face", 256), ("head", 8))}
    made = decode.Decoder.from_workdir(tmp_path / "work").family.owners_arrays(streams)
    angles = np.asarray(system.decode(params, streams["head"][None]))[0]
    angles = torch_linear(angles, int(len(angles) * (30 / RATE)), 30 / RATE)
    offsets = np.arange(-20, 21)
    weights = np.exp(-0.5 * (offsets / 5) ** 2)
    padded = np.pad(angles, ((20, 20), (0, 0)), mode="symmetric")
    want = np.stack([np.convolve(c, weights / weights.sum(), "valid") for c in padded.T], 1)
    np.testing.assert_allclose(made["neck_head_pose"], want, atol=1e-4)
    np.testing.assert_allclose(made["face_expression"], torch_linear(
        streams["face"], len(want), 30 / RATE), atol=1e-5)


def spoilt(folder, what):
    """Takes out or changes a part of a release."""
    if what == "network":
        (folder / "av_flow_ckpt_50h.pt").unlink()
    elif what == "head VAE":
        (folder / "head_vae/iter-0500000.pt").unlink()
    elif what == "statistics":
        for name in ("qvec_std", "translation_mean"):
            (folder / f"headpose/headpose_normstats/head_{name}.npy").unlink()
    elif what == "vocoder":
        sizes = folder / "bigvgan_base_22khz_80band_finetuned/config.json"
        sizes.write_text(json.dumps(SIZES | {"fmax": 11025}))
    elif what == "text":
        write_torch_zip(folder / "text_to_tokens.pth", {"encoder.emb.weight": np.zeros((178, 4))})
    elif what == "arrays":
        file = folder / "av_flow_ckpt_50h.pt"
        tree = network(experiment())[2]
        state = tree["model_state_dict"]
        del state["diffusion_module.out_v.bias"]
        del state["diffusion_module.fusion.1.weight"]
        state["diffusion_module.more"] = np.zeros(3, np.float32)
        write_torch_zip(file, tree)


@pytest.mark.parametrize("what, message", [
    ("network", "no network in the folder.*av_flow_ckpt"),
    ("head VAE", "no head VAE.*head_vae.*iter-"),
    ("statistics", "statistics of.*head_translation_mean.npy, .*head_qvec_std.npy.*fetch them"),
    ("vocoder", "another mel.*11025"),
    ("arrays", r"missing: fusion.1.weight, out_v.bias \| left over: more"),
    ("text", "not a text-to-tokens state dict"),
    ("folder", "no such folder.*--folder"),
    ("system", "no release of this system.*avflow.*found: vocoder"),
])
def test_what_is_no_whole_release_leaves_nothing(what, message, tmp_path):
    folder = tmp_path / "50h"
    trees.fifty_hours(folder)
    config = experiment()
    write_torch_zip(folder / "av_flow_ckpt_50h.pt", network(config)[2])
    add_parts(folder)
    spoilt(folder, what)
    with pytest.raises(UserError, match=message):
        release.import_folder("vocoder" if what == "system" else "avflow",
                              "/nowhere" if what == "folder" else str(folder),
                              str(tmp_path / "work"), config=config, say=lambda line: None)
    assert {p.name for p in tmp_path.iterdir()} == {"50h"}


def test_the_command_says_what_is_missing(tmp_path):
    run = commands.run("weights", "import", "--system=avflow", f"--folder={tmp_path}",
                       f"--workdir={tmp_path / 'work'}")
    assert run.returncode == 2 and "no network in the folder" in run.stderr
    assert run.stderr.count("\n") == 1 and not (tmp_path / "work").exists()
