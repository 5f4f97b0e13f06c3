"""Talker-T2AV's sampler: text to speech and motion, text to speech, speech to motion and motion to
speech, as one loop over slots with static caches.

A slot takes one speech patch and, `lag` patches behind it, one motion patch: given ones, else
sampled from the hidden state of the position before; then both go through the patch encoders and
the language model. Every row of a batch is at a slot of its own (prompts differ in length, a row
can go back) and ends when it has all its slots.

    slots of an utterance (lag 2)    0    1    2    3    4    5
    speech patch                     s0   s1   s2   s3   -    -
    motion patch                     -    -    m0   m1   m2   m3
    "-": no frames, zeros in the encoder's input

Suffixes: B rows, N prompt positions with the task's, J patches (slots) there is room for, P frames,
C stream width, A audio latent, M motion, T frames, D model width.
"""

import jax
import jax.numpy as jnp
import numpy as np

from avjax.errors import UserError
from avjax.systems.talker import decode
from avjax.systems.talker.config import MAKES, T2AV, TTS

GIVEN = {"a2v": "audio", "v2a": "motion"}  # the modality that is given


def generate(system, params, conditions, keys, task: str = "t2av"):
    """Streams for a batch of conditions, one utterance a row. Pure and jittable; `task` is static.

    Args:
      conditions: "prompt" (B, N) int32 text ids before the slots, without the task's position,
        "prompt_length" (B,); "speaker" (B, S); "first_motion" (B, M); "audio" (B, T, A),
        "audio_length" (B,) frames, "motion" (B, T, M), "motion_length" (B,): what is given. t2av,
        tts: the lengths are those of a prefix to continue from, 0 = none. a2v: all audio is given
          and motion has a prefix; v2a: the other way round. A prefix counts in whole patches,
          rounded
        down. T, a multiple of the patch, bounds the frames made. What a task has no use for may be
        left out.
      keys: (B,), one an example.
    Returns {"audio": (B, T, A), "motion": (B, T, M), "audio_length", "motion_length": (B,) int32
    frames, "stop": (B, T // P) stop logit of each patch made}; prefixes included, zeros past the
    lengths. tts makes no motion. Raises UserError for an unknown task and for arrays of the wrong
    shape.
    """
    return roll_out(system, params, conditions,
                    draw(system, keys, patches(system, conditions, task)), task)


def roll_out(system, params, conditions, noise: dict, task: str):
    """`generate` from given noise, that of `draw` or recorded: {"audio": (B, J, P, A), "motion":
    (B, J, P, M)}."""
    ready, given, state = start(system, params, conditions, task, noise)
    state = jax.lax.while_loop(lambda state: ~jnp.all(finished(state)),
                               lambda state: advance(system, ready, given, state, task), state)
    return streams(system, given, state, task)


def draw(system, keys, count: int) -> dict:
    """Unit normal {"audio": (B, J, P, A), "motion": (B, J, P, M)} for `count` frames' patches: each
    patch from its own fold of the example's key, so that neither batch mates nor the bound
    matters."""
    c = system.config

    def one(key, stream, width):
        key = jax.random.fold_in(key, stream)
        return jax.vmap(lambda j: jax.random.normal(jax.random.fold_in(key, j), (c.patch, width),
                                                    jnp.float32))(
            jnp.arange(count + c.delay))

    return {name: jax.vmap(lambda key, i=i, w=width: one(key, i, w))(keys)
            for i, (name, width) in enumerate((("audio", c.audio_dim), ("motion", c.motion_dim)))}


def lag(system, task: str) -> int:
    """Slots by which motion is behind speech."""
    return 0 if task == "tts" else system.config.delay


def patches(system, conditions, task: str) -> int:
    """T // P. Checks the task and every static shape; UserError."""
    c = system.config
    if task not in MAKES:
        raise UserError("unknown task", expected=" | ".join(MAKES), found=repr(task))
    widths = {"audio": c.audio_dim, "motion": c.motion_dim, "speaker": c.speaker_dim,
              "first_motion": c.motion_dim}
    batch = conditions["prompt"].shape[0]
    frames = conditions[GIVEN.get(task, "audio")].shape[1]
    for name in needed(system, task):
        found = conditions[name].shape
        ndim = 3 if name in ("audio", "motion") else 2
        if name in widths and (len(found) != ndim or found[0] != batch
                               or found[-1] != widths[name]):
            raise UserError("a condition has the wrong shape", where=name, found=str(tuple(found)),
                            expected=f"({batch}, {'frames, ' if ndim == 3 else ''}{widths[name]})",
                            hint="extract the features again with this config's codecs")
        if ndim == 3 and found[1] != frames:
            raise UserError("audio and motion differ in length", where=name,
                            expected=f"{frames} frames, as a bound", found=f"{found[1]} frames",
                            hint="pad both alike")
    if frames % c.patch or not frames:
        raise UserError("frames asked for", where="conditions",
                        expected=f"a multiple of the patch, {c.patch}",
                        found=str(frames),
                        hint="pad with zeros; evaluation pads to multiples of 32: "
                        "config.system.patch must divide 32 there")
    return frames // c.patch


