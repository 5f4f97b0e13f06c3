"""What drives Talker-T2AV: text, speech and motion, from files or from an example of a dataset ->
its conditions.

    task   is driven by        and continues a prefix of
    t2av   text                audio, and motion if there is any
    tts    text                audio
    a2v    audio               motion
    v2a    motion, text        audio

Where speech or motion neither drives nor is continued, it only gives the speaker: the voice, the
first frame. A file that drives is of other speech than an example, whose transcript is then no
prompt. A film gives both, with its speaker (film.py). A portrait is what motion of LIA-X is drawn
on (portrait.py); its own motion is the first frame.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from avjax.codecs.motion import check_apart
from avjax.encoders.plain_text import check_letters
from avjax.errors import UserError
from avjax.inference import padding
from avjax.systems import api
from avjax.systems.talker import sampler, several
from avjax.systems.talker.rows import check_ids
from avjax.weights import reader
from data_pipelines import media, prompting
from data_pipelines.features.common import heard
from data_pipelines.features.talker import film as films
from data_pipelines.features.talker import frontend, pieces, portrait, voices
from data_pipelines.prompting import Input, Prompt, Request
from data_pipelines.store.schema import SPEAKERS

WHOLE = sampler.GIVEN  # task -> what drives it
PREFIX = {"t2av": ("audio", "motion"), "tts": ("audio",), "a2v": ("motion",), "v2a": ("audio",)}
# inputs that make of an example something else than the system's own conditions of it
CHANGES = ("text", "audio", "motion", "video", "portrait", "speaker", "prefix_seconds",
           "max_seconds")


@dataclasses.dataclass
class _Given:
    """What there is to go by. Arrays are None where nothing gave them, or the task has no use for
    them."""

    text: str = ""
    tokens_N: np.ndarray | None = None  # an example's own
    audio: np.ndarray | None = None  # (T, A)
    motion: np.ndarray | None = None  # (T, M), z-scored
    voice_S: np.ndarray | None = None
    speaker: str = ""
    identity: np.ndarray | None = None
    name: str = ""
    remarks: tuple[str, ...] = ()
    unread: int = 0  # frames of motion that a film has beyond `motion`
    filmed: str = ""  # the speaker by whose eigenfaces a film was read
    picture: np.ndarray | None = None  # (1, 512, 512, 3), a film's first, of LIA-X

    def length(self, name: str) -> int:
        """Frames of audio or motion that there are."""
        return len(getattr(self, name)) + (self.unread if name == "motion" else 0)


class PromptBuilder(prompting.PromptBuilder):
    """Conditions for one utterance."""

    TAKES = (prompting.TASK, prompting.TEXT, prompting.AUDIO, voices.INPUT,
             Input("motion", "Motion file (.npz, .npy or .pt): drives, or is continued."),
             films.INPUT, prompting.EXAMPLE, prompting.DATA, prompting.SPEAKER,
             *portrait.TAKES, *pieces.TAKES,
             Input("prefix_seconds", "Continue so much of the audio (and motion).", float),
             Input("max_seconds", "Most that is made, of text in pieces of each; 0 = all that the "
                   "model's context holds.", float))
    SETTINGS = {"steps": ("steps",), "guidance": ("guidance",), "temperature": ("temperature",)}

    def build(self, request: Request, system, decoder) -> Prompt:
        """UserError for whatever is missing, unknown, too long or of another width."""
        c, request = system.config, pieces.of_file(request)
        for name in ("prefix_seconds", "max_seconds", "piece_seconds", "context_seconds"):
            if getattr(request, name) < 0:
                raise UserError("seconds out of range", where=f"--{name}", expected=">= 0",
                                found=str(getattr(request, name)))
        if request.task:
            prompting.check_task(request.task, system)
        front = frontend.Encoder.from_codecs(
            decoder.recipes, decoder.codecs,
            voices.weights(request, decoder.recipes.get("voice", {}), decoder.workdir),
            decoder.workdir)
        task = request.task or default_task(request, front)
        if front.motion_codec is None and task != "tts":
            raise UserError("this model was trained on speech alone", where="--task",
                            expected="tts", found=task)
        row = prompting.read_example(request, system, decoder) if request.example else None
        film = films.opened(request.video) if request.video else None
        given = _read(request, task, row, film, system, decoder, front)
        if not given.text and given.tokens_N is None and task != "a2v":
            raise UserError("nothing to say", where="--text",
                            expected=f"the words: {task} speaks them", found="no text",
                            hint="--text=..., or --example=SPLIT/ID")
        use = _used(request, task, given, c)
        shown = film.shown if film and task == "v2a" and not request.portrait else None
        remarks = [*given.remarks, *["pictures: the film's own, which v2a leaves as they are"]
                   * bool(shown)]
        if given.tokens_N is None and front.tokenizer.scripts is not None:
            check_letters(given.text, front.tokenizer.scripts, "--text")
        texts, context, prompts = [given.text], 0, [given.tokens_N]
        cuts = given.tokens_N is None and task not in WHOLE
        pieces.check(request, task, cuts, c)
        if given.tokens_N is None:
            if cuts and given.text:
                texts, context = pieces.cut(request, given.text, task, c, pieces.patches(use, c),
                                            lambda text: len(front.prompt(text)))
            prompts = [front.prompt(text, allow_empty=True) for text in texts]
            if not given.text:
                remarks.append("no transcript: the model was trained with one; --text=... makes "
                               "motion better")
        for prompt_N in prompts:
            check_ids(prompt_N, c.vocab, "--text or --example")
        before = max(pieces.patches(use, c), context if len(texts) > 1 else 0)
        flags = ", ".join(_flag(request, name) for name in use)
        frames = c.patch * min(pieces.room(request, task, c, len(p), before, flags)
                               for p in prompts)
        drawn_on, own_M = portrait.read(request, task, decoder, front, given.picture)
        voice_S, first_M, speaker, identity = _who(request, task, given, use, c, decoder)
        first_M = first_M if own_M is None or "motion" in use else own_M
        if row and not any(getattr(request, name) for name in CHANGES):
            conditions, frames = system.conditions(row, task)
            made, bounded = (conditions,), False
        else:
            made = tuple(_conditions(prompt_N, voice_S, first_M, use if k == 0 else {},
                                     context * c.patch if k else 0, c)
                         for k, prompt_N in enumerate(prompts))
            # the length of what drives decides, where padding is a multiple of the patch
            bounded = task not in WHOLE or 32 % c.patch != 0
            if not bounded:
                frames = len(use[WHOLE[task]])
        told = {}
        if len(made) > 1:
            remarks.append(f"{len(made)} pieces of the text, each going on from the last "
                           f"{context * c.patch / c.frame_rate:g} s before it")
            told = {"texts": tuple(texts), "seconds": sum(map(pieces.seconds, texts))}
        prompt = Prompt(task, tuple(padding.complete(system, x) for x in made), frames, given.name,
                        bounded, speaker, identity, tuple(remarks), given=drawn_on, shown=shown,
                        **told)
        check(system, prompt)
        return prompt

    def remarks(self, prompt, out, system):
        """A line when speech was cut off by the bound and not by the stop head."""
        c = system.config
        most = (prompt.frames if "unended" in out else out["stop"].shape[1] * c.patch)
        if "unended" in out:
            unended = int(out["unended"][0])
        else:
            unended = prompt.task not in WHOLE and int(out["audio_length"][0]) >= most and (
                not several.is_end(c, out["stop"][0, -c.stop_streak:]))
        lasted = [f"{piece['seconds']:.2f}" for piece in
                  self.told(prompt, out, system).get("pieces", ())]
        lines = [f"{len(lasted)} pieces of {', '.join(lasted)} s"] if lasted else []
        made = [name for name in PREFIX[prompt.task] if lasted and len(out.get(name, ())) > 0]
        for name in made:
            across, within = pieces.steps(out[name][0], out["pieces"][0])
            lines.append(f"{name} from frame to frame: {across:.3g} across joints, {within:.3g} "
                         "within pieces")
        if not unended:
            return lines
        of = f" in {unended} of {len(prompt.pieces)} pieces" if len(prompt.pieces) > 1 else ""
        return [*lines, f"warning: the stop head never fired within {most / c.frame_rate:.1f} s"
                f"{of}, so speech may be cut off or go on after its end; train longer, or bound it "
                "with --max_seconds"]

    def told(self, prompt, out, system):
        """{"pieces": [{"text", "seconds"}]} of text that was made in pieces."""
        if len(prompt.pieces) == 1:
            return {}
        rate = system.config.frame_rate
        return {"pieces": [{"text": text, "seconds": round(int(frames) / rate, 3)} for text, frames
                           in zip(prompt.texts, out["pieces"][0], strict=True)]}


def check(system, prompt: Prompt) -> None:
    """UserError for lengths that do not fit together."""
    for conditions in prompt.pieces:
        sizes = padding.sizes(system, conditions)
        time = max(sizes.pop("time"), prompt.frames)
        room = padding.room([sizes], time if prompt.bounded else api.bucket(time))
        batch = padding.batch(system, [conditions], [prompt.frames], room)
        sampler.check_conditions(system, batch, prompt.task)


def _conditions(prompt_N, voice_S, first_M, use, context: int, c) -> dict[str, np.ndarray]:
    """Of one piece. use: what is given of sound and motion; context: else so many frames of what
    was made before."""
    out = {"prompt": prompt_N, "prompt_length": np.int32(len(prompt_N)), "speaker": voice_S,
           "first_motion": first_M}
    for name in ("audio", "motion"):
        out[name] = use.get(name, np.zeros((0, getattr(c, f"{name}_dim"))))
        out[f"{name}_length"] = np.int32(context or len(out[name]))
    return out


def default_task(request: Request, front) -> str:
    """What is meant when no task is named."""
    if front.motion_codec is None:
        return "tts"
    moved = request.motion or request.video
    driven = request.audio or moved
    spoken = request.text.strip() and request.audio and not moved  # in that voice
    if request.prefix_seconds or spoken or (not driven and (request.text or request.example)):
        return "t2av"
    if not driven:
        raise UserError("nothing to say", where="--text, --audio, --motion, --video, --example",
                        expected="at least one of them",
                        found="none")
    return _driven(request)


def _driven(request: Request) -> str:
    motion = request.motion or request.video
    if request.audio and motion:
        raise UserError("two things to be driven by",
                        where=f"--audio, {_flag(request, 'motion')}",
                        expected="one of them, or --task", found="both",
                        hint="--task=a2v, v2a, or t2av with --prefix_seconds")
    return "a2v" if request.audio else "v2a"


def _flag(request: Request, name: str) -> str:
    """What gives audio or motion, for the reader."""
    return films.FLAG if request.video and not getattr(request, name) else f"--{name}"


def _wanted(request: Request, task: str) -> tuple[str, ...]:
    """What drives or is continued."""
    driving = (WHOLE[task],) if task in WHOLE else ()
    return driving + (PREFIX[task] if request.prefix_seconds else ())


def _read(request: Request, task: str, row, film: films.Film | None, system, decoder,
          front) -> _Given:
    """The example, then what files and text put in its place. What was trained without transcripts
    has a prompt of its own."""
    given = _example(row) if row else _Given()
    given.name = given.name or request.text or pathlib.Path(
        request.audio or request.motion or request.video).name
    driven_by_file = task in WHOLE and (getattr(request, WHOLE[task]) or request.video)
    if request.text.strip() or driven_by_file:
        given.text, given.tokens_N = request.text.strip(), None
    if task in WHOLE and not given.text and given.tokens_N is None:
        given.text = decoder.recipes["tokens"].get("placeholder", "")
    if request.audio or film:
        _hear(request, task, given, film, decoder, front)
    if request.motion:
        if film:
            raise UserError("two motions", where="--motion, --video", expected="one of them")
        given.motion = read_motion(request.motion, front.motion_codec)
        given.audio = given.audio if request.audio else None
    elif film:
        _see(request, task, given, film, system.config, decoder, front)
    for name in ("audio", "motion"):
        if getattr(given, name) is not None:
            prompting.check_fits(system.conditions_spec[name], name, getattr(given, name))
    return given


def _hear(request: Request, task: str, given: _Given, film: films.Film | None, decoder,
          front) -> None:
    """The sound of --audio, else of the film: `audio` where that is wanted, and the voice."""
    given.audio = given.motion = None  # the example's is of other speech
    rate, wanted = front.audio_codec.recipe["sample_rate"], "audio" in _wanted(request, task)
    if not (request.audio or wanted or film.heard):
        given.remarks = ("the film has no sound: the voice is another's",)
        return
    sound = functools.partial(media.read_audio, request.audio) if request.audio else film.sound
    audio_N = sound(rate)
    if wanted:
        given.audio = front.audio(audio_N, rate)
    if task != "a2v" or front.hears_voices:  # a voice changes nothing that a face does
        own = front.voice_encoder.sample_rate  # resampled once, as in extraction
        given.voice_S = voices.heard(front, sound(own), own, _flag(request, "audio"))
    given.remarks = tuple(heard.remarks(audio_N, rate, decoder.codecs, decoder.recipes["audio"],
                                        _flag(request, "audio")))


def _see(request: Request, task: str, given: _Given, film: films.Film, c, decoder, front) -> None:
    """As much of the film's motion as there is a use for, and what of it is drawn on."""
    if task == "tts":
        return
    count = 1
    if "motion" in _wanted(request, task):
        count = film.frames if task == "v2a" else max(1, _prefix(request, c))
    most = pieces.most(task, c) * c.patch
    if min(count, film.frames) > most:  # told before it is read
        raise UserError("the film is over the context", where=film.where,
                        expected=f"at most {most / c.frame_rate:.1f} s",
                        found=f"{film.frames / c.frame_rate:.1f} s",
                        hint="cut it into sentences and generate each")
    reader = films.Reader(film, count, request, decoder, front.motion_codec)
    given.motion = reader.motion()
    given.unread = film.frames - reader.count
    given.picture = reader.first()
    if reader.speaker:
        given.speaker = given.filmed = reader.speaker


