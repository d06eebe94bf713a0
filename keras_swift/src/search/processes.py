"""This process' role in a search that several share, by KerasTuner's environment variables."""

from __future__ import annotations

import os


def is_distributed() -> bool:
    return "KERASTUNER_ORACLE_IP" in os.environ


def is_chief() -> bool:
    return "chief" in os.environ.get("KERASTUNER_TUNER_ID", "") and is_distributed()


def is_worker() -> bool:
    return is_distributed() and not is_chief()
