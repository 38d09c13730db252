"""A method of distillation as plain data, and the step that it stands for.

A method is a table of loss terms, each with its weight and its settings, as TOML has it: ::

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
unsmoothed, by the same softened loss). A method whose teacher adapts: ::

    [methods.AMA]
    "cross-entropy" = 1.0
    hint = { weight = 1, layers = ["layer3"] }
    anchor = { weight = 1, replace = ["layer3"] }
    approach = 1

With an anchor, features come from an adapted teacher: modules stand in for the blocks that `replace` names, and learn
along; see `adaptation` and `distillation.AdaptiveMatching`.
"""

from __future__ import annotations

import functools
import inspect
import json
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
from spectralkd_nb.distillation.records import is_number
from spectralkd_nb.distillation.steps import Control, Step
from spectralkd_nb.losses.logits import STANDARDISATIONS
from spectralkd_nb.names import nearest
from spectralkd_nb.networks.features import features_of

LABELS, LOGITS = "cross-entropy", "soft targets"
WHITENED = "whitened"
FEATURES: dict[str, Callable[..., Tensor]] = {
    "hint": losses.hint_loss,
    "fourier": losses.fourier_loss,
    "attention": losses.attention_loss,
    "shape": losses.spectral_shape_loss,
    "exponent": losses.exponent_loss,
    WHITENED: losses.whitened_spectral_loss,
    "nst": losses.nst_loss,
}
ALIKE = ("hint", "fourier", WHITENED)  # compare features of one shape, so they need connectors
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
TRIED_ON = 128  # pixels a side of the maps that settings are tried on; a narrow band has no rings on small ones
ANY_ALPHA = 2.0  # where a teacher's is not measured

Method = Mapping[str, Any]


def checked_method(name: str, method: Method) -> dict[str, dict[str, Any]]:
    """The terms of a method, each as a dictionary with its weight, in one order however they were given.

    The order of terms is that in which losses are added up, and that of settings is part of a run's record.

    Raises:
        ValueError: an unknown term or setting, no weight, no cross-entropy, features without layers, a value that the
            loss refuses.
    """
    if not isinstance(method, Mapping):
        raise ValueError(f"method {name!r} is {method!r}; give a table of loss terms with their weights")
    terms = {term: dict(given) if isinstance(given, Mapping) else {"weight": given} for term, given in method.items()}
    try:
        terms = json.loads(json.dumps(terms))  # tuples would be told apart from the lists of a file
    except TypeError as error:
        raise ValueError(f"method {name!r} is no plain data: {error}") from None
    terms = {term: _checked_term(f"method {name!r}, term {term!r}", term, given) for term, given in terms.items()}
    _check_adaptation(name, terms)
    if LABELS not in terms:
        raise ValueError(f"method {name!r} has no {LABELS!r}; give it a weight, which may be 0")
    if LOGITS in terms and "smoothing" in terms[LABELS]:
        raise ValueError(f"method {name!r}: labels are smoothed only where no {LOGITS} are learned")
    return {term: dict(sorted(terms[term].items())) for term in TERMS if term in terms}


