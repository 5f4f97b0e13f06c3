"""Audio2Photoreal -> clips: scenes of conversations, a person's face and body, both voices.

    ID/data_stats.pth                    statistics of the person (numpy arrays in a torch file)
    ID/sceneNN_audio.wav                 48 kHz; channel 0 the person, channel 1 the partner
    ID/sceneNN_body_pose.npy             (T, 104) joint angles at 30 Hz, 1600 samples a frame
    ID/sceneNN_face_expression.npy       (T, 256) face codes
    ID/sceneNN_missing_face_frames.npy   frames whose code is missing
    ID/wav2vec2_.../sceneNN.npy          (2, M, 29) speech tokens, as AV-Flow's authors add them
    ID/head_vae/iter-*.pt                their head VAE of the person

ID is PXB184, RLW104, TXB805 or GQS883. The release's ID.zip is read as it is. A folder has one
person's codes; the partner's of the same scene are nowhere, so a partner is a voice only.
Held out are, as by the owners, the scenes [-6:-4] (valid) and [-4:] (test) of a person, or, as by
AV-Flow, the last two (valid). Licence of the corpus: CC-BY-NC 4.0.
"""

import functools
import re
from collections.abc import Iterator
from typing import Annotated

import numpy as np

from avjax.errors import UserError
from avjax.weights import torch_zip
from data_pipelines.declared import Ingest, MaxBad, Option
from data_pipelines.ingest.common import arrays, head_vae, logits, pieces, stereo
from data_pipelines.ingest.common import corpus as common
from data_pipelines.ingest.common.corpus import Corpus, mended
from data_pipelines.ingest.common.files import Files
from data_pipelines.ingest.common.recordings import FPS, SAMPLES
from data_pipelines.store import columns
from data_pipelines.store.dataset import Unusable
from data_pipelines.store.schema import Feature

WIDTH, BODY = 256, 104
POSE = {"mean": np.zeros(4, np.float32), "std": np.ones(4, np.float32)}  # not normalised
NECK = slice(12, 16)  # of the body's angles: neck and head, AV-Flow's head pose
PAIRS = {"PXB184": "RLW104", "RLW104": "PXB184", "TXB805": "GQS883", "GQS883": "TXB805"}
WRAPPED = ("PXB184", "RLW104")  # whose angle 3 jumps by a turn
HELD_OUT = {"audio2photoreal": {"valid": slice(-6, -4), "test": slice(-4, None)},
            "avflow": {"valid": slice(-2, None)}}
_PART = re.compile(r"(?P<folder>(?:.*/)?)(?P<scene>scene\d+)_(?P<part>audio\.wav|body_pose\.npy|"
                   r"face_expression\.npy|missing_face_frames\.npy)")
_PARTS = ("audio.wav", "body_pose.npy", "face_expression.npy", "missing_face_frames.npy")
_STATS = {"code_mean": (WIDTH,), "code_std": (WIDTH,), "pose_mean": (BODY,), "pose_std": (BODY,)}


def corpus(source, *, subject: str | None = None, held_out: str = "audio2photoreal",
           max_seconds: float = pieces.MAX_SECONDS) -> Corpus:
    """Lists the scenes. Raises UserError: no such person, one person twice, damaged archive or
    statistics."""
    files = Files(source, (".wav", ".npy", ".pth", ".pt"))
    people = {}
    for name in files:
        if match := _PART.fullmatch(name):
            people.setdefault(match["folder"].rstrip("/"), set()).add(match["scene"])
    named = {folder: folder.rpartition("/")[2] or source.resolve().name for folder in people}
    if subject is not None:
        people = {folder: scenes for folder, scenes in people.items() if named[folder] == subject}
        if not people:
            raise UserError("no such person", where="--subject", found=repr(subject),
                            expected=" or ".join(sorted(named.values())) or "a folder with scenes")
    if len({named[folder] for folder in people}) < len(people):
        raise UserError("one person twice", where=str(source), expected="a folder a person",
                        found=", ".join(sorted(people)), hint="name the folder above one of them")
    tokens = {k: v for k, v in logits.place_of(files).items() if k in people}
    found = Listing(files, named, tokens, max_seconds)
    items = {"train": []} | {split: [] for split in HELD_OUT[held_out]}
    codecs, told = {}, {}
    for folder, scenes in people.items():
        for split, names in _split(found, folder, sorted(scenes), held_out).items():
            items[split] += [found.item(folder, scene) for scene in names]
        statistics = _statistics(files, f"{folder}/data_stats.pth".lstrip("/"))
        if statistics:
            codecs[f"data_stats_{named[folder]}"] = statistics
        else:
            told["people without data_stats.pth"] = told.get("people without data_stats.pth", 0) + 1
    if len(people) == 1:  # the head VAE is one person's
        codecs |= head_vae.codec(files, next(iter(people)))
    return Corpus(
        name="audio2photoreal", description="Audio2Photoreal (Ng et al. 2024, CC-BY-NC 4.0): "
        "scenes of conversations, one person's face codes and body pose, both voices.",
        features=columns_of(bool(tokens)), items=items, read=found.read, told=told,
        recipes=recipes(bool(tokens)), codecs={"pose": POSE, **codecs})


