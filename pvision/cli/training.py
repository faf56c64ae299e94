"""`pvision fit`, `validate`, `test` and `predict`: a LightningCLI that refuses early and tells how a run ended."""

import signal
import sys
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

# The imported packages let a configuration name their classes without a path.
import pvision.datamodules
import pvision.detection
import pvision.models
import pvision.modules
import pvision.segmentation.methods
import pvision.segmentation.networks  # noqa: F401  # as above
from pvision.callbacks import ForgettingMetrics, FrozenGuard, PrivacyAccounting, SegmentationMatrix
from pvision.callbacks.detection_writer import DetectionWriter
from pvision.callbacks.frozen_guard import HasFrozenModules
from pvision.callbacks.mask_writer import MaskWriter
from pvision.callbacks.prediction_writer import PredictionWriter
from pvision.callbacks.run_summary import RunSummary
from pvision.cli import early, tracking
from pvision.cli.checkpoint_io import SafeCheckpointIO, check_fits, read_checkpoint
from pvision.cli.messages import explain
from pvision.cli.parser import Parser, SettingsError
from pvision.cli.quiet import less_noise
from pvision.cli.refusing import from_worker, refusing, refusing_constructors
from pvision.datamodules import SegmentationStream, TaskStream
from pvision.errors import ConfigError, UserError
from pvision.modules.private_classifier import PrivateClassifier
from pvision.modules.video_classifier import VideoClassifier
from pvision.training.run_files import is_trial
from pvision.training.streams import fit_stream, latest_checkpoint
from pvision.training.trainer_parts import callbacks_of

__all__ = ["TrainingCLI", "run"]

_LIGHTNINGS_OWN = ("best", "last", "hpc")  # values of --ckpt_path that Lightning resolves itself


@runtime_checkable
class ChecksData(Protocol):
    """A LightningModule that can refuse data before anything is written."""

    def check(self, data: LightningDataModule) -> None:
        """Raise a `UserError` if this module cannot work on ``data``."""


def run(argv: list[str], *, name: str | None) -> int | None:
    """Run a training command.

    Args:
        argv: the stage and its flags; ``--config`` with paths only.
        name: what to call the run.

    Raises:
        UserError: if what the user gave is wrong.
        SystemExit: with 130 after Ctrl-C, 143 after SIGTERM.
    """
    # As `python -m` does, so that a configuration can name the classes of the project it lies in.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    with less_noise(), tracking.environment():
        try:
            cli = TrainingCLI(argv, name=name)
        except MisconfigurationException as error:
            raise ConfigError(" ".join(str(error).split())) from error
        except (RuntimeError, UserError) as error:
            cause = from_worker(error)
            if cause is None:
                raise
            raise UserError(cause) from error
    if cli.subcommand == "fit" and cli.trainer.is_global_zero and isinstance(cli.model, VideoClassifier):
        print(cli.model.privacy_report(), file=sys.stderr)
    if cli.summary.path is not None:
        print(cli.summary.path)
    return None


