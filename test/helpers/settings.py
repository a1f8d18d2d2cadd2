"""Settings of training, as an example of settings."""

from __future__ import annotations

import pytest

from deal_core.errors import ConfigError
from deal_core.settings_file import load_settings
from deal_core.trainer.settings import TrainSettings

REQUIRED = ["data.path=kitchen", "output=runs/kitchen"]


def settings(*overrides: str) -> TrainSettings:
    return load_settings(TrainSettings, None, [*REQUIRED, *overrides])


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(*overrides)
    return str(caught.value)