def heads(c, task: str) -> tuple[str, ...]:
    """The streams whose heads run. Coupled heads run together, whatever is given, for they see
    each other; without motion there is nothing to look at."""
    return ("audio", "motion") if c.coupling == "joint" and task != "tts" else MAKES[task]


def needed(system, task: str) -> tuple[str, ...]:
    """The conditions that a task looks at."""
    names = ("prompt", "prompt_length", "audio", "audio_length")
    names += () if task == "tts" else ("motion", "motion_length")
    conditioned = {"audio": "speaker", "motion": "first_motion"}
    return names + tuple(conditioned[name] for name in heads(system.config, task))


def check_conditions(system, conditions, task: str) -> None:
    """UserError where lengths do not fit, which only their values tell (`generate` checks shapes).
    On the host."""
    count = patches(system, conditions, task) * system.config.patch
    width = conditions["prompt"].shape[1]

    def bounded(name, least, most, what, hint):
        values = np.asarray(conditions[name])
        bad = np.flatnonzero((values < least) | (values > most))
        if len(bad):
            raise UserError(what, where=f"{name}, row {bad[0]}", expected=f"{least} to {most}",
                            found=str(int(values[bad[0]])), hint=hint)

    bounded("prompt_length", 1, width, "prompt does not fit",
            "give at least one token, or a wider prompt array")
    for name in ("audio", "motion"):
        if f"{name}_length" not in needed(system, task):
            continue
        whole = GIVEN.get(task) == name
        bounded(f"{name}_length", int(whole), count, f"{name} {'given' if whole else 'prefix'} "
                                                     "does not fit the clip",
                "give at least one frame" if whole else "shorten the prefix or raise the number of "
                                                        "frames")
    if task in GIVEN:  # a prefix of the one, the whole of the other
        other = "motion" if GIVEN[task] == "audio" else "audio"
        whole, prefix = (np.asarray(conditions[f"{name}_length"]) for name in (GIVEN[task], other))
        bad = np.flatnonzero(prefix > whole)
        if len(bad):
            raise UserError("prefix longer than the clip", where=f"{other}_length, row {bad[0]}",
                            expected=f"at most {whole[bad[0]]} frames", found=str(prefix[bad[0]]),
                            hint="shorten the prefix")


def start(system, params, conditions, task: str, noise: dict):
    """Everything up to the first slot: `prepare`, then `begin`; (ready, what stays, what
    changes)."""
    ready = prepare(system, params, task)
    return ready, *begin(system, ready, conditions, task, noise)


def prepare(system, params, task: str):
    """The parameters of a task, prepared for any conditions: see `decode.prepare`."""
    return decode.prepare(system, params, heads(system.config, task))


