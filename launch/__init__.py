"""The commands: python -m launch.train, launch.prepare, ... from any folder.

`python -m` looks into the current folder before it looks at what is installed, and a user's own
`eval.py` or `configs` there would be taken for ours. So ours are imported here, from where this
package lies.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

for _name in ("avjax", "configs", "data_pipelines", "eval"):
    if _name not in sys.modules:
        _file = ROOT / _name / "__init__.py"
        _spec = importlib.util.spec_from_file_location(_name, _file,
                                                       submodule_search_locations=[
                                                           str(_file.parent)])
        sys.modules[_name] = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules[_name])
