"""The exercises of lesson 9, the engine."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spectralkd_nb.course.verdicts import Verdict, left_open, number_of, right, whole_number_of, wrong
from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import Recipe
from spectralkd_nb.distillation.steps import Step


def check_steps(steps: int | None, data: LabelledImages) -> Verdict:
    """Lesson 9, exercise 1: how many updates `Recipe.quick()` makes on the built-in task.

    Args:
        steps: their number, or None while unsolved.
        data: the task.
    """
    if steps is None:
        return left_open("9.1", "replace None by a whole number")
    asked = whole_number_of(steps)
    if asked is None:
        return wrong("9.1", f"{steps!r} is no whole number")
    recipe = Recipe.quick()
    batches = math.ceil(len(data.train_labels) / recipe.batch_size)
    if asked != batches * recipe.epochs:
        hint = "does the last, smaller batch count?" if asked == batches * recipe.epochs - recipe.epochs else "epochs?"
        return wrong("9.1", f"{asked} is not it; {hint}")
    return right("9.1", f"{batches} batches in each of {recipe.epochs} epochs, the last of them smaller")


def check_confidence_step(step: Step | None) -> Verdict:
    """Lesson 9, exercise 2: a step that adds the outputs' mean entropy, as a term "entropy", to the cross-entropy.

    Args:
        step: takes student, teacher, images and labels; or None while unsolved.
    """
    if step is None:
        return left_open("9.2", "replace None by a function of student, teacher, images and labels")
    if not callable(step):
        return wrong("9.2", f"{step!r} is no function")
    generator = torch.Generator().manual_seed(0)
    answers = torch.randn(6, 4, generator=generator).requires_grad_()
    labels = torch.arange(6) % 4
    try:
        returned = step(lambda _: answers, None, torch.zeros(6, 3, 8, 8), labels)
    except Exception as error:  # whatever a function of somebody else's may raise
        return wrong("9.2", f"it ends with {type(error).__name__}: {error}")
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict)):
        return wrong("9.2", "a step returns a pair, the logits and a dictionary of loss terms")
    logits, terms = returned
    if logits is not answers:
        return wrong("9.2", "the first of the pair is not what the student answered")
    log_p = answers.log_softmax(1)
    wanted = {
        "cross-entropy": nn.functional.cross_entropy(answers, labels),
        "entropy": -(log_p.exp() * log_p).sum(1).mean(),
    }
    for name, value in wanted.items():
        if name not in terms:
            return wrong("9.2", f"there is no term {name!r} among {', '.join(map(str, terms)) or 'none'}")
        found = number_of(terms[name])
        if found is None or not isinstance(terms[name], Tensor):
            return wrong("9.2", f"the term {name!r} is no finite number in a tensor")
        if not math.isclose(found, value.item(), rel_tol=1e-4):
            return wrong("9.2", f"the term {name!r} is {found:.3f}, and {value.item():.3f} is wanted")
        if not terms[name].requires_grad:
            return wrong("9.2", f"the term {name!r} has no gradient, so the student cannot learn from it")
    entropy = wanted["entropy"].item()
    return right("9.2", f"entropy {entropy:.2f} of at most {math.log(4):.2f}, and train can weigh it by its name")
