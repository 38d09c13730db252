"""Networks by name, untrained or with weights: this project's own, torchvision's, or a file that others made."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.error
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spectralkd_nb import data_path
from spectralkd_nb.names import nearest
from spectralkd_nb.networks.families import NAMES, family_of
from spectralkd_nb.storage import Damaged, require_checksums, sha256_of

FINGERPRINT = "fingerprint"  # in the head of a .safetensors file, of what it holds
WEIGHTS = "weights"  # the folder in data/
EPOCHS = "weights/epochs"  # of networks at several moments of their training
TORCHVISION = "torchvision/"
SHOWN = 3  # keys that an error names


@dataclass(frozen=True)
class NetworkInfo:
    """What a network made by `build` knows of itself; it is the network's attribute `info`.

    Attributes:
        name: as given to `build`.
        classes: number of outputs.
        shape: (3, H, W) of the images that it is meant for.
        mean, std: of each colour in the images that it was trained on, 0..1; 0 and 1 if it is not known.
        transform: the whole preparation of an image in 0..1 or of a Pillow image, where torchvision gives one.
        card: how shipped weights were made, and their accuracy; empty for others.
        seed: of the weights that it began with.
    """

    name: str
    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    transform: Callable | None = None
    card: Mapping[str, Any] | None = None
    seed: int = 0

    def normalise(self, images: Tensor) -> Tensor:
        """Floating images (B, 3, H, W) of 0..1, of any size, as this network is used to them; the shape stays."""
        mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device) for v in (self.mean, self.std))
        return (images - mean[:, None, None]) / std[:, None, None]


def build(
    name: str,
    classes: int | None = None,
    pretrained: bool | str = False,
    *,
    seed: int = 0,
    shortcut: str = "projection",
) -> nn.Module:
    """A network by its name, in eval mode if it is trained. ::

        teacher = build("wrn-16-2", classes=100, pretrained=True)
        twin = build("wrn-16-2", classes=100)       # as the teacher was before training

    Args:
        name: "resnet20", "resnet8x4", "plain20", "wrn-16-2", "vgg13" and their like, see `family_of`; or
            "torchvision/resnet50" and every other classifier of torchvision.
        classes: number of outputs; None for as many as the weights have, or else 100 (torchvision: 1000).
        pretrained: True for shipped weights (torchvision: its best ones, which are downloaded); or the name of the
            data set or of torchvision's weights ("IMAGENET1K_V1") where there are several.
        seed: of the initial weights. A shipped network's card names the seed that it started from, 0 unless said.
        shortcut: of a ResNet, see `CifarResNet`.

    Returns:
        the network, with the attribute `info`, a `NetworkInfo`.

    Raises:
        ValueError: no such name, or no such weights; the sentence names the nearest. Also an unknown shortcut, and
            other classes than torchvision's weights have.
        ConnectionError: torchvision's weights could not be downloaded.
    """
    if name.startswith(TORCHVISION):
        return _torchvision(name, classes, pretrained, seed)
    make = family_of(name, shortcut)
    if make is None:
        raise ValueError(f"there is no network {name!r}; {_nearest(name, [*NAMES, *_torchvision_names()])}")
    card = _card(name, classes, pretrained)
    if pretrained and card is None:
        raise ValueError(_no_weights(name, classes, pretrained))
    classes = classes or (card["classes"] if card else 100)
    network = _seeded(lambda: make(classes), seed)
    if pretrained:
        load_weights(network, _verified(f"{WEIGHTS}/{card['file']}", card)).eval()
    info = _info(card) if card else NetworkInfo(name, classes, (3, 32, 32))
    network.info = info if pretrained else replace(info, seed=seed)
    return network


def shipped_networks(epochs: bool = False) -> list[dict[str, Any]]:
    """The cards of the networks whose weights are shipped: data, recipe, seed, accuracy, commit, command.

    Args:
        epochs: of those shipped at several moments of one training instead; see `snapshots`.
    """
    return _cards(EPOCHS if epochs else WEIGHTS)


def snapshots(name: str, data: str | None = None) -> dict[int, nn.Module]:
    """A network before its training and after some of its epochs, as far as they are shipped. ::

        young = snapshots("resnet20")[1]            # after one epoch

    Args:
        name: of the network.
        data: name of the data set, where there are several.

    Returns:
        by epoch, the network in eval mode, with the attribute `info`. 0 is the network as it was before training: its
        batch norms know no statistics yet, and do nothing; `reestimate_batch_norm` settles them on images.

    Raises:
        ValueError: no epochs of this network are shipped; the sentence says of which there are.
    """
    cards = _cards(EPOCHS)
    card = next((card for card in cards if card["network"] == name and data in (None, card["data"]["name"])), None)
    if card is None:
        which = f" on {data}" if data else ""
        raise ValueError(
            f"no epochs of {name}{which} are shipped; there are {_listed(cards)}. train(..., keep_epochs=...) keeps "
            "those of a run of yours"
        )
    networks = {0: build(name, card["classes"], seed=card["seed"]).eval()}
    for kept in card["epochs"]:
        file = _verified(f"{EPOCHS}/{kept['file']}", kept)
        networks[kept["epoch"]] = load_weights(build(name, card["classes"]), file).eval()
    for network in networks.values():
        network.info = _info(card)
    return networks


def _cards(folder: str) -> list[dict[str, Any]]:
    return [_read_card(path) for path in sorted(data_path(folder).glob("*.json"))]


def _read_card(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise Damaged(f"{path} is damaged and no card of a network ({error}); get it again") from None


def _verified(name: str, card: Mapping[str, Any]) -> Path:
    """The path of a shipped file, which is as its card says to the last bit.

    Raises:
        Damaged: it is not.
    """
    file = data_path(name)
    if sha256_of(file) != card["sha256"]:
        raise Damaged(
            f"{file} is damaged: it is not the file that its card describes. Get it again (git checkout data/{name} in "
            "a checkout, else install the package again)"
        )
    return file


def _listed(cards: list[dict[str, Any]]) -> str:
    return ", ".join(f"{card['network']} on {card['data']['name']}" for card in cards) or "none"


def _info(card: Mapping[str, Any]) -> NetworkInfo:
    shape, mean, std = (tuple(card[key]) for key in ("shape", "mean", "std"))
    return NetworkInfo(card["network"], card["classes"], shape, mean, std, card=card, seed=card["seed"])


def _card(name: str, classes: int | None, pretrained: bool | str) -> dict[str, Any] | None:
    """The card of the shipped weights that are meant; of an untrained network, of the weights it would have."""
    for card in shipped_networks():
        fits = card["network"] == name and classes in (None, card["classes"])
        if fits and (not isinstance(pretrained, str) or card["data"]["name"] == pretrained):
            return card
    return None


def _no_weights(name: str, classes: int | None, pretrained: bool | str) -> str:
    which = f" on {pretrained}" if isinstance(pretrained, str) else ""
    outputs = f" for {classes} classes" if classes else ""
    return (
        f"no weights of {name}{which}{outputs} are shipped; there are {_listed(shipped_networks())}. Train it, or read "
        "a file with load_weights"
    )


def _seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network whose initial weights follow from the seed alone; the caller's generators stay where they are."""
    with randomness_kept():
        torch.manual_seed(seed)
        return make()


