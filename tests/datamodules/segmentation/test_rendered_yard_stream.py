"""The shipped pictures as a stream."""

import pytest
import torch
from jsonargparse import ArgumentParser

from pvision.continual.scenarios import SegmentationScenario
from pvision.datamodules import RenderedYardStream, SegmentationStream
from pvision.errors import ConfigError


def test_ten_classes_come_in_seven_experiences():
    data = RenderedYardStream(
        scenario=SegmentationScenario(task="4-1"), train_images=60, test_images=20, batch_size=4, seed=0
    )
    data.setup()
    assert [one.name for one in data.experiences] == [
        "vehicle, wheel, table, quadruped",
        "ball",
        "drum",
        "arm",
        "trousers",
        "shirt",
        "skin",
    ]
    data.begin(6)
    batch = next(iter(data.train_dataloader()))
    assert batch.image.shape == (4, 3, 64, 64)
    assert batch.mask.unique().tolist() == [0, 10]
    assert -2 <= float(batch.image.min()) < float(batch.image.max()) <= 2
    tested = list(data.test_dataloader())
    assert [len(batch.position) for batch in tested] == [20]
    assert set(torch.cat([batch.mask.unique() for batch in tested]).tolist()) <= set(range(11))


def test_more_pictures_than_there_are_are_refused():
    with pytest.raises(ConfigError, match="1000000"):
        RenderedYardStream(scenario=SegmentationScenario(task="offline"), train_images=1_000_000).setup()


def test_it_is_configured_as_recipes_do():
    parser = ArgumentParser()
    parser.add_subclass_arguments(SegmentationStream, "data")
    scenario = {"class_path": "pvision.continual.scenarios.SegmentationScenario", "init_args": {"task": "4-1"}}
    settings_ = {"scale": [0.5, 2.0], "crop": 32, "eval_crop": 32}
    config = parser.parse_object(
        {
            "data": {
                "class_path": "pvision.datamodules.RenderedYardStream",
                "init_args": {"scenario": scenario, "preprocessing": settings_, "evaluation": "crop"},
            }
        }
    )
    made = parser.instantiate_classes(config).data
    assert made.scenario.groups(10)[0] == (1, 2, 3, 4)
    assert made.preprocessing.crop == 32
