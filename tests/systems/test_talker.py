"""Talker-T2AV's promises: packing, causality, padding, the objective's dropouts and weights, joint heads, strict rules."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.nn.layers import rms_norm
from avjax.sharding.mesh import batch_sharding, make_mesh, put_batch
from avjax.sharding.rules import param_shardings
from avjax.systems.api import build, example_batch
from avjax.systems.talker import decode, objective
from avjax.systems.talker.backbone import Backbone
from avjax.systems.talker.config import check, default, released
from avjax.systems.talker.local import LocalBlock, LocalStack, joint_stacks
from avjax.training.flops import count_flops
from tests.systems.talker_golden import pack, quick_jit


def tiny(**overrides):
    c = default()
    c.update(dict(vocab=11, d_model=16, velocity_width=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=24,
                  encoder_layers=1, encoder_heads=2, velocity_layers=1, velocity_heads=2, audio_dim=3, motion_dim=4,
                  speaker_dim=5, patch=2, delay=1, row_tokens=32, row_patches=14, row_utterances=3))
    c.update(overrides)
    return c


def random_like(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (0.3 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


def random_params(system, seed=0):
    return random_like(jax.eval_shape(system.init, jax.random.key(0)), seed)


@functools.cache
def one():
    """The tiny system and parameters of it."""
    system = build(tiny())
    return system, random_params(system)


@functools.cache
def published_shapes():
    return jax.eval_shape(build(released()).init, jax.random.key(0))


def utterance(config, prompt, audio_frames, motion_frames, seed=0):
    """prompt ids, then the slots of the plan; lengths in frames."""
    rng = np.random.default_rng(seed)
    P = config.patch
    slots = max(-(-audio_frames // P), -(-motion_frames // P) + config.delay if motion_frames else 0)
    ids = rng.integers(0, config.vocab, prompt + slots)
    return dict(tokens=np.concatenate([[int(motion_frames > 0)], ids]), slots=np.arange(prompt, prompt + slots) + 1,
                audio=rng.standard_normal((audio_frames, config.audio_dim)).astype(np.float32),
                motion=rng.standard_normal((motion_frames, config.motion_dim)).astype(np.float32),
                speaker=rng.standard_normal(config.speaker_dim).astype(np.float32))


def three(config):
    """With motion, text to speech, and with motion again; partial last patches."""
    return [utterance(config, 3, 7, 7, seed=1), utterance(config, 2, 5, 0, seed=2), utterance(config, 4, 6, 5, seed=3)]


@functools.cache
def compiled():
    """The tiny system, its parameters, what its heads are given, and its loss with gradients; compiled for three rows."""
    system, params = one()

    def given(params, batch):
        hidden = system.net.apply({"params": params}, batch, method="encode_row")
        return hidden, objective.targets(batch, hidden, system.config), objective.stop_labels(batch, system.config)

    return system, params, quick_jit(given), quick_jit(jax.value_and_grad(system.loss_at, has_aux=True))


def draw(config, seed=0, rows=3):
    return quick_jit(lambda key: objective.draw(key, config, rows, config.row_patches))(jax.random.key(seed))


@pytest.mark.slow
def test_packed_rows_are_the_rows_they_pack():
    system, params, given, step = compiled()
    every = three(system.config)
    apart, together = pack([[u] for u in every], system.config), pack([every, [], []], system.config)
    (h0, t0, s0), (h1, t1, s1) = (given(params, batch) for batch in (apart, together))

    def flat(x, keep):
        return np.asarray(x)[keep]

    np.testing.assert_allclose(flat(h1, together["segment"] > 0), flat(h0, apart["segment"] > 0), atol=1e-5)
    real0, real1 = apart["patch_segment"] > 0, together["patch_segment"] > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(flat(b, real1), flat(a, real0), atol=1e-5), t0, t1)
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
    """Gradients of a patch's hidden state: text and patches before it, none after, none of another utterance."""
    system, params = one()
    every = three(system.config)
    batch = pack([every], system.config)

    def mu(audio, motion):
        hidden = system.net.apply({"params": params}, batch | {"audio": audio, "motion": motion}, method="encode_row")
        return objective.targets(batch, hidden, system.config)["mu"][0].sum(-1)

    by_audio, by_motion = quick_jit(jax.jacobian(mu, argnums=(0, 1)))(batch["audio"], batch["motion"])
    segment, index = batch["patch_segment"][0], batch["patch_index"][0]
    same = (segment[:, None] == segment[None]) & (segment[:, None] > 0)
    later = index[:, None] - index[None]  # of the predicted slot against the patch it may have seen
    for jacobian, delay, valid in ((by_audio, 0, "audio_valid"), (by_motion, system.config.delay, "motion_valid")):
        seen = np.abs(np.asarray(jacobian))[:, 0].sum((-2, -1)) > 0
        np.testing.assert_array_equal(seen, same & (later > delay) & (batch[valid][0] > 0)[None])


