"""A user's own recordings -> OUT/clips and OUT/features (what to train on), and a table of what was
refused and why.

Held out (split "valid"): of a speaker with five recordings or more, the last tenth of the
recordings, by name; otherwise the end (15 %, at least 1.5 s) of every recording of 5 s or more,
half a second after what is trained on. Recordings are cut at frame boundaries into equal pieces of
at most `max_seconds`; a transcript stays with a recording that is in one piece, since nobody knows
where the others' words are.

Face codes are eigenfaces, fitted for each speaker on the training frames alone. Refused recordings
go to OUT/quarantine.jsonl, one line each: unreadable, truncated, no audio, no video, wrong
duration, too short, silent, no face, two faces, camera cut, face too small. Sound without pictures
is refused too unless `audio_only`, which writes clips without faces (and no features: AV-Flow needs
a face).
"""

import collections
import functools
import hashlib
import itertools
import json
import math
import os
import pathlib
import shutil
import sys
import time

import numpy as np
from tqdm import tqdm

from avjax.codecs import eigenface
from avjax.errors import UserError
from avjax.storage import failures
from data_pipelines import extract, media
from data_pipelines.ingest.common import inputs, recordings
from data_pipelines.media import faces
from data_pipelines.store import dataset as store
from data_pipelines.store import quarantine
from data_pipelines.store.schema import Feature, arrays_hash

FPS = recordings.FPS
TAKES_IN_CHANGES = True  # see launch.prepare
DECODED = ".decoded"  # in OUT, until clips are made of it
GAP = 0.5  # seconds between what is trained on and what is held out
FIT_FRAMES = 1200  # face crops that a codec is fitted on, spread evenly
_NO_FACE_COLUMNS = ("face", "pose", "pose_z")


def prepare(source, out, *, speaker: str | None = None, longest_identity: bool = False,
            audio_only: bool = False, tokens: str = "units", weights: str | None = None,
            units: int = 64, max_seconds: float = 20.0, components: int = eigenface.COMPONENTS,
            size: int = eigenface.SIZE, parallel=None, progress: bool = True,
            detect=None) -> dict:
    """Makes OUT/clips and OUT/features; returns the summary that it also prints and writes to
    OUT/summary.json.

    Args:
      source, out: folders. What is whole in `out` is made again only where files of `source` are
        new, changed or gone since; it stays until that is whole. Decoded recordings survive an
        interruption.
      speaker: only this one. longest_identity: only the one with most usable seconds.
      tokens, weights, units: as in data_pipelines.extract.
      max_seconds: longest clip. components, size: of the eigenface codec.
      parallel: workers (data_pipelines/store/beam.py) that decode and check recordings.
      detect: replaces the face detector, see data_pipelines.media.faces.

    Raises:
      UserError: nothing usable, nothing to hold out, or `out` was made with other options or of
        another folder.
    """
    if tokens not in ("units", "wav2vec2"):
        raise UserError("unknown tokens for a user's clips", where="--tokens",
                        expected="units or wav2vec2",
                        found=tokens)
    out = pathlib.Path(out)
    options = {"speaker": speaker, "longest": longest_identity, "audio_only": audio_only,
               "max_seconds": max_seconds, "components": components, "size": size,
               "features": None if audio_only else {
                   "tokens": tokens, "units": units, "weights": _digest(weights) if tokens
                   == "wav2vec2" else None}}
    inputs.replace(out)
    into, summary = out, _finished(out, options) if (out / "clips").exists() else None
    if summary:
        changes, now = _changes(source, out, summary, speaker)
        if changes:
            print(f"{inputs.told(changes)}\ntaken in: made anew beside {out}, and put in its place "
                  "once it is whole", flush=True)
            into = out / inputs.NEXT
            summary = _begun(into, options, now)
        else:
            shutil.rmtree(out / inputs.NEXT, ignore_errors=True)  # of changes that were taken back
    if summary is None:
        summary = _make_clips(source, out, into, options, parallel, progress, detect)
    shutil.rmtree(out / DECODED, ignore_errors=True)
    if not audio_only and not (into / "features").exists():
        extract.extract(into / "clips", into / "features", tokens=tokens, head="linear",
                        weights=weights, units=units,
                        progress=progress)
    if into != out:
        inputs.replace(out, made=True)
    print(describe(summary, out))
    return summary


