"""What is exported or saved after some experience gives the same labels, and knows nothing of its history."""

import json
import subprocess
import sys

import pytest
import torch
from small_segmentation import experience
from small_streams_of_masks import SmallNetwork

from pvision.errors import ConfigError, DataError
from pvision.segmentation import export as exporting
from pvision.segmentation.export import METADATA, export_segmenter
from pvision.segmentation.files import load_segmenter, save_segmenter
from pvision.segmentation.methods import BARM, FineTuning, MiB
from pvision.segmentation.networks import CompactSegmenter
from pvision.weights_hash import weights_sha256

NAMES = ("red", "green", "blue", "yellow")
SETTINGS = {"image_size": (12, 16), "class_names": NAMES, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
ALONE = """
import json, sys, torch
found = {"pvision.json": ""}
program = torch.export.load(sys.argv[1], extra_files=found).module()
image = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(5))
labels, scores = program(image)
assert not [name for name in sys.modules if name.startswith("pvision")]
torch.save({"labels": labels, "scores": scores, "about": found["pvision.json"]}, sys.argv[2])
"""


def learned(method, *, steps=2):
    torch.manual_seed(1)
    made = method(SmallNetwork())
    for index, classes in enumerate([(3, 1), (4,)][:steps]):
        made.before_experience(experience(index, classes))
    return made


def expected(method, image):
    method = method.eval()
    mean, std = (torch.tensor(SETTINGS[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        return method(((image - mean) / std)[None])[0], method.scores(((image - mean) / std)[None])[0]


def test_a_program_runs_in_a_process_without_pvision_and_knows_its_labels(tmp_path):
    made = learned(BARM)  # with its teacher, in mid-experience
    export_segmenter(made, tmp_path / "made.pt2", format="torch_export", **SETTINGS)
    command = [sys.executable, "-c", ALONE, str(tmp_path / "made.pt2"), str(tmp_path / "found.pt")]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    labels, scores = expected(made, torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(5)))
    torch.testing.assert_close(found["scores"], scores)
    assert torch.equal(found["labels"], labels)
    assert json.loads(found["about"]) == {"labels": [0, 3, 1, 4], "names": ["background", "blue", "red", "yellow"]}
    assert made.teacher is not None  # it stays as it was


def test_onnx_gives_the_same_and_holds_the_names(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    made = learned(BARM)
    export_segmenter(made, tmp_path / "made.onnx", **SETTINGS)
    session = runtime.InferenceSession(tmp_path / "made.onnx", providers=["CPUExecutionProvider"])
    image = torch.rand(3, 12, 16)
    labels, scores = session.run(["labels", "scores"], {"image": image.numpy()})
    own_labels, own_scores = expected(made, image)
    torch.testing.assert_close(torch.from_numpy(scores), own_scores, atol=1e-4, rtol=1e-4)
    assert (torch.from_numpy(labels) == own_labels).float().mean() > 0.99
    about = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
    assert about["names"] == ["background", "blue", "red", "yellow"]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["made.onnx"]


def test_a_file_that_gives_something_else_gets_no_name(tmp_path, monkeypatch):
    real = exporting._export_program

    def wrong(served, *others):
        run = real(served, *others)
        return lambda image: [values.flip(-1) for values in run(image)]

    monkeypatch.setattr(exporting, "_export_program", wrong)
    with pytest.raises(ConfigError, match="other scores or labels"):
        export_segmenter(learned(MiB), tmp_path / "made.pt2", format="torch_export", **SETTINGS)
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"path": "made.onnx", "format": "torch_export"}, r"end in \.pt2"),
        ({"image_size": (12,)}, "height and width"),
        ({"image_size": (0, 4)}, "image_size"),
        ({"mean": (0.5,)}, "for each channel"),
        ({"format": "torchscript"}, "format"),
    ],
)
def test_a_wrong_setting_is_refused(tmp_path, settings, told):
    settings = {**SETTINGS, "format": "torch_export", **settings}
    with pytest.raises(ConfigError, match=told):
        export_segmenter(learned(MiB), tmp_path / settings.pop("path", "made.pt2"), **settings)


def test_saved_weights_make_the_same_method_without_its_teacher(tmp_path):
    made = learned(BARM)
    save_segmenter(made, tmp_path / "made.safetensors", class_names=NAMES)
    loaded, names = load_segmenter(tmp_path / "made.safetensors", network=SmallNetwork(), method=BARM)
    assert names == NAMES
    assert loaded.teacher is None
    assert loaded.head.groups == [(3, 1), (4,)]
    image = torch.rand(3, 12, 16)
    assert torch.equal(expected(loaded, image)[1], expected(made, image)[1])
    made.teacher = None
    assert weights_sha256(loaded) == weights_sha256(made)
    loaded.before_experience(experience(2, (2,)))  # and it learns on
    assert loaded.teacher is not None


def test_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "made.safetensors"
    save_segmenter(learned(MiB), path, class_names=NAMES)  # of 8 features, as CompactSegmenter(width=4) has too
    with pytest.raises(ConfigError, match="MiB, but FineTuning"):
        load_segmenter(path, network=SmallNetwork(), method=FineTuning)
    with pytest.raises(DataError, match="does not fit"):
        load_segmenter(path, network=CompactSegmenter(width=4), method=MiB)
    with pytest.raises(ConfigError, match="no file"):
        load_segmenter(tmp_path / "gone.safetensors", network=SmallNetwork(), method=MiB)
    with pytest.raises(ConfigError, match="must end in"):
        save_segmenter(learned(MiB), tmp_path / "made.pt", class_names=NAMES)
    (tmp_path / "broken.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(DataError, match="damaged"):
        load_segmenter(tmp_path / "broken.safetensors", network=SmallNetwork(), method=MiB)


def test_what_has_learned_nothing_is_not_written(tmp_path):
    empty = MiB(SmallNetwork())
    with pytest.raises(ConfigError, match="learned no class"):
        export_segmenter(empty, tmp_path / "made.onnx", **SETTINGS)
    with pytest.raises(ConfigError, match="learned no class"):
        save_segmenter(empty, tmp_path / "made.safetensors", class_names=NAMES)
