"""What drives TAVID: a dialogue's script and a portrait of each party, or an example of a dataset
-> its conditions.

    task      makes           and is driven by
    dialogue  sound, video    --script=FILE --portraits=a.png,b.png [--speakers=Anna,Ben]; or text and portraits of --example
    speech    sound           the same: voices come from the portraits
    avatar    sound, video    what is said and how, as the units of --example, perhaps by others' --portraits

A portrait is a picture file, or the name of a speaker of the training data.

A script of any length is cut between turns into pieces of what the text model has seen at once.
They are made one after the other; each goes on from the last two frames of video of the one before.
"""

import json
import pathlib
import re
from collections.abc import Callable, Iterator

import jax
import numpy as np

from avjax.codecs import pictures
from avjax.encoders import portrait
from avjax.encoders.plain_text import check_letters, scripts_of
from avjax.errors import UserError
from avjax.systems import api
from avjax.systems.tavid.acoustic.expand import mel_frames
from data_pipelines import prompting
from data_pipelines.features.common import portraits
from data_pipelines.features.tavid import script
from data_pipelines.features.tavid.tokenizer import CODEC, UNIT_RATE, DialogueTokenizer
from data_pipelines.store.schema import SPEAKERS

TAKES = ("task", "script", "portraits", "speakers", "face", "example", "data")
SETTINGS = {"steps": ("visual.steps",), "guidance": ("visual.guidance", "visual.guidance_motion"),
            "temperature": ("text.temperature",)}
CHARACTERS = 12.0  # that are said in a second, and
PAUSE = 0.5  # seconds a turn, pauses included: what a script is expected to last
SLACK = 1.5  # room for what is said more slowly
BUCKET, TOKENS = 4 * UNIT_RATE, 64  # lengths are padded to multiples of these: units, tokens
MOTION_FRAMES = 2  # that the next piece goes on from


def plan(wish: prompting.Wish, system, decoder) -> prompting.Plan:
    """Conditions of a dialogue, piece by piece. UserError for an unusable script, portraits that
    are missing, too many, or show no face or several, and texts that do not fit."""
    if wish.task:
        prompting.check_task(wish.task, system)
    task = wish.task or system.tasks[0]
    if not wish.script and not wish.example:
        raise UserError("nothing to say", where="--script, --example",
                        expected="--script=FILE and --portraits=a.png,b.png, or "
                        "--example=SPLIT/ID", found="neither")
    if task == "avatar" and wish.script:
        raise UserError("avatar is driven by units, not by text", where="--task, --script",
                        expected="--example alone",
                        found="--script", hint="leave --task out")
    row = prompting.read_example(wish, system, decoder) if wish.example else {}
    names = tuple(filter(None, (n.strip() for n in wish.speakers.split(","))))
    if names and not wish.script:
        raise UserError("speakers of no script", where="--speakers",
                        expected="--script=FILE, whose names they are", found="none")
    if task == "avatar":
        return _avatar(row | _parties(wish, tuple(json.loads(row["speakers"])), row, system,
                                      decoder), system)
    if wish.script:
        what = script.read(wish.script, names=names)
    else:
        what = script.parse(row["text"], names=tuple(json.loads(row["speakers"])),
                            where=f"example {row['id']}")
    who = _parties(wish, what.names, row, system, decoder)
    tokenizer = DialogueTokenizer.from_codec(decoder.recipes.get("tokens"),
                                             decoder.codecs.get(CODEC))
    spoken = scripts_of("".join(tokenizer.symbols)) if tokenizer.kind == "characters" else None
    for turn in what.turns if spoken else ():
        for said in (turn, *turn.backchannels):
            check_letters(said.text, spoken, f"{wish.script or row['id']}, {said.text[:30]!r}")
    parts = cut(what, _fits(tokenizer, system), wish.script or f"example {row['id']}")
    encoded = [tokenizer.encode(part) for part in parts]
    size = -(-max(len(e.tokens) for e in encoded) // TOKENS) * TOKENS
    pieces = tuple({"tokens": e.tokens, "token_speaker": e.token_speaker,
                    "tokens_length": np.int32(len(e.tokens))}
                   for e in encoded)
    room = max(_room(expected_seconds(part), system) for part in parts)
    pieces = tuple(_batch(system, piece | who, time=room, units=room, tokens=size)
                   for piece in pieces)
    return prompting.Plan(task, pieces[0], 0, "", None, what.text, _remarks(what, parts, encoded),
                          pieces=pieces, parties=file_names(what.names),
                          seconds=sum(map(expected_seconds, parts)))


def pieces(system, params, plan: prompting.Plan, keys) -> Iterator[tuple[dict | None, float]]:
    """Yields (None, seconds made so far) again and again and last (what `generate` returns for the
    whole, all seconds)."""
    made, first, before, full = [], {}, 0.0, 0
    steps = system.steps(plan.task)
    for k, conditions in enumerate(plan.pieces):
        piece_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, k) if k else keys
        for out, seconds in steps(params, conditions | first, piece_keys):  # noqa: B007
            yield None, before + seconds
        if plan.task == "avatar":
            out |= {name: conditions[name] for name in ("units", "units_length")}
        made.append(api.real_streams(system, out, 0,
                                     0) | {"units": out["units"][0, :int(out["units_length"][0])]})
        first = {n: x.astype(conditions[n].dtype) for n, x in _carried(made[-1]).items()} or first
        full += plan.task != "avatar" and len(made[-1]["units"]) >= conditions["room"].shape[1]
        before += seconds
    whole = join(made)
    lengths = {f"{n}_length": np.array([len(x)], np.int32) for n, x in whole.items()
               if f"{n}_length" in system.streams_spec}
    yield {n: x[None] for n, x in whole.items()} | lengths | {"full": full}, before


