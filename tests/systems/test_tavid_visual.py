"""The visual System: rows of each stage, what a stage trains and pays for, dropped conditions,
guidance, continuation, and that the picture follows the units."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avjax.errors import UserError
from avjax.flow import diffusion
from avjax.sharding.mesh import make_mesh
from avjax.sharding.rules import named_leaves, param_shardings, path_name
from avjax.systems.api import abstract_params, build
from avjax.systems.tavid.visual import config as configs
from avjax.systems.tavid.visual import sampler
from avjax.training.flops import count_flops, flops_of, live
from avjax.training.optimizer import make_optimizer
from avjax.training.step import make_gradients
from configs import base

LATENT = (4, 4, 1)


def small(stage="temporal", **more):
    c = configs.tiny()
    # attention in the middle only: of the levels, tests/systems/test_hallo2_golden.py has it
    c.unet.update(dict(channels=(8,), attention_levels=(False,), heads=2, groups=2, latent_dim=4,
                       face_dim=4, motion_dim=4,
                       temporal_groups=2))
    c.mapper.update(dict(num_units=10, unit_dim=4, d_model=8, num_heads=2, num_blocks=1, band=2,
                         tokens=2, token_dim=4,
                         margin=1))
    c.update(dict(stage=stage, latent_size=LATENT[:2], latent_dim=1, patch=2, face_width=3,
                  face_tokens=2, frames=3, context=4,
                  clip=3, steps=2, guidance_mode="combined", guidance=2.0, motion_shift=True))
    c.update_from_flattened_dict(more)
    return c


@functools.lru_cache
def random_params():
    """Of every stage: the tree is one. Nothing is zero, so that nothing is hidden."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(0, 0.4 if len(s.shape) > 1 else 0.2,
                                             s.shape).astype(np.float32),
                        abstract_params(build(small())))


