"""Streams that show the classes in one domain after another."""

from collections.abc import Sequence

import numpy as np

from pvision.continual.scenarios.labels import StreamLabels, shown
from pvision.continual.scenarios.scenario import Part, Scenario
from pvision.errors import ConfigError, DataError

__all__ = ["DomainIncremental"]


class DomainIncremental(Scenario):
    """Each experience shows the classes in another domain: photographs, then sketches, then paintings.

    After each experience the stream is tested on all domains, because the classes of the later ones are known.

    Args:
        order: the names of the domains in the order in which they come; None for alphabetical order.

    Raises:
        ConfigError: if ``order`` names a domain twice.
    """

    evaluates = "all"
    repeats_classes = True

    def __init__(self, *, order: Sequence[str] | None = None) -> None:
        self.order = None if order is None else list(order)
        twice = sorted({domain for domain in self.order or () if (self.order or []).count(domain) > 1})
        if twice:
            raise ConfigError(f"DomainIncremental.order names {shown(twice)} twice. Each domain comes once.")

    def parts(self, labels: StreamLabels) -> list[Part]:
        """Return the records of each domain, in the order of the data set."""
        if labels.train_domains is None or labels.test_domains is None:
            raise ConfigError(
                "DomainIncremental needs a data set whose records have domains, but this one has none. Use "
                "ClassIncremental, or a set with domains."
            )
        train, test = np.asarray(labels.train_domains, dtype=str), np.asarray(labels.test_domains, dtype=str)
        domains = self._order(set(train.tolist()), set(test.tolist()))
        places = {domain: (np.flatnonzero(train == domain), np.flatnonzero(test == domain)) for domain in domains}
        return [
            Part(
                name=domain,
                classes=tuple(np.unique(labels.train[places[domain][0]]).tolist()),
                train=places[domain][0],
                test=places[domain][1],
                domain=domain,
            )
            for domain in domains
        ]

    def settings(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return {"order": self.order}

    def _order(self, train: set[str], test: set[str]) -> list[str]:
        if train != test:
            one_sided = sorted(train ^ test)
            raise DataError(
                f"The domains {shown(one_sided)} have training or test records only. Each domain needs both."
            )
        order = sorted(train) if self.order is None else self.order
        unknown, missing = sorted(set(order) - train), sorted(train - set(order))
        if unknown:
            raise ConfigError(
                f"DomainIncremental.order names {shown(unknown)}, but the domains are {shown(sorted(train))}."
            )
        if missing:
            raise ConfigError(f"DomainIncremental.order leaves out {shown(missing)}. It must name all domains.")
        return order
