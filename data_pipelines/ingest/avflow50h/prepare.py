"""AV-Flow's 50 h release -> clips: segments of conversations, the actor's face and head, both
voices, the participant's expression.

    audio/SEG.wav                            48 kHz; channel 0 the actor, channel 1 the participant
    expression_codes/SEG.npy                 (N, 256) at 30 Hz
    headpose/SEG--headpose.npy               (N, 3, 4) or (N, 4, 4): rotation, translation
    headpose/headpose_normstats/head_{translation,qvec}_{mean,std}.npy
    head_vae/iter-*.pt                       the head VAE
    wav2vec2_..._vad100/SEG.npy              (2, M, 29) speech tokens
    participant/camera01/smirk_outputs/SEG--{expression,headpose}.npy    (N, 55), (N, 3) of SMIRK
    participant/camera01/smirk_outputs/stats/{expression,headpose}_{min,max}.npy
    decoder/{dec_params.pt,vert_mean.bin,vert_var.txt}

The participant's pictures (participant/.../images) are not read. Held out are, as by the owners,
the segments with 20240408 or 20240509 in their name (valid). Licence of the corpus: CC-BY-NC 4.0.
"""

import functools
import hashlib
import re
from collections.abc import Iterator
from typing import Annotated

import numpy as np
from scipy.spatial.transform import Rotation

from avjax.errors import UserError
from data_pipelines.declared import Ingest, MaxBad, Option
from data_pipelines.features.avflow import partner
from data_pipelines.ingest.common import arrays, head_vae, logits, pieces, stereo
from data_pipelines.ingest.common import corpus as common
from data_pipelines.ingest.common.corpus import Corpus, mended
from data_pipelines.ingest.common.files import Files
from data_pipelines.ingest.common.recordings import FPS, SAMPLES
from data_pipelines.store import columns
from data_pipelines.store.dataset import Unusable
from data_pipelines.store.schema import Feature

WIDTH, EXPRESSION = 256, 55
HELD_OUT = ("20240408", "20240509")
APART = 5  # [ours] frames by which the streams of a segment may end apart
SPEAKER, PARTICIPANT = "actor", "participant"
_SMIRK = "participant/camera01/smirk_outputs"
_SEGMENT = re.compile(rf"audio/(?P<audio>[^/]+)\.wav|expression_codes/(?P<face>[^/]+)\.npy|"
                      rf"headpose/(?P<pose>[^/]+)--headpose\.npy|"
                      rf"{_SMIRK}/(?P<partner>[^/]+)--expression\.npy")


def corpus(source, *, participant: bool = True,
           max_seconds: float = pieces.MAX_SECONDS) -> Corpus:
    """Lists the segments. Raises UserError: statistics that are missing or of another kind."""
    files = Files(source, (".wav", ".npy", ".pt", ".bin", ".txt"), skip=("images",))
    segments = {match[match.lastgroup]: None for name in files
                if (match := _SEGMENT.fullmatch(name))}
    tokens = logits.place_of(files).get("", "")
    pose, ranges = statistics(files, participant) if segments else ({}, {})
    found = Listing(files, tokens, participant, pose, max_seconds)
    items: dict[str, list] = {"train": []}
    for segment in sorted(segments):
        held_out = any(day in segment for day in HELD_OUT)
        items.setdefault("valid" if held_out else "train", []).append(found.item(segment))
    return Corpus(
        name="avflow50h", description="AV-Flow's 50 h release (Chatziagapi et al. 2025, CC-BY-NC "
        "4.0): segments of conversations of an actor with participants.",
        features=columns_of(bool(tokens), participant), items=items, read=found.read,
        told={} if "valid" in items else {f"held out ({' and '.join(HELD_OUT)}): none, of": len(
            segments)},
        recipes=recipes(bool(tokens), participant),
        codecs={"pose": pose} | ({partner.CODEC: ranges} if participant else {})
        | head_vae.codec(files, "") | decoder(files))


def recipes(tokens: bool, participant: bool) -> dict[str, dict]:
    """{column: how it is made}."""
    smirk = {"kind": "smirk", "rate": FPS}
    pose_recipe = {"kind": "quaternion wxyz, translation", "frame": "the release's", "rate": FPS}
    return {"audio": stereo.RECIPE, "partner_audio": stereo.RECIPE,
            "face": {"kind": "codec avatar expression", "width": WIDTH, "rate": FPS},
            "pose": pose_recipe, "pose_z": {**pose_recipe, "normalised": "head_normstats"}} | (
        {"partner_face": {**smirk, "parts": "50 expression, 2 eyelids, 3 jaw"},
         "partner_rotation": {**smirk, "parts": "rotation vector"}} if participant else {}) | (
        {"logits": logits.RECIPE} if tokens else {})


