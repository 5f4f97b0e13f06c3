"""Fixtures: the folder of a tiny Talker that was never trained, on puppets, and what can be asked
of it. A test file takes those that it names."""

import numpy as np
import pytest
import soundfile
import soxr

from avjax.encoders import espeak
from avjax.systems import api
from avjax.systems.talker import config as talker_config
from configs import base
from data_pipelines import decode, prompting
from data_pipelines.features.talker import extract as features
from data_pipelines.puppets import build
from data_pipelines.store import dataset as store
from launch import training
from launch.jobs import generate


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The folder of a tiny Talker that was never trained, its dataset made of puppets."""
    folder = tmp_path_factory.mktemp("talker")
    build.prepare(folder / "clips", sentences=4, speakers=2, valid=1, test=1, progress=False)
    dataset = features.extract(folder / "clips", folder / "features", progress=False)
    c = base.get_config()
    c.system = s = talker_config.default()
    s.vocab, s.d_model, s.velocity_width, s.d_ff = dataset.recipes["tokens"]["vocab"], 32, 32, 48
    s.num_layers, s.num_heads, s.num_kv_heads, s.head_dim = 1, 2, 1, 16
    s.encoder_layers, s.encoder_heads, s.velocity_layers, s.velocity_heads = 1, 2, 1, 2
    s.row_tokens, s.row_patches, s.steps, s.delay = 100, 40, 2, 1
    c.data.dir = str(dataset.dir)
    training.write_run_files(c, folder / "run", dataset)
    return folder / "run"


@pytest.fixture(scope="module")
def parts(workdir):
    """(system, decoder, dataset)"""
    config = generate.load_config(workdir)
    return api.build(config.system), decode.Decoder.from_workdir(workdir), store.open_dataset(
        config.data.dir)


@pytest.fixture
def prompt(parts):
    def make(**request):
        return prompt_of(*parts, **request)
    return make


def prompt_of(system, decoder, dataset, **request) -> prompting.Prompt:
    builder = prompting.builder("talker")
    return builder.build(builder.request("talker", data=str(dataset.dir), **request), system,
                         decoder)


@pytest.fixture(scope="module")
def files(parts, tmp_path_factory):
    """Speech of 1 s, motion of it, and motion that is wrong in several ways."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    said = (espeak.synthesize("My brother walked home.").audio[:espeak.SAMPLE_RATE] / np.float32(
        32768))
    soundfile.write(folder / "speech.wav", soxr.resample(said, espeak.SAMPLE_RATE, 16000), 16000)
    raw = rng.standard_normal((25, 40)).astype(np.float32)
    mean, std = (parts[1].codec("motion")[k] for k in ("mean", "std"))
    np.save(folder / "motion.npy", raw)
    np.savez(folder / "latents.npz", motion=(raw - mean) / np.maximum(std, 1e-6))
    np.save(folder / "narrow.npy", raw[:, :39])
    np.save(folder / "long.npy", np.concatenate([raw, raw]))
    np.save(folder / "nan.npy", raw * np.nan)
    return folder
