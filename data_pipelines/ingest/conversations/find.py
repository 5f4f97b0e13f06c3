"""A folder of conversations -> which files are whose, from names and headers alone.

    SOURCE/talk/ann.mp4, ben.mp4            a video with sound a speaker
    SOURCE/talk/ann.mp4, ben.mp4, talk.wav  one sound file beside them, a channel a speaker
    SOURCE/talk/ann.wav, ben.wav            a sound file a speaker, with or without ann.mp4, ben.mp4
    SOURCE/talk/talk.wav                    sound alone, a channel a speaker; or one channel for
                                            all, which a transcript with times takes apart
    SOURCE/talk/ann/video.mp4, ann/audio.wav, ben/...       a folder a speaker
    SOURCE/talk/video/ann.mp4, audio/ann.wav, ...           a folder a kind
    SOURCE/talk_ann.wav, talk_ben.wav       files of one name, up to its last part

A speaker is called what the file's name does not share with the others': `talk1_ann.mp4` beside
`talk1_ben.mp4` is ann. Transcripts lie beside the media; one with a speaker's name is theirs. So do
face embeddings, `talk1_ann.face.npy`; `ann.face.npy` in the source is ann's in all conversations.
"""

import collections
import dataclasses
import hashlib
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Sequence

from avjax.errors import UserError
from data_pipelines import media
from data_pipelines.ingest.common import given_faces, recordings
from data_pipelines.media import transcripts
from data_pipelines.store.columns import PREFIXES

MOST = len(PREFIXES)
# what a name says of a file that is not a speaker's but everybody's
_OF_ALL = {"mix", "mixed", "mixdown", "master", "all", "both", "room", "combined", "together",
           "merged"}
# names that many conversations share though the people differ
_ROLES = {"left", "right", "ref", "user", "self", "partner", "speaker", "spk", "s", "p", "ch",
          "channel", "mic", "cam", "camera", "host", "guest", "agent", "customer", "caller",
          "callee", "interviewer", "interviewee", "actor", "participant", "assistant", "side",
          "person", "track", "local", "remote", "a", "b", "c", "d", ""}
# folders that tell what is in them, and not who
_KINDS = {"audio", "audios", "sound", "wav", "video", "videos", "mp4", "transcript", "transcripts",
          "text", "txt", "json", "rttm", "stm", "vtt", "textgrid"}
_OWN_FOLDER = "put the files of a conversation into a folder of its own"
_LONGEST = 40  # of a name in a script (data_pipelines/features/tavid/script.py)


@dataclasses.dataclass(frozen=True)
class Speaker:
    """One side of a conversation.

    label: its name among the files; name: the same, unique over the source where it is a role.
    channel: of the sound file; None for all its channels, mixed down. sound None: the video's own.
    face: its embedding, where it was asked for.
    """

    label: str
    name: str
    video: pathlib.Path | None = None
    sound: pathlib.Path | None = None
    channel: int | None = None
    transcripts: tuple[pathlib.Path, ...] = ()
    face: pathlib.Path | given_faces.Row | None = None


@dataclasses.dataclass(frozen=True)
class Conversation:
    """The files of one conversation.

    Attributes:
      id: unique name.
      speakers: in order; () where `mixed` holds them all, or where it cannot be used.
      transcripts: of all speakers together.
      by_order: the channels' owners are known by their order alone.
      mixed: a sound file of one channel, in which all speak.
      remarks: what is not used.
      reason, details: why it cannot be used, and what a message has of that ("expected", ...);
        "" where it can.
    """

    id: str
    root: pathlib.Path
    files: tuple[pathlib.Path, ...]
    speakers: tuple[Speaker, ...] = ()
    transcripts: tuple[pathlib.Path, ...] = ()
    by_order: bool = False
    mixed: pathlib.Path | None = None
    remarks: tuple[str, ...] = ()
    reason: str = ""
    details: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def place(self, path: pathlib.Path) -> str:
        """A file's name below the source."""
        return recordings.printable(path.relative_to(self.root).as_posix())


@dataclasses.dataclass
class _Recorded:
    """Files of one stem: a video, a sound, or both."""

    label: str
    videos: list[pathlib.Path]
    sounds: list[pathlib.Path]
    texts: list[pathlib.Path]


