"""Mean and standard deviation of LIA-X motion codes, as the release keeps them."""

import pathlib

import numpy as np

from avjax.codecs.motion import DIM
from avjax.errors import UserError

STD_FLOOR = 1e-6  # as the release clips it


def motion_statistics(source: pathlib.Path, folder: str | None) -> dict[str, np.ndarray]:
    """{"mean", "std"} (40,) float32, std at least 1e-6, of the folder, else of where they may lie
    in the source. Raises UserError: missing, unreadable, another width."""
    places = [pathlib.Path(folder)] if folder else [source / "lia_x", source / "metadata", source]
    place = next((p for p in places if (p / "motion_mean.npy").is_file()
                  and (p / "motion_std.npy").is_file()), None)
    if place is None:
        raise UserError("motion statistics missing", where=", ".join(map(str, places)),
                        expected="motion_mean.npy and motion_std.npy", found="none",
                        hint="--statistics=DIR, the folder that has them (lia_x of the release)")
    out = {}
    for key in ("mean", "std"):
        path = place / f"motion_{key}.npy"
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise UserError("unreadable motion statistics", where=str(path),
                            expected="a plain .npy file", found=str(error),
                            hint="fetch it again") from error
        if array.shape != (DIM,) or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise UserError("motion statistics of another kind", where=str(path),
                            expected=f"({DIM},) finite floats",
                            found=f"{array.shape} {array.dtype}", hint="--statistics=DIR")
        out[key] = array.astype(np.float32)
    return out | {"std": np.maximum(out["std"], STD_FLOOR)}
