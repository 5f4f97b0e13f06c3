"""What drives TAVID: a dialogue's script and a portrait of each speaker, or an example of a dataset
-> its conditions.

    task      makes           and is driven by
    dialogue  sound, video    --script=FILE --portraits=a.png,b.png [--speakers=Anna,Ben]; or text
                              and portraits of --example
    speech    sound           the same: voices come from the portraits
    avatar    sound, video    what is said and how, as the units of --example, perhaps by others'
                              --portraits

A portrait is a picture file, or the name of a speaker of the training data.

A script of any length is cut between turns into pieces, so short that the text model has seen two
of them at once. They are made one after the other; each goes on from what all speakers said before:
its text begins with that of the piece before (see avjax/systems/tavid/history.py), and video
continues the last frames.
"""

import itertools
import json
import pathlib
import re
from collections.abc import Callable

import numpy as np

from avjax.codecs import pictures
from avjax.encoders import portrait
from avjax.encoders.plain_text import check_letters, scripts_of
from avjax.errors import UserError
from avjax.inference import padding
from data_pipelines import prompting
from data_pipelines.features.common import portraits
from data_pipelines.features.tavid import script
from data_pipelines.features.tavid.tokenizer import CODEC, UNIT_RATE, DialogueTokenizer
from data_pipelines.prompting import Input, Prompt, Request
from data_pipelines.store.schema import SPEAKERS

CHARACTERS = 12.0  # that are said in a second, and
PAUSE = 0.5  # seconds a turn, pauses included: what a script is expected to last
SLACK = 1.5  # room for what is said more slowly
STEP = 4 * UNIT_RATE  # units; room is a multiple of it
# of what the text model has seen at once, that a piece of several takes: with the piece before, and
# spoken a quarter more slowly, it is nine tenths
PIECE = 0.4


class PromptBuilder(prompting.PromptBuilder):
    """Conditions of a dialogue, piece by piece."""

    TAKES = (prompting.TASK,
             Input("script", "Dialogue to speak: a file with a line a turn, \"Anna: Hello.\""),
             Input("portraits", "A picture of each speaker, with commas between them."),
             Input("speakers", "Names of the script in the portraits' order; default the order of "
                               "first speaking."),
             Input("face", "\"unchecked\" takes portraits as they are, whether a face is found in "
                           "them or not."),
             prompting.EXAMPLE, prompting.DATA)
    SETTINGS = {"steps": ("visual.steps",),
                "guidance": ("visual.guidance", "visual.guidance_motion"),
                "temperature": ("text.temperature",)}

    def build(self, request: Request, system, decoder) -> Prompt:
        """UserError for an unusable script, portraits that are missing, too many, or show no face
        or several, and texts that do not fit."""
        task = request.task or system.tasks[0]
        prompting.check_task(task, system)
        if not request.script and not request.example:
            raise UserError("nothing to say", where="--script, --example",
                            expected="--script=FILE and --portraits=a.png,b.png, or "
                            "--example=SPLIT/ID", found="neither")
        if task == "avatar" and request.script:
            raise UserError("avatar is driven by units, not by text", where="--task, --script",
                            expected="--example alone",
                            found="--script", hint="leave --task out")
        row = prompting.read_example(request, system, decoder) if request.example else {}
        names = tuple(filter(None, (n.strip() for n in request.speakers.split(","))))
        if names and not request.script:
            raise UserError("speakers of no script", where="--speakers",
                            expected="--script=FILE, whose names they are", found="none")
        where = request.script or f"example {row['id']}"
        if task == "avatar":
            names = tuple(json.loads(row["speakers"]))
            row = row | _shown(request, names, row, system, decoder)
            return _of_row(system, row, task, names, _identities(row, request, system, decoder))
        if request.script:
            what = script.read(request.script, names=names)
        else:
            what = script.parse(row["text"], names=tuple(json.loads(row["speakers"])), where=where)
        who = _shown(request, what.names, row, system, decoder)
        identity = _identities(row, request, system, decoder)
        tokenizer = DialogueTokenizer.from_codec(decoder.recipes.get("tokens"),
                                                 decoder.codecs.get(CODEC))
        _check_letters(what, tokenizer, where)
        whole, small = (_fits(tokenizer, system, share) for share in (1.0, PIECE))
        parts = cut(what, small, where, alone=whole) if whole(what) else [what]
        if row and not request.script and len(parts) == 1:  # as it was trained and is evaluated
            return _of_row(system, row | who, task, what.names, identity)
        alone = [tokenizer.encode(part) for part in parts]
        encoded, said = alone[:1], [0]
        for before, (first, second) in zip(alone, itertools.pairwise(parts), strict=False):
            both = tokenizer.encode(script.Script((*first.turns, *second.turns), what.names))
            # whether their frames fit is known when the first has been spoken (history.py)
            fits = len(both.tokens) <= system.config.text.row_tokens
            encoded.append(both if fits else alone[len(encoded)])
            said.append(len(before.tokens) if fits else 0)
        room = max(_room(expected_seconds(part), system) for part in parts)
        pieces = tuple(padding.complete(system, {
            "tokens": e.tokens, "token_speaker": e.token_speaker,
            "tokens_length": np.int32(len(e.tokens)), "said_tokens": np.int32(n),
            "room": np.zeros(room, np.int32)} | who)
            for e, n in zip(encoded, said, strict=True))
        return Prompt(task, pieces, room, row["id"] if row else what.text, bounded=True,
                      identity=identity,
                      remarks=_remarks(what, parts, encoded), speakers=file_names(what.names),
                      seconds=sum(map(expected_seconds, parts)))

    def remarks(self, prompt, out, system):
        """A line where something may have been cut off."""
        full = int(out["full"][0])
        if not full:
            return []
        return [f"warning: {full} of {len(prompt.pieces)} pieces fill all the room there was, so "
                "speech may be cut off; train longer, or shorten the turns"]