def _finished(out: pathlib.Path, options: dict) -> dict:
    """The summary of what is there. UserError when it was made with other options."""
    store.open_dataset(out / "clips")
    summary = inputs.summary_of(out)
    # older ones do not tell
    made = {"features": options["features"]} | (summary.get("options") or {})
    differ = [k for k in options if options[k] != made.get(k)]
    if differ:
        what = "features" if differ == ["features"] else "clips"
        raise UserError(f"{what} were made with other options", where=str(out / what),
                        expected=", ".join(f"{k}={made.get(k)!r}" for k in differ),
                        found=", ".join(f"{k}={options[k]!r}" for k in differ),
                        hint="repeat those, or choose another --out"
                        + (f" for launch.extract --clips={out / 'clips'}" if what == "features"
                           else ""))
    return summary


def _begun(into: pathlib.Path, options: dict, inputs: dict) -> dict | None:
    """The summary of clips that a killed job has made of just these; None where it has not."""
    if not (into / "clips").exists():
        return None
    summary = inputs.summary_of(into)
    same = options.items() <= summary["options"].items() and summary["checks"] == recordings.CHECKS
    return summary if same and not inputs.differences(summary["inputs"], inputs) else None


def _changes(source, out: pathlib.Path, summary: dict,
             speaker: str | None) -> tuple[dict[str, list[str]], dict]:
    """What has come, changed or gone among the recordings that a summary tells of, and the contents
    now. UserError: another folder altogether."""
    before, source = summary.get("inputs"), pathlib.Path(source)
    if before is None or not source.is_dir():
        print("not compared with --source: "
              + (f"{source} is not there" if before else "an earlier version made this"),
              file=sys.stderr, flush=True)
        return {}, {}
    read_ns = (out / "summary.json").stat().st_mtime_ns  # see _make_clips
    now = {}
    for item in recordings.find(source, speaker):
        for path in item.files:
            place = item.place(path)
            known = place in before and before[place] | {"read_ns": read_ns}
            try:
                now[place] = recordings.content(path, known)
            except FileNotFoundError:
                continue  # it goes at this moment
            except PermissionError:
                now |= {place: known} if known else {}  # it is not gone, and cannot be taken in
    then = summary["options"].get("source")
    moved = str(source.resolve()) != then
    if not inputs.related(before, now, moved=moved, left=moved and bool(then)
                          and pathlib.Path(then).exists()):
        raise UserError("clips were made from another source", where=str(source),
                        expected=f"the recordings that {then} had", found="none or few of them",
                        hint="choose another --out")
    changes = inputs.differences(before, now)
    if summary["quarantine"] and summary.get("checks") != recordings.CHECKS:
        changes["tried again, by other libraries or checks"] = sorted(p
                                                                      for row in summary[
                                                                          "quarantine"]
                                                                      for p in row["files"])
    if store.open_dataset(out / "clips").recipes.get("audio") != recordings.AUDIO_RECIPE:
        changes["read again, as this version reads sound"] = sorted(now)
    return changes, now


def changes_of(source, out, speaker: str | None = None) -> str:
    """What `prepare` would name and take in, a line each kind; "" where there is nothing, or
    nothing is prepared yet."""
    out = pathlib.Path(out)
    if not (out / "clips").exists():
        return ""
    return inputs.told(_changes(source, out, inputs.summary_of(out), speaker)[0])


def _digest(weights) -> str | None:
    """Of weights, wherever they lie; None where there are none."""
    from data_pipelines.features.avflow import extract as avflow

    return avflow.file_hash(weights) if weights and pathlib.Path(weights).exists() else None


