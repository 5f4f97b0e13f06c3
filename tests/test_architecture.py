"""The floors of docs/architecture.md, checked on the imports themselves (those inside functions
too), and the size of files and folders."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# A room imports itself and rooms of lower floors. Two rooms of one floor do not know each other.
FLOORS = (
    ("avjax.errors",),
    ("avjax.fields", "avjax.storage", "avjax.hardware", "avjax.sharding", "avjax.weights"),
    ("avjax.signal", "avjax.flow", "avjax.hosts"),
    ("avjax.nn",),
    ("avjax.encoders", "avjax.codecs"),
    ("avjax.systems",),
    ("avjax.systems.registry",),
    ("avjax.systems.api",),
    ("avjax.systems.benchmarking",),
    ("avjax.systems.*",),
    ("avjax.checkpoint",),
    ("avjax.telemetry",),
    ("avjax.training", "avjax.inference"),
    ("avjax.planning",),
    ("data_pipelines.store", "data_pipelines.declared"),
    ("data_pipelines.media",),
    ("data_pipelines.puppets", "data_pipelines.loading", "data_pipelines.features"),
    ("data_pipelines.prompting",  # what a family of features declares
     "data_pipelines.vocoders", "data_pipelines.geometry"),
    ("data_pipelines.decode",),
    ("data_pipelines.live",),
    ("data_pipelines.features.common",),
    ("data_pipelines.features.*",),
    ("data_pipelines.features.hallo2",  # prompts by TAVID's features
     "data_pipelines.features.units",  # writes TAVID's tokens and turns too
     "data_pipelines.features.text_tokens"),  # and AV-Flow's tokens
    ("data_pipelines.extract",),
    ("data_pipelines.ingest",),
    ("data_pipelines.prepare",),
    ("eval",),
    ("configs",),
    ("launch",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
BANNED = {"tests", "tensorflow", "torch", "torchaudio", "google", "boto3"}
LONGEST = 400  # lines of a file
FLAT = 14  # files of a folder, not counting __init__.py
TOPS = ("avjax", "data_pipelines", "eval", "configs", "launch")
SOURCES = sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
           for path in SOURCES}


def imports(path: pathlib.Path) -> set[str]:
    """Modules that a file imports, with the names it takes of them where these are modules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                names.add(name if name in MODULES else node.module)
    return names


def room(module: str) -> tuple[str, int]:
    """The room that a module belongs to and its floor: of the longest name in FLOORS. Each folder
    that a "*" stands for is a room of its own."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name, folder = ".".join(parts[:length]), ".".join((*parts[:length - 1], "*"))
        if name in FLOOR or folder in FLOOR:
            return name, FLOOR[name if name in FLOOR else folder]
    raise AssertionError(f"{module} is in no room of FLOORS")


@pytest.mark.parametrize("top", TOPS)
def test_imports_go_to_a_lower_floor(top):
    wrong = []
    for module, path in MODULES.items():
        if module.split(".")[0] != top or module in ("avjax", "data_pipelines"):
            continue
        here, floor = room(module)
        for name in imports(path):
            root = name.split(".")[0]
            assert root not in BANNED, f"{module} imports {name}"
            if root in TOPS:
                there, lower = room(name)
                if there != here and lower >= floor:
                    wrong.append(f"{module} (floor {floor}) imports {name} (floor {lower})")
    assert not wrong, "\n".join(wrong)


def test_a_file_is_short():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {name: count for name, count in lines.items() if count > LONGEST}


def test_a_folder_holds_few_files():
    folders = {path.parent for path in SOURCES}
    crowded = {}
    for folder in folders:
        count = len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        if count > FLAT:
            crowded[str(folder.relative_to(ROOT))] = count
    # one file a command, one file an experiment: their names are what a user types
    assert set(crowded) <= {"launch", "configs"}, crowded


def test_attention_is_written_once():
    """Networks call avjax.nn.attention; the other softmax is over units, not keys."""
    found = {str(path.relative_to(ROOT)) for path in SOURCES if "nn.softmax(" in path.read_text()}
    assert found == {"avjax/nn/attention_kernels.py", "avjax/systems/tavid/text/draws.py"}
