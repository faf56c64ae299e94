"""The named protocols: their table, the page that lists it, and the class orders that the field's code draws."""

import random
from pathlib import Path

import numpy as np
import pytest

from pvision.continual.scenarios import ClassIncremental, DomainIncremental, StreamLabels
from pvision.datamodules.streams import (
    PROTOCOLS,
    CIFAR10Stream,
    CIFAR100Stream,
    CUB200Stream,
    DomainNetStream,
    FashionDigitsAnimalsStream,
    ImageNetAStream,
    ImageNetRStream,
    TinyImageNetStream,
)
from pvision.datamodules.streams.protocols import find_protocol, protocols_of
from pvision.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "data_streams.md"
KINDS = {
    kind.data: kind
    for kind in (
        CIFAR10Stream,
        CIFAR100Stream,
        CUB200Stream,
        DomainNetStream,
        FashionDigitsAnimalsStream,
        ImageNetAStream,
        ImageNetRStream,
        TinyImageNetStream,
    )
}
EACH = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)


def order_of(protocol):
    """The classes in the order in which the protocol's stream brings them."""
    labels = np.arange(protocol.classes)
    experiences = protocol.scenario().experiences(StreamLabels(labels, labels, protocol.classes))
    return [label for experience in experiences for label in experience.classes]


# As the authors' own logs and code print them.
SEED_1993 = [68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89, 3, 92, 55, 9, 26, 80, 43, 38, 58, 70, 77, 1, 85, 19, 17, 50]
SEED_1993_OF_200 = [168, 136, 51, 9, 183, 101, 171, 99, 42, 159, 191, 70, 16, 188, 27, 10, 175, 26, 68, 187, 98, 6, 85]
SEED_1995_OF_200 = [146, 198, 169, 126, 142, 183, 108, 86, 79, 35, 112, 29, 0, 2, 59, 178, 143, 31, 147, 33, 123, 114]
ICARL = [87, 0, 52, 58, 44, 91, 68, 97, 51, 15, 94, 92, 10, 72, 49, 78, 61, 14, 8, 86, 84, 96, 18, 24, 32, 45, 88, 11]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("cifar100_pilot_b0_inc5", SEED_1993),
        ("cifar100_pilot_b0_inc10", SEED_1993),
        ("cifar100_inflora_10", SEED_1993),
        ("cifar100_pycil_b0_inc10", SEED_1993),
        ("cifar100_pycil_b50_inc10", SEED_1993),
        ("cifar100_icarl_10", ICARL),
        ("imagenet_r_pilot_b0_inc20", SEED_1993_OF_200),
        ("imagenet_r_inflora_10", SEED_1993_OF_200),
        ("imagenet_a_sdlora_10", SEED_1993_OF_200),
        ("imagenet_r_sdlora_10", SEED_1995_OF_200),
        ("cifar100_coda_10", list(range(28))),
        ("cifar10_mammoth_5", list(range(10))),
    ],
)
def test_class_orders_are_the_published_ones(name, published):
    assert order_of(PROTOCOLS[name])[: len(published)] == published


def test_the_page_tells_how_to_get_the_later_trials_of_coda_prompt():
    order = list(range(200))
    random.Random(3).shuffle(order)
    again = list(range(200))
    random.seed(3)
    random.shuffle(again)
    assert order == again
    assert "random.Random(r).shuffle(order)" in PAGE.read_text(encoding="utf-8")


@EACH
def test_each_protocol_is_complete_and_fits_its_data_set(protocol):
    kind = KINDS[protocol.data]
    assert PROTOCOLS[protocol.name] is protocol
    assert protocol.name.startswith(f"{protocol.data}_")
    assert protocol.split in kind.splits
    assert bool(protocol.increments) != bool(protocol.domains)
    assert sum(protocol.increments) in (0, protocol.classes)
    assert protocol.base_classes == (protocol.increments or (protocol.classes,))[0]
    assert protocol.source
    assert protocol.backbone
    assert ("not verified" in protocol.note) != protocol.verified
    scenario = protocol.scenario()
    assert isinstance(scenario, DomainIncremental if protocol.domains else ClassIncremental)
    stream = kind(root="nowhere", protocol=protocol.name)
    assert stream.preprocessing == protocol.preprocessing
    assert stream.split == protocol.split
    assert stream.protocol == protocol.name
    if not protocol.domains:
        assert sorted(order_of(protocol)) == list(range(protocol.classes))
        assert len(scenario.experiences(StreamLabels(*[np.arange(protocol.classes)] * 2, protocol.classes))) == (
            protocol.experiences
        )


