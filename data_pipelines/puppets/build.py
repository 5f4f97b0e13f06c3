"""Writes the puppets corpus: sentences (OUT) and, when asked for, dialogues of two
(OUT_dialogues).

Splits: train; valid, sentences that nobody says in training; test_speaker, such sentences by a
speaker who is in no other split. Dialogues are written from both sides: "<id>/0" has the first
speaker as self and the second as partner. Everything is a function of the arguments; clip k draws
from a generator of its own (seed, kind, k).
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
from avjax.storage import atomic
from data_pipelines.declared import Option
from data_pipelines.puppets import dialogue, face_code, identities, performance, render, text, voice
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature

DESCRIPTION = ("Puppets: drawn faces with synthetic voices (espeak-ng), every parameter of which "
               "is known. Shows learning and plumbing, never realism.")
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
    dialogues: Annotated[int, Option("dialogues of two in OUT_dialogues", least=0)] = 0,
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
        split). In those of test_speaker one is held out; with several held-out speakers both
        are, and all of them are heard.
      turns: of a dialogue.
      silent: share of the reactions, of those that have words where it is 0.
      processes: that synthesize in parallel; the result does not depend on it.
      parallel: workers (data_pipelines/store/beam.py) that do it instead.

    Returns:
      The sentences' dataset.
    """
    out = pathlib.Path(out)
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
        _write_dialogues(talks, dialogues, (turns, silent), seed, who, known, new, codecs,
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
    """Both sides' clips."""
    seed, clip_id, names, vectors, turns, silent = job
    rng = _rng(seed, clip_id)
    lines = [text.opening(rng), *text.sentences(turns - 1, rng)]
    talk = dialogue.converse(list(zip(names, vectors, strict=True)), lines, rng, silent)
    sides = [{"speaker": c.name, **_streams(c.phonemes, c.words, c.audio, c.identity, rng,
                                            c.reactions)}
             for c in talk.channels]
    return [{"id": f"{clip_id}/{me}", "text": talk.text, "events": json.dumps(talk.events),
             "side": str(me), **sides[me], **{f"partner_{k}": v for k, v in sides[1 - me].items()}}
            for me in (0, 1)]


def _write_dialogues(out, count, shape, seed, who, known, new, codecs, processes, parallel, spoken,
                     progress):
    tenth, work = max(1, count // 10), {}
    for split, number in (("train", count), ("valid", tenth),
                          ("test_speaker", max(tenth, -(-len(new) // 2)))):
        rng = np.random.default_rng([seed, 2, zlib.crc32(split.encode())])
        work[split] = []
        for i in range(number):
            names = [str(n) for n in rng.permutation(known)[:2]]
            if split == "test_speaker" and len(new) == 1:
                names[i % 2] = new[0]
            elif split == "test_speaker":
                names = [new[2 * i % len(new)], new[(2 * i + 1) % len(new)]]
            work[split].append((seed, f"dialogue-{split}-{i:05d}", names, [who[n] for n in names],
                                *shape))

    def examples(split):
        for sides in _map(_dialogue, work[split], processes, parallel,
                          spoken / f"dialogues-{split}"):
            for clip in sides:
                _encode(clip, codecs)
                _encode(clip, codecs, "partner_")
                yield clip

    store.write_dataset(
        out, name="puppets_dialogues", description=DESCRIPTION
        + " Dialogues of two speakers, from either side.", features=_features(("", "partner_")),
        splits={s: examples(s) for s in work}, recipes=_recipes(dialogue=True),
        codecs=codecs, totals={s: 2 * len(w) for s, w in work.items()}, progress=progress)


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
                  "side": Feature((), "str", "which of the events' speakers is self: 0 or 1"),
                  } | columns("", "the speaker's") | columns("partner_", "the partner's")


def _recipes(dialogue: bool = False) -> dict[str, dict]:
    out = {"face": {"kind": "puppet", "articulators": list(face_code.NAMES), "rate": _RATES["face"],
                    "version": 1},
           "phones": dict(espeak.RECIPE),
           "audio": {"kind": "espeak", "sample_rate": espeak.SAMPLE_RATE, "dtype": "int16"},
           "pose": {"kind": "quaternion wxyz, translation", "rate": _RATES["pose"]},
           "pose_z": {"kind": "pose z-scored on the training split", "rate": _RATES["pose"]}}
    return out | {f"partner_{k}": v for k, v in out.items()} if dialogue else out
