"""Held-out benchmarks, one a file; `config.evaluate.benchmark` names one. Each has a class
`Benchmark`, derived from that of common/base.py."""

import importlib
import pkgutil

from avjax.errors import UserError

__path__ = pkgutil.extend_path(__path__, __name__)  # a lab's own folders, on PYTHONPATH


def names() -> list[str]:
    """Benchmarks one may name."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg)


def load(name: str):
    """The class `Benchmark` of `eval.benchmarks.<name>`."""
    if name not in names():
        raise UserError("unknown benchmark", where="config.evaluate.benchmark",
                        expected=" or ".join(names()), found=repr(name),
                        hint="name one of the files of eval/benchmarks")
    return importlib.import_module(f"eval.benchmarks.{name}").Benchmark
