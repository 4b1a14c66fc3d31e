"""Fixtures of the viewers' tests."""

from tests.viewer.browser import at, chromium, page, page_file, records

__all__ = ["at", "chromium", "page", "page_file", "records"]
