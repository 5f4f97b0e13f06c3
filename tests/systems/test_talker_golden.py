"""Talker-T2AV against recorded numbers of the published implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.systems.talker import decode, objective, sampler
from avjax.systems.talker import published as weights
from avjax.systems.talker.backbone import Backbone
from avjax.systems.talker.config import released
from avjax.systems.talker.model import arrange
from tests.golden_files import cases, matching, relative_error, under
from tests.golden_files import config as recorded_config
from tests.systems.talker_golden import CASES, pack, prepare, utterances

TOLERANCE = 1e-4
INDICES = [pytest.param(i, id=case.id, marks=case.marks) for i, case in enumerate(CASES)]
QWEN = cases("qwen3")


@functools.cache
def case(index, packed=False):
    """(config, batch, what comes of it) of a file, with a row for each utterance or one for all."""
    arrays = CASES[index].values[0]
    every = utterances(arrays)
    tokens, patches = sum(len(u["tokens"]) for u in every) + 2, sum(len(u["slots"])
                                                                    for u in every) + 3
    sizes = dict(row_tokens=tokens, row_patches=patches, row_utterances=len(every) + 1)
    system, params = prepare(arrays, **sizes if packed else {})
    batch = pack([every] if packed else [[u] for u in every], system.config)

    @jax.jit
    def everything(params, batch):
        hidden = system.net.apply({"params": params}, batch, method="encode_row")
        return {"hidden": hidden,
                "logits": system.net.apply({"params": params}, hidden, method="stop_logits"),
                "labels": objective.stop_labels(batch, system.config),
                "target": objective.targets(batch, hidden, system.config)}

    return system.config, batch, jax.device_get(everything(params, batch))


@pytest.mark.parametrize("index", INDICES)
def test_hidden_states_and_stop(index):
    arrays = CASES[index].values[0]
    config, batch, ours = case(index)
    real = batch["segment"] > 0
    assert relative_error(ours["hidden"][real], arrays["hidden"][real]) < TOLERANCE
    assert relative_error(ours["logits"][real], arrays["stop_logits"][real]) < TOLERANCE
    labels, weight = ours["labels"]
    for b, slots in enumerate(u["slots"] for u in utterances(arrays)):
        np.testing.assert_array_equal(labels[b, :len(slots)], arrays["stop_labels"][b, slots])
        assert (labels[b, len(slots):] == objective.IGNORED).all()
    np.testing.assert_allclose(weight / config.stop_positive_weight, arrays["stop_pos_weight"],
                               rtol=1e-6)


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("packed", [False, pytest.param(True, marks=pytest.mark.slow)],
                         ids=["a row each", "one row"])
def test_head_inputs(index, packed):
    """Every patch of the batch, in order, each as often as repeated."""
    arrays = CASES[index].values[0]
    config, _, ours = case(index, packed)
    target, repeats = ours["target"], config.repeats
    for name in ("speech", "motion"):
        recorded, ours = under(arrays, f"{name}_cfm_inputs/"), target[name]
        wanted = ours.mask_BJ > 0
        assert recorded["tgt_mask"].all() and wanted.sum() * repeats == len(recorded["x1"])
        for theirs, value in (("x1", ours.x1_BJPC), ("mu", target["mu"]),
                              ("cond", ours.context_BJPC),
                              ("global_cond", ours.global_BJS)):
            value = np.repeat(value[wanted], repeats, axis=0)
            # recorded as (patch, channel, frame)
            value = value.swapaxes(1, 2) if value.ndim == 3 else value
            assert relative_error(value, recorded[theirs]) < TOLERANCE, (name, theirs)


@pytest.mark.parametrize("arrays", CASES)
@pytest.mark.parametrize("name", ["speech", "motion"])
def test_head_velocity(arrays, name):
    system, params = prepare(arrays)
    rec = under(arrays, f"{name}_head/")
    inputs = [rec["x"].swapaxes(1, 2), rec["t"], rec["mu"], rec["cond"].swapaxes(1, 2),
              rec["global_cond"]]
    theirs = rec["velocity"].swapaxes(1, 2)

    @jax.jit
    def both(params, *inputs):
        net = functools.partial(system.net.apply, {"params": params}, method=f"{name}_velocity")
        # one example at a time, as a sampler has it, and with leading axes to spare
        return net(*inputs), jax.lax.map(lambda one: net(*(a[None, None] for a in one))[0, 0],
                                         inputs)

    for ours in both(params, *inputs):
        assert relative_error(ours, theirs) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("arrays", CASES)
def test_teacher_forced_generation_from_the_cache(arrays):
    """Prefill of the prompts, then patch by patch with the cache: the hidden states of the full
    pass."""
    system, params = prepare(arrays)
    every = utterances(arrays)
    batch = pack([[u] for u in every], system.config)
    start = np.array([u["slots"][0] for u in every])
    stop = np.array([u["slots"][-1] + 1 for u in every])
    N = int(start.max())

    @jax.jit
    def tokens(params):
        slots = arrange(batch, system.config.delay)
        return (system.net.apply({"params": params}, batch["tokens"], batch["position"],
                                 method="task_and_text"),
                system.net.apply({"params": params},
                                 *(slots[n] for n in ("audio", "audio_valid", "motion",
                                                      "motion_valid", "tts")),
                                 method="patch_tokens"))

    text, patches = tokens(params)
    hidden, cache = jax.jit(lambda p: system.net.apply({"params": p}, text[:, :N],
                                                         batch["position"][:, :N],
                                                         batch["segment"][:, :N],
                                                         system.config.row_tokens,
                                                         method="prefill"))(params)
    step = jax.jit(lambda p, x, cache,
                     i: system.net.apply({"params": p}, x, cache, i, method="step"))
    for b, n in enumerate(start):
        assert relative_error(hidden[b, :n], arrays["hidden"][b, :n]) < TOLERANCE
    for j in range(int((stop - start).max())):
        out, cache = step(params, patches[:, j], cache, jnp.asarray(start + j))
        for b in np.flatnonzero(start + j < stop):
            assert relative_error(out[b], arrays["hidden"][b, start[b] + j]) < TOLERANCE


def qwen(arrays, layers=None):
    sizes = recorded_config(arrays)
    c = released()
    c.update(dict(vocab=sizes["vocab_size"], d_model=sizes["hidden_size"],
                  d_ff=sizes["intermediate_size"], num_layers=sizes["num_hidden_layers"],
                  num_heads=sizes["num_attention_heads"], num_kv_heads=sizes["num_key_value_heads"],
                  head_dim=sizes["head_dim"], rope_theta=sizes["rope_theta"],
                  rms_eps=sizes["rms_norm_eps"]))
    params = weights.import_backbone(under(arrays, "sd/"), c, prefix="")
    if layers:
        c.num_layers = layers
        params = params | {"layers": jax.tree.map(lambda a: a[:layers], params["layers"])}
    return Backbone(c, jnp.float32), {"params": params}


@pytest.mark.parametrize("arrays", QWEN)
def test_qwen3_layers_and_logits(arrays):
    real = arrays["attention_mask"] > 0
    position = np.broadcast_to(np.arange(real.shape[1]), real.shape)
    scale, eps, depth = arrays["sd/norm.weight"], qwen(arrays)[0].config.rms_eps, len(
        arrays["layer_out"])
    # of i + 1 layers, ending in the norm
    nets = [qwen(arrays, layers=i + 1) for i in range(depth)] + [qwen(arrays)]

    @jax.jit
    def run(every):
        net, variables = nets[-1][0], every[-1]
        x = net.apply(variables, arrays["input_ids"], method="embed")
        hidden = [net.apply(v, x, position, real.astype(np.int32)) for (net, _),
                  v in zip(nets, every, strict=True)]
        return x, hidden, net.apply(variables, hidden[-1], method="logits")

    x, hidden, logits = jax.device_get(run([variables for _, variables in nets]))
    assert relative_error(x, arrays["embeddings"]) < TOLERANCE
    assert relative_error(hidden[-1][real], arrays["last_hidden_state"][real]) < TOLERANCE
    assert relative_error(logits[real], arrays["logits_tied"][real]) < TOLERANCE
    for i in range(depth):
        raw = arrays["layer_out"][i][real].astype(np.float64)
        theirs = raw / np.sqrt((raw**2).mean(-1, keepdims=True) + eps) * scale
        assert relative_error(hidden[i][real], theirs) < TOLERANCE, i


@pytest.mark.parametrize("arrays", QWEN)
def test_qwen3_cache(arrays):
    net, variables = qwen(arrays)
    keys, inputs = arrays["cache/keys"], arrays["inputs_embeds/x"]
    n, m = keys.shape[3], inputs.shape[1]
    position, segment = np.arange(n)[None], np.ones((1, n), np.int32)

    @jax.jit
    def run(variables):
        x = net.apply(variables, arrays["input_ids"][:1, :n], method="embed")
        whole = net.apply(variables, x, position, segment, n, method="prefill")
        _, cache = net.apply(variables, x[:, :-1], position[:, :-1], segment[:, :-1], n + 3,
                             method="prefill")
        return (whole, cache, net.apply(variables, x[:, -1], cache, np.array([n - 1]),
                                        method="step"),
                net.apply(variables, inputs, np.arange(m)[None], np.ones((1, m), np.int32)))

    (hidden, whole), cache, (out, stepped), embedded = run(variables)
    assert relative_error(hidden, arrays["cache/full_hidden"]) < TOLERANCE
    assert cache["k"].shape == (*keys.shape[:3], n + 3, keys.shape[4])
    assert relative_error(out, arrays["cache/step_hidden"][:, 0]) < TOLERANCE
    for ours in (whole, jax.tree.map(lambda a: a[..., :n, :], stepped)):
        assert relative_error(ours["k"], keys) < TOLERANCE
        assert relative_error(ours["v"], arrays["cache/values"]) < TOLERANCE
    assert relative_error(embedded, arrays["inputs_embeds/last_hidden_state"]) < TOLERANCE


@pytest.mark.parametrize("arrays", CASES)
def test_recorded_samples_of_the_heads(arrays):
    """Ten steps from recorded noise, at every recorded guidance; both heads at once, a batch at
    once."""
    names = {"audio": under(arrays, "speech_head/"), "motion": under(arrays, "motion_head/")}
    scales = [float(g) for g in matching(names["audio"], r"sample_cfg([\d.]+)")]
    systems = {g: prepare(arrays, guidance=g, temperature=1.0)[0] for g in scales}
    params = prepare(arrays)[1]

    def inputs(key):
        return {name: rec[key].swapaxes(1, 2) if rec[key].ndim == 3 else rec[key] for name,
                rec in names.items()}

    @jax.jit
    def run(params):
        out = {}
        for g, system in systems.items():
            ready = decode.prepare(system, params, tuple(names))
            noise, mu = inputs(f"sample_cfg{g}_noise"), inputs("mu")
            for name in names:  # the two heads were recorded with hidden states of their own
                out[name, g] = decode.sample(system, ready, (name,), noise, mu[name],
                                             inputs("cond"), inputs("global_cond"),
                                             None, None)[name]
        return {f"{name} {g}": value for (name, g), value in out.items()}

    for key, ours in run(params).items():
        name, g = key.split()
        error = relative_error(ours.swapaxes(1, 2), names[name][f"sample_cfg{g}"])
        print(f"samples, {key}: {error:.1e}")
        assert error < TOLERANCE, key
    for g in scales[1:]:
        assert relative_error(names["audio"][f"sample_cfg{scales[0]}"],
                              names["audio"][f"sample_cfg{g}"]) > TOLERANCE


@pytest.mark.parametrize("arrays", [  # the last in every run
    pytest.param(*case.values, id=case.id, marks=case.marks if case is CASES[-1]
                 else [*case.marks, pytest.mark.slow])
    for case in CASES])
def test_recorded_roll_out(arrays):
    """Utterance 0 without prefix as the release runs it: as many patches as there are draws of
    noise, whatever ended it."""
    rec = under(arrays, "generate/")
    made = len(rec["speech_noise"])
    system, params = prepare(arrays, temperature=1.0, guidance=2.0, steps=10, trim_stop=False,
                             complete_motion=False, delay_motion="none", stop_on="slots",
                             min_patches=made + 1)
    c, n = system.config, int(arrays["speech_span"][0, 0])
    noise = {name: rec[f"{key}_noise"][:, 0].swapaxes(1, 2)[None] for name,
             key in (("audio", "speech"), ("motion", "motion"))}
    noise = {name: np.pad(a, ((0, 0), (0, made - a.shape[1]), (0, 0), (0, 0))) for name,
             a in noise.items()}
    conditions = dict(prompt=arrays["input_ids"][:1, :n].astype(np.int32),
                      prompt_length=np.array([n], np.int32),
                      speaker=arrays["speaker_embedding"][:1], first_motion=arrays["motion"][:1, 0],
                      audio=np.zeros((1, made * c.patch, c.audio_dim), np.float32),
                      audio_length=np.zeros(1, np.int32),
                      motion=np.zeros((1, made * c.patch, c.motion_dim), np.float32),
                      motion_length=np.zeros(1, np.int32))
    ours = jax.jit(lambda p, x,
                   z: sampler.roll_out(system, p, x, z, "t2av"))(params, conditions, noise)
    frames = rec["motion"].shape[1]
    assert ours["audio_length"] == c.patch * made and ours[
        "motion_length"] == frames == c.patch * len(rec["motion_noise"])
    error = relative_error(ours["motion"][:, :frames], rec["motion"])
    print(f"roll-out of {made} patches: {error:.1e}")
    assert error < TOLERANCE
