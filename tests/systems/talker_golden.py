"""Recorded Talker-T2AV files as our systems, parameters and packed rows; all sizes come from the
file."""

import numpy as np

from avjax.systems.talker import published as weights
from avjax.systems.talker.config import released
from avjax.systems.talker.system import System
from tests.golden_files import cases, under
from tests.golden_files import config as recorded_config

CASES = cases("talker_delay")


def utterances(arrays):
    """One dict an utterance, of real lengths: tokens (task first), slots, audio, motion,
    speaker."""
    out = []
    for i in range(len(arrays["input_ids"])):
        start, stop = (int(n) + 1 for n in arrays["speech_span"][i])  # + 1: the task stands before
        ids = arrays["input_ids"][i][arrays["attention_mask"][i].astype(bool)]
        out.append(dict(tokens=np.concatenate([[arrays["task_tag"][i]], ids]),
                        slots=np.arange(start, stop),
                        audio=arrays["speech_latents"][i, :arrays["mel_len"][i]],
                        motion=arrays["motion"][i, :arrays["motion_len"][i]],
                        speaker=arrays["speaker_embedding"][i]))
    return out


def pack(rows, config):
    """Rows (lists of utterances) -> the arrays of `System.batch_spec`, sizes from the config;
    padding is nonsense."""
    N, J, U, P = config.row_tokens, config.row_patches, config.row_utterances, config.patch
    B = len(rows)
    batch = dict(tokens=np.full((B, N), 3, np.int32), segment=np.zeros((B, N), np.int32),
                 position=np.zeros((B, N), np.int32), patch_slot=np.full((B, J), N, np.int32),
                 patch_segment=np.zeros((B, J), np.int32), patch_index=np.zeros((B, J), np.int32),
                 audio=np.zeros((B, J, P, config.audio_dim), np.float32),
                 audio_valid=np.zeros((B, J), np.int32),
                 motion=np.zeros((B, J, P, config.motion_dim), np.float32),
                 motion_valid=np.zeros((B, J), np.int32),
                 speaker=np.zeros((B, U, config.speaker_dim), np.float32))
    for b, row in enumerate(rows):
        n = j = 0
        for segment, one in enumerate(row, 1):
            length, patches = len(one["tokens"]), len(one["slots"])
            here, slots = slice(n, n + length), slice(j, j + patches)
            batch["tokens"][b, here] = one["tokens"]
            batch["segment"][b, here], batch["position"][b, here] = segment, np.arange(length)
            batch["patch_slot"][b, slots] = n + one["slots"]
            batch["patch_segment"][b, slots], batch["patch_index"][b,
                                                                   slots] = segment, np.arange(
                                                                       patches)
            for name in ("audio", "motion"):
                valid = np.clip(len(one[name]) - P * np.arange(patches), 0, P)
                batch[f"{name}_valid"][b, slots] = valid
                frames = batch[name][b].reshape(J * P, -1)
                frames[j * P:j * P + len(one[name])] = one[name]
            batch["speaker"][b, segment - 1] = one["speaker"]
            n, j = n + length, j + patches
    return batch


def golden_config(arrays, **overrides):
    """The config of a file, its rows as long as the recording's."""
    sizes = recorded_config(arrays)
    c = released()
    c.update(weights.talker_sizes(under(arrays, "sd/")))
    c.update(dict(rope_theta=sizes["rope_theta"], rms_eps=sizes["rms_eps"], patch=sizes["patch"],
                  encoder_heads=sizes["patch_encoder_heads"], velocity_heads=sizes["head_heads"],
                  repeats=sizes["cfm_k_repeat"], delay=int(arrays["delay"])))
    spans = arrays["speech_span"]
    c.row_tokens, c.row_patches = arrays["hidden"].shape[1], int((spans[:, 1] - spans[:, 0]).max())
    c.row_utterances = 1
    c.update(overrides)
    return c


def prepare(arrays, **overrides):
    """System and parameters of a file."""
    config = golden_config(arrays, **overrides)
    return System(config), weights.import_talker(under(arrays, "sd/"), config)
