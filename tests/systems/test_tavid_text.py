"""The text-to-units System: what sees what, cached decoding equal to training, guidance, the stop
rule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from avjax.errors import UserError
from avjax.systems.api import abstract_params, build
from avjax.systems.tavid.text import config as presets
from avjax.systems.tavid.text import decode, draws, objective, plan
from avjax.systems.tavid.text.model import TextNet
from tests.systems.tavid_text_tiny import FILLER, dialogue, small


def random_params(system, seed=0):
    rng = np.random.default_rng(seed)
    shapes = abstract_params(system)
    return jax.tree.map(lambda x: (0.4 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


def batch_of(system, seeds=(0, 1), turns=4):
    rng = np.random.default_rng(5)
    built = [system.rows.build([dialogue(s, turns, system.config.num_streams)], rng) for s in seeds]
    return {name: np.stack([row[name] for row in built]) for name in built[0]}


@functools.cache
def one():
    system = build(small())
    return system, random_params(system)


VARIANTS = [dict(num_streams=1, frames_per_step=1, coupling="independent", window=0,
                 alignment="none", text_dropout=0.0,
                 guidance=1.0, num_layers=1),
            dict(num_streams=2, frames_per_step=1, coupling="independent", activation="geglu",
                 speaker_embedding=False,
                 num_layers=1),
            dict(num_streams=2, coupling="chain", guidance=2.0, remat=True),
            dict(num_streams=3, frames_per_step=1, coupling="chain", alignment="none", guidance=1.0,
                 encoder_window=0,
                 num_layers=1)]


@pytest.mark.parametrize("variant", [pytest.param(v, marks=[pytest.mark.slow] * ("remat" not in v))
                                     for v in VARIANTS])
def test_everything_trains_and_decoding_sees_what_training_saw(variant):
    """Gradients reach every parameter; the cached loop's logits equal the teacher-forced ones,
    guidance included; and nothing past a length matters to either."""
    system = build(small(**variant))
    c, params = system.config, random_params(system)
    batch = batch_of(system)
    # another row's leftovers where nothing is real
    dirty = {name: value.copy() for name, value in batch.items()}
    for b in range(2):
        n, T = batch["tokens_length"][b], batch["units_length"][b]
        dirty["tokens"][b, n:], dirty["token_speaker"][b,
                                                       n:], dirty["times"][b,
                                                                           n:] = 10**6, 10**6, 1e6
        dirty["units"][b, T:], dirty["weight"][b, T + 1:] = 10**6, 7.0

    def forced(params, batch):
        """Logits of training with text (and, where guided, guided towards those without), and of
        the loop."""
        units_BIJ, _ = objective.targets(batch, c)
        net = functools.partial(system.net.apply, {"params": params})
        text = net(batch["tokens"], batch["token_speaker"], batch["tokens_length"], method="encode")
        logits = []
        for length in (batch["tokens_length"],
                       0 * batch["tokens_length"])[:1 + (c.guidance != 1.0)]:
            hidden = net(objective.before(units_BIJ, c), text, batch["times"], length,
                         method="hidden")
            logits.append(jax.nn.log_softmax(net(hidden, units_BIJ, method="logits")))
        keys = jax.random.split(jax.random.key(0), 2)
        memory = decode.read(system, params, batch["tokens"], batch["token_speaker"],
                             batch["tokens_length"], keys,
                             batch["times"])

        def body(carry, given):
            cache, before, index = carry
            seen = []
            units, cache = decode.advance(system, params, memory, cache, before, index,
                                          lambda logits, slot,
                                          _: (seen.append(logits), given[:, slot])[1])
            return (cache, units, index + 1), jnp.stack(seen, axis=1)

        first = decode.start(system, params, memory,
                             units_BIJ.shape[1]), jnp.full_like(units_BIJ[:, 0], presets.bos(c)), 0
        looped = jax.lax.scan(body, first, jnp.moveaxis(units_BIJ, 1, 0))[1]
        return logits[-1] + c.guidance * (logits[0] - logits[-1]), jax.nn.log_softmax(
            jnp.moveaxis(looped, 0, 1))

    @jax.jit
    def both(params, batch):
        return jax.value_and_grad(system.loss, has_aux=True)(params, batch,
                                                             jax.random.key(0)), forced(params,
                                                                                        batch)

    ((loss, metrics), grads), (taught, looped) = jax.device_get(both(params, batch))
    frames = np.arange(c.row_frames // c.frames_per_step) * c.frames_per_step
    for b in range(2):
        real = frames <= batch["units_length"][b]
        np.testing.assert_allclose(looped[b, real], jax.nn.log_softmax(taught[b, real]), rtol=1e-4,
                                   atol=1e-4)
    silent = [jax.tree_util.keystr(p) for p, g in jax.tree_util.tree_leaves_with_path(grads)
              if np.abs(g).max() == 0]
    assert not silent, f"nothing trains {silent}"
    assert set(metrics) == {"loss", "units", "talk", "end",
                            "accuracy"} | ({"plan"} if c.alignment == "plan" else set())
    again = jax.device_get(both(params, dirty))
    learnt = params
    for _ in range(12):
        learnt = jax.tree.map(lambda p, g: p - 0.03 * np.sign(g), learnt,
                              jax.device_get(both(learnt, batch)[0][1]))
    assert both(learnt, batch)[0][0][0] < 0.8 * loss
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), again[0],
                 ((loss, metrics), grads))
    for b in range(2):
        real = frames <= batch["units_length"][b]
        np.testing.assert_allclose(again[1][1][b, real], looped[b, real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("coupling", ["independent", "chain"])
def test_causal_over_steps_and_over_the_units_of_a_step(coupling):
    """A unit's logits depend on all earlier steps in the window, and with the chain on earlier
    units of their own."""
    system = build(small(coupling=coupling, num_layers=1, window=2, guidance=1.0))
    c, params = system.config, random_params(system)
    width, steps, slots = c.d_model // 4, 6, 4
    text = np.random.default_rng(0).standard_normal((1, 5, c.encoder_width)).astype(np.float32)

    def logits(given):
        """By embeddings, which have gradients: what is fed in, and what the chain is told."""
        def run(net):
            before = jnp.pad(given, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
            hidden = net.hidden(before, text, jnp.arange(5.0)[None], jnp.array([5]))
            return net.logits(hidden, given)[0].sum(-1)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TextNet, "embed", lambda net, units: units)
            return system.net.apply({"params": params}, method=run)

    given = np.random.default_rng(1).standard_normal((1, steps, slots, width)).astype(np.float32)
    # (step, slot; step, slot)
    jacobian = np.abs(np.asarray(jax.jit(jax.jacobian(logits))(given))[:, :, 0]).sum(-1)
    age = np.arange(steps)[:, None] - np.arange(steps)[None]  # of what is fed in, one step late
    earlier = ((age >= 1) & (age <= c.window + 1))[:, None, :, None]
    own = (age == 0)[:, None, :,
                     None] & (np.arange(slots)[:, None] > np.arange(slots))[None, :, None, :]
    expected = earlier | (own if coupling == "chain" else False)
    np.testing.assert_array_equal(jacobian > 0, np.broadcast_to(expected, jacobian.shape))


def test_dialogues_end_by_the_first_stream_by_silence_after_the_plan_or_by_the_bound(monkeypatch):
    """With units that are dictated to all streams."""
    end, times = presets.eos(small()), jnp.array([[2.0, 21.0, 9.0, 99.0]])  # the last is padding

    def runner(alignment):
        stops = dict(alignment="plan",
                     stop_seconds=0.0) if alignment == "off" else dict(alignment=alignment,
                                                                       stop_seconds=0.2)
        system = build(small(guidance=1.0, **stops))
        params = random_params(system)

        @jax.jit
        def run(script):
            def advance(system, params, memory, cache, before, index, choose):
                units = jax.lax.dynamic_slice_in_dim(script, index * 2, 2)
                return jnp.tile(jnp.repeat(units, 2), (len(before), 1)), cache

            monkeypatch.setattr(decode, "advance", advance)
            return system.decode(params, jnp.ones((1, 4), jnp.int32), jnp.array([3]),
                                 jax.random.split(jax.random.key(0), 1), max_steps=40,
                                 times_BN=times, token_speaker_BN=jnp.zeros((1, 4), jnp.int32))

        return run

    run = {alignment: runner(alignment) for alignment in ("none", "plan", "off")}
    for alignment, script, frames in (("none", [5] * 7 + [end] * 33, 7),
                                      ("none", [5] * 4 + [FILLER] * 36, 4), ("none", [5] * 40, 40),
                                      ("plan", [5] * 4 + [FILLER] * 36, 21), ("plan", [5] * 40, 31),
                                      ("plan", [5] * 25 + [FILLER] * 15, 25),
                                      ("off", [5] * 4 + [FILLER] * 36, 40)):
        units, length = run[alignment](np.array(script, np.int32))
        assert int(length[0]) == frames, (alignment, script)
        said = np.array(script)[:frames, None]
        assert (np.asarray(units)[0, :frames] == said).all() and not units[0, frames:].any()


def test_sampling_without_a_filler_says_what_that_switches_off(monkeypatch):
    for change, remarks in (dict(filler=-1), 1), (dict(filler=FILLER), 0), (
            dict(filler=-1, repetition_window=0, stop_seconds=0.0), 0):
        system, said, tokens = build(small(**change)), [], jnp.ones((1, 4), jnp.int32)
        monkeypatch.setattr(decode.logging, "warning", said.append)
        jax.eval_shape(lambda key, system=system, tokens=tokens: system.decode(
            system.init(key), tokens, jnp.array([4]), jax.random.split(key, 1), max_steps=2,
            token_speaker_BN=0 * tokens),
                       jax.random.key(0))
        assert len(said) == remarks and all("filler" in text for text in said), change


def test_draws_follow_nucleus_share_temperature_and_repetition():
    probability = np.array([0.5, 0.25, 0.2, 0.05, 0, 0, 0])  # then BOS, EOS, PAD
    logits = 2.0 * np.log(np.maximum(probability, 1e-9))
    logits[4] = 50.0  # BOS can never be drawn, whatever the network says
    keys = jax.random.split(jax.random.key(0), 2000)

    def shares(can_end=False, seen=(9, 9, 9, 9), logits=logits, **sampler):
        """Of 2000 draws."""
        sampler = dict(filler=2, top_p=0.7, temperature=2.0, repetition_window=4) | sampler
        config = FrozenConfigDict(small(num_units=4, **sampler))
        rows = np.tile(logits, (2000, 1)).astype(np.float32)
        draw = jax.jit(functools.partial(draws.draw, config))
        units = draw(rows, keys, np.tile(seen, (2000, 1)), np.full(2000, can_end))
        return np.bincount(units, minlength=7) / 2000

    np.testing.assert_allclose(shares()[:4], [2 / 3, 1 / 3, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(top_p=1.0)[:4], probability[:4], atol=0.03)
    np.testing.assert_allclose(shares(top_p=1.0, top_k_share=3 / 7)[:4],
                               np.array([0.5, 0.25, 0.2, 0]) / 0.95, atol=0.03)
    # all four frames were unit 0: where it is drawn, it is drawn anew from everything; silence may
    # go on
    np.testing.assert_allclose(shares(seen=(0, 0, 0, 0))[:4],
                               2 / 3 * probability[:4] + [0, 1 / 3, 0, 0], atol=0.03)
    for going_on in (dict(seen=(0, 0, 1, 0)), dict(seen=(0, 0, 0, 0), filler=0),
                     dict(seen=(0, 0, 0, 0), filler=-1)):
        np.testing.assert_allclose(shares(**going_on)[:4], [2 / 3, 1 / 3, 0, 0], atol=0.03)
    ended = np.where(np.arange(7) == 5, 40.0, logits)
    assert shares(True, logits=ended)[5] == 1 and shares(False, logits=ended)[5] == 0


def test_token_times_and_the_plan():
    """Two turns, the second with a back-channel inside; marks share the time of what follows; a
    plan is drawn as taught."""
    who = np.array([0, 0, 0, -1, -1, 1, 1, 0, 0, 1, 1])
    turns = np.array([[0, 0, 3, 10, 22, 0], [1, 5, 11, 20, 40, 0], [0, 7, 9, 30, 34, 1]])
    times = plan.token_times(who, turns)
    np.testing.assert_allclose(times, [12, 16, 20, 22.5, 22.5, 22.5, 27.5, 31, 33, 32.5, 37.5])
    assert not plan.token_times(who, turns[:0]).any()
    bins = np.searchsorted(plan.EDGES, np.asarray(plan.steps_of(times)), side="right") - 1
    logits = np.full((3, len(who), plan.BINS), -20.0, np.float32)
    logits[:, np.arange(len(who)), bins] = 20.0
    real = np.tile(np.arange(len(who)) < 9, (3, 1))
    assert plan.loss(logits, np.tile(times, (3, 1)), real) < 1e-6
    drawn = np.asarray(jax.jit(plan.sample, static_argnums=3)(logits, real,
                                                                jax.random.split(jax.random.key(0),
                                                                                 3), 1.0))
    width = np.cumsum((plan.EDGES[1:] - plan.EDGES[:-1])[bins])[:9]
    assert (np.abs(drawn[:,
                         :9] - times[:9]) <= width).all() and (drawn[:, 9:] == drawn[:, 8:9]).all()
    assert (drawn[0] != drawn[1]).any() and drawn.min() >= 0


def test_bad_examples_and_configs_are_named():
    system, example = one()[0], dialogue()
    turns = example["turns"]

    def changed(at, value):
        out = turns.copy()
        out[at] = value
        return out

    for wrong, message in ((dict(tokens=example["tokens"] + 1), "text ids.*'a'.*0 to 19"),
                           (dict(units=example["units"] + 5),
                            "units outside the codebook.*'a'.*0 to 8"),
                           (dict(units=example["units"] - 4), "units outside the codebook"),
                           (dict(turns=changed((0, 0), 2)),
                            "turns that do not fit.*speakers 0 to 1"),
                           (dict(turns=changed((1, 4), len(example["units"]) + 1)),
                            "turns that do not fit"),
                           (dict(turns=changed((0, 2), 0)), "turns that do not fit"),
                           (dict(turns=turns[:0]), "turns that do not fit"),
                           (dict(tokens=example["tokens"][:0]), "no text")):
        with pytest.raises(UserError, match=message):
            system.rows.build([example | wrong], np.random.default_rng(0))
    with pytest.raises(UserError, match="text ids"):
        system.conditions(example | {"tokens": example["tokens"] + 1})
    with pytest.raises(UserError, match="text without speakers"):
        system.decode(None, np.zeros((1, 2), int), np.array([2]), None, max_steps=4)
    for wrong in (dict(coupling="both"), dict(alignment="guess"), dict(activation="relu"),
                  dict(d_model=26), dict(filler=9), dict(row_frames=47), dict(top_p=0.0),
                  dict(text_dropout=0.0), dict(unit_dropout=1.0), dict(temperature=0.0),
                  dict(depth_heads=3), dict(head_dim=7), dict(num_streams=0),
                  dict(single_share=1.5), dict(coupling="chain", num_streams=1, frames_per_step=1),
                  dict(window=-1), dict(stop_seconds=-1.0)):
        with pytest.raises(UserError, match="guidance" if "text_dropout" in wrong
                           else "|".join((*wrong, "depth_width"))):
            presets.check(small(**wrong))


def test_presets_have_their_sizes():
    millions = {}
    for name in ("base", "covomix", "tiny"):
        shapes = abstract_params(build(getattr(presets, name)()))
        millions[name] = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes)) / 1e6
    assert 180 < millions["base"] < 240 and 60 < millions["covomix"] < 100 and millions[
        "tiny"] < 3, millions
