"""Images with masks divided into the experiences of a stream: all that it knows before a single pixel is trained."""

from collections.abc import Sequence

import numpy as np

from pvision.continual.experience import Experience
from pvision.continual.masks import BACKGROUND
from pvision.continual.scenarios import Presence, SegmentationScenario, hold_out_for_good
from pvision.datamodules.segmentation.sources import SegmentationSource
from pvision.datamodules.streams.division import Division
from pvision.errors import ConfigError, DataError

__all__ = ["divide_masks"]


def divide_masks(
    train: SegmentationSource,
    test: SegmentationSource,
    class_names: Sequence[str],
    *,
    scenario: SegmentationScenario,
    has_background: bool,
    val_fraction: float,
    seed: int,
) -> Division:
    """Divide a data set.

    Args:
        train: the training set.
        test: the test set.
        class_names: the names of the classes 1, 2, …
        scenario: makes the experiences.
        has_background: whether masks may hold the label 0.
        val_fraction: part of each experience's records that is held out for validation, in all experiences.
        seed: draws the records that are held out.

    Returns:
        The experiences, and for each training record the first experience that trains on it.

    Raises:
        ConfigError: if the scenario or ``val_fraction`` does not fit the data set.
        DataError: if the masks contradict the number of classes, or a class could not be learned.
    """
    if len(set(class_names)) < len(class_names) or not class_names:
        raise ConfigError(
            f"class_names must hold the name of each class once, without the background, but {list(class_names)} came."
        )
    presences = {}
    for title, source in (("training", train), ("test", test)):
        presences[title] = _checked(title, source, len(class_names), has_background)
    made = scenario.experiences(presences["training"], presences["test"], class_names)
    learned = hold_out_for_good(made, fraction=val_fraction, seed=seed)
    if val_fraction:
        for experience in learned:
            _refuse_bare(experience, presences["training"], class_names, val_fraction)
    origin = np.full(len(train), -1, dtype=np.int64)
    for experience in reversed(learned):
        origin[experience.train] = experience.index
    return Division(learned, origin)


def _checked(title: str, source: SegmentationSource, num_classes: int, has_background: bool) -> Presence:
    presence = source.presence()
    if not len(source) or presence.shape != (len(source), num_classes + 1):
        raise DataError(
            f"The {title} set has {len(source)} images and a table of labels of shape {presence.shape}, but at least "
            f"one image and {num_classes} classes beside the background are expected. Look at the data's path, and at "
            "class_names."
        )
    if not has_background and presence[:, BACKGROUND].any():
        name = source.names[int(np.argmax(presence[:, BACKGROUND]))]
        raise DataError(
            f"The data set has no background, but the mask of {name} holds the label {BACKGROUND}. Map what belongs to "
            "no class to 255, or say that there is a background."
        )
    return presence


def _refuse_bare(experience: Experience, presence: Presence, class_names: Sequence[str], fraction: float) -> None:
    """Raise `ConfigError` if validation leaves an experience, or one of its classes, without images."""
    if not len(experience.val):
        raise ConfigError(
            f"data.val_fraction {fraction:g} holds no record out of experience {experience.name!r}, which is small or "
            "has images that earlier ones train on. Raise it, or set it to 0."
        )
    for label in experience.classes:
        if not presence[experience.train, label].any():
            raise ConfigError(
                f"data.val_fraction {fraction:g} leaves no training image of the class {class_names[label - 1]!r}. "
                "Lower it, or take another data.seed."
            )
