"""The code that a job runs: one archive of this tree, named by its revision, unpacked or built into
an image.

A clean tree is packed by `git archive`. Uncommitted changes raise UserError, because nobody could
tell later what ran, unless they are requested: then all files that git does not ignore are packed
as they are, and the revision contains a hash of the changes.
"""

import hashlib
import pathlib
import shlex
import subprocess

from avjax.errors import UserError

ARCHIVE = "avjax-{revision}.tar.gz"

DOCKERFILE = """\
# Build with the archive beside this file: docker build --tag {image}:{revision} .
FROM python:3.12-slim
ADD {archive} /avjax/
WORKDIR /avjax
RUN pip install --no-cache-dir --editable '.{extras}'
ENV PYTHONUNBUFFERED=1
"""


def revision(root: pathlib.Path, uncommitted: bool) -> str:
    """12 hex digits of the commit, and "-HASH" where changes are packed. Raises UserError: no git
    checkout, or changes that are not requested."""
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD").decode().strip()
        changed = _git(root, "status", "--porcelain").decode().splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError("the code to pack is not a git checkout", where=str(root), found=str(error),
                        hint="clone the repository and submit from there") from error
    if not changed:
        return commit
    if not uncommitted:
        more = " and more" if len(changed) > 5 else ""
        raise UserError("the tree has changes that are not committed", where=str(root),
                        found=", ".join(line[3:] for line in changed[:5]) + more,
                        hint="commit them, or --uncommitted to pack the files as they lie")
    digest = hashlib.sha256(_git(root, "diff", "HEAD", "--binary"))
    for name in _git(root, "ls-files", "-z", "--others", "--exclude-standard").split(b"\0")[:-1]:
        digest.update(name + b"\0" + (root / name.decode()).read_bytes())
    return f"{commit}-{digest.hexdigest()[:8]}"


def archive(revision: str) -> str:
    """The archive's name."""
    return ARCHIVE.format(revision=revision)


def pack(root: pathlib.Path, revision: str) -> tuple[str, ...]:
    """The command that writes the archive into the current folder."""
    where, name = shlex.quote(str(root)), archive(revision)
    committed = f"git -C {where} archive --format=tar.gz HEAD > {name}"
    as_it_lies = (f"git -C {where} ls-files -z --cached --others --exclude-standard | "
                  f"tar -C {where} --null --files-from=- --ignore-failed-read -czf {name}")
    return "bash", "-o", "pipefail", "-c", as_it_lies if "-" in revision else committed


def extras(names: tuple[str, ...]) -> str:
    """"[a,b]", or "" for none, as pip reads it."""
    return f"[{','.join(names)}]" if names else ""


def dockerfile(image: str, revision: str, extra_names: tuple[str, ...]) -> str:
    return DOCKERFILE.format(image=image, revision=revision, archive=archive(revision),
                             extras=extras(extra_names))


def image_commands(image: str, revision: str) -> tuple[tuple[str, ...], ...]:
    """Builds and pushes the image of a Dockerfile in the current folder. Clusters are linux/amd64
    whatever this machine is."""
    tag = f"{image}:{revision}"
    return (("docker", "build", "--platform", "linux/amd64", "--tag", tag, "."),
            ("docker", "push", tag))


def _git(root: pathlib.Path, *arguments: str) -> bytes:
    return subprocess.run(("git", "-C", str(root), *arguments), check=True,
                          capture_output=True).stdout
