"""Published Talker-T2AV (and Qwen3) state dicts <-> our parameters: one name table, both
directions.

Published layouts: a Linear's weight is (out, in); the local blocks' fused projection is part-major
(all of q, k, v in turn) and rotates adjacent channel pairs; ours has the pairs as halves. The
backbone rotates halves on both sides. Its layers, and those of a local stack but the last, are
numbered there and stacked here. Left out on import and written on
export: the unused output head (tied to the embedding, which some savers write under the head's name
alone) and the rotary tables, which are compared with ours. The frozen audio and speaker encoders of
a full checkpoint are other networks.

Older checkpoints have other names, among them those of stage 1, text to speech alone (`renamed`):
what these lack is drawn afresh, as the published training does.
"""

import re

import numpy as np

from avjax.errors import UserError
from avjax.weights.fold import check_computed
from avjax.weights.layouts import as_is, halves_from_adjacent, transposed
from avjax.weights.names import PREFIXED, gather, scatter
from avjax.weights.published import Published

FROZEN = ("pretrained_speech_encoder.", "spk.")
ROTARY_LENGTH = 1024  # of the published tables
_OLDER = ((r"\.(spk_proj|first_motion_proj)\.", ".global_cond_proj."),
          (r"patch_encoder\.in_proj\.", "patch_encoder.input_proj."),
          (r"^patch_encoder\.", "speech_patch_encoder."))
_OLDER_ALONE = ((r"^motion_cfm\.", "speech_cfm."),)
_UNUSED = ("projector_speech.linear2.",)  # of stage 1, which the published loading leaves out, too
ROTARY = {"patch_encoder.rope.w": "encoder_heads", "cfm.estimator.decoder.rope.w": "velocity_heads"}


def flat(shape):
    """A parameter of another shape with the same order: theirs is `shape(c)`."""
    def layout(c):
        return (lambda w: w.reshape(-1)), (lambda k: k.reshape(shape(c)))

    return layout


def heads(count: str):
    """(heads K, D) <-> (D, heads, K)."""
    def layout(c):
        return (lambda w: w.T.reshape(w.shape[1], c[count],
                                      c.head_dim)), (lambda k: k.reshape(k.shape[0], -1).T)

    return layout