def _make_clips(source, out: pathlib.Path, into: pathlib.Path, options: dict, parallel,
                progress: bool, detect) -> dict:
    """Decodes what `out` does not hold decoded yet, and writes the clips to `into`."""
    options, began = options | {"source": str(pathlib.Path(source).resolve())}, time.time_ns()
    sources = recordings.find(source, options["speaker"])
    out.mkdir(parents=True, exist_ok=True)
    cache = out.absolute() / DECODED
    check = functools.partial(_checked, cache, options["size"], options["audio_only"], detect)
    if parallel is not None:
        parallel.for_each(check, sources)
    good, refused, inputs = [], [], {}
    bar = tqdm(sources, desc="checking recordings", unit="file", disable=None if progress else True)
    for item in bar:
        found, contents = check(item)
        inputs |= {place: {k: v for k, v in one.items() if k != "read_ns"} for place,
                   one in contents.items()}
        if isinstance(found, dict):
            refused.append({"id": item.id, "speaker": item.speaker,
                            "files": [item.place(p) for p in item.files], **found})
        else:
            good.append((item, found))
    if into != out:
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
    failures.write_text(into / "quarantine.jsonl",
                        "".join(json.dumps(row) + "\n" for row in refused))
    lengths = {item.id: recordings.length(path) for item, path in good}
    seconds = collections.Counter()
    for item, _ in good:
        seconds[item.speaker] += lengths[item.id] / FPS
    if options["longest"] and seconds:
        best = max(sorted(seconds), key=seconds.get)
        good = [(item, path) for item, path in good if item.speaker == best]
    if not good:
        reasons = collections.Counter(row["reason"] for row in refused)
        raise UserError("no usable recording", where=str(source), expected="at least one",
                        found=", ".join(
            f"{n} x {reason}" for reason, n in reasons.most_common()),
                        hint=f"see {into / 'quarantine.jsonl'}")
    pieces = plan([(item, lengths[item.id]) for item, _ in good], options["max_seconds"])
    summary = _summary(options, good, lengths, pieces, refused,
                       seconds) | {"checks": recordings.CHECKS, "inputs": inputs}
    # before: clips without it are not taken up
    failures.write_text(into / "summary.json", json.dumps(summary, indent=1))
    # what was written to since then has to be read again to be compared
    os.utime(into / "summary.json", ns=(began, began))
    _write_clips(into / "clips", dict(good), pieces, options, progress)
    return summary


def _checked(cache: pathlib.Path, size: int, audio_only: bool, detect,
             item: recordings.Source) -> tuple:
    """(the file of a decoded recording, or why it is refused; its files' contents). All are kept in
    `cache`, except what may
    be otherwise the next time: whatever a library made of a file that nobody knows the reason
    of."""
    note = (cache
            / f"{recordings.fingerprint({p: {'sha256': ''} for p in map(item.place, item.files)})}.contents.json")
    try:
        contents = item.contents(json.loads(note.read_text()) if note.is_file() else None)
    except OSError as error:
        quarantine.check(error, item.files)
        return _why(item, "unreadable", error), {}
    cache.mkdir(parents=True, exist_ok=True)
    failures.write_text(note, json.dumps(contents))
    key = recordings.fingerprint(contents, size, audio_only, recordings.CHECKS)
    refusal = cache / f"{key}.refused.json"
    if refusal.is_file():
        return json.loads(refusal.read_text()), contents
    try:
        return recordings.cached(item, cache, key, size=size, audio_only=audio_only,
                                 detect=detect), contents
    except Exception as error:
        quarantine.check(error, item.files)
        known = isinstance(error, media.MediaError | faces.FaceError)
        why = _why(item, error.reason if known else "unreadable", error)
        if _changed(item, contents):  # or that it cannot be read, which is not its fault
            return why | {"detail": f"{why['detail']}; it changed while it was read"}, {}
        if known:
            failures.write_text(refusal, json.dumps(why))
        return why, contents


def _changed(item: recordings.Source, contents: dict) -> bool:
    try:
        return recordings.fingerprint(item.contents()) != recordings.fingerprint(contents)
    except OSError as error:
        quarantine.check(error, item.files)
        return True


def _why(item: recordings.Source, reason: str, error: Exception) -> dict[str, str]:
    """A refusal; files are named from the source on, wherever that is the next time."""
    if not isinstance(error, media.MediaError | faces.FaceError):
        error = media.MediaError(reason, item.files[0], found=quarantine.said(error),
                                 hint="convert or remove it")
    return {"reason": reason,
            "detail": recordings.printable(str(error).replace(f"{item.root}{os.sep}", ""))}


