"""Talker-T2AV's sampler: agreement with training, rows on their own, prefixes, streaming."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.flow.guidance import guide_zero_star, zero_init_steps
from avjax.flow.solvers import swayed_times
from avjax.systems.api import abstract_params, build
from avjax.systems.talker import objective, sampler
from avjax.systems.talker.config import T2AV, TTS, default
from avjax.systems.talker.streaming import StreamingSampler
from tests.systems.talker_golden import pack

P, ROWS, ROOM, PROMPT = 2, 3, 12, 6  # frames a patch, rows, frames there is room for, widest prompt
TASKS = ("t2av", "tts", "a2v", "v2a")


@functools.cache
def tiny(**overrides):
    """A system with motion two patches behind speech, and random parameters."""
    c = default()
    c.update(dict(vocab=11, d_model=16, velocity_width=16, num_layers=1, num_heads=2,
                  num_kv_heads=1, head_dim=8, d_ff=24, encoder_layers=1, encoder_heads=2,
                  velocity_layers=2, velocity_heads=2, audio_dim=3, motion_dim=4,
                  speaker_dim=5, patch=P, delay=2, row_tokens=20, row_patches=10, row_utterances=1,
                  steps=3, temperature=0.7,
                  min_patches=2, stop_streak=2))
    c.update(overrides)
    system, rng = build(c), np.random.default_rng(0)
    shapes = abstract_params(system)
    return system, jax.tree.map(lambda x: (0.5 * rng.standard_normal(x.shape)).astype(np.float32),
                                shapes)


def stopping(params, logit: float):
    """Parameters whose stop logit is always this."""
    change = {"stop_hidden": jax.tree.map(np.zeros_like, params["stop_hidden"]),
              "stop_out": params["stop_out"]}
    change["stop_hidden"]["bias"] = np.ones_like(params["stop_hidden"]["bias"])
    kernel = np.ones_like(params["stop_out"]["kernel"])
    change["stop_out"] = {"kernel": logit / float(jax.nn.silu(1.0)) / len(kernel) * kernel}
    return params | change


def conditions_of(system, task, rows=ROWS, frames=ROOM, width=PROMPT):
    """Rows of different prompts and, where something is given, different lengths; a prefix in the
    second of three rows."""
    c, rng = system.config, np.random.default_rng(5)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    out = dict(prompt=rng.integers(0, c.vocab, (rows, width)).astype(np.int32),
               prompt_length=np.array([2, width, 4], np.int32)[:rows],
               speaker=normal(rows, c.speaker_dim), first_motion=normal(rows, c.motion_dim),
               audio=normal(rows, frames, c.audio_dim),
               motion=normal(rows, frames, c.motion_dim))
    prefix, whole = np.array([0, 4, 0], np.int32)[:rows], np.array([frames, 7, 4], np.int32)[:rows]
    return out | {f"{name}_length": whole if sampler.GIVEN.get(task) == name else prefix
                  for name in ("audio", "motion")}


KEYS = jax.random.split(jax.random.key(3), ROWS)


@functools.cache
def generator(task, **overrides):
    system = tiny(**overrides)[0]
    return jax.jit(lambda params, conditions, keys: system.generate(params, conditions, keys, task))


def generated(task, params, conditions, keys=KEYS, **overrides):
    return jax.device_get(generator(task, **overrides)(params, conditions, keys))


@functools.cache
def trainer(**overrides):
    """Patches that the heads give at every slot of rows, all at once, with the network's own
    methods of training: (params, row, noise at the slots, global conditions, which slots hold a
    given patch) -> {"audio", "motion": (B, J, P, C)}."""
    system = tiny(**overrides)[0]
    c = system.config

    def velocities(params, inputs, target):
        net = functools.partial(system.net.apply, {"params": params})
        if c.coupling == "joint":
            has = (target[name].mask_BJ > 0 for name in ("speech", "motion"))
            return dict(zip(("audio", "motion"),
                            net(inputs["audio"], inputs["motion"], *has, method="velocities_joint"),
                            strict=True))
        return {"audio": net(*inputs["audio"], method="speech_velocity"),
                "motion": net(*inputs["motion"], method="motion_velocity")}

    @jax.jit
    def run(params, row, noise, wide, known):
        hidden = system.net.apply({"params": params}, row, method="encode_row")
        target = objective.targets(row, hidden, c)
        of = {"audio": target["speech"], "motion": target["motion"]}
        times, shape = swayed_times(c.steps, c.sway), row["patch_slot"].shape

        def step(i, x):
            t, x = times[i], dict(x)
            for name in x:
                path = (1 - t) * of[name].x1_BJPC + t * noise[name]
                x[name] = jnp.where(known[name][..., None, None], path, x[name])

            def at(mu):
                glob = {n: jnp.broadcast_to(wide[n][:, None], (*shape, wide[n].shape[-1]))
                        for n in x}
                return velocities(params,
                                  {n: (x[n], jnp.full(shape, t), mu, of[n].context_BJPC, glob[n])
                                   for n in x}, target)

            plus, minus = at(target["mu"]), at(jnp.zeros_like(target["mu"]))
            for name, a in x.items():
                v = guide_zero_star(*(v[name].reshape(-1, *a.shape[2:]) for v in (plus, minus)),
                                    c.guidance)
                x[name] = a + (times[i + 1] - t) * v.reshape(a.shape)
            return x

        return jax.lax.fori_loop(zero_init_steps(c.steps), c.steps, step, dict(noise))

    return system, run


def assert_as_trained(task, params, conditions, out, keys=KEYS, **overrides):
    """What `out` holds at every slot is what the heads make of the training row of `out` itself."""
    system, run = trainer(**overrides)
    c = system.config
    behind, J = sampler.lag(system, task), c.row_patches
    noise = jax.device_get(jax.jit(lambda keys: sampler.draw(system, keys, J))(keys))
    utterances, lengths = [], {name: out[f"{name}_length"] for name in ("audio", "motion")}
    for b, prompt in enumerate(conditions["prompt_length"]):
        n, m = (-(-int(lengths[name][b]) // P) for name in ("audio", "motion"))
        slots = max(n, m + behind if m else 0)
        ids = np.concatenate([[TTS if task == "tts" else T2AV], conditions["prompt"][b, :prompt],
                              np.zeros(slots, int)])
        utterances.append(dict(tokens=ids, slots=1 + prompt + np.arange(slots),
                               speaker=conditions["speaker"][b],
                               **{name: out[name][b, :lengths[name][b]] for name in lengths}))
    row = pack([[u] for u in utterances], c)
    first = np.where((conditions["motion_length"] > 0)[:, None] & (task != "tts"),
                     conditions["motion"][:, 0],
                     conditions["first_motion"])
    at, known, count = {}, {}, {}
    for name, shift in (("audio", 0), ("motion", behind)):
        at[name] = np.pad(c.temperature * noise[name], ((0, 0), (shift, 0), (0, 0), (0, 0)))[:, :J]
        given = sampler.GIVEN.get(task) == name
        count[name] = (-(-conditions[f"{name}_length"] // P) if given
                       else conditions[f"{name}_length"] // P)
        known[name] = np.arange(J)[None] - shift < count[name][:, None]
    ours = jax.device_get(run(params, row, at, {"audio": conditions["speaker"], "motion": first},
                              known))
    for name in system.makes[task]:
        shift = behind if name == "motion" else 0
        for b, length in enumerate(lengths[name]):
            start, stop = int(count[name][b]) * P, int(length)
            assert stop > start, "nothing was made"
            theirs = ours[name][b, shift:].reshape(-1, ours[name].shape[-1])[start:stop]
            np.testing.assert_allclose(out[name][b, start:stop], theirs, atol=2e-5, rtol=2e-4,
                                       err_msg=f"{name}, row {b}")


def assert_kept(task, conditions, out):
    """Given frames come out as they are; zeros past the lengths."""
    for name in ("audio", "motion"):
        for b, length in enumerate(out[f"{name}_length"]):
            if task != "tts" or name == "audio":
                n = min(int(conditions[f"{name}_length"][b]), int(length))
                np.testing.assert_array_equal(out[name][b, :n], conditions[name][b, :n])
            assert not out[name][b, length:].any() and np.isfinite(out[name][b]).all()


@pytest.mark.parametrize("task",
                         ["t2av", *(pytest.param(t, marks=pytest.mark.slow) for t in TASKS[1:])])
def test_samples_what_training_describes(task):
    """Rows of different prompts, prefixes and lengths: each patch from the hidden state, previous
    patch and global condition that training has for it; for text to speech and motion, up to the
    bound and where the stop head ends it."""
    system, params = tiny()
    conditions = conditions_of(system, task)
    out = generated(task, stopping(params, -5.0), conditions)
    ends = [ROOM, 7, 4] if task in sampler.GIVEN else [ROOM] * 3
    assert out["audio_length"].tolist() == ends
    assert out["motion_length"].tolist() == ([0, 0, 0] if task == "tts" else ends)
    assert_kept(task, conditions, out)
    assert_as_trained(task, params, conditions, out)
    if task in sampler.GIVEN:
        return
    # two patches after the prefix at the soonest
    stopped = generated(task, stopping(params, 5.0), conditions)
    assert stopped["audio_length"].tolist() == [4, 8, 4]
    assert_kept(task, conditions, stopped)
    assert_as_trained(task, params, conditions, stopped)


def assert_same(ours, theirs):
    for name in ours | theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-5, rtol=2e-4, err_msg=name)


@pytest.mark.parametrize("task",
                         ["t2av", *(pytest.param(t, marks=pytest.mark.slow) for t in TASKS[1:])])
def test_rows_do_not_depend_on_batch_mates_bounds_or_padding(task):
    """Each row alone, in a wider prompt and under a larger bound; and with nonsense wherever
    nothing is given."""
    system, params = tiny()
    params, conditions = stopping(params, 5.0), conditions_of(system, task)
    together = generated(task, params, conditions)
    rng = np.random.default_rng(1)
    for b in range(ROWS if task in ("t2av", "a2v") else 0):
        alone = {name: value[b:b + 1] for name, value in conditions.items()}
        alone["prompt"] = np.concatenate([alone["prompt"],
                                          rng.integers(0, 11, (1, 3)).astype(np.int32)], axis=1)
        for name in ("audio", "motion"):
            alone[name] = np.concatenate([alone[name],
                                          rng.standard_normal((1, 4, alone[name].shape[-1]),
                                                              np.float32)], axis=1)
        out = generated(task, params, alone, KEYS[b:b + 1])
        assert_same({name: value[b:b + 1] for name, value in together.items()},
                    {name: value[:, :ROOM if value.shape[1] > ROOM else ROOM // P] if value.ndim > 1
                     else value
                     for name, value in out.items()})
    poisoned = {name: value.copy() for name, value in conditions.items()}
    for b in range(ROWS):
        poisoned["prompt"][b, conditions["prompt_length"][b]:] = 2**30
        for name, bad in (("audio", np.nan), ("motion", 1e30)):
            poisoned[name][b, conditions[f"{name}_length"][b]:] = bad
    unused = set(poisoned) - set(sampler.needed(system, task))
    assert unused == {"t2av": set(), "tts": {"motion", "motion_length", "first_motion"},
                      "a2v": {"speaker"},
                      "v2a": {"first_motion"}}[task]
    for name in unused:
        poisoned[name][...] = np.nan if poisoned[name].dtype == np.float32 else -7
    assert_same(together, generated(task, params, poisoned))
    assert_same(together,
                generated(task, params, {n: v for n, v in conditions.items() if n not in unused}))


@pytest.mark.parametrize("task",
                         ["t2av", *(pytest.param(t, marks=pytest.mark.slow) for t in TASKS[1:])])
def test_a_prefix_goes_on_as_if_it_had_been_made(task):
    """What was generated, given back as a prefix: the same clip. Then other ones: a different
    clip."""
    system, params = tiny()
    params = stopping(params, -5.0)
    # the global condition is the prefix's own first frame; here it says nothing
    params = params | {"motion_head": params["motion_head"] | {
        "globals": jax.tree.map(np.zeros_like, params["motion_head"]["globals"])}}
    conditions = conditions_of(system, task)
    for name in set(("audio", "motion")) - {sampler.GIVEN.get(task)}:
        conditions[f"{name}_length"] = np.zeros(ROWS, np.int32)
    whole = generated(task, params, conditions)
    for audio, motion in ((4, 2), (0, 4), (5, 0)):  # 5: not a whole patch, 4 frames
        lengths = {"audio": audio, "motion": motion}
        prefix = conditions | {name: whole[name] for name in system.makes[task]} | {
            f"{name}_length": np.full(ROWS, lengths[name], np.int32) for name in system.makes[task]}
        out = generated(task, params, prefix)
        assert_same(whole, out)
    for name in system.makes[task]:
        changed = prefix | {name: whole[name] + 1.0, f"{name}_length": np.full(ROWS, 2, np.int32)}
        other = generated(task, params, changed)
        np.testing.assert_array_equal(other[name][:, :2], changed[name][:, :2])
        assert (np.abs(other[name] - whole[name])[:, 2:4].max((1, 2)) > 1e-3).all()


@pytest.mark.parametrize("delay", [0, 3])
def test_a_prefix_as_infer_py_has_it(delay):
    """`task_token="prefix"`: text comes first; a prefix's first patch, and nothing else, holds the
    task's embedding, in the row that has one. `delay_motion="none"`: before motion starts, a prefix
    has the token of zeros, what is made none. Stop logits of one pass over all positions."""
    kw = dict(task_token="prefix", delay_motion="none", delay=delay,
              min_patches=ROOM)  # never asked to stop
    system, params = tiny(**kw)
    conditions = conditions_of(system, "t2av")
    out = generated("t2av", params, conditions, **kw)
    J, has = ROOM // P, conditions["audio_length"] > 0
    assert has.tolist() == [False, True, False]
    given = np.where(has, conditions["audio_length"] // P, 0)[:, None]
    delayed = np.broadcast_to(np.arange(J) >= delay, (ROWS, J))
    place = conditions["prompt_length"][:, None] + np.arange(J)
    position = np.broadcast_to(np.arange(PROMPT + J), (ROWS, PROMPT + J))

    @jax.jit
    def logits(task_D):
        def run(net):
            x = net.embed_text(np.pad(conditions["prompt"], ((0, 0), (0, J))))
            audio, motion = (out[name].reshape(ROWS, J, P, -1) for name in ("audio", "motion"))
            motion = np.pad(motion, ((0, 0), (delay, 0), (0, 0), (0, 0)))[:, :J]
            tokens = net.patch_tokens(audio, np.full((ROWS, J), P), motion, P * delayed, False,
                                      delayed | (np.arange(J) < given))
            tokens = tokens.at[:, 0].add(jnp.where(has[:, None], task_D, 0))
            x = x.at[np.arange(ROWS)[:, None], place].set(tokens)
            hidden = net.hidden(x, position, (position <= place[:, -1:]).astype(np.int32))
            return net.stop_logits(jnp.take_along_axis(hidden, place[..., None], axis=1))
        return system.net.apply({"params": params}, method=run)

    np.testing.assert_allclose(out["stop"], logits(params["task"][T2AV]), atol=2e-5, rtol=2e-4)
    without = np.abs(out["stop"] - logits(np.zeros_like(params["task"][T2AV]))).max(1)
    assert (without > 1e-3).tolist() == has.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_streaming_is_offline_in_parts(task):
    """All of it, and as soon as the sampler knows: nothing waits for the end but what the stop head
    may take back."""
    system, params = tiny()
    # the stop logit follows the hidden state strongly: rows end at different places
    params = params | {"stop_out": jax.tree.map(lambda a: 4 * a, params["stop_out"])}
    conditions = conditions_of(system, task)
    offline = generated(task, params, conditions)
    streaming = StreamingSampler(system, params, task)
    chunks = list(streaming.stream(conditions, KEYS))
    assert_same(offline, jax.device_get(streaming.result))
    assert len(set(offline["audio_length"].tolist())) > 1
    for name in ("audio", "motion"):
        for b, length in enumerate(offline[f"{name}_length"]):
            parts = [chunk[name][b] for chunk in chunks]
            np.testing.assert_allclose(np.concatenate(parts), offline[name][b, :length], atol=2e-5,
                                       rtol=2e-4)
            if name in system.makes[task] and task in sampler.GIVEN:
                assert [len(part) > 0
                        for part in parts].index(True) == (system.config.delay if name == "motion"
                                                           else 0)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_coupled_heads_see_each_other_as_in_training(task):
    """A given patch stands noisy beside the one that is sampled, at the same time on its path."""
    system, params = tiny(coupling="joint")
    conditions = conditions_of(system, task)
    out = generated(task, stopping(params, -5.0), conditions, coupling="joint")
    assert_kept(task, conditions, out)
    assert_as_trained(task, params, conditions, out, coupling="joint")
    separate = generated(task, stopping(params, -5.0), conditions)
    for name in system.makes[task]:
        same = np.allclose(out[name], separate[name], atol=1e-4)
        assert same == (task == "tts"), "coupled only where there is motion"


def test_errors_name_what_is_wrong():
    system, params = tiny()

    def refuses(match, task="a2v", call=None, **change):
        conditions = conditions_of(system, "a2v") | change
        with pytest.raises(UserError, match=match):
            (call or functools.partial(system.generate, params))(conditions,
                                                                 *(() if call else (KEYS, task)))

    zeros = functools.partial(np.zeros, dtype=np.float32)
    refuses("(?s)unknown task.*t2av.*sing", task="sing")
    refuses("(?s)multiple of the patch, 2.*found.*5.*patch must divide 32",
            audio=zeros((ROWS, 5, 3)), motion=zeros((ROWS, 5, 4)))
    refuses("(?s)multiple of the patch", audio=zeros((ROWS, 0, 3)), motion=zeros((ROWS, 0, 4)))
    refuses("(?s)wrong shape.*audio.*frames, 3", audio=zeros((ROWS, ROOM, 7)))
    refuses("(?s)wrong shape.*first_motion", first_motion=zeros((ROWS, 3)))
    refuses("(?s)wrong shape.*speaker", task="v2a", speaker=zeros((1, 5)))
    refuses("(?s)differ in length.*motion", motion=zeros((ROWS, ROOM + P, 4)))

    streaming = functools.cache(functools.partial(StreamingSampler, system, params))

    def bad_lengths(match, task="a2v", **change):
        check = lambda conditions: sampler.check_conditions(system, conditions, task)  # noqa: E731
        refuses(match, call=check, **change)
        refuses(match, call=lambda conditions: next(streaming(task).stream(conditions, KEYS)),
                **change)

    bad_lengths("(?s)prefix longer than the clip.*motion_length, row 1.*at most 7",
                motion_length=np.array([0, 8, 0]))
    bad_lengths("(?s)motion prefix does not fit.*row 2.*0 to 12",
                motion_length=np.array([0, 0, 13]))
    bad_lengths("(?s)audio prefix does not fit.*row 0", task="t2av",
                audio_length=np.array([13, 0, 0]))
    bad_lengths("(?s)audio given.*row 1.*1 to 12", audio_length=np.array([12, 0, 3]),
                motion_length=np.zeros(3, int))
    bad_lengths("(?s)prompt does not fit.*row 0", prompt_length=np.array([PROMPT + 1, 1, 1]))
    sampler.check_conditions(system, conditions_of(system, "a2v"), "a2v")