def recipes(tokens: bool) -> dict[str, dict]:
    """{column: how it is made}."""
    pose = {"kind": "joint angles of neck and head", "width": 4, "rate": FPS, "normalised": False}
    return {"audio": stereo.RECIPE, "partner_audio": stereo.RECIPE,
            "face": {"kind": "codec avatar expression", "width": WIDTH, "rate": FPS},
            "pose": pose, "pose_z": pose} | ({"logits": logits.RECIPE} if tokens else {})


class Listing:
    """What was found, and how a scene of it is read."""

    def __init__(self, files: Files, named: dict[str, str], tokens: dict[str, str],
                 max_seconds: float):
        self._files, self._named, self._tokens = files, named, tokens
        self._max_seconds = max_seconds

    def path(self, folder: str, scene: str, part: str) -> str:
        return f"{folder}/{scene}_{part}".lstrip("/")

    def item(self, folder: str, scene: str) -> list:
        names = [self.path(folder, scene, part) for part in _PARTS]
        names += [f"{self._tokens[folder]}/{scene}.npy"] if folder in self._tokens else []
        return [folder, scene, [self._files.size(name) for name in names]]

    def all_missing(self, folder: str, scene: str) -> bool:
        """Whether the owners skip the scene, which they then do not count either."""
        frames, missing = (arrays.length(self._files, self.path(folder, scene, part))
                           for part in _PARTS[2:])
        return frames is not None and frames == missing

    def read(self, item: list) -> Iterator[dict]:
        """The clips of a scene. Raises Unusable."""
        folder, scene, _ = item
        who = self._named[folder]
        try:
            clip = self._read(folder, scene, who)
        except Unusable as error:
            error.of(f"{who}-{scene}")
            raise
        yield from pieces.cut(clip, len(clip["face"]), self._max_seconds)

    def _read(self, folder: str, scene: str, who: str) -> dict:
        names = {part: self.path(folder, scene, part) for part in _PARTS}
        face = arrays.read(self._files, names["face_expression.npy"], (None, WIDTH), kinds="f")
        frames = len(face)
        body = np.array(arrays.read(self._files, names["body_pose.npy"], (None, BODY), kinds="f"),
                        np.float32)
        sound, notes = stereo.read(self._files, names["audio.wav"])
        if abs(sound.shape[1] - frames * SAMPLES) > SAMPLES or len(body) != frames:
            raise Unusable("lengths differ", where=self._files.where(names["audio.wav"]),
                           expected=f"{frames} frames, as the face has",
                           found=f"{sound.shape[1] / SAMPLES:.2f} of sound, {len(body)} of body")
        if sound.shape[1] != frames * SAMPLES:
            notes.append("sound up to a frame longer or shorter, cut or padded")
            sound = np.pad(sound, ((0, 0), (0, SAMPLES)))[:, : frames * SAMPLES]
        bad = self._missing(names["missing_face_frames.npy"], frames, notes)
        if (odd := arrays.not_finite(face) & ~bad).any():
            notes.append("face frames that are not finite, interpolated")
        # any share but all: as the owners do, who mask them, and AV-Flow, which interpolates
        face = arrays.filled(face, bad | odd, self._files.where(names["face_expression.npy"]), 1.0)
        if (odd := arrays.not_finite(body)).any():
            notes.append("body frames that are not finite, interpolated")
            body = arrays.filled(body, odd, self._files.where(names["body_pose.npy"]))
        if who in WRAPPED:
            turned = np.mod(body[:, 3], 2 * np.pi)
            if not np.allclose(turned, body[:, 3], atol=1e-5):
                notes.append("body angle 3 brought into [0, 2 pi)")
            body[:, 3] = turned
        partner = PAIRS.get(who, f"partner of {who}")
        clip = {"id": f"{who}-{scene}", "speaker": who, "identity": columns.identity_of(who),
                "audio": sound[0], "face": face, "body_pose": body, "pose_z": body[:, NECK].copy(),
                "partner_speaker": partner, "partner_identity": columns.identity_of(partner),
                "partner_audio": sound[1], "mended": mended(*notes)}
        if self._tokens:
            name = f"{self._tokens.get(folder, f'{folder}/{logits.USUAL}')}/{scene}.npy"
            clip["logits"], clip["partner_logits"] = logits.read(self._files, name, frames / FPS,
                                                                 frames / FPS)
        return clip

    def _missing(self, name: str, frames: int, notes: list[str]) -> np.ndarray:
        """(frames,) whether a face code is missing."""
        listed = arrays.read(self._files, name, (None,))  # an empty list is one of floats
        whole = np.isfinite(listed) & (listed == np.round(listed))
        inside = whole & (listed >= 0) & (listed < frames)
        if not inside.all():
            notes.append("missing frames listed that the scene has not, ignored")
        bad = np.zeros(frames, bool)
        bad[listed[inside].astype(np.int64)] = True
        if bad.any():
            notes.append("missing face frames, interpolated")
        return bad