def plan(lengths: list[tuple[recordings.Source, int]],
         max_seconds: float) -> dict[str, list[tuple]]:
    """(source, frames) of all recordings -> {split: [(source, first frame, last frame + 1)]}, in
    order of id.

    Raises UserError when nothing can be held out.
    """
    by_speaker = collections.defaultdict(list)
    for item, frames in sorted(lengths, key=lambda pair: pair[0].id):
        by_speaker[item.speaker].append((item, frames))
    splits = {"train": [], "valid": []}
    for mine in by_speaker.values():
        whole = math.ceil(len(mine) / 10) if len(mine) >= 5 else 0
        for index, (item, frames) in enumerate(mine):
            if whole:
                split = "valid" if index >= len(mine) - whole else "train"
                splits[split] += _cut(item, 0, frames, max_seconds)
            elif frames >= 5 * FPS:
                held = max(round(1.5 * FPS), round(0.15 * frames))
                splits["train"] += _cut(item, 0, frames - held - round(GAP * FPS), max_seconds)
                splits["valid"] += _cut(item, frames - held, frames, max_seconds)
            else:
                splits["train"] += _cut(item, 0, frames, max_seconds)
    if not splits["valid"]:
        raise UserError("nothing to hold out", where="the accepted recordings",
                        expected="one of 5 s or more, or "
                        "five of one speaker", found=f"{len(lengths)} shorter ones",
                        hint="add longer recordings")
    return splits


def _cut(item, first: int, last: int, max_seconds: float) -> list[tuple]:
    parts = math.ceil((last - first) / (max_seconds * FPS))
    edges = np.linspace(first, last, parts + 1).round().astype(int).tolist()
    return [(item, a, b) for a, b in zip(edges, edges[1:], strict=False)]


def _recorded(paths: dict, part: list[tuple]):
    """(source, its recording, first frame, last + 1) of every piece; a recording in several pieces
    is read once."""
    for item, mine in itertools.groupby(part, key=lambda piece: piece[0]):
        recording = recordings.load(paths[item])
        for _, a, b in mine:
            yield item, recording, a, b


def _write_clips(out: pathlib.Path, paths: dict, pieces: dict, options: dict,
                 progress: bool) -> None:
    with_face = not options["audio_only"]
    codecs, faces_of = (_fit(paths, pieces, options) if with_face else ({}, {}))
    poses = [recording.pose[a:b] for _, recording, a,
             b in _recorded(paths, pieces["train"])] if with_face else []
    pose_codec = None
    if with_face:
        stacked = np.concatenate(poses).astype(np.float64)
        spread = stacked.std(0)
        # x and y of the quaternion never vary: leave them be
        pose_codec = {"mean": stacked.mean(0).astype(np.float32),
                      "std": np.where(spread < 1e-6, 1.0, spread).astype(np.float32)}
    counts = collections.Counter(item.id for part in pieces.values() for item, _, _ in part)

    def examples(split):
        for item, recording, a, b in _recorded(paths, pieces[split]):
            in_one_piece = counts[item.id] == 1
            row = {"id": f"{item.id}-{a:06d}", "speaker": item.speaker, "words": "[]",
                   "phonemes": "[]", "text": recordings.text_of(item) if in_one_piece else "",
                   "identity": identity_of(item.speaker),
                   "audio": recording.audio[a * recordings.SAMPLES : b * recordings.SAMPLES]}
            if with_face:
                pose = recording.pose[a:b]
                row |= {"face": faces_of[item.speaker].encode(recording.crops[a:b]), "pose": pose,
                        "pose_z": (pose - pose_codec["mean"]) / pose_codec["std"]}
            yield row

    recipes = {"audio": recordings.AUDIO_RECIPE}
    if with_face:
        recipes |= {"face": {**eigenface.recipe(options["size"], options["components"]),
                             "codec": arrays_hash(codecs),
                             "margin": faces.MARGIN},
                    "pose": faces.RECIPE,
                    "pose_z": {**faces.RECIPE, "codec": arrays_hash(pose_codec)}}
    store.write_dataset(
        out, name="clips", description="A user's own recordings, made by launch.prepare "
                                       "--dataset=clips.",
        features={k: f for k, f in columns(options["components"]).items() if with_face
                  or k not in _NO_FACE_COLUMNS},
        splits={split: examples(split) for split in pieces}, recipes=recipes,
        codecs={"face": codecs, "pose": pose_codec} if with_face else None,
        totals={split: len(part) for split, part in pieces.items()}, progress=progress)


