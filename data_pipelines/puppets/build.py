"""Writes the puppets corpus: sentences (OUT) and, when asked for, dialogues of two to four
(OUT_dialogues).

Splits: train; valid, sentences that nobody says in training; test_speaker, such sentences by a
speaker who is in no other split. Dialogues are written from every side: "<id>/0" has the first
speaker as self and the second as partner, of more the third as partner2. Everything is a function
of the arguments; clip k draws from a generator of its own (seed, kind, k).
"""

import collections
import concurrent.futures
import functools
import json
import multiprocessing
import pathlib
import shutil
import zlib
from typing import Annotated

import cv2
import numpy as np
from tqdm import tqdm

from avjax.encoders import espeak
from avjax.errors import UserError
from avjax.storage import atomic
from data_pipelines.declared import Option
from data_pipelines.puppets import dialogue, face_code, identities, performance, render, text, voice
from data_pipelines.store import dataset as store
from data_pipelines.store.columns import PREFIXES
from data_pipelines.store.schema import Feature

DESCRIPTION = ("Puppets: drawn faces with synthetic voices (espeak-ng), every parameter of which "
               "is known. Shows learning and plumbing, never realism.")
_NUMBERS = {2: "two", 3: "three", 4: "four"}
_WHOSE = dict(zip(PREFIXES, ("the speaker's", "the partner's", "another's", "a fourth one's"),
                  strict=True))
_NOMINAL = 3.9  # seconds a sentence, to size the first draw
_RATES = {"audio": espeak.SAMPLE_RATE, "face": performance.FPS, "pose": performance.FPS,
          "pose_z": performance.FPS,
          "phones": espeak.RATE}


def prepare(
    out, *,
    seed: Annotated[int, Option("of everything random, identities included")] = 0,
    minutes: Annotated[float, Option("of training speech", least=0.1)] = 30.0,
    sentences: int | None = None, speakers: int = 9, held_out: int = 1, valid: int = 36,
    test: int = 24,
    dialogues: Annotated[int, Option("dialogues in OUT_dialogues", least=0)] = 0,
    people: Annotated[int, Option("who speak in a dialogue", least=2, most=len(PREFIXES))] = 2,
    turns: int = 8,
    silent: Annotated[float, Option("share of the listeners' reactions in dialogues that are a nod "
                                    "and a smile without a word", least=0, most=1)] = 0.0,
    processes: int = 1, parallel=None, progress: bool = True,
) -> store.Dataset:
    """Makes the corpus.

    Args:
      out: folder of the sentences; dialogues go to `<out>_dialogues`. Neither may exist.
      minutes: of training speech; ignored when `sentences`, their number, is given.
      speakers: in training.
      held_out: more speakers, who are in the split test_speaker only.
      valid, test: sentences of the splits valid and test_speaker.
      dialogues: number of training dialogues (a tenth as many, at least one, are held out in either
        split). In those of test_speaker one is held out; with as many held-out speakers as
        `people`, or more, all who speak are, and all of them are heard.
      turns: of a dialogue.
      silent: share of the reactions, of those that have words where it is 0.
      processes: that synthesize in parallel; the result does not depend on it.
      parallel: workers (data_pipelines/store/beam.py) that do it instead.

    Returns:
      The sentences' dataset.

    Raises:
      UserError: a folder that exists; dialogues of more people than there are, or than take turns.
    """
    out = pathlib.Path(out)
    if dialogues and people > min(speakers, turns):
        raise UserError("too many people in a dialogue", where="--people",
                        expected=f"at most {min(speakers, turns)}, of {speakers} speakers in "
                        f"{turns} turns", found=str(people), hint="raise --speakers or --turns")
    talks = out.with_name(out.name + "_dialogues")
    for folder in (out, talks) if dialogues else (out,):
        store.refuse_existing(folder)
    who = identities.identities(speakers, seed, held_out)
    new = identities.held_out_names(held_out)
    known = [n for n in who if n not in new]
    rng = np.random.default_rng([seed, 1])
    count = sentences or int(minutes * 60 / _NOMINAL * 1.4) + 1
    lines = text.sentences(valid + test + count, rng)
    jobs = {"valid": [(known[i % len(known)], line) for i, line in enumerate(lines[:valid])],
            "test_speaker": [(new[i % len(new)], line) for i,
                             line in enumerate(lines[valid:valid + test])],
            "train": [(known[i % len(known)], line) for i, line in enumerate(lines[valid + test:])]}
    clips, spoken = {}, out.absolute().with_name(f".{out.name}.spoken")
    for split in ("train", "valid", "test_speaker"):
        enough = minutes * 60 if split == "train" and not sentences else None
        bar = tqdm(total=int(enough) if enough else None, desc=f"puppets/{split}", unit="s",
                   leave=False,
                   disable=None if progress else True,
                   bar_format="{desc} {bar} {n:.0f}/{total} s {elapsed}" if enough else None)
        work = [(seed, f"{split}-{i:05d}", name, who[name], line) for i,
                (name, line) in enumerate(jobs[split])]
        clips[split] = []
        with bar:
            for clip in _map(_sentence, work, processes, parallel, spoken / split):
                clips[split].append(clip)
                bar.update(len(clip["audio"]) / espeak.SAMPLE_RATE)
                if enough and sum(len(c["audio"])
                                  for c in clips[split]) >= enough * espeak.SAMPLE_RATE:
                    break
    codecs = _fit(clips["train"], who, seed)
    for split in clips.values():
        for clip in split:
            _encode(clip, codecs)
    if dialogues:  # first, so that OUT is there only when everything is
        _write_dialogues(talks, dialogues, people, (turns, silent), seed, who, known, new, codecs,
                         processes, parallel, spoken, progress)
    shutil.rmtree(spoken, ignore_errors=True)
    return store.write_dataset(
        out, name="puppets", description=DESCRIPTION, features=_features(()), splits=clips,
        recipes=_recipes(), codecs=codecs, totals={k: len(v) for k, v in clips.items()},
        progress=progress)


