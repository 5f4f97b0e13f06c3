"""The record of a lock's holder, and whether that process still runs; see avjax/storage/lock.py."""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import secrets
import socket
import sys

RECORD = 1024  # bytes of a record, always the same, so that no reader sees half of one
# File systems of one kernel, whose flock covers all their users. So does NFS's, unless it is
# mounted with local locks, which cannot be seen from here.
LOCAL = set("apfs bcachefs btrfs ext2 ext3 ext4 f2fs overlay ramfs tmpfs xfs zfs".split())
NEEDED = {"host", "pid", "boot", "space", "key", "beat", "since", "command"}


def new_record() -> dict:
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


def is_predecessor_of(mine: dict, holder: dict) -> bool:
    """Whether the holder is about to end: it announced that, or SLURM has started its job again as
    this one."""
    requeued = (mine["job"] and mine["job"] == holder.get("job")
                and mine["restarts"] > holder.get("restarts", 0))
    return bool(requeued or holder.get("ending"))


def describe(record: dict) -> str:
    """The holder, for a message."""
    if "pid" not in record:
        return str(record.get("host", "another process"))
    state = " (it is stopping)" if record.get("ending") else ""
    process = f"host {record['host']}, process {record['pid']}, since {record['since']}"
    return f"{process}{state}: {record['command']}"


def parse(data: bytes) -> dict | None:
    """The record in a file; None for anything else."""
    try:
        record = json.loads(data)
        return record if NEEDED <= record.keys() else None
    except (ValueError, AttributeError):
        return None


def machine(record: dict) -> tuple:
    """What a process' number belongs to: a machine since its boot, and one of its containers."""
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
    """When a process of this machine began, in the kernel's ticks; "" for none, or a zombie."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        return ""


def is_running(record: dict) -> bool:
    """Whether a holder of this `machine` still runs."""
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
    """Locks an open file. False: another process has; None: the file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_same_file(fd: int, file: pathlib.Path) -> bool:
    """Whether `file` still is the open file."""
    try:
        found, here = os.stat(file), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (here.st_dev, here.st_ino)


def is_on_local_disk(file: pathlib.Path) -> bool:
    """Whether the file is on a disk that only this machine writes to."""
    path = os.path.realpath(file)
    best = kind = ""
    try:
        lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        mount, _, rest = line.partition(" - ")
        point = mount.split()[4]
        if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best = point
            kind = rest.split()[0]
    return kind in LOCAL
