"""TensorBoard's files, written so that a disk that fails is told and hangs nothing."""

from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from avjax.storage import failures


class Events(SummaryWriter):
    """tensorboardX' writer, whose first error is raised by `check`.

    In 2.6.5 it ends the thread that writes, with a traceback, and the eleventh event after that
    waits for ever.
    """

    def __init__(self, folder: Path, **options: Any):
        super().__init__(str(folder), **options)
        self._folder, events = folder, self._get_file_writer().event_writer
        self._kept = events._ev_writer = events._worker._record_writer = _Kept(events._ev_writer)

    def check(self) -> None:
        """Raises what has gone wrong since the beginning."""
        if self._kept.error is not None:
            with failures.working_on(self._folder):
                raise self._kept.error


class _Kept:
    """Calls the methods of a writer until one fails, and keeps that error."""

    def __init__(self, writer):
        self._writer, self.error = writer, None

    def __getattr__(self, name: str):
        def call(*args):
            if self.error is None:
                try:
                    return getattr(self._writer, name)(*args)
                except Exception as error:
                    self.error = error
        return call
