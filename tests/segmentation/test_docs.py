"""What docs/segmentation.md shows runs, and the metrics that it names are the ones that are logged."""

import re
import warnings
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "segmentation.md"


@pytest.mark.slow
def test_the_code_on_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Precision .* is not supported by the model summary")
            exec(compile(block, str(PAGE), "exec"), namespace)  # the page's own lines
    assert namespace["method"].head.groups == namespace["module"].method.head.groups
    assert namespace["names"] == tuple(namespace["stream"].class_names)
    matrix = next(one for one in namespace["trainer"].callbacks if type(one).__name__ == "SegmentationMatrix")
    logged = {*namespace["trainer"].callback_metrics, *matrix.summary_metrics()}
    named = set(re.findall(r"`(segmentation/\w+)`", text))
    assert len(named) > 8
    assert named <= logged
