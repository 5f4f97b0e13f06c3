"""The evaluation at the end of a job is shared by its hosts, and gives what one host gives."""

import json
import shutil

from tests.distributed.hosts import Job
from tests.eval import toys


def results(workdir):
    return json.loads((workdir / "results.json").read_text()) | {"seconds": None}


def test_two_hosts_score_a_share_each_and_host_0_merges(tmp_path):
    data = toys.write_corpus(tmp_path / "features").dir
    settings = ("@scored=1", "train.steps=1", "data.batch_size=2", "data.segment=16",
                "train.evaluate_every=0", "train.loss_examples=0", "evaluate.benchmark=puppets",
                "evaluate.in_loop_examples=0", "evaluate.splits=('other',)", "evaluate.batch_size=2")
    two, one = tmp_path / "two", tmp_path / "one"
    with Job(2, two, data, *settings) as job:
        job.ends()
    assert f"report:  {two / 'report.html'}" in job.log(0) and "results" not in job.log(1)
    for k in range(2):
        rows = (two / f"results.rows.{k}-of-2.jsonl").read_text().splitlines()
        assert {json.loads(line)["key"].split("|")[1] for line in rows} == {f"other/{k}"}
    assert not (two / "results.rows.jsonl").read_text(), "host 0 finds all rows"
    shutil.copytree(two, one, ignore=shutil.ignore_patterns("results*", "report.html"))
    with Job(1, one, data, *settings) as job:
        job.ends()
    assert results(two) == results(one)
