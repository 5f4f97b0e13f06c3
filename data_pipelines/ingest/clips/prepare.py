"""A user's own recordings -> the clip dataset OUT/clips, and why some were left out.

Recordings are cut at frame boundaries into equal pieces of at most `max_seconds`; a transcript
stays with a recording in one piece, of which filters cut nothing, since word times of the others
are unknown. Face codes are eigenfaces, fitted for each speaker on the training frames alone.

    OUT/clips              the dataset
    OUT/quarantine.jsonl   unusable recordings, a line each with the reason: unreadable, truncated,
                           no audio, no video, wrong duration, too short, silent, no face, two
                           faces, camera cut, face too small, no speech (with `trim_silence`), or
                           what filters left nothing of
    OUT/summary.json       the options, and a digest of every file, by which a later run knows what
                           has changed

Sound without pictures is unusable, too, unless `audio_only`, which writes clips without faces.

With `landmarks`, clips have points of the face and the head's full rotation; with `filter` besides,
stretches in which the face breaks a rule of media/facial/filters.py are cut out of recordings, and
counted.
"""

import collections
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import sys
import time
from typing import Annotated, Any

from tqdm import tqdm

from avjax.codecs import eigenface
from avjax.encoders import voice_activity
from avjax.errors import UserError
from avjax.storage import atomic, made
from data_pipelines import media
from data_pipelines.declared import Ingest, Option
from data_pipelines.ingest.clips import holdout, summary
from data_pipelines.ingest.clips.write import write_clips
from data_pipelines.ingest.common import given_faces, inputs, recordings
from data_pipelines.ingest.common.recordings import FPS
from data_pipelines.media import faces
from data_pipelines.media import landmarks as media_landmarks
from data_pipelines.media.facial import filters
from data_pipelines.store import dataset as store
from data_pipelines.store import made_from, quarantine

LIMITS = filters.Limits()
DECODED = ".decoded"  # in OUT, until clips are made of it


def prepare(
    source, out, *,
    speaker: Annotated[str | None, Option("only this speaker's recordings")] = None,
    longest_identity: Annotated[bool, Option("only the speaker with most usable material")] = False,
    audio_only: Annotated[bool, Option("accept sound without pictures; clips then have no "
                                       "face")] = False,
    max_seconds: Annotated[float, Option("longest clip", least=1)] = 20.0,
    components: Annotated[int, Option("numbers in a face code", least=1)] = eigenface.COMPONENTS,
    size: Annotated[int, Option("side of a face crop, pixels", least=16)] = eigenface.SIZE,
    trim_silence: Annotated[str | None, Option("cut silence at both ends, found by "
                                               + voice_activity.HELP)] = None,
    landmarks: Annotated[str | None, Option(
        "points of the face, and by them the head's full rotation", media_landmarks.KINDS)] = None,
    filter: Annotated[bool, Option("cut out stretches whose face is turned, hidden, cut off, small "
                                   "or dark, jumps or is not alone; needs --landmarks")] = False,
    max_rotation: Annotated[float, Option("largest yaw, pitch or roll of --filter, degrees",
                                          above=0)] = LIMITS.rotation,
    least_seen: Annotated[float, Option("how certain --filter has to be of a face", least=0,
                                        most=1)] = LIMITS.seen,
    max_jump: Annotated[float, Option("furthest that --filter lets a face move in 1/25 s, sides of "
                                      "the crop", above=0)] = LIMITS.jump,
    max_enlarged: Annotated[float, Option("how much --filter lets crops be enlarged",
                                          above=0)] = LIMITS.enlarged,
    least_light: Annotated[float, Option("darkest face of --filter, mean grey of 255",
                                         least=0)] = LIMITS.light,
    face_embeddings: given_faces.FaceEmbeddings = None,
    parallel=None, progress: bool = True, detect=None,
) -> dict:
    """Makes OUT/clips; returns the summary that it also prints and writes to OUT/summary.json.

    Args:
      source, out: folders. What is complete in `out` is made again only where files of `source` are
        new, changed or gone since; it stays until the new is complete. Decoded recordings survive
        an interruption.
      parallel: workers (data_pipelines/store/beam.py) that decode and check recordings.
      detect: replaces the face detector, see data_pipelines.media.faces.

    Raises:
      UserError: nothing usable, nothing to hold out, or `out` was made with other options or of
        another folder.
    """
    out, given = pathlib.Path(out), given_faces.asked(face_embeddings)
    options = {"speaker": speaker, "longest": longest_identity, "audio_only": audio_only,
               "max_seconds": max_seconds, "components": components, "size": size,
               "landmarks": landmarks, "filter": None, "trim_silence": trim_silence,
               "face_embeddings": given and given.key}
    if trim_silence:
        voice_activity.Detector.parse(trim_silence, where="--trim_silence")
    if landmarks:
        if audio_only:
            raise UserError("landmarks of clips without faces", where="--landmarks",
                            expected="pictures", found="--audio_only",
                            hint="leave one of the two out")
        media_landmarks.finder(landmarks)  # said now if its packages are missing
    limits = filters.Limits(max_rotation, least_seen, max_jump, max_enlarged, least_light)
    if limits != LIMITS and not filter:
        raise UserError("thresholds of a filter that is not asked for", where="--filter",
                        expected="--landmarks and --filter", found=str(limits),
                        hint="add --filter, or leave the thresholds out")
    if filter:
        if not landmarks:
            raise UserError("filters need landmarks", where="--filter",
                            expected=f"--landmarks={' or '.join(media_landmarks.KINDS)}",
                            found="none", hint="add --landmarks, or leave --filter out")
        options["filter"] = dataclasses.asdict(limits)
    inputs.replace(out)
    into, found = out, _finished(out, options) if (out / "clips").exists() else None
    if found:
        _adopt_features(out, found)
        changes, now = _changes(source, out, found, speaker)
        if changes:
            print(f"{inputs.listed(changes)}\ntaken in: made anew beside {out}, and put in its "
                  "place once it is whole", flush=True)
            into = out / inputs.NEXT
            found = _begun(into, options, now)
        else:
            shutil.rmtree(out / inputs.NEXT, ignore_errors=True)  # of changes that were taken back
    if found is None:
        found = _make_clips(source, out, into, options, given, parallel, progress, detect)
    shutil.rmtree(out / DECODED, ignore_errors=True)
    if into != out:
        inputs.replace(out, complete=True)
        if (out / "features").exists():
            print(f"{out / 'features'} is of the former clips: repeat the avjax extract that made "
                  "it to take in the changes", flush=True)
    print(summary.describe(found, out))
    return found


