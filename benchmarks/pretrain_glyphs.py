"""Make the public weights of `GlyphViT`, ``pvision/models/glyphs.safetensors``.

    python benchmarks/pretrain_glyphs.py

It draws up 1,000 random classes of glyphs, each one to three strokes (lines, curves, loops), and trains a vision
transformer to tell them apart. Every image is drawn anew: the strokes jitter, turn, stretch, move and change thickness.
No recorded image and no alphabet is in it. Prints the SHA-256 that belongs in ``pvision/models/_vit_weights.py``; equal
versions of torch, processor and thread count give equal bits.

At the end it reports how well DigitsStream's digits can be told by the features. The recipe was fixed before they were
looked at, and nothing is chosen by them.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.models.vision_transformer import VisionTransformer

OUTPUT = Path(__file__).parents[1] / "pvision" / "models" / "glyphs.safetensors"
SIZES = {"image_size": 16, "patch_size": 4, "channels": 1, "width": 64, "depth": 4, "heads": 4}
MEAN = STD = 0.5
SEED = 0
CLASSES = 1000
STEPS = 4000
BATCH = 256
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
WARM_UP = 0.05  # part of the steps

STROKES = 3
POINTS = 24  # per stroke, on its way
PIXEL = 2 / SIZES["image_size"]  # the image reaches from -1 to 1

History = list[dict[str, float]]


def make_classes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return each class's cubic Bézier curves, ``(classes, strokes, 4, 2)``, and which of them it has."""
    control = torch.empty(count, STROKES, 4, 2).uniform_(-1, 1, generator=generator)
    line, loop, joined = torch.rand(3, count, STROKES, generator=generator)
    for stroke in range(1, STROKES):
        follows = (joined[:, stroke] < 0.5)[:, None]
        control[:, stroke, 0] = torch.where(follows, control[:, stroke - 1, 3], control[:, stroke, 0])
    control[..., 3, :] = torch.where((loop < 0.2)[..., None], control[..., 0, :], control[..., 3, :])
    first, last = control[..., :1, :], control[..., 3:, :]
    straight = first + (last - first) * torch.linspace(0, 1, 4)[:, None]
    control = torch.where(((line < 0.35) & (loop >= 0.2))[..., None, None], straight, control)
    present = torch.arange(STROKES) < torch.randint(1, STROKES + 1, (count, 1), generator=generator)
    return _centred(control, present), present


def _centred(control: Tensor, present: Tensor) -> Tensor:
    """Move and scale each class so that its strokes fill the image but for a margin."""
    points = _on_curves(control)
    absent = ~present[..., None, None]
    low = points.masked_fill(absent, torch.inf).amin((1, 2), keepdim=True)
    high = points.masked_fill(absent, -torch.inf).amax((1, 2), keepdim=True)
    side = (high - low).amax(-1, keepdim=True).clamp(min=0.2)
    return (control - (low + high) / 2) / side * 1.5


def _on_curves(control: Tensor) -> Tensor:
    """Return points on the curves, ``(…, POINTS, 2)``."""
    way = torch.linspace(0, 1, POINTS)[:, None]
    weights = torch.cat([(1 - way) ** 3, 3 * way * (1 - way) ** 2, 3 * way**2 * (1 - way), way**3], 1)
    return weights @ control


def draw(control: Tensor, present: Tensor, generator: torch.Generator) -> Tensor:
    """Return one image of each glyph, each drawn in its own way: bright on dark, ``(B, 1, 16, 16)``, 0 to 1.

    Args:
        control: the glyphs' curves, ``(B, strokes, 4, 2)``.
        present: which strokes they have, ``(B, strokes)``.
        generator: of all that is random.
    """
    count = len(control)

    def between(low: float, high: float) -> Tensor:
        return torch.empty(count, 1, 1, 1).uniform_(low, high, generator=generator)

    control = control + 0.1 * torch.randn(control.shape, generator=generator)
    points = _on_curves(control) @ _affine(count, generator)[:, None] + torch.cat(
        [between(-0.12, 0.12), between(-0.12, 0.12)], -1
    )
    points = points.masked_fill(~present[..., None, None], 9.0).flatten(1, 2)
    axis = torch.arange(SIZES["image_size"]) * PIXEL - 1 + PIXEL / 2
    across, down = ((axis - points[..., [at]]) ** 2 for at in (0, 1))
    # Distances of all pixels to all points: the squares along each axis, added crosswise.
    distance = (down[..., :, None] + across[..., None, :]).amin(1).sqrt()[:, None]
    image = torch.sigmoid((between(0.07, 0.2) - distance) / between(0.02, 0.06)) * between(0.7, 1.0)
    coarse = F.interpolate(F.avg_pool2d(image, 2), scale_factor=2, mode="bilinear")
    image = torch.where(between(0, 1) < 0.5, coarse, image)  # half as if enlarged from 8x8: small data sets often are
    return (image + 0.03 * torch.randn(image.shape, generator=generator)).clamp_(0, 1)