def local_qkv(count: str):
    """(3 D, D) part-major with adjacent pairs <-> (D, 3, heads, K) with halves for queries and
    keys."""
    def layout(c):
        order = halves_from_adjacent(c.d_model // c[count])

        def permute(x, index):
            return np.concatenate([x[:, :2][..., index], x[:, 2:]], axis=1)

        def to_ours(w):
            return permute(w.T.reshape(w.shape[1], 3, c[count], -1), order)

        return to_ours, lambda k: permute(k, np.argsort(order)).reshape(k.shape[0], -1).T

    return layout


def backbone_names(c, prefix: str = "llm.model.", ours: str = "backbone/"):
    """Rows (published names, our name, layout, layer) of the language model. Several published
    arrays may make one of ours, stacked on axis 1; `layer` is the place in our stacked parameters,
    or None."""
    rows = [((f"{prefix}embed_tokens.weight",), f"{ours}embedding", as_is, None),
            ((f"{prefix}norm.weight",), f"{ours}norm/scale", as_is, None)]
    for i in range(c.num_layers):
        a = f"{prefix}layers.{i}."
        b = f"{ours}layers/"
        rows += [((f"{a}input_layernorm.weight",), f"{b}attention_norm/scale", as_is, i),
                 ((f"{a}self_attn.q_proj.weight",), f"{b}q/kernel", heads("num_heads"), i),
                 ((f"{a}self_attn.k_proj.weight", f"{a}self_attn.v_proj.weight"), f"{b}kv/kernel",
                  heads("num_kv_heads"), i),
                 ((f"{a}self_attn.q_norm.weight",), f"{b}q_norm/scale", as_is, i),
                 ((f"{a}self_attn.k_norm.weight",), f"{b}k_norm/scale", as_is, i),
                 ((f"{a}self_attn.o_proj.weight",), f"{b}project/kernel", transposed, i),
                 ((f"{a}post_attention_layernorm.weight",), f"{b}mlp_norm/scale", as_is, i),
                 ((f"{a}mlp.gate_proj.weight", f"{a}mlp.up_proj.weight"), f"{b}mlp/inputs/kernel",
                  transposed, i),
                 ((f"{a}mlp.down_proj.weight",), f"{b}mlp/outputs/kernel", transposed, i)]
    return rows


def talker_names(c):
    """Rows of the network, as in `backbone_names`."""
    rows = backbone_names(c)

    def dense(theirs, ours, bias=True, layer=None):
        rows.append(((f"{theirs}.weight",), f"{ours}/kernel", transposed, layer))
        if bias:
            rows.append(((f"{theirs}.bias",), f"{ours}/bias", as_is, None))

    def stack(theirs, ours, layers, count):
        for i in range(layers):
            place, layer = ("blocks", i) if i < layers - 1 else ("last", None)
            a, b = f"{theirs}.blocks.{i}", f"{ours}/{place}"
            rows.extend([((f"{a}.norm1.scale",), f"{b}/attention_norm/scale", as_is, layer),
                         ((f"{a}.attn.qkv.weight",), f"{b}/qkv/kernel", local_qkv(count), layer),
                         ((f"{a}.norm2.scale",), f"{b}/mlp_norm/scale", as_is, layer),
                         ((f"{a}.mlp.fc1.weight", f"{a}.mlp.fc2.weight"), f"{b}/mlp/inputs/kernel",
                          transposed, layer)])
            dense(f"{a}.attn.proj", f"{b}/project", bias=False, layer=layer)
            dense(f"{a}.mlp.proj", f"{b}/mlp/outputs", bias=False, layer=layer)
        rows.append(((f"{theirs}.norm.scale",), f"{ours}/norm/scale", as_is, None))

    for theirs, projector, encoder, head in (("speech", "audio_projector", "audio_encoder",
                                              "speech_head"),
                                             ("motion", "motion_projector", "motion_encoder",
                                              "motion_head")):
        dense(f"projector_{theirs}.linear1", projector)
        rows.append(((f"{theirs}_patch_encoder.cls_token",), f"{encoder}/cls",
                     flat(lambda c: (1, 1, 1, -1)), None))
        dense(f"{theirs}_patch_encoder.input_proj", f"{encoder}/inputs")
        stack(f"{theirs}_patch_encoder", f"{encoder}/stack", c.encoder_layers, "encoder_heads")
        a = f"{theirs}_cfm.estimator"
        for x, y in (("in_proj", "noisy"), ("cond_proj", "context"),
                     ("global_cond_proj", "globals"), ("out_proj", "outputs"),
                     ("time_mlp.linear_1", "time/hidden"), ("time_mlp.linear_2", "time/out"),
                     ("delta_time_mlp.linear_1", "span/hidden"),
                     ("delta_time_mlp.linear_2", "span/out"),
                     ("decoder.input_proj", "inputs")):
            dense(f"{a}.{x}", f"{head}/{y}")
        stack(f"{a}.decoder", f"{head}/stack", c.velocity_layers, "velocity_heads")
    dense("head_stop.proj", "stop_hidden")
    dense("head_stop.head", "stop_out", bias=False)
    rows.append((("task_embedding.weight",), "task", as_is, None))
    rows.append((("motion_pad_emb",), "motion_pad", flat(lambda c: (1, 1, -1)), None))
    return rows


def import_talker(state: dict[str, np.ndarray], config):
    """Published names -> our parameters (float32 or whatever the file holds).

    Raises UserError naming the first entry that is missing, left over, or that the config's numbers
    of heads do not divide. Whether all shapes are the network's is the caller's to compare, as
    launch.jobs.weights does.
    """
    state = {name: value for name, value in with_embedding(state).items()
             if not name.startswith(FROZEN)}
    _check_rotary(state, config)
    derived = _derived(state)
    return gather({n: v for n, v in state.items() if n not in derived},
                  _with_layouts(talker_names(config), config))


def export_talker(params, config) -> dict[str, np.ndarray]:
    """Our parameters -> published names and layouts, with the tied output head and the rotary
    tables."""
    out = scatter(params, _with_layouts(talker_names(config), config))
    out["llm.lm_head.weight"] = out["llm.model.embed_tokens.weight"]
    for module, heads in ROTARY.items():
        for name in ("speech", "motion"):
            out[f"{name}_{module}"] = rotary_table(config.d_model // config[heads])
    return out


def renamed(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same under today's names, where they are those of an older checkpoint: the global
    conditions', the only patch encoder's, and of speech alone the only head's, which was called
    motion's."""
    alone = speech_alone(state)

    def name_of(name: str) -> str:
        for pattern, today in _OLDER + (_OLDER_ALONE if alone else ()):
            name = re.sub(pattern, today, name)
        return name

    return {name_of(name): x for name, x in state.items()
            if not (alone and name.startswith(_UNUSED))}


def speech_alone(state: dict[str, np.ndarray]) -> bool:
    """True for stage 1's checkpoint of the release: its one head is called motion's."""
    heads = {name.partition(".")[0] for name in state if "_cfm." in name}
    return heads == {"motion_cfm"} and any(name.startswith("patch_encoder.") for name in state)


def import_speech_alone(state: dict[str, np.ndarray], config) -> dict:
    """A `renamed` checkpoint of text to speech -> the parts that it has, each whole."""
    state = {name: value for name, value in with_embedding(state).items()
             if not name.startswith(FROZEN)}
    _check_rotary(state, config)
    rows = _with_layouts(talker_names(config), config)
    parts = {ours.partition("/")[0] for names, ours, *_ in rows if state.keys() & set(names)}
    derived = _derived(state)
    return gather({n: v for n, v in state.items() if n not in derived},
                  [row for row in rows if row[1].partition("/")[0] in parts])


def import_backbone(state: dict[str, np.ndarray], config, prefix: str = "model."):
    """A Qwen3 language model's state dict -> parameters of `Backbone` (the warm start of
    training)."""
    return gather({n: v for n, v in with_embedding(state).items()
                   if not n.endswith("lm_head.weight")},
                  _with_layouts(backbone_names(config, prefix, ""), config))


def export_backbone(params, config, prefix: str = "model.") -> dict[str, np.ndarray]:
    """The inverse of `import_backbone`, without the tied output head."""
    return scatter(params, _with_layouts(backbone_names(config, prefix, ""), config))


def with_embedding(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same, with a language model's embedding where only its tied output head is:
    safetensors.torch.save_model writes shared tensors once, under the first name of the
    alphabet."""
    return state | {f"{prefix}model.embed_tokens.weight": state[f"{prefix}lm_head.weight"]
                    for prefix in ("", "llm.")
                    if f"{prefix}lm_head.weight" in state
                    and f"{prefix}model.embed_tokens.weight" not in state}


def rotary_table(width: int) -> np.ndarray:
    """(positions, width / 2, 2) cosine and sine, float32, as published checkpoints carry them.

    Rounded to float32 where the published code rounds, from float64 in between: float32 powers of
    NumPy differ with the processor, by a last bit that makes 3e-5 at position 1023.
    """
    exponent = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    theta = np.float32(1.0) / np.power(10000.0, exponent.astype(np.float64)).astype(np.float32)
    angle = np.outer(np.arange(ROTARY_LENGTH, dtype=np.float32), theta).astype(np.float64)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)


def _check_rotary(state, config) -> None:
    for name, table in state.items():
        for module, heads in ROTARY.items():
            ours = rotary_table(config.d_model // config[heads]) if name.endswith(module) else None
            if ours is not None and table.shape[1:] != ours.shape[1:]:
                raise UserError("the rotary table is of another number of heads", where=name,
                                expected=str(ours.shape), found=str(table.shape),
                                hint=f"set config.system.{heads}")
            if ours is not None:
                check_computed(name, table, ours, "rotation of adjacent pairs, base 10000")


def talker_sizes(state: dict[str, np.ndarray],
                 absent: dict[str, int] | None = None) -> dict[str, int]:
    """Sizes that the shapes of a published state dict show: head counts of the local blocks where
    it has their rotary tables; patch length, delay and rotary base never. `absent`: those of arrays
    that it need not have. UserError for another network's."""
    state = with_embedding(state)
    try:
        width = state["projector_speech.linear1.weight"].shape[0]
        heads = {field: width // (2 * state[f"speech_{module}"].shape[1])
                 for module, field in ROTARY.items() if f"speech_{module}" in state}
        shown = absent or {
            "motion_dim": state["projector_motion.linear1.weight"].shape[1],
            "task_embedding": state["task_embedding.weight"].shape[0]}
        return dict(backbone_sizes(state, "llm.model."), **heads, **shown,
                    encoder_layers=_layers(state, "speech_patch_encoder.blocks."),
                    velocity_layers=_layers(state, "speech_cfm.estimator.decoder.blocks."),
                    audio_dim=state["projector_speech.linear1.weight"].shape[1],
                    speaker_dim=state["speech_cfm.estimator.global_cond_proj.weight"].shape[1])
    except KeyError as error:
        raise UserError("not a Talker-T2AV state dict", expected=f"an entry {error.args[0]}",
                        found=", ".join(sorted(state)[:3]) + ", ...", hint=PREFIXED) from error


def backbone_sizes(state: dict[str, np.ndarray], prefix: str = "model.") -> dict[str, int]:
    """Sizes that the shapes of a Qwen3 state dict show; KeyError for the entry that another
    network's lacks."""
    a = f"{prefix}layers.0."
    state = with_embedding(state)
    vocab, width = state[f"{prefix}embed_tokens.weight"].shape
    head_dim = state[f"{a}self_attn.q_norm.weight"].shape[0]
    return dict(vocab=vocab, d_model=width, velocity_width=width, head_dim=head_dim,
                num_heads=state[f"{a}self_attn.q_proj.weight"].shape[0] // head_dim,
                num_kv_heads=state[f"{a}self_attn.k_proj.weight"].shape[0] // head_dim,
                d_ff=state[f"{a}mlp.gate_proj.weight"].shape[0],
                num_layers=_layers(state, f"{prefix}layers."))


def is_backbone(state: dict[str, np.ndarray], prefix: str = "model.") -> bool:
    """True if this is the language model alone, as Qwen3 is published."""
    return (f"{prefix}embed_tokens.weight" in with_embedding(state)
            and f"{prefix}layers.0.self_attn.q_norm.weight" in state)


def _layers(state, prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state
                if name.startswith(prefix)})


def _derived(state) -> set[str]:
    return {name for name in state if name.endswith(".rope.w") or name == "llm.lm_head.weight"}


def _with_layouts(rows, config):
    """Layouts that depend on sizes are functions of the config."""
    return [(names, ours, layout if isinstance(layout, tuple) else layout(config), layer)
            for names, ours, layout, layer in rows]


def read(state: dict[str, np.ndarray], config) -> dict:
    """A complete Talker, or the parts that a checkpoint of stage 1 or a language model has."""
    if is_backbone(state):
        return {"backbone": import_backbone(state, config)}
    take = import_speech_alone if speech_alone(state) else import_talker
    return take(renamed(state), config)


def sizes(state: dict[str, np.ndarray], config) -> dict[str, int]:
    """Fields of the config that the shapes show, of a complete Talker, stage 1's or a language
    model."""
    if is_backbone(state):
        return backbone_sizes(state)
    absent = {"motion_dim": config.motion_dim, "task_embedding": config.task_embedding}
    return talker_sizes(renamed(state), absent if speech_alone(state) else {})


PUBLISHED = Published("talker_0_6b", read, export_talker, sizes,
                      training=("spelling", "regression"))
