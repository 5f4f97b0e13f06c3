"""Talker-T2AV's packed rows: utterances side by side, causality, padding, batches that lack
something."""

import jax
import numpy as np
import pytest

from avjax.systems.talker import objective
from tests.systems.talker_golden import pack
from tests.systems.talker_tiny import compiled, draw, head_arguments, one, three, utterance


@pytest.mark.slow
def test_packed_rows_are_the_rows_they_pack():
    system, params, given, step = compiled()
    every = three(system.config)
    apart, together = pack([[u] for u in every], system.config), pack([every, [], []],
                                                                      system.config)
    (h0, t0, s0), (h1, t1, s1) = (given(params, batch) for batch in (apart, together))

    def flat(x, keep):
        return np.asarray(x)[keep]

    np.testing.assert_allclose(flat(h1, together["segment"] > 0), flat(h0, apart["segment"] > 0),
                               atol=1e-5)
    real0, real1 = apart["patch_segment"] > 0, together["patch_segment"] > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(flat(b, real1), flat(a, real0), atol=1e-5),
                 t0, t1)
    np.testing.assert_array_equal(flat(s1[0], real1), flat(s0[0], real0))
    assert s0[1] == s1[1]
    # the same noise at the same patches: the same loss and gradients
    noise = draw(system.config)

    def spread(x):
        out = np.zeros(x.shape, np.float32)
        out[real0] = np.asarray(x)[real1]
        return out

    a, b = step(params, apart, jax.tree.map(spread, noise)), step(params, together, noise)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), a, b)
    assert min(float(a[0][1][name]) for name in ("speech", "motion", "stop")) > 0


@pytest.mark.slow
def test_nothing_is_predicted_from_itself_or_later():
    """Gradients of a patch's hidden state: text and patches before it, none after, none of another
    utterance."""
    system, params = one()
    every = three(system.config)
    batch = pack([every], system.config)

    def mu(audio, motion):
        hidden = system.net.apply({"params": params}, batch | {"audio": audio, "motion": motion},
                                  method="encode_row")
        return objective.targets(batch, hidden, system.config)["mu"][0].sum(-1)

    by_audio, by_motion = jax.jit(jax.jacobian(mu, argnums=(0, 1)))(batch["audio"],
                                                                      batch["motion"])
    segment, index = batch["patch_segment"][0], batch["patch_index"][0]
    same = (segment[:, None] == segment[None]) & (segment[:, None] > 0)
    later = index[:, None] - index[None]  # of the predicted slot against the patch it may have seen
    for jacobian, delay, valid in ((by_audio, 0, "audio_valid"),
                                   (by_motion, system.config.delay, "motion_valid")):
        seen = np.abs(np.asarray(jacobian))[:, 0].sum((-2, -1)) > 0
        np.testing.assert_array_equal(seen, same & (later > delay) & (batch[valid][0] > 0)[None])


@pytest.mark.slow
def test_padding_counts_for_nothing():
    """Huge numbers and wild ids wherever nothing is real: the same loss and the same gradients, all
    finite."""
    system, params, _, step = compiled()
    batch, noise = pack([three(system.config), [], []], system.config), draw(system.config, seed=3)
    poisoned = {name: value.copy() for name, value in batch.items()}
    frames = np.arange(system.config.patch)
    for name in ("audio", "motion"):
        poisoned[name][frames >= batch[f"{name}_valid"][..., None]] = np.nan
        poisoned[f"{name}_valid"][batch["patch_segment"] == 0] = 2
    poisoned["patch_index"][batch["patch_segment"] == 0] = 7
    poisoned["speaker"][1] = 1e30
    for name in ("tokens", "position"):
        poisoned[name][batch["segment"] == 0] = 10**6
    for b in range(3):  # a patch slot's own token is never looked at
        slots = batch["patch_slot"][b][batch["patch_segment"][b] > 0]
        poisoned["tokens"][b, slots] = -5
    clean, dirty = step(params, batch, noise), step(params, poisoned, noise)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), clean, dirty)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(dirty))


@pytest.mark.slow
def test_batches_without_motion_or_without_anything():
    system, params, _, step = compiled()
    c = system.config
    for row, zero in (([], ("speech", "motion", "stop")), ([utterance(c, 2, 9, 0)], ("motion",)),
                      # one patch: no target
                      ([utterance(c, 2, 2, 0), utterance(c, 2, 9, 1)], ("motion",))):
        (loss, metrics), grads = step(params, pack([row, [], []], c), draw(c))
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
        assert {name for name in ("speech", "motion", "stop") if metrics[name] == 0} == set(zero)
        np.testing.assert_allclose(loss, metrics["speech"] + c.motion_weight
                                   * metrics["motion"] + metrics["stop"],
                                   rtol=1e-6)


def test_patch_tokens_can_leave_motion_out():
    system, params = one()
    c = system.config
    speech, motion = head_arguments(c)
    valid = np.full(3, c.patch)

    net = jax.jit(lambda *a: system.net.apply({"params": params}, *a, method="patch_tokens"))

    def tokens(motion, tts, with_motion=True):
        return net(speech[0], valid, motion, valid, np.broadcast_to(tts, 3),
                   np.broadcast_to(with_motion, 3))

    none = tokens(motion[0], False, False)
    np.testing.assert_allclose(tokens(motion[0] + 1, True), none + params["motion_pad"], atol=1e-6)
    mixed = tokens(motion[0], np.array([False, True, False]), np.array([True, True, False]))
    np.testing.assert_allclose(mixed[0], tokens(motion[0], False)[0], atol=1e-6)
    np.testing.assert_allclose(mixed[1:],
                               none[1:] + np.array([[1.0], [0.0]]) * params["motion_pad"],
                               atol=1e-6)
    assert np.abs(mixed[0] - none[0]).max() > 1e-3


def test_the_view_of_speech_sees_no_motion():
    rows = one()[0].rows
    rng = np.random.default_rng(0)
    seen = {"id": "a", "tokens": np.arange(3), "voice": np.ones(5, np.float32),
            "audio": rng.standard_normal((8, 3)).astype(np.float32),
            "motion": rng.standard_normal((8, 4)).astype(np.float32)}
    heard = seen | {"motion": seen["motion"][:0]}
    lengths = [{name: len(x[name]) for name in ("tokens", "audio", "motion")}
               for x in (seen, heard)]
    alone = rows.view("speech")
    assert [rows.kind(x) for x in lengths] == ["t2av", "tts"]
    assert [alone.kind(x) for x in lengths] == ["tts", "tts"]
    assert alone.cost(lengths[0]) == rows.cost(lengths[1]) != rows.cost(lengths[0])
    made, wanted, with_motion = (r.build([x], np.random.default_rng(0))
                                 for r, x in ((alone, seen), (rows, heard), (rows, seen)))
    assert made.keys() == wanted.keys()
    for name, value in made.items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
    assert with_motion["motion_valid"].any() and not made["motion_valid"].any()