def _map(function, work, processes, parallel, folder):
    """In order, in this process or in several; by `parallel` workers through files in a folder."""
    if parallel is not None:
        folder.mkdir(parents=True, exist_ok=True)
        parallel.for_each(functools.partial(_keep, function, str(folder)), list(enumerate(work)))
        yield from (_kept(folder / f"{i}.npz") for i in range(len(work)))
        return
    if processes <= 1:
        yield from map(function, work)
        return
    context = multiprocessing.get_context("spawn")  # fork and threaded libraries do not mix
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        # in slices, so that stopping early wastes little
        for start in range(0, len(work), 64 * processes):
            yield from pool.map(function, work[start:start + 64 * processes], chunksize=8)


def _keep(function, folder: str, job: tuple) -> None:
    """Writes what the function makes of a piece of work, one clip or several, to a file of its
    number."""
    number, work = job
    made = function(work)
    rows = made if isinstance(made, list) else [made]
    with atomic.file(pathlib.Path(folder) / f"{number}.npz", shared=True) as temporary:
        np.savez(temporary, several=isinstance(made, list),
                 **{f"{k}/{n}": x for k, row in enumerate(rows) for n, x in row.items()})


def _kept(path: pathlib.Path) -> dict | list[dict]:
    rows = collections.defaultdict(dict)
    with np.load(path, allow_pickle=False) as arrays:
        several = bool(arrays["several"])
        for key in arrays.files[1:]:
            k, _, name = key.partition("/")
            rows[int(k)][name] = str(arrays[key]) if arrays[key].dtype.kind == "U" else arrays[key]
    return [rows[k] for k in sorted(rows)] if several else rows[0]


def _rng(seed: int, clip_id: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(clip_id.encode())])


def _streams(phonemes, words, audio, identity, rng, reactions=()) -> dict:
    duration = len(audio) / espeak.SAMPLE_RATE
    articulators, pose = performance.perform(phonemes, duration, identity, rng, reactions)
    return {"audio": audio, "articulators": articulators, "pose": pose,
            "phones": espeak.phone_features(phonemes, int(np.ceil(duration * espeak.RATE))),
            "words": _json(words), "phonemes": _json(phonemes), "identity": identity}


def _json(spans) -> str:
    return json.dumps([[s, round(a, 5), round(b, 5)] for s, a, b in spans], ensure_ascii=False)


def _sentence(job) -> dict:
    seed, clip_id, name, identity, line = job
    spoken = voice.speak(line, identity)
    streams = _streams(spoken.phonemes, spoken.words, spoken.audio, identity, _rng(seed, clip_id))
    return {"id": f"{name}-{clip_id}", "speaker": name, "text": line, **streams}


def _dialogue(job) -> list[dict]:
    """The clips of all sides."""
    seed, clip_id, names, vectors, turns, silent = job
    rng = _rng(seed, clip_id)
    lines = [text.opening(rng), *text.sentences(turns - 1, rng)]
    talk = dialogue.converse(list(zip(names, vectors, strict=True)), lines, rng, silent)
    sides = [{"speaker": c.name, **_streams(c.phonemes, c.words, c.audio, c.identity, rng,
                                            c.reactions)}
             for c in talk.channels]
    about = {"text": talk.text, "events": json.dumps(talk.events)}
    return [{"id": f"{clip_id}/{me}", **about, "side": str(me), **_seen_from(me, sides)}
            for me in range(len(sides))]


def _seen_from(me: int, sides: list[dict]) -> dict:
    """The columns of a speaker, and those of the others in their order."""
    ordered = [sides[me], *sides[:me], *sides[me + 1:]]
    return {prefix + name: value for prefix, side in zip(PREFIXES, ordered, strict=False)
            for name, value in side.items()}


