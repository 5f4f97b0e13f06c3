"""Conversations of a user's own -> clips of two to four speakers, a folder a conversation.

find.py says how files are laid out, clocks.py how they get on one clock, said.py what becomes of
transcripts, checks.py what is looked for, cut.py what is held out, write.py what a clip has. All
conversations of a dataset have as many speakers. What cannot be used is left out with its reason:

    OUT                      the dataset
    OUT.quarantine.jsonl     a line for every conversation that cannot be used
    OUT.conversations.jsonl  a line for every other: speakers, seconds, offsets, bleed, what was
                             mended

A killed job goes on with what it has decoded (.OUT.decoded, until the dataset is whole).
"""

import collections
import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from tqdm import tqdm

from avjax.codecs import eigenface
from avjax.encoders import voice_activity
from avjax.errors import UserError
from avjax.storage import atomic
from data_pipelines import media
from data_pipelines.declared import Ingest, MaxBad, Option
from data_pipelines.ingest.common import corpus, given_faces, recordings
from data_pipelines.ingest.conversations import cut, read
from data_pipelines.ingest.conversations.find import MOST, Conversation, find
from data_pipelines.ingest.conversations.write import Writer
from data_pipelines.media import landmarks as media_landmarks
from data_pipelines.media import transcripts
from data_pipelines.store import dataset as store
from data_pipelines.store import made_from, quarantine
from data_pipelines.store.resume import Partial, clean
from data_pipelines.store.schema import SCHEMA_FILE

# other versions may accept what these refuse
CHECKS = recordings.CHECKS | {"conversations": 2}
DESCRIPTION = ("A user's own conversations, made by avjax prepare --dataset=conversations. A clip "
               "a speaker's side.")


def prepare(
    source, out, *,
    speakers: Annotated[int, Option("of every conversation, 2 to 4; conversations of another "
                                    "number are left out; 0: as many as most have", least=0,
                                    most=MOST)] = 0,
    audio_only: Annotated[bool, Option("accept sound without pictures; clips then have no "
                                       "face")] = False,
    max_seconds: Annotated[float, Option("longest clip", least=1)] = 60.0,
    components: Annotated[int, Option("numbers in a face code", least=1)] = eigenface.COMPONENTS,
    size: Annotated[int, Option("side of a face crop, pixels", least=16)] = eigenface.SIZE,
    activity: Annotated[str, Option("where speakers speak, for transcripts without times: "
                                    + voice_activity.HELP)] = "energy",
    landmarks: Annotated[str | None, Option(
        "points of the faces, and by them the heads' full rotations", media_landmarks.KINDS)
        ] = None,
    face_embeddings: given_faces.FaceEmbeddings = None,
    max_bad: MaxBad = 0.5, parallel=None, progress: bool = True, detect=None,
) -> dict:
    """Makes the dataset OUT; returns the counts that it prints.

    Args:
      source: folder of conversations (find.py). Where it has no video at all, sound is enough.
      out: folder to make; what another run has made of the same files and options stays.
      parallel: workers (data_pipelines/store/beam.py) that decode and check conversations.
      detect: replaces the face detector, see data_pipelines.media.faces.

    Raises:
      UserError: nothing usable, too much unusable, nothing to hold out, `out` made of other files.
    """
    out = pathlib.Path(out).absolute()
    if pathlib.Path(source).resolve() in out.resolve().parents[1:]:
        raise UserError("the clips would be among a conversation's files", where="--out",
                        expected="a folder outside --source, or directly in it", found=str(out),
                        hint="choose another --out")
    if speakers == 1:
        raise UserError("a conversation has two speakers at least", where="--speakers",
                        expected=f"2 to {MOST}, or 0", found="1", hint="one speaker's recordings: "
                        "--dataset=clips")
    options = {"speakers": speakers, "audio_only": audio_only, "max_seconds": max_seconds,
               "components": components, "size": size, "activity": activity}
    if landmarks:
        media_landmarks.finder(landmarks)  # said now if its packages are missing
        options["landmarks"] = landmarks
    if given := given_faces.asked(face_embeddings):
        options["face_embeddings"] = given.key
    voice_activity.Detector.parse(activity)
    conversations, told = _listed(source, audio_only, given)
    contents = _contents(conversations)
    asked = {"listing": _digest(contents), "options": options}
    if out.exists():
        clean(out)
        if not made_from.same(made_from.read(out), asked):
            store.refuse_existing(out)
        return corpus.told(out, told)
    cache = out.with_name(f".{out.name}.decoded")
    check = functools.partial(_checked, cache, contents, size, "sound alone" in told, activity,
                              landmarks, options.get("face_embeddings"), detect)
    if parallel is not None:
        parallel.for_each(check, conversations)
    bar = tqdm(conversations, desc="checking conversations", unit="conversation",
               disable=None if progress else True)
    good, refused = [], []
    for one in bar:
        found = check(one)
        (good if isinstance(found, pathlib.Path) else refused).append(found)
    good = [read.load(file) for file in good]
    good, others = _alike(good, speakers)
    refused += others
    _enough(out, source, good, refused, max_bad)
    pieces, remark = cut.plan(good, max_seconds)
    told = told | ({remark: 1} if remark else {})
    writer = Writer(good, pieces, 0 if "sound alone" in told else components, size, landmarks)
    made_from.ask(out, asked, source)
    _report(out, good, pieces)
    with Partial(out, {"dataset": "conversations", **asked}) as job:
        store.write_dataset(
            job, name="conversations", description=DESCRIPTION, features=writer.features,
            splits={split: [*(functools.partial(_refuse, row) for row in refused
                              if split == "train"), *writer.items(split)] for split in pieces},
            recipes=writer.recipes, codecs=writer.codecs, max_bad=1.0, progress=progress,
            totals={split: len(part) for split, part in pieces.items()})
    shutil.rmtree(cache, ignore_errors=True)
    return corpus.told(out, told)


