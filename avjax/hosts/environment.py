"""JAX settings that change results: pinned, or recorded with a run and compared when it resumes.

JAX reads them from the environment (JAX_ENABLE_X64=1, ...), so without this check a shell's profile
would decide whether a run resumes with the random numbers it was begun with.
"""

import os
from collections.abc import Mapping
from typing import Any

from avjax.errors import UserError

PINNED = {
    "jax_enable_x64": False,
    "jax_disable_jit": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
}
RANDOM = {
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
}  # JAX's defaults
ROUNDING = ("jax_default_matmul_precision", "jax_use_shardy_partitioner")
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")


def pin() -> list[str]:
    """Sets what this code was written for; returns a line about each setting that differed. Imports
    JAX only where one may differ."""
    if not any(name.upper() in os.environ for name in PINNED):
        return []
    import jax

    notes = []
    for name, value in PINNED.items():
        if (found := getattr(jax.config, name, value)) != value:
            jax.config.update(name, value)
            notes.append(f"{name.upper()}={found} is set aside: this code computes with "
                         f"{name.upper()}={value}")
    return notes


def check() -> None:
    """Raises UserError where a setting is not what this code was written for, when `pin` was not
    called."""
    import jax

    for name, value in PINNED.items():
        if (found := getattr(jax.config, name, value)) != value:
            raise UserError("JAX is set to compute otherwise than this code was written for",
                            where=name, expected=str(value), found=str(found),
                            hint=f"unset {name.upper()}, or "
                            f"jax.config.update({name!r}, {value!r})")


def settings() -> dict[str, Any]:
    """The settings of this process, as JSON."""
    import jax

    found = {name: getattr(jax.config, name, None) for name in (*PINNED, *RANDOM, *ROUNDING)}
    return found | {name: os.environ.get(name, "") for name in VARIABLES} | {"jax": jax.__version__}


def unusual() -> dict[str, Any]:
    """Settings of random numbers that differ from JAX's defaults: they decide a sample too."""
    now = settings()
    return {name: now[name] for name, value in RANDOM.items() if now[name] not in (value, None)}


def compare(before: Mapping[str, Any], where: str) -> list[str]:
    """Notes on settings that differ from those of a checkpoint, where sums may round otherwise.
    Raises UserError where other random numbers would be drawn, or the precision differs."""
    notes = []
    for name, now in settings().items():
        then = before.get(name, now)
        if then == now:
            continue
        if name in RANDOM or name in PINNED:
            raise UserError(
                "this run was begun with another setting of JAX, which changes its numbers",
                where=f"{name}, {where}", expected=f"{name.upper()}={then}",
                found=f"{name.upper()}={now}", hint="set it as it was, or use another --workdir")
        notes.append(f"resuming with another {name}, so sums may round otherwise: "
                     f"{then!r} before, {now!r} now")
    return notes
