"""The evaluation at the end of a job is shared by its hosts."""

import json

from tests.distributed.hosts import Job
from tests.eval import toys


def test_two_hosts_score_a_share_each_and_host_0_merges(tmp_path):
    data, run = toys.write_corpus(tmp_path / "features").dir, tmp_path / "run"
    settings = ("@scored=1", "train.steps=1", "data.batch_size=2", "data.segment=16",
                "train.evaluate_every=0", "train.loss_examples=0", "evaluate.benchmark=puppets",
                "evaluate.in_loop_examples=0", "evaluate.splits=('other',)")
    with Job(2, run, data, *settings) as job:
        job.ends()
    assert f"report:  {run / 'report.html'}" in job.log(0) and "report" not in job.log(1)
    for k in range(2):
        rows = (run / f"results.rows.{k}-of-2.jsonl").read_text().splitlines()
        assert {json.loads(line)["key"].split("|")[1] for line in rows} == {f"other/{k}"}
    assert not (run / "results.rows.jsonl").read_text(), "host 0 found all rows"
    results = json.loads((run / "results.json").read_text())
    assert [row["id"] for row in results["rows"]] == ["other/0", "other/1"]
    assert results["step"] == 1 and results["summary"]["other"]["model"]["mel_L1"]["value"] > 0