def _example(row) -> _Given:
    """One example of a feature dataset that was made as the model's was."""
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


def _used(request: Request, task: str, given: _Given, c) -> dict[str, np.ndarray]:
    """{"audio" | "motion": frames} that drive the task or are continued. UserError when there are
    too few."""
    arrays = {"audio": given.audio, "motion": given.motion}
    use, driving = {}, WHOLE.get(task)
    if driving:
        if arrays[driving] is None:
            raise UserError(f"{task} is driven by {driving}", where=f"--{driving}", found="none",
                            expected=f"--{driving}=FILE, --video=FILE, or an --example that has it")
        use[driving] = arrays[driving]
    prefix = {n: arrays[n] for n in PREFIX[task]
              if arrays[n] is not None} if request.prefix_seconds else {}
    if request.prefix_seconds and not prefix:
        raise UserError("a prefix of nothing", where="--prefix_seconds", found="none",
                        expected=" or ".join(f"--{n}=FILE" for n in PREFIX[task])
                        + ", or an --example that has it")
    frames = _prefix(request, c)
    for name in prefix:
        if frames < c.patch:
            raise UserError("prefix shorter than a patch", where="--prefix_seconds",
                            found=f"{request.prefix_seconds:g} s",
                            expected=f"at least {c.patch / c.frame_rate} s")
        if frames > given.length(name):
            raise UserError("prefix longer than the clip", where="--prefix_seconds",
                            found=f"{request.prefix_seconds:g} s",
                            expected=f"at most {given.length(name) / c.frame_rate:.2f} s of {name}")
    if len(use | prefix) == 2:
        check_apart(given.length("audio"), given.length("motion"), ", ".join(dict.fromkeys(
            _flag(request, name) for name in arrays)), "cut them to the same clip")
    return use | {name: array[:frames] for name, array in prefix.items()}


