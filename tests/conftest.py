"""What all tests share: how hypothesis runs them. Its folder holds what tests of several packages import: servers,
hostile files, toy experiments."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")
