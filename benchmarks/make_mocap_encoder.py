"""Make the public weights of the motion encoder, ``pvision/models/mocap_encoder.safetensors``.

    python benchmarks/make_mocap_encoder.py

It renders 4,800 clips of 160 random joint-motion programs on the body model of MocapActions (no recorded person, none
of the 15 performances), then trains `MotionTrunk` for 24 epochs to say which body parts are in each cell of 8x8
pixels, and which program moves them. Needs ``pvision[render]`` and ten minutes on two cores. Prints the losses and
the SHA-256 that belongs in ``pvision/models/motion_net.py``; equal versions of torch and pybullet, processor and
thread count give equal bits.
"""

import argparse
import hashlib
import json
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.models.motion_net import MOCAP_ENCODER, MotionNet, MotionTrunk

SEED = 0
CLIPS = 4800
EPOCHS = 24
BATCH = 64
LEARNING_RATE = 3e-3
PARTS = range(2, 17)  # part labels of the renderer; 0 is the background, 1 the pelvis
CELL = 8  # the middle feature map has an eighth of the frame's size
PARTS_WEIGHT, PROGRAM_WEIGHT = 5.0, 1.0

History = list[dict[str, float]]


class PretrainingNet(nn.Module):
    """The trunk with two heads: body parts per cell of each frame, and the program of the clip."""

    def __init__(self, programs: int) -> None:
        super().__init__()
        self.trunk = MotionTrunk()
        self.parts_head = nn.Conv2d(MotionTrunk.middle_dim, len(PARTS), 1)
        self.program_head = nn.Linear(MotionNet.feature_dim, programs)
        # Parts are read before the mixing of frames is added to them: what goes on stays free for motion, and the
        # features are better (docs/models.md).
        self.trunk.mix3.norm.register_forward_hook(self._keep)
        self._mixed = torch.empty(0)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        frames = self.trunk(video).last.mean((3, 4))
        pooled = torch.cat([frames.mean(1), frames.amax(1)], 1)
        return self.parts_head(self._mixed).unflatten(0, frames.shape[:2]), self.program_head(pooled)

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._mixed = output


def occupancy(parts: Tensor) -> Tensor:
    """Return which parts are in each cell: from labels uint8 (N, T, H, W) to bool (N, T, 15, H/8, W/8)."""
    return torch.stack([F.max_pool2d((parts == part).float(), CELL) > 0 for part in PARTS], 2)


def pretrain(video: Tensor, parts: Tensor, program: Tensor, *, epochs: int, seed: int) -> tuple[MotionTrunk, History]:
    """Train the trunk; return it with each epoch's mean losses."""
    torch.manual_seed(seed)
    net = PretrainingNet(int(program.max()) + 1)
    target = occupancy(parts)
    batches = len(program) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=epochs * batches + 1, pct_start=0.2
    )
    history = []
    for epoch in range(epochs):
        start, sums = time.time(), torch.zeros(3)
        for index in torch.randperm(len(program))[: batches * BATCH].split(BATCH):
            cells, programs = net(video[index].permute(0, 4, 1, 2, 3).float() / 255)
            parts_loss = F.binary_cross_entropy_with_logits(cells, target[index].float())
            program_loss = F.cross_entropy(programs, program[index])
            optimizer.zero_grad()
            (PARTS_WEIGHT * parts_loss + PROGRAM_WEIGHT * program_loss).backward()
            optimizer.step()
            schedule.step()
            right = (programs.argmax(1) == program[index]).float().mean()
            sums += torch.stack([parts_loss.detach(), program_loss.detach(), right])
        means = [round(value, 4) for value in (sums / batches).tolist()]
        history.append(dict(zip(("parts_loss", "program_loss", "program_accuracy"), means, strict=True)))
        print(f"epoch {epoch + 1:2d}/{epochs} {history[-1]} {time.time() - start:.0f} s", flush=True)
    return net.trunk, history


def render(clips: int, *, seed: int, processes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return video uint8 (N, T, H, W, 3), parts uint8 (N, T, H, W) and program int64 (N,)."""
    from pvision.datamodules.mocap.__main__ import make_set
    from pvision.datamodules.mocap.storage import load_clips

    with TemporaryDirectory() as folder:
        make_set(Path(folder) / "set", clips={"synthetic": clips}, seed=seed, processes=processes)
        return load_clips("synthetic", Path(folder) / "set")


def write(trunk: MotionTrunk, path: Path, *, facts: dict[str, object]) -> str:
    """Save the weights and return their SHA-256."""
    # One entry of metadata: safetensors writes several in no fixed order.
    content = save(trunk.state_dict(), metadata={"pvision": json.dumps(facts)})
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=MOCAP_ENCODER)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--processes", type=int, default=2, help="for rendering")
    parser.add_argument("--threads", type=int, default=1, help="for training; other numbers give other bits")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clips = render(arguments.clips, seed=SEED, processes=arguments.processes)
    trunk, history = pretrain(*clips, epochs=arguments.epochs, seed=SEED)
    facts = {
        "made_by": "benchmarks/make_mocap_encoder.py",
        "licence": "Apache-2.0, the pvision authors; trained on synthetic motions only",
        "clips": arguments.clips,
        "epochs": arguments.epochs,
        "seed": SEED,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "pybullet": version("pybullet"),
        "last_epoch": history[-1],
    }
    print(f"{arguments.output}: SHA-256 {write(trunk, arguments.output, facts=facts)}")


if __name__ == "__main__":
    main()
