"""How raw sensor values become brightness from 0 to 1."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from pvision.detection.dead_pixels import LARGEST_MEASUREMENT
from pvision.errors import ConfigError

__all__ = ["FixedRange", "PerImageRange", "PercentileRange", "Scaling", "scaling_from_description"]


class Scaling(ABC):
    """A map from sensor units to 0 to 1, linear in between and clipped outside.

    Attributes:
        channels: how many channels it is made for; None for any number.
    """

    channels: int | None = None

    @abstractmethod
    def scale(self, values: Tensor, valid: Tensor) -> Tensor:
        """Return the values as brightness.

        Args:
            values: in sensor units, finite float32, ``(B, C, H, W)``.
            valid: which of them were measured, of the same shape; the others must influence nothing.

        Returns:
            From 0 to 1, of the same shape; what stands at dead pixels is of no account.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return name and settings in JSON's types; `scaling_from_description` makes an equal one of them."""

    @override
    def __repr__(self) -> str:
        settings = {name: value for name, value in self.describe().items() if name != "name"}
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in settings.items())})"


class FixedRange(Scaling):
    """Map one physical range to 0 to 1, the same for all images: the choice where the unit means something.

    Preserves absolute values: a temperature has the same brightness in every image, and a hot pixel changes nothing
    elsewhere. What lies outside the range is clipped.

    Args:
        low: what becomes 0, in sensor units (counts, Kelvin, millimetres); one number, or one for each channel.
        high: what becomes 1; above ``low``.

    Raises:
        ConfigError: if they are no finite numbers, ``high`` is not above ``low``, or their lengths differ.

    Example:
        >>> FixedRange(low=273.15, high=313.15)  # Kelvin: 0 to 40 °C
        FixedRange(low=273.15, high=313.15)
    """

    def __init__(self, low: float | Sequence[float], high: float | Sequence[float]) -> None:
        lows, highs = _numbers("low", low), _numbers("high", high)
        if len(lows) != len(highs):
            raise ConfigError(
                f"low and high must both be one number or one for each channel, but {len(lows)} and {len(highs)} came."
            )
        for bottom, top in zip(lows, highs, strict=True):
            if top - bottom < 1 / LARGEST_MEASUREMENT:
                raise ConfigError(f"high must be above low, but low: {bottom:g} and high: {top:g} came.")
        self._lows = lows
        self._spans = [top - bottom for bottom, top in zip(lows, highs, strict=True)]
        self.low = lows[0] if isinstance(low, Real) else lows
        self.high = highs[0] if isinstance(high, Real) else highs
        self.channels = None if isinstance(low, Real) and isinstance(high, Real) else len(lows)

    @override
    def scale(self, values: Tensor, valid: Tensor) -> Tensor:
        low = torch.tensor(self._lows, dtype=values.dtype, device=values.device).reshape(-1, 1, 1)
        span = torch.tensor(self._spans, dtype=values.dtype, device=values.device).reshape(-1, 1, 1)
        return ((values - low) / span).clamp(0.0, 1.0)

    @override
    def describe(self) -> dict[str, Any]:
        return {"name": "FixedRange", "low": self.low, "high": self.high}


class PercentileRange(Scaling):
    """Map the range between two percentiles of each image and channel to 0 to 1.

    Preserves the order of the values within an image. It does not preserve absolute values: the same temperature has
    another brightness in the next image. A few hot pixels change little elsewhere.

    Args:
        low: the percentile that becomes 0, from 0 to 100, among measured pixels, linear between ranks.
        high: the percentile that becomes 1; above ``low``.

    Raises:
        ConfigError: if they are not in this order within 0 and 100.
    """

    def __init__(self, low: float = 1.0, high: float = 99.0) -> None:
        self.low, self.high = _number("low", low), _number("high", high)
        if not 0 <= self.low < self.high <= 100:
            raise ConfigError(
                f"low and high must be percentiles, 0 <= low < high <= 100, but low: {low} and high: {high} came."
            )

    @override
    def scale(self, values: Tensor, valid: Tensor) -> Tensor:
        count = valid.flatten(2).sum(dim=2, keepdim=True)
        # Dead pixels are sorted behind all others, where no percentile looks.
        ranked = torch.where(valid, values, torch.inf).flatten(2).sort(dim=2).values
        low, high = (_at_percentile(ranked, count, percent) for percent in (self.low, self.high))
        return _between(values, low.unsqueeze(-1), high.unsqueeze(-1))

    @override
    def describe(self) -> dict[str, Any]:
        return {"name": "PercentileRange", "low": self.low, "high": self.high}


class PerImageRange(Scaling):
    """Map the smallest and largest value of each image and channel to 0 and 1.

    Preserves the order of the values within an image, and uses all of the contrast. It does not preserve absolute
    values, and one hot pixel darkens everything else: the least robust choice.
    """

    @override
    def scale(self, values: Tensor, valid: Tensor) -> Tensor:
        low = torch.where(valid, values, torch.inf).amin(dim=(-2, -1), keepdim=True)
        high = torch.where(valid, values, -torch.inf).amax(dim=(-2, -1), keepdim=True)
        return _between(values, low, high)

    @override
    def describe(self) -> dict[str, Any]:
        return {"name": "PerImageRange"}


def scaling_from_description(description: Mapping[str, Any]) -> Scaling:
    """Return the scaling that `Scaling.describe` described.

    Raises:
        ConfigError: if it is none of this library's, or a setting is missing, unknown or wrong.
    """
    known = {"FixedRange": FixedRange, "PercentileRange": PercentileRange, "PerImageRange": PerImageRange}
    settings = dict(description)
    name = settings.pop("name", None)
    if name not in known:
        raise ConfigError(f"The description names the scaling {name!r}; known are {', '.join(known)}.")
    try:
        made: Scaling = known[name](**settings)
    except TypeError as error:
        raise ConfigError(f"The description of the scaling {name} has wrong settings: {settings}.") from error
    return made


def _between(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the values as their place between ``low`` and ``high``, clipped; 0 where these are equal or unknown."""
    span = high - low
    usable = (span > 0) & span.isfinite()
    low, span = torch.where(usable, low, values), torch.where(usable, span, 1.0)
    return ((values - low) / span).clamp(0.0, 1.0)


def _at_percentile(ranked: Tensor, count: Tensor, percent: float) -> Tensor:
    """Return a percentile of the first ``count`` of the ranked values, ``(B, C, N)`` -> ``(B, C, 1)``."""
    last = (count - 1).clamp_min(0)
    place = last.to(torch.float64) * (percent / 100)
    below = place.floor().to(torch.int64)
    above = torch.minimum(below + 1, last)
    lower, upper = ranked.gather(2, below), ranked.gather(2, above)
    part = (place - below).to(ranked.dtype)
    # Not lower + part * (upper - lower): that is NaN where a channel has no measurement and both are infinite.
    return torch.where(part > 0, lower * (1 - part) + upper * part, lower)


def _numbers(name: str, value: float | Sequence[float]) -> list[float]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [_number(name, value)]
    if not value:
        raise ConfigError(f"{name} must be a number, or one for each channel, but an empty list came.")
    return [_number(f"{name}[{place}]", item) for place, item in enumerate(value)]


def _number(name: str, value: object) -> float:
    fits = isinstance(value, Real) and not isinstance(value, bool) and abs(float(value)) <= LARGEST_MEASUREMENT
    if not fits:
        raise ConfigError(f"{name} must be a finite number, in sensor units or percent, but {value!r} came.")
    return float(value)  # type: ignore[arg-type]  # mypy forgets the check of Real