@contextmanager
def randomness_kept() -> Iterator[None]:
    """torch's generators, of every device, are afterwards where they were."""
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            if mps is not None:
                torch.mps.set_rng_state(mps)


def _nearest(name: str, names: list[str]) -> str:
    near = nearest(name, names)
    return f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(NAMES)} and torchvision/..."


# --- torchvision's -------------------------------------------------------------------------------


def _torchvision_names() -> list[str]:
    try:
        from torchvision import models
    except ModuleNotFoundError:  # a bare machine has our families all the same
        return []
    return [TORCHVISION + name for name in models.list_models(module=models)]


def _torchvision(name: str, classes: int | None, pretrained: bool | str, seed: int) -> nn.Module:
    from torchvision import models

    if name not in _torchvision_names():
        raise ValueError(f"torchvision has no classifier {name!r}; {_nearest(name, _torchvision_names())}")
    bare = name.removeprefix(TORCHVISION)
    choices = models.get_model_weights(bare)
    if isinstance(pretrained, str) and pretrained not in choices.__members__:
        raise ValueError(f"{name} has no weights {pretrained!r}; it has {', '.join(choices.__members__)}")
    weights = choices[pretrained] if isinstance(pretrained, str) else choices.DEFAULT
    outputs = len(weights.meta["categories"])
    if pretrained and classes not in (None, outputs):
        raise ValueError(f"{name} was trained for {outputs} classes, not {classes}; leave classes out")
    transform = weights.transforms()
    # GoogLeNet and Inception draw their initial weights slowly unless told; their trained ones replace them anyway.
    extra = {"init_weights": not pretrained} if bare in ("googlenet", "inception_v3") else {}
    try:
        network = _seeded(
            lambda: models.get_model(
                bare,
                weights=weights if pretrained else None,
                **({} if pretrained else {"num_classes": classes or outputs}),
                **extra,
            ),
            seed,
        )
    except (urllib.error.URLError, TimeoutError) as error:
        raise ConnectionError(
            f"the weights of {name} could not be downloaded from {weights.url} ({error}); put that file into "
            f"{torch.hub.get_dir()}/checkpoints, or use shipped weights, "
            "which shipped_networks() lists"
        ) from None
    network.info = NetworkInfo(
        name,
        classes or outputs,
        (3, transform.crop_size[0], transform.crop_size[0]),
        tuple(transform.mean),
        tuple(transform.std),
        transform,
        seed=seed,
    )
    return network.eval() if pretrained else network