def _prefix(request: Request, c) -> int:
    """Frames of --prefix_seconds, in whole patches."""
    return int(request.prefix_seconds * c.frame_rate / c.patch + 1e-6) * c.patch


def _who(request: Request, task: str, given: _Given, use, c, decoder):
    """(voice, first motion frame, name, identity) of who is to speak: --speaker, else what was
    given, else the speaker heard most in training. UserError: nobody is known."""
    known = decoder.codecs.get(SPEAKERS, {"names": ()})
    names = [str(name) for name in known["names"]]
    voice_S, speaker, identity = given.voice_S, given.speaker, given.identity
    first_M = None if given.motion is None else given.motion[0]
    if request.speaker and request.speaker != given.filmed:
        voice_S, speaker, identity = None, "", None
        first_M = first_M if "motion" in use else None
    elif voice_S is None and not names:  # of a release that was imported
        if task != "a2v":
            raise UserError("nobody's voice", where="--audio", found="none",
                            expected="a recording of the voice: this model came without speakers")
        voice_S = np.zeros(c.speaker_dim, np.float32)
    if voice_S is None or (names and (identity is None or first_M is None)):
        name = request.speaker or (speaker if speaker in names else "")
        one = names.index(prompting.choose_speaker(name, names))
        voice_S = known["voice"][one] if voice_S is None else voice_S
        first_M = known["first_motion"][one] if first_M is None else first_M
        if identity is None:
            speaker, identity = names[one], known["identity"][one]
    if first_M is None:
        first_M = np.zeros(c.motion_dim, np.float32)
    return voice_S, first_M, speaker, identity
