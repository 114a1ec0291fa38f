"""Fixtures that many tests share. Real weights and photos are found, never fetched; tests that want them skip without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.virtual_phone.farm import Farm, farm

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real weights and photos: COMPRESS_TEST_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("COMPRESS_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real weights and photos here (COMPRESS_TEST_DATA names their folder)")
    return folder


@pytest.fixture
def phones(monkeypatch: pytest.MonkeyPatch) -> Iterator[Farm]:
    """Virtual phones for the real adb, and nothing left on them afterwards. Skipped without adb."""
    with farm(monkeypatch) as made:
        yield made
        assert made.settle() == []
