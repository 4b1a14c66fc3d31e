"""Licences: what the Hub calls them, and what is said where they do not go together."""

from __future__ import annotations

import pytest

from pipeline.license_mix import HUB, UNKNOWN, card_license, conflicts, hub_id


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (["MIT"], "mit"),
        (["MIT", "Apache-2.0"], ["apache-2.0", "mit"]),
        (["Apache-2.0 AND MIT"], ["apache-2.0", "mit"]),
        (["GPL-3.0-or-later"], "gpl-3.0"),
        (["ODbL-1.0"], "odbl"),
        ([], UNKNOWN),
        (["NOASSERTION"], UNKNOWN),
        (["MIT", "unknown"], ["mit", "unknown"]),
        (["My terms"], "other"),
    ],
)
def test_the_hubs_names(found: list[str], told: str | list[str]) -> None:
    assert card_license(found).license == told
    assert hub_id("mit") in HUB


def test_what_the_hub_does_not_know_is_named_with_the_rest() -> None:
    assert card_license(["My terms\n--- 1", "MIT"]).license_name == "mit-and-my-terms-1"


@pytest.mark.parametrize(
    ("licenses", "together"),
    [
        (["MIT", "Apache-2.0", "CC0-1.0", "CC-BY-4.0"], []),
        (["CC-BY-SA-4.0", "CC-BY-NC-4.0"], ["CC-BY-SA-4.0", "CC-BY-NC-4.0"]),
        (["CC-BY-SA-4.0", "GPL-3.0-only"], ["CC-BY-SA-4.0", "GPL-3.0-only"]),
        (["GPL-2.0-only", "Apache-2.0"], ["GPL-2.0-only", "Apache-2.0"]),
        (["CC-BY-ND-4.0", "MIT"], ["CC-BY-ND-4.0"]),
        (["CC-BY-NC-4.0"], ["CC-BY-NC-4.0"]),
        (["llama3", "MIT"], ["llama3"]),
        (["unknown"], ["unknown"]),
        ([""], ["unknown"]),
    ],
)
def test_what_does_not_go_together_is_named(licenses: list[str], together: list[str]) -> None:
    found = conflicts({(f"corpus {name}", name): 1 for name in licenses})
    assert bool(found) == bool(together)
    assert not together or any(set(c.licenses) == set(together) for c in found)


def test_gnu_licences_of_one_version_go_together() -> None:
    found = conflicts({("a", "GPL-3.0-only"): 1, ("b", "AGPL-3.0-only"): 1})
    assert not any("own terms" in c.message for c in found)
