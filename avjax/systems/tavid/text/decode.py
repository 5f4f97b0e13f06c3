"""Sampling units from dialogue text: one compiled loop over decoder steps with a static cache.

Suffixes: see avjax.systems.tavid.text.model; G rows of both branches of the guidance, T frames, S
streams, P frames looked back at for repetition.
"""

import jax
import jax.numpy as jnp
from absl import logging

from avjax.flow.guidance import guide
from avjax.systems.tavid.joining import later
from avjax.systems.tavid.text import plan
from avjax.systems.tavid.text.config import RATE, bos, eos
from avjax.systems.tavid.text.draws import draw, nucleus


def decode(system, params, tokens_BN, tokens_length_B, keys, *, max_steps: int,
           token_speaker_BN=None, times_BN=None, said_BPS=None, said_length_B=0):
    """Units of every stream for a batch of dialogues. Pure and jittable; `max_steps` is static.

    Args:
      tokens_BN: text ids, anything past tokens_length_B.
      keys: (B,) typed keys, one an example: neither batch mates nor padding nor the bound change an
        example's units.
      max_steps: bound on the frames (rounded up to whole decoder steps).
      token_speaker_BN: each token's speaker, -1 = none; needed where config.speaker_embedding.
      times_BN: a plan to follow (frames), instead of the predicted one.
      said_BPS, said_length_B: frames that were said already, of which the first said_length_B are
        real: the dialogue goes on after them. Their text is among the tokens, and times count from
        the first of them. With what is new they are no more than config.row_frames, or max_steps.

    Returns (units_BTS int32 with zeros past the length, length_B int32 frames) of what is new, T =
    max_steps. A dialogue ends at the first stream's EOS; at `stop_seconds` of filler in every
    stream, which is taken back; or at max_steps. With a plan neither counts before the last token's
    time, and it ends `stop_seconds` after that at the latest, less the silence there. What was said
    already ends nothing.
    """
    c = system.config
    if c.filler < 0 and (c.repetition_window or c.stop_seconds):
        logging.warning("config.system.filler is not set: repetition_window and stop_seconds do "
                        "not look at silence (it is units.filler in the features' recipes.json, 0 "
                        "where units were fitted)")
    memory = read(system, params, tokens_BN, token_speaker_BN, tokens_length_B, keys, times_BN)
    memory["last"] = jnp.maximum(memory["last"], said_length_B)
    B = len(tokens_length_B)
    S = c.num_streams
    F = c.frames_per_step
    said_length_B = jnp.broadcast_to(jnp.asarray(said_length_B, jnp.int32), (B,))
    most = said_BPS.shape[1] if said_BPS is not None else 0
    room = min(most + max_steps, max(c.row_frames, max_steps))
    room_B = jnp.minimum(said_length_B + max_steps, room)
    steps = -(-room // F)
    patience = int(c.stop_seconds * RATE) or steps * F + 1  # frames; 0 = off
    state = {"index": jnp.zeros((), jnp.int32), "cache": start(system, params, memory, steps),
             "before": jnp.full((B, S * F), bos(c), jnp.int32),
             "units": jnp.zeros((B, steps * F, S), jnp.int32),
             "recent": jnp.full((B, c.repetition_window, S), -1, jnp.int32),
             "silent": jnp.zeros((B,), jnp.int32),
             "length": room_B}

    def going(state):
        return (state["index"] < steps) & jnp.any(state["length"] > state["index"] * F)

    def body(state):
        index, recent = state["index"], state["recent"]
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)

        def choose(logits_BV, slot, chosen):
            frame, stream = divmod(slot, S)
            seen_BP = recent[:, :, stream]
            if frame:  # frames of this very step come after those before it
                own = jnp.stack([chosen[f * S + stream] for f in range(frame)], axis=1)
                seen_BP = jnp.concatenate([seen_BP, own],
                                          axis=1)[:,
                                                  own.shape[1]:] if c.repetition_window else seen_BP
            slot_keys = jax.vmap(lambda key: jax.random.fold_in(key, slot))(step_keys)
            can_end_B = (index * F + frame >= memory["last"]) & (stream == 0)
            unit_B = draw(c, logits_BV, slot_keys, seen_BP, can_end_B)
            if not most:
                return unit_B
            at = index * F + frame
            told_B = jax.lax.dynamic_index_in_dim(said_BPS[..., stream], jnp.minimum(at, most - 1),
                                                  axis=1, keepdims=False)
            return jnp.where(at < said_length_B, told_B, unit_B)

        units_BJ, cache = advance(system, params, memory, state["cache"], state["before"], index,
                                  choose)
        made_BFS = units_BJ.reshape(B, F, S)
        units = jax.lax.dynamic_update_slice_in_dim(state["units"], made_BFS, index * F, axis=1)
        length, silent = state["length"], state["silent"]
        for f in range(F):  # a frame at a time: EOS of the first stream, or too long a silence
            frame = index * F + f
            going_B = frame < length
            length = jnp.where(going_B & (made_BFS[:, f, 0] == eos(c)), frame, length)
            if c.filler >= 0:
                quiet_B = jnp.all(made_BFS[:, f] == c.filler, axis=-1) & (frame >= memory["last"])
                silent = jnp.where(quiet_B, silent + 1, 0)
                length = jnp.where(going_B & (silent >= patience), frame + 1 - patience, length)
            if c.alignment == "plan":
                spoken = jnp.minimum(frame, frame + 1 - silent)  # without the silence so far
                length = jnp.where(going_B & (frame >= memory["last"] + patience), spoken, length)
        recent = jnp.concatenate([recent, made_BFS],
                                 axis=1)[:,
                                         -c.repetition_window:] if c.repetition_window else recent
        return {"index": index + 1, "cache": cache, "before": units_BJ, "units": units,
                "recent": recent,
                "silent": silent, "length": length}

    state = jax.lax.while_loop(going, body, state)
    length_B = jnp.minimum(state["length"], room_B) - said_length_B
    units_BTS = state["units"]
    units_BTS = later(units_BTS, said_length_B, max_steps) if most else units_BTS[:, :max_steps]
    real_BT1 = (jnp.arange(max_steps) < length_B[:, None])[..., None]
    return jnp.where(real_BT1, units_BTS, 0), length_B


