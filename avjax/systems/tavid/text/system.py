"""Dialogue text to units of every speaker as a System: rows in, loss out; tokens in, units out.

Suffixes: see avjax.systems.tavid.text.model.
"""

import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from avjax.errors import UserError
from avjax.fields import plain
from avjax.nn.layers import compute_dtype
from avjax.systems import api
from avjax.systems.api import Spec
from avjax.systems.tavid.text import decode, objective
from avjax.systems.tavid.text.config import RATE, check
from avjax.systems.tavid.text.model import TextNet
from avjax.systems.tavid.text.rows import TextRows, check_tokens


class System(api.System):
    """See avjax.systems.api.System. Holds a frozen config and no arrays."""

    tasks = ("dialogue",)
    makes = {"dialogue": ("units",)}

    # Fully sharded over fsdp; tensor parallel over heads and hidden units of the large stacks.
    _both = ("fsdp", "tensor")
    param_rules = (
        (r"text|table", (None, "fsdp")),
        (r"speaker", ()),
        (r"(encoder|decoder)/qkv/kernel", (None, "fsdp", None, "tensor", None)),
        (r"decoder/cross_(q|k|v)/kernel", (None, "fsdp", "tensor", None)),
        (r"decoder/cross_(q|k)/bias", (None, "tensor", None)),
        (r"decoder/null", (None, None, "tensor", None)),
        (r"(encoder|decoder)/(cross_)?project/kernel", (None, "tensor", "fsdp")),
        # hidden widths like 8 D / 3 divide by little: stored in parts of D, split over hidden units
        # for use (SwiGLU)
        (r"(encoder|decoder)/mlp/inputs/kernel", (None, _both, None, None)),
        (r"(encoder|decoder)/mlp/outputs/kernel", (None, None, _both)),
        (r"chain/blocks_\d+/qkv/kernel", ("fsdp", None, None, None)),
        (r"chain/blocks_\d+/project/kernel", ("tensor", "fsdp")),
        (r"chain/blocks_\d+/mlp/inputs/kernel", (_both, None, None)),
        (r"chain/blocks_\d+/mlp/outputs/kernel", (None, _both)),
        (r"chain/inputs/kernel", ("fsdp", None, None)),
        (r"chain/inputs/bias", ()),
        (r"chain/units/kernel", (None, "fsdp")),
        (r"chain/outputs/kernel", ("fsdp", None)),
        (r"plan/kernel", ("fsdp", None)),
        (r"plan/bias", ()),
        (r"(.*/)?(\w+_)?norm/scale", ()),
    )

    def __init__(self, config):
        check(config)
        self.config = c = FrozenConfigDict(config)
        self.net = TextNet(c, compute_dtype(c.compute_dtype))
        self.batch_spec, self.example_spec, self.conditions_spec, self.streams_spec = specs(c)
        self.rows = TextRows(tokens=c.row_tokens, frames=c.row_frames, streams=c.num_streams,
                             vocabulary=c.vocab, num_units=c.num_units, filler=c.filler,
                             single_share=c.single_share, fill=c.piece_fill,
                             filler_seconds=c.filler_seconds, filler_weight=c.filler_weight)

    def init(self, key):
        """Fresh float32 parameters."""
        steps = jnp.zeros((1, 2, self.config.num_streams * self.config.frames_per_step), jnp.int32)
        tokens = jnp.zeros((1, 2), jnp.int32)
        return self.net.init(key, tokens, tokens, jnp.ones((1,), jnp.int32), jnp.zeros((1, 2)),
                             steps, steps)["params"]

    def loss(self, params, batch, key):
        """Cross-entropy of the units and of the plan -> scalar, metrics (see `objective.loss`)."""
        return objective.loss(self.net, params, batch, key, self.config)

    def conditions(self, example, task: str = ""):
        """The text, and room for a quarter more than the dialogue's frames and two seconds."""
        c = self.config
        tokens = check_tokens(example["tokens"], c.vocab, f"example {example.get('id', '')!r}")
        room = int(1.25 * len(example["units"]) + c.stop_seconds * RATE)
        out = {"tokens": tokens, "tokens_length": np.int32(len(tokens)),
               "token_speaker": example["token_speaker"],
               "room": np.zeros(room, np.int32)}
        return {name: out[name] for name in self.conditions_spec}, room

    def generate(self, params, conditions, keys, task: str = ""):
        """{"units": (B, T, S), "units_length": (B,)}; T is that of the condition "room"."""
        units, length = self.decode(params, conditions["tokens"], conditions["tokens_length"], keys,
                                    max_steps=conditions["room"].shape[1],
                                    token_speaker_BN=conditions.get("token_speaker"))
        return {"units": units, "units_length": length}

    def go_on(self, params, conditions, keys):
        """`generate` of a piece that goes on, whose text begins with what was said already: also
        "times" (B, N), when each text id is said, in frames from the first of `said` on.

        Conditions beside those of `generate`: said (B, P, S) units, said_length (B,) of them real,
        said_tokens (B,) text ids whose times said_times (B, N) are known.
        """
        c, tokens_BN, length_B = self.config, conditions["tokens"], conditions["tokens_length"]
        who_BN = conditions.get("token_speaker")
        times_BN = jnp.zeros(tokens_BN.shape)
        if c.alignment == "plan":
            self._check_speakers(who_BN)
            text_BNE = self.net.apply({"params": params}, tokens_BN,
                                      jnp.full_like(tokens_BN, -1) if who_BN is None else who_BN,
                                      length_B, method="encode")
            real_BN = jnp.arange(tokens_BN.shape[1]) < length_B[:, None]
            times_BN = decode.planned(self, params, text_BNE, real_BN, keys,
                                      known_BN=conditions["said_times"],
                                      count_B=conditions["said_tokens"],
                                      first_B=conditions["said_length"].astype(jnp.float32))
        units, length = self.decode(params, tokens_BN, length_B, keys,
                                    max_steps=conditions["room"].shape[1],
                                    token_speaker_BN=who_BN, times_BN=times_BN,
                                    said_BPS=conditions["said"],
                                    said_length_B=conditions["said_length"])
        return {"units": units, "units_length": length, "times": times_BN}

    def decode(self, params, tokens_BN, tokens_length_B, keys, *, max_steps: int,
               token_speaker_BN=None, times_BN=None, said_BPS=None, said_length_B=0):
        """(units (B, max_steps, S), length (B,)): see avjax.systems.tavid.text.decode.decode.
        UserError where the text must say whose it is and does not."""
        self._check_speakers(token_speaker_BN)
        return decode.decode(self, params, tokens_BN, tokens_length_B, keys, max_steps=max_steps,
                             token_speaker_BN=token_speaker_BN, times_BN=times_BN,
                             said_BPS=said_BPS, said_length_B=said_length_B)

    def _check_speakers(self, token_speaker_BN) -> None:
        if self.config.speaker_embedding and token_speaker_BN is None:
            raise UserError("text without speakers", where="token_speaker",
                            expected="whose each token is",
                            hint="give token_speaker, or train with "
                            "config.system.speaker_embedding = False")


