"""Talker-T2AV as a System: packed rows in, loss out; conditions in, streams out, for four tasks.

Suffixes: see avjax.systems.talker.model.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from avjax.fields import plain
from avjax.nn.layers import compute_dtype
from avjax.systems import api
from avjax.systems.api import Spec
from avjax.systems.talker import objective
from avjax.systems.talker.config import MAKES, check
from avjax.systems.talker.model import TalkerNet
from avjax.systems.talker.rows import TalkerRows, check_ids


class System(api.System):
    """See avjax.systems.api.System. Holds a frozen config and no arrays."""

    tasks = tuple(MAKES)
    makes = MAKES

    def __init__(self, config):
        # of a job from before there were these fields
        config = ConfigDict({"task_token": "first", "spelling_weight": 0.0,
                             "regression_weight": 0.0} | config.to_dict())
        check(config)
        self.config = FrozenConfigDict(config)
        self.net = TalkerNet(self.config, compute_dtype(config.compute_dtype))
        self.batch_spec, self.conditions_spec, self.streams_spec = specs(self.config)
        self.example_spec = example_spec(self.config)
        c = self.config
        self.rows = TalkerRows(tokens=c.row_tokens, patches=c.row_patches,
                               utterances=c.row_utterances, patch=c.patch, delay=c.delay,
                               audio_dim=c.audio_dim, motion_dim=c.motion_dim,
                               voice_dim=c.speaker_dim, max_frames=c.max_frames,
                               balance=c.balance_kinds, vocabulary=c.vocab)

    # Fully sharded over fsdp; tensor parallel over heads and the backbone's hidden units. The local
    # blocks' hidden width int(8 D / 3) divides by little, so their MLP is stored in parts of D and
    # gathered for use.
    _both = ("fsdp", "tensor")
    param_rules = (
        (r"backbone/embedding", (None, "fsdp")),
        (r"backbone/layers/q/kernel", (None, "fsdp", "tensor", None)),
        (r"backbone/layers/kv/kernel", (None, "fsdp", None, "tensor", None)),
        (r"backbone/layers/project/kernel", (None, "tensor", "fsdp")),
        (r"backbone/layers/mlp/inputs/kernel", (None, "fsdp", None, "tensor")),
        (r"backbone/layers/mlp/outputs/kernel", (None, "tensor", "fsdp")),
        (r"backbone/(norm|layers/(attention|mlp|q|k)_norm)/scale", ()),
        (r"(audio|motion)_projector/kernel", (None, "fsdp")),
        (r"(audio|motion)_projector/bias", ()),
        (r".*/stack/blocks/qkv/kernel", (None, "fsdp", None, "tensor", None)),
        (r".*/stack/blocks/project/kernel", (None, "tensor", "fsdp")),
        (r".*/stack/blocks/mlp/inputs/kernel", (None, _both, None, None)),
        (r".*/stack/blocks/mlp/outputs/kernel", (None, None, _both)),
        (r".*/stack/last/qkv/kernel", ("fsdp", None, "tensor", None)),
        (r".*/stack/last/project/kernel", ("tensor", "fsdp")),
        (r".*/stack/last/mlp/inputs/kernel", (_both, None, None)),
        (r".*/stack/last/mlp/outputs/kernel", (None, _both)),
        (r".*/stack/(norm|(blocks|last)/(attention|mlp)_norm)/scale", ()),
        (r"(audio|motion)_encoder/cls", ()),
        (r"(audio|motion)_encoder/inputs/kernel", (None, "fsdp")),
        (r"(speech|motion)_head/(inputs|noisy|context|globals|(time|span)/(hidden|out))/kernel",
         (None, "fsdp")),
        (r"(speech|motion)_head/outputs/kernel", ("fsdp", None)),
        (r"(audio|motion)_encoder/inputs/bias", ()),
        (r"(speech|motion)_head/(inputs|noisy|context|globals|outputs|(time|span)/(hidden|out))/bias",
         ()),
        (r"stop_hidden/kernel", (None, "fsdp")),
        (r"stop_out/kernel", ("fsdp", None)),
        (r"stop_hidden/bias|task|motion_pad", ()),
        (r"(spelling|regression)/kernel", ("fsdp", None, None)),
        (r"(spelling|regression)/bias", ()),
    )

    def init(self, key):
        """Fresh float32 parameters."""
        row = {name: jnp.zeros(spec.resolve(batch=1).shape, spec.dtype) for name,
               spec in self.batch_spec.items()}
        small = {"tokens": 2, "segment": 2, "position": 2, "patch_slot": 1, "patch_segment": 1,
                 "patch_index": 1, "audio": 1, "audio_valid": 1, "motion": 1, "motion_valid": 1,
                 "speaker": 1}
        return self.net.init(key, {name: row[name][:, :n] for name, n in small.items()})["params"]

    def loss(self, params, batch, key):
        """Speech and motion flow matching and the stop loss over packed rows -> scalar, metrics."""
        noise = objective.draw(key, self.config, *batch["patch_slot"].shape)
        return self.loss_at(params, batch, noise)

    def loss_at(self, params, batch, noise):
        """The loss for given noise and times (`objective.draw`)."""
        return objective.loss_at(self.net, params, batch, noise, self.config)

    def conditions(self, example, task: str):
        """The prompt, the voice and the first motion frame; the whole audio for a2v, the whole
        motion for v2a."""
        audio, motion = example["audio"], example["motion"]
        if not len(motion):
            motion = np.zeros((len(audio), self.config.motion_dim), np.float32)
        given = {"audio": task == "a2v", "motion": task == "v2a"}
        prompt = check_ids(example["tokens"], self.config.vocab, "the prompt")
        out = {"prompt": prompt, "prompt_length": np.int32(len(prompt)),
               "speaker": example["voice"], "first_motion": motion[0]}
        for name, frames in (("audio", audio), ("motion", motion)):
            out[name] = frames if given[name] else np.zeros_like(frames)
            out[f"{name}_length"] = np.int32(len(frames) if given[name] else 0)
        # then the stop head decides; half as long again is room to err
        free = not any(given.values())
        return out, int(len(audio) * 1.5) + 50 if free else max(len(audio), len(motion))

    def generate(self, params, conditions, keys, task: str = "t2av"):
        """Streams for prompts and what is given of audio and motion; see
        avjax.systems.talker.sampler."""
        from avjax.systems.talker import sampler

        return sampler.generate(self, params, conditions, keys, task)

    def can_stream(self, task):
        """Every task, patch by patch."""
        return True

    def stream(self, params, prompts, keys, task):
        """See avjax.systems.talker.streaming."""
        from avjax.systems.talker import streaming

        return streaming.stream(self, params, prompts, keys, task)

    def stream_several(self, params, utterances, task, rows):
        """As one batch; see avjax.systems.talker.several."""
        from avjax.systems.talker import several

        return several.stream(self, params, utterances, task, rows)


def example_spec(c) -> dict[str, Spec]:
    """Features of a dataset's examples: see data_pipelines.features.talker.extract."""
    batch = specs(c)[0]

    def sequence(name, width):
        return dataclasses.replace(batch[name], shape=("batch", "time", width))

    return {"tokens": dataclasses.replace(batch["tokens"], shape=("batch", "tokens"),
                                          meaning="prompt ids"),
            "audio": sequence("audio", c.audio_dim), "motion": sequence("motion", c.motion_dim),
            "voice": dataclasses.replace(batch["speaker"], shape=("batch", c.speaker_dim))}