def _split(found: Listing, folder: str, scenes: list[str], held_out: str) -> dict[str, list[str]]:
    """The owners', of the scenes in order; those of which every face code is missing do not count
    for Audio2Photoreal's and are refused when they are read."""
    skipped = [s for s in scenes if held_out != "avflow" and found.all_missing(folder, s)]
    counted = [s for s in scenes if s not in skipped]
    out = {split: counted[part] for split, part in HELD_OUT[held_out].items()}
    taken = set().union(*out.values())
    return {"train": [s for s in scenes if s not in taken]} | out


def _statistics(files: Files, name: str) -> dict[str, np.ndarray]:
    """The arrays of data_stats.pth, whichever it has beside those that all four have; {} where
    there is no such file. Raises UserError: unreadable, or of something else."""
    if name not in files:
        return {}
    tree = torch_zip.read_torch_zip(files.where(name), files.content(name).tobytes())
    found = {k: np.asarray(v) for k, v in tree.items()
             if isinstance(v, np.ndarray)} if isinstance(tree, dict) else {}
    wrong = [k for k, shape in _STATS.items() if k not in found or found[k].shape != shape]
    if wrong:
        raise UserError("statistics of another kind", where=files.where(name),
                        expected=", ".join(f"{k} {_STATS[k]}" for k in wrong),
                        found=", ".join(f"{k} {v.shape}" for k, v in found.items()) or "no arrays",
                        hint="fetch the file again, or take it out of the folder")
    found = {k: v.astype(np.float32) for k, v in found.items() if v.dtype.kind in "fiu"}
    if odd := [k for k, v in found.items() if not np.isfinite(v).all()]:
        raise UserError("statistics that are not finite", where=files.where(name),
                        expected="finite numbers", found=", ".join(odd),
                        hint="fetch the file again, or take it out of the folder")
    return found


def columns_of(tokens: bool) -> dict[str, Feature]:
    # the corpus has no transcripts
    out = columns.of_clip(text=False) | columns.of_speaker(face=WIDTH, words=False)
    out |= columns.of_speaker("partner_", words=False)
    out |= {"body_pose": Feature((None, BODY), "float32", "joint angles of the body", "rad", FPS),
            "pose_z": Feature((None, 4), "float32", "joint angles of neck and head, not normalised",
                              "rad", FPS)}
    if tokens:
        out |= {"logits": logits.column("the speaker's"),
                "partner_logits": logits.column("the partner's")}
    return out


def prepare(
    source, out, *,
    subject: Annotated[str | None, Option("only this person's scenes (AV-Flow is trained on one)"
                                          )] = None,
    held_out: Annotated[str, Option("whose split", tuple(HELD_OUT))] = "audio2photoreal",
    max_seconds: Annotated[float, Option("longer scenes are cut into equal pieces",
                                         least=1)] = pieces.MAX_SECONDS,
    max_bad: MaxBad = 0.5, parallel=None, progress: bool = True,
):
    """Makes the dataset; see data_pipelines/ingest/common/corpus.py."""
    options = dict(subject=subject, held_out=held_out, max_seconds=max_seconds)
    return common.prepare(corpus, source, out, options, max_bad=max_bad, parallel=parallel,
                          progress=progress)


DATASET = Ingest(prepare, in_parts=True, made_of=functools.partial(common.made_of, corpus))