def statistics(files: Files, participant: bool) -> tuple[dict, dict]:
    """The owners' means and deviations of the pose; ranges of the participant's streams, {} without
    the participant. Raises UserError: missing, or of another kind."""
    pose = _statistics(files, {
        f"{end}_{part}": (f"headpose/headpose_normstats/head_{name}_{end}.npy", size)
        for end in ("mean", "std") for part, (name, size) in {
            "qvec": ("qvec", 4), "translation": ("translation", 3)}.items()})
    ranges = _statistics(files, {
        f"{stream}_{end}": (f"{_SMIRK}/stats/{name}_{end}.npy", size)
        for end in ("min", "max") for stream, (name, size) in {
            "expression": ("expression", EXPRESSION),
            "head": ("headpose", 3)}.items()}) if participant else {}
    for stream in ("expression", "head") if ranges else ():
        if not (ranges[f"{stream}_max"] > ranges[f"{stream}_min"]).all():
            raise UserError("statistics of the release", where=files.where(f"{_SMIRK}/stats"),
                            expected=f"a {stream}_max above its {stream}_min", found="one that is "
                            "not", hint="fetch them again, or --noparticipant")
    return {end: np.concatenate([pose[f"{end}_qvec"], pose[f"{end}_translation"]])
            for end in ("mean", "std")}, ranges


class Listing:
    """What was found, and how a segment of it is read."""

    def __init__(self, files: Files, tokens: str, participant: bool, pose: dict,
                 max_seconds: float):
        self._files, self._tokens, self._participant, self._pose = files, tokens, participant, pose
        self._max_seconds = max_seconds

    def _names(self, segment: str) -> dict[str, str]:
        names = {"audio": f"audio/{segment}.wav", "face": f"expression_codes/{segment}.npy",
                 "pose": f"headpose/{segment}--headpose.npy"}
        if self._tokens:
            names["tokens"] = f"{self._tokens}/{segment}.npy"
        if self._participant:
            names["partner_face"] = f"{_SMIRK}/{segment}--expression.npy"
            names["partner_rotation"] = f"{_SMIRK}/{segment}--headpose.npy"
        return names

    def item(self, segment: str) -> list:
        return [segment, [self._files.size(name) for name in self._names(segment).values()]]

    def read(self, item: list) -> Iterator[dict]:
        """The clips of a segment. Raises Unusable."""
        try:
            clip = self._read(item[0])
        except Unusable as error:
            error.of(item[0])
            raise
        yield from pieces.cut(clip, len(clip["face"]), self._max_seconds)

    def _read(self, segment: str) -> dict:
        names = self._names(segment)
        shapes = {"face": [(None, WIDTH)], "pose": [(None, 3, 4), (None, 4, 4)],
                  "partner_face": [(None, EXPRESSION)], "partner_rotation": [(None, 3)]}
        streams = {k: arrays.read(self._files, names[k], *allowed, kinds="f")
                   for k, allowed in shapes.items() if k in names}
        sound, notes = stereo.read(self._files, names["audio"])
        lengths = {k: len(x) for k, x in streams.items()}
        lengths["audio"] = (sound.shape[1] + SAMPLES // 2) // SAMPLES
        frames = min(lengths.values())
        if max(lengths.values()) - frames > APART or not frames:
            raise Unusable("lengths differ", where=self._files.where(names["audio"]),
                           expected=f"streams that end within {APART} frames",
                           found=", ".join(f"{k} {n}" for k, n in lengths.items()))
        if max(lengths.values()) > frames:
            notes.append("streams that end apart, cut to the shortest")
        if self._participant and not np.any(streams["partner_face"]):
            raise Unusable("the participant's face was never found",
                           where=self._files.where(names["partner_face"]), found="zeros")
        for k in streams:
            x = np.array(streams[k][:frames], np.float32)
            bad = arrays.not_finite(x)
            if k == "pose":  # between rotations lie no sums of their matrices
                x[bad] = np.eye(4)[: x.shape[1]]
                x = vectors(x[:, :3], self._files.where(names[k]))
            if bad.any():
                notes.append("frames that are not finite, interpolated")
                x = arrays.filled(x, bad, self._files.where(names[k]))
            streams[k] = x
        heard = sound.shape[1] / stereo.RATE
        sound = np.pad(sound, ((0, 0), (0, SAMPLES)))[:, : frames * SAMPLES]
        clip = {"id": segment, "speaker": SPEAKER, "identity": columns.identity_of(SPEAKER),
                "audio": sound[0], "pose_z": ((streams["pose"] - self._pose["mean"])
                                              / self._pose["std"]).astype(np.float32),
                "partner_speaker": PARTICIPANT, "partner_audio": sound[1],
                "partner_identity": columns.identity_of(PARTICIPANT),
                "mended": mended(*dict.fromkeys(notes)), **streams}
        if self._tokens:
            clip["logits"], clip["partner_logits"] = logits.read(self._files, names["tokens"],
                                                                 heard, frames / FPS)
        return clip


def vectors(poses_T34: np.ndarray, where: str) -> np.ndarray:
    """[R | t] (T, 3, 4) -> (T, 7) float32: quaternion wxyz, translation, as the release computes
    them.

    A rotation is two quaternions; the release has the one that pyquaternion's branches give (Day,
    "Converting a rotation matrix to a quaternion"): the component that a branch divides by is
    positive.

    Raises Unusable: matrices that are no rotations.
    """
    matrices = poses_T34[:, :, :3].astype(np.float64)
    if np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max() > 1e-2 or (
            np.linalg.det(matrices) < 0).any():
        raise Unusable("not rotations", where=where, expected="orthonormal matrices (N, 3, 3)")
    wxyz = np.roll(Rotation.from_matrix(matrices).as_quat(), 1, axis=-1)
    x, y, z = matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 2, 2]
    branch = np.where(z < 1e-8, np.where(x > y, 1, 2), np.where(x < -y, 3, 0))
    wxyz *= np.where(np.take_along_axis(wxyz, branch[:, None], 1) < 0, -1.0, 1.0)
    return np.concatenate([wxyz, poses_T34[:, :, 3]], 1).astype(np.float32)


