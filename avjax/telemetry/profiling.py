"""XProf traces of a few steps, planned or on demand, without restarting a job.

    config.train.profile_at=1000            from step 1000, config.train.profile_steps of them
    touch WORKDIR/profile.now               from the next step; a number in the file: how many steps
    tensorboard --logdir WORKDIR/profile    (with the package xprof) shows them

A file, unlike a signal, reaches a job on any machine that sees its workdir, whatever container or
scheduler it runs in. Host 0 traces its own devices, and removes the file when the trace begins.
"""

import time
from pathlib import Path
from typing import Any

import jax

REQUEST, FOLDER = "profile.now", "profile"
MAX_STEPS = 100  # of a trace on demand: they are held in memory


class Profiler:
    """Call `before_step` before every step and `close` at the end; both are cheap without a trace.

    Args:
      requests: the folder in which `profile.now` may appear.
      out: where traces go.
      first, steps: config.train.profile_at (-1 = never) and profile_steps.
      every: seconds between looks for a request.
    """

    def __init__(self, requests: Path, out: Path, *, first: int, steps: int, every: float = 1.0):
        self._request = requests / REQUEST
        self.out = out
        self._every = every
        self._first = first
        self._default = steps
        self._until: int | None = None  # the step before which the trace ends, while there is one
        self._looked = time.monotonic()
        self._began = 0

    def before_step(self, step: int, state: Any) -> str:
        """`step` steps are done. Returns what happened, in words, or ""."""
        if self._until is not None:
            return self._stop(step, state) if step >= self._until else ""
        count = self._default if step == self._first else self._requested()
        if not count:
            return ""
        jax.profiler.start_trace(str(self.out))
        self._began = step
        self._until = step + count
        return f"tracing {count} steps"

    def _requested(self) -> int:
        """How many steps profile.now asks for; 0 without one."""
        now = time.monotonic()
        if now - self._looked < self._every:
            return 0
        self._looked = now
        try:
            if not self._request.exists():
                return 0
            text = self._request.read_text().strip()
            self._request.unlink()
        except OSError:
            return 0
        return min(max(int(text), 1), MAX_STEPS) if text.isdigit() else self._default

    def _stop(self, step: int, state: Any) -> str:
        jax.block_until_ready(state)
        self.close()
        return f"profile of {step - self._began} steps in {self.out}"

    def close(self) -> None:
        """Ends the current trace, if there is one."""
        if self._until is not None:
            self._until = None
            jax.profiler.stop_trace()