def _check_letters(what: script.Script, tokenizer: DialogueTokenizer, where: str) -> None:
    """UserError for letters that the model was never taught to speak."""
    if tokenizer.kind != "characters":
        return
    spoken = scripts_of("".join(tokenizer.symbols))
    for turn in what.turns:
        for said in (turn, *turn.backchannels):
            check_letters(said.text, spoken, f"{where}, {said.text[:30]!r}")


def _of_row(system, row, task: str, names: tuple[str, ...], identity) -> Prompt:
    """An example as the system itself conditions on it."""
    conditions, frames = system.conditions(row, task)
    given = {"units": np.asarray(row["units"])} if task == "avatar" else {}
    return Prompt(task, (padding.complete(system, conditions),), frames, row["id"],
                  identity=identity,
                  speakers=file_names(names), seconds=len(row["units"]) / UNIT_RATE, given=given)


def cut(what: script.Script, fits: Callable[[script.Script], str], where: str, *,
        alone: Callable[[script.Script], str]) -> list[script.Script]:
    """A script as consecutive ones that fit, cut between turns; a turn that does not fit is cut
    between its sentences, of which one that does not fit is a script of its own.

    Args:
      fits: "" where a script fits, else what is too much of it.
      alone: the same of a single sentence.

    Raises UserError for a sentence that does not fit alone.
    """
    turns = []
    for turn in what.turns:
        turns += [turn] if not fits(script.Script((turn,), what.names)) else turn.sentences()
    whole, out, first = script.Script(tuple(turns), what.names), [], 0
    for last in range(1, len(turns) + 1):
        if problem := alone(whole.part(last - 1, last)):
            raise UserError("a sentence over the context",
                            where=f"{where}: {turns[last - 1].text[:40]!r}", found=problem,
                            expected="what the text model has seen at once",
                            hint="break the sentence with . ? or !")
        if last - 1 > first and fits(whole.part(first, last)):
            out.append(whole.part(first, last - 1))
            first = last - 1
    return [*out, whole.part(first, len(turns))]


def expected_seconds(what: script.Script) -> float:
    """About how long a script lasts."""
    return sum(len(t.text) / CHARACTERS + PAUSE for t in what.turns)


def file_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names as parts of file names, all different."""
    plain = [re.sub(r"[^\w-]+", "_", name).strip("_") or "speaker" for name in names]
    return tuple(n if plain.count(n) == 1 else f"{n}{i + 1}" for i, n in enumerate(plain))


def _fits(tokenizer: DialogueTokenizer, system, share: float) -> Callable[[script.Script], str]:
    """Says what of a script is too much for that share of the text model's context."""
    most, sizes = system.config.text, {}
    frames = share * most.row_frames
    # of two pieces, a mark is between them
    row_tokens = most.row_tokens if share == 1 else (most.row_tokens - 1) // 2

    def tokens(turn) -> int:
        if turn not in sizes:
            sizes[turn] = len(tokenizer.encode(script.Script((turn,), ("",
                                                             ) * tokenizer.speakers)).tokens)
        return sizes[turn]

    def fits(what) -> str:
        n = sum(map(tokens, what.turns)) + len(what.turns) - 1  # with the marks between turns
        seconds = expected_seconds(what)
        if n > row_tokens:
            return f"{n} tokens of {row_tokens}"
        return (f"about {seconds:.0f} s of {frames / UNIT_RATE:.0f}" if seconds * UNIT_RATE > frames
                else "")

    return fits


