"""Talker-T2AV against recorded numbers of the published implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.systems.talker import objective
from avjax.systems.talker.backbone import Backbone
from avjax.systems.talker.config import released
from avjax.systems.talker.model import arrange
from avjax.weights import talker as weights
from tests.golden_files import config as recorded_config
from tests.golden_files import golden, relative_error, under
from tests.systems.talker_golden import FILES, pack, prepare, utterances

TOLERANCE = 1e-4
CASES = [pytest.param(arrays, id=name) for name, arrays in FILES]
QWEN = [pytest.param(arrays, id=name) for name, arrays in golden("qwen3")]


def test_recordings_are_there():
    assert CASES and QWEN, "no talker_delay*.npz or qwen3*.npz in the golden folder"


HIDDEN = {}  # {(file, packed): hidden states}: several tests look at the same


def hidden_of(system, params, batch, key):
    if key not in HIDDEN:
        HIDDEN[key] = jax.jit(lambda p, b: system.net.apply({"params": p}, b, method="encode_row"))(params, batch)
    return HIDDEN[key]


@pytest.mark.parametrize("arrays", CASES)
def test_hidden_states_and_stop(arrays):
    system, params = prepare(arrays)
    batch = pack([[u] for u in utterances(arrays)], system.config)
    hidden = hidden_of(system, params, batch, (id(arrays), False))
    real = batch["segment"] > 0
    assert relative_error(np.asarray(hidden)[real], arrays["hidden"][real]) < TOLERANCE
    logits = system.net.apply({"params": params}, hidden, method="stop_logits")
    assert relative_error(np.asarray(logits)[real], arrays["stop_logits"][real]) < TOLERANCE
    labels, weight = objective.stop_labels(batch, system.config)
    for b, slots in enumerate(u["slots"] for u in utterances(arrays)):
        np.testing.assert_array_equal(labels[b, :len(slots)], arrays["stop_labels"][b, slots])
        assert (np.asarray(labels[b, len(slots):]) == objective.IGNORED).all()
    np.testing.assert_allclose(weight / system.config.stop_positive_weight, arrays["stop_pos_weight"], rtol=1e-6)


@pytest.mark.parametrize("arrays", CASES)
@pytest.mark.parametrize("packed", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["a row each", "one row"])
def test_head_inputs(arrays, packed):
    """Every patch of the batch, in order, each as often as repeated."""
    every = utterances(arrays)
    tokens, patches = sum(len(u["tokens"]) for u in every) + 2, sum(len(u["slots"]) for u in every) + 3
    system, params = prepare(arrays, **dict(row_tokens=tokens, row_patches=patches, row_utterances=4) if packed else {})
    batch = pack([every] if packed else [[u] for u in every], system.config)
    target = objective.targets(batch, hidden_of(system, params, batch, (id(arrays), packed)), system.config)
    repeats = system.config.repeats
    for name in ("speech", "motion"):
        recorded, ours = under(arrays, f"{name}_cfm_inputs/"), target[name]
        wanted = np.asarray(ours["mask"]) > 0
        assert recorded["tgt_mask"].all() and wanted.sum() * repeats == len(recorded["x1"])
        for theirs, value in (("x1", ours["x1"]), ("mu", target["mu"]), ("cond", ours["context"]),
                              ("global_cond", ours["global"])):
            value = np.repeat(np.asarray(value)[wanted], repeats, axis=0)
            value = value.swapaxes(1, 2) if value.ndim == 3 else value  # recorded as (patch, channel, frame)
            assert relative_error(value, recorded[theirs]) < TOLERANCE, (name, theirs)


@pytest.mark.parametrize("arrays", CASES)
@pytest.mark.parametrize("name", ["speech", "motion"])
def test_head_velocity(arrays, name):
    system, params = prepare(arrays)
    rec = under(arrays, f"{name}_head/")
    inputs = [rec["x"].swapaxes(1, 2), rec["t"], rec["mu"], rec["cond"].swapaxes(1, 2), rec["global_cond"]]
    net = jax.jit(lambda p, *a: system.net.apply({"params": p}, *a, method=f"{name}_velocity"))
    theirs = rec["velocity"].swapaxes(1, 2)
    assert relative_error(net(params, *inputs), theirs) < TOLERANCE
    # one example at a time, as a sampler has it, and with leading axes to spare
    one = np.concatenate([net(params, *(a[None, i:i + 1] for a in inputs))[0] for i in range(len(theirs))])
    assert relative_error(one, theirs) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("arrays", CASES)
def test_teacher_forced_generation_from_the_cache(arrays):
    """Prefill of the prompts, then patch by patch with the cache: the hidden states of the full pass."""
    system, params = prepare(arrays)
    every = utterances(arrays)
    batch = pack([[u] for u in every], system.config)
    start = np.array([u["slots"][0] for u in every])
    stop = np.array([u["slots"][-1] + 1 for u in every])
    N = int(start.max())

    @jax.jit
    def tokens(params):
        slots = arrange(batch, system.config.delay)
        return (system.net.apply({"params": params}, batch["tokens"], batch["position"], method="task_and_text"),
                system.net.apply({"params": params}, *(slots[n] for n in ("audio", "audio_valid", "motion",
                                                                        "motion_valid", "tts")), method="patch_tokens"))

    text, patches = tokens(params)
    hidden, cache = jax.jit(lambda p: system.net.apply({"params": p}, text[:, :N], batch["position"][:, :N],
                                                       batch["segment"][:, :N], system.config.row_tokens,
                                                       method="prefill"))(params)
    step = jax.jit(lambda p, x, cache, i: system.net.apply({"params": p}, x, cache, i, method="step"))
    for b, n in enumerate(start):
        assert relative_error(hidden[b, :n], arrays["hidden"][b, :n]) < TOLERANCE
    for j in range(int((stop - start).max())):
        out, cache = step(params, patches[:, j], cache, jnp.asarray(start + j))
        for b in np.flatnonzero(start + j < stop):
            assert relative_error(out[b], arrays["hidden"][b, start[b] + j]) < TOLERANCE


def qwen(arrays, layers=None):
    sizes = recorded_config(arrays)
    c = released()
    c.update(dict(vocab=sizes["vocab_size"], d_model=sizes["hidden_size"], d_ff=sizes["intermediate_size"],
                  num_layers=sizes["num_hidden_layers"], num_heads=sizes["num_attention_heads"],
                  num_kv_heads=sizes["num_key_value_heads"], head_dim=sizes["head_dim"],
                  rope_theta=sizes["rope_theta"], rms_eps=sizes["rms_norm_eps"]))
    params = weights.import_backbone(under(arrays, "sd/"), c, prefix="")
    if layers:
        c.num_layers = layers
        params = params | {"layers": jax.tree.map(lambda a: a[:layers], params["layers"])}
    return Backbone(c, jnp.float32), {"params": params}


@pytest.mark.parametrize("arrays", QWEN)
def test_qwen3_layers_and_logits(arrays):
    net, variables = qwen(arrays)
    real = arrays["attention_mask"] > 0
    position = np.broadcast_to(np.arange(real.shape[1]), real.shape)
    x = net.apply(variables, arrays["input_ids"], method="embed")
    assert relative_error(x, arrays["embeddings"]) < TOLERANCE
    hidden = jax.jit(net.apply)(variables, x, position, real.astype(np.int32))
    assert relative_error(hidden[real], arrays["last_hidden_state"][real]) < TOLERANCE
    logits = net.apply(variables, hidden, method="logits")
    assert relative_error(logits[real], arrays["logits_tied"][real]) < TOLERANCE
    scale = arrays["sd/norm.weight"]
    for i in range(len(arrays["layer_out"])):  # a network of i + 1 layers, which ends in the norm
        net, variables = qwen(arrays, layers=i + 1)
        raw = arrays["layer_out"][i][real].astype(np.float64)
        theirs = raw / np.sqrt((raw**2).mean(-1, keepdims=True) + net.config.rms_eps) * scale
        ours = jax.jit(net.apply)(variables, x, position, real.astype(np.int32))
        assert relative_error(np.asarray(ours)[real], theirs) < TOLERANCE, i


@pytest.mark.parametrize("arrays", QWEN)
def test_qwen3_cache(arrays):
    net, variables = qwen(arrays)
    keys = arrays["cache/keys"]
    n = keys.shape[3]
    x = net.apply(variables, arrays["input_ids"][:1, :n], method="embed")
    position, segment = np.arange(n)[None], np.ones((1, n), np.int32)
    prefill = jax.jit(net.apply, static_argnums=4, static_argnames="method")
    hidden, whole = prefill(variables, x, position, segment, n, method="prefill")
    assert relative_error(hidden, arrays["cache/full_hidden"]) < TOLERANCE
    _, cache = prefill(variables, x[:, :-1], position[:, :-1], segment[:, :-1], n + 3, method="prefill")
    assert cache["k"].shape == (*keys.shape[:3], n + 3, keys.shape[4])
    out, stepped = jax.jit(net.apply, static_argnames="method")(variables, x[:, -1], cache, np.array([n - 1]),
                                                                method="step")
    assert relative_error(out, arrays["cache/step_hidden"][:, 0]) < TOLERANCE
    for ours in (whole, jax.tree.map(lambda a: a[..., :n, :], stepped)):
        assert relative_error(ours["k"], keys) < TOLERANCE
        assert relative_error(ours["v"], arrays["cache/values"]) < TOLERANCE
    inputs = arrays["inputs_embeds/x"]
    n = inputs.shape[1]
    out = net.apply(variables, inputs, np.arange(n)[None], np.ones((1, n), np.int32))
    assert relative_error(out, arrays["inputs_embeds/last_hidden_state"]) < TOLERANCE
