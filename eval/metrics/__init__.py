"""Metric families, one a file. Every file carries RECIPE, the exact definition that travels with
each number, and declares its metrics (see eval/registry.py)."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)  # a lab's own folders, on PYTHONPATH
