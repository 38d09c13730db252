"""The lessons' set-up."""

import pytest
import torch

from spectralkd_nb import course


def test_start_says_what_it_settled(capsys):
    lesson = course.start(seed=7)
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    assert f"device: {lesson.device}, profile: quick, seed: 7" in printed
    if lesson.device == "cpu":
        assert "Change runtime type" in printed


def test_start_seeds_torch_and_the_lessons_generator():
    course.start(seed=3)
    first = torch.rand(2)
    lesson = course.start(seed=3)
    assert torch.equal(first, torch.rand(2))
    assert torch.equal(torch.rand(2, generator=lesson.generator()), torch.rand(2, generator=lesson.generator()))


def test_the_full_profile_is_asked_for_by_name():
    assert course.start("full").profile == "full"
    with pytest.raises(ValueError, match="'quick' or 'full'"):
        course.start("fast")