def _adopt_features(out: pathlib.Path, found: dict) -> None:
    """Notes what OUT/features was made from, where an earlier version of avjax prepare made it, so
    that avjax extract can bring it up to date."""
    made_with = (found.get("options") or {}).get("features") or {}
    features = out / "features"
    if made_with.get("tokens") == "units" and features.is_dir() and not made_from.read(features):
        made_from.ask(features, {
            "clips": store.open_dataset(out / "clips").content, "features": "avflow",
            "options": {"tokens": "units", "units": str(made_with["units"])}}, out / "clips")
        made_from.enclose(features, features)


def _finished(out: pathlib.Path, options: dict) -> dict:
    """The summary of what is there. UserError when it was made with other options."""
    store.open_dataset(out / "clips")
    found = inputs.summary_of(out)
    before = found.get("options") or {}
    made.check({name: before.get(name) for name in options}, options,
               what="clips were made with other options", where=out / "clips",
               hint="repeat those, or choose another --out")
    return found


def _begun(into: pathlib.Path, options: dict, now: dict) -> dict | None:
    """The summary of the clips that a killed job has made of just these files; None if there are
    none."""
    if not (into / "clips").exists():
        return None
    found = inputs.summary_of(into)
    same = options.items() <= found["options"].items() and found["checks"] == recordings.CHECKS
    return found if same and not inputs.differences(found["inputs"], now) else None


def _changes(source, out: pathlib.Path, found: dict,
             speaker: str | None) -> tuple[dict[str, list[str]], dict]:
    """What has come, changed or gone since the summary `found`, and the contents now. Raises
    UserError for another folder altogether."""
    before, source = found.get("inputs"), pathlib.Path(source)
    if before is None or not source.is_dir():
        print("not compared with --source: "
              + (f"{source} is not there" if before else "an earlier version made this"),
              file=sys.stderr, flush=True)
        return {}, {}
    read_ns = (out / "summary.json").stat().st_mtime_ns  # see _make_clips
    now = {}
    width = found["options"].get("face_embeddings")
    beside = given_faces.Beside(width) if isinstance(width, int) else None
    for item in recordings.find(source, speaker, faces=beside):
        for path in item.files:
            place = item.place(path)
            known = place in before and before[place] | {"read_ns": read_ns}
            try:
                now[place] = recordings.content(path, known)
            except FileNotFoundError:
                continue  # it goes at this moment
            except PermissionError:
                now |= {place: known} if known else {}  # it is not gone, and cannot be taken in
    then = found["options"].get("source")
    moved = str(source.resolve()) != then
    if not inputs.related(before, now, moved=moved, left=moved and bool(then)
                          and pathlib.Path(then).exists()):
        raise UserError("clips were made from another source", where=str(source),
                        expected=f"the recordings that {then} had", found="none or few of them",
                        hint="choose another --out")
    changes = inputs.differences(before, now)
    if found["quarantine"] and found.get("checks") != recordings.CHECKS:
        changes["tried again, by other libraries or checks"] = sorted(
            p for row in found["quarantine"] for p in row["files"])
    if store.open_dataset(out / "clips").recipes.get("audio") != recordings.AUDIO_RECIPE:
        changes["read again, as this version reads sound"] = sorted(now)
    return changes, now