# --- files that others made ----------------------------------------------------------------------

WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
# What others call the modules that are called otherwise here.
RENAMED = (
    (r"^linear\.", "fc."),
    (r"^classifier\.", "fc."),
    (r"\bshortcut\.", "downsample."),
    (r"\bconvShortcut\.", "downsample."),
    (r"^block(\d)\.layer\.", r"layer\1."),
)


def load_weights(network: nn.Module, file: str | Path) -> nn.Module:
    """Read a state_dict into a network, in place: a .safetensors file, or what torch.save wrote.

    A file of torch.save is read with weights_only, so that nothing in it is executed. Prefixes of DataParallel and
    torch.compile are dropped, a state_dict inside a checkpoint is found, half precision becomes the network's own, and
    the usual other names of modules (`linear`, `shortcut`, `block1.layer.0`) are understood.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a file of weights, a damaged one, or keys that do not fit; the sentence names the first.
    """
    file = Path(file).expanduser()
    state = _renamed(_read_state(file), network)
    wanted = network.state_dict()
    # Files from before torch 0.4.1 do not count batches, and nothing here depends on the count.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in wanted]
    misfits = [
        f"{key} (file {tuple(state[key].shape)}, network {tuple(wanted[key].shape)})"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    complaints = [
        f"{what} {', '.join(keys[:SHOWN])}{f' and {len(keys) - SHOWN} more' if len(keys) > SHOWN else ''}"
        for what, keys in (("the file lacks", missing), ("the network lacks", unknown), ("shapes differ at", misfits))
        if keys
    ]
    if complaints:
        raise ValueError(f"{file.name} does not fit {type(network).__name__}: {'; '.join(complaints)}")
    network.load_state_dict({**wanted, **state})
    return network


def _read_state(file: Path) -> dict[str, Tensor]:
    if not file.exists():
        raise FileNotFoundError(f"there is no file {file}; give the path of a state_dict")
    try:
        if file.suffix == ".safetensors":
            state = _read_safetensors(file)
        else:
            if zipfile.is_zipfile(file):  # all but those of torch before 1.6
                require_checksums(file)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Damaged:
        raise
    except Exception as error:  # torch, zipfile, pickle and safetensors each have their own
        # Not torch's own words: they advise to read the file in the way that executes it.
        raise ValueError(
            f"{file} cannot be read safely as weights ({type(error).__name__}); a .safetensors file or a state_dict "
            "from torch.save is wanted"
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file} holds no state_dict: names of tensors are wanted")
    return dict(state)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    """Its tensors, compared with the fingerprint that files of this package carry; others carry none.

    Raises:
        Damaged: they are not those that were written.
    """
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        stated = (opened.metadata() or {}).get(FINGERPRINT)
        state = {key: opened.get_tensor(key) for key in sorted(opened.keys())}  # in the order of the fingerprint
    if stated is not None and fingerprint_of(state) != stated:
        raise Damaged(f"{file} is damaged: its weights are not those that were written")
    return state


def _renamed(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The same tensors under the network's own names, as far as they are understood."""
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    wanted = network.state_dict()

    def own_name(key: str) -> str:
        new = key
        for pattern, replacement in RENAMED:
            new = re.sub(pattern, replacement, new)
        return new if key not in wanted and new in wanted else key

    return {own_name(key): value for key, value in state.items()}


def fingerprint_of(state: Mapping[str, Tensor]) -> str:
    """Hash of a state_dict, weights and buffers, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for key, value in state.items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