class _Refused(Exception):
    """Why the files are no conversation, and what a message has of that."""

    def __init__(self, reason: str, **details: str):
        self.reason, self.details = reason, details
        super().__init__(reason)


def find(source, *, audio_only: bool = False, faces=None) -> list[Conversation]:
    """The conversations of a folder, sorted by id, those that cannot be used with their reason;
    with `faces` (given_faces.asked) and every speaker's embedding.

    Raises UserError: no folder, no media.
    """
    root = pathlib.Path(source)
    if not root.is_dir():
        raise UserError("no such folder", where=str(source),
                        expected="a folder with a folder a conversation", hint="check --source")
    groups: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    flat = []
    for path in recordings.media_of(root, kind):
        inside = path.relative_to(root).parts
        if len(inside) > 1:
            groups[inside[0]].append(path)
        else:
            flat.append(path)
    for name, paths in _flat(flat).items():
        groups[name] += paths
    groups = {name: paths for name, paths in groups.items()
              if any(kind(p) != "text" for p in paths)}
    if not groups:
        raise UserError("no conversations here", where=str(source), found="no media",
                        expected="a folder a conversation, of files ending in "
                        f"{' '.join(media.VIDEO_SUFFIXES + media.AUDIO_SUFFIXES)}",
                        hint="check --source")
    found = [_conversation(root, name, sorted(paths), audio_only)
             for name, paths in sorted(groups.items())]
    found = _named(found)
    return [_with_faces(one, faces) for one in found] if faces else found


def _with_faces(one: Conversation, faces) -> Conversation:
    if one.reason:
        return one
    speakers = tuple(dataclasses.replace(s, face=faces.find(
        one.root, s.name, [f"{one.id}/{name}" for name in (s.name, s.label)], s.video,
        s.sound if s.channel is None else None))
        for s in one.speakers)
    lacking = [s.label for s in speakers if s.face is None]
    if lacking or not speakers:
        return dataclasses.replace(one, reason="no face embedding", details={
            "expected": "one of every speaker, such as "
                        f"{(lacking or ['ann'])[0]}.face.npy beside the video, or a name in the "
                        "table",
            "found": f"none of {', '.join(lacking) or 'those in the mixture'}"})
    return dataclasses.replace(one, speakers=speakers,
                               files=(*one.files, *dict.fromkeys(
                                   s.face for s in speakers if isinstance(s.face, pathlib.Path))))


def kind(path: pathlib.Path) -> str | None:
    """ "video", "audio", "text" (a transcript) or None."""
    suffix = path.suffix.lower()
    kinds = {"video": media.VIDEO_SUFFIXES, "audio": media.AUDIO_SUFFIXES,
             "text": transcripts.SUFFIXES}
    return next((k for k, suffixes in kinds.items() if suffix in suffixes), None)


def _flat(paths: Sequence[pathlib.Path]) -> dict[str, list[pathlib.Path]]:
    """Files directly in the source, by conversation: those whose names differ in the last part
    alone; but sound files of several channels each hold a whole one."""
    stems = {recordings.stem_of(p) for p in paths if kind(p) != "text"}
    prefixes = collections.defaultdict(set)
    for stem in stems:
        prefixes[re.sub(r"[-_. ][^-_. ]*$", "", stem)].add(stem)
    together = {}
    for prefix, members in prefixes.items():
        own = [p for p in paths if kind(p) != "text" and recordings.stem_of(p) in members]
        whole = all(kind(p) == "audio" and (channels(p) or 1) > 1 for p in own)
        if len(members) > 1 and prefix not in members and not whole:
            together |= dict.fromkeys(members, prefix)
    out = collections.defaultdict(list)
    for path in paths:
        stem = recordings.stem_of(path)
        if kind(path) == "text":
            stem = _owner(stem, [*stems, *together.values()]) or stem
        out[together.get(stem, stem) or path.stem].append(path)
    return out


def _owner(stem: str, names: Sequence[str]) -> str | None:
    """The longest of the names that a transcript's begins with, or None."""
    fits = [n for n in names if n and (stem == n or stem.startswith(tuple(n + c for c in "-_. ")))]
    return max(fits, key=len, default=None)