def _fit(paths: dict, pieces: dict, options: dict) -> tuple[dict, dict]:
    """One codec a speaker, on frames spread evenly over the training pieces: (stored arrays,
    {speaker: codec})."""
    fitted = {}
    for speaker in sorted({item.speaker for item, _, _ in pieces["train"] + pieces["valid"]}):
        mine = [(item, a, b) for item, a, b in pieces["train"] if item.speaker == speaker]
        step = max(1, math.ceil(sum(b - a for _, a, b in mine) / FIT_FRAMES))
        # a view keeps all
        crops = [recording.crops[a:b:step].copy() for _, recording, a, b in _recorded(paths, mine)]
        fitted[speaker] = eigenface.fit(np.concatenate(crops), options["components"])
    return eigenface.pack(fitted), fitted


def columns(components: int) -> dict[str, Feature]:
    """The columns of a clip dataset with faces."""
    return {
        "id": Feature((), "str", "unique name: recording and first frame"),
        "speaker": Feature((), "str", "folder or file that the recording came from"),
        "text": Feature((), "str", "transcript, where one was given and the recording is in one "
                        "piece"),
        "words": Feature((), "str", "JSON [[word, start, end], ...]", "s"),
        "phonemes": Feature((), "str", "JSON [[phoneme, start, end], ...]", "s"),
        "identity": Feature((8,), "float32", "unit vector derived from the speaker's name"),
        "audio": Feature((None,), "int16", "mono waveform", "1/32768", recordings.RATE),
        "face": Feature((None, components), "float32", "z-scored eigenface codes of the speaker's "
                                                       "own codec", "", FPS),
        "pose": Feature((None, 7), "float32", "head: quaternion wxyz (roll only), x right, y up, z "
                                              "away",
                        "face widths", FPS),
        "pose_z": Feature((None, 7), "float32", "pose, z-scored over the training clips", "", FPS),
    }


def identity_of(speaker: str) -> np.ndarray:
    """A fixed unit vector a name, (8,) float32: tells speakers apart and means nothing else."""
    name = speaker.encode()
    # names may differ at their end alone
    name = name if len(name) <= 64 else hashlib.sha256(name).digest()
    seed = int.from_bytes(name.ljust(8, b"\0"), "little")
    vector = np.random.default_rng(seed).standard_normal(8)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _summary(options, good, lengths, pieces, refused, seconds) -> dict:
    rows = {}
    for speaker in sorted({item.speaker for item, _ in good}):
        rows[speaker] = {"recordings": sum(item.speaker == speaker for item, _ in good),
                         "seconds": round(sum(lengths[i.id] for i, _ in good if i.speaker
                                              == speaker) / FPS, 2)}
        for split, part in pieces.items():
            rows[speaker][split] = round(sum(b - a for i, a, b in part if i.speaker
                                             == speaker) / FPS, 2)
    reasons = dict(collections.Counter(row["reason"] for row in refused).most_common())
    return {"options": options, "speakers": rows, "refused": reasons, "quarantine": refused,
            "longest": max(sorted(seconds), key=seconds.get)}


def describe(summary: dict, out) -> str:
    """The summary as a table."""
    width = max([7, *map(len, summary["speakers"])])
    lines = [f"{'speaker':{width}}  recordings  seconds    train    valid"]
    for name, row in summary["speakers"].items():
        times = "  ".join(f"{row[key]:7.1f}" for key in ("seconds", "train", "valid"))
        lines.append(f"{name:{width}}  {row['recordings']:10d}  {times}")
    if summary["quarantine"]:
        lines += ["", "refused (quarantine.jsonl):"]
        lines += [f"  {row['id']}: {row['detail']}" for row in summary["quarantine"]]
    lines += ["", f"written: {out}"]
    if len(summary["speakers"]) > 1:
        lines += [f"most material: {summary['longest']}. One model speaks for one identity: to "
                  "train on it, prepare "
                  f"into another --out with --speaker={summary['longest']} (or --longest_identity)"]
    return "\n".join(lines)
