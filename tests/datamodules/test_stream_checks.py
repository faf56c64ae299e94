"""What a stream refuses, and how it knows the stream of a run: settings, checkpoints, manifests, processes."""

from types import SimpleNamespace

import pytest
from jsonargparse import ArgumentParser

from pvision.continual.replay import ReservoirMemory
from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules.streams import DigitsStream, TaskStream
from pvision.errors import ConfigError, DataError


def stream(cls=DigitsStream, *, world_size=1, **arguments):
    made = cls(**{"scenario": ClassIncremental(experiences=5), "batch_size": 8, "seed": 5, **arguments})
    if world_size > 1:
        made.trainer = SimpleNamespace(global_rank=0, world_size=world_size)
    return made


def test_a_run_does_not_go_on_with_another_stream():
    state = stream().state_dict()
    with pytest.raises(DataError, match=r"not the one of the run: the seed is 6, not 5\. Give"):
        stream(seed=6).load_state_dict(state)
    with pytest.raises(DataError, match=r"the scenario's class_order_seed is 4, not null; .* and \d+ more differences"):
        stream(scenario=ClassIncremental(experiences=5, class_order_seed=4)).load_state_dict(state)
    with pytest.raises(ConfigError, match=r"saved without a replay memory, but data\.replay is set"):
        stream(replay=ReservoirMemory(4)).load_state_dict(state)
    with pytest.raises(ConfigError, match="saved with a replay memory"):
        stream().load_state_dict(stream(replay=ReservoirMemory(4)).state_dict())
    with pytest.raises(DataError, match="The stream in the checkpoint describes None"):
        stream().load_state_dict({})


def test_the_manifest_notices_a_renamed_record_a_seed_and_an_order():
    class Renamed(DigitsStream):
        def prepare_sources(self):
            super().prepare_sources()
            self.train_source.names[first.train[0]] = "train/renamed"

    Renamed.__name__ = "DigitsStream"
    first = stream().experiences[0]
    mine = stream().manifest()
    assert mine == stream().manifest()
    assert mine.difference(stream(Renamed).manifest()) == [
        "experience 0 has other training records, or the same in another order"
    ]
    assert mine.difference(stream(seed=1).manifest()) == ["the seed is 1, not 5"]
    assert stream(val_fraction=0.3).manifest().digest != stream(val_fraction=0.3, seed=1).manifest().digest
    order = stream(scenario=ClassIncremental(experiences=5, class_order=[1, 0, *range(2, 10)])).manifest()
    assert "the class order is [1, 0, 2, 3, 4, 5, 6, 7, 8, 9], not [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]" in mine.difference(
        order
    )


def test_the_seed_is_that_of_seed_everything_unless_it_is_given(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert stream(seed=None).seed == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "77")
    data = stream(seed=None)
    assert data.seed == 77
    assert stream(seed=5).seed == 5
    data.setup()
    monkeypatch.setenv("PL_GLOBAL_SEED", "78")
    assert data.seed == 77, "it may not change under a running stream"


def test_the_data_is_loaded_once():
    data, calls = stream(), []
    prepare = data.prepare_sources
    data.prepare_sources = lambda: (calls.append(1), prepare())
    data.setup("fit")
    data.setup("test")
    assert calls == [1]


class Strategy:
    def __init__(self, first):
        self.first = first

    def broadcast(self, mine):
        return self.first

    def reduce_boolean_decision(self, decision, all):
        assert all
        return decision


@pytest.mark.parametrize("agree", [True, False])
def test_processes_that_found_different_streams_are_stopped(agree):
    data = stream(world_size=2)
    data.trainer.strategy = Strategy(stream(seed=5 if agree else 6).manifest().digest)
    if agree:
        data.setup()
        return
    with pytest.raises(DataError, match="The 2 processes of this run found different streams, here one of 1198"):
        data.setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size"),
        ({"eval_batch_size": 0}, r"data\.eval_batch_size"),
        ({"num_workers": -1}, r"data\.num_workers"),
        ({"val_fraction": 1.0}, r"data\.val_fraction must be at least 0 and below 1, but 1\.0"),
        ({"training_set": "joint"}, r"data\.training_set must be one of 'current', 'seen'"),
        ({"evaluate": "none"}, r"data\.evaluate must be one of"),
        ({"replay_batch_size": 4}, r"replay_batch_size is 4, but data\.replay is not set"),
        ({"replay": ReservoirMemory(4), "training_set": "seen"}, "Leave one out"),
        ({"replay": ReservoirMemory(4), "replay_batch_size": 0}, r"data\.replay_batch_size must be"),
        ({"seed": -1}, r"data\.seed"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(arguments, message):
    with pytest.raises(ConfigError, match=message):
        stream(**arguments)


def test_an_experience_that_does_not_exist_cannot_begin():
    for index in (-1, 5):
        with pytest.raises(ConfigError, match=f"experiences 0 to 4, but {index} is asked for"):
            stream().begin(index)


def test_a_fraction_that_holds_nothing_out_is_refused():
    with pytest.raises(ConfigError, match=r"val_fraction 0\.001 holds no record out of experience 'classes 0, 1'"):
        stream(val_fraction=0.001).setup()


def test_a_batch_that_the_processes_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"data\.batch_size .* multiple of their number, 3, but 8 came"):
        stream(world_size=3).train_dataloader()


def test_two_records_of_one_name_are_refused():
    class Twice(DigitsStream):
        def prepare_sources(self):
            super().prepare_sources()
            self.train_source.names[3] = "train/2"

    with pytest.raises(DataError, match="Two training records are called 'train/2'"):
        stream(Twice).setup()


YAML = """
data:
  class_path: pvision.datamodules.streams.DigitsStream
  init_args:
    scenario:
      class_path: pvision.continual.scenarios.LongTailed
      init_args:
        scenario: {class_path: pvision.continual.scenarios.ClassIncremental, init_args: {increments: [4, 6]}}
        imbalance: 0.5
    replay: {class_path: pvision.continual.replay.ReservoirMemory, init_args: {size: 20}}
    preprocessing: {augment: flip}
    forget:
    - {after: 1, classes: [3]}
"""


def test_all_of_it_can_be_written_in_yaml(tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(TaskStream, "data")
    (tmp_path / "run.yaml").write_text(YAML)
    chosen = ["--config", str(tmp_path / "run.yaml")]
    data = parser.instantiate(parser.parse_args(chosen)).data
    assert [(e.kind, e.classes) for e in data.experiences][1:] == [("learn", (4, 5, 6, 7, 8, 9)), ("forget", (3,))]
    assert (data.replay.size, data.preprocessing.augment) == (20, "flip")
    chosen += ["--data.scenario", "Blurry", "--data.scenario.experiences", "5", "--data.forget", "[]"]
    assert len(parser.instantiate(parser.parse_args(chosen)).data.experiences) == 5
