"""What drives Talker-T2AV: text, speech and motion, from files or from an example of a dataset ->
its conditions.

    task   is driven by        and goes on from a prefix of
    t2av   text                audio, and motion if there is any
    tts    text                audio
    a2v    audio               motion
    v2a    motion, text        audio

Where speech or motion is given and neither drives nor is gone on from, it only says who speaks: its
voice, its first frame. A file that drives is of other speech than an example, whose transcript is
then no prompt.
"""

import dataclasses
import pathlib

import numpy as np

from avjax.codecs.motion import check_apart
from avjax.encoders.plain_text import check_letters
from avjax.errors import UserError
from avjax.systems.talker import sampler
from avjax.systems.talker.rows import check_ids
from avjax.systems.talker.streaming import StreamingSampler
from avjax.weights import reader
from data_pipelines import media, prompting
from data_pipelines.features.common import heard
from data_pipelines.features.talker import frontend
from data_pipelines.store.schema import SPEAKERS

TAKES = ("task", "text", "audio", "motion", "example", "data", "speaker", "prefix_seconds",
         "max_seconds")
SETTINGS = {"steps": "steps", "guidance": "guidance", "temperature": "temperature"}
WHOLE = sampler.GIVEN  # task -> what drives it
PREFIX = {"t2av": ("audio", "motion"), "tts": ("audio",), "a2v": ("motion",), "v2a": ("audio",)}
BUCKET = 32  # prompt tokens; prompts are padded to multiples of it


@dataclasses.dataclass
class _Given:
    """What there is to go by. Arrays are None where nothing gave them."""

    text: str = ""
    tokens_N: np.ndarray | None = None  # an example's own
    audio: np.ndarray | None = None  # (T, A)
    motion: np.ndarray | None = None  # (T, M), z-scored
    voice_S: np.ndarray | None = None
    speaker: str = ""
    identity: np.ndarray | None = None
    name: str = ""
    remarks: tuple[str, ...] = ()


