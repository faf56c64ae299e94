"""InterferenceCertificate refuses wrong settings, and every module that claims some privacy."""

from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest

from pvision.callbacks import InterferenceCertificate, PrivacyAccounting
from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import PrivacyReport


@pytest.mark.parametrize("accounting", [{"budget": 3.0}, {"delta": 1e-5, "unit": "clip"}])
def test_private_training_is_refused(accounting: dict[str, Any]) -> None:
    trainer = SimpleNamespace(callbacks=[PrivacyAccounting(**accounting)])
    with pytest.raises(PrivacyError, match="without noise"):
        InterferenceCertificate().setup(trainer, pl.LightningModule(), "fit")


def test_the_accountant_of_the_command_line_stands_by() -> None:
    trainer = SimpleNamespace(callbacks=[PrivacyAccounting()])
    InterferenceCertificate().setup(trainer, pl.LightningModule(), "fit")


@pytest.mark.parametrize("report", [PrivacyReport.drop_only(), PrivacyReport.no_privacy()])
def test_a_module_that_protects_something_is_refused(report: PrivacyReport) -> None:
    """Also one without noise: the pass over the records would show it what it must not see."""
    module = pl.LightningModule()
    module.privacy_report = lambda: report
    if report.epsilon_replace == 0:
        with pytest.raises(PrivacyError, match="without noise"):
            InterferenceCertificate().setup(SimpleNamespace(callbacks=[]), module, "fit")
    else:
        InterferenceCertificate().setup(SimpleNamespace(callbacks=[]), module, "fit")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layers": "first"}, "list of patterns"),
        ({"layers": []}, "list of patterns"),
        ({"energy": 0.0}, "energy"),
        ({"energy": 1.5}, "energy"),
        ({"tolerance": -1e-9}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"max_batches": 0}, "max_batches"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        InterferenceCertificate(**settings)