def channels(path: pathlib.Path) -> int | None:
    """How many channels a file's sound has, by its header; None without sound, or where it cannot
    be read, which is told when it is decoded."""
    try:
        return media.channels(path)
    except media.MediaError:
        return None


def _conversation(root, name: str, paths, audio_only: bool) -> Conversation:
    id = recordings.printable(name)
    base = Conversation(id, root, tuple(paths))
    try:
        return _assigned(base, *_recorded(root / name if (root / name).is_dir() else root, paths),
                         audio_only)
    except _Refused as refused:
        return dataclasses.replace(base, reason=refused.reason, details=refused.details)


def _recorded(folder: pathlib.Path, paths) -> tuple[list[_Recorded], list[pathlib.Path]]:
    """What was recorded of whom, and the transcripts of all."""
    by_stem: dict[tuple[str, str], _Recorded] = {}
    beside = [p for p in paths if folder not in p.parents and kind(p) != "text"]
    if beside:
        raise _Refused("names that repeat", expected="a conversation's files in its folder, or "
                       "beside others, not both", found=f"{beside[0].name} beside {folder.name}/",
                       hint="move it into the folder, or give it another name")
    for path in paths:
        if kind(path) == "text":
            continue
        sub = _speakers_folder(path, folder)
        one = by_stem.setdefault((sub, "" if sub else recordings.stem_of(path)),
                                 _Recorded("", [], [], []))
        (one.videos if kind(path) == "video" else one.sounds).append(path)
    labels = _labels([sub or stem for sub, stem in by_stem])
    for label, one in zip(labels, by_stem.values(), strict=True):
        one.label = label
    of_all = []
    for path in (p for p in paths if kind(p) == "text"):
        sub, stem = _speakers_folder(path, folder), recordings.stem_of(path)
        own = [one for (where, of), one in by_stem.items()
               if where == sub and (where or _owner(stem, [of]))]
        own = own if len(by_stem) > 1 else []
        whose = own[0].texts if len(own) == 1 else of_all
        whose.append(path)
    return list(by_stem.values()), of_all


def _speakers_folder(path: pathlib.Path, folder: pathlib.Path) -> str:
    """The folder of a speaker that a file of a conversation is in, or ""."""
    inside = path.relative_to(folder).parent.parts if folder in path.parents else ()
    return "/".join(part for part in inside
                    if part.casefold() not in _KINDS)


