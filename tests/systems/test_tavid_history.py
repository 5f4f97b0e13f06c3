"""A piece of a dialogue goes on from what was said before as if all were made in one go."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.systems import api
from avjax.systems.api import Spec, build
from avjax.systems.tavid import config as tavid
from avjax.systems.tavid.acoustic.expand import mel_frames
from avjax.systems.tavid.history import LONGEST, TURN, History
from avjax.systems.tavid.joining import joined, later
from avjax.systems.tavid.visual import sampler
from tests.systems.tavid_text_tiny import small

STREAMS, BANDS, ROOM, CONTEXT = 2, 3, 600, 1500


def test_joined_and_later_are_each_others_reverse():
    rng = np.random.default_rng(0)
    before, x = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 4, 3))
    length = np.array([2, 5])
    both = np.asarray(joined(jnp.asarray(before), length, jnp.asarray(x)))
    for b in range(2):
        expected = np.concatenate([before[b, :length[b]], x[b]])
        np.testing.assert_allclose(both[b, :len(expected)], expected, rtol=1e-6)
    np.testing.assert_allclose(later(jnp.asarray(both), length, 4), x, rtol=1e-6)


def drawn(system, rng, scale):
    """Random parameters."""
    shapes = api.abstract_params(system)
    return jax.tree.map(lambda x: scale * rng.standard_normal(x.shape, np.float32), shapes)


@pytest.mark.parametrize("variant", [dict(), dict(coupling="independent", alignment="none",
                                                  frames_per_step=1, repetition_window=2)])
def test_units_go_on_as_if_nothing_had_been_said_before(variant):
    """Rows of a batch that were told the first 4 and 7 (or half) of their own frames say the
    rest."""
    c = small(stop_seconds=0.0, guidance=1.0, **variant)
    system, rng = build(c), np.random.default_rng(3)
    params = drawn(system, rng, 0.4)
    given = {"tokens_BN": rng.integers(10, 20, (2, 9)).astype(np.int32),
             "tokens_length_B": np.array([9, 6]), "keys": jax.random.split(jax.random.key(1), 2),
             "token_speaker_BN": rng.integers(0, 2, (2, 9)).astype(np.int32),
             "times_BN": np.tile(np.arange(9, dtype=np.float32) * 2, (2, 1))}
    decode = jax.jit(lambda frames, length: system.decode(
        params, **given, max_steps=24, said_BPS=frames, said_length_B=length))
    none = np.zeros(2, np.int32)
    whole, lengths = jax.device_get(decode(np.zeros((2, 10, 2), np.int32), none))
    said = np.minimum([4, 7], lengths // 2).astype(np.int32)
    assert said.min() > 0
    more, new = jax.device_get(decode(whole[:, :10], said))
    assert more.shape == whole.shape and len({tuple(x) for x in whole[0]}) > 4
    for b in range(2):
        n = lengths[b] - said[b]
        np.testing.assert_array_equal(more[b, :n], whole[b, said[b]:lengths[b]])
        assert new[b] == n if lengths[b] < 24 else n <= new[b] <= 24
    other, _ = jax.device_get(decode(whole[:, :10] * 0 + 8, said))
    assert (other[0, :10] != more[0, :10]).any(), "what was said is heard"


def test_the_plan_of_new_text_begins_after_what_was_said():
    system, rng = build(small(guidance=1.0)), np.random.default_rng(0)
    params = drawn(system, rng, 0.2)
    tokens = rng.integers(10, 20, (1, 12)).astype(np.int32)
    known = np.zeros((1, 12), np.float32)
    known[0, :5] = [1, 3, 2, 6, 9]
    given = {"tokens": tokens, "tokens_length": np.array([11]),
             "token_speaker": np.zeros((1, 12), np.int32), "room": np.zeros((1, 30), np.int32),
             "said": rng.integers(0, 9, (1, 30, STREAMS)).astype(np.int32),
             "said_length": np.array([14]), "said_tokens": np.array([5]), "said_times": known}
    made = jax.device_get(jax.jit(system.go_on)(params, given,
                                                jax.random.split(jax.random.key(2), 1)))
    np.testing.assert_array_equal(made["times"][0, :5], known[0, :5])
    assert (made["times"][0, 5:11] >= 14).all() and np.ptp(made["times"][0, 5:11]) > 1
    last = made["times"][0, :11].max()
    assert made["units"].shape == (1, 30, STREAMS)
    assert min(30, last - 14) <= made["units_length"][0] <= 30


def conditions(tokens, said_tokens, length=20):
    return {"tokens": tokens[None], "tokens_length": np.array([length], np.int32),
            "token_speaker": np.where(tokens == 1, -1, 0)[None],
            "said_tokens": np.array([said_tokens], np.int32),
            "room": np.zeros((1, ROOM), np.int32)}


def test_what_is_looked_back_at_lies_on_the_clock_of_all_pieces():
    """Units and sound of the last five to ten seconds, from where both begin together."""
    rng = np.random.default_rng(0)
    specs = {"units": Spec(("batch", "time", STREAMS), "int32", ""),
             "mel": Spec(("batch", "time", STREAMS, BANDS), "float32", "")}
    history = History(types.SimpleNamespace(context=CONTEXT, streams_spec=specs))
    units, mel = np.zeros((0, STREAMS), np.int32), np.zeros((0, STREAMS, BANDS))
    tokens, times, said_before = np.arange(2, 26), None, 0
    for k, length in enumerate((100, 222, 300, 84, 0, 60)):
        given = history.before(conditions(tokens, 8 * (k > 0)))
        heard, said = int(given["heard_length"][0]), int(given["said_length"][0])
        begin = len(units)
        assert (begin - heard) % TURN == 0 and heard <= begin
        assert heard >= min(begin, TURN) and heard < LONGEST == given["heard"].shape[1]
        np.testing.assert_array_equal(given["heard"][0, :heard], units[begin - heard:])
        first, last = mel_frames(begin - heard), mel_frames(begin)
        assert last - first == mel_frames(heard)
        np.testing.assert_array_equal(given["heard_mel"][0, :last - first],
                                      mel[first:last])
        if k in (0, 5):  # nothing was said before, or in the piece before
            assert said == given["said_tokens"][0] == 0
            assert given["tokens_length"][0] == (20 if k == 0 else 12)
            np.testing.assert_array_equal(given["tokens"][0, :12],
                                          tokens[:12] if k == 0 else tokens[8:20])
        else:
            np.testing.assert_array_equal(given["said"][0, :said], units[begin - said:])
            # the last eight ids of the text before, counted from where that piece's own began
            np.testing.assert_allclose(given["said_times"][0, :8], times[12:20] - said_before)
            assert given["said"].shape[1] == ROOM
        times, said_before = np.sort(rng.uniform(0, 900, 24)).astype(np.float32), said
        new = rng.integers(0, 9, (length, STREAMS))
        sound = rng.normal(size=(mel_frames(begin + length) - last, STREAMS, BANDS))
        sound = sound.astype(np.float32)
        history.add(given, new[None], sound[None], times[None])
        units, mel = np.concatenate([units, new]), np.concatenate([mel, sound])


def test_too_long_for_both_begins_with_what_is_new():
    specs = {"units": Spec(("batch", "time", STREAMS), "int32", ""),
             "mel": Spec(("batch", "time", STREAMS, BANDS), "float32", "")}
    tokens = np.array([5, 6, 7, 8, 1, 1, 9, 10, 11, 12, 0, 0])  # 1: marks between the two
    for length, count in ((300, 4), (700, 0)):  # 300 + 1.25 * 300 * 6 / 4 frames fit into 1000
        history = History(types.SimpleNamespace(context=1000, streams_spec=specs))
        history.add(history.before(conditions(tokens, 0, 10)),
                    np.zeros((1, length, STREAMS), np.int32),
                    np.zeros((1, mel_frames(length), STREAMS, BANDS)), None)
        given = history.before(conditions(tokens, 4, 10))
        assert given["said_tokens"][0] == count and given["said_length"][0] == length * (count > 0)
        assert given["tokens_length"][0] == (10 if count else 4)
        assert given["tokens"].shape == (1, 12) and given["heard_length"][0] > 0
        if not count:
            np.testing.assert_array_equal(given["tokens"][0, :4], [9, 10, 11, 12])


@pytest.fixture(scope="module")
def system():
    c = tavid.tiny()
    for part in (c.text, c.acoustic, c.visual.mapper):
        part.num_units = 12
    c.text = small(num_units=12, row_frames=128, filler=3, guidance=1.0)
    c.acoustic.update(dict(d_model=16, d_ff=16, num_layers=1, num_heads=2, unit_dim=8, steps=2,
                           position_groups=4, partner=True))
    c.speaker.update(dict(inputs="none", hidden=8, face_dim=16))
    v = c.visual
    v.stage, v.clip, v.steps, v.latent_size, v.face_width = "temporal", 4, 2, (4, 4), 16
    v.guidance_motion = 1.0
    v.unet.update(dict(channels=(8,), attention_levels=(True,), heads=2, groups=4, face_dim=8,
                       motion_dim=8))
    v.mapper.update(dict(d_model=16, num_blocks=1, num_heads=2, token_dim=8, unit_dim=8, tokens=1))
    return api.build(c)


@pytest.fixture(scope="module")
def params(system):
    return drawn(system, np.random.default_rng(0), 0.2)


@pytest.fixture(scope="module")
def heard(system):
    """Conditions of 20 units after 14, padded; and of all 34 in one go."""
    rng = np.random.default_rng(1)
    units = rng.integers(0, 12, (1, 34, 2)).astype(np.int32)
    shapes = {n: s.resolve(batch=1, time=20, units=20, tokens=8)
              for n, s in system.conditions_spec.items()}
    given = {n: rng.standard_normal(s.shape).astype(s.dtype) for n, s in shapes.items()
             if s.dtype.kind != "i"} | {"has_first": np.zeros(1, np.float32)}
    one = given | {"units": units, "units_length": np.array([34])}
    two = given | {"units": np.pad(units[:, 14:], ((0, 0), (0, 4), (0, 0))),
                   "units_length": np.array([20]),
                   "heard": np.pad(units[:, :14], ((0, 0), (0, 6), (0, 0))),
                   "heard_length": np.array([14]),
                   "heard_mel": np.zeros((1, mel_frames(20), 2, 80), np.float32)}
    return one, two


def test_sound_and_motion_go_on_from_all_speakers_units(system, params, heard):
    one, two = heard
    keys = jax.random.split(jax.random.key(3), 1)
    voices = np.random.default_rng(2).standard_normal((1, 2, 256)).astype(np.float32)
    sound = jax.jit(system.sound)
    whole, more = (jax.device_get(sound(params, given, voices, keys)) for given in (one, two))
    first, frames = mel_frames(14), mel_frames(34) - mel_frames(14)
    assert more["mel_length"][0] == frames
    np.testing.assert_allclose(more["mel"][:, :frames], whole["mel"][:, first:first + frames],
                               atol=1e-5)
    alone = jax.device_get(sound(params, {n: x for n, x in two.items() if "heard" not in n}, voices,
                                 keys))
    assert np.abs(alone["mel"][:, :4] - more["mel"][:, :4]).max() > 1e-3

    begin = jax.jit(functools.partial(sampler.begin, system.parts["visual"]))
    tokens = [jax.device_get(begin(params["visual"], given, keys)[2][True]) for given in (one, two)]
    np.testing.assert_allclose(tokens[1][:, :10], tokens[0][:, 7:17], atol=1e-5)


@pytest.mark.slow
def test_pieces_that_are_streamed_are_those_of_generate(system, params):
    """Two pieces of speech, the second beginning with the text of the first."""
    rng = np.random.default_rng(5)
    shapes = {n: s.resolve(batch=1, time=40, units=1, tokens=12)
              for n, s in system.conditions_spec.items()}
    base = {n: rng.standard_normal(s.shape).astype(s.dtype) if s.dtype.kind != "i" else
            np.zeros(s.shape, s.dtype) for n, s in shapes.items()}
    tokens = rng.integers(10, 20, (1, 12)).astype(np.int32)
    pieces = [base | {"tokens": tokens, "tokens_length": np.array([5], np.int32)},
              base | {"tokens": tokens, "tokens_length": np.array([11], np.int32),
                      "said_tokens": np.array([5], np.int32)}]
    keys = jax.random.split(jax.random.key(3), 1)
    chunks = list(system.stream(params, pieces, keys, "speech"))
    assert all("times" not in chunk.streams for chunk in chunks)
    history, made = History(system), []
    units, sound, voices_of = map(jax.jit, (system.units, system.sound, system.voices))
    for k, piece in enumerate(pieces):
        given = history.before(piece)
        assert given["said_tokens"][0] == 5 * k
        key = keys if not k else jax.vmap(jax.random.fold_in, (0, None))(keys, k)
        new = jax.device_get(units(params, given, key))
        length = int(new["units_length"][0])
        voices = voices_of(params, given)
        heard = jax.device_get(sound(params, given | new, voices, key))
        begin = sum(len(x) for x, _ in made)
        frames = mel_frames(begin + length) - mel_frames(begin)
        assert heard["mel_length"][0] == frames, "no frame has to be held"
        made.append((new["units"][0, :length], heard["mel"][0, :frames]))
        history.add(given, new["units"][:, :length], heard["mel"][:, :frames], new["times"])
    for chunk, (new, mel) in zip(chunks, made, strict=True):
        np.testing.assert_array_equal(chunk.streams["units"][0], new)
        np.testing.assert_allclose(chunk.streams["mel"][0], mel, atol=2e-5)
