"""Apache Beam as a pool of workers: the same function of many items, on the workers of a runner.

Workers need this project installed and see the same folders as the job (NFS, Lustre, Filestore, a
bucket mounted on every worker). They write results there, in files of their own, so that running an
item twice, as runners may, does no harm. Nothing is returned, and the job continues when all are
done: the result does not depend on the runner.

Needs the extra `beam` (apache-beam 2.70 or later).
"""

import functools
import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any

from avjax import errors
from avjax.errors import UserError

# Beam's own runner for one machine. (Its "DirectRunner" tries to fetch another program, Prism,
# before it falls back to this.)
LOCAL = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
HERE = ("--direct_running_mode=multi_processing", "--direct_num_workers=0")  # a process a core


class Beam:
    """What `launch.prepare --runner=beam` gives to an ingest as `parallel`.

    Args:
      options: Beam's, as on a command line, e.g. "--runner=FlinkRunner --flink_master=host:8081";
        "" = this machine's cores.
      parts: into how many a dataset is cut, where it is made in parts: several times the workers.
    """

    def __init__(self, options: str = "", parts: int = 64):
        self.parts = parts
        self._options = shlex.split(options) or list(HERE)

    def for_each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> None:
        """Calls `function` with every item, somewhere, in any order; both must be picklable by
        reference to this project.

        Raises:
          UserError: Beam is missing; or what a call raised, the first of them.
        """
        try:
            import apache_beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise UserError("Apache Beam is not installed", where="--runner=beam",
                            expected="the extra `beam`",
                            hint="pip install 'avjax[beam]'") from error
        given = any(option.startswith("--runner") for option in self._options)
        options = PipelineOptions([*([] if given else [f"--runner={LOCAL}"]), *self._options])
        try:
            with apache_beam.Pipeline(options=options) as pipeline:
                pipeline | apache_beam.Create(
                    list(items)) | apache_beam.Reshuffle() | apache_beam.Map(
                    functools.partial(_call, function))
        except Exception as error:
            raise _said(error) from error


def _call(function, item) -> None:
    function(item)


def _said(error: Exception) -> Exception:
    """The one-line error of a worker, which Beam hands on as a part of a longer text; any other
    error as it is."""
    found = re.search(r"(UserError|StorageError|DiskFull): (.+?)(?: \[while running|\\n|\n|$)",
                      str(error))
    return getattr(errors, found[1])(found[2]) if found else error