def begin(system, ready, conditions, task: str, noise: dict):
    """The prompts: (what stays, what changes) over the slots. `noise`: as `draw` gives it, of
    patches enough."""
    c = system.config
    count = patches(system, conditions, task)
    behind = lag(system, task)
    names = heads(c, task)
    room = count + (behind if c.complete_motion or task in GIVEN else 0)

    tokens, last = conditions["prompt"], conditions["prompt_length"].astype(jnp.int32) - 1
    with_task = starts_with_task(c, task)
    if with_task:
        tokens = jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=TTS if task == "tts" else T2AV)
        last = last + 1
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, cache = decode.prefill(system, ready, tokens, position,
                                   (position <= last[:, None]).astype(jnp.int32),
                                   tokens.shape[1] + room, with_task)
    hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]

    frames = {name: (given_length(system, conditions, name, task)) for name in ("audio", "motion")}
    given = {"first_slot": last + 1, "frames": frames,
             "noise": {name: c.temperature * noise[name][:, :room] for name in names},
             "patches": {name: -(-n // c.patch) for name, n in frames.items()}, "globals": {}}
    made = {}
    for name, width in (("audio", c.audio_dim), ("motion", c.motion_dim)):
        if name in needed(system, task):
            exists = jnp.arange(count * c.patch) < frames[name][:, None]
            clean = jnp.where(exists[..., None], conditions[name], 0.0).astype(jnp.float32)
        else:
            clean = jnp.zeros((len(last), count * c.patch, width), jnp.float32)
        made[name] = jnp.pad(clean.reshape(-1, count, c.patch, width),
                             ((0, 0), (0, room - count), (0, 0), (0, 0)))
    if "audio" in names:
        given["globals"]["audio"] = conditions["speaker"]
    if "motion" in names:  # training takes the clip's first frame
        given["globals"]["motion"] = jnp.where((frames["motion"] > 0)[:, None],
                                               made["motion"][:, 0, 0],
                                               conditions["first_motion"])
    speech = given["patches"].get(GIVEN.get(task))
    if speech is None:
        speech = jnp.full_like(last, count if speech_ends(c, task) else room)
    slots = jnp.full_like(last, room)
    if task in GIVEN:
        slots = speech + behind if task == "a2v" else speech
    state = {"cache": cache, "hidden": hidden, "slot": jnp.zeros_like(last), "made": made,
             # slots with speech, slots in all: bounds until the stop is found
             "speech": speech, "slots": slots,
             "stop": jnp.zeros((len(last), room), jnp.float32), "streak": jnp.zeros_like(last),
             "before": hidden}
    return given, state


def starts_with_task(c, task: str) -> bool:
    """False where the task's embedding joins a prefix instead."""
    return c.task_token == "first" or task != "t2av"


def speech_ends(c, task: str) -> bool:
    """True if slots without speech follow speech that is sampled."""
    return task == "t2av" and c.complete_motion and c.stop_on == "speech"


def given_length(system, conditions, name: str, task: str):
    """Frames of a stream that are given and used, (B,)."""
    if f"{name}_length" not in needed(system, task):
        return jnp.zeros_like(conditions["prompt_length"], jnp.int32)
    length = conditions[f"{name}_length"].astype(jnp.int32)
    return (length if GIVEN.get(task) == name else length // system.config.patch
            * system.config.patch)


def finished(state):
    """Rows that have all their slots, (B,)."""
    return state["slot"] >= state["slots"]


def advance(system, ready, given, state, task: str):
    """One slot of every row that is not finished."""
    c = system.config
    k = state["slot"]
    running = ~finished(state)
    rows = jnp.arange(len(k))
    place = {"audio": k, "motion": k - lag(system, task)}  # the patch of each stream in this slot
    wanted = {"audio": running & (k < state["speech"]), "motion": running & (place["motion"] >= 0)}
    sampled = {name: wanted[name] & (place[name] >= given["patches"][name]) for name in MAKES[task]}

    def patch_of(arrays, name, shift=0):
        """(B, P, C): that patch of a stream, zeros before the first."""
        j = place[name] + shift
        return jnp.where((j >= 0)[:, None, None], arrays[name][rows, jnp.maximum(j, 0)], 0.0)

    now = {name: patch_of(state["made"], name) for name in ("audio", "motion")}
    known = {name: (wanted[name] & ~sampled.get(name, False), now[name]) for name in now}

    def fresh(names):
        made = decode.sample(system, ready, names,
                             {name: patch_of(given["noise"], name) for name in names},
                             state["hidden"],
                             {name: patch_of(state["made"], name, -1) for name in names},
                             given["globals"], wanted, known)
        return {name: made.get(name, jnp.zeros_like(now[name])) for name in sampled}

    new = fresh_where_needed(fresh, sampled, heads(c, task) if c.coupling == "joint" else None)
    now |= {name: jnp.where(sampled[name][:, None, None], new[name], now[name]) for name in new}
    made = {name: array.at[rows, jnp.where(sampled[name], place[name],
                                           array.shape[1])].set(now[name], mode="drop")
            if name in sampled else array for name, array in state["made"].items()}

    valid = {}
    for name in ("audio", "motion"):
        valid[name] = (c.patch if name in sampled
                       else jnp.clip(given["frames"][name] - place[name] * c.patch, 0, c.patch))
        valid[name] = jnp.where(wanted[name], valid[name], 0)
    # a prefix with motion is encoded as in training, whatever is done behind it
    started = (c.delay_motion == "encoded" or task == "tts" or
               (place["motion"] >= 0) | (k < given["patches"]["audio"])
               & (given["patches"]["motion"] > 0))
    token_BD = decode.apply(system, ready, "patch_tokens", now["audio"], valid["audio"],
                            now["motion"], valid["motion"],
                            task == "tts", started)
    prefix = jnp.maximum(given["patches"]["audio"], given["patches"]["motion"])
    if not starts_with_task(c, task):
        task_D = decode.apply(system, ready, lambda net: net.task[T2AV])
        token_BD += jnp.where(((k == 0) & (prefix > 0))[:, None], task_D.astype(token_BD.dtype), 0)
    hidden, cache = decode.step(system, ready, token_BD, state["cache"], given["first_slot"] + k)
    hidden = jnp.where(running[:, None], hidden, state["hidden"])
    logit = decode.apply(system, ready, "stop_logits", hidden)
    logits = state["stop"].at[rows,
                              jnp.where(wanted["audio"], k,
                                        state["stop"].shape[1])].set(logit, mode="drop")
    state = state | {"cache": cache, "hidden": hidden, "made": made, "stop": logits,
                     "slot": k + running}
    if task in GIVEN:
        return state
    asked = wanted["audio"] & (k + 1 - prefix >= c.min_patches)
    return look_for_stop(c, state, asked, logit, lag(system, task), speech_ends(c, task))


def fresh_where_needed(fresh, sampled, coupled):
    """`fresh` of the streams that any row wants a patch of in this slot, zeros in place of the
    others; or of all those in `coupled`, if any is wanted."""
    names = tuple(sampled)
    cases = []
    for case in range(2 ** len(names)):
        chosen = tuple(name for i, name in enumerate(names) if case >> i & 1)
        cases.append(coupled if chosen and coupled else chosen)
    index = sum(jnp.any(sampled[name]).astype(jnp.int32) << i for i, name in enumerate(names))
    return jax.lax.switch(index, [lambda case=case: fresh(case) for case in cases])


def look_for_stop(c, state, asked, logit, behind: int, goes_on: bool):
    """Ends the utterances whose stop probability has been high for `stop_streak` slots.

    The first of those slots is the last by its label; the others are taken back (`trim_stop`). With
    `goes_on`, speech ends there, and the row goes back to give motion its `behind` slots without
    speech.
    """
    high = jax.nn.sigmoid(logit) >= c.stop_threshold
    streak = jnp.where(asked, jnp.where(high, state["streak"] + 1, 0), state["streak"])
    first = asked & (streak == 1)
    # at the end, should this be it
    before = jnp.where(first[:, None], state["hidden"], state["before"])
    stopped = asked & (streak >= c.stop_streak)
    end = state["slot"] - (c.stop_streak - 1 if c.trim_stop else 0)
    state = state | {"streak": jnp.where(stopped, 0, streak), "before": before,
                     "speech": jnp.where(stopped, end, state["speech"]),
                     "slots": jnp.where(stopped, end + behind if goes_on else end, state["slots"])}
    if goes_on and behind and c.trim_stop:
        state["slot"] = jnp.where(stopped, end, state["slot"])
        state["hidden"] = jnp.where(stopped[:, None], before, state["hidden"])
    return state


def lengths(system, given, state, task: str) -> dict:
    """Patches of each stream of the utterance, by what is known of its end: {"audio": (B,),
    "motion": (B,)}."""
    c = system.config
    behind = lag(system, task)
    motion = jnp.maximum(state["slots"] - behind, 0)
    audio = state["speech"]
    if task == "t2av" and c.complete_motion and not speech_ends(c, task):
        audio = motion
    whole = given["patches"].get(GIVEN.get(task))
    if whole is not None:
        audio = motion = whole
    return {"audio": audio, "motion": jnp.zeros_like(motion) if task == "tts" else motion}


def settled(system, given, state, task: str) -> dict:
    """Frames of each stream that no later slot can take back, {"audio": (B,), "motion": (B,)}."""
    c = system.config
    behind = lag(system, task)
    total = lengths(system, given, state, task)
    patches_B = state["slot"] - (jnp.maximum(state["streak"] - 1, 0) if c.trim_stop else 0)
    done = {"audio": patches_B, "motion": patches_B - behind}
    if task == "t2av" and c.complete_motion and not speech_ends(c, task):
        done["audio"] = done["motion"]
    frames = {name: c.patch * jnp.where(finished(state), n, jnp.clip(done[name], 0, n)) for name,
              n in total.items()}
    if task in GIVEN:  # its last patch may be a partial one
        frames = {name: jnp.minimum(n, given["frames"][GIVEN[task]]) for name, n in frames.items()}
    return frames


def streams(system, given, state, task: str) -> dict:
    """The result of `generate` from a state whose rows are finished."""
    c = system.config
    count = state["made"]["audio"].shape[1]
    count -= lag(system, task) if c.complete_motion or task in GIVEN else 0
    frames = settled(system, given, state, task)
    out = {}
    for name, length in frames.items():
        made_BTC = state["made"][name][:, :count].reshape(len(length), count * c.patch, -1)
        exists = jnp.arange(count * c.patch) < length[:, None]
        out[name] = jnp.where(exists[..., None], made_BTC, 0.0)
        out[f"{name}_length"] = length.astype(jnp.int32)
    exists = jnp.arange(count) * c.patch < frames["audio"][:, None]
    return out | {"stop": jnp.where(exists, state["stop"][:, :count], 0.0)}
