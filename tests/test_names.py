"""What somebody may have meant who mistyped a name."""

from __future__ import annotations

from spectralkd_nb.names import nearest

KNOWN = ("hint", "attention", "soft targets", "cross-entropy")


def test_the_nearest_names_come_first_and_strangers_not_at_all():
    assert nearest("attnetion", KNOWN) == ["attention"]
    assert nearest("layer9", [f"layer{n}" for n in range(1, 6)], 2) == ["layer5", "layer4"]
    assert nearest("zzz", KNOWN) == []
    assert nearest("hint", []) == []


def test_any_name_and_any_names_will_do():
    assert nearest(3, iter(["layer3", "layer3"])) == []
    assert nearest("soft target", dict.fromkeys(KNOWN)) == ["soft targets"]
    assert nearest("hnit", iter(["hint", "hint"])) == ["hint"]