@pytest.mark.slow
def test_padding_counts_for_nothing():
    """Huge numbers and wild ids wherever nothing is real: the same loss and the same gradients, all finite."""
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
                      ([utterance(c, 2, 2, 0), utterance(c, 2, 9, 1)], ("motion",))):  # one patch: no target
        (loss, metrics), grads = step(params, pack([row, [], []], c), draw(c))
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
        assert {name for name in ("speech", "motion", "stop") if metrics[name] == 0} == set(zero)
        np.testing.assert_allclose(loss, metrics["speech"] + c.motion_weight * metrics["motion"] + metrics["stop"],
                                   rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("coupling", ["separate", "joint"])
def test_everything_trains_and_remat_changes_nothing(coupling):
    results = []
    for remat in ("none", "dots", "full") if coupling == "separate" else ("none", "full"):
        system = build(tiny(coupling=coupling, remat=remat, velocity_layers=2))
        batch = pack([three(system.config)], system.config)
        step = quick_jit(jax.value_and_grad(system.loss_at, has_aux=True))
        results.append(step(random_params(system), batch, draw(system.config, seed=2, rows=1)))
    assert set(results[0][0][1]) == {"loss", "speech", "motion", "stop", "stop_accuracy"}
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(results[0][1])), "a parameter that nothing trains"
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), results[0], other)


def test_last_block_computes_what_is_read_of_it():
    whole, part = (LocalStack(width=8, heads=2, layers=2, rows=rows) for rows in ((0, None), (-2, None)))
    x = np.random.default_rng(0).standard_normal((4, 5, 8)).astype(np.float32)
    params = random_like(jax.eval_shape(whole.init, jax.random.key(0), x))
    both = quick_jit(lambda params, x: (part.apply(params, x), whole.apply(params, x)[:, -2:]))
    np.testing.assert_allclose(*both(params, x), atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_stacks_are_their_blocks_in_turn(layers):
    """Scanned, or apart as a sampler has them, alone and joint; a stack of one block has nothing to scan."""
    rng, there = np.random.default_rng(0), np.array([True, True, False, True])
    a, b = (rng.standard_normal((4, n, 24)).astype(np.float32) for n in (5, 3))
    scanned, apart = (LocalStack(width=24, heads=2, layers=layers, rows=(-2, None), apart=x) for x in (False, True))
    params = [random_like(jax.eval_shape(scanned.init, jax.random.key(0), a)["params"], seed) for seed in (0, 1)]
    assert ("blocks" in params[0]) == (layers > 1)
    unstacked = [decode._blocks_apart(p) for p in params]
    assert [f"blocks_{i}" in unstacked[0] for i in range(layers)] == [True] * (layers - 1) + [False]

    def in_turn(p, x):
        for i in range(layers):
            rows, name = ((0, None), f"blocks_{i}") if i < layers - 1 else ((-2, None), "last")
            x = LocalBlock(24, 2, rows=rows).apply({"params": p[name]}, x)
        return rms_norm(x, p["norm"]["scale"])

    want = quick_jit(in_turn)(unstacked[0], a)
    np.testing.assert_allclose(quick_jit(scanned.apply)({"params": params[0]}, a), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(quick_jit(apart.apply)({"params": unstacked[0]}, a), want, rtol=1e-5, atol=1e-5)

    def joint(stack, p):
        bound = [stack.bind({"params": one}) for one in p]
        return joint_stacks(*bound, a, b, there, ~there)

    together = [quick_jit(functools.partial(joint, stack))(p) for stack, p in ((scanned, params), (apart, unstacked))]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), *together)
    np.testing.assert_allclose(together[0][0][there], want[there], rtol=1e-5, atol=1e-5)  # the other is not there