class TrainingCLI(LightningCLI):
    """LightningCLI with tracking, a summary, and all refusals before the first file.

    Args:
        argv: the stage and its flags.
        name: what to call the run.
    """

    def __init__(self, argv: list[str], *, name: str | None) -> None:
        self._name = name
        self._checkpoint: dict[str, Any] | None = None
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=tracking.KeepConfig,
            trainer_defaults={
                "default_root_dir": tracking.ROOT,
                "logger": tracking.default_logger(),
                "callbacks": [PredictionWriter(), DetectionWriter(), MaskWriter()],
            },
            seed_everything_default=1,  # of initial weights and data order; privacy noise has its own entropy
            parser_class=Parser,
            parser_kwargs={"prog": "pvision"},
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=argv,
        )

    @property
    def summary(self) -> RunSummary:
        """The callback that writes ``summary.json``."""
        return next(callback for callback in callbacks_of(self.trainer) if isinstance(callback, RunSummary))

    # Parsing

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        # Checkpoints are never loaded otherwise, so there is no flag for it.
        return {stage: skipped | {"weights_only"} for stage, skipped in LightningCLI.subcommands().items()}

    @override
    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        super().setup_parser(*args, **kwargs)
        # They are written to a file; keeping them all in memory too would be waste.
        self._subcommand_parsers["predict"].set_defaults(return_predictions=False)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(PrivacyAccounting, "privacy_accounting")
        parser.add_lightning_class_args(RunSummary, "run_summary")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # Not Lightning's own, which warns whenever it is given a list, as it always is here.
        try:
            self.config = parser.parse_args(args)
        except SettingsError as error:
            stage = args[0]
            raise ConfigError(explain(error, stage=stage, stage_parser=cast(Parser, self._parser(stage)))) from error

    @override
    def _parse_ckpt_path(self) -> None:
        # Lightning would let the checkpoint's hyperparameters overrule the configuration; here it only adds weights.
        path = self._settings.get("ckpt_path")
        if path is None or str(path) in _LIGHTNINGS_OWN:
            return
        if Path(str(path)).is_dir():
            path = self._settings.ckpt_path = str(latest_checkpoint(Path(str(path))))
            print(f"pvision: {'going on from' if self.config.subcommand == 'fit' else 'with'} {path}", file=sys.stderr)
        self._checkpoint = read_checkpoint(str(path))

    @property
    def _settings(self) -> Namespace:
        return cast(Namespace, self.config[self.config.subcommand])

    # From settings to objects

    @override
    def instantiate_classes(self) -> None:
        settings = self._settings
        settings.run_summary.name = settings.run_summary.name or self._name
        loggers = settings.trainer.logger
        for mlflow in tracking.mlflow_settings(loggers):
            tracking.check_store(mlflow)
        # Loggers come last: MLflow creates its database as soon as its logger exists.
        settings.trainer.logger = False
        try:
            with refusing_constructors():
                super().instantiate_classes()
                self._add_callbacks()
        finally:
            settings.trainer.logger = loggers
        self._check()
        if not is_trial(self.trainer):
            with tracking.refusing_store():
                self.trainer.loggers = self._open_loggers(loggers)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        given = self._get(self.config_init, "trainer").plugins or []
        plugins = list(given) if isinstance(given, list) else [given]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(SafeCheckpointIO())
        if isinstance(self.model, PrivateClassifier):
            kwargs["use_distributed_sampler"] = False  # batches are shared out by the mechanism
        return super().instantiate_trainer(plugins=plugins, **kwargs)

    def _add_callbacks(self) -> None:
        """Measure forgetting wherever there is something to forget, and watch what is to stay frozen."""
        callbacks = callbacks_of(self.trainer)
        guarded = any(isinstance(callback, FrozenGuard) for callback in callbacks)
        if isinstance(self.model, HasFrozenModules) and self.model.frozen_modules() and not guarded:
            callbacks.insert(0, FrozenGuard())
        measured = any(isinstance(callback, ForgettingMetrics) for callback in callbacks)
        if isinstance(self.datamodule, TaskStream) and not measured:
            callbacks.insert(0, ForgettingMetrics())
        if isinstance(self.datamodule, SegmentationStream):
            if not measured:
                suffix = "" if self.datamodule.evaluation == "full" else f"_{self.datamodule.evaluation}"
                callbacks.insert(0, ForgettingMetrics(f"test{suffix}/iou_{{}}"))
            if not any(isinstance(callback, SegmentationMatrix) for callback in callbacks):
                callbacks.insert(0, SegmentationMatrix())

    def _check(self) -> None:
        """Let data and model refuse while nothing is written."""
        if self.trainer.global_rank != 0:
            return  # other processes start after the first has checked, and must not prepare data twice
        with refusing("--data", OSError):
            self.datamodule.prepare_data()
            self.datamodule.setup(str(self.subcommand))
        if self.subcommand != "fit" and isinstance(self.datamodule, early.STREAMS):
            early.check_evaluation(str(self.subcommand), self.model, self.datamodule, checkpoint=self._checkpoint)
        if self.subcommand == "fit":
            if isinstance(self.datamodule, early.STREAMS) and str(self._settings.ckpt_path) in _LIGHTNINGS_OWN:
                raise ConfigError(
                    f"--ckpt_path {self._settings.ckpt_path}: a stream goes on from a file or from its run's folder, "
                    "mlruns/EXPERIMENT/RUN. Give one of them."
                )
            early.check_fit(self.trainer, self.model, self.datamodule)
        if isinstance(self.model, ChecksData):
            self.model.check(self.datamodule)
        if self._checkpoint is not None:
            path = str(self._settings.ckpt_path)
            early.check_checkpoint(self._checkpoint, self.model)
            check_fits(self._checkpoint, self.model, path=path)
            if self.subcommand == "fit":
                early.check_resumption(path, self.model, self.datamodule)
            self._checkpoint = None

    def _open_loggers(self, settings: Any) -> list[Logger]:
        if settings is False:
            return []
        if settings is None or settings is True:
            return [CSVLogger(self.trainer.default_root_dir)]
        config = Namespace({"trainer": Namespace({"logger": settings})}).clone()  # type: ignore[no-untyped-call]  # jsonargparse has it so
        for mlflow in tracking.mlflow_settings(config.trainer.logger):
            if self.trainer.global_rank == 0:
                tracking.announce_set_up(mlflow)
            tracking.describe_run(mlflow, name=self._settings.run_summary.name)
            if self.trainer.global_rank == 0 and self.subcommand == "fit" and self._settings.ckpt_path:
                root, checkpoint = self.trainer.default_root_dir, str(self._settings.ckpt_path)
                tracking.go_on_in_the_run_of(checkpoint, mlflow, root=Path(root))
        parser = self._parser(self.subcommand)
        opened = parser.instantiate_classes(config, instantiate_groups=False).trainer.logger
        loggers = list(opened) if isinstance(opened, list) else [opened]
        for logger in loggers:
            getattr(logger, "experiment", None)  # a server that does not answer is known before training
        return loggers

    # Running

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        try:
            if subcommand == "fit" and isinstance(self.datamodule, early.STREAMS):
                fit_stream(self.trainer, self.model, self.datamodule, ckpt_path=self._settings.get("ckpt_path"))
            else:
                super()._run_subcommand(subcommand)
        except (SystemExit, KeyboardInterrupt) as stop:
            code = _stopped(stop)
            if code is None:
                raise
            for logger in self.trainer.loggers:
                if isinstance(logger, MLFlowLogger):
                    logger.finalize("KILLED")
            print(f"\npvision: stopped; what ran is in {self.summary.path}", file=sys.stderr)
            raise SystemExit(code) from stop

    def after_fit(self) -> None:
        """Test the trained model, if there is something to test it on; Lightning calls this after ``fit``."""
        testable = is_overridden("test_dataloader", self.datamodule) and is_overridden("test_step", self.model)
        if testable and not is_trial(self.trainer):
            self.trainer.test(self.model, datamodule=self.datamodule)


def _stopped(stop: BaseException) -> int | None:
    """Return the exit code of a run that was told to stop, None if it left for another reason."""
    if isinstance(stop, SIGTERMException):
        return 128 + signal.SIGTERM
    # After Ctrl-C Lightning shuts down, ignores further ones and calls sys.exit(1).
    if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return 128 + signal.SIGINT
    return None
