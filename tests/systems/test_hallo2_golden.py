"""The visual nets against recordings of Hallo2's, and what we do otherwise."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from avjax.errors import UserError
from avjax.nn import attention, attention_kernels
from avjax.sharding.rules import named_leaves
from avjax.systems.tavid.visual import parts
from avjax.systems.tavid.visual.denoiser import Denoiser
from avjax.systems.tavid.visual.names import hallo2 as weights
from avjax.systems.tavid.visual.reference import ReferenceNet
from tests.golden_files import cases, relative_error, under
from tests.golden_files import config as recorded_config

CASES = cases("hallo2_unet", key="denoising/sd/")
TOLERANCE = 1e-4
# each path is a program of its own, half a minute to compile on one core
ALL = pytest.mark.skipif(not (os.environ.get("AVJAX_GOLDEN_DIR")
                              or os.environ.get("AVJAX_ALL_GOLDEN")),
                         reason="set AVJAX_ALL_GOLDEN=1 to run the paths that neither training nor "
                         "sampling takes")


def unet(**more):
    return FrozenConfigDict(dict(layers=2, heads=8, groups=32,
                                 attention_levels=(True, True, True, False), latent_dim=4,
                                 regions=("full", "face", "lip"), temporal_groups=32,
                                 temporal_length=32, motion_frames=2, remat="none",
                                 attention_kernel="auto") | more)


def folded(x):
    """(b, c, f, h, w) or (n, c, h, w) -> channels last."""
    return np.moveaxis(x, 1, -1)


def published(x):
    return np.moveaxis(np.asarray(x), -1, 1)


class Recorded:
    """Nets, parameters and inputs of a file."""

    def __init__(self, arrays):
        self.arrays, sizes = arrays, recorded_config(arrays)["denoising"]
        temporal = sizes["motion_module_kwargs"]
        self.config = c = unet(channels=tuple(sizes["block_out_channels"]),
                               layers=sizes["layers_per_block"], heads=sizes["attention_head_dim"],
                               groups=sizes["norm_num_groups"],
                               face_dim=sizes["cross_attention_dim"],
                               motion_dim=sizes["audio_attention_dim"],
                               attention_levels=tuple("Attn" in kind
                                                      for kind in sizes["down_block_types"]),
                               latent_dim=sizes["in_channels"],
                               temporal_length=temporal["temporal_position_encoding_max_len"])
        self.reference_state, self.state = under(arrays,
                                                 "reference/sd/"), under(arrays, "denoising/sd/")
        self.reference_params = weights.import_reference(self.reference_state, c)
        self.params = weights.import_denoiser(self.state, c)
        self.run_reference = jax.jit(lambda p, x,
                                       f: ReferenceNet(c).apply({"params": p}, x, f,
                                                                tile_faces=True))

    def inputs(self, case):
        """(arrays of `denoise`, recorded outputs) of "train" or "cfg"; the latter as
        [unconditional, conditional]."""
        rec = under(self.arrays, f"{case}/")
        guided = case == "cfg"
        recorded_clips, frames = rec["audio_tokens"].shape[:2]
        clips = (1 + guided) * recorded_clips

        def both(x, unconditional=1.0):
            return np.concatenate([unconditional * x, x]) if guided else x

        masks = [np.stack([rec[f"{r}_mask/{i}"] for r in weights.REGIONS], -1)
                 for i in range(len(self.config.channels))]
        reference = folded(rec["ref_latents"])
        reference = both(reference.reshape(recorded_clips, -1, *reference.shape[1:]))
        given = dict(latents=both(folded(rec["noisy_latents" if "noisy_latents" in rec
                                             else "latents"])),
                     t=np.broadcast_to(rec["timesteps" if "timesteps" in rec else "timestep"],
                                       (clips,)),
                     face=rec["face_tokens"], motion=both(rec["audio_tokens"], 0.0),
                     scale=np.ones(len(weights.REGIONS), np.float32),
                     mask_feature=both(folded(rec["mask_cond_fea"]), 0.0),
                     masks=[both(m.reshape(recorded_clips, frames, *m.shape[1:]))
                            if len(m) == recorded_clips * frames
                            else m.reshape(clips, -1, *m.shape[1:]) for m in masks],
                     sees=both(np.ones(recorded_clips, np.int32), 0),
                     banks=self.run_reference(self.reference_params, reference, rec["face_tokens"]))
        return given, rec

    def denoiser(self, path):
        """denoise(params, given), compiled."""
        return jax.jit(self.network(path))

    def network(self, path):
        """denoise(params, given)."""
        def run(params, given):
            return Denoiser(self.config).apply(
                {"params": params}, given["latents"], given["t"], given["banks"], given["face"],
                given["motion"], mask_feature=given["mask_feature"], masks=given["masks"],
                motion_scale=given["scale"], reference_mask=given["sees"], path=path,
                tile_references=True)

        return run


@pytest.fixture(scope="module", params=CASES)
def recorded(request):
    return Recorded(request.param)


def check(denoise, recorded, given, theirs):
    out = published(denoise(recorded.params, given))
    assert relative_error(out, theirs) < TOLERANCE
    return out


def test_names_go_and_come_back(recorded):
    out = weights.export_denoiser(recorded.params, recorded.config)
    assert all(out[k].tobytes() == v.tobytes() for k, v in recorded.state.items())
    tables = {k: v for k, v in out.items() if k not in recorded.state}
    assert tables and all(k.endswith(weights.POSITIONS) for k in tables)
    for table in tables.values():
        np.testing.assert_allclose(table, recorded.arrays[f"denoising/pe/{table.shape[-1]}"],
                                   atol=2e-6)
    assert jax.tree.all(jax.tree.map(np.array_equal, weights.import_denoiser(out, recorded.config),
                                     recorded.params))
    out = weights.export_reference(recorded.reference_params, recorded.config)
    assert all(out[k].tobytes() == v.tobytes() for k,
               v in recorded.reference_state.items()) and len(out) == len(
        recorded.reference_state)
    with pytest.raises(UserError, match="left over: extra;"):
        weights.import_reference({**recorded.reference_state, "extra": np.zeros(1)},
                                 recorded.config)
    given = [jax.ShapeDtypeStruct(s, np.float32)
             for s in ((1, 1, 16, 16, 4), (1,), (1, 4, recorded.config.face_dim))]
    fresh = jax.eval_shape(lambda x, t,
                           f: Denoiser(recorded.config).init(jax.random.key(0), x, t, None, f),
                           *given)
    assert jax.tree.map(np.shape, fresh["params"]) == jax.tree.map(np.shape, recorded.params)


@pytest.mark.slow
def test_reference_and_training_path(recorded):
    given, rec = recorded.inputs("train")
    c = recorded.config
    names = [f"down_blocks.{i}.attentions.{j}" * attends for i,
             attends in enumerate(c.attention_levels)
             for j in range(c.layers)] + ["mid_block.attentions.0"]
    names += [f"up_blocks.{i}.attentions.{j}" * attends for i,
              attends in enumerate(reversed(c.attention_levels))
              for j in range(c.layers + 1)]
    for name, bank in zip(names, given["banks"], strict=True):
        bank = np.asarray(bank).reshape(-1, *bank.shape[2:])
        for key, step in ((f"bank/{name}.transformer_blocks.0", 1),
                          (f"bank_every4/{name}.transformer_blocks.0", 4)):
            if key in rec:
                assert relative_error(bank[:, ::step], rec[key]) < TOLERANCE, name
    denoise = recorded.denoiser("published")
    out = check(denoise, recorded, given, rec["out"])
    check(denoise, recorded, given | {"motion": 0 * given["motion"]}, rec["out_uncond_audio"])
    check(denoise, recorded, given | {"scale": rec["motion_scale"]}, rec["out_motion_scale"])
    np.testing.assert_allclose(np.mean((out - rec["target"]) ** 2), rec["mse"], rtol=TOLERANCE)


@pytest.mark.slow
def test_guidance_batch(recorded):
    given, rec = recorded.inputs("cfg")
    denoise = recorded.denoiser("published")
    out = check(denoise, recorded, given | {"scale": rec["motion_scale"]}, rec["out"])
    check(denoise, recorded, given, rec["out_no_motion_scale"])
    unconditional, conditional = np.split(out, 2)
    guided = unconditional + rec["guidance_scale"] * (conditional - unconditional)
    assert relative_error(guided, rec["guided"]) < TOLERANCE


@pytest.mark.slow
@ALL
def test_other_paths(recorded):
    """The eval path; no motion frames; no reference: five more programs, hence slow."""
    given, rec = recorded.inputs("train")
    denoise = recorded.denoiser("eval")
    check(denoise, recorded, given, rec["out_eval_mode"])
    check(denoise, recorded, given | {"scale": rec["motion_scale"]},
          rec["out_eval_mode_motion_scale"])
    without = given | {"banks": None}
    check(denoise, recorded, without, rec["out_uncond_img_eval_mode"])
    denoise = recorded.denoiser("published")
    check(denoise, recorded, without, rec["out_uncond_img"])
    check(denoise, recorded, without | {"motion": 0 * given["motion"]},
          rec["out_uncond_img_uncond_audio"])
    check(denoise, recorded, given | {"banks": tuple(b[:, :1] for b in given["banks"])},
          rec["out_ref_only"])


@pytest.mark.slow
@ALL
def test_gradients_of_the_temporal_modules(recorded):
    """Of the complete graph: sixteen modules run on the published path, and all of them learn."""
    given, rec = recorded.inputs("train")

    def loss(temporal, params):
        out = recorded.network("published")(merge(params, temporal), given)
        return jnp.mean((out - folded(rec["target"])) ** 2)

    temporal = {k: v for k, v in named_leaves(recorded.params) if "/temporal/" in k}
    value, grads = jax.jit(jax.value_and_grad(loss))(temporal, recorded.params)
    np.testing.assert_allclose(value, rec["mse"], rtol=TOLERANCE)
    table = {ours: theirs for theirs, ours,
             *_ in weights.unet_names(recorded.config, denoiser=True)}
    norms = {}
    for ours, grad in grads.items():
        module = table[ours][0].split(".temporal_transformer")[0]
        norms[module] = norms.get(module, 0.0) + float(np.square(grad).sum())
    ours = [norms.pop(str(name)) ** 0.5 for name in rec["grad_norm_names"]]
    np.testing.assert_allclose(ours, rec["grad_norms"], rtol=1e-3)
    assert norms and not any(norms.values())  # the modules that the release never runs
    exported = weights.export_denoiser(merge(jax.tree.map(np.zeros_like, recorded.params), grads),
                                       recorded.config)
    for name, theirs in under(rec, "grad/").items():
        assert relative_error(exported[name], theirs) < 1e-3, name


def merge(params, leaves):
    return jax.tree_util.tree_map_with_path(
        lambda path, x: leaves.get(jax.tree_util.keystr(path, simple=True, separator="/"), x),
        params)


# ---- ours: the path "full"

TINY = dict(channels=(8, 16), layers=1, heads=2, groups=4, attention_levels=(False, True),
            face_dim=6, motion_dim=5,
            regions=("full", "lip"), temporal_groups=4, temporal_length=8)


@pytest.fixture(scope="module")
def small():
    """(config, params, given) with random parameters, also where fresh ones are zero."""
    c, rng, key = unet(**TINY), np.random.default_rng(0), jax.random.key(0)
    shapes = dict(latents=(2, 3, 4, 4, 4), face=(2, 2, 6), motion=(2, 3, 2, 5),
                  reference=(2, 3, 4, 4, 4))
    given = {name: jnp.array(rng.normal(size=shape), np.float32) for name,
             shape in shapes.items()} | {"t": jnp.array([7, 700])}
    nets = ReferenceNet(c), Denoiser(c)
    shapes = jax.eval_shape(lambda: (nets[0].init(key, given["reference"], given["face"]),
                                     nets[1].init(key, given["latents"], given["t"], None,
                                                  given["face"])))
    leaves, tree = jax.tree.flatten(shapes)
    params = jax.tree.unflatten(tree,
                                [rng.normal(0, 0.3,
                                            x.shape).astype(np.float32) + (len(x.shape) == 1)
                                 for x in leaves])
    return c, params, given


def forward(c, params, given, **options):
    banks = ReferenceNet(c).apply(params[0], given["reference"], given["face"])
    return Denoiser(c).apply(params[1], given["latents"], given["t"], banks, given["face"],
                             given["motion"], **options)


def test_full_path_uses_everything_of_its_own_clip(small):
    """Gradients of clip 0's output reach every parameter and every frame of clip 0, and nothing of
    clip 1."""
    c, params, given = small

    def loss(params, given, sees, masks):
        out = forward(c, params, given, reference_mask=sees, masks=[None, masks])
        return jnp.sum(out[0] ** 2), out

    sees, masks = jnp.ones(2), jnp.ones((2, 1, 4, 2))
    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True, allow_int=True))
    (_, out), (of_params, of_given) = grad(params, given, sees, masks)
    temporal = [n for n, _ in named_leaves(of_params[1]) if "temporal/outputs/kernel" in n]
    assert len(temporal) == 7  # of every layer: 1 + 1 going down, the middle, 2 + 2 going up
    dead = [n for n, g in named_leaves(of_params[1]) if not np.abs(g).max() > 0]
    assert not dead, dead
    for name in ("latents", "motion", "reference", "face"):
        grads = np.abs(of_given[name]).reshape(2, given[name].shape[1], -1).max(-1)
        assert (grads[0] > 0).all() and not grads[1].any(), name

    # what one clip is denied, the other does not feel
    for denied in ((sees.at[0].set(0), masks), (sees, masks.at[0, :, :, 1].set(0))):
        (_, other), _ = grad(params, given, *denied)
        assert np.abs(other[0] - out[0]).max() > 1e-3
        np.testing.assert_allclose(other[1], out[1], atol=1e-4)

    again = FrozenConfigDict(c.to_dict() | {"remat": "layers"})
    traced = jax.make_jaxpr(lambda p: forward(again, p, given))(params)
    # of both nets
    assert sum(e.primitive.name.startswith(("remat", "checkpoint")) for e in traced.eqns) == 2 * 7


def test_stage_appearance_needs_neither_motion_nor_time(small):
    c, params, given = small

    @jax.jit
    def still(params, given):
        banks = ReferenceNet(c).apply(params[0], given["reference"][:, :1], given["face"])
        return Denoiser(c).apply(params[1], given["latents"], given["t"], banks, given["face"],
                                 temporal=False)

    out = still(params, given)
    other = still(params, {**given, "latents": given["latents"].at[:, 2].set(1.0)})
    np.testing.assert_allclose(other[:, :2], out[:, :2], atol=1e-4)  # frames do not see each other
    assert np.abs(other[:, 2] - out[:, 2]).max() > 1e-3
    with pytest.raises(UserError, match="unknown path"):
        jax.eval_shape(lambda p, g: forward(c, p, g, path="B"), params, given)
    long = {**given, "latents": jnp.zeros((2, 7, 4, 4, 4)), "motion": jnp.zeros((2, 7, 2, 5))}
    with pytest.raises(UserError, match="at most 8 frames.*7 and 2"):
        jax.eval_shape(lambda p, g: forward(c, p, g), params, long)


def test_kernels_agree():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, n, 2, 8)) for i,
               n in enumerate((1024, 24, 24)))
    lengths = jnp.array([24, 9])

    def run(kernel, lengths):
        def total(q, k, v):
            out = attention.cross_attention(q, k, v, lengths_B=lengths, kernel=kernel)
            return jnp.sum(jnp.sin(out)), out
        return jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(q, k, v)

    for one, other in jax.jit(lambda: [(run("dense", n), run("blocked", n))
                                         for n in (None, lengths)])():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), one,
                     other)
    short = attention.cross_attention(q[:, :3], k, v, lengths_B=lengths)
    np.testing.assert_allclose(short[1],
                               attention.cross_attention(q[1:, :3], k[1:, :9], v[1:, :9])[0],
                               atol=1e-6)
    for dtype, kernel in ((jnp.bfloat16, "blocked"), (np.float32, "by_head")):  # on a CPU
        assert attention_kernels.cross_kernel(jax.ShapeDtypeStruct((1, 4096, 8, 40), dtype),
                                              8192) == kernel
    with pytest.raises(UserError, match="dense | blocked"):
        attention.cross_attention(q, k, v, kernel="flash")


# ---- the small parts

@pytest.mark.parametrize("arrays", cases("hallo2_small_parts", key="image_proj/"))
def test_small_parts(arrays):
    rec = under(arrays, "image_proj/")
    count, width = rec["out"].shape[1:]
    net = parts.ImageProjection(rec["in"].shape[-1], count, width)
    params = weights.import_image_projection(under(rec, "sd/"), count)
    project = jax.jit(net.apply)
    assert relative_error(project({"params": params}, rec["in"]), rec["out"]) < TOLERANCE
    assert relative_error(project({"params": params}, 0 * rec["in"]),
                          rec["out_zero_embedding"]) < TOLERANCE

    rec = under(arrays, "audio_proj/")
    count, width = rec["out"].shape[2:]
    state = under(rec, "sd/")
    net = parts.AudioProjection(state["proj1.weight"].shape[1], len(state["proj2.bias"]), count,
                                width)
    params = weights.import_audio_projection(state, count)
    out = jax.jit(net.apply)({"params": params}, rec["in"])
    assert relative_error(out, rec["out"]) < TOLERANCE
    rec = under(arrays, "audio_window/")
    np.testing.assert_array_equal(parts.windows(rec["in"]), rec["out"])

    rec = under(arrays, "face_locator/")
    state = under(rec, "sd/")
    widths = (len(state["conv_in.bias"]),
              *(len(state[f"blocks.{i}.bias"]) for i in range(1, len(state) // 2 - 2, 2)))
    net = parts.FaceLocator(len(state["conv_out.bias"]), widths)
    params = weights.import_locator(state, widths)
    out = jax.jit(net.apply)({"params": params}, np.moveaxis(rec["in"], 1, -1))
    assert relative_error(np.moveaxis(out, -1, 1), rec["out"]) < TOLERANCE