def _write_dialogues(out, count, people, shape, seed, who, known, new, codecs, processes, parallel,
                     spoken, progress):
    tenth, work = max(1, count // 10), {}
    for split, number in (("train", count), ("valid", tenth),
                          ("test_speaker", max(tenth, -(-len(new) // people)))):
        rng = np.random.default_rng([seed, 2, zlib.crc32(split.encode())])
        work[split] = []
        for i in range(number):
            names = [str(n) for n in rng.permutation(known)[:people]]
            if split == "test_speaker":
                for k in range(min(people, len(new))):
                    place = k if people <= len(new) else (i + k) % people
                    names[place] = new[(people * i + k) % len(new)]
            work[split].append((seed, f"dialogue-{split}-{i:05d}", names, [who[n] for n in names],
                                *shape))

    prefixes = PREFIXES[:people]

    def examples(split):
        for sides in _map(_dialogue, work[split], processes, parallel,
                          spoken / f"dialogues-{split}"):
            for clip in sides:
                for prefix in prefixes:
                    _encode(clip, codecs, prefix)
                yield clip

    store.write_dataset(
        out, name="puppets_dialogues", description=DESCRIPTION
        + f" Dialogues of {_NUMBERS[people]} speakers, from {'either' if people == 2 else 'every'}"
        " side.", features=_features(prefixes),
        splits={s: examples(s) for s in work}, recipes=_recipes(prefixes),
        codecs=codecs, totals={s: people * len(w) for s, w in work.items()}, progress=progress)


def _fit(train, who, seed) -> dict[str, dict[str, np.ndarray]]:
    """Codecs "face" and "pose" on the training clips, and PNG portraits of everyone."""
    poses = np.concatenate([c["pose"] for c in train]).astype(np.float64)
    portraits = {n: cv2.imencode(".png", render.portrait(v)[:, :, ::-1])[1] for n, v in who.items()}
    return {"face":
            face_code.fit(np.concatenate([c["articulators"] for c in train]).astype(np.float64),
                          seed),
            "pose": {"mean": poses.mean(0).astype(np.float32),
                     "std": np.maximum(poses.std(0), 1e-6).astype(np.float32)},
            "portraits": portraits}


def _encode(clip, codecs, prefix="") -> None:
    """articulators -> face, pose -> pose_z; in place."""
    pose = codecs["pose"]
    clip[prefix + "face"] = face_code.encode(clip.pop(prefix + "articulators"), codecs["face"])
    clip[prefix
         + "pose_z"] = ((clip[prefix + "pose"] - pose["mean"]) / pose["std"]).astype(np.float32)


def _features(prefixes) -> dict[str, Feature]:
    def columns(prefix, whose):
        return {
            f"{prefix}speaker": Feature((), "str", f"{whose} name"),
            f"{prefix}words": Feature((), "str", f"{whose} words: JSON [[word, start, end], ...]",
                                      "s"),
            f"{prefix}phonemes": Feature((), "str", f"{whose} phonemes: JSON [[IPA with stress, "
                                         "start, end], ...]", "s"),
            f"{prefix}identity": Feature((identities.WIDTH,), "float32",
                                         f"{whose} identity: decides face and voice"),
            f"{prefix}audio": Feature((None,), "int16", f"{whose} speech", "1/32768",
                                      _RATES["audio"]),
            f"{prefix}face": Feature((None, face_code.WIDTH), "float32",
                                     f"{whose} face code: orthonormal mix of "
                                     "z-scored articulators", "standard deviations",
                                     _RATES["face"]),
            f"{prefix}pose": Feature((None, 7), "float32", f"{whose} head: quaternion wxyz, "
                                                           "translation (x right, "
                                     "y down, z near)", "head heights", _RATES["pose"]),
            f"{prefix}pose_z": Feature((None, 7), "float32", f"{whose} head pose, z-scored with "
                                                             "training statistics",
                                       "standard deviations", _RATES["pose"]),
            f"{prefix}phones": Feature((None, espeak.WIDTH), "float32", f"{whose} phoneme features",
                                       "",
                                       _RATES["phones"]),
        }

    out = {"id": Feature((), "str", "unique name"), "text": Feature((), "str", "what is said")}
    if not prefixes:
        return out | columns("", "the speaker's")
    return out | {"events": Feature((), "str", "JSON list of turns, backchannels, overlaps, gaps, "
                                    "pauses", "s"),
                  "side": Feature((), "str", "which of the events' speakers is self: 0 or 1"
                                  + ", ..." * (len(prefixes) > 2)),
                  } | {name: feature for prefix in prefixes
                       for name, feature in columns(prefix, _WHOSE[prefix]).items()}


def _recipes(prefixes=("",)) -> dict[str, dict]:
    out = {"face": {"kind": "puppet", "articulators": list(face_code.NAMES), "rate": _RATES["face"],
                    "version": 1},
           "phones": dict(espeak.RECIPE),
           "audio": {"kind": "espeak", "sample_rate": espeak.SAMPLE_RATE, "dtype": "int16"},
           "pose": {"kind": "quaternion wxyz, translation", "rate": _RATES["pose"]},
           "pose_z": {"kind": "pose z-scored on the training split", "rate": _RATES["pose"]}}
    return {f"{prefix}{k}": v for prefix in prefixes for k, v in out.items()}