def specs(c) -> tuple[dict[str, Spec], ...]:
    """batch_spec, example_spec, conditions_spec and streams_spec of a config."""
    N, T, S = c.row_tokens, c.row_frames, c.num_streams

    def tokens(size):
        return {"tokens": Spec(("batch", size), "int32", "dialogue text ids",
                               recipe=plain(c.tokens_recipe), sequence=1),
                "token_speaker": Spec(("batch", size), "int32", "speaker of a text id, -1 = none",
                                      sequence=1)}

    def units(size):
        return Spec(("batch", size, S), "int32", "semantic units of every speaker", rate=RATE,
                    recipe=plain(c.units_recipe),
                    sequence=1, granularity=c.frames_per_step, speaker_axis=2)

    length = Spec(("batch",), "int32", "ids or frames that exist")
    batch = {**tokens(N), "tokens_length": length,
             "times": Spec(("batch", N), "float32", "when a text id is spoken", "frames",
                           sequence=1),
             "units": units(T), "units_length": length,
             "weight": Spec(("batch", T, S), "float32",
                            "weight of a unit in the loss; after the last unit, of the end",
                            sequence=1, granularity=c.frames_per_step, speaker_axis=2)}
    example = {**tokens("tokens"), "turns": Spec(("batch", "turns", 6), "int32",
                                                 "speaker, token span, unit span, 0 = turn"),
               "units": units("time")}
    conditions = {**tokens("tokens"), "tokens_length": length,
                  "room": Spec(("batch", "time"), "int32", "frames there is room for; values are "
                                                           "not looked at")}
    if not c.speaker_embedding:
        del conditions["token_speaker"]
    return batch, example, conditions, {"units": units("time"), "units_length": length}
