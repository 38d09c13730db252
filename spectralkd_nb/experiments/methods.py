"""A method of distillation as plain data, and the step that it stands for.

A method is a table of loss terms, each with its weight and its settings, as TOML has it:

    [methods.alone]
    "cross-entropy" = 1.0

    [methods."KD + both terms"]
    "cross-entropy" = 0.1
    "soft targets" = { weight = 0.9, temperature = 4 }
    shape = { weight = 0.1, layers = ["layer1", "layer2"] }
    whitened = { weight = 10, layers = ["layer2"], balance = "octave" }

    [methods."KD without similarity"]
    "cross-entropy" = 0.1
    "soft targets" = { weight = 0.9, temperature = 4, control = "permuted by image" }

A control takes similarity out of the teacher's response, see `teacher_quality`: it is "permuted by image", "permuted
by class", "smoothed" (labels, smoothed to the mean entropy of the teacher's soft targets), or "hard" (labels as good as
unsmoothed, by the same softened loss).

    [methods.AMA]
    "cross-entropy" = 1.0
    hint = { weight = 1, layers = ["layer3"] }
    anchor = { weight = 1, replace = ["layer3"] }
    approach = 1

With an anchor, features come from an adapted teacher: modules stand in for the blocks that `replace` names, and learn
along; see `adaptation` and `distillation.AdaptiveMatching`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spectralkd_nb import losses, teacher_quality
from spectralkd_nb.activations import activation_spectra
from spectralkd_nb.adaptation import AdaptedTeacher
from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import CrossEntropy, SoftTargets, responses
from spectralkd_nb.distillation.adaptive import ANCHOR, APPROACH, AdaptiveMatching
from spectralkd_nb.distillation.features import Connector, FeatureMatching, Match
from spectralkd_nb.distillation.steps import Control, Step
from spectralkd_nb.losses.logits import STANDARDISATIONS
from spectralkd_nb.networks.features import features_of

LABELS, LOGITS = "cross-entropy", "soft targets"
FEATURES: dict[str, Callable[..., Tensor]] = {
    "hint": losses.hint_loss,
    "fourier": losses.fourier_loss,
    "attention": losses.attention_loss,
    "shape": losses.spectral_shape_loss,
    "exponent": losses.exponent_loss,
    "whitened": losses.whitened_spectral_loss,
    "nst": losses.nst_loss,
}
ALIKE = ("hint", "fourier", "whitened")  # compare features of one shape, so they need connectors
BASES = {LABELS: {"smoothing"}, LOGITS: {"temperature", "control", "standardise"}}
ADAPTING = {ANCHOR: {"replace"}, APPROACH: set()}
TERMS = (*BASES, *FEATURES, *ADAPTING)  # in the order in which losses are added up
OTHERS = BASES | ADAPTING
BY_IMAGE, BY_CLASS, SMOOTHED, HARD = CONTROLS = ("permuted by image", "permuted by class", "smoothed", "hard")
HARDEST = 1e-4  # label smoothing of hard targets: with none at all their logits would be infinite
ENTROPY_OF = 4096  # training images from which the mean entropy of a teacher's soft targets is measured
FITTED_TO = 512  # training images that an adapted teacher's modules are fitted to
MEASURED_ON = 256  # training images from which a teacher's alpha is measured
PROBED = 2  # images that tell the features' shapes

Method = Mapping[str, Any]


def checked_method(name: str, method: Method) -> dict[str, dict[str, Any]]:
    """The terms of a method, each as a dictionary with its weight, in one order however they were given.

    The order of terms is that in which losses are added up, and that of settings is part of a run's record.

    Raises:
        ValueError: an unknown term or setting, no weight, no cross-entropy, features without layers.
    """
    if not isinstance(method, Mapping):
        raise ValueError(f"method {name!r} is {method!r}; give a table of loss terms with their weights")
    terms = {term: dict(given) if isinstance(given, Mapping) else {"weight": given} for term, given in method.items()}
    try:
        terms = json.loads(json.dumps(terms))  # tuples would be told apart from the lists of a file
    except TypeError as error:
        raise ValueError(f"method {name!r} is no plain data: {error}") from None
    for term, settings in terms.items():
        where = f"method {name!r}, term {term!r}"
        if term not in TERMS:
            raise ValueError(f"{where} is not known; {_choice(term, TERMS)}")
        known = {"weight", *_settings(term)}
        if strange := settings.keys() - known:
            raise ValueError(f"{where}: no setting {min(strange)!r}; {_choice(min(strange), known)}")
        weight = settings.get("weight")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ValueError(f"{where}: weight={weight!r} is no number")
        settings["weight"] = float(weight)
        if term in FEATURES:
            settings["layers"] = _checked_layers(where, settings.get("layers"))
    _check_adaptation(name, terms)
    control = terms.get(LOGITS, {}).get("control", SMOOTHED)
    if control not in CONTROLS:
        raise ValueError(f"method {name!r}, term {LOGITS!r}: no control {control!r}; {_choice(str(control), CONTROLS)}")
    scores = terms.get(LOGITS, {}).get("standardise", False)
    if scores is not False and scores not in STANDARDISATIONS:
        near = _choice(str(scores), STANDARDISATIONS)
        raise ValueError(f"method {name!r}, term {LOGITS!r}: standardise={scores!r}; {near}")
    if LABELS not in terms:
        raise ValueError(f"method {name!r} has no {LABELS!r}; give it a weight, which may be 0")
    if LOGITS in terms and "smoothing" in terms[LABELS]:
        raise ValueError(f"method {name!r}: labels are smoothed only where no {LOGITS} are learned")
    return {term: dict(sorted(terms[term].items())) for term in TERMS if term in terms}


def _check_adaptation(name: str, terms: Mapping[str, Mapping[str, Any]]) -> None:
    if (APPROACH in terms) != (ANCHOR in terms):
        raise ValueError(f"method {name!r} needs both {ANCHOR!r} and {APPROACH!r}, or neither; a weight may be 0")
    if ANCHOR not in terms:
        return
    if not any(term in FEATURES for term in terms):
        raise ValueError(f"method {name!r} adapts a teacher of whose features it learns nothing; add a hint")
    replaced = terms[ANCHOR].get("replace")
    if not replaced or not isinstance(replaced, list) or not all(isinstance(path, str) for path in replaced):
        raise ValueError(
            f"method {name!r}, term {ANCHOR!r}: name the teacher's blocks to replace, for example replace = ['layer3']"
        )


def _checked_layers(where: str, layers: Any) -> list[str | list[str]]:
    if not layers or not isinstance(layers, list | tuple):
        raise ValueError(f"{where}: name the layers to match, for example layers = ['layer1', 'layer2']")
    for pair in layers:
        names = [pair, pair] if isinstance(pair, str) else pair
        if not isinstance(names, list | tuple) or [type(name) for name in names] != [str, str]:
            raise ValueError(f"{where}: {pair!r} in layers is no name, nor two, [student's, teacher's]")
    return [pair if isinstance(pair, str) else list(pair) for pair in layers]


def needs_teacher(method: Method) -> bool:
    return any(term != LABELS for term in method)


def method_step(
    method: Method, student: nn.Module, teacher: nn.Module | None, data: LabelledImages, seed: int = 0
) -> tuple[Step, dict[str, float]]:
    """The step that a method stands for, and its weights, as `train` takes them.

    A pair of layers is two names, [student's, teacher's], or one name for both. Of several layers a term is the sum.
    Losses that compare features of one shape get a `Connector` for each pair, with weights drawn by the seed; also
    where the shapes agree already, since channel i of one network has nothing to do with channel i of another. The
    whitened loss takes alpha of each layer of the teacher as it measures it, unless `alpha` is given: from 256 training
    images and without edge treatment, since its own transform has none; to two digits.

    Args:
        method: see the module. student, teacher, data: as they go into `train`.
        seed: of the connectors, and of the classes' permutations.
    Raises:
        ValueError: what `checked_method` refuses, no teacher where one is asked, layers that do not exist, a teacher's
            layer without an exponent.
    """
    terms = checked_method("as given", method)
    if teacher is None and needs_teacher(terms):
        asks = ", ".join(repr(term) for term in terms if term != LABELS)
        raise ValueError(f"a method with {asks} needs a teacher, and there is none; pass one")
    weights = {term: float(settings.pop("weight")) for term, settings in terms.items()}
    labels = terms.pop(LABELS)
    adapting = terms.pop(ANCHOR, None)
    if adapting is not None:
        del terms[APPROACH]
    if LOGITS in terms:
        settings = terms.pop(LOGITS)
        if "control" in settings:
            temperature = settings.get("temperature", SoftTargets().temperature)
            settings["control"] = _control(settings["control"], teacher, data, temperature, seed)
        base: Step = SoftTargets(**settings)
    else:
        base = CrossEntropy(**labels)
    if not terms:
        return base, weights
    pairs = [
        (term, settings, *((pair, pair) if isinstance(pair, str) else pair))
        for term, settings in terms.items()
        for pair in settings.pop("layers")
    ]
    joined = [(mine, its) for term, _, mine, its in pairs if term in ALIKE]
    images = data.normalise(data.train_images[:PROBED])
    features = features_of(student, images, [mine for mine, _ in joined])
    targets = features_of(teacher, images, [its for _, its in joined])
    whitened = [its for term, settings, _, its in pairs if term == "whitened" and "alpha" not in settings]
    alphas = measured_alphas(teacher, data, whitened)
    matches = []
    for term, settings, mine, its in pairs:
        told = settings | {"alpha": alphas[its]} if term == "whitened" and "alpha" not in settings else settings
        loss = functools.partial(FEATURES[term], **told) if told else FEATURES[term]
        connector = Connector.between(features[mine], targets[its], seed) if term in ALIKE else None
        matches.append(Match(term, loss, mine, its, connector))
    if adapting is None:
        return FeatureMatching(base, matches), weights
    fitted_to = data.normalise(_spread(data.train_images, FITTED_TO))
    return AdaptiveMatching(base, matches, AdaptedTeacher(teacher, adapting["replace"], fitted_to, seed=seed)), weights


def _control(control: str, teacher: nn.Module, data: LabelledImages, temperature: float, seed: int) -> Control:
    """The function that a control's name stands for. seed: of the classes' permutations."""
    if control == BY_IMAGE:
        return teacher_quality.permuted_by_image
    if control == BY_CLASS:
        return functools.partial(teacher_quality.permuted_by_class, seed=seed)
    smoothing = HARDEST
    if control == SMOOTHED:
        logits = responses(teacher, data, _spread(data.train_images, ENTROPY_OF))
        entropy = float(teacher_quality.soft_target_entropy(logits, temperature).mean())
        smoothing = float(f"{teacher_quality.smoothing_at_entropy(entropy, logits.shape[1]):.4g}")
    return functools.partial(teacher_quality.smoothed_labels, smoothing=smoothing, temperature=temperature)


def _spread(images: Tensor, most: int) -> Tensor:
    """At most so many of the images, evenly spaced."""
    count = min(len(images), most)
    return images[torch.arange(count, device=images.device) * len(images) // count]


def measured_alphas(teacher: nn.Module, data: LabelledImages, layers: Sequence[str]) -> dict[str, float]:
    """alpha of layers over training images, without edge treatment, rounded to two digits; in one pass.

    Raises:
        ValueError: a layer has no exponent.
    """
    if not layers:
        return {}
    images = data.normalise(_spread(data.train_images, MEASURED_ON))
    measured = activation_spectra(teacher, images, list(dict.fromkeys(layers)), edges="none", progress=False)
    alphas = {}
    for layer in layers:
        fit, why_not = measured.fit(layer)
        if fit is None:
            raise ValueError(f"the teacher's layer {layer!r} has no exponent to whiten by: {why_not}; give alpha")
        alphas[layer] = round(float(fit.alpha), 2)
    return alphas


def _settings(term: str) -> set[str]:
    """What a term can be told, beside its weight; of a loss on features, what it takes beside the features."""
    if term in OTHERS:
        return OTHERS[term]
    return {"layers", *list(inspect.signature(FEATURES[term]).parameters)[2:]}


def _choice(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, sorted(known), 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, sorted(known)))}"
