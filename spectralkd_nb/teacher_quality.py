"""What a teacher's response still says about similarity, and what is left of a lesson without it.

A response is a network's logits for images, (N, classes). Vats & Crandall (2021, arXiv 2112.10047) hold that what a
student gains is governed by the similarity information in it, and that a large, well-trained teacher has lost much of
that: one example of many classes has become one example of one class. Only their abstract could be read. Every measure
and every control here is our operational reading of it, one function behind one name:

- how much is said of other classes: `soft_target_entropy`, `effective_classes`, `non_target_mass`;
- what is said of them: `class_similarity`, and its `rank_correlation` with a similarity known from elsewhere;
- how far it can be believed, and how far a student follows: `calibration_error`, `fidelity`;
- what it would be without similarity, for the same loss: `smoothed_labels`, `permuted_by_image`, `permuted_by_class`.
  What a student's gain loses by them came from which classes were named. What they keep did not: it is regularisation,
  or the loss itself, which labels that are as good as hard tell apart.

`describe_response` has what one response says in one call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.datasets.cifar import SUPERCLASSES
from spectralkd_nb.spectra import radial_spectrum

__all__ = [
    "Fidelity",
    "RankCorrelation",
    "ResponseQuality",
    "calibration_error",
    "centroid_similarity",
    "class_similarity",
    "describe_response",
    "effective_classes",
    "fidelity",
    "non_target_mass",
    "permuted_by_class",
    "permuted_by_image",
    "rank_correlation",
    "reference_similarity",
    "smoothed_labels",
    "smoothing_at_entropy",
    "soft_target_entropy",
    "soft_targets",
]

BINS = 15  # of the calibration error, as in Guo et al.
PERMUTATIONS = 999  # of the classes, behind a rank correlation's p
FEWEST_CLASSES = 3  # of which two pairs can be ranked
ROUNDING = 1e-12  # relative to a feature: classes that differ by less are alike in it
NO_POWER = 1e-12  # added to powers of values 0..1: an even image has none, and that no logarithm
HALVINGS = 60  # of an interval, which brings it to the rounding of float64
DIRECTIONS = 4  # of a ring of a spectrum
FEW_IMAGES = 512  # whose spectra are in memory at one time


# --- how much is said of other classes -----------------------------------------------------------


def soft_targets(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """softmax(logits / T), what a student is given to learn (Hinton et al. 2015, arXiv 1503.02531, eq. 1).

    Args:
        logits: (N, classes).
        temperature: T > 0.

    Returns:
        (N, classes) of float32 or float64; every row sums to 1.

    Raises:
        ValueError: not two dimensions, no images, one class, values that are not finite, T not positive.
    """
    return _log_soft_targets(logits, temperature).exp()


def soft_target_entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of each image's soft targets, -sum p log p: 0 where one class is all, log(classes) where all are alike.

    Args:
        logits, temperature: as for `soft_targets`.

    Returns:
        (N,) in nats. Errors as `soft_targets`.
    """
    return torch.special.entr(soft_targets(logits, temperature)).sum(1)