@pytest.mark.parametrize("part", ["heads", "language model"])
def test_remat_saves_what_it_says(part):
    """"dots" recomputes attention but no dense layer, "full" those too; and the compiler does not undo it."""
    flops, x = {}, np.zeros((2, 6, 32), np.float32)
    for remat in ("none", "dots", "full"):
        if part == "heads":
            net, rest = LocalStack(width=32, heads=2, layers=2, rows=(0, None), remat=remat), ()
        else:
            net, rest = Backbone(tiny(d_model=32, remat=remat), jnp.float32), (np.zeros((2, 6), int), np.ones((2, 6), int))
        params = jax.eval_shape(net.init, jax.random.key(0), x, *rest)
        gradient = jax.grad(lambda p, net=net, rest=rest: net.apply(p, x, *rest).sum())
        if part == "heads":  # what is left after XLA has merged duplicates
            flops[remat] = quick_jit(gradient).lower(params).compile().cost_analysis()["flops"]
        else:  # its layers are scanned, within which XLA merges none
            flops[remat] = count_flops(gradient, params)
    assert flops["none"] < flops["dots"] < flops["full"]
    assert flops["dots"] - flops["none"] < 0.5 * (flops["full"] - flops["none"])


def head_arguments(config, seed=0, n=3):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal((n, *shape)).astype(np.float32)

    t, mu, P = rng.uniform(size=n).astype(np.float32), normal(config.d_model), config.patch
    speech = (normal(P, config.audio_dim), t, mu, normal(P, config.audio_dim), normal(config.speaker_dim))
    motion = (normal(P, config.motion_dim), t, mu, normal(P, config.motion_dim), normal(config.motion_dim))
    return speech, motion


@pytest.mark.slow
def test_joint_heads_feel_each_other_unless_absent():
    separate, joint = build(tiny(velocity_layers=2)), build(tiny(velocity_layers=2, coupling="joint"))
    params = random_params(joint)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, random_params(separate))  # equal parameters
    speech, motion = head_arguments(joint.config)
    other = (motion[0] + 1, *motion[1:])
    net = quick_jit(lambda *a: joint.net.apply({"params": params}, *a, method="velocities_joint"))
    there, gone = np.ones(3, bool), np.zeros(3, bool)
    both = net(speech, motion, there, there)
    assert np.abs(both[0] - net(speech, other, there, there)[0]).max() > 1e-3
    alone = quick_jit(lambda *a: joint.net.apply({"params": params}, *a, method="speech_velocity"))(*speech)
    np.testing.assert_allclose(net(speech, other, there, gone)[0], alone, atol=1e-5)
    mixed = net(speech, motion, there, np.array([True, False, True]))[0]  # absence is an affair of each patch
    keep = np.array([0, 2])
    np.testing.assert_allclose(mixed[keep], both[0][keep], atol=1e-5)
    np.testing.assert_allclose(mixed[1], alone[1], atol=1e-5)
    noise = objective.draw(jax.random.key(0), joint.config, 2, 3)
    np.testing.assert_array_equal(noise["speech"]["t"], noise["motion"]["t"])


def test_heads_with_many_tokens_equal_heads_with_few():
    """Above a number of patches two products are merged into one."""
    system, params = one()
    speech, _ = head_arguments(system.config, n=40)

    @quick_jit
    def many_and_few(params, *speech):
        net = functools.partial(system.net.apply, {"params": params}, method="speech_velocity")
        return net(*speech), jax.lax.map(lambda a: net(*(x[None] for x in a))[0], speech)

    np.testing.assert_allclose(*many_and_few(params, *speech), atol=2e-5)


