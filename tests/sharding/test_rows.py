"""Rows in batches over devices: which go together, and that every frozen encoder of extraction
gives each row what it gives it alone, whatever the devices and the batch."""

import ast
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from avjax.codecs.lia_x import codec as lia_x
from avjax.codecs.lia_x import weights
from avjax.encoders.voices import ge2e
from avjax.encoders.whisper import Whisper
from avjax.sharding import rows
from avjax.sharding.mesh import make_mesh
from data_pipelines.features.common.ahead import Ahead
from data_pipelines.features.talker import audio_codec
from data_pipelines.features.talker.audio_codec import HOP, WhisperXVAE
from tests.ge2e_weights import random_weights
from tests.golden_files import config, relative_error, some, under

ALIKE = 1e-5  # of the largest number, float32: other batches are summed in another order


@pytest.fixture(scope="module")
def four():
    return make_mesh({"data": 4}, jax.devices()[:4])


@pytest.fixture
def together(monkeypatch):
    """Devices take several rows, as accelerators do."""
    monkeypatch.setattr(rows, "at_once", lambda rows: min(rows, 2))


def test_rows_of_like_length_go_together(four):
    lengths = [3, 9, 4, 4, 2, 8, 4]
    found = list(rows.groups(lengths, lambda n: -(-n // 4) * 4, lambda n: max(1, 8 // n), 2))
    assert found == [([1], 2, 12), ([5], 2, 8), ([0, 2, 3, 4], 4, 4), ([6], 2, 4)]
    seen = []

    @jax.jit
    def function(x_BT, y_BT2, length_B):
        seen.append(x_BT.shape)
        valid_BT = jnp.arange(x_BT.shape[1]) < length_B[:, None]
        return jnp.where(valid_BT, x_BT + y_BT2[..., 1], 0).sum(1)

    given = [(np.full(n, n, np.float32), np.ones((n, 2), np.float32)) for n in lengths]
    made = rows.through(function, given, four, padded=lambda n: -(-n // 4) * 4, most=lambda n: 2)
    np.testing.assert_array_equal(made, [n * (n + 1) for n in lengths])
    assert seen == [(4, 12), (4, 8), (8, 4)]
    assert rows.through(function, [], four) == []


def test_streams_keep_their_order_and_do_not_wait(four):
    taken = []

    def pictures():
        for k in range(21):
            taken.append(k)
            yield np.full((2, 3), k)

    made = rows.stream(jax.jit(lambda x_BHW: x_BHW.sum((1, 2))), pictures(), four, 2)
    assert next(made) == 0 and len(taken) == 16  # two batches of 4 x 2
    np.testing.assert_array_equal([0, *made], 6 * np.arange(21))


def test_sound(four, together, monkeypatch, tmp_path):
    """Clips of several lengths, one longer than a window, by the audio codec and its Whisper."""
    gold = some("whisperx_vae")
    safetensors.numpy.save_file(dict(under(gold, "sd/")), tmp_path / "vae.safetensors")
    heads = ast.literal_eval(str(gold["whisper"]))["n_audio_head"]
    (tmp_path / "config.json").write_text(json.dumps({"encoder_attention_heads": heads}))
    rng = np.random.default_rng(0)
    audio = [rng.standard_normal(int(n * HOP)).astype(np.float32) * 0.1 for n in (7, 30, 12.5, 9)]
    monkeypatch.setattr(audio_codec, "WINDOW", 25)
    monkeypatch.setattr(audio_codec, "QUANTUM", 25)
    spread = WhisperXVAE.from_checkpoint(str(tmp_path), mesh=four)
    made = spread.many([*map(spread.prepared, audio)])
    assert [len(x) for x in made] == [7, 30, 13, 9]
    assert spread.ahead == 4 * 4 * 2 * 25 * HOP
    monkeypatch.setattr(rows, "at_once", lambda rows: 1)
    alone = WhisperXVAE.from_checkpoint(str(tmp_path))
    for x_N, found in zip(audio, made, strict=True):
        assert relative_error(found, alone.encode(x_N)) < ALIKE


def test_long_sound_by_whisper(four, together):
    gold = some("whisper_encoder")
    heads = config(gold)["encoder_attention_heads"]
    one, spread = (Whisper.from_state_dict(under(gold, "sd/"), num_heads=heads, mesh=mesh)
                   for mesh in (None, four))
    window, rng = one.config.window, np.random.default_rng(0)
    audio = [rng.standard_normal(n).astype(np.float32) for n in (window + 321, 999)]
    for x_N, found in zip(audio, spread.many(audio), strict=True):
        assert relative_error(found, one(x_N)) < ALIKE


def test_voices(four, monkeypatch):
    one, spread = (ge2e.Ge2e(random_weights(), mesh=mesh) for mesh in (None, four))
    speech = [np.random.default_rng(n).normal(size=n).astype(np.float32)
              for n in (16000, 50000, 30000)]
    alone = np.concatenate([one.many([x_N]) for x_N in speech])
    np.testing.assert_allclose(spread.many(speech), alone, atol=ALIKE)
    monkeypatch.setattr(ge2e, "AT_ONCE", 1)
    np.testing.assert_allclose(spread.many(speech), alone, atol=ALIKE)


def test_faces(monkeypatch):
    params = weights.prepared(dict(under(some("lia_x"), "sd/")))
    one = lia_x.LiaX(params, "", rows.one_device())
    spread = lia_x.LiaX(params, "", make_mesh({"data": 2}, jax.devices()[:2]))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 512, 512, 3), np.uint8)
    found = spread.motion(iter(pictures))
    assert found.shape == (3, 40) and one.motion([]).shape == (0, 40)
    monkeypatch.setattr(rows, "at_once", lambda rows: 2)
    assert relative_error(found, one.motion(pictures)) < ALIKE


def test_records_are_looked_at_ahead():
    asked, given = [], []

    def read(i):
        asked.append(i)
        return i

    def prepared(i):
        if i == 3:
            raise ValueError("silence")
        return np.full(2, i)

    def many(parts):
        given.append(len(parts))
        return [x.sum() for x in parts]

    ahead = Ahead(read, prepared, many, 7, 5)
    assert [ahead(1), ahead(2)] == [2, 4] and asked == [1, 2, 3, 4] and given == [3]
    with pytest.raises(ValueError, match="silence"):
        ahead(3)
    assert [ahead(4), ahead(5), ahead(6)] == [8, 10, 12]
    assert asked[4:] == [5, 6] and given == [3, 2]  # not beyond the last
    assert [Ahead(read, prepared, many, 7, 0)(i) for i in (0, 1)] == [0, 2] and given[2:] == [1, 1]
