"""Helpers that users import in their own tests."""

from __future__ import annotations