def test_patch_tokens_can_leave_motion_out():
    system, params = one()
    c = system.config
    speech, motion = head_arguments(c)
    valid = np.full(3, c.patch)

    net = quick_jit(lambda *a: system.net.apply({"params": params}, *a, method="patch_tokens"))

    def tokens(motion, tts, with_motion=True):
        return net(speech[0], valid, motion, valid, np.broadcast_to(tts, 3), np.broadcast_to(with_motion, 3))

    none = tokens(motion[0], False, False)
    np.testing.assert_allclose(tokens(motion[0] + 1, True), none + params["motion_pad"], atol=1e-6)
    mixed = tokens(motion[0], np.array([False, True, False]), np.array([True, True, False]))
    np.testing.assert_allclose(mixed[0], tokens(motion[0], False)[0], atol=1e-6)
    np.testing.assert_allclose(mixed[1:], none[1:] + np.array([[1.0], [0.0]]) * params["motion_pad"], atol=1e-6)
    assert np.abs(mixed[0] - none[0]).max() > 1e-3


def test_draws_have_the_stated_laws():
    c = tiny(repeats=4, patch=1)
    noise = jax.device_get(quick_jit(lambda key: objective.draw(key, c, 20, 200))(jax.random.key(1)))
    for name in ("speech", "motion"):
        one = noise[name]
        logit = np.log(one["t"] / (1 - one["t"]))
        np.testing.assert_allclose([logit.mean(), logit.std()], [c.time_mean, c.time_std], atol=0.02)
        np.testing.assert_allclose([one["mu"].mean(), one["context"].mean()], [0.9, 0.95], atol=0.01)
        np.testing.assert_allclose([one["z"].mean(), one["z"].std()], [0, 1], atol=0.02)
    assert np.abs(np.corrcoef(noise["speech"]["t"].ravel(), noise["motion"]["t"].ravel())[0, 1]) < 0.02


def test_loss_is_zero_at_the_true_velocity():
    config = tiny()
    batch = pack([three(config)], config)

    noise = draw(config, rows=1)

    @quick_jit
    def at_the_truth(batch):
        out, hidden = [], jnp.zeros((1, config.row_tokens, config.d_model))
        target = objective.targets(batch, hidden, config)
        for name in ("speech", "motion"):
            x, t, *_ = objective.head_inputs(target["mu"], target[name], noise[name])
            velocity = noise[name]["z"] - target[name]["x1"][:, :, None]
            error = x - t[..., None, None] * velocity - target[name]["x1"][:, :, None]  # to t = 0: the data
            losses = [objective.flow_loss(velocity + off, target[name], noise[name]) for off in (0, 2)]
            out.append((jnp.abs(error).max(), *losses))
        return out

    for back, exact, off in at_the_truth(batch):
        np.testing.assert_allclose([back, exact, off], [0, 0, 4], atol=1e-5)


def test_stop_labels_of_long_and_short_utterances():
    config = tiny(stop_max_patches=5, delay=0)
    lengths = (1, 3, 4, 6)  # patches
    batch = pack([[utterance(config, 1, n * config.patch, 0)] for n in lengths], config)

    @quick_jit
    def run(batch, logits):
        labels, weight = objective.stop_labels(batch, config)
        cut, _ = objective.stop_labels(batch, tiny(max_frames=4 * config.patch, delay=0))
        return labels, weight, cut, objective.stop_loss(logits, labels, weight)

    logits = np.linspace(-2, 2, batch["patch_slot"].size).reshape(batch["patch_slot"].shape).astype(np.float32)
    labels, weight, cut, (loss, accuracy) = jax.device_get(run(batch, logits))
    ignored = objective.IGNORED
    wanted = [[1], [ignored, ignored, 1], [0, ignored, ignored, 1], [0] * 6]
    for row, want in zip(labels, wanted, strict=True):
        np.testing.assert_array_equal(row, want + [ignored] * (len(row) - len(want)))
    np.testing.assert_allclose(weight, 0.3 * np.mean([0, 0, 1]))
    assert [(row == 1).sum() for row in cut] == [1, 1, 0, 0]  # clips as long as those that are cut may have no end
    none = {name: np.tile(x[3:], (4,) + (1,) * (x.ndim - 1)) for name, x in batch.items()}
    np.testing.assert_allclose(run(none, logits)[1], 0.3)
    real, truth = labels != ignored, labels == 1
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    entropy = -np.where(truth, float(weight) * np.log(p), np.log(1 - p))[real].mean()
    np.testing.assert_allclose(loss, entropy, rtol=1e-5)
    np.testing.assert_allclose(accuracy, ((logits > 0) == truth)[real].mean(), rtol=1e-6)


