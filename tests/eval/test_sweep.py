"""Results of many runs in one table: numbers that are known, rows and pairs, what is missing, and
the files."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from avjax.errors import UserError
from eval.sweep import collect, files, members, statistics, text
from tests import commands

# F1_lips, BC_e, MCD of the runs by seed; of the truth 1, 0.6, 0
RUNS = {"highway": {0: (0.98, 0.58, 4.0), 1: (0.96, 0.57, 4.2), 2: (0.97, 0.60, 4.1)},
        "separate": {0: (0.90, 0.70, 4.1), 1: (0.89, 0.71, 4.1), 2: (0.88, 0.68, 4.2)}}


def entries(f1, bc, mcd):
    return {"F1_lips": {"value": f1, "n": 2}, "BC_e": {"value": bc, "n": 2},
            "MCD": {"value": mcd, "n": 2}, "Div_e": {"value": None, "n": 0}}


def results(f1, bc, mcd, **more):
    def rows(split):
        return [{"split": split, "id": f"{split}/{i}", "text": "",
                 "model": {"MCD": mcd + d, "BC_e": bc - d, "lips": {"0.02": [1, 2, 3]}},
                 "truth": {"MCD": 0.0, "BC_e": 0.6}} for i, d in enumerate((0.0, 0.1))]
    summary = {"model": entries(f1, bc, mcd), "truth": entries(1.0, 0.6, 0.0)}
    return {"summary": {"valid": summary, "other": summary}, "models": ["model"], "step": 5,
            "benchmark": "puppets", "recipes": {"MCD": {"n": 1}}, "parameters": 1234,
            "rows": rows("valid") + rows("other")} | more


def write(folder, seed, of, **config):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(of))
    (folder / "config.json").write_text(json.dumps({"seed": seed} | config))


@pytest.fixture
def sweep(tmp_path):
    """A sweep's workdir, two of whose eight members have no results."""
    listed = {}
    for variant in (*RUNS, "shared"):
        for seed in range(3) if variant in RUNS else range(2):
            name = f"config={variant}_seed={seed}"
            listed[name] = {"workdir": name, "values": {"config": variant, "seed": str(seed)},
                            "train": {"state": "done"}}
            if variant in RUNS:
                write(tmp_path / name, seed, results(*RUNS[variant][seed]))
    listed["config=shared_seed=0"]["train"] = {"state": "failed", "code": 2, "reason": "error: x"}
    listed["config=shared_seed=1"]["train"] = {"state": "waiting"}
    (tmp_path / "sweep.json").write_text(json.dumps({"sweep": [], "members": listed}))
    return tmp_path


def metric(table, name, split="valid"):
    [block] = [b for b in table["blocks"] if b["split"] == split]
    return next(m for m in block["metrics"] if m["metric"] == name)


def test_means_spreads_and_paired_differences(sweep):
    table = collect.collect(members.find([sweep]))
    assert [row["name"] for row in table["rows"]] == ["highway", "separate", "shared"]
    assert table["reference"] == "highway" and table["rows"][0]["parameters"] == 1234
    f1 = metric(table, "F1_lips")
    assert f1["rows"]["highway"]["mean"] == pytest.approx(0.97)
    assert f1["rows"]["highway"]["sd"] == pytest.approx(0.01)
    assert f1["rows"]["highway"]["values"] == {"0": 0.98, "1": 0.96, "2": 0.97}
    assert f1["best"] == "highway" and f1["baselines"] == {"truth": 1.0}
    own = f1["rows"]["separate"]["difference"]
    test = stats.ttest_rel([0.90, 0.89, 0.88], [0.98, 0.96, 0.97])
    interval = test.confidence_interval(0.95)
    assert (own["mean"], own["p"], own["low"], own["high"]) == pytest.approx(
        (-0.08, test.pvalue, interval.low, interval.high))
    assert own["verdict"] == "worse" and own["n"] == 3
    # nearer to the truth is better: distances are compared, not values
    bc = metric(table, "BC_e")
    assert bc["rows"]["separate"]["difference"]["mean"] == pytest.approx(
        np.mean([0.10, 0.11, 0.08]) - np.mean([0.02, 0.03, 0.0]))
    assert bc["best"] == "highway"
    assert metric(table, "MCD")["rows"]["separate"]["difference"]["verdict"] == ""
    assert "Div_e" not in text.text(table)  # no member has a number


def test_pairs_of_examples(sweep):
    table = collect.collect(members.find([sweep]), pairs="examples", splits=["valid"])
    own = metric(table, "BC_e")["rows"]["separate"]["difference"]
    # |bc - d - 0.6| of two examples, averaged over seeds first
    by_example = [np.mean([abs(RUNS["separate"][s][1] - d - 0.6) - abs(RUNS["highway"][s][1] - d
                                                                       - 0.6) for s in range(3)])
                  for d in (0.0, 0.1)]
    assert own["n"] == 2 and own["mean"] == pytest.approx(np.mean(by_example))
    # counts of an example are no number that could be paired
    assert "difference" not in metric(table, "F1_lips")["rows"]["separate"]


def test_runs_without_results_are_named(sweep):
    table = collect.collect(members.find([sweep]))
    assert {m["name"]: m["why"] for m in table["missing"]} == {
        "config=shared_seed=0": "failed with 2: error: x", "config=shared_seed=1": "not begun"}
    assert "missing: config=shared_seed=0: failed with 2: error: x" in text.text(table)
    assert any("different numbers of runs: highway 3, separate 3, shared 0" in remark
               for remark in table["remarks"])


