"""Makes the built test drivers available here."""

from __future__ import annotations

from tests.fixtures.built_drivers import build_root, cookie, identity, minimal

__all__ = ["build_root", "cookie", "identity", "minimal"]
