"""Talker-T2AV's sampler: recorded samples and roll-outs, agreement with training, rows on their own, prefixes, streaming."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.systems.talker import decode, sampler
from tests.golden_files import relative_error, under
from tests.systems.talker_golden import FILES, prepare, quick_jit

TOLERANCE = 1e-4
CASES = [pytest.param(arrays, id=name) for name, arrays in FILES]


@pytest.mark.parametrize("arrays", CASES)
def test_recorded_samples_of_the_heads(arrays):
    """Ten steps from recorded noise, at guidance 1 and 2; both heads at once, a batch at once."""
    names = {"audio": under(arrays, "speech_head/"), "motion": under(arrays, "motion_head/")}
    systems = {g: prepare(arrays, guidance=g, temperature=1.0)[0] for g in (1.0, 2.0)}
    params = prepare(arrays)[1]

    def inputs(key):
        return {name: rec[key].swapaxes(1, 2) if rec[key].ndim == 3 else rec[key] for name, rec in names.items()}

    @quick_jit
    def run(params):
        out = {}
        for g, system in systems.items():
            ready = decode.prepare(system, params, tuple(names))
            noise, mu = inputs(f"sample_cfg{g}_noise"), inputs("mu")
            for name in names:  # the two heads were recorded with hidden states of their own
                out[name, g] = decode.sample(system, ready, (name,), noise, mu[name], inputs("cond"), inputs("global_cond"),
                                             None, None)[name]
        return {f"{name} {g}": value for (name, g), value in out.items()}

    for key, ours in run(params).items():
        name, g = key.split()
        error = relative_error(ours.swapaxes(1, 2), names[name][f"sample_cfg{g}"])
        print(f"samples, {key}: {error:.1e}")
        assert error < TOLERANCE, key
    assert relative_error(names["audio"]["sample_cfg1.0"], names["audio"]["sample_cfg2.0"]) > TOLERANCE


def recorded_roll_out(arrays, **overrides):
    """(ours, motion recorded, patches of speech recorded) of utterance 0 without prefix, as the release runs it."""
    system, params = prepare(arrays, **dict(temperature=1.0, guidance=2.0, steps=10, trim_stop=False, complete_motion=False,
                                            delay_motion="none", stop_on="slots") | overrides)
    rec, c = under(arrays, "generate/"), system.config
    made, extra = len(rec["speech_noise"]), 3  # room to run on, should the stop not come
    noise = {name: rec[f"{key}_noise"][:, 0].swapaxes(1, 2)[None] for name, key in (("audio", "speech"), ("motion", "motion"))}
    noise = {name: np.pad(a, ((0, 0), (0, made + extra - a.shape[1]), (0, 0), (0, 0))) for name, a in noise.items()}
    n = int(arrays["speech_span"][0, 0])
    # the release leaves its loop 15 patches past the length it is told
    most = -(-int(arrays["mel_len"][0]) // c.patch) + 15
    count = made if made == most else made + extra
    conditions = dict(prompt=arrays["input_ids"][:1, :n].astype(np.int32), prompt_length=np.array([n], np.int32),
                      speaker=arrays["speaker_embedding"][:1], first_motion=arrays["motion"][:1, 0],
                      audio=np.zeros((1, count * c.patch, c.audio_dim), np.float32), audio_length=np.zeros(1, np.int32),
                      motion=np.zeros((1, count * c.patch, c.motion_dim), np.float32), motion_length=np.zeros(1, np.int32))
    ours = quick_jit(lambda p, x, z: sampler.roll_out(system, p, x, z, "t2av"))(params, conditions, noise)
    return jax.device_get(ours), rec["motion"], made, most


@pytest.mark.slow
@pytest.mark.parametrize("arrays", CASES)
def test_recorded_roll_out(arrays):
    ours, motion, made, _ = recorded_roll_out(arrays)
    assert ours["audio_length"] == 4 * made and ours["motion_length"] == motion.shape[1]
    error = relative_error(ours["motion"][:, :motion.shape[1]], motion)
    print(f"roll-out of {made} patches: {error:.1e}")
    assert error < TOLERANCE