def remarks(plan: prompting.Plan, out, system) -> list[str]:
    """A line where something may have been cut off."""
    if not out["full"]:
        return []
    return [f"warning: {out['full']} of {len(plan.pieces)} pieces fill all the room there was, so "
            "speech may be cut off; train longer, or shorten the turns"]


def join(made: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Streams of consecutive pieces as one. Sound frames last 256 / 22050 s, pieces a multiple of 1
    / 50 s: where a piece is less than a frame short of where the next one starts, its last frame is
    held, so that sound never runs away from the pictures. What has no time (voices) is the first
    piece's."""
    out = {name: np.concatenate([m[name] for m in made]) for name in ("units", "latents")
           if name in made[0]}
    if "mel" in made[0]:
        sound, clock = [], 0
        for m in made:
            begin, clock = clock, clock + len(m["units"])
            frames = mel_frames(clock) - mel_frames(begin)
            mel_TSC = m["mel"][:frames]
            missing = ((0, frames - len(mel_TSC)), (0, 0), (0, 0))
            sound.append(np.pad(mel_TSC, missing, mode="edge" if len(mel_TSC) else "constant"))
        out["mel"] = np.concatenate(sound)
    return {name: out.get(name, value) for name, value in made[0].items()}


def cut(what: script.Script, fits: Callable[[script.Script], str],
        where: str) -> list[script.Script]:
    """A script as consecutive ones that fit, cut between turns; a turn that does not fit alone is
    cut between its sentences.

    Args:
      fits: "" where a script fits, else what is too much of it.

    Raises UserError for a sentence that does not fit.
    """
    turns = []
    for turn in what.turns:
        turns += [turn] if not fits(script.Script((turn,), what.names)) else turn.sentences()
    whole, out, first = script.Script(tuple(turns), what.names), [], 0
    for last in range(1, len(turns) + 1):
        if problem := fits(whole.part(last - 1, last)):
            raise UserError("a sentence over the context",
                            where=f"{where}: {turns[last - 1].text[:40]!r}", found=problem,
                            expected="what the text model has seen at once",
                            hint="break the sentence with . ? or !")
        if fits(whole.part(first, last)):
            out.append(whole.part(first, last - 1))
            first = last - 1
    return [*out, whole.part(first, len(turns))]


def expected_seconds(what: script.Script) -> float:
    """About how long a script lasts."""
    return sum(len(t.text) / CHARACTERS + PAUSE for t in what.turns)


def file_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names as parts of file names, all different."""
    plain = [re.sub(r"[^\w-]+", "_", name).strip("_") or "party" for name in names]
    return tuple(n if plain.count(n) == 1 else f"{n}{i + 1}" for i, n in enumerate(plain))


def _fits(tokenizer: DialogueTokenizer, system) -> Callable[[script.Script], str]:
    """Says what of a script is too much for the text model's context."""
    most, sizes = system.config.text, {}

    def tokens(turn) -> int:
        if turn not in sizes:
            sizes[turn] = len(tokenizer.encode(script.Script((turn,), ("",
                                                             ) * tokenizer.speakers)).tokens)
        return sizes[turn]

    def fits(what) -> str:
        n = sum(map(tokens, what.turns)) + len(what.turns) - 1  # with the marks between turns
        seconds = expected_seconds(what)
        if n > most.row_tokens:
            return f"{n} tokens of {most.row_tokens}"
        return (f"about {seconds:.0f} s of {most.row_frames / UNIT_RATE:.0f}" if seconds * UNIT_RATE
                > most.row_frames else "")

    return fits


def _room(seconds: float, system) -> int:
    """Units to make room for."""
    most = system.config.text.row_frames
    return min(-(-int(SLACK * seconds * UNIT_RATE) // BUCKET) * BUCKET, most - most % 2)


def _parties(wish, names, row, system, decoder) -> dict[str, np.ndarray]:
    """{"faces" (S, F), "portraits" (S, H, W, 3), "reference" (S, h, w, 4)} of the given portraits,
    else of the example."""
    streams = system.conditions_spec["faces"].shape[1]
    files = [f.strip() for f in wish.portraits.split(",") if f.strip()]
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
        return {name: row[name] for name in ("faces", "portraits", "reference")}
    if wish.face not in ("", "checked", portraits.UNCHECKED):
        raise UserError("no such way to look at portraits", where="--face",
                        expected=f"checked or {portraits.UNCHECKED}",
                        found=repr(wish.face))
    shown_SHWC = np.stack([_portrait(f, wish.face != portraits.UNCHECKED, decoder) for f in files])
    encoder = portrait.from_recipe(decoder.recipes["faces"], decoder.codecs.get("faces"))
    codec = pictures.from_recipe(decoder.recipes["latents"], decoder.codec("vae"))
    return {"faces": np.stack([encoder.of_file(f, x) for f,
                               x in zip(files, shown_SHWC, strict=True)]),
            "portraits": shown_SHWC, "reference": np.asarray(codec.encode(shown_SHWC), np.float32)}


def _portrait(name: str, checked: bool, decoder) -> np.ndarray:
    """(H, W, 3) uint8: of a file, or of a speaker of the training data."""
    known = decoder.codecs.get(SPEAKERS, {})
    names = list(map(str, known.get("names", ())))
    if name in names and "portraits" in known and not pathlib.Path(name).exists():
        return known["portraits"][names.index(name)]
    return portraits.prepared(portraits.read(name), decoder.recipes["portraits"], name,
                              checked=checked)


def _avatar(row, system) -> prompting.Plan:
    conditions, _ = system.conditions(row, "avatar")
    units = len(row["units"])
    room = -(-units // BUCKET) * BUCKET
    batch = _batch(system, conditions | {"room": ()}, time=room, units=room, tokens=TOKENS)
    return prompting.Plan("avatar", batch, units, "", None, row["id"], pieces=(batch,),
                          seconds=units / UNIT_RATE,
                          parties=file_names(tuple(json.loads(row["speakers"]))))


def _batch(system, values, **sizes: int) -> dict[str, np.ndarray]:
    """A batch of one of the system's conditions: `values` where there are any, else zeros; named
    axes are padded with zeros."""
    out = {}
    for name, spec in system.conditions_spec.items():
        shape = spec.resolve(batch=1, **sizes)
        out[name] = np.zeros(shape.shape, shape.dtype)
        if np.size(values.get(name, ())):
            value = np.asarray(values[name])
            fixed = [(a, b) for a, b, s in zip(value.shape, shape.shape[1:], spec.shape[1:],
                                               strict=True) if isinstance(s, int)]
            if any(a != b for a, b in fixed):
                raise UserError(f"{name} of another size", where=name,
                                expected=str(shape.shape[1:]), found=str(value.shape),
                                hint="use the codecs that the model was trained with")
            out[name][(0, *map(slice, value.shape))] = value
    return out


def _carried(made) -> dict[str, np.ndarray]:
    """What the next piece goes on from: first_motion (1, S, 2, h, w, 4), has_first (1,)."""
    if not len(made.get("latents", ())):
        return {}
    last = made["latents"][-MOTION_FRAMES:]
    last = np.concatenate([last[:1]] * (MOTION_FRAMES - len(last)) + [last])
    return {"first_motion": np.swapaxes(last, 0, 1)[None], "has_first": np.ones(1)}


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