def _checked_term(where: str, term: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a term, its weight among them."""
    if term not in TERMS:
        raise ValueError(f"{where} is not known; {_choice(term, TERMS)}")
    known = {"weight", *_settings(term)}
    if strange := settings.keys() - known:
        raise ValueError(f"{where}: no setting {min(strange)!r}; {_choice(min(strange), known)}")
    weight = settings.get("weight")
    if not is_number(weight):
        raise ValueError(f"{where}: weight={weight!r} is no number")
    checked = {**settings, "weight": float(weight)}
    if term in BASES:
        _check_base(where, settings)
    if term in FEATURES:
        checked["layers"] = _checked_layers(where, settings.get("layers"))
        own = {name: value for name, value in settings.items() if name not in ("weight", "layers")}
        if (reason := _refusal(term, json.dumps(own, sort_keys=True))) is not None:
            raise ValueError(f"{where}: {reason}")
    return checked


def _check_base(where: str, settings: Mapping[str, Any]) -> None:
    """Refuse values of the terms on logits that no training can take."""
    temperature, smoothing = settings.get("temperature", 1), settings.get("smoothing", 0)
    if not is_number(temperature) or temperature <= 0:
        raise ValueError(f"{where}: temperature={temperature!r} is no number above 0")
    if not is_number(smoothing) or not 0 <= smoothing <= 1:
        raise ValueError(f"{where}: smoothing={smoothing!r} is no share, from 0 up to 1")
    control, scores = settings.get("control", SMOOTHED), settings.get("standardise", False)
    if control not in CONTROLS:
        raise ValueError(f"{where}: no control {control!r}; {_choice(str(control), CONTROLS)}")
    if scores is not False and scores not in tuple(STANDARDISATIONS):
        raise ValueError(f"{where}: standardise={scores!r}; {_choice(str(scores), STANDARDISATIONS)}")


@functools.cache
def _refusal(term: str, settings: str) -> str | None:
    """Why a loss on features refuses settings, given as JSON: it is tried on maps; None if it takes them."""
    given, parameters = json.loads(settings), inspect.signature(FEATURES[term]).parameters
    for name, value in given.items():
        kind = parameters[name].annotation
        if kind in (bool, "bool") and not isinstance(value, bool):
            return f"{name}={value!r} is not true or false"
        if kind in (float, "float") and not is_number(value):
            return f"{name}={value!r} is no number"
    told = given | {"alpha": ANY_ALPHA} if wants_alpha(term, given) else given
    maps = torch.rand(2, 3, TRIED_ON, TRIED_ON, generator=torch.Generator().manual_seed(0))
    try:
        FEATURES[term](maps, maps, **told)
    except ValueError as error:
        return str(error)
    except TypeError as error:
        return f"the loss takes no {', '.join(f'{name}={value!r}' for name, value in given.items())}: {error}"
    return None


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


def on_both_sides(layer: str | Sequence[str]) -> tuple[str, str]:
    """The student's and the teacher's, of an entry of a term's layers."""
    mine, its = (layer, layer) if isinstance(layer, str) else layer
    return mine, its


def wants_alpha(term: str, settings: Mapping[str, Any]) -> bool:
    """Whether a term's alpha is to be measured of the teacher's layers, since none is given."""
    return term == WHITENED and "alpha" not in settings


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
        method: see the module.
        student, teacher, data: as they go into `train`.
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
    base = _base_step(terms, teacher, data, seed)
    matches = _matches(terms, student, teacher, data, seed)
    if not matches:
        return base, weights
    if ANCHOR not in terms:
        return FeatureMatching(base, matches), weights
    fitted_to = data.normalise(_spread(data.train_images, FITTED_TO))
    adapted = AdaptedTeacher(teacher, terms[ANCHOR]["replace"], fitted_to, seed=seed)
    return AdaptiveMatching(base, matches, adapted), weights


def _base_step(terms: Mapping[str, dict[str, Any]], teacher: nn.Module | None, data: LabelledImages, seed: int) -> Step:
    """What is learned from labels and logits, of terms without their weights."""
    if LOGITS not in terms:
        return CrossEntropy(**terms[LABELS])
    settings = dict(terms[LOGITS])
    if "control" in settings:
        temperature = settings.get("temperature", SoftTargets().temperature)
        settings["control"] = _control(settings["control"], teacher, data, temperature, seed)
    return SoftTargets(**settings)


def _matches(
    terms: Mapping[str, dict[str, Any]], student: nn.Module, teacher: nn.Module | None, data: LabelledImages, seed: int
) -> list[Match]:
    """What is learned from features, term by term and layer by layer; of terms without their weights."""
    asked = [
        (term, {name: value for name, value in settings.items() if name != "layers"}, *on_both_sides(layer))
        for term, settings in terms.items()
        if term in FEATURES
        for layer in settings["layers"]
    ]
    joined = [(mine, its) for term, _, mine, its in asked if term in ALIKE]
    images = data.normalise(data.train_images[:PROBED])
    features = features_of(student, images, [mine for mine, _ in joined])
    targets = features_of(teacher, images, [its for _, its in joined])
    alphas = measured_alphas(teacher, data, [its for term, told, _, its in asked if wants_alpha(term, told)])
    matches = []
    for term, settings, mine, its in asked:
        told = settings | {"alpha": alphas[its]} if wants_alpha(term, settings) else settings
        loss = functools.partial(FEATURES[term], **told) if told else FEATURES[term]
        connector = Connector.between(features[mine], targets[its], seed) if term in ALIKE else None
        matches.append(Match(term, loss, mine, its, connector))
    return matches


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
    near = nearest(name, sorted(known), 1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, sorted(known)))}"