def effective_classes(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """How many equally likely classes would have the entropy of each image's soft targets: exp(entropy).

    Args:
        logits, temperature: as for `soft_targets`.

    Returns:
        (N,), from 1 to the number of classes. Errors as `soft_targets`.
    """
    return soft_target_entropy(logits, temperature).exp()


def non_target_mass(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """The probability that soft targets give to all classes but the label.

    Args:
        logits, temperature: as for `soft_targets`.
        labels: (N,) int64.

    Returns:
        (N,), 0..1. Tiny ones keep their digits: it is no difference from 1.

    Raises:
        ValueError: what `soft_targets` refuses, labels that are not one whole number an image, or of no class.
    """
    soft = _log_soft_targets(logits, temperature)
    return soft.masked_fill(_is_label(soft, labels), -math.inf).logsumexp(1).exp()


def _log_soft_targets(logits: Tensor, temperature: float) -> Tensor:
    return F.log_softmax(_checked(logits) / _positive(temperature), 1)


def _checked(logits: Tensor) -> Tensor:
    """In float32, or float64 as it is: half precision has too few digits for what is next to nothing."""
    if logits.ndim != 2 or not len(logits) or logits.shape[1] < 2:
        raise ValueError(f"logits of shape {tuple(logits.shape)}; give (images, classes), of two classes or more")
    if not torch.isfinite(logits).all():
        raise ValueError("logits have to be finite")
    return logits if logits.dtype == torch.float64 else logits.float()


def _positive(temperature: float) -> float:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature={temperature} softens nothing; give a positive number")
    return temperature


def _is_label(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, classes) bool, one True a row."""
    if labels.shape != logits.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels are {labels.dtype} {tuple(labels.shape)}; give {len(logits)} whole numbers, one an image"
        )
    classes = logits.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels go from {int(labels.min())} to {int(labels.max())}, and there are {classes} classes")
    return F.one_hot(labels.to(logits.device, torch.long), classes).bool()


# --- what is said of them ------------------------------------------------------------------------


def class_similarity(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """How much images of one class look like another, as a network says it. Our own measure.

    Of each image the label's probability is left out and the others are brought to a sum of 1, so that an image which
    the network is sure of counts like any other; then the mean over the images of a class. How much is said of other
    classes at all is `non_target_mass`.

    Args:
        logits, labels, temperature: as for `non_target_mass`.

    Returns:
        (classes, classes); row: the images' class, column: the one that they look like. Rows sum to 1, with a diagonal
        of 0.

    Raises:
        ValueError: as `non_target_mass`, and a class without images.
    """
    others, labels = _others(_checked(logits), labels, temperature), labels.to(logits.device, torch.long)
    classes = others.shape[1]
    return _class_means(others, labels, classes)


def _others(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """(N, classes) soft targets without the label's; what it takes is given to the others in proportion."""
    without = logits.masked_fill(_is_label(logits, labels), -math.inf)
    return F.softmax(without / _positive(temperature), 1)


def _class_means(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(classes, D) mean of values (N, D) over the images of each class."""
    counts = torch.bincount(labels, minlength=classes)
    if len(counts) > classes or (counts == 0).any():
        raise ValueError(f"of {classes} classes, {int((counts > 0).sum())} have images; each needs one")
    total = torch.zeros(classes, values.shape[1], dtype=values.dtype, device=values.device)
    return total.index_add_(0, labels, values) / counts[:, None]


@dataclass(frozen=True)
class RankCorrelation:
    """How far two similarities of the same classes agree on which pairs are alike.

    Attributes:
        rho: Spearman's rank correlation over pairs of classes, -1..1.
        p: share of random namings of the classes that agree as well or better; one-sided.
        pairs: of classes.
        highest: the rho of a similarity without equal values that ranks as the reference does; below 1 where the
            reference has many equal values, and 0.34 for CIFAR-100's superclasses.
    """

    rho: float
    p: float
    pairs: int
    highest: float


def rank_correlation(
    similarity: Tensor, reference: Tensor, permutations: int = PERMUTATIONS, seed: int = 0
) -> RankCorrelation:
    """Spearman's rank correlation of two similarities over pairs of classes, and how often chance does as well.

    Both are first made symmetric, by the mean of both directions; the diagonal plays no part. Pairs that share a class
    are not independent, so p comes from naming the classes of one matrix anew at random (Mantel 1967, Cancer Research
    27:209), and not from a formula for independent pairs.

    Args:
        similarity, reference: (classes, classes), the larger the more alike.
        permutations: random namings of the classes.
        seed: of these.

    Raises:
        ValueError: not two square matrices of one size, fewer than 3 classes, values that are not finite, a matrix in
            which all pairs are alike, permutations below 1.
    """
    first, second = _symmetric(similarity), _symmetric(reference)
    if first.shape != second.shape:
        raise ValueError(f"similarities of {len(first)} and of {len(second)} classes cannot be compared")
    pairs = np.triu_indices(len(first), 1)
    theirs = _centred_ranks(second[pairs])
    untied = np.arange(len(theirs)) - (len(theirs) - 1) / 2
    ranks = np.zeros_like(first)
    ranks[pairs] = _centred_ranks(first[pairs])
    ranks += ranks.T
    scale = np.linalg.norm(ranks[pairs]) * np.linalg.norm(theirs)
    if not scale:
        raise ValueError("in one of the similarities all pairs of classes are alike, so there is nothing to rank")
    if permutations < 1:
        raise ValueError(f"permutations={permutations}; give 1 or more")
    generator = np.random.default_rng(seed)
    found = ranks[pairs] @ theirs / scale
    names = np.stack([generator.permutation(len(first)) for _ in range(permutations)])
    by_chance = ranks[names[:, pairs[0]], names[:, pairs[1]]] @ theirs / scale
    as_good = int((by_chance >= found - ROUNDING).sum())
    return RankCorrelation(
        rho=float(np.clip(found, -1, 1)),
        p=(1 + as_good) / (1 + permutations),
        pairs=len(theirs),
        highest=float(np.linalg.norm(theirs) / np.linalg.norm(untied)),
    )


def _symmetric(similarity: Tensor) -> np.ndarray:
    values = torch.as_tensor(similarity).detach().cpu().double().numpy()
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < FEWEST_CLASSES:
        raise ValueError(f"a similarity of shape {values.shape}; give (classes, classes), of {FEWEST_CLASSES} or more")
    values = (values + values.T) / 2
    if not np.isfinite(values[np.triu_indices(len(values), 1)]).all():
        raise ValueError("the similarity of every pair of classes has to be finite")
    return values


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks around 0, equal values with the mean of theirs."""
    from scipy.stats import rankdata

    return rankdata(values) - (len(values) + 1) / 2


def centroid_similarity(features: Tensor, labels: Tensor) -> Tensor:
    """Cosine between the classes' mean features, seen from the mean over the classes. Our own measure.

    Args:
        features: (N, D) of any kind; each is first brought to deviation 1 over the classes' means, whatever its unit.
        labels: (N,) int64, from 0 on; each class needs images.

    Returns:
        (classes, classes), -1..1, float64; the diagonal is 1. Of a class next to the mean of all, the direction is
        mostly noise.

    Raises:
        ValueError: not two dimensions, not one label for each row of features, classes without images, features that
            are not finite, or the same for all classes.
    """
    if features.ndim != 2 or len(features) != len(labels):
        raise ValueError(f"features {tuple(features.shape)} and labels {tuple(labels.shape)}; give (N, D) and (N,)")
    if not len(features) or not torch.isfinite(features).all():
        raise ValueError("features have to be finite, and of one image at least")
    features, labels = features.detach().cpu().double(), labels.cpu().long()
    means = _class_means(features, labels, int(labels.max()) + 1)
    centred = means - means.mean(0)
    deviation = centred.square().mean(0).sqrt()
    told = deviation > ROUNDING * features.abs().amax(0)
    if not told.any():
        raise ValueError("the classes' mean features are all the same, so they tell no similarity")
    units = F.normalize(centred[:, told] / deviation[told], dim=1)
    return (units @ units.mT).fill_diagonal_(1)


def reference_similarity(data: LabelledImages) -> Tensor:
    """Which classes of a data set are alike, as no trained network says it.

    What the data set itself knows, if it does; of CIFAR-100, 1 for classes of one superclass, else 0; of other data the
    `centroid_similarity` of the training images' spectra, in shape, and mean colours. The last knows what spectra know,
    and no more: who has a better reference passes that. The choice is our own.

    Args:
        data: a classification task.

    Returns:
        (classes, classes) float64.

    Raises:
        ValueError: what `centroid_similarity` refuses of the spectra, such as a class without training images.
    """
    if data.similarity is not None:
        return data.similarity.double().cpu()
    if set(data.classes) == set(SUPERCLASSES):
        groups = [SUPERCLASSES[name] for name in data.classes]
        return torch.tensor([[float(one == other) for other in groups] for one in groups], dtype=torch.float64)
    features = [_spectra_and_colours(images) for images in data.train_images.split(FEW_IMAGES)]
    return centroid_similarity(torch.cat(features), data.train_labels.cpu())


def _spectra_and_colours(images: Tensor) -> Tensor:
    """(N, D) of bytes (N, 3, H, W): the shape of the grey image's spectrum by ring and direction, and mean colours."""
    values = images.cpu().double() / 255
    spectra = radial_spectrum(values.mean(1), edges="hann", sectors=DIRECTIONS)
    power = spectra.power[:, spectra.modes > 0]
    logs = (power + NO_POWER).log()
    return torch.cat([logs - logs.mean(1, keepdim=True), values.mean((2, 3))], 1)


# --- how far it can be believed, and how far a student follows -----------------------------------


def calibration_error(logits: Tensor, labels: Tensor, temperature: float = 1.0, bins: int = BINS) -> float:
    """Expected calibration error: how far confidence is from accuracy (Guo et al. 2017, arXiv 1706.04599, eq. 3).

    Images are sorted by the probability of the most likely class into bins of equal width, (0, 1/15], (1/15, 2/15],
    ...; of each bin, the distance of its mean probability from its share of right answers; the mean over images.

    Args:
        logits: (N, classes).
        labels: (N,) int64.
        temperature: T > 0.
        bins: how many.

    Returns:
        0..1.

    Raises:
        ValueError: as `non_target_mass`, bins below 1.
    """
    if bins < 1:
        raise ValueError(f"bins={bins}; give 1 or more")
    soft = soft_targets(logits, temperature).double()
    confidence, named = soft.max(1)
    right = _is_label(soft, labels).gather(1, named[:, None])[:, 0].double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64, device=soft.device).index_add_(0, place, confidence - right)
    return float(gap.abs().sum() / len(soft))


@dataclass(frozen=True)
class Fidelity:
    """How far a student answers as its teacher does, right or wrong.

    Attributes:
        agreement: images for which both name the same class, percent.
        divergence: mean over images of KL(teacher || student) of the soft targets, nats.
    """

    agreement: float
    divergence: float


def fidelity(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Fidelity:
    """How far a student follows its teacher (Stanton et al. 2021, arXiv 2106.05945, eqs. 6 and 7).

    A student may gain from a teacher whom it follows badly, so this stands beside its accuracy, not for it.

    Args:
        student_logits, teacher_logits: (N, classes) for the same images.
        temperature: T > 0 of the divergence.

    Raises:
        ValueError: unequal shapes, and what `soft_targets` refuses.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"logits of the student {tuple(student_logits.shape)} and of the teacher {tuple(teacher_logits.shape)}; "
            "both must be for the same images and classes"
        )
    student, teacher = (_log_soft_targets(logits.double(), temperature) for logits in (student_logits, teacher_logits))
    agreement = (student.argmax(1) == teacher.argmax(1)).double().mean()
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return Fidelity(100 * float(agreement), max(float(divergence), 0.0))


@dataclass(frozen=True)
class ResponseQuality:
    """What a response says, as `describe_response` found it at a temperature.

    Attributes:
        temperature: of soft targets.
        accuracy: right answers, percent.
        entropy: `soft_target_entropy`, nats.
        effective_classes, non_target_mass: as the functions of these names. All three are means over images.
        similarity: `rank_correlation` of `class_similarity` with a reference.
        calibration_error: as the function, at this temperature.
    """

    temperature: float
    accuracy: float
    entropy: float
    effective_classes: float
    non_target_mass: float
    similarity: RankCorrelation
    calibration_error: float


def describe_response(logits: Tensor, labels: Tensor, reference: Tensor, temperature: float = 4.0) -> ResponseQuality:
    """Everything that this module measures of one response.

    Ask it of the images that the student will be taught with: on these a teacher is surest.

    Args:
        logits: (N, classes).
        labels: (N,) int64.
        reference: (classes, classes), for instance `reference_similarity`.
        temperature: at which the student will learn.

    Raises:
        ValueError: what the single measures refuse.
    """
    named = _checked(logits).argmax(1, keepdim=True)
    return ResponseQuality(
        temperature=float(temperature),
        accuracy=100 * float(_is_label(logits, labels).gather(1, named).float().mean()),
        entropy=float(soft_target_entropy(logits, temperature).mean()),
        effective_classes=float(effective_classes(logits, temperature).mean()),
        non_target_mass=float(non_target_mass(logits, labels, temperature).mean()),
        similarity=rank_correlation(class_similarity(logits, labels, temperature), reference),
        calibration_error=calibration_error(logits, labels, temperature),
    )


# --- what it would be without similarity ---------------------------------------------------------


def smoothing_at_entropy(entropy: float, classes: int) -> float:
    """The label smoothing whose targets have an entropy: they are 1 - s + s / classes and, elsewhere, s / classes.

    Args:
        entropy: 0..log(classes), nats.
        classes: 2 or more.

    Returns:
        s, 0..1, to the rounding of float64.

    Raises:
        ValueError: an entropy that no such target has.
    """
    most = math.log(classes) if classes > 1 else 0.0
    rounding = 1e-6 * max(most, 1)  # of means over images in float32
    if not 0 <= entropy <= most + rounding:
        raise ValueError(f"targets of {classes} classes have entropies from 0 to {most:.3f}, not {entropy}")
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _entropy_of_smoothed(middle, classes) < entropy else (low, middle)
    return high


def _entropy_of_smoothed(smoothing: float, classes: int) -> float:
    shares = [1 - smoothing + smoothing / classes] + [smoothing / classes] * (classes - 1)
    return -sum(share * math.log(share) for share in shares if share > 0)


def smoothed_labels(logits: Tensor, labels: Tensor, smoothing: float, temperature: float = 1.0) -> Tensor:
    """Logits whose soft targets are smoothed labels, the same for every image of a class: nothing is left of a teacher.

    With `smoothing_at_entropy` of the teacher's mean entropy it is the control of matched entropy, our own.

    Args:
        logits: (N, classes), of which only the shape plays a part.
        labels: (N,) int64.
        smoothing: s, 0 < s <= 1.
        temperature: T at which soft targets will be made of them.

    Returns:
        (N, classes) logits, of soft targets 1 - s + s / classes for the label and s / classes elsewhere; float32, or
        float64 as the logits.

    Raises:
        ValueError: a smoothing out of range, and as `non_target_mass`.
    """
    if not 0 < smoothing <= 1:
        raise ValueError(f"smoothing={smoothing} gives no finite logits; give more than 0 and at most 1")
    classes = _checked(logits).shape[1]
    ratio = (1 - smoothing + smoothing / classes) / (smoothing / classes)
    precise = torch.float64 if logits.dtype == torch.float64 else torch.float32  # whatever autocast made of the logits
    return _is_label(logits, labels).to(precise) * (_positive(temperature) * math.log(ratio))


def permuted_by_image(logits: Tensor, labels: Tensor) -> Tensor:
    """A response whose other classes have changed places, image by image, each time anew.

    The label keeps its logit, and each image its entropy and non-target mass at every temperature; which other classes
    it resembles is lost. Drawn anew whenever an image is shown, so that there is nothing to memorise: on average the
    non-target mass is spread evenly, with each image's own doubt. Our own control.

    Args:
        logits: (N, classes), of 3 classes or more.
        labels: (N,) int64.

    Returns:
        (N, classes). Draws from torch's global generator, of the logits' device.

    Raises:
        ValueError: fewer than 3 classes, logits that are not finite, labels that are not one class an image.
    """
    others = _others_of(logits, labels)
    return _reordered(logits, labels, torch.rand(len(logits), others, device=logits.device).argsort(1))


def permuted_by_class(logits: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """A response whose other classes have changed places, in the same way for all images of a class.

    As `permuted_by_image`, but a wrong similarity is taught consistently: the other classes of each class move around
    one cycle, drawn by the seed, so that none keeps its place. Our own control.

    Args:
        logits: (N, classes), of 3 classes or more.
        labels: (N,) int64.
        seed: of the cycles.

    Returns:
        (N, classes).

    Raises:
        ValueError: as `permuted_by_image`.
    """
    others = _others_of(logits, labels)
    generator = torch.Generator().manual_seed(seed)
    cycles = torch.stack([_cycle(others, generator) for _ in range(others + 1)])
    return _reordered(logits, labels, cycles[labels.cpu().long()].to(logits.device))


def _others_of(logits: Tensor, labels: Tensor) -> int:
    """How many classes an image has beside its label, of what can be permuted."""
    _is_label(_checked(logits), labels)
    if logits.shape[1] < FEWEST_CLASSES:
        raise ValueError("of 2 classes one is the label and one the other, which has no other place")
    return logits.shape[1] - 1


def _cycle(length: int, generator: torch.Generator) -> Tensor:
    """A permutation of 0..length-1 that goes around all of them."""
    around = torch.randperm(length, generator=generator)
    return torch.empty_like(around).scatter_(0, around, around.roll(1))


def _reordered(logits: Tensor, labels: Tensor, order: Tensor) -> Tensor:
    """Logits whose i-th other class of an image has that of its order[i]-th. order: (N, classes - 1)."""
    is_label = _is_label(logits, labels)
    others = logits[~is_label].view(len(logits), -1).gather(1, order)
    return logits.masked_scatter(~is_label, others)