def _statistics(files: Files, wanted: dict[str, tuple[str, int]]) -> dict[str, np.ndarray]:
    """{name: (size,) float32} of files. Raises UserError: missing, or of another kind."""
    missing = [name for name, _ in wanted.values() if name not in files]
    if missing:
        raise UserError("statistics of the release", where=files.where(""),
                        expected=", ".join(missing), found="no such files", hint="fetch them"
                        + (", or --noparticipant" if _SMIRK in missing[0] else ""))
    out = {}
    for key, (name, size) in wanted.items():
        try:
            array = arrays.read(files, name, (size,), (1, size), kinds="f").reshape(-1)
        except Unusable as error:
            hint = "fetch it" + (", or --noparticipant" if _SMIRK in name else "")
            raise UserError("statistics of the release", where=files.where(name),
                            expected=f"({size},) floats", found=str(error), hint=hint) from error
        if not np.isfinite(array).all() or (key.startswith("std") and (array <= 0).any()):
            raise UserError("statistics of the release", where=files.where(name),
                            expected="finite numbers, deviations above 0", found=str(array[:4]),
                            hint="fetch it again")
        out[key] = np.array(array, np.float32)
    return out


def decoder(files: Files) -> dict[str, dict[str, np.ndarray]]:
    """{"decoder": the mean face, its variance, and which weights draw it}; {} where the release's
    decoder is not there. The weights themselves stay where they are."""
    names = [f"decoder/{name}" for name in ("dec_params.pt", "vert_mean.bin", "vert_var.txt")]
    if not all(name in files for name in names):
        return {}
    weights, mean, variance = (files.content(name) for name in names)
    try:
        number = np.array(variance.tobytes().decode().split(), np.float32)
        if number.shape != (1,):
            raise ValueError(f"{len(number)} numbers in vert_var.txt")
        return {"decoder": {
            "vert_mean": mean.view(np.float32).reshape(-1, 3).copy(),
            "vert_var": number,
            "weights_sha256": np.asarray(hashlib.sha256(weights).hexdigest())}}
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError("the decoder's files are of another kind", where=str(files.root),
                        expected="vert_mean.bin of float32 (V, 3), vert_var.txt of a number",
                        found=str(error), hint="fetch them again, or take them out") from error


def columns_of(tokens: bool, participant: bool) -> dict[str, Feature]:
    out = columns.of_clip(text=False) | columns.of_speaker(face=WIDTH, pose=True, words=False)
    out |= columns.of_speaker("partner_", face=EXPRESSION if participant else None, words=False)
    out["pose"] = Feature((None, 7), "float32", "head in the release's frame: quaternion wxyz, "
                          "translation", "", FPS)
    out["pose_z"] = Feature((None, 7), "float32", "pose, z-scored by the release's statistics", "",
                            FPS)
    if participant:
        out["partner_rotation"] = Feature((None, 3), "float32", "head: rotation vector of SMIRK",
                                          "rad", FPS)
    if tokens:
        out |= {"logits": logits.column("the actor's"),
                "partner_logits": logits.column("the participant's")}
    return out


def prepare(
    source, out, *,
    participant: Annotated[bool, Option("with the participant's expression and head, leaving out "
                                        "segments that lack them")] = True,
    max_seconds: Annotated[float, Option("longer segments are cut into equal pieces",
                                         least=1)] = pieces.MAX_SECONDS,
    max_bad: MaxBad = 0.5, parallel=None, progress: bool = True,
):
    """Makes the dataset; see data_pipelines/ingest/common/corpus.py."""
    options = dict(participant=participant, max_seconds=max_seconds)
    return common.prepare(corpus, source, out, options, max_bad=max_bad, parallel=parallel,
                          progress=progress)


DATASET = Ingest(prepare, in_parts=True, made_of=functools.partial(common.made_of, corpus))
