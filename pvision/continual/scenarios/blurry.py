"""Streams without sharp borders: some classes come in every experience, most often in one of them.

[0] Koh, Kim, Ha, Choi, Online Continual Learning on Class Incremental Blurry Task Configuration with Anytime Inference,
    ICLR 2022, arXiv:2110.10031: i-Blurry.
[1] Moon, Park, Kim, Park, Online Class Incremental Learning on Stochastic Blurry Task Boundary via Mask and Visual
    Prompt Tuning, ICCV 2023, arXiv:2308.09303: Si-Blurry.
"""

import numpy as np

from pvision.checks import positive_int
from pvision.continual.experience import Positions
from pvision.continual.scenarios.labels import StreamLabels
from pvision.continual.scenarios.scenario import Part, Scenario, checked_seed
from pvision.errors import ConfigError

__all__ = ["Blurry"]


class Blurry(Scenario):
    """i-Blurry [0], and Si-Blurry [1] with ``stochastic``.

    Every class has a home experience. All records of a disjoint class come there. Of a blurry class, the part
    ``blurry_fraction`` of the records leaves home: such records of all blurry classes are mixed and dealt out equally
    to all experiences. A class is tested with its home experience.

    Args:
        experiences: how many there are.
        disjoint_fraction: N of the papers as a fraction: part of the classes that are disjoint, 0 to 1.
        blurry_fraction: M of the papers as a fraction: part of a blurry class' records that leave home, 0 to 1.
        stochastic: draw how many classes each experience is home to [1], instead of dividing them equally [0].
        seed: draws the classes and the records.

    Raises:
        ConfigError: if an argument is out of range.
    """

    repeats_classes = True

    def __init__(
        self,
        *,
        experiences: int,
        disjoint_fraction: float = 0.5,
        blurry_fraction: float = 0.1,
        stochastic: bool = False,
        seed: int = 0,
    ) -> None:
        self.experience_count = positive_int("Blurry.experiences", experiences)
        self.disjoint_fraction = _fraction("Blurry.disjoint_fraction", disjoint_fraction)
        self.blurry_fraction = _fraction("Blurry.blurry_fraction", blurry_fraction)
        self.stochastic = bool(stochastic)
        self.seed = checked_seed("Blurry.seed", seed)

    def parts(self, labels: StreamLabels) -> list[Part]:
        """Return the records of each experience: those at home there, then those dealt out, each in order."""
        random = np.random.RandomState(self.seed)
        disjoint, blurry = self._homes(labels.num_classes, random)
        home = np.empty(labels.num_classes, dtype=np.int64)
        for place, classes in enumerate(disjoint + blurry):
            home[classes] = place % self.experience_count
        where = self._deal(labels, home, np.concatenate(blurry), random)
        return [self._part(place, labels, home, where) for place in range(self.experience_count)]

    def settings(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return {
            "experiences": self.experience_count,
            "disjoint_fraction": self.disjoint_fraction,
            "blurry_fraction": self.blurry_fraction,
            "stochastic": self.stochastic,
            "seed": self.seed,
        }

    def _homes(self, num_classes: int, random: np.random.RandomState) -> tuple[list[Positions], list[Positions]]:
        """Return the disjoint and the blurry classes of each experience."""
        if self.experience_count > num_classes:
            raise ConfigError(
                f"Blurry: {self.experience_count} experiences cannot share {num_classes} classes, because each is home "
                "to one at least. Lower experiences."
            )
        order = random.permutation(num_classes).astype(np.int64)
        cut = round(num_classes * self.disjoint_fraction)
        disjoint = self._shares(order[:cut], random)
        # From the last experience on, so that whoever got one disjoint class less gets one blurry class more.
        blurry = self._shares(order[cut:], random)[::-1]
        alone = [place for place in range(len(blurry)) if not len(disjoint[place]) + len(blurry[place])]
        if alone:
            raise ConfigError(
                f"Blurry: {cut} disjoint and {num_classes - cut} blurry classes leave experience {alone[0]} without "
                "any. Lower experiences, or change disjoint_fraction."
            )
        return disjoint, blurry

    def _shares(self, classes: Positions, random: np.random.RandomState) -> list[Positions]:
        if not self.stochastic or len(classes) <= self.experience_count:
            return np.array_split(classes, self.experience_count)
        cuts = 1 + np.sort(random.permutation(len(classes) - 1)[: self.experience_count - 1])
        return np.split(classes, cuts)

    def _deal(
        self, labels: StreamLabels, home: Positions, blurry: Positions, random: np.random.RandomState
    ) -> Positions:
        """Return in which experience each training record comes."""
        where = home[labels.train]
        leaving = []
        for label in blurry:
            records = np.flatnonzero(labels.train == label)
            leaving.append(random.permutation(records)[: round(len(records) * self.blurry_fraction)])
        mixed = random.permutation(np.concatenate([np.empty(0, np.int64), *leaving]))
        for place, records in enumerate(np.array_split(mixed, self.experience_count)):
            where[records] = place
        return where

    def _part(self, place: int, labels: StreamLabels, home: Positions, where: Positions) -> Part:
        train = np.flatnonzero(where == place)
        classes = np.unique(labels.train[train])
        at_home = home[classes] == place
        return Part(
            name=f"blurry part {place + 1}",
            classes=(*classes[at_home].tolist(), *classes[~at_home].tolist()),
            train=train,
            test=np.flatnonzero(home[labels.test] == place),
        )


def _fraction(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(
            f"{name} must be a number from 0 to 1, but {value!r} came. The papers' N or M is its percentage."
        )
    return float(value)
