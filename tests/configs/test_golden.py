"""The resolved config of every shipped experiment is what it was."""

import difflib

import pytest

from launch import ROOT, config_report
from tests.configs.resolved import EXPERIMENTS, GOLDEN, path, resolved


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_resolved_config_is_the_recorded_one(name):
    recorded = (GOLDEN / f"{name}.txt").read_text()
    text = "\n".join(difflib.unified_diff(recorded.splitlines(), resolved(name).splitlines(),
                                          lineterm="", n=0))
    assert not text, f"{path(name, '')} resolves to something else; if that is meant: python -m " \
                     f"tests.configs.resolved\n{text}"


def test_every_config_file_and_variant_is_recorded():
    files = {file.stem: file for file in (ROOT / "configs").glob("*.py") if file.stem != "__init__"}
    assert files.keys() == EXPERIMENTS.keys() == {file.stem for file in GOLDEN.glob("*.txt")}
    for name, file in files.items():
        assert set(config_report.read_variants(file)) == set(EXPERIMENTS[name]) - {""}, name