def specs(c) -> tuple[dict[str, Spec], dict[str, Spec], dict[str, Spec]]:
    """batch_spec (packed rows), conditions_spec and streams_spec of a config."""
    N, J, U, P = c.row_tokens, c.row_patches, c.row_utterances, c.patch

    def ints(*shape, meaning):
        return Spec(("batch", *shape), "int32", meaning, sequence=1 if shape in ((N,), (J,))
                    else None)

    audio = dict(meaning="audio latents", rate=c.frame_rate, recipe=plain(c.audio_recipe))
    motion = dict(meaning="motion codes", unit="z-scored", rate=c.frame_rate,
                  recipe=plain(c.motion_recipe))
    speaker = dict(meaning="who speaks", recipe=plain(c.speaker_recipe))
    batch = {
        "tokens": Spec(("batch", N), "int32", "text ids; the task's id at an utterance's first "
                                              "position",
                       recipe=plain(c.tokenizer_recipe), sequence=1),
        "segment": ints(N, meaning="utterance of each position, from 1; 0 = padding"),
        "position": ints(N, meaning="position within the utterance, 0 = its task"),
        "patch_slot": ints(J, meaning="position of each patch; the row's length for padding"),
        "patch_segment": ints(J, meaning="utterance of each patch, from 1; 0 = padding"),
        "patch_index": ints(J, meaning="patch within the utterance"),
        "audio": Spec(("batch", J, P, c.audio_dim), "float32", **audio, sequence=1),
        "audio_valid": ints(J, meaning="audio frames of each patch that exist"),
        "motion": Spec(("batch", J, P, c.motion_dim), "float32", **motion, sequence=1),
        "motion_valid": ints(J, meaning="motion frames of each patch that exist"),
        "speaker": Spec(("batch", U, c.speaker_dim), "float32", **speaker),
    }
    streams = {"audio": Spec(("batch", "time", c.audio_dim), "float32", **audio),
               "motion": Spec(("batch", "time", c.motion_dim), "float32", **motion),
               "audio_length": ints(meaning="audio frames"),
               "motion_length": ints(meaning="motion frames"),
               "stop": Spec(("batch", "patches"), "float32", "stop logit of each patch")}
    conditions = {
        "prompt": Spec(("batch", "tokens"), "int32",
                       "text ids before the patches, without the task",
                       recipe=plain(c.tokenizer_recipe)),
        "prompt_length": ints(meaning="text ids that exist"),
        "speaker": Spec(("batch", c.speaker_dim), "float32", **speaker),
        "first_motion": Spec(("batch", c.motion_dim), "float32", "the first motion frame",
                             "z-scored",
                             recipe=plain(c.motion_recipe)),
        **{name: streams[name] for name in ("audio", "audio_length", "motion", "motion_length")},
    }
    return batch, conditions, streams
