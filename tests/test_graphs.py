"""Steps that a GPU can do without the CPU; and, where there is a GPU, that recording them changes nothing."""

import subprocess
import sys

import pytest
import torch
from test_together import RECIPE, asked, learned
from test_together import data as data  # a fixture

from spectralkd_nb.distillation.training import Training, train_together

# Tensors of torch's that only pretend: shapes and devices are real, numbers are not. In a process of its own, because
# what the package remembers by size would pretend from then on.
PRETENDED = """
import functools, sys, torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from spectralkd_nb import losses
from spectralkd_nb.distillation import Connector, CrossEntropy, FeatureMatching, Match, SoftTargets
from spectralkd_nb.networks import build

WAITS = ("_local_scalar_dense", "nonzero", "masked_select")

class Watched(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.waits = []
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        returned = function(*arguments, **(options or {}))
        devices = {t.device.type for t in (*arguments, returned) if isinstance(t, torch.Tensor)}
        if len(devices) > 1 and "copy" in str(function) or any(word in str(function) for word in WAITS):
            self.waits.append(str(function))
        return returned

LOSSES = {
    "hint": losses.hint_loss,
    "fourier": losses.fourier_loss,
    "attention": losses.attention_loss,
    "shape": losses.spectral_shape_loss,
    "whitened": functools.partial(losses.whitened_spectral_loss, alpha=1.5, balance="octave"),
}
for side in (32, 16, 8):  # the loss checks its weights once, which takes real numbers
    LOSSES["whitened"](*torch.zeros(2, 1, 8, side, side).unbind())
with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
    student, teacher = build("vgg8x0.0625", 10), build("vgg8x0.125", 10).eval()
    images, labels = torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.long)
    for layer, channels in (("layer1", (4, 8)), ("layer2", (8, 16))):
        for name, loss in LOSSES.items():
            connector = Connector(*channels) if name in ("hint", "fourier", "whitened") else None
            step = FeatureMatching(SoftTargets(), [Match(name, loss, layer, layer, connector)])
            for turn in range(2):
                with torch.no_grad(), Watched() as watched:
                    try:
                        step(student, teacher, images, labels)
                    except Exception as error:
                        if turn:
                            raise
            print(name, layer, watched.waits)
    with Watched() as watched:
        torch.zeros(3, device="cpu").to("cuda")
    assert watched.waits, "the watch sees nothing"
print("done")
"""


def test_a_step_asks_nothing_of_the_cpu():
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", PRETENDED], capture_output=True, text=True, check=False)
    if "not compiled with CUDA" in ran.stderr:
        pytest.skip("this torch cannot pretend to have a GPU")
    assert ran.returncode == 0, ran.stderr
    *lines, last = ran.stdout.splitlines()
    assert last == "done"
    assert len(lines) == 10
    assert [line for line in lines if not line.endswith("[]")] == []


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recorded_steps_learn_what_others_learn(data, precision):
    recipe = type(RECIPE)(epochs=2, batch_size=16, learning_rate=0.01, precision=precision)
    graphs, eager = (
        train_together([Training(data=data, recipe=recipe, **one) for one in asked(data)], graphs=graphs)
        for graphs in (True, False)
    )
    for recorded, usual in zip(graphs, eager, strict=True):
        for name in set(recorded.curves) - {"seconds"}:
            torch.testing.assert_close(recorded.curves[name], usual.curves[name], rtol=0.02, atol=0.02, msg=name)


@needs_gpu
def test_a_step_that_cannot_be_recorded_is_done_as_it_is(data):
    def waits(student, teacher, images, labels):  # noqa: ARG001 - every step is called alike
        logits = student(images)
        return logits, {"mine": logits.square().mean() * float(labels.float().mean())}

    one = {**asked(data)[0], "step": waits}
    with pytest.warns(UserWarning, match="could not be recorded as a CUDA graph"):
        (run,) = train_together([Training(data=data, recipe=RECIPE, **one)])
    assert all(torch.isfinite(tensor).all() for tensor in learned(run.network))