def dialogue(T=30, S=2, seed=0):
    """Latents say which frame and speaker they are; units which frame, oneself even and the other
    odd."""
    rng = np.random.default_rng(seed)
    latents = np.zeros((T, S, *LATENT), np.float16)
    latents[:, :, 0] = np.arange(T)[:, None, None, None]
    latents[:, :, 1] = np.arange(S)[None, :, None, None]
    units = np.stack([(np.arange(2 * T) // 2 * 2 + s) % 10 for s in range(S)],
                     axis=1).astype(np.int32)
    return {"id": "d", "units": units, "latents": latents,
            "faces": rng.normal(size=(S, 3)).astype(np.float32),
            "reference": np.full((S, *LATENT), -1.0, np.float32)}


@pytest.mark.parametrize("stage", configs.STAGES)
def test_rows_hold_one_speaker_on_one_clock(stage):
    system, rng = build(small(stage)), np.random.default_rng(0)
    mute = {"id": "m"} | {n: x[:0] if n == "latents" else x for n, x in dialogue().items() if n
                          != "id"}
    starts = 0
    for i in range(40):
        T = 30 if i % 2 else 7
        row = system.rows.build([mute, dialogue(T)], rng)
        assert row.keys() == system.batch_spec.keys()
        for name, spec in system.batch_spec.items():
            assert np.shape(row[name]) == spec.shape[1:] and row[name].dtype == spec.dtype, name
        frames, who = row["latents"][:, 0, 0, 0].astype(int), int(row["latents"][0, 1, 0, 0])
        np.testing.assert_array_equal(row["face"], dialogue(T)["faces"][who])
        assert row["reference"][0, 0, 0] == -1 or row["reference"][1, 0, 0] == who
        if stage == "appearance":
            continue
        assert row["units_length"] == 2 * min(11, T)
        # oneself
        np.testing.assert_array_equal(row["units"][2 * row["frame"], 0], (2 * frames + who) % 10)
        np.testing.assert_array_equal(row["units"][2 * row["frame"], 1],
                                      (2 * frames + 1 - who) % 10)
        if stage == "temporal":
            assert (np.diff(frames) == 1).all()
            copies = frames[0] < 2
            starts += copies
            wanted = (np.stack([row["reference"]] * 2) if copies
                      else dialogue(T)["latents"][frames[0] - 2:frames[0], who])
            np.testing.assert_array_equal(row["motion"], wanted)
    assert stage != "temporal" or starts
    assert system.rows.cost({"latents": 0}) == {"examples":
                                                0} and system.rows.cost({"latents":
                                                                         9}) == {"examples": 1}
    with pytest.raises(UserError, match="no dialogue with pictures"):
        system.rows.build([mute], rng)
    if stage != "appearance":
        with pytest.raises(UserError, match="codebook"):
            system.rows.build([dialogue() | {"units": dialogue()["units"] + 9}], rng)


def test_a_reference_is_not_what_is_made_of_it():
    for stage in configs.STAGES:
        rows = build(small(stage, frames=1, portrait_share=0.0, start_share=0.0,
                           reference_margin=6)).rows
        for T, least in ((30, 6), (7, 3), (2, 0)):
            made = [rows.build([dialogue(T)], np.random.default_rng(i)) for i in range(60)]
            away = np.array([abs(row["reference"][0, 0, 0] - row["latents"][0, 0, 0, 0])
                             for row in made])
            assert away.min() == (0 if stage == "temporal"
                                  else least) and len(set(away)) > 1, (stage, T)


def test_every_parameter_has_one_rule_and_one_stage():
    c = configs.tiny()
    c.motion_shift = True
    system = build(c)
    shapes = abstract_params(system)
    placed = param_shardings(shapes, system.param_rules,
                             make_mesh(dict(data=2, fsdp=2, tensor=2)))
    wide = [n for (n, x), s in zip(named_leaves(shapes), jax.tree.leaves(placed), strict=True)
            if x.size > 2e4 and s.is_fully_replicated]
    assert not wide
    trained = {stage: {n for (n, _),
                       train in zip(named_leaves(shapes),
                                    jax.tree.leaves(optimizer(stage, shapes).trainable),
                                    strict=True) if train} for stage in configs.STAGES}
    assert sum(map(len,
                   trained.values())) == len(set.union(*trained.values())) == len(
                       jax.tree.leaves(shapes))
    assert {n.split("/")[0] for n in trained["motion"]} == {"mapper", "windows", "denoiser"}
    assert all("/temporal/" in n for n in trained["temporal"])
    for wrong in (dict(stage="all"), {"unet.motion_dim": 5}, dict(clip=31), dict(patch=1),
                  dict(sample_betas="linear"),
                  dict(latent_size=(6, 4),
                       **{"unet.channels": (8, 8), "unet.attention_levels": (True, True)})):
        with pytest.raises(UserError, match="config.system"):
            build(small(**wrong))
    with pytest.raises(UserError, match="unknown stage"):
        configs.frozen("all")


def optimizer(stage, params):
    o = base.get_config().optimizer
    o.frozen = configs.frozen(stage)
    return make_optimizer(o, 10, params)


def batch_of(system, B=2):
    rng = np.random.default_rng(0)
    rows = [system.rows.build([dialogue(seed=i)], rng) for i in range(B)]
    batch = {n: np.stack([r[n] for r in rows]) for n in rows[0]}
    noise = {n: rng.normal(size=batch[n].shape).astype(np.float32)
             for n in ("latents", "reference", "motion") if n in batch}
    return batch | noise


def test_a_stage_trains_its_own_and_pays_for_no_more():
    params, key = random_params(), jax.random.key(0)
    for stage in ("motion", "temporal"):
        system = build(small(stage))
        batch, trainable = batch_of(system), optimizer(stage, params).trainable
        gradients = make_gradients(system, optimizer(stage, params))
        traced = jax.jit(gradients).trace(params, batch, key)
        frozen = flops_of(live(traced.jaxpr.jaxpr))
        whole = count_flops(jax.value_and_grad(system.loss, has_aux=True), params, batch, key)
        # no products for the gradients of what is frozen
        assert frozen < 0.9 * whole, (stage, frozen / whole)
    # of stage temporal
    _, _, grads = jax.device_get(traced.lower().compile()(params, batch, key))
    moved = {n for n, g in named_leaves(grads) if np.abs(g).max() > 0}
    assert moved == {n for (n, _), train in zip(named_leaves(grads), jax.tree.leaves(trainable),
                                                strict=True) if train}
    again = make_gradients(build(small(stage, **{"unet.remat": "parts"})), optimizer(stage, params))
    _, _, same = jax.device_get(jax.jit(again)(params, batch, key))
    largest = max(np.abs(g).max() for g in jax.tree.leaves(grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest),
                 same, grads)


def test_dropped_conditions_leave_no_trace_and_the_loss_is_the_papers():
    system = build(small("temporal", moving_weight=0.0, predicts="velocity", min_snr=5.0))
    params, batch = random_params(), batch_of(system)
    draw = jax.device_get(system.draw(jax.random.key(0), 2))
    draw |= {"t": np.array([[999], [400]]),
             **{n: np.zeros(2, bool) for n in ("reference", "face", "motion", "motion_frames")}}
    on = np.array([True, True])
    changed = {n: batch | {n: -batch[n]} for n in ("reference", "face", "motion")}
    changed["units"] = batch | {"units": (batch["units"] + 3) % 10}
    gone = {"reference": "reference", "face": "face", "motion": "motion_frames", "units": "motion"}
    run = jax.jit(lambda params, batch, draw: system.loss_at(params, batch, draw)[0])
    base_loss = float(run(params, batch, draw))
    for name, flag in gone.items():
        without = draw | {flag: on}
        # the banks of the motion frames stay, the reference net's statistics are its own
        if name == "reference":
            assert float(run(params, batch,
                             without)) == pytest.approx(float(run(params, changed[name], without)),
                                                        rel=1e-5)
        assert float(run(params, changed[name], draw)) != pytest.approx(base_loss, rel=3e-6), name
        assert float(run(params, batch,
                         without)) == pytest.approx(float(run(params, changed[name], without)),
                                                    rel=1e-5), name
    # tokens are heard by attention and by the shift of the time embedding, each by itself
    for deaf, heard in ((r"$", True), (r"time/motion/", True), (r"(mid|down|up).*/motion/", True),
                        (r".*/motion/", False)):
        deafened = jax.tree_util.tree_map_with_path(
            lambda path, x, deaf=deaf: x * (not re.search("denoiser/" + deaf, path_name(path))),
            params)
        told, other = (float(run(deafened, b, draw)) for b in (batch, changed["units"]))
        assert (other != pytest.approx(told, rel=1e-6)) == heard, deaf
    # a network that says 0: the target's own size, weighted
    zero = jax.tree.map(np.zeros_like, params)
    x0, t = batch["latents"], draw["t"][:, 0]
    alpha = diffusion.make_schedule().alphas[t][:, None, None, None, None]
    target = np.sqrt(alpha) * draw["noise"] - np.sqrt(1 - alpha) * x0
    snr = (alpha / (1 - alpha)).ravel() + 1
    wanted = np.mean(np.minimum(snr, 5) / snr * (target**2).mean((1, 2, 3, 4)))
    assert float(run(zero, batch, draw)) == pytest.approx(wanted, rel=1e-5)
    assert alpha.ravel()[0] == 0


def conditions(T, seed=0, first=None):
    rng = np.random.default_rng(seed)
    return {"units": rng.integers(0, 10, (2 * T, 2)).astype(np.int32),
            "units_length": np.int32(2 * T), "faces": rng.normal(size=(2, 3)).astype(np.float32),
            "reference": rng.normal(size=(2, *LATENT)).astype(np.float32),
            "first_motion": np.zeros((2, 2, *LATENT), np.float32) if first is None else first,
            "has_first": np.float32(first is not None)}


def test_video_goes_on_clip_by_clip_whatever_lies_beside_it():
    system, params = build(small()), random_params()
    long, other = conditions(9), conditions(9, 1)
    cut = long | {"units_length": np.int32(14)}
    cut["units"] = np.concatenate([long["units"][:14], np.full((4, 2), 7)]).astype(np.int32)
    shown = other | {"first_motion": other["reference"][:, None].repeat(2, axis=1) + 1,
                     "has_first": np.float32(1)}
    batch = {n: np.stack([c[n] for c in (long, cut, other, shown)]) for n in long}
    keys = jax.random.split(jax.random.key(0), 3)[jnp.array([0, 0, 1, 1])]
    generate = jax.jit(system.generate)
    out = jax.device_get(generate(params, batch, keys))
    frames = out["latents"]
    assert frames.shape == (4, 9, 2, *LATENT) and list(out["latents_length"]) == [9, 7, 9, 9]
    # what lies behind the end does not matter to a clip whose tokens do not look that far
    np.testing.assert_allclose(frames[0, :3], frames[1, :3], atol=1e-4)
    assert np.abs(frames[2] - frames[3])[:3].max() > 1e-3  # another past

    # by hand: the third clip after the last frames of the second
    @jax.jit
    def clip(before):
        tokens = sampler.motion_tokens(system, params, batch["units"][:1],
                                       batch["units_length"][:1])
        faces = sampler.face_tokens(system, params, batch["faces"][0])
        clip_keys = jnp.stack([jax.random.fold_in(jax.random.fold_in(keys[0], s), 2)
                               for s in range(2)])
        return sampler.sample_clip(system, params, batch["reference"][0], faces,
                                   {g: x[:, 6:9] for g, x in tokens.items()},
                                   before, clip_keys)
    np.testing.assert_allclose(np.moveaxis(frames[0, 6:9], 1, 0),
                               clip(np.moveaxis(frames[0, 4:6], 1, 0)), atol=1e-3)


def test_guidance_mixes_what_it_says():
    full = [(1.0, True, True)]
    cases = {("combined", 1.0, 0, 0): full, ("separate", 0, 1.0, 1.0): full,
             ("combined", 3.5, 0, 0): [(3.5, True, True), (-2.5, False, False)],
             ("separate", 0, 1.0, 2.0): [(2.0, True, True), (-1.0, True, False)],
             ("separate", 0, 2.0, 3.5): [(3.5, True, True), (-1.5, True, False),
                                         (-1.0, False, False)]}
    for (mode, g, ref, mot), wanted in cases.items():
        c = small(guidance_mode=mode, guidance=g, guidance_reference=ref, guidance_motion=mot)
        assert sampler.passes(c) == wanted
        assert sum(w for w, _, _ in wanted) == pytest.approx(1.0)
    # the sampler's velocity against the sum of single passes, one DDIM step from pure noise: x0 =
    # -v; of the smaller stage
    one = {n: jnp.asarray(x)[None] for n, x in conditions(3).items()}
    key = jax.random.split(jax.random.key(1), 1)

    def run(**more):
        return build(small("motion", steps=1, **more)).generate(random_params(), one,
                                                                key)["latents"]

    both = {"guidance_mode": "separate", "guidance_reference": 2.0, "guidance_motion": 3.5}
    mixed, motion, ref, none = jax.device_get(jax.jit(lambda: (
        run(**both), run(guidance=1.0), run(guidance_mode="separate", guidance_reference=1.0,
                                            guidance_motion=0.0),
        run(guidance=0.0)))())
    np.testing.assert_allclose(mixed, 3.5 * motion - 1.5 * ref - none, atol=1e-3)


@pytest.mark.slow
def test_the_picture_follows_the_units():
    """Stage motion on a toy whose latent is what oneself says: the sampled video is nearer to its
    own units' than to the other speaker's."""
    system, rng = build(small("motion", frames=6, context=2,
                              guidance=1.0)), np.random.default_rng(0)

    def toy(T=16):
        units = np.repeat(rng.integers(0, 3, (T // 4, 2)), 8, axis=0).astype(np.int32)
        value = (units[::2] - 1.0)[..., None, None, None] * np.ones((1, 1, *LATENT))
        return {"units": units, "latents": value.astype(np.float16),
                "faces": np.zeros((2, 3), np.float32),
                "reference": np.zeros((2, *LATENT), np.float32), "id": "t"}

    steps = 150
    rows = [[system.rows.build([toy()], rng) for _ in range(4)] for _ in range(steps)]
    batches = {n: jnp.stack([jnp.stack([r[n] for r in row]) for row in rows]) for n in rows[0][0]}
    update = optax.adam(1e-2)

    @jax.jit
    def train(params):
        def step(carry, inputs):
            batch, key = inputs
            (_, metrics), grads = jax.value_and_grad(system.loss,
                                                     has_aux=True)(carry[0], batch, key)
            updates, state = update.update(grads, carry[1])
            return (optax.apply_updates(carry[0], updates), state), metrics["mse"]
        start = (params, update.init(params))
        return jax.lax.scan(step, start, (batches, jax.random.split(jax.random.key(0), steps)))

    # whose draws take longer to compile than the training
    shapes = abstract_params(system)
    draw = {"bias": np.zeros, "scale": np.ones}
    params = jax.tree_util.tree_map_with_path(lambda path,
                                              s: draw.get(path[-1].key, lambda shape: rng.normal(
        0, np.prod(shape[:-1]) ** -0.5, shape))(s.shape).astype(np.float32), shapes)
    (params, _), errors = train(params)
    example = toy()
    given = {n: jnp.asarray(v)[None] for n, v in system.conditions(example)[0].items()}
    made = jax.device_get(jax.jit(system.generate)(params, given,
                                                     jax.random.split(jax.random.key(0),
                                                                      1)))["latents"][0]
    truth = example["latents"].astype(np.float32)
    own, others = np.abs(made - truth).mean(), np.abs(made - truth[:, ::-1]).mean()
    assert own < 0.6 * others, (own, others, np.asarray(errors[::25]))
