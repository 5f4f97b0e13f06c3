"""configs/avflow_text.py:small learns how long symbols are and what they sound like, of a corpus in
which they are always spoken alike."""

import numpy as np
import pytest

from avjax.checkpoint.checkpoints import load_params
from avjax.inference.generator import Generator
from avjax.systems import api
from configs import avflow_text
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature
from launch import training
from tests.workdirs import records

VOICE = 2 * np.random.default_rng(1).standard_normal((10, 3)).astype(np.float32)
FRAMES = np.array([1, 2, 3, 2, 4, 2, 3, 5, 2, 3])  # of each symbol, always


def utterance(rng, name: str) -> dict:
    symbols = np.zeros(9, np.int32)
    symbols[1::2] = rng.integers(1, 10, 4)
    tokens = VOICE[np.repeat(symbols, FRAMES[symbols])]
    return {"id": name, "symbols": symbols,
            "tokens": tokens + 0.05 * rng.standard_normal(tokens.shape).astype(np.float32)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng = np.random.default_rng(2)
    features = {"id": Feature((), "str", "name"),
                "symbols": Feature((None,), "int32", "symbols"),
                "tokens": Feature((None, 3), "float32", "speech tokens", "", 22050 / 256)}
    return store.write_dataset(
        tmp_path_factory.mktemp("corpus") / "data", name="chant", description="symbols chanted",
        features=features, progress=False, recipes={},
        splits={split: [utterance(rng, f"{split}{i}") for i in range(count)]
                for split, count in (("train", 24), ("valid", 3))})


def small(corpus):
    c = avflow_text.get_config("small")
    c.system.update(dict(symbols=10, token_dim=3, mean=0.0, std=2.0, row_symbols=12,
                         row_frames=32, euler_steps=4))
    c.system.encoder.update(dict(width=32, layers=1, d_ff=32, duration_width=32,
                                 convolution_dropout=0.0, dropout=0.0))
    c.system.unet.update(dict(channels=(32,), middle=0, head_width=8, dropout=0.0))
    c.data.dir = str(corpus.dir)
    c.optimizer.learning_rate, c.optimizer.warmup_steps = 5e-3, 5
    c.train.update(dict(steps=120, checkpoint_every=120, evaluate_every=120, log_every=1,
                        loss_examples=3, peak_flops=1e11))
    c.mesh.update(dict(data=1, fsdp=1))
    return c.lock()


def test_a_training_learns_durations_and_tokens(corpus, tmp_path, one_device):
    config = small(corpus)
    metrics = training.run_training(config, tmp_path / "run").metrics
    assert {"valid/loss", "valid/duration", "valid/prior", "valid/flow"} <= metrics.keys()
    first = records(tmp_path / "run")[0]
    assert metrics["valid/duration"] < 0.1 < first["duration"]
    system = api.build(config.system)
    params = load_params(tmp_path / "run", system)
    heard = utterance(np.random.default_rng(3), "new")
    [(_, out)] = Generator(system, seed=0)(params, [("new", heard)])
    # a duration is rounded up
    assert 0 <= len(out["tokens"]) - len(heard["tokens"]) <= len(heard["symbols"])
    said = np.abs(out["tokens"][:, None] - VOICE).sum(-1).argmin(-1)
    assert said[np.flatnonzero(np.diff(said, prepend=-1))].tolist() == heard["symbols"].tolist()