def test_what_makes_runs_unlike_is_remarked(tmp_path):
    write(tmp_path / "a", 0, results(0.9, 0.6, 4.0))
    write(tmp_path / "b", 0, results(0.9, 0.6, 4.0, step=7, recipes={"MCD": {"n": 2}}))
    write(tmp_path / "c", 1, results(0.9, 0.6, 4.0))
    remarks = " ".join(collect.collect(members.find([tmp_path]))["remarks"])
    assert "no seed in common with a, so no differences: c" in remarks
    assert "numbers of steps: 5, 7" in remarks and "different recipes: MCD" in remarks
    assert "nothing about realism" in remarks


def test_folders_that_no_sweep_made(tmp_path):
    for variant, runs in RUNS.items():
        for seed, numbers in runs.items():
            write(tmp_path / f"{variant}-seed{seed}", seed, results(*numbers),
                  system={"fusion": variant[:3]})
    folders = sorted(tmp_path.iterdir())
    assert [f.name for f in folders][0] == "highway-seed0"
    table = collect.collect(members.find(folders[::-1]), reference="highway", metrics=["MCD"])
    assert [row["name"] for row in table["rows"]] == ["separate", "highway"]
    assert metric(table, "MCD")["rows"]["separate"]["difference"]["n"] == 3
    by_key = collect.collect(members.find([tmp_path], by=["system.fusion"]))
    assert [row["name"] for row in by_key["rows"]] == ["hig", "sep"]
    apart = collect.collect(members.find([tmp_path]), over=())
    assert len(apart["rows"]) == 6 and apart["rows"][0]["name"] == "run=highway, seed=0"


def test_chance_needs_more_than_one_pair():
    assert statistics.paired([0.5])["p"] is None
    assert statistics.paired([0.5, 0.5])["p"] is None  # and p = 0 would claim too much
    assert statistics.spread([2.0]) == {"mean": 2.0, "sd": None, "n": 1}
    assert statistics.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06],
                                                                     nan_ok=True)


def test_files(sweep):
    table = collect.collect(members.find([sweep]))
    written = files.write(table, sweep / "out", "ablations")
    assert [f.rpartition("/")[2] for f in written] == [
        "collected.txt", "collected.csv", "collected.json", "collected.html",
        "collected.valid.png", "collected.other.png"]
    with pytest.raises(UserError, match="not a folder.*collected.txt/x"):
        files.write(table, sweep / "out" / "collected.txt" / "x", "ablations")
    out = sweep / "out"
    rows = list(csv.DictReader(io.StringIO((out / "collected.csv").read_text())))
    wanted = ("valid", "MCD", "separate")
    [line] = [r for r in rows if (r["split"], r["metric"], r["row"]) == wanted]
    assert line["config"] == "separate" and float(line["difference"]) == pytest.approx(
        np.mean([0.1, -0.1, 0.1])) and line["pairs"] == "3"
    assert json.loads((out / "collected.json").read_text())["reference"] == "highway"
    page = (out / "collected.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "src='http" not in page
    for said in ("0.97 ± 0.01", "config=shared_seed=0", "failed with 2", "1,234 parameters"):
        assert said in page
    with Image.open(out / "collected.valid.png") as image:
        assert np.asarray(image.convert("L")).std() > 5
    assert max(map(len, (out / "collected.txt").read_text().splitlines())) < 180


@pytest.mark.parametrize("given, message", [
    (dict(metrics=["F1_lip"]), "--metrics.*F1_lip.*hint: --metrics=F1_lips"),
    (dict(splits=["test"]), "--split.*expected: valid, other; found: test"),
    (dict(reference="shared"), "--reference.*expected: highway, separate"),
    (dict(variants=["tts"]), "--variant.*expected: model; found: tts")])
def test_names_that_there_are_none_of(sweep, given, message):
    with pytest.raises(UserError, match=message):
        collect.collect(members.find([sweep]), **given)


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        members.find([tmp_path / "none"])
    with pytest.raises(UserError, match="no runs here"):
        members.find([tmp_path])
    write(tmp_path / "a" / "x-seed0", 0, results(0.9, 0.6, 4.0), system={"d_ff": 8})
    write(tmp_path / "b" / "x-seed0", 0, results(0.9, 0.6, 4.0), system={"d_ff": 9})
    with pytest.raises(UserError, match="two runs with the same values.*run=x, seed=0.*--by"):
        members.find([tmp_path / "a", tmp_path / "b"])
    assert len(members.find([tmp_path / "a", tmp_path / "b"], by=["system.d_ff"])) == 2
    with pytest.raises(UserError, match="no such key.*for instance d_ff.*d_f;"):
        members.find([tmp_path / "a"], by=["system.d_f"])
    (tmp_path / "a" / "x-seed0" / "results.json").write_text("{}")
    with pytest.raises(UserError, match="unreadable results"):
        members.find([tmp_path / "a"])
    (tmp_path / "a" / "x-seed0" / "results.json").unlink()
    with pytest.raises(UserError, match="no results yet.*x-seed0"):
        collect.collect(members.find([tmp_path / "a" / "x-seed0"]))


def test_as_a_command(sweep):
    done = commands.run("collect", f"--workdir={sweep}", "--metrics=MCD", "--split=valid",
                        "--format=csv", "--nobaselines")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3 and "collected.html" in done.stderr
    assert (sweep / "collected.txt").exists()
    done = commands.run("collect")
    assert done.returncode == 2 and done.stderr.startswith("error: nothing to collect")
