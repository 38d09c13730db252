"""One training run, with or without a teacher: steps, checkpoints, resuming, progress.

A *step* says what is learned. It is called as `step(student, teacher, images, labels)` and returns the student's logits
and a dictionary of named loss terms; `train` adds the terms up with named weights and does all the rest. A step that is
an `nn.Module` with parameters of its own, for instance a connector between feature maps, has them trained along.

A run is a function of its arguments: every batch follows from the seed, the epoch and the position in it. So a run that
was interrupted goes on from its last checkpoint to the very tensors that an unbroken run reaches, on the same CPU with
the same number of threads; on a GPU as far as its kernels add in a fixed order.
"""

from spectralkd_nb.distillation.adaptive import AdaptiveMatching
from spectralkd_nb.distillation.evaluation import evaluate, responses
from spectralkd_nb.distillation.features import Connector, FeatureMatching, Match
from spectralkd_nb.distillation.probes import LinearProbe, linear_probe
from spectralkd_nb.distillation.progress import Progress, TerminalProgress
from spectralkd_nb.distillation.records import Recipe, Run, read_run
from spectralkd_nb.distillation.steps import CrossEntropy, SoftTargets
from spectralkd_nb.distillation.training import train

__all__ = [
    "AdaptiveMatching",
    "Connector",
    "CrossEntropy",
    "FeatureMatching",
    "LinearProbe",
    "Match",
    "Progress",
    "Recipe",
    "Run",
    "SoftTargets",
    "TerminalProgress",
    "evaluate",
    "linear_probe",
    "read_run",
    "responses",
    "train",
]