def _listed(source, audio_only: bool, faces) -> tuple[list[Conversation], dict[str, int]]:
    """What there is, and what of that has to be said."""
    found = find(source, audio_only=audio_only, faces=faces)
    videos = any(path.suffix.lower() in media.VIDEO_SUFFIXES for one in found for path in one.files)
    used = {path.relative_to(one.root).parts[0] for one in found for path in one.files}
    unused = [path for path in pathlib.Path(source).iterdir()
              if path.is_dir() and not path.name.startswith(".") and path.name not in used
              and not (path / SCHEMA_FILE).exists()]  # clips that were made here
    told = {"folders without media, not used": len(unused)}
    return found, told if videos and not audio_only else {"sound alone": len(found), **told}


def _contents(found: Sequence[Conversation]) -> dict[str, dict]:
    """{place: recordings.content} of all files."""
    files = {}
    for one in found:
        for path in one.files:
            try:
                files[one.place(path)] = recordings.content(path)
            except OSError as error:
                quarantine.check(error, [path])
                files[one.place(path)] = {"sha256": "unreadable"}
    return files


def _digest(contents: Mapping[str, dict]) -> str:
    """Of places and contents of all files."""
    files = {place: one["sha256"] for place, one in contents.items()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def _checked(cache: pathlib.Path, known: Mapping[str, dict], size: int, audio_only: bool,
             activity: str, landmarks: str | None, faces: int | list | None, detect,
             one: Conversation) -> pathlib.Path | dict[str, str]:
    """The file of a decoded conversation, or why it is refused."""
    try:
        contents = {one.place(path): recordings.content(path, known[one.place(path)])
                    for path in one.files}
        key = recordings.fingerprint(contents, one.id, size, audio_only, activity, CHECKS,
                                     *filter(None, [landmarks, faces]))
        refusal = cache / f"{key}.refused.json"
        if refusal.is_file():
            return json.loads(refusal.read_text())
        return read.cached(one, cache, key, size=size, audio_only=audio_only, activity=activity,
                           landmarks=landmarks, faces=given_faces.width_of(faces), detect=detect)
    except Exception as error:
        quarantine.check(error, one.files)
        known = isinstance(error, media.MediaError | transcripts.TranscriptError | store.Unusable)
        reason = error.reason if known else "unreadable"
        said = str(error) if isinstance(error, UserError) else quarantine.said(error)
        why = {"id": one.id, "reason": reason,
               "detail": recordings.printable(said.replace(f"{one.root}{os.sep}", ""))}
        if known:
            cache.mkdir(parents=True, exist_ok=True)
            atomic.write(refusal, json.dumps(why), shared=True)
        return why


def _alike(good: list[read.Decoded], speakers: int) -> tuple[list[read.Decoded], list[dict]]:
    """Those of as many speakers as asked for, or as most have; and the others' refusals."""
    counts = collections.Counter(len(one.names) for one in good)
    wanted = speakers or min(counts, key=lambda n: (-counts[n], n), default=0)
    reason = "another number of speakers"
    others = [{"id": one.id, "reason": reason, "detail": str(store.Unusable(
        reason, where=one.id, expected=str(wanted), found=str(len(one.names)),
        hint=f"--speakers={len(one.names)} into another --out"))}
              for one in good if len(one.names) != wanted]
    return [one for one in good if len(one.names) == wanted], others


def _enough(out: pathlib.Path, source, good, refused: list[dict], max_bad: float) -> None:
    """Raises UserError: nothing usable, too much unusable."""
    total = len(good) + len(refused)
    if good and len(refused) <= max_bad * total:
        return
    file = out.with_name(f"{out.name}.quarantine.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(file, "".join(json.dumps({"split": "", **row}) + "\n" for row in refused))
    reasons = collections.Counter(row["reason"] for row in refused).most_common()
    found = ", ".join(f"{n} x {reason}" for reason, n in reasons)
    if not good and total == 1:
        found = refused[0]["detail"]
    raise UserError("too many unusable conversations" if good else "no usable conversation",
                    where=str(source), found=found if total == 1 else f"{len(refused)} of {total}: "
                    f"{found}", expected=f"at most {max_bad:.0%} unusable" if good
                    else "at least one",
                    hint=f"see {file}" + (", or raise --max_bad" if good else ""))


def _refuse(row: dict) -> dict:
    raise Refused(row)


class Refused(store.Unusable):
    """A conversation that was refused before, in its words."""

    def __init__(self, row: Mapping[str, str]):
        super().__init__(row["reason"], id=row["id"])
        self._detail = row["detail"]

    def __str__(self) -> str:
        return self._detail


def _report(out: pathlib.Path, good: Sequence[read.Decoded], pieces) -> None:
    """Writes and prints what was found of each conversation."""
    rows = []
    for index, one in enumerate(good):
        seconds = {split: round(sum(b - a for i, a, b in part if i == index) / recordings.FPS, 2)
                   for split, part in pieces.items()}
        rows.append({"id": one.id, "speakers": one.names, "seconds": round(one.seconds, 2),
                     **seconds, "transcript": one.has_text, "mended": one.mended,
                     "notes": one.notes})
        print(f"{one.id}: {', '.join(one.names)}, {one.seconds:.1f} s"
              + "".join(f"\n  {note}" for note in one.notes), flush=True)
    atomic.write(out.with_name(f"{out.name}.conversations.jsonl"),
                 "".join(json.dumps(row) + "\n" for row in rows))


def _made_of(arguments: Mapping[str, Any]) -> str:
    given = given_faces.asked(arguments.get("face_embeddings"))
    found, _ = _listed(arguments["source"], arguments.get("audio_only", False), given)
    table = {"": {"sha256": given.key}} if isinstance(given, given_faces.Table) else {}
    return _digest(_contents(found) | table)


DATASET = Ingest(prepare, made_of=_made_of)