def read(system, params, tokens_BN, token_speaker_BN, tokens_length_B, keys, times_BN=None):
    """Inputs of the loop from the text: {"text" (G, N, E), "times" (G, N), "length" (G,), "last"
    (B,) the frame before which a dialogue does not end}. With guidance, rows without text follow
    those with it."""
    c = system.config
    who_BN = jnp.full_like(tokens_BN, -1) if token_speaker_BN is None else token_speaker_BN
    text_BNE = system.net.apply({"params": params}, tokens_BN, who_BN, tokens_length_B,
                                method="encode")
    real_BN = jnp.arange(tokens_BN.shape[1]) < tokens_length_B[:, None]
    last_B = jnp.zeros(len(tokens_BN))
    if c.alignment == "plan":
        if times_BN is None:
            times_BN = planned(system, params, text_BNE, real_BN, keys)
        last_B = jnp.max(jnp.where(real_BN, times_BN, 0.0), axis=1)
    else:
        times_BN = jnp.zeros(tokens_BN.shape)
    text, times, length = text_BNE, times_BN, tokens_length_B
    if c.guidance != 1.0:
        text, times = jnp.concatenate([text, text]), jnp.concatenate([times, times])
        length = jnp.concatenate([length, jnp.zeros_like(length)])
    return {"text": text, "times": times, "length": length, "last": last_B}


def planned(system, params, text_BNE, real_BN, keys, **known):
    """Times of the real tokens (B, N) of read text; `known`: see plan.sample."""
    c = system.config
    logits_BNM = system.net.apply({"params": params}, text_BNE, method="plan_logits")
    return plan.sample(nucleus(logits_BNM, c.plan_top_p), real_BN, keys, c.plan_temperature,
                       **known)


def start(system, params, memory, steps: int):
    """The decoder's cache before the first step."""
    return system.net.apply({"params": params}, memory["text"], memory["times"], memory["length"],
                            steps, method="remember")


def advance(system, params, memory, cache, before_BJ, index, choose):
    """One decoder step: `choose(logits (B, V) float32, slot, units chosen so far)` gives the (B,)
    units of each slot in turn -> units (B, J), cache."""
    c = system.config
    guided = system.config.guidance != 1.0

    def both(units):
        return jnp.concatenate([units, units]) if guided else units

    hidden, cache = system.net.apply({"params": params}, both(before_BJ), cache, index,
                                     memory["length"], method="step")
    chosen = []
    for slot in range(before_BJ.shape[1]):
        # later ones are not looked at
        known = chosen + [jnp.zeros_like(before_BJ[:, 0])] * (before_BJ.shape[1] - slot)
        if slot == 0 or c.coupling == "chain":
            logits = system.net.apply({"params": params}, hidden, both(jnp.stack(known, axis=1)),
                                      method="logits")
        here = logits[:, slot]
        if guided:
            conditional, without = jnp.split(jax.nn.log_softmax(here), 2)
            here = guide(conditional, without, c.guidance)
        chosen.append(choose(here, slot, chosen))
    return jnp.stack(chosen, axis=1), cache
