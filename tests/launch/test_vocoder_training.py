"""A vocoder from clips to a training, and from there into the place of Griffin-Lim, into a
published file, and back into a training on generated mel."""

import json

import jax
import numpy as np
import pytest

from avjax.checkpoint.checkpoints import load_meta
from avjax.codecs import bigvgan
from avjax.errors import UserError
from avjax.signal import mel
from avjax.systems import api
from avjax.systems.avflow import config as avflow
from avjax.systems.vocoder import config as vocoder
from configs import base
from configs import vocoder as published_vocoder
from data_pipelines import decode, extract, vocoders
from data_pipelines.puppets import build
from data_pipelines.store import dataset as store
from launch import training
from launch.jobs import evaluate, generate, weights

pytestmark = pytest.mark.usefixtures("imports_on_one_device")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocoder")
    build.prepare(folder / "clips", sentences=3, speakers=1, valid=1, test=1, progress=False)
    extract.extract(folder / "clips", folder / "features", features="vocoder", loudness="speech",
                    progress=False)
    return folder


def config(data, **changes):
    c = base.get_config()
    c.system = vocoder.tiny()
    c.system.update(channels=4, rates=(16, 16), kernels=(32, 32), dilations=((1,),), width=1,
                    mel_scales="one", discriminators=("mpd",), periods=(2, 3))
    c.data.dir, c.data.batch_size, c.data.segment, c.data.threads = str(data), 2, 16, 0
    c.train.steps, c.train.log_every, c.train.best_metric = 3, 1, "mel"
    c.train.checkpoint_every = c.train.evaluate_every = 3
    c.train.peak_flops, c.mesh.data = 1e11, 1
    c.update_from_flattened_dict(changes)
    return c


@pytest.fixture(scope="module")
def trained(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_, d=jax.devices(): d[:1])
        return training.run_training(config(folder / "features"), folder / "run"), folder / "run"


def test_features_are_sound_and_its_mel_on_one_clock(folder):
    clips, made = (store.open_dataset(folder / name) for name in ("clips", "features"))
    for row, clip in zip(made.source("train"), clips.source("train"), strict=True):
        frames = len(clip["audio"]) // 256
        assert row["audio"].shape == (frames, 256) and row["mel"].shape == (frames, 80)
        # at the level that AV-Flow's mel is of, so that they are the same mel
        own = mel.of_speech(clip["audio"].astype(np.float32) / 32768)
        np.testing.assert_allclose(mel.normalise(row["mel"])[2:-2], own[2:frames - 2], atol=2e-3)
        assert row["text"] == clip["text"]
    peak = extract.extract(folder / "clips", folder / "peak", features="vocoder", progress=False)
    row = peak.source("valid")[0]
    assert np.abs(row["audio"]).max() == pytest.approx(0.95, abs=1e-3)
    slow = extract.extract(folder / "clips", folder / "24k", features="vocoder", mel_kind="24k",
                           progress=False)
    assert slow.features["audio"].shape == (None, 240) and slow.features["audio"].rate == 100.0


def test_it_trains_and_makes_the_sound_of_other_systems(trained, folder):
    result, workdir = trained
    assert {"valid/mel", "valid/fooling", "valid/mpd_telling"} <= result.metrics.keys()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = next(line for line in lines if line["kind"] == "train")
    assert {"discriminators/loss", "generator/grad_norm", "mel"} <= logged.keys(), logged
    codec = vocoders.load(workdir, mel.RECIPE)
    recipes = {"mel": mel.RECIPE, "face": {"kind": "puppet"}, "family": {"kind": "avflow"}}
    streams = {"mel": np.random.default_rng(0).standard_normal((30, 80)).astype(np.float32)}
    heard = decode.Decoder(recipes, {}, vocoder=str(workdir)).waveform(streams)
    np.testing.assert_array_equal(
        heard, codec.waveform(mel.denormalise(streams["mel"]), mel.RECIPE))
    with pytest.raises(UserError, match="another mel"):
        vocoders.load(workdir, mel.RECIPE_24K)
    # a copy of the training beside another system's is found there
    (folder / "avatar").mkdir()
    (folder / "avatar" / "vocoder").symlink_to(workdir)
    assert vocoders.in_workdir(folder / "avatar").endswith("vocoder")


