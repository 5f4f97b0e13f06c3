"""The arrows of docs/architecture.md, checked on the imports themselves."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ABOVE = {  # room -> rooms that it must not import
    "avjax": {"launch", "configs", "data_pipelines", "eval", "tests"},
    "data_pipelines": {"launch", "configs", "eval", "tests"},
    "eval": {"launch", "configs", "tests"},
    "configs": {"launch", "tests"},
    "launch": {"tests"},
}
BELOW_SYSTEMS = ("nn", "flow", "codecs", "encoders", "weights")
BANNED = {"tensorflow", "torch", "torchaudio", "google", "boto3"}


def imports(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", ABOVE)
def test_rooms_import_downwards_only(room):
    for path in (ROOT / room).rglob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & ABOVE[room], f"{path.relative_to(ROOT)} imports {roots & ABOVE[room]}"
        assert not roots & BANNED, f"{path.relative_to(ROOT)} imports {roots & BANNED}"


def test_systems_do_not_import_each_other_and_rest_on_lower_rooms():
    systems = ROOT / "avjax" / "systems"
    shared = {"api", "registry", "benchmarking"}
    folders = {p.stem for p in systems.iterdir() if p.is_dir()}
    for path in systems.rglob("*.py"):
        own = path.relative_to(systems).parts[0].removesuffix(".py")
        for name in imports(path):
            if name.startswith("avjax.systems."):
                target = name.split(".")[2]
                assert target in {own} | shared, f"{path.relative_to(ROOT)} imports {name}"
                assert target in folders | shared
            assert not name.startswith("avjax.training"), f"{path.relative_to(ROOT)} imports {name}"
    for room in BELOW_SYSTEMS:
        for path in (ROOT / "avjax" / room).rglob("*.py"):
            if room == "weights":
                continue  # name tables may know the systems whose names they translate
            bad = {n for n in imports(path) if n.startswith(("avjax.systems", "avjax.training"))}
            assert not bad, f"{path.relative_to(ROOT)} imports {bad}"