def _labels(names: list[str]) -> list[str]:
    """What names do not share: their first and last parts that are all alike are taken off."""
    parts = [re.split(r"[-_. /]+", unicodedata.normalize("NFC", n)) for n in names]
    while len(parts) > 1 and all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    while len(parts) > 1 and all(len(p) > 1 for p in parts) and len({p[-1] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    return ["_".join(p) for p in parts]


def _assigned(base: Conversation, found: list[_Recorded], texts, audio_only: bool) -> Conversation:
    """Whose each file is. Raises _Refused."""
    same = collections.defaultdict(list)
    for one in found:
        same[clean(one.label).casefold()].append(one)
    for several in same.values():
        if len(several) > 1 or len(several[0].videos) > 1 or len(several[0].sounds) > 1:
            names = [p.name for one in several for p in (*one.videos, *one.sounds)]
            raise _Refused("names that repeat", expected="files of different names",
                           found=f"several of {several[0].label!r}: {', '.join(names)}",
                           hint="remove one, or give it another name; a folder is one "
                                "conversation, and a folder in it one speaker")
    remarks = []
    if audio_only:
        found = [one for one in found if one.sounds] or found
    shared = [one for one in found if not one.videos and one.label.casefold() in _OF_ALL]
    if len(found) - len(shared) > 1:
        for one in shared:
            if channels(one.sounds[0]) == len(found) - len(shared):
                continue
            found = [x for x in found if x is not one]
            remarks.append(f"not used: {one.sounds[0].name}, which by its name is everybody's")
    seen = [one for one in found if one.videos]
    alone = [one for one in found if not one.videos]
    base = dataclasses.replace(base, transcripts=tuple(texts), remarks=tuple(remarks))
    if len(found) == 1 and found[0].sounds:
        seen, alone = ([] if audio_only else seen), found
    if len(alone) == 1 and len(seen) != 1:
        return _of_one_file(base, alone[0], seen)
    if seen and alone:
        without = ", ".join(one.label for one in alone)
        raise _Refused("a face that is not there", expected="a video of every speaker",
                       found=f"none of {without}", hint="add it, name video and sound alike, or "
                       "take sound alone with --audio_only")
    _count(len(found), [p for one in found for p in (*one.videos, *one.sounds)])
    speakers = [Speaker(one.label, one.label, next(iter(one.videos), None),
                        next(iter(one.sounds), None), None, tuple(one.texts)) for one in found]
    if audio_only:
        speakers = [dataclasses.replace(s, video=None, sound=s.sound or s.video) for s in speakers]
    return dataclasses.replace(base, speakers=tuple(speakers))


def _of_one_file(base: Conversation, shared: _Recorded, seen: list[_Recorded]) -> Conversation:
    """One sound file for all: a channel a speaker, or a mixture."""
    sound = shared.sounds[0]
    count = channels(sound)
    if count is None:  # decoding says why
        return dataclasses.replace(base, mixed=sound)
    texts = (*base.transcripts, *shared.texts)
    base = dataclasses.replace(base, transcripts=texts)
    if count == 1 and all(channels(one.videos[0]) for one in seen) and len(seen) > 1:
        remark = f"not used: {sound.name}, one channel, since every video has sound of its own"
        speakers = [Speaker(one.label, one.label, one.videos[0], None, None, tuple(one.texts))
                    for one in seen]
        _count(len(speakers), base.files)
        return dataclasses.replace(base, speakers=tuple(speakers),
                                   remarks=(*base.remarks, remark))
    if count == 1 and not texts and not seen:
        raise _Refused("one speaker", expected="two to four: a file or a channel each, or a "
                       "transcript with times for a mixture", found=f"{sound.name}, one channel",
                       hint=_OWN_FOLDER)
    if count == 1:
        people = [Speaker(one.label, one.label, one.videos[0], sound, 0, tuple(one.texts))
                  for one in seen]
        return dataclasses.replace(base, mixed=sound, speakers=tuple(people))
    if seen and len(seen) != count:
        raise _Refused("a face that is not there" if len(seen) < count else "channels missing",
                       expected="a channel a video", found=f"{count} channels in {sound.name} "
                       f"and {len(seen)} videos", hint="add what is missing, or take sound alone "
                       "with --audio_only")
    _count(count, [sound])
    speakers = [Speaker(one.label, one.label, one.videos[0], sound, k, tuple(one.texts))
                for k, one in enumerate(seen)]
    speakers = speakers or [Speaker(f"channel{k + 1}", f"channel{k + 1}", None, sound, k)
                            for k in range(count)]
    return dataclasses.replace(base, speakers=tuple(speakers), by_order=True)


def _count(speakers: int, files) -> None:
    """Raises _Refused unless a conversation has so many speakers."""
    if speakers < 2:
        raise _Refused("one speaker", expected="two to four, a file or a channel each",
                       found=", ".join(p.name for p in files), hint=_OWN_FOLDER)
    if speakers > MOST:
        raise _Refused("too many speakers", expected=f"two to {MOST}", found=str(speakers),
                       hint="keep those of one exchange")


def clean(name: str) -> str:
    """A name that a script can hold: letters, digits and _ . ' - between them, at most 40."""
    name = re.sub(r"[^\w.'-]+", "_", unicodedata.normalize("NFC", name)).strip("_.'- ")
    if len(name) > _LONGEST:
        name = f"{name[:_LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name or "speaker"


def is_role(label: str) -> bool:
    """Whether a name says what somebody does and not who it is: left, user, speaker2, 1."""
    return re.sub(r"[\d_-]+$", "", label.casefold()) in _ROLES


def named(id: str, label: str) -> str:
    """The speaker's name over the whole source: roles are told apart by conversation."""
    return clean(f"{id}.{label}" if is_role(label) else label)


def _named(found: list[Conversation]) -> list[Conversation]:
    return [dataclasses.replace(c, speakers=tuple(
        dataclasses.replace(s, name=named(c.id, s.label)) for s in c.speakers)) for c in found]
