"""The browser that these tests share: a module that asks for it has one of its own."""

from browser import browser

__all__ = ["browser"]
