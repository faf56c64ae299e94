"""What ImageNet-R and ImageNet-A have in common: class folders named by WordNet, and no official split."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pvision.checks import open_unit, positive_int
from pvision.continual.replay import ReplayMemory
from pvision.continual.scenarios import ForgetRequest, Scenario
from pvision.datamodules.streams._image_lists import (
    ImageSplits,
    draw_test,
    folder_rows,
    refuse_absent,
    sources_of,
    two_splits,
)
from pvision.datamodules.streams.preprocessing import PILOT_224, Preprocessing
from pvision.datamodules.streams.protocol_stream import ProtocolStream, Sources

__all__ = ["WordNetFolders"]


class WordNetFolders(ProtocolStream):
    """The base of both sets.

    Args:
        test_fraction: of each class' images, with split ``random``.
        split_seed: draws them.
    """

    splits: ClassVar[tuple[str, ...]] = ("folders", "random")
    title: ClassVar[str]
    site: ClassVar[str]

    def __init__(
        self,
        *,
        root: str,
        protocol: str | None = None,
        class_order_seed: int | None = None,
        scenario: Scenario | None = None,
        split: str | None = None,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        preprocessing: Preprocessing | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        val_fraction: float = 0.0,
        training_set: Literal["current", "seen"] = "current",
        evaluate: Literal["seen", "all"] | None = None,
        online: bool = False,
        replay: ReplayMemory | None = None,
        replay_batch_size: int | None = None,
        forget: Sequence[ForgetRequest] = (),
        seed: int | None = None,
    ) -> None:
        super().__init__(
            root=root,
            protocol=protocol,
            class_order_seed=class_order_seed,
            scenario=scenario,
            split=split,
            preprocessing=preprocessing,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            val_fraction=val_fraction,
            training_set=training_set,
            evaluate=evaluate,
            online=online,
            replay=replay,
            replay_batch_size=replay_batch_size,
            forget=forget,
            seed=seed,
        )
        self._test_fraction = open_unit("data.test_fraction", test_fraction)
        self._split_seed = positive_int("data.split_seed", split_seed, low=0) % 2**32

    def default_preprocessing(self) -> Preprocessing:
        """Return PILOT's: random parts of the image at 224 pixels, values in [0, 1]."""
        return PILOT_224

    def read_sources(self) -> Sources:
        """List the images.

        Raises:
            DataError: if the folders of the split are not there, or have no images.
        """
        return Sources(*sources_of(self._listed()))

    def identity(self) -> Mapping[str, object]:
        """Return what decides on which images the stream trains."""
        drawn = {"test_fraction": self._test_fraction, "split_seed": self._split_seed}
        return {**super().identity(), **(drawn if self.split == "random" else {})}

    def _listed(self) -> ImageSplits:
        if self.split == "folders":
            self._refuse_absent("train", "test", layout="ROOT/{train,test}/CLASS/IMAGE")
            return two_splits(self.root)
        self._refuse_absent("", layout="ROOT/CLASS/IMAGE, as in the authors' archive")
        return draw_test(
            self.root, folder_rows(self.root, self.root), fraction=self._test_fraction, seed=self._split_seed
        )

    def _refuse_absent(self, *names: str, layout: str) -> None:
        refuse_absent(
            [self.root / name for name in names],
            data=f"{self.title}, split {self.split!r}",
            layout=f"{layout}. Other splits are {', '.join(split for split in self.splits if split != self.split)}",
            site=self.site,
        )
