"""XProf traces of a few steps, planned or on demand, without restarting a job.

    config.train.profile_at=1000                      from step 1000 on, config.train.profile_steps of them
    touch WORKDIR/profile.now                         from the next step on; a number in the file is how many steps
    tensorboard --logdir WORKDIR/profile              (with the package xprof) shows them

A file rather than a signal: it reaches a job on any machine that sees its workdir, and asks no
questions of containers and schedulers. Host 0 traces its own devices, and removes the file once it
has begun.
"""

import time
from pathlib import Path
from typing import Any

import jax

REQUEST, FOLDER = "profile.now", "profile"
MOST = 100  # steps of a trace that is asked for: they are held in memory


class Profiler:
    """Call `before` every step and `close` at the end; both cheap while nothing is asked for.

    Args:
      requests: the folder in which `profile.now` may appear.
      out: where traces go.
      first, steps: config.train.profile_at (-1 = never) and profile_steps.
      every: seconds between looks for a request.
    """

    def __init__(self, requests: Path, out: Path, *, first: int, steps: int, every: float = 1.0):
        self._request, self.out, self._every = requests / REQUEST, out, every
        self._first, self._default = first, steps
        self._until: int | None = None  # the step before which the trace ends, while there is one
        self._looked, self._began = time.monotonic(), 0

    def before(self, step: int, state: Any) -> str:
        """Called with the number of steps done, before the next. What happened, in words, or ""."""
        if self._until is not None:
            return self._stop(step, state) if step >= self._until else ""
        count = self._default if step == self._first else self._asked()
        if not count:
            return ""
        jax.profiler.start_trace(str(self.out))
        self._began, self._until = step, step + count
        return f"tracing {count} steps"

    def _asked(self) -> int:
        """Steps that a request asks for; 0 where there is none."""
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
        return min(max(int(text), 1), MOST) if text.isdigit() else self._default

    def _stop(self, step: int, state: Any) -> str:
        jax.block_until_ready(state)
        self.close()
        return f"profile of {step - self._began} steps in {self.out}"

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._until is not None:
            self._until = None
            jax.profiler.stop_trace()