def plan(wish: prompting.Wish, system, decoder) -> prompting.Plan:
    """Conditions for one utterance. UserError for whatever is missing, unknown, too long or of
    another width."""
    c = system.config
    if wish.task:
        prompting.check_task(wish.task, system)
    front = frontend.Encoder.from_codecs(decoder.recipes, decoder.codecs)
    task = wish.task or default_task(wish, front)
    if front.motion_codec is None and task != "tts":
        raise UserError("this model was trained on speech alone", where="--task", expected="tts",
                        found=task)
    given = _read(wish, task, system, decoder, front)
    if not given.text and given.tokens_N is None and task != "a2v":
        raise UserError("nothing to say", where="--text", expected=f"the words: {task} speaks them",
                        found="no text",
                        hint="--text=..., or --example=SPLIT/ID")
    use = _used(wish, task, given, c)
    remarks = [*given.remarks]
    if given.tokens_N is None and front.tokenizer.scripts is not None:
        check_letters(given.text, front.tokenizer.scripts, "--text")
    prompt_N = given.tokens_N if given.tokens_N is not None else front.prompt(given.text,
                                                                              allow_empty=True)
    check_ids(prompt_N, c.vocab, "--text or --example")
    if given.tokens_N is None and not given.text:
        remarks.append("no transcript: the model was trained with one; --text=... makes motion "
                       "better")
    patches = _room(wish, task, c, len(prompt_N), use)
    voice_S, first_M, speaker, identity = _who(wish, given, use, c, decoder)
    shapes = {n: s.resolve(batch=1, time=patches * c.patch,
                           tokens=-(-len(prompt_N) // BUCKET) * BUCKET)
              for n, s in system.conditions_spec.items()}
    conditions = {n: np.zeros(s.shape, s.dtype) for n, s in shapes.items()}
    conditions["prompt"][0, :len(prompt_N)] = prompt_N
    conditions["prompt_length"][0] = len(prompt_N)
    conditions["speaker"][0], conditions["first_motion"][0] = voice_S, first_M
    for name, frames in use.items():
        conditions[name][0, :len(frames)] = frames
        conditions[f"{name}_length"][0] = len(frames)
    sampler.check_conditions(system, conditions, task)
    return prompting.Plan(task, conditions, patches * c.patch, speaker, identity, given.name,
                          tuple(remarks))


def default_task(wish: prompting.Wish, front) -> str:
    """What is meant when no task is named."""
    if front.motion_codec is None:
        return "tts"
    if wish.text or wish.example or wish.prefix_seconds:
        return "t2av" if wish.prefix_seconds or not (wish.audio or wish.motion) else _driven(wish)
    if not (wish.audio or wish.motion):
        raise UserError("nothing to say", where="--text, --audio, --motion, --example",
                        expected="at least one of them",
                        found="none")
    return _driven(wish)


def _driven(wish: prompting.Wish) -> str:
    if wish.audio and wish.motion:
        raise UserError("two things to be driven by", where="--audio, --motion",
                        expected="one of them, or --task", found="both",
                        hint="--task=a2v, v2a, or t2av with --prefix_seconds")
    return "a2v" if wish.audio else "v2a"


def remarks(plan: prompting.Plan, out, system) -> list[str]:
    """A line when the utterance was cut off by the bound and not by the stop head."""
    c = system.config
    if plan.task in WHOLE or int(out["audio_length"][0]) < plan.frames:
        return []
    last = 1 / (1 + np.exp(-np.asarray(out["stop"][0, -c.stop_streak:], np.float64)))
    if (last >= c.stop_threshold).all():
        return []
    return [f"warning: the stop head never fired within {plan.frames / c.frame_rate:.1f} s, so "
            "speech may be cut off or go on after its end; train longer, or bound it with "
            "--max_seconds"]


def stream(system, params, plan: prompting.Plan, keys):
    """Yields (None, seconds made so far) after each slot and last (what `generate` returns, all
    seconds). Compiles before the clock of whoever asks for the first of them can tick: what is
    measured is generation."""
    streaming = StreamingSampler(system, params, plan.task)
    next(streaming.stream(plan.conditions, keys))
    given = {n: int(plan.conditions[f"{n}_length"][0]) for n in sampler.MAKES[plan.task]}

    def chunks():
        made = {name: -frames for name, frames in given.items()}
        for chunk in streaming.stream(plan.conditions, keys):
            made = {name: frames + len(chunk[name][0]) for name, frames in made.items()}
            yield None, max(min(made.values()), 0) / system.config.frame_rate
        yield streaming.result, max(min(made.values()), 0) / system.config.frame_rate

    return chunks()


def _read(wish, task: str, system, decoder, front) -> _Given:
    """The example, then what files and text put in its place. What was trained without transcripts
    has a prompt of its own."""
    given = _example(wish, system, decoder) if wish.example else _Given()
    given.name = given.name or wish.text or pathlib.Path(wish.audio or wish.motion).name
    driven_by_file = task in WHOLE and getattr(wish, WHOLE[task])
    if wish.text.strip() or driven_by_file:
        given.text, given.tokens_N = wish.text.strip(), None
    if task in WHOLE and not given.text and given.tokens_N is None:
        given.text = decoder.recipes["tokens"].get("placeholder", "")
    if wish.audio:
        rate = front.audio_codec.recipe["sample_rate"]
        audio_N = media.read_audio(wish.audio, rate)
        given.audio, given.voice_S = front.audio(audio_N, rate), front.voice(audio_N, rate)
        given.remarks = tuple(heard.remarks(audio_N, rate, decoder.codecs,
                                            decoder.recipes["audio"]))
        given.motion = None  # the example's is of other speech
    if wish.motion:
        given.motion = read_motion(wish.motion, front.motion_codec)
        given.audio = given.audio if wish.audio else None
    for name in ("audio", "motion"):
        if getattr(given, name) is not None:
            prompting.check_fits(system.conditions_spec[name], name, getattr(given, name))
    return given


def _example(wish, system, decoder) -> _Given:
    """One example of a feature dataset that was made as the model's was."""
    row = prompting.read_example(wish, system, decoder)
    return _Given(row.get("text", ""), row["tokens"], row["audio"],
                  row["motion"] if len(row["motion"]) else None, row["voice"],
                  row.get("speaker", ""), row.get("identity"), row["id"])


def read_motion(path: str, codec) -> np.ndarray:
    """(T, M) z-scored motion of a file. `.npz` as --save_latents writes it ("motion", already
    z-scored); `.npy` and PyTorch's `.pt` (read without executing anything) hold the motion
    encoder's own numbers, which are z-scored here."""
    if codec is None:
        raise UserError("this model knows no motion", where="--motion",
                        expected="a model trained with motion",
                        found="speech alone")
    content = reader.read_checkpoint(path)
    scaled = isinstance(content, dict)
    if scaled and "motion" not in content:
        raise UserError("no motion in the file", where=path, expected="an array named motion",
                        found=", ".join(map(str, content)))
    motion_TM = np.asarray(content["motion"] if scaled else content)
    numeric = motion_TM.dtype.kind in "fiu" or motion_TM.dtype.name == "bfloat16"
    if not numeric or not len(np.atleast_1d(motion_TM)) or not np.isfinite(motion_TM).all():
        raise UserError("unusable motion", where=path, expected="frames of finite numbers",
                        found=f"{motion_TM.dtype} {motion_TM.shape}")
    motion_TM = motion_TM.astype(np.float32)
    codec.check(motion_TM)
    return motion_TM if scaled else codec.encode(motion_TM)


def _used(wish, task: str, given: _Given, c) -> dict[str, np.ndarray]:
    """{"audio" | "motion": frames} that drive the task or are gone on from. UserError when there
    are too few."""
    arrays = {"audio": given.audio, "motion": given.motion}
    use, driving = {}, WHOLE.get(task)
    if driving:
        if arrays[driving] is None:
            raise UserError(f"{task} is driven by {driving}", where=f"--{driving}", found="none",
                            expected=f"--{driving}=FILE, or an --example that has it")
        use[driving] = arrays[driving]
    prefix = {n: arrays[n] for n in PREFIX[task]
              if arrays[n] is not None} if wish.prefix_seconds else {}
    if wish.prefix_seconds and not prefix:
        raise UserError("a prefix of nothing", where="--prefix_seconds", found="none",
                        expected=" or ".join(f"--{n}=FILE"
                                             for n in PREFIX[task]) + ", or an --example that has "
                                                                      "it")
    frames = int(wish.prefix_seconds * c.frame_rate / c.patch + 1e-6) * c.patch
    for name, array in prefix.items():
        if frames < c.patch:
            raise UserError("prefix shorter than a patch", where="--prefix_seconds",
                            found=f"{wish.prefix_seconds} s",
                            expected=f"at least {c.patch / c.frame_rate} s")
        if frames > len(array):
            raise UserError("prefix longer than the clip", where="--prefix_seconds",
                            found=f"{wish.prefix_seconds} s",
                            expected=f"at most {len(array) / c.frame_rate:.2f} s of {name}")
    lengths = [len(x) for x in (use | prefix).values()]
    if len(lengths) == 2:
        check_apart(*lengths, "--audio, --motion", "cut them to the same clip")
    return use | {name: array[:frames] for name, array in prefix.items()}


def _room(wish, task: str, c, prompt: int, use) -> int:
    """Patches to make room for: what the model was trained to see (a row of at most `max_frames` of
    one utterance), less the prompt. Nothing is cut silently."""
    behind = 0 if task == "tts" else c.delay
    most = min(min(c.row_patches, c.row_tokens - 1) - behind, -(-c.max_frames // c.patch))
    room = min(most, c.row_tokens - 1 - prompt - behind)
    given = max((-(-len(x) // c.patch) for x in use.values()), default=0)
    least = max(given + (0 if task in WHOLE else c.min_patches), 1)
    context = (f"{c.row_tokens} tokens, at most {most + behind} patches of them "
               "(config.system.row_tokens, row_patches and max_frames)")
    if least > most:
        raise UserError("the clip is over the context",
                        where=", ".join(f"--{name}" for name in use), expected=context,
                        found=f"{given} patches", hint="cut it into sentences and generate each")
    if least > room:
        raise UserError("text over the context", where="--text", expected=context,
                        found=f"{prompt} tokens of text and "
                        f"at least {least + behind} patches",
                        hint="split it into sentences and generate each")
    if task in WHOLE or not wish.max_seconds:
        return room
    wanted, seconds = int(np.ceil(wish.max_seconds * c.frame_rate / c.patch
                                  - 1e-6)), c.patch / c.frame_rate
    if not least <= wanted <= room:
        raise UserError("bound out of range", where="--max_seconds", found=f"{wish.max_seconds} s",
                        expected=f"{least * seconds:.2f} to {room * seconds:.2f} s for this text; "
                        f"the context is {context}")
    return wanted


def _who(wish, given: _Given, use, c, decoder):
    """(voice, first motion frame, name, identity) of who is to speak: --speaker, else what was
    given, else the speaker heard most in training."""
    known = decoder.codecs.get(SPEAKERS, {"names": ()})
    names = [str(name) for name in known["names"]]
    voice_S, speaker, identity = (None, "",
                                  None) if wish.speaker else (given.voice_S, given.speaker,
                                                              given.identity)
    first_M = given.motion[0] if given.motion is not None and (not wish.speaker
                                                               or "motion" in use) else None
    if voice_S is None or (names and (identity is None or first_M is None)):
        one = names.index(prompting.choose_speaker(wish.speaker
                                                   or (speaker if speaker in names else ""), names))
        voice_S = known["voice"][one] if voice_S is None else voice_S
        first_M = known["first_motion"][one] if first_M is None else first_M
        if identity is None:
            speaker, identity = names[one], known["identity"][one]
    return voice_S, np.zeros(c.motion_dim,
                             np.float32) if first_M is None else first_M, speaker, identity