def _affine(count: int, generator: torch.Generator) -> Tensor:
    """Return matrices ``(B, 2, 2)`` that turn by up to 20°, stretch and shear a little."""
    turn, shear = torch.empty(2, count).uniform_(-0.35, 0.35, generator=generator)
    width, height = torch.empty(2, count).uniform_(0.75, 1.15, generator=generator)
    rotation = torch.stack([turn.cos(), turn.sin(), -turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    scale = torch.stack([width, torch.zeros(count), shear * height, height], 1).view(-1, 2, 2)
    return scale @ rotation


def pretrain(*, steps: int, classes: int, seed: int) -> tuple[VisionTransformer, History]:
    """Train the network; return it with the mean loss and accuracy of each tenth of the steps."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    control, present = make_classes(classes, generator)
    network = VisionTransformer(**SIZES)
    head = nn.Linear(network.feature_dim, classes)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=WARM_UP)
    history: History = []
    start, sums, part = time.time(), torch.zeros(2), max(steps // 10, 1)
    for step in range(1, steps + 1):
        label = torch.randint(classes, (BATCH,), generator=generator)
        logits = head(network((draw(control[label], present[label], generator) - MEAN) / STD))
        loss = F.cross_entropy(logits, label)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        sums += torch.stack([loss.detach(), (logits.argmax(1) == label).float().mean()])
        if step % part == 0:
            loss_mean, accuracy = (round(value, 4) for value in (sums / part).tolist())
            history.append({"loss": loss_mean, "accuracy": accuracy})
            print(f"step {step}/{steps} {history[-1]} {time.time() - start:.0f} s", flush=True)
            sums.zero_()
    return network.eval(), history


def write(network: VisionTransformer, path: Path, *, facts: dict[str, object]) -> str:
    """Save the weights in half precision and return the file's SHA-256."""
    state = {name: value.half() for name, value in network.state_dict().items()}
    # One entry of metadata: safetensors writes several in no fixed order.
    content = save(state, metadata={"pvision": json.dumps(facts)})
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def report_digits(network: nn.Module, name: str) -> None:
    """Print how well two simple classifiers tell the digits of DigitsStream by frozen features."""
    train, train_labels = _digit_features(network, "train")
    test, test_labels = _digit_features(network, "test")
    similar = F.normalize(test) @ F.normalize(train).T
    nearest = train_labels[similar.topk(5).indices].mode(1).values
    centre, spread = train.mean(0), train.std(0) + 1e-6
    train, test = ((one - centre) / spread for one in (train, test))
    gram = train.T @ train + 10 * torch.eye(train.shape[1])
    ridge = torch.linalg.solve(gram, train.T @ (F.one_hot(train_labels, 10) - 0.1))
    right = [(guess == test_labels).float().mean() for guess in (nearest, (test @ ridge).argmax(1))]
    print(f"digits by {name}: 5 nearest neighbours {right[0]:.3f}, ridge regression {right[1]:.3f}")


@torch.no_grad()
def _digit_features(network: nn.Module, part: str) -> tuple[Tensor, Tensor]:
    from pvision.continual.scenarios import ClassIncremental
    from pvision.datamodules import DigitsStream
    from pvision.datamodules.streams import Preprocessing

    stream = DigitsStream(scenario=ClassIncremental(experiences=1))
    stream.prepare_sources()
    source = stream.train_source if part == "train" else stream.test_source
    as_seen = Preprocessing(resize=SIZES["image_size"], mean=(MEAN,), std=(STD,))
    images = torch.stack([as_seen.eval(source.image(index)) for index in range(len(source))])
    return network(images), torch.as_tensor(source.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1, help="other numbers give other bits")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    report_digits(VisionTransformer(**SIZES).eval(), "random weights")
    start = time.process_time()
    network, history = pretrain(steps=arguments.steps, classes=CLASSES, seed=SEED)
    print(f"{(time.process_time() - start) / 60:.0f} min of processor time")
    facts = {
        "made_by": "benchmarks/pretrain_glyphs.py",
        "licence": "Apache-2.0, the pvision authors; trained on random strokes drawn by the program only",
        "network": SIZES,
        "mean": MEAN,
        "std": STD,
        "classes": CLASSES,
        "steps": arguments.steps,
        "batch": BATCH,
        "seed": SEED,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "last": history[-1],
    }
    report_digits(network, "the trained network")
    print(f"{arguments.output}: SHA-256 {write(network, arguments.output, facts=facts)}")


if __name__ == "__main__":
    main()