def _room(seconds: float, system) -> int:
    """Units to make room for."""
    most = system.config.text.row_frames
    return min(-(-int(SLACK * seconds * UNIT_RATE) // STEP) * STEP, most - most % 2)


def _shown(request: Request, names, row, system, decoder) -> dict[str, np.ndarray]:
    """{"faces" (S, F), "portraits" (S, H, W, 3), "reference" (S, h, w, 4)} of the given portraits,
    else of the example; what the system looks at of them."""
    streams = system.conditions_spec["faces"].shape[1]
    files, wanted = _files(request), system.conditions_spec.keys()
    given = len(files) if files or not row else len(row["portraits"])
    if given != len(names):
        raise UserError("another number of portraits than of speakers", where="--portraits",
                        expected=f"{len(names)}, one of each in this order: {', '.join(names)}",
                        found=f"{given}: {', '.join(files)}" if files else str(given),
                        hint="give --portraits=a.png,b.png, and check the script's names")
    if len(names) != streams:
        raise UserError("another number of speakers than the model has", where="--script",
                        expected=str(streams), found=f"{len(names)}: {', '.join(names)}",
                        hint="use a model of that many streams")
    if not files:
        return {name: row[name] for name in ("faces", "portraits", "reference") if name in wanted}
    if request.face not in ("", "checked", portraits.UNCHECKED):
        raise UserError("no such way to look at portraits", where="--face",
                        expected=f"checked or {portraits.UNCHECKED}",
                        found=repr(request.face))
    checked = request.face != portraits.UNCHECKED
    shown_SHWC = np.stack([_portrait(f, checked, decoder) for f in files])
    encoder = portrait.from_recipe(decoder.recipes["faces"], decoder.codecs.get("faces"))
    out = {"faces": np.stack([encoder.of_file(f, x) for f,
                              x in zip(files, shown_SHWC, strict=True)]), "portraits": shown_SHWC}
    if "reference" in wanted:
        codec = pictures.from_recipe(decoder.recipes["latents"], decoder.codec("vae"))
        out["reference"] = np.asarray(codec.encode(shown_SHWC), np.float32)
    return {name: x for name, x in out.items() if name in wanted}


def _files(request: Request) -> list[str]:
    """The portraits, one by one."""
    return [f.strip() for f in request.portraits.split(",") if f.strip()]


def _identities(row, request: Request, system, decoder) -> np.ndarray | None:
    """(S, I) puppets to draw, where faces are motion and not pictures: those of the portraits,
    which are speakers of the training data then, else of the example; None where there is nothing
    to draw."""
    if "motion" not in system.makes[request.task or system.tasks[0]]:
        return None
    files, known = _files(request), prompting.identities(decoder.codecs)
    if not files and row:
        return row.get("identity")
    strangers = [f for f in files if f not in known]
    if strangers or decoder.face_kind != "puppet":
        raise UserError("a face that cannot be drawn", where="--portraits, config.system.faces",
                        expected="puppets: names of speakers of the training data, such as "
                        + ", ".join(list(known)[:3]), found=", ".join(strangers or files),
                        hint="or --task=speech for sound alone, or train with faces=pictures")
    return np.stack([known[f] for f in files])


def _portrait(name: str, checked: bool, decoder) -> np.ndarray:
    """(H, W, 3) uint8: of a file, or of a speaker of the training data."""
    known = decoder.codecs.get(SPEAKERS, {})
    names = list(map(str, known.get("names", ())))
    if name in names and "portraits" in known and not pathlib.Path(name).exists():
        return known["portraits"][names.index(name)]
    return portraits.prepared(portraits.read(name), decoder.recipes["portraits"], name,
                              checked=checked)


def _remarks(what, parts, encoded) -> tuple[str, ...]:
    out = []
    unknown = sorted({symbol for e in encoded for symbol in e.unknown})
    if unknown:
        out.append(f"warning: the model's vocabulary lacks {', '.join(map(repr, unknown))}; what "
                   "it says there is anyone's guess")
    if len(parts) > 1:
        lost = sum(t.overlap for t in what.turns) - sum(t.overlap for p in parts for t in p.turns)
        out.append(f"{len(what.turns)} turns are made in {len(parts)} pieces, each going on from "
                   "the one before"
                   + (f"; {lost} that would overlap across a cut do not" if lost else ""))
    return tuple(out)
