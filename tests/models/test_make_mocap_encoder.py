"""The script that makes the shipped weights, on clips too few to learn from."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from pvision.models import MotionEncoder
from pvision.models.motion_net import MOCAP_ENCODER

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "make_mocap_encoder.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_mocap_encoder", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clips():
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (128, 2, 16, 16, 3), generator=generator, dtype=torch.uint8)
    parts = torch.randint(0, 17, (128, 2, 16, 16), generator=generator, dtype=torch.uint8)
    return video, parts, torch.arange(128) % 4


def test_a_cell_has_the_parts_that_any_of_its_pixels_has(script):
    parts = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    parts[0, 0, 15, 0], parts[0, 0, 3, 12] = 2, 16
    cells = script.occupancy(parts)
    assert cells.shape == (1, 1, 15, 2, 2)
    assert cells.nonzero().tolist() == [[0, 0, 0, 1, 0], [0, 0, 14, 0, 1]]


def test_equal_seeds_give_equal_files_that_the_encoder_reads(script, clips, tmp_path):
    digests = []
    for run in range(2):
        trunk, history = script.pretrain(*clips, epochs=3, seed=3)
        digests.append(script.write(trunk, tmp_path / f"{run}.safetensors", facts={"seed": 3, "history": history}))
    assert digests[0] == digests[1]
    assert history[-1]["parts_loss"] < history[0]["parts_loss"]
    assert MotionEncoder(init=str(tmp_path / "0.safetensors"))(torch.rand(1, 3, 2, 16, 16)).shape == (1, 320)


def test_the_shipped_weights_say_where_they_come_from():
    with safe_open(MOCAP_ENCODER, "pt") as file:
        facts = json.loads(file.metadata()["pvision"])
    assert facts["made_by"] == SCRIPT.relative_to(SCRIPT.parents[1]).as_posix()
    assert "Apache-2.0" in facts["licence"]
    assert facts["clips"] == 4800
    assert MOCAP_ENCODER.stat().st_size < 600_000
