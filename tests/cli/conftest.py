"""Applications on a real server, for the commands that ask one."""

from __future__ import annotations

from tests.web.conftest import app_of, engine, serving

__all__ = ["app_of", "engine", "serving"]