def changes_of(source, out, speaker: str | None = None) -> str:
    """What `prepare` would name and take in, a line each kind; "" where there is nothing, or
    nothing is prepared yet."""
    out = pathlib.Path(out)
    if not (out / "clips").exists():
        return ""
    return inputs.listed(_changes(source, out, inputs.summary_of(out), speaker)[0])


def _make_clips(source, out: pathlib.Path, into: pathlib.Path, options: dict, given,
                parallel, progress: bool, detect) -> dict:
    """Decodes what `out` does not hold decoded yet, and writes the clips to `into`."""
    options, began = options | {"source": str(pathlib.Path(source).resolve())}, time.time_ns()
    sources = recordings.find(source, options["speaker"], faces=given)
    out.mkdir(parents=True, exist_ok=True)
    cache = out.absolute() / DECODED
    check = functools.partial(_checked, cache, options, detect)
    if parallel is not None:
        parallel.for_each(check, sources)
    good, refused, contents_of = [], [], {}
    bar = tqdm(sources, desc="checking recordings", unit="file", disable=None if progress else True)
    for item in bar:
        found, contents = check(item)
        contents_of |= {place: {k: v for k, v in one.items() if k != "read_ns"}
                        for place, one in contents.items()}
        if isinstance(found, dict):
            refused.append({"id": item.id, "speaker": item.speaker,
                            "files": [item.place(p) for p in item.files], **found})
        else:
            good.append((item, found))
    if into != out:
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
    atomic.write(into / "quarantine.jsonl", "".join(json.dumps(row) + "\n" for row in refused))
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
                        found=", ".join(f"{n} x {reason}" for reason, n in reasons.most_common()),
                        hint=f"see {into / 'quarantine.jsonl'}")
    filtered = {item.id: recordings.filtered(path) for item, path in good}
    pieces = holdout.plan([(item, lengths[item.id]) for item, _ in good], options["max_seconds"],
                          {name: kept for name, (kept, _) in filtered.items() if kept is not None})
    found = summary.summarise(options, good, lengths, pieces, refused, seconds,
                              {name: cut for name, (_, cut) in filtered.items()})
    found |= {"checks": recordings.CHECKS, "inputs": contents_of}
    made.write(into / "summary.json", found)  # before the clips, which are not used without it
    # what was written to since then has to be read again to be compared
    os.utime(into / "summary.json", ns=(began, began))
    write_clips(into / "clips", dict(good), pieces, options, progress)
    return found


def _checked(cache: pathlib.Path, options: dict, detect, item: recordings.Source) -> tuple:
    """(file of a decoded recording, or why it is refused; contents of its files). All are kept in
    `cache`, except refusals for reasons that may be gone the next time."""
    places = recordings.fingerprint({item.place(p): {"sha256": ""} for p in item.files})
    note = cache / f"{places}.contents.json"
    try:
        contents = item.contents(json.loads(note.read_text()) if note.is_file() else None)
    except OSError as error:
        quarantine.check(error, item.files)
        return _why(item, "unreadable", error), {}
    cache.mkdir(parents=True, exist_ok=True)
    atomic.write(note, json.dumps(contents), shared=True)
    seen: dict[str, Any] = {}
    if options["landmarks"]:
        limits = options["filter"] and filters.Limits(**options["filter"])
        seen = {"landmarks": options["landmarks"], "limits": limits}
    trim, given = options["trim_silence"], options["face_embeddings"]
    key = recordings.fingerprint(contents, options["size"], options["audio_only"],
                                 recordings.CHECKS, *([options["landmarks"], options["filter"]]
                                                      if seen else []),
                                 *filter(None, [trim, given]))
    refusal = cache / f"{key}.refused.json"
    if refusal.is_file():
        return json.loads(refusal.read_text()), contents
    try:
        if given:
            given_faces.read(item.face, given_faces.width_of(given), item.files[0])
        return recordings.cached(item, cache, key, size=options["size"], detect=detect,
                                 audio_only=options["audio_only"], trim=trim, **seen), contents
    except Exception as error:
        quarantine.check(error, item.files)
        known = isinstance(error, media.MediaError | faces.FaceError)
        why = _why(item, error.reason if known else "unreadable", error)
        if _changed(item, contents):  # or that it cannot be read, which is not its fault
            return why | {"detail": f"{why['detail']}; it changed while it was read"}, {}
        if known:
            atomic.write(refusal, json.dumps(why), shared=True)
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


DATASET = Ingest(
    prepare, takes_in_changes=True,
    changes_of=lambda stage: changes_of(stage["source"], stage["out"], stage.get("speaker")),
    retired={name: "features are made of the clips: avjax extract --clips=OUT/clips "
                   "--out=OUT/features --tokens=units --units=64"
             for name in ("tokens", "weights", "units")})
