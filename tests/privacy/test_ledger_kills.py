"""A hundred times kill -9 at random points: the ledger never claims less than what ran."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

KILLER = Path(__file__).with_name("ledger_killer.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each experiment of the killer came to; loading torch once for all of them."""
    command = [sys.executable, str(KILLER), str(tmp_path_factory.mktemp("kills")), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("block", [1, 25])
@pytest.mark.parametrize("where", ["ledger", "slow"])
def test_the_ledger_claims_what_ran_and_at_most_one_block_more_per_kill(where, block, results):
    result = results[f"{where} {block}"]
    assert result["truth"] > len(result["over"]) // 2, "the writers were killed before they worked"
    assert len(result["over"]) == (100 if where == "ledger" else 50)
    over = [0, *result["over"]]
    assert min(over) >= 0
    assert all(after - before <= block for before, after in pairwise(over))
    assert (result["torn"] > 0) == (where == "slow")


def test_a_count_in_checkpoints_claims_too_little(results):
    result = results["checkpoint 1"]
    assert result["truth"] > len(result["over"]) // 2
    assert result["over"][-1] < -len(result["over"]) // 2
