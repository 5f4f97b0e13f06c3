"""Where a stream is written: standard output, a pipe or a device, or files that grow.

A file that grows is OUT.part.<format> and gets its name when it is complete, so that nothing cut
looks whole; a film that was cut plays all the same.
"""

import contextlib
import dataclasses
import os
import pathlib
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO

from avjax.errors import UserError
from avjax.storage import failures
from data_pipelines.live import writers

STDOUT = ("-", "/dev/stdout", "pipe:", "pipe:1")
FILES = ("wav", "mp4")  # what is written where no format is asked for


@dataclasses.dataclass(frozen=True)
class Target:
    """One format and its place. `path` None: standard output. `optional`: nobody asked for it, so
    it is left out where there is nothing to see."""

    kind: str
    path: pathlib.Path | None
    optional: bool = False

    @property
    def grows(self) -> bool:
        """Whether it is a file, rather than a pipe or a device."""
        return self.path is not None and not is_special(self.path)

    @property
    def part(self) -> pathlib.Path:
        """What a file that grows is called until it is complete."""
        return self.path.with_name(f"{self.path.stem}.part{self.path.suffix}")

    @property
    def missing(self) -> bool:
        """Whether a file that grew was left out."""
        return self.optional and not self.path.exists()

    def __str__(self) -> str:
        return "standard output" if self.path is None else str(self.path)


def is_special(path: pathlib.Path) -> bool:
    """A named pipe, a device or a socket."""
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def goes_on(out: str) -> bool:
    """Whether `--out` is standard output, a pipe or a device."""
    return out in STDOUT or is_special(pathlib.Path(out))


def targets(out: str, kind: str) -> list[Target]:
    """What `--out` and `--format` mean. UserError for a pipe without a format, or for two."""
    if kind and kind not in writers.FORMATS:
        raise UserError("unknown format", where="--format",
                        expected=" or ".join(writers.FORMATS), found=repr(kind))
    path = None if out in STDOUT else pathlib.Path(out)
    suffix = "" if path is None else path.suffix.removeprefix(".")
    named = suffix if suffix in writers.FORMATS else ""
    if kind and named and kind != named:
        raise UserError("two formats", where="--out, --format", expected="one of them",
                        found=f"{path.name} and {kind}")
    kind = kind or named
    if path is None or is_special(path):
        if not kind:
            raise UserError("a pipe needs a format", where=f"--out={out}",
                            expected=f"--format={'|'.join(writers.FORMATS)}", found="none")
        return [Target(kind, path)]
    if named:
        return [Target(kind, path)]
    return [Target(k, path.with_name(f"{path.name}.{k}"), optional=not kind and k == "mp4")
            for k in ([kind] if kind else FILES)]


def free_stdout() -> int:
    """Keeps standard output for the stream alone: what else is printed goes to standard error.
    Returns the descriptor to write to."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


@contextlib.contextmanager
def opened(target: Target, stdout: int | None) -> Iterator[BinaryIO]:
    """The file of a target, for the time it is written; renamed where the stream ended well. A
    named pipe waits for its reader."""
    if target.path is None:
        with os.fdopen(stdout, "wb", closefd=False) as file:
            yield file
        return
    if not target.grows:
        with failures.working_on(target.path), open(target.path, "wb") as file:
            yield file
        return
    with failures.working_on(target.path):
        target.path.parent.mkdir(parents=True, exist_ok=True)
        with open(target.part, "wb") as file:
            yield file
        if target.optional and not target.part.stat().st_size:
            target.part.unlink()
        else:
            os.replace(target.part, target.path)
