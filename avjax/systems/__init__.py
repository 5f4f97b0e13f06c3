"""Extended by folders of the same name elsewhere on PYTHONPATH: see docs/adding_a_system.md."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)
