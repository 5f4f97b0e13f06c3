"""Where Talker-T2AV's sampler ends an utterance, against the stop labels of training; and what it
takes back for that."""

import jax
import numpy as np
import pytest

from avjax.systems.api import build
from avjax.systems.talker import objective, sampler
from avjax.systems.talker.streaming import StreamingSampler
from tests.systems.talker_golden import pack
from tests.systems.talker_tiny import random_params, tiny

ROOM, PROMPTS = 12, (3, 5, 2)  # frames; tokens of each row
AUDIO, MOTION = (0, 5, 2), (0, 4, 7)  # frames of prefix
KEYS = jax.random.split(jax.random.key(3), 3)


def make(**overrides):
    """Stops as soon as it may."""
    system = build(tiny(**dict(steps=3, min_patches=3, stop_streak=2, temperature=1.0, delay=2,
                               num_layers=1,
                               stop_threshold=1e-9) | overrides))
    return system, random_params(system)


def conditions(c):
    """Three rows; prefixes that end within patches, and not together."""
    rng = np.random.default_rng(0)
    return {"prompt": rng.integers(0, c.vocab, (3, max(PROMPTS))).astype(np.int32),
            "prompt_length": np.array(PROMPTS, np.int32), "audio_length": np.array(AUDIO, np.int32),
            "motion_length": np.array(MOTION, np.int32)} | {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in (
            ("speaker", (3, c.speaker_dim)), ("first_motion", (3, c.motion_dim)),
            ("audio", (3, ROOM, c.audio_dim)), ("motion", (3, ROOM, c.motion_dim)))}


def follow(system, params, given, task="t2av"):
    """(what generate returns, hidden states (rows, slots, D) as the slots had them in the end,
    slots of each row)."""
    noise = sampler.draw(system, KEYS, ROOM // system.config.patch)
    ready, stays, state = jax.jit(lambda p, x,
                                  z: sampler.start(system, p, x, task, z))(params, given, noise)

    @jax.jit
    def step(ready, stays, state):
        state = sampler.advance(system, ready, stays, state, task)
        return state, sampler.finished(state)

    hidden = np.full((3, ROOM, system.config.d_model), np.nan, np.float32)
    over = np.zeros(3, bool)
    for _ in range(30):
        slot, running = np.asarray(state["slot"]), ~over
        state, over = jax.device_get(step(ready, stays, state))
        # a row that goes back holds an earlier state, written down already
        on = running & (state["slot"] == slot + 1)
        hidden[np.flatnonzero(on), slot[on]] = state["hidden"][on]
        if over.all():
            break
    assert over.all()
    out = jax.jit(lambda stays, state: sampler.streams(system, stays, state, task))(stays, state)
    return jax.device_get(out), hidden, state["slots"]


def trained(system, params, given, out):
    """Training's rows of the same utterances, and its hidden states at their slots (rows, slots,
    D)."""
    c, rows = system.config, []
    for row, n in enumerate(PROMPTS):
        frames = {name: out[name][row, :out[f"{name}_length"][row]] for name in ("audio", "motion")}
        count = {name: -(-len(x) // c.patch) for name, x in frames.items()}
        slots = max(count["audio"], count["motion"] + c.delay if count["motion"] else 0)
        tokens = np.concatenate([[1], given["prompt"][row, :n], np.zeros(slots, np.int32)])
        rows.append([dict(tokens=tokens, slots=n + 1 + np.arange(slots),
                          speaker=given["speaker"][row], **frames)])
    batch = pack(rows, c)
    hidden = jax.jit(lambda p,
                     b: system.net.apply({"params": p}, b, method="encode_row"))(params, batch)
    at = np.minimum(batch["patch_slot"], c.row_tokens - 1)
    return batch, np.take_along_axis(np.asarray(hidden), at[..., None], axis=1)


@pytest.mark.parametrize("stop_on", [pytest.param("slots", marks=pytest.mark.slow), "speech"])
def test_ends_where_the_label_stands(stop_on):
    """The first patch that the stop head could end on is the labelled one of the training row that
    holds what was made, and up to the end of speech (with the label there, to the end of motion)
    the loop's hidden states are that row's."""
    system, params = make(stop_on=stop_on)
    c, given = system.config, conditions(system.config)
    out, hidden, slots = follow(system, params, given)
    batch, wanted = trained(system, params, given, out)
    np.testing.assert_array_equal(out["audio_length"], out["motion_length"])
    for row, count in enumerate(slots):
        # there the sampler has made speech, which training has not
        same = count - (c.delay if stop_on == "slots" else 0)
        np.testing.assert_allclose(hidden[row, :same], wanted[row, :same], atol=2e-5)
    labels = np.asarray(objective.stop_labels(batch, c)[0])
    prefix = np.maximum(np.array(AUDIO), MOTION) // c.patch
    assert ((labels == 1).sum(axis=1) == 1).all()
    np.testing.assert_array_equal(np.argmax(labels == 1, axis=1), prefix + c.min_patches - 1)
    np.testing.assert_array_equal(out["audio_length"] // c.patch,
                                  prefix + c.min_patches - (c.delay if stop_on == "slots" else 0))


@pytest.mark.slow
def test_published_stop_keeps_the_streak_and_ends_motion_early():
    system, params = make(trim_stop=False, complete_motion=False, stop_on="slots", delay=1)
    given = conditions(system.config) | {f"{name}_length": np.zeros(3, np.int32)
                                         for name in ("audio", "motion")}
    out = jax.device_get(jax.jit(system.generate)(params, given, KEYS))
    assert (out["audio_length"] == 2 * (3 + 1)).all() and (out["motion_length"] == 2 * 3).all()


@pytest.mark.slow
@pytest.mark.parametrize("stop_on", ["slots", "speech"])
def test_streaming_hands_out_nothing_that_is_taken_back(stop_on):
    system, params = make(stop_on=stop_on, stop_streak=3)
    given = conditions(system.config)
    out = jax.device_get(jax.jit(system.generate)(params, given, KEYS))
    chunks = list(StreamingSampler(system, params).stream(given, KEYS))
    for name in ("audio", "motion"):
        for row, length in enumerate(out[f"{name}_length"]):
            made = np.concatenate([chunk[name][row] for chunk in chunks])
            np.testing.assert_allclose(made, out[name][row, :length], atol=2e-5)