def test_every_parameter_has_one_rule_and_every_batch_a_shape():
    small = build(tiny(velocity_layers=2))
    for system, shapes in ((small, random_params(small)), (build(released()), published_shapes())):
        names = [jax.tree_util.keystr(path, simple=True, separator="/")
                 for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
        for name, leaf in zip(names, jax.tree.leaves(shapes), strict=True):
            rules = [axes for pattern, axes in system.param_rules if re.fullmatch(pattern, name)]
            assert len(rules) == 1 and len(rules[0]) in (0, leaf.ndim), (name, leaf.shape, rules)
        for pattern, _ in system.param_rules:
            assert any(re.fullmatch(pattern, name) for name in names), f"a rule for nothing: {pattern}"
    batch = pack([three(tiny())], tiny())
    wanted = example_batch(one()[0], batch=1, time=0)
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {k: (v.shape, v.dtype) for k, v in wanted.items()}


def test_published_size():
    """The backbone is Qwen3-0.6B to the last parameter."""
    shapes = published_shapes()

    def count(tree):
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))

    assert count(shapes["backbone"]) == 596_049_920
    assert count(shapes) == 912_301_128


def test_ids_outside_the_vocabulary_are_named():
    system, c = one()[0], one()[0].config
    example = {"id": "a", "tokens": np.array([1, c.vocab], np.int32), "voice": np.zeros(c.speaker_dim, np.float32),
               "audio": np.zeros((4, c.audio_dim), np.float32), "motion": np.zeros((0, c.motion_dim), np.float32)}
    for use in (lambda e: system.rows.build([e], np.random.default_rng(0)), lambda e: system.conditions(e, "tts")):
        use(example | {"tokens": np.array([0, c.vocab - 1], np.int32)})
        with pytest.raises(UserError, match=r"vocabulary(.|\n)*1 to 11"):
            use(example)


@pytest.mark.slow
@pytest.mark.parametrize("coupling", ["separate", "joint"])
def test_the_loss_does_not_depend_on_the_mesh(coupling):
    """The rules on data 2 x fsdp 2 x tensor 2, gradients in the parameters' places."""
    system = build(tiny(num_kv_heads=2, coupling=coupling, num_layers=1, velocity_layers=2))
    params, c = random_params(system), system.config
    batch = pack([three(c), [], [utterance(c, 2, 9, 9)], [utterance(c, 2, 5, 0)]], c)
    noise = draw(c, seed=2, rows=4)
    step = quick_jit(jax.value_and_grad(lambda p, b: system.loss_at(p, b, noise)[0]))
    alone = step(params, batch)
    mesh = make_mesh(dict(data=2, fsdp=2, tensor=2))
    places = param_shardings(params, system.param_rules, mesh)
    spread = step(jax.device_put(params, places), put_batch(batch, batch_sharding(mesh)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), alone, spread)
    assert len(spread[0].sharding.device_set) == 8


@pytest.mark.parametrize("wrong", [dict(coupling="crossed"), dict(remat="some"), dict(num_kv_heads=3),
                                   dict(velocity_width=8), dict(velocity_heads=3), dict(delay=-1), dict(delay=14),
                                   dict(row_tokens=14), dict(hidden_dropout=1.0), dict(steps=0),
                                   dict(max_frames=1), dict(stop_ignore=-1)])
def test_bad_configs_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        check(tiny(**wrong))
