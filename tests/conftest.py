"""What every test gets: a quiet environment, a folder and seeds of its own, and guards that fail a test that leaks.

A guard mends what it found, so that one leak fails one test. `tests/test_conftest.py` shows each guard at work.
"""

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# These must stand before torch, MLflow or albumentations are imported by any test. A developer's own MLflow server, run
# or token must not be what the tests write to.
for _name in [name for name in os.environ if name.startswith("MLFLOW_")]:
    del os.environ[_name]
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", NO_ALBUMENTATIONS_UPDATE="1", MPLBACKEND="Agg")
# Two torch processes with two threads each on two cores take ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Test machines are shared: no verdict by the clock. In CI the examples are the same in every run.
settings.register_profile("pvision", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("pvision")

# Written by Lightning, torch or MLflow while they do what they were asked to; put back in silence.
LIBRARY_VARIABLES = {
    "CUBLAS_WORKSPACE_CONFIG",  # Trainer(deterministic=True)
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "LD_LIBRARY_PATH",  # OpenCV, at import
    "LOCAL_RANK",  # Trainer with several processes: this line and the five below
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "WORLD_SIZE",
    "RANK",
    "MLFLOW_TRACKING_URI",  # mlflow.set_tracking_uri
    "PL_GLOBAL_SEED",  # seed_everything
    "PL_SEED_WORKERS",
    "PYTORCH_NVML_BASED_CUDA_CHECK",  # Lightning, at import
    "PYTEST_CURRENT_TEST",
    "PYTEST_VERSION",
    "QT_QPA_FONTDIR",  # OpenCV, at import
    "QT_QPA_PLATFORM_PLUGIN_PATH",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # torch keeps SIGCHLD once a loader has had workers

# Reasons for which a test may be skipped in CI. Anything else means that something is not installed, and a run in which
# the privacy tests are skipped must not be green.
REASONS_TO_SKIP = ("GPU", "pybullet")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave helpers beside the tests alone: looking for examples in them would import them under a second name."""
    return True if collection_path.suffix == ".py" and not collection_path.name.startswith("test_") else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a CI run in which tests were skipped for want of a package."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if "CI" not in os.environ or reporter is None or hasattr(session.config, "workerinput"):
        return
    for report in reporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not hasattr(report, "wasxfail") and not any(word in reason for word in REASONS_TO_SKIP):
            reporter.write_line(f"ERROR {report.nodeid} was skipped in CI: {reason}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def own_seeds() -> None:
    """Seed every global generator, so that no result depends on which tests ran before."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path) -> Iterator[None]:
    """Run the test in an empty folder: nothing it writes under a relative path can land in the checkout."""
    before = Path.cwd()
    folder = tmp_path / "cwd"
    folder.mkdir()
    os.chdir(folder)
    yield
    after = Path.cwd()
    os.chdir(before)
    if after != folder:
        pytest.fail(f"the test left the working directory at {after}: use monkeypatch.chdir")


@pytest.fixture(autouse=True)
def no_environment_leak() -> Iterator[None]:
    """Fail a test that leaves an environment variable set, changed or deleted."""
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    os.environ.clear()
    os.environ.update(before)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if leaked := sorted(changed - LIBRARY_VARIABLES):
        pytest.fail(f"the test leaked environment variables: {leaked}. Use monkeypatch.setenv")


@pytest.fixture(autouse=True)
def no_signal_leak() -> Iterator[None]:
    """Fail a test that leaves a signal handler behind."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    leaked = [number.name for number, handler in before.items() if signal.getsignal(number) != handler]
    for number, handler in before.items():
        if number.name in leaked:
            signal.signal(number, handler)
    if leaked:
        pytest.fail(f"the test left signal handlers behind: {leaked}")


@pytest.fixture(autouse=True)
def no_thread_leak() -> Iterator[None]:
    """Fail a test that leaves a thread running that would keep the process from ending."""
    before = set(threading.enumerate())
    yield
    leaked = [t for t in threading.enumerate() if t not in before and not t.daemon and not t.name.startswith("MLflow")]
    for thread in leaked:
        thread.join(timeout=2)
    if alive := [thread.name for thread in leaked if thread.is_alive()]:
        pytest.fail(f"the test left threads running: {alive}")


@pytest.fixture(autouse=True)
def no_torch_leak() -> Iterator[None]:
    """Fail a test that leaves a global switch of torch turned, or a process group open."""
    yield
    torch = sys.modules.get("torch")
    if torch is None:
        return
    # Trainer(deterministic=True, benchmark=True) turn these and never turn them back: mended in silence.
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    leaked = []
    if torch.get_default_dtype() != torch.float32:
        leaked.append(f"default dtype {torch.get_default_dtype()}")
        torch.set_default_dtype(torch.float32)
    if not torch.is_grad_enabled():
        leaked.append("gradients switched off")
        torch.set_grad_enabled(True)
    if torch.is_anomaly_enabled():
        leaked.append("anomaly mode")
        torch.autograd.set_detect_anomaly(False)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        leaked.append("an open process group")
        torch.distributed.destroy_process_group()
    if leaked:
        pytest.fail(f"the test left torch changed: {', '.join(leaked)}")


class Ranks:
    """Processes that join a gloo group for each call; see ``gloo_rank.py``.

    Args:
        folder: where groups meet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._calls = folder, 0
        self._processes: list[subprocess.Popen[bytes]] = []

    def __call__(
        self, function: Callable[..., Any], world_size: int, *, timeout: float = 60, **arguments: Any
    ) -> list[Any]:
        """Return, for each rank, ``("returned", value)`` or ``("raised", "Type: message")``."""
        while len(self._processes) < world_size:
            worker = [sys.executable, str(Path(__file__).with_name("gloo_rank.py"))]
            # What test files import by name is found there too.
            found = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            self._processes.append(subprocess.Popen(worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=found))
        self._calls += 1
        call = {
            "file": function.__code__.co_filename,
            "name": function.__name__,
            "store": str(self._folder / f"group{self._calls}"),
            "world_size": world_size,
            "timeout": timeout,
        }
        for rank, process in enumerate(self._processes[:world_size]):
            pickle.dump({**call, "rank": rank, "arguments": {"rank": rank, **arguments}}, process.stdin)
            process.stdin.flush()
        try:
            return [pickle.load(process.stdout) for process in self._processes[:world_size]]
        except EOFError:
            self.close()
            raise

    def close(self) -> None:
        """End the processes; the next call starts new ones."""
        for process in self._processes:
            process.kill()
            process.communicate()
        self._processes.clear()


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Run a function of a test file in several processes that form a gloo group."""
    made = Ranks(tmp_path_factory.mktemp("ranks"))
    yield made
    made.close()