def test_protocols_of_one_experience_count_still_differ():
    ten = [PROTOCOLS[f"imagenet_r_{name}"] for name in ("pilot_b0_inc20", "inflora_10", "sdlora_10", "coda_10")]
    assert {protocol.experiences for protocol in ten} == {10}
    assert len({(one.split, one.class_order_seed, one.preprocessing) for one in ten}) == 4


def test_another_class_order_is_drawn_on_request():
    protocol = PROTOCOLS["cifar100_icarl_10"]
    drawn = protocol.scenario(class_order_seed=5)
    assert isinstance(drawn, ClassIncremental)
    assert drawn.class_order_seed == 5
    with pytest.raises(ConfigError, match="goes through domains"):
        PROTOCOLS["domainnet_ranpac_6"].scenario(class_order_seed=5)


def test_unknown_protocols_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        find_protocol("cifar100_pilot_b0_inc50", data="cifar100")
    assert "Do you mean 'cifar100_p" in str(caught.value)
    assert all(protocol.name in str(caught.value) for protocol in protocols_of("cifar100"))


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        PROTOCOLS["mine"] = None


# ---- the page


def sizes(protocol):
    if protocol.domains:
        return f"{len(protocol.domains)} domains"
    first, *rest = protocol.increments
    equal = f"{len(rest) + (rest[0] == first)} × {rest[0]}"
    return equal if rest[0] == first else f"{first} + {equal}"


def order(protocol):
    if protocol.domains:
        return ", ".join(protocol.domains)
    if protocol.class_order:
        return "iCaRL's"
    return "as labelled" if protocol.class_order_seed is None else f"seed {protocol.class_order_seed}"


def pixels(preprocessing):
    """What happens to an image, in a table's words."""
    p, steps = preprocessing, []
    if p.resize is not None:
        size = p.resize if isinstance(p.resize, int) else "×".join(map(str, p.resize))
        steps.append(f"{size} {p.interpolation}{'' if p.crop in (None, p.resize) else f' → {p.crop}'}")
    if p.rgb:
        steps.append("grey as RGB")
    training = {
        "none": "",
        "flip": "mirror",
        "pad_crop_flip": f"margin {p.padding}, mirror",
        "random_resized_crop": f"part {p.scale[0]:g}–{p.scale[1]:g}, mirror",
    }[p.augment]
    if training:
        steps.append(f"train: {training}{f', brightness ±{p.brightness:.3f}' if p.brightness else ''}")
    in_unit = tuple(p.mean) == (0.0,) and tuple(p.std) == (1.0,)
    steps.append("[0, 1]" if in_unit else f"mean {_numbers(p.mean)}, std {_numbers(p.std)}")
    return "; ".join(steps)


def _numbers(values):
    return " ".join(f"{value:g}" for value in values)


def row(protocol):
    cells = (
        f"`{protocol.name}`",
        sizes(protocol),
        order(protocol),
        protocol.split,
        pixels(protocol.preprocessing),
        protocol.backbone,
        protocol.note,
    )
    return f"| {' | '.join(cells)} |".replace(" |  |", " | |")


def test_the_page_lists_exactly_the_protocols():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if line.startswith("| `") and "_" in line.split("`")[1] and line.count("|") == 8]
    assert listed == [row(protocol) for protocol in PROTOCOLS.values()]


def test_the_page_names_every_source():
    text = PAGE.read_text(encoding="utf-8")
    for protocol in PROTOCOLS.values():
        assert protocol.source in text, protocol.source