def test_out_into_a_published_file_and_back(trained, folder):
    _, workdir = trained
    out = folder / "out" / "g_00000003.pt"
    out.parent.mkdir()
    count = weights.export(str(workdir), str(out))
    ours, theirs = vocoders.load(workdir, mel.RECIPE), vocoders.load(out, mel.RECIPE)
    log_mel = np.zeros((20, 80), np.float32) - 5
    np.testing.assert_allclose(ours.waveform(log_mel), theirs.waveform(log_mel), atol=1e-6)
    assert count > 40 and json.loads((out.parent / "config.json").read_text())["hop_size"] == 256
    with pytest.raises(UserError, match="another file lies"):
        (out.parent / "config.json").write_text("{}")
        weights.export(str(workdir), str(out.with_name("g2.pt")))
    experiment = published_vocoder.get_config("finetune")
    experiment.system = config("").system
    weights.import_file("vocoder", str(out), str(folder / "imported"), config=experiment)
    assert load_meta(folder / "imported")["system"] == "vocoder"
    again = vocoders.load(folder / "imported", mel.RECIPE)
    np.testing.assert_allclose(again.waveform(log_mel), ours.waveform(log_mel), atol=1e-6)


def test_it_speaks_again_what_it_hears(trained, folder, tmp_path):
    system, decoder = api.build(config("").system), decode.Decoder.from_workdir(trained[1])
    row = store.open_dataset(folder / "features").source("valid")[0]
    assert decoder.has_audio(row) and not decoder.has_motion(row)
    assert decoder.mel(row).shape == row["mel"].shape
    assert generate.load_config(trained[1]).system.name == "vocoder" == system.config.name


def test_it_is_scored_beside_griffin_lim(trained, folder):
    c = config(folder / "features", **{"evaluate.benchmark": "vocoder",
                                       "evaluate.max_examples": 1})
    results = evaluate.evaluate(c, trained[1], progress=False)
    found = results["summary"]["valid"]
    model, griffin_lim, truth = (found[v] for v in ("model", "griffin_lim", "truth"))
    for metric in ("MCD_audio", "MRSTFT", "mel_L1"):
        assert model[metric]["value"] > griffin_lim[metric]["value"] > truth[metric]["value"]
    assert truth["MRSTFT"]["value"] == 0 and truth["MCD_audio"]["value"] < 0.5
    assert "WER" in model


@pytest.fixture(scope="module")
def avatar(folder):
    """An AV-Flow that was never trained, and its features of the same clips."""
    features = extract.extract(folder / "clips", folder / "avflow", features="avflow",
                               progress=False)
    c = base.get_config()
    c.system = avflow.tiny()
    c.system.update(d_model=16, num_blocks=1, num_heads=2, d_ff=16, head_dim=7, euler_steps=1,
                    face_dim=features.features["face"].shape[1],
                    token_dim=features.features["tokens"].shape[1])
    c.data.dir = str(features.dir)
    system = api.build(c.system)
    shapes = api.abstract_params(system)
    drawn = jax.tree.map(lambda x: np.random.default_rng(0).standard_normal(x.shape).astype(
        np.float32), shapes)
    weights._save(folder / "spoken", c, system, drawn, shapes, {
        "config": training.plain(c), "recipes": features.recipes, "system": "avflow"})
    training.write_run_files(c, folder / "spoken", features)
    return folder / "spoken"


def test_the_mel_that_a_trained_system_makes_of_the_clips(avatar, folder):
    made = extract.extract(folder / "clips", folder / "generated", features="vocoder",
                           generated=str(avatar), progress=False)
    true = store.open_dataset(folder / "features")
    for row, other in zip(made.source("train"), true.source("train"), strict=True):
        np.testing.assert_allclose(row["audio"], other["audio"], atol=1e-6)
        assert row["mel"].shape == other["mel"].shape and np.isfinite(row["mel"]).all()
        assert np.abs(row["mel"] - other["mel"]).mean() > 0.5  # it has learnt nothing
    assert made.recipes["made_by"]["kind"] == "generated"
    assert bigvgan.mel_hash(made.recipes["mel"]) == bigvgan.mel_hash(mel.RECIPE)
    for options, words in (({"mel_kind": "24k"}, "makes another mel"),
                           ({"generated_data": str(folder / "features")}, "recipe of 'mel'")):
        with pytest.raises(UserError, match=words):
            extract.extract(folder / "clips", folder / "bad", features="vocoder",
                            generated=str(avatar), progress=False, **options)
    with pytest.raises(UserError, match="not the workdir of a vocoder.*avflow"):
        vocoders.load(avatar, mel.RECIPE)
