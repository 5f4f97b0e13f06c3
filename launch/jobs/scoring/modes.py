"""Which flags of `avjax evaluate` go together: a flag that would be read by nobody is an error, not
silence."""

from typing import Any

from avjax.errors import UserError

_JUDGES = {"vocoder", "geometry", "lip_vertices", "networks"}
_CHECKPOINT = {"config", "checkpoint", "split", "out", "keep_media", "ranked_by", "benchmark",
               "data", "processes", "shard"} | _JUDGES
# {flag that decides what is done: what it reads beside}, the first that is given counts
MODES = {
    "list": set(),
    "benchmarks": set(),
    "compare": {"out"},
    "sensitivity": {"config", "checkpoint", "split", "out"} | _JUDGES,
    "robustness": {"config", "checkpoint", "split", "out", "vocoder", "portraits"},
    "generated": {"generated_ids", "benchmark", "data", "out", "split", "networks", "ranked_by",
                  "processes", "shard"},
    "watch": {"watch_for", "watch_every"} | _CHECKPOINT,  # which says why it has one process
}
_SILENT = {"watch_for": 3600.0, "watch_every": 30.0}  # defaults of flags that have one
_WITH = {"portraits": "robustness", "watch_for": "watch", "watch_every": "watch",
         "generated_ids": "generated"}
_KNOWN = set(MODES) | _CHECKPOINT | set().union(*MODES.values())


def check(args: Any) -> None:
    """UserError: two flags that ask for different things, or one that nothing would read.

    Args:
      args: absl's FLAGS, or whatever has them as attributes.
    """
    given = {name for name in _KNOWN if _is_given(name, getattr(args, name, None))}
    mode = next((name for name in MODES if name in given), "")
    unread = given - {mode} - (MODES[mode] if mode else _CHECKPOINT)
    if not unread:
        return
    name = min(unread, key=lambda flag: (flag not in MODES, flag))
    if not mode:
        raise UserError(f"--{name} without --{_WITH[name]}", where="command line",
                        expected=f"--{_WITH[name]}, which reads it", found=f"--{name} alone")
    raise UserError(f"--{mode} and --{name}", where="command line", found="both",
                    expected="one of the two" if name in (*MODES, "checkpoint") else
                    f"--{mode} alone, or with "
                    + (", ".join(f"--{flag}" for flag in sorted(MODES[mode])) or "nothing"))


def _is_given(name: str, value: Any) -> bool:
    return not (value is None or value is False or value in ("", [], ())
                or value == _SILENT.get(name))
