"""How one process of several ends, without the others: a store of keys and a coordinator's
failures, faked."""

import os
import signal
import sys
import threading
import time
import types

import pytest
from absl import flags
from jax._src import clusters
from jax.errors import JaxRuntimeError

from avjax.hosts import cluster, distributed, peers, preemption, watchdog
from launch import hosts, workers

# of `ended`
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Store(dict):
    """What the coordinator's clients do with its key-value store."""

    def key_value_set(self, key, value):
        if key in self:
            raise JaxRuntimeError("ALREADY_EXISTS")
        self[key] = value

    def key_value_try_get(self, key):
        if key not in self:
            raise JaxRuntimeError("NOT_FOUND")
        return self[key]

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in list(self.items()) if key.startswith(folder)]


@pytest.fixture
def ended(monkeypatch):
    """Exit codes of processes that ended; each ends the thread that it is in."""
    codes = []

    def exit_now(code):
        codes.append(code)
        sys.exit(code)

    for module in (peers, distributed, preemption, watchdog):
        monkeypatch.setattr(module, "exit_now", exit_now)
    monkeypatch.setattr(peers, "POLL", 0.01)
    monkeypatch.setattr(peers, "LINGER", 0.3)
    return codes


@pytest.mark.parametrize("code", [1, 2, 75])
def test_all_hosts_end_with_the_code_of_the_first(ended, code):
    """A defect (1) would come again: no host may say that the job is to be started again."""
    store = Store()
    first, second = (peers.Peers(store, host, 2) for host in range(2))
    with pytest.raises(SystemExit):
        first.leave(code, "why")
    second._follower.join(10)
    assert ended == [code, code]


def test_what_came_of_anothers_end_is_not_the_jobs(ended):
    store = Store()
    first, second = (peers.Peers(store, host, 2) for host in range(2))
    first.close(), second.close()
    first.put("news/leave", {"host": 0, "code": 75, "why": "signal SIGTERM", "stacks": False})
    with pytest.raises(SystemExit):
        second.leave(1, "ValueError: a broken stream")
    assert ended == [75]


@pytest.mark.parametrize("count, code", [(2, 75), (1, None)])
def test_a_failure_of_the_runtime_between_steps_is_a_lost_peers(ended, monkeypatch, count, code):
    """As in stages and checks, which have no loop around them; alone, it is the job's own."""
    job = peers.Peers(Store(), 0, count)
    monkeypatch.setattr(distributed, "initialize", lambda *a, **k: False)
    monkeypatch.setattr(distributed, "agree", lambda *a: None)
    monkeypatch.setattr(distributed, "_peers", job if count > 1 else None)
    with pytest.raises(SystemExit if code else JaxRuntimeError), hosts.session():
        raise JaxRuntimeError("UNAVAILABLE: failed to connect")
    assert ended == [code] * bool(code)
    job.close()


def test_names_that_do_not_come_in_time_are_to_be_tried_again(monkeypatch, capsys):
    def unknown(**kwargs):
        raise RuntimeError("Failed to recognize coordinator address slice-0")

    for name, answer in (("is_env_present", lambda: True), ("get_process_count", lambda: 2),
                         ("get_process_id", lambda: 1),
                         ("get_coordinator_address", unknown)):
        monkeypatch.setattr(clusters.GkeTpuCluster, name, answer)
    with pytest.raises(distributed.Restart, match="TPU slice did not say within 5 s.*coordinator "
                                                  "address"):
        cluster.find(seconds=5)
    with pytest.raises(SystemExit) as end:
        workers.part_of("out", None)
    assert end.value.code == 75
    assert "restartable: GKE's TPU slice did not say" in capsys.readouterr().err


def test_signals_after_the_save_change_nothing(ended):
    """Host 0 seals and sends what it recorded, the others wait for it; some launchers send SIGTERM
    again and again."""
    with preemption.handle_signals():
        with pytest.raises(preemption.Preempted), preemption.stop_together() as stopping:
            raise preemption.Preempted(3)
        os.kill(os.getpid(), signal.SIGTERM)
        while not stopping.why:  # the listener has taken the signal, and ends nothing
            time.sleep(0.001)
    assert ended == [] and preemption._current is None


def test_the_watchdog_does_not_hang_with_the_storage(tmp_path, monkeypatch):
    never, ended = threading.Event(), threading.Event()
    monkeypatch.setattr(watchdog.Watchdog, "_write", lambda self: never.wait(60))
    monkeypatch.setattr(watchdog.Watchdog, "_end", lambda self, waited: ended.set())
    monkeypatch.setitem(watchdog.ALLOWANCE, "start", 1.0)
    with watchdog.Watchdog(0.05, tmp_path) as dog:
        dog.start()
        assert ended.wait(20)
        never.set()


def test_processes_that_are_hosts_already_do_not_multiply(monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    monkeypatch.setattr(flags, "FLAGS", types.SimpleNamespace(processes=4, shard=None))
    with pytest.raises(distributed.UserError, match="already.*JAX_PROCESS_ID=3"):
        workers.spread("launch.extract", "out")
    monkeypatch.setenv(workers.SPREAD, "1")
    assert workers.spread("launch.extract", "out") is None
