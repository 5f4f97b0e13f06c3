"""Metrics that need a published network: with its file, without it, and with another one."""

import json
import sys
import types

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.weights.reader import file_sha256
from eval import registry
from eval.networks import files
from eval.report import page, tables
from tests.eval import toys

NETWORK = files.Network(("judge.npz",), "example.org/judge", "MIT", "judge")


def load(path):
    with np.load(path) as arrays:
        if "weight" not in arrays:
            raise UserError("these are not the judge's weights", where=str(path))
        return types.SimpleNamespace(score=float(arrays["weight"]))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toys.write_corpus(tmp_path_factory.mktemp("networks") / "corpus")


@pytest.fixture
def judge(monkeypatch):
    """A network and its metric."""
    monkeypatch.setitem(files.TABLE, "judge", NETWORK)
    monkeypatch.setitem(sys.modules, "eval.networks.judge", types.SimpleNamespace(load=load))
    registry.declare("judged", "up", "what the judge says", family="sound",
                     score=lambda case: {"judged": case.benchmark.networks["judge"].score},
                     needs=("audio", "network:judge"), recipe=lambda benchmark: {"by": "judge"})
    yield
    registry.forget("judged")


def results_of(benchmark):
    truth = benchmark.truth("valid", 0)
    summary = benchmark.summarise([benchmark.score("valid", 0, truth)],
                                  [benchmark.frames("valid", 0, truth)])
    return {"summary": {"valid": {"truth": summary, "model": summary}}, "models": ["model"],
            "rows": [{"split": "valid"}], "targets": {}, "benchmark": benchmark.name, "params": "",
            "recipes": benchmark.recipes, "not_measured": benchmark.without_network}


def test_without_its_file_a_metric_is_not_measured_and_says_what_it_needs(judge, dataset, tmp_path):
    benchmark = toys.benchmark(dataset)
    benchmark.load_networks()
    results = results_of(benchmark)
    need = "needs judge.npz (example.org/judge)"
    assert results["not_measured"]["judged"] == need
    assert "judged" not in results["summary"]["valid"]["truth"]
    assert "judged" not in benchmark.recipes
    line, = (x for x in tables.table(results).splitlines() if x.split()[:1] == ["judged"])
    assert line.endswith(f"not measured: {need}")
    assert f"not measured: {need}</td>" in page.write(tmp_path, results, []).read_text()
    assert toys.benchmark(dataset, full=False).without_network == {}


def test_with_its_file_it_is_and_the_recipe_names_the_file(judge, dataset, tmp_path):
    np.savez(tmp_path / "judge.npz", weight=0.25)
    benchmark = toys.benchmark(dataset, networks=str(tmp_path))
    benchmark.load_networks()
    results = results_of(benchmark)
    assert results["summary"]["valid"]["model"]["judged"]["value"] == 0.25
    assert "judged" not in results["not_measured"]
    assert benchmark.recipes["judged"] == {"by": "judge", "networks": {"judge": {
        "file": "judge.npz", "sha256": file_sha256(tmp_path / "judge.npz")}}}
    assert json.dumps(benchmark.recipes)
    # other weights are another definition: stored rows do not count
    before = benchmark.recipe_hash
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / "judge.npz", weight=0.5)
    assert toys.benchmark(dataset, networks=str(tmp_path / "other")).recipe_hash != before


def test_another_networks_file_is_an_error_before_anything_is_made(judge, dataset, tmp_path):
    np.savez(tmp_path / "judge.npz", bias=1.0)
    with pytest.raises(UserError, match="not the judge's weights"):
        toys.benchmark(dataset, networks=str(tmp_path)).load_networks()


def test_a_folder_that_is_not_there_is_an_error(dataset, tmp_path):
    with pytest.raises(UserError, match="no folder of networks"):
        toys.benchmark(dataset, networks=str(tmp_path / "nowhere"))


def test_a_metric_of_an_unknown_network_cannot_be_declared():
    with pytest.raises(ValueError, match="nobody"):
        registry.declare("never", "up", "x", family="sound", needs=("network:nobody",),
                         recipe=lambda benchmark: {})
