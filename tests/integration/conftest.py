"""The command in this process, a ready MLflow database, and small real data in every layout that recipes name."""

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database that MLflow has set up, which takes it ten seconds."""
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("migrated")
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def workplace(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder that has a ready database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the command would set it for good
    (tmp_path / "mlruns").mkdir()
    shutil.copy(migrated, tmp_path / "mlruns" / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def clips() -> Callable[[int], list[torch.Tensor]]:
    """Return real motion clips, uint8 ``(T, H, W, 3)``, by class: ``clips(label)``."""
    from pvision.datamodules.mocap.storage import load_clips

    loaded = load_clips("train", limit=300)

    def of(label: int) -> list[torch.Tensor]:
        return list(loaded.video[loaded.label == label])

    return of


@pytest.fixture(scope="session")
def write_video() -> Callable[[Path, torch.Tensor], None]:
    """Return what writes a clip as a video file."""
    return _write_video


def _write_video(path: Path, frames: torch.Tensor) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(8))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
