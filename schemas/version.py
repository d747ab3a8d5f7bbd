"""The version of this package, said once: the build, `sluicegate --version` and both halves read it here."""

from __future__ import annotations

VERSION = "0.1.0"
"""As PEP 440 spells it. pyproject.toml has it read without an import, so it stays a plain literal."""
