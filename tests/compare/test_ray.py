"""A cluster that loses a node while it works."""

import threading
import time

import cluster
import pytest

import command
import tiny
from normwise.compare import compare
from normwise.compare.ledger import Ledger
from normwise.errors import NormError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("brief_timing")]
ray = pytest.importorskip("ray")


def hanging_on(node, mark):
    """A task whose first trial on that node never ends; the others wait until it has begun."""

    def run(model, seed, report):
        if not mark.exists() and cluster.address_of_node() == node:
            mark.touch()
            time.sleep(600)
        assert command.until(mark.exists)
        return sum(float(p.detach().double().square().sum()) for p in model.parameters()) + seed

    return tiny.a_task(run=run, higher_is_better=True)


def test_a_lost_nodes_trial_is_run_elsewhere(tmp_path):
    mark = tmp_path / "hangs"
    task = hanging_on(cluster.OTHER, mark)
    with cluster.two_nodes() as (nodes, other):

        def take_away():
            if command.until(mark.exists):
                nodes.remove_node(other, allow_graceful=False)

        thief = threading.Thread(target=take_away)
        thief.start()
        found = compare(
            task, ["rms"], seeds=2, out=tmp_path / "far", engine="ray", address=nodes.address
        )
        thief.join()
    with Ledger(tmp_path / "far") as ledger:
        lost = [o.lost for o in ledger.outcomes() if o.lost]
    assert lost == [["the worker, or its node, was lost"]]
    near = compare(task, ["rms"], seeds=2, out=tmp_path / "near")
    assert [row["failed"] for row in near.results["candidates"]] == [[]] * 3
    assert [row["scores"] for row in found.results["candidates"]] == [
        row["scores"] for row in near.results["candidates"]
    ]


def test_a_trial_that_hangs_is_ended(tmp_path):
    mark = tmp_path / "hangs"
    with cluster.two_nodes() as (nodes, _):
        compare(
            hanging_on(cluster.HEAD, mark),
            ["rms"],
            seeds=1,
            out=tmp_path / "run",
            engine="ray",
            address=nodes.address,
            trial_timeout=10,
        )
    with Ledger(tmp_path / "run") as ledger:
        assert [o.lost for o in ledger.outcomes() if o.lost] == [["timed out after 10 s"]]
        assert [o.kind for o in ledger.outcomes()] == ["finished"] * 3


def test_more_than_the_cluster_has(tmp_path):
    with cluster.two_nodes() as (nodes, _), pytest.raises(NormError) as told:
        compare(
            tiny.task,
            ["rms"],
            seeds=1,
            out=tmp_path / "run",
            engine="ray",
            address=nodes.address,
            gpus_per_trial=0.5,
        )
    assert str(told.value) == (
        "the Ray cluster has no room for a trial that takes 1 CPUs and 0.5 GPUs; it has 2 and 0"
    )
    assert not (tmp_path / "run").exists()
