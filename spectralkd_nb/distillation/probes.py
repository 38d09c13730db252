"""What a linear classifier reads off a layer: how good features are for a task that they were not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.networks.features import collected, device_of
from spectralkd_nb.networks.layers import in_eval_mode
from spectralkd_nb.networks.weights import randomness_kept

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
HELD_OUT = 4  # one training image in so many chooses the penalty
ROUNDING = 1e-6  # of a feature's size; what deviates by less is constant
STEPS, REMEMBERED = 1000, 20  # of L-BFGS, at most, and how many of them tell it of the curvature
FLAT = 1e-5  # the largest number in the gradient, where it ends


@dataclass(frozen=True)
class LinearProbe:
    """How well a linear classifier reads a task off one layer of a network.

    Attributes:
        layer: its dotted path.
        features: their number.
        accuracy: on the task's test images, percent.
        train_accuracy: on those that the classifier was fitted to, percent.
        penalty: that was chosen.
    """

    layer: str
    features: int
    accuracy: float
    train_accuracy: float
    penalty: float


def linear_probe(
    network: nn.Module,
    data: LabelledImages,
    layer: str,
    *,
    penalties: Sequence[float] = PENALTIES,
    normalise: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 256,
) -> LinearProbe:
    """Fit a linear classifier to one layer's features of a task, and test it (Alain & Bengio 2016, arXiv 1610.01644).

    Features are the layer's output, averaged over its pixels, less their mean and divided by their deviation over the
    training images; constant ones are 0. The classifier is a multinomial logistic regression, the least of ::

        mean over images of -log softmax(W x + b)[label]  +  penalty / 2 |W|^2

    found by L-BFGS on the whole set, in double precision from zeros: the same every time. The penalty is the one with
    the highest accuracy on a held-out quarter of the training images, of equal ones the largest; images that share
    pixels, `data.groups`, are held out together. The classifier is then fitted to all training images.

    The network is left as it was: nothing is trained but the classifier, and modes and randomness are kept.

    Args:
        network: on the device of its parameters, not compiled.
        data: the task; not what the network was trained on.
        layer: dotted path of a module that returns (B, C, H, W), or (B, C), which is taken as it is.
        penalties: to choose from, above 0. A single one is taken, and nothing is held out.
        normalise: (B, 3, H, W) uint8 images as the network is used to them; that of the data it was trained on. None
            for the task's own, which shifts and scales colours otherwise than in the training.
        batch_size: images at a time, for the memory alone.

    Raises:
        ValueError: what `collected` refuses, such as a layer that does not exist; an output of another form, or not
            finite; penalties that are none; too few training images to hold some out.
    """
    (probe,) = linear_probes(network, data, [layer], penalties=penalties, normalise=normalise, batch_size=batch_size)
    return probe


def linear_probes(
    network: nn.Module,
    data: LabelledImages,
    layers: Sequence[str],
    *,
    penalties: Sequence[float] = PENALTIES,
    normalise: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 256,
) -> list[LinearProbe]:
    """`linear_probe` of several layers; the images go through the network once."""
    if not penalties or not all(0 < penalty < math.inf for penalty in penalties):
        raise ValueError(f"penalties={penalties!r}; give one or more finite numbers above 0")
    held = data.which_held_out(HELD_OUT) if len(penalties) > 1 else None
    parts = [
        _features(network, images, layers, normalise or data.normalise, batch_size)
        for images in (data.train_images, data.test_images)
    ]
    labels, test_labels = data.train_labels.cpu(), data.test_labels.cpu()
    classes, found = len(data.classes), []
    for layer in layers:
        features, test_features = (part[layer] for part in parts)
        penalty = _chosen(features, labels, classes, held, penalties)
        classifier = Classifier.fitted(features, labels, classes, penalty)
        accuracies = classifier.accuracy(test_features, test_labels), classifier.accuracy(features, labels)
        found.append(LinearProbe(layer, features.shape[1], *accuracies, penalty))
    return found


# --- features ------------------------------------------------------------------------------------


def _features(
    network: nn.Module,
    images: Tensor,
    layers: Sequence[str],
    normalise: Callable[[Tensor], Tensor],
    batch_size: int,
) -> dict[str, Tensor]:
    """(N, C) float64 on the CPU, by layer."""
    device = device_of(network)
    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with randomness_kept(), torch.no_grad(), in_eval_mode(network), collected(network, layers) as seen:
        for batch in images.split(batch_size):
            network(normalise(batch.to(device)).contiguous(memory_format=torch.channels_last))
            for layer, kept in parts.items():
                kept.append(_averaged(layer, seen[layer]))
    return {layer: torch.cat(kept).double() for layer, kept in parts.items()}


def _averaged(layer: str, output: Tensor) -> Tensor:
    """(B, C) float32 on the CPU."""
    if output.ndim not in (2, 4):
        raise ValueError(
            f"layer {layer!r} returns {tuple(output.shape)}, and features are (B, C) or maps (B, C, H, W); name another"
        )
    features = output.float() if output.ndim == 2 else output.float().mean((2, 3))
    if not features.isfinite().all():
        raise ValueError(f"layer {layer!r} returns numbers that are not finite, and no classifier can read them")
    return features.cpu()


# --- the classifier ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classifier:
    """A multinomial logistic regression on standardised features.

    Attributes:
        mean: (F,) of the features that it was fitted to.
        scale: (F,) one over their deviation, 0 for constant ones.
        weight: (F + 1, classes), the last row for the constant. All float64.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor

    @classmethod
    def fitted(cls, features: Tensor, labels: Tensor, classes: int, penalty: float) -> Classifier:
        """The one that features (N, F) float64 and labels (N,) call for; see `linear_probe`."""
        mean, deviation = features.mean(0), features.std(0, correction=0)
        alive = deviation > ROUNDING * features.abs().amax(0)
        scale = torch.where(alive, 1 / deviation, 0.0)
        return cls(mean, scale, _least((features - mean) * scale, labels, classes, penalty))

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Percent."""
        found = ((features - self.mean) * self.scale @ self.weight[:-1] + self.weight[-1]).argmax(1)
        return 100 * float((found == labels).double().mean())


def _least(features: Tensor, labels: Tensor, classes: int, penalty: float) -> Tensor:
    """The weights (F + 1, classes) where the penalised loss is least; it is convex, so there is no other such place.

    Sought along the features' principal axes, each scaled by the loss's curvature where all classes are as likely. It
    is the same loss and the same place, and correlated features need tens of steps instead of hundreds.
    """
    alike = 1 / classes
    variances, axes = torch.linalg.eigh(features.mT @ features / len(features))
    scales = (alike * variances.clamp(min=0) + penalty).rsqrt()
    constant = alike**-0.5
    rows = F.pad(features @ (axes * scales), (0, 1), value=constant)
    shrinking = F.pad(penalty * scales.square(), (0, 1))[:, None]  # the constant is free
    weight = rows.new_zeros(rows.shape[1], classes)
    right = labels[:, None]

    def loss() -> Tensor:
        log_chances = (rows @ weight).log_softmax(1)
        value = -log_chances.gather(1, right).mean() + (shrinking * weight.square()).sum() / 2
        # By hand, which takes no graph: whatever mode the caller is in, it is the same, and autograd would be slower.
        surplus = log_chances.exp().scatter_add_(1, right, -torch.ones_like(right, dtype=rows.dtype))
        weight.grad = rows.mT @ surplus / len(rows) + shrinking * weight
        return value

    optimizer = torch.optim.LBFGS(
        [weight],
        max_iter=STEPS,
        max_eval=2 * STEPS,
        tolerance_grad=FLAT,
        tolerance_change=0.0,  # the gradient alone says when
        history_size=REMEMBERED,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(loss)
    return torch.cat([axes * scales @ weight[:-1], constant * weight[-1:]])


def _chosen(features: Tensor, labels: Tensor, classes: int, held: Tensor | None, penalties: Sequence[float]) -> float:
    """The penalty that reads the held-out training images best."""
    if held is None:
        return float(penalties[0])
    accuracy = {
        penalty: Classifier.fitted(features[~held], labels[~held], classes, penalty).accuracy(
            features[held], labels[held]
        )
        for penalty in penalties
    }
    return float(max(sorted(accuracy, reverse=True), key=accuracy.__getitem__))
