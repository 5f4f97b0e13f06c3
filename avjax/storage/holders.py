"""Who holds a lock, and whether that process still runs; see avjax/storage/lock.py."""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import secrets
import socket
import sys

RECORD = 1024  # bytes of a record; always as long, so that no reader sees half of one
# File systems of one kernel, whose flock knows everybody. NFS's does too, unless it is mounted with
# local locks, which cannot be seen from here.
LOCAL = set("apfs bcachefs btrfs ext2 ext3 ext4 f2fs overlay ramfs tmpfs xfs zfs".split())


NEEDED = {"host", "pid", "boot", "space", "key", "beat", "since", "command"}


def myself() -> dict:
    """The record of this process, as a new holder."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "boot": _boot(),
        "space": _space(),
        "since": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        "command": " ".join(sys.argv)[:100],
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "ending": False,
        "key": secrets.token_hex(8),
        "beat": 0,
    }


def follows(mine: dict, holder: dict) -> bool:
    """Whether the holder is about to end: it was told to stop, or SLURM has started its job again
    elsewhere."""
    again = (
        mine["job"]
        and mine["job"] == holder.get("job")
        and mine["restarts"] > holder.get("restarts", 0)
    )
    return bool(again or holder.get("ending"))


def said(record: dict) -> str:
    """Who that is, for a reader."""
    if "pid" not in record:
        return str(record.get("host", "another process"))
    state = " (it is stopping)" if record.get("ending") else ""
    process = f"host {record['host']}, process {record['pid']}, since {record['since']}"
    return f"{process}{state}: {record['command']}"


def parsed(data: bytes) -> dict | None:
    """A record as it was written; None for anything else."""
    try:
        record = json.loads(data)
        return record if NEEDED <= record.keys() else None
    except (ValueError, AttributeError):
        return None


def place(record: dict) -> tuple:
    """Where a process' number means the same: a machine since its start, and one of its
    containers."""
    return record["boot"], record["space"], record["host"]


def _boot() -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _space() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _started(pid: int) -> str:
    """When a process of this machine began, in the kernel's count; "" for none, or one that only
    waits to be reaped."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        return ""


def runs(record: dict) -> bool:
    """Whether a holder of this `place` still does."""
    if os.path.exists("/proc/self/stat"):
        return _started(record["pid"]) == record.get("started") != ""
    try:
        os.kill(record["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def flock(fd: int) -> bool | None:
    """Whether the open file is now locked; None where the file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def same(fd: int, file: pathlib.Path) -> bool:
    """Whether the name still is the open file's."""
    try:
        found, here = os.stat(file), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (here.st_dev, here.st_ino)


def one_kernel(file: pathlib.Path) -> bool:
    """Whether the file lies on a disk that only this machine writes to."""
    path, best, kind = os.path.realpath(file), "", ""
    try:
        lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        mount, _, rest = line.partition(" - ")
        point = mount.split()[4]
        if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, rest.split()[0]
    return kind in LOCAL
