"""`pvision demo`, small: the table, the plots and the runs it promises."""

import json
import re
from pathlib import Path

import pytest

from pvision.cli import main


@pytest.mark.slow
def test_the_demo_ends_with_table_plots_and_the_way_to_mlflow(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.tracking import MlflowClient

    assert main(["demo", "--clips", "90", "--epochs", "1", "--noise-seeds", "2"]) == 0
    out = capsys.readouterr().out
    for word in ("MaskDP", "drop-only", "DP-SGD", "not private", "head, arms and upper body", "background"):
        assert word in out
    assert "mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db" in out
    summary = json.loads(Path(re.findall(r"\S+summary\.json", out)[-1]).read_text())
    assert {row["epsilon"] for row in summary["rows"]} >= {0.0, 1.0, 3.0, 8.0}
    for picture in re.findall(r"\S+\.png", out):
        assert (workplace / picture).read_bytes().startswith(b"\x89PNG")
    client = MlflowClient("sqlite:///mlruns/mlflow.db")
    runs = client.search_runs(["1"], max_results=200)
    assert {run.info.status for run in runs} == {"FINISHED"}
    rows = [run for run in runs if "privacy/epsilon_zero_out" in run.data.metrics]
    assert len(rows) >= 2 * 3 * 5
