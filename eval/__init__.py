"""Metrics, benchmarks and reports."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)  # a lab's own folders, on PYTHONPATH
