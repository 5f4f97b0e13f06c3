"""A Codec Avatar's geometry where streams are decoded: its files, and which vertices are lips.

--geometry is the release's decoder/dec_params.pt, or the folder that it is in. The mean face and
its variance are vert_mean.bin and vert_var.txt beside it, else what the clips brought (codec
"decoder"). --lip_vertices is a JSON file of numbers of vertices: {"inner": [[upper, lower], ...],
"corners": [left, right]}.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from avjax.codecs import codec_avatar
from avjax.codecs.codec_avatar import CodecAvatar
from avjax.errors import UserError
from avjax.weights.reader import file_sha256

CODEC = "decoder"  # of clips whose corpus brings the mean face
FILE, MEAN, VARIANCE = "dec_params.pt", "vert_mean.bin", "vert_var.txt"


@dataclasses.dataclass(frozen=True)
class Lips:
    """Vertices of a mouth.

    Attributes:
      pairs_K2: of the inner lips, upper and lower.
      corners: left and right.
    """

    pairs_K2: np.ndarray
    corners: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Vertices, and what they tell of the mouth.

    Attributes:
      avatar: of all vertices.
      recipe: which weights, and which lips.
      lips: None where nobody said which vertices they are.
    """

    avatar: CodecAvatar
    recipe: dict
    lips: Lips | None = None

    def mouth(self, codes_NZ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(distance of the inner lips, of the mouth's corners), (N,) each, in the vertices' unit:
        the mean over the pairs (F1_lips, F1_smiles)."""
        if self.lips is None:
            raise UserError("which vertices are lips?", where="--lip_vertices", found="none",
                            expected="a file that names them")
        own = self.avatar.only([*self.lips.pairs_K2.ravel(), *self.lips.corners])
        xyz_NV3 = own(codes_NZ).astype(np.float64)
        pairs_NK23 = xyz_NV3[:, :-2].reshape(len(xyz_NV3), -1, 2, 3)
        apart_NK = np.linalg.norm(pairs_NK23[:, :, 0] - pairs_NK23[:, :, 1], axis=-1)
        return apart_NK.mean(1), np.linalg.norm(xyz_NV3[:, -2] - xyz_NV3[:, -1], axis=-1)

    def smile(self, codes_NZ: np.ndarray) -> np.ndarray:
        """(N,) distance of the mouth's corners, in those of the mean face."""
        width_N = self.mouth(codes_NZ)[1]
        left, right = (self.avatar.mean_V3[k].astype(np.float64) for k in self.lips.corners)
        return width_N / np.linalg.norm(left - right)


def of_flags(path: str, lip_vertices: str, codecs: Mapping[str, Mapping[str, np.ndarray]],
             face_kind: str) -> Geometry | None:
    """None without a path. UserError: a model whose faces are of another kind; as `load`."""
    if lip_vertices and not path:
        raise UserError("lips of which vertices?", where="--lip_vertices",
                        expected="--geometry beside it", found="none")
    if path and face_kind in ("puppet", "eigenface"):
        raise UserError("these faces have no vertices", where="--geometry",
                        expected="expression codes of a Codec Avatar", found=face_kind,
                        hint="leave it out")
    return load(path, codecs, lip_vertices) if path else None


def load(path: str | os.PathLike, codecs: Mapping[str, Mapping[str, np.ndarray]],
         lip_vertices: str = "") -> Geometry:
    """UserError: files that are missing, of another kind, or of another avatar than the clips'."""
    file = pathlib.Path(path).expanduser()
    file = file / FILE if file.is_dir() else file
    if not file.is_file():
        raise UserError("no such decoder", where=f"--geometry={path}", found="nothing",
                        expected=f"the release's {FILE}, or its folder")
    given, digest = codecs.get(CODEC, {}), file_sha256(file)
    if "weights_sha256" in given and str(given["weights_sha256"]) != digest:
        raise UserError("the decoder of another avatar", where=f"--geometry={path}",
                        expected=f"sha256 {given['weights_sha256']}, which the clips came with",
                        found=digest, hint="give the decoder of the corpus")
    avatar = codec_avatar.from_file(file, *_normalised(file.parent, given))
    recipe = {"kind": "codec avatar", "weights": digest[:16]}
    if not lip_vertices:
        return Geometry(avatar, recipe)
    lips = read_lips(lip_vertices)
    avatar.only([*lips.pairs_K2.ravel(), *lips.corners])  # said now if there is no such vertex
    return Geometry(avatar, recipe | {"inner": lips.pairs_K2.tolist(),
                                      "corners": list(lips.corners)}, lips)


def _normalised(folder: pathlib.Path, given: Mapping) -> tuple[np.ndarray, float]:
    """(mean face (V, 3), variance)."""
    files = folder / MEAN, folder / VARIANCE
    if not all(file.is_file() for file in files):
        if not {"vert_mean", "vert_var"} <= given.keys():
            raise UserError("no mean face", where=str(folder),
                            expected=f"{MEAN} and {VARIANCE} beside the decoder", found="neither, "
                            "nor clips that brought them", hint="copy them there")
        return given["vert_mean"], float(np.ravel(given["vert_var"])[0])
    try:
        mean = np.fromfile(files[0], np.float32)
        return mean.reshape(-1, 3), float(files[1].read_text())
    except ValueError as error:
        raise UserError("a mean face of another kind", where=str(folder), found=str(error),
                        expected=f"{MEAN} of float32 (V, 3), {VARIANCE} of a number",
                        hint="fetch them again") from error


def read_lips(path: str) -> Lips:
    """The vertices of a JSON file. UserError: not so."""
    try:
        found = json.loads(pathlib.Path(path).expanduser().read_text())
        pairs, corners = np.array(found["inner"]), np.array(found["corners"])
        if pairs.ndim != 2 or pairs.shape[1] != 2 or corners.shape != (2,) \
                or {pairs.dtype.kind, corners.dtype.kind} != {"i"}:
            raise ValueError(f"inner {pairs.shape}, corners {corners.shape}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError("no list of lip vertices", where=f"--lip_vertices={path}",
                        expected='{"inner": [[upper, lower], ...], "corners": [left, right]}',
                        found=repr(error)) from error
    return Lips(pairs, (int(corners[0]), int(corners[1])))
