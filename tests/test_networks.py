"""Networks by name: their sizes, their weights, and files that others made."""

from __future__ import annotations

import copy
import json
import pickle
import urllib.error

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from spectralkd_nb import data_path
from spectralkd_nb.networks import NAMES, build, load_weights, shipped_networks, snapshots
from spectralkd_nb.networks.families import family_of

# Published counts: He et al. 2016 for CIFAR-10 (0.27, 0.46, 0.85, 1.7 million; exact ones of a widely used
# implementation), and RepDistiller's and mdistiller's networks for CIFAR-100.
PARAMETERS = {
    ("resnet20", 10, "padding"): 269_722,
    ("resnet32", 10, "padding"): 464_154,
    ("resnet56", 10, "padding"): 853_018,
    ("resnet110", 10, "padding"): 1_727_962,
    ("resnet20", 100, "projection"): 278_324,
    ("resnet32", 100, "projection"): 472_756,
    ("resnet56", 100, "projection"): 861_620,
    ("resnet110", 100, "projection"): 1_736_564,
    ("resnet8x4", 100, "projection"): 1_233_540,
    ("resnet32x4", 100, "projection"): 7_433_860,
    ("wrn-16-2", 100, "projection"): 703_284,
    ("wrn-40-1", 100, "projection"): 569_780,
    ("wrn-40-2", 100, "projection"): 2_255_156,
    ("vgg8", 100, "projection"): 3_965_028,
    ("vgg13", 100, "projection"): 9_462_180,
}


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(("name", "classes", "shortcut"), PARAMETERS)
def test_parameters_are_as_many_as_published(name, classes, shortcut):
    assert count(build(name, classes, shortcut=shortcut)) == PARAMETERS[name, classes, shortcut]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "wrn-28-10"])
def test_every_name_takes_a_picture(name):
    assert build(name, 7)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_a_plain_network_is_a_resnet_without_its_additions():
    plain, residual = build("plain20", 100), build("resnet20", 100)
    shortcuts = sum(count(module) for name, module in residual.named_modules() if name.endswith("downsample"))
    assert count(plain) == count(residual) - shortcuts
    block = residual.layer1[0].eval()
    without = copy.deepcopy(block)
    without.skip = False
    x = torch.rand(1, 16, 8, 8)
    branch = block.bn2(block.conv2(block.relu1(block.bn1(block.conv1(x)))))
    assert torch.equal(block(x), torch.relu(branch + x))
    assert torch.equal(without(x), torch.relu(branch))


def test_the_padding_shortcut_subsamples_and_adds_empty_channels():
    shortcut = build("resnet20", 10, shortcut="padding").layer2[0].downsample
    x = torch.rand(2, 16, 8, 8)
    y = shortcut(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert y[:, :8].abs().sum() == y[:, 24:].abs().sum() == 0


def test_no_module_runs_twice_and_no_activation_is_overwritten():
    network = build("resnet8", 10).eval()
    seen, copies = {}, {}

    def note(module, _, output):
        assert module not in seen
        seen[module], copies[module] = output, output.clone()

    for module in network.modules():
        module.register_forward_hook(note)
    network(torch.rand(2, 3, 32, 32))
    assert all(torch.equal(seen[module], copies[module]) for module in seen)


def test_the_seed_decides_the_weights_and_the_callers_generator_stays():
    before = torch.get_rng_state()
    first, again, other = build("resnet8", 10), build("resnet8", 10), build("resnet8", 10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again)
    assert not same(first, other)


def test_names_that_do_not_exist_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"no network 'wrn16-2'; did you mean wrn-16-2"):
        build("wrn16-2")
    with pytest.raises(ValueError, match="6 n \\+ 2 layers"):
        build("resnet21")
    with pytest.raises(ValueError, match="6 n \\+ 4 layers"):
        build("wrn-20-2")
    with pytest.raises(ValueError, match="has 8, 11, 13, 16, 19 layers, not 12"):
        build("vgg12")
    with pytest.raises(ValueError, match="shortcut='none' is not known"):
        build("resnet20", shortcut="none")
    with pytest.raises(ValueError, match="did you mean torchvision/resnet50"):
        build("torchvision/resnet5")
    assert family_of("lenet") is None


# --- shipped weights -----------------------------------------------------------------------------


def test_there_are_shipped_weights_with_true_looking_cards():
    cards = shipped_networks()
    assert cards
    for card in cards:
        assert {"data", "recipe", "seed", "accuracy", "commit", "command"} <= set(card)
        network = build(card["network"], pretrained=card["data"]["name"])
        assert not network.training
        assert count(network) == card["parameters"]
        assert network.info.card == card
        assert network(torch.zeros(1, *network.info.shape)).shape == (1, card["classes"])


def test_the_untrained_twin_is_one_argument_away():
    card = shipped_networks()[0]
    trained = build(card["network"], card["classes"], pretrained=True)
    twin = build(card["network"], card["classes"])
    assert twin.info.mean == trained.info.mean
    assert twin.state_dict().keys() == trained.state_dict().keys()
    assert not same(trained, twin)
    assert same(twin, build(card["network"], card["classes"], seed=card["seed"]))


def test_missing_weights_are_answered_with_what_there_is():
    with pytest.raises(ValueError, match="no weights of resnet110 for 100 classes are shipped; there are "):
        build("resnet110", 100, pretrained=True)


def test_every_shipped_epoch_is_on_a_card_and_loads():
    folder = data_path("weights/epochs")
    cards = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    on_cards = [kept["file"] for card in cards for kept in card["epochs"]]
    assert sorted(on_cards) == sorted(path.name for path in folder.glob("*.safetensors"))
    for card in cards:
        networks = snapshots(card["network"], card["data"]["name"])
        assert list(networks) == [0, *(kept["epoch"] for kept in card["epochs"])]
        assert same(networks[0], build(card["network"], card["classes"], seed=card["seed"]))
        for network in networks.values():
            assert not network.training
            assert network.info.card == card
            assert count(network) == card["parameters"]
            assert network(torch.zeros(1, *network.info.shape)).shape == (1, card["classes"])


def test_missing_epochs_are_answered_with_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr("spectralkd_nb.networks.weights.data_path", lambda name: tmp_path / name)
    with pytest.raises(ValueError, match="no epochs of resnet8 are shipped; there are none"):
        snapshots("resnet8")
    (tmp_path / "weights" / "epochs").mkdir(parents=True)
    card = {"network": "resnet8", "data": {"name": "shades"}}
    (tmp_path / "weights" / "epochs" / "resnet8_shades.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="no epochs of resnet8 on cifar10 are shipped; there are resnet8 on shades"):
        snapshots("resnet8", "cifar10")


# --- files that others made ----------------------------------------------------------------------


def as_others_write(network: nn.Module) -> dict[str, torch.Tensor]:
    """A state_dict in the manner of a common implementation on CIFAR-10: DataParallel, `linear` for `fc`."""
    state = {f"module.{key}".replace(".fc.", ".linear."): value for key, value in network.state_dict().items()}
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def test_a_checkpoint_of_others_loads(tmp_path):
    theirs = build("resnet20", 10, shortcut="padding", seed=5)
    torch.save({"state_dict": as_others_write(theirs), "best_prec1": 91.7}, tmp_path / "theirs.th")
    mine = load_weights(build("resnet20", 10, shortcut="padding"), tmp_path / "theirs.th")
    assert same(mine, theirs)


def test_other_names_of_modules_are_understood(tmp_path):
    theirs = build("wrn-16-2", 100, seed=5)
    renamed = {key.replace("downsample", "convShortcut"): value for key, value in theirs.state_dict().items()}
    renamed = {
        f"block{key[5]}.layer.{key[7:]}" if key.startswith("layer") else key: value for key, value in renamed.items()
    }
    torch.save(renamed, tmp_path / "wrn.pth")
    assert same(load_weights(build("wrn-16-2", 100), tmp_path / "wrn.pth"), theirs)
    resnet = build("resnet20", 100, seed=5)
    torch.save({k.replace("downsample", "shortcut"): v for k, v in resnet.state_dict().items()}, tmp_path / "r.pth")
    assert same(load_weights(build("resnet20", 100), tmp_path / "r.pth"), resnet)


def test_half_precision_safetensors_load_into_full_precision(tmp_path):
    theirs = build("resnet8", 10, seed=5)
    save_file({key: value.half() for key, value in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    mine = load_weights(build("resnet8", 10), tmp_path / "w.safetensors")
    assert mine.fc.weight.dtype == torch.float32
    assert torch.allclose(mine.fc.weight, theirs.fc.weight, rtol=1e-3, atol=1e-6)


def test_keys_that_do_not_fit_are_named(tmp_path):
    torch.save(as_others_write(build("resnet32", 10, shortcut="padding")), tmp_path / "32.th")
    network = build("resnet20", 10, shortcut="padding")
    before = copy.deepcopy(network)
    with pytest.raises(ValueError, match=r"32.th does not fit CifarResNet: the network lacks layer1.3.conv1.weight, "):
        load_weights(network, tmp_path / "32.th")
    with pytest.raises(ValueError, match=r"shapes differ at fc.weight \(file \(10, 64\), network \(100, 64\)\)"):
        load_weights(build("resnet32", 100, shortcut="padding"), tmp_path / "32.th")
    with pytest.raises(ValueError, match=r"the file lacks layer2.0.downsample.0.weight, .* and \d+ more"):
        load_weights(build("resnet32", 10), tmp_path / "32.th")
    assert same(network, before)


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_in_a_file_is_executed(tmp_path):
    trapped = tmp_path / "trap.pth"
    trapped.write_bytes(pickle.dumps(Trap(str(tmp_path / "sprung"))))
    with pytest.raises(ValueError, match="cannot be read safely as weights"):
        load_weights(build("resnet8", 10), trapped)
    torch.save({"state_dict": Trap(str(tmp_path / "sprung"))}, tmp_path / "trap.th")
    with pytest.raises(ValueError, match="cannot be read safely as weights"):
        load_weights(build("resnet8", 10), tmp_path / "trap.th")
    assert not (tmp_path / "sprung").exists()


def test_files_that_hold_no_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_weights(build("resnet8", 10), tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no state_dict"):
        load_weights(build("resnet8", 10), tmp_path / "list.pth")


# --- torchvision ---------------------------------------------------------------------------------


def test_torchvisions_classifiers_come_untrained_with_their_transforms():
    network = build("torchvision/squeezenet1_1", 5, seed=2)
    assert network.info.shape == (3, 224, 224)
    assert network.info.transform(torch.rand(3, 300, 400)).shape == (3, 224, 224)
    assert network.info.normalise(torch.full((1, 3, 8, 8), 0.485))[0, 0, 0, 0] == pytest.approx(0, abs=1e-6)
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert same(network, build("torchvision/squeezenet1_1", 5, seed=2))


def test_torchvisions_own_weights_load(tmp_path, monkeypatch):
    from torchvision.models import SqueezeNet1_1_Weights

    # What a download leaves behind; the network cannot be reached in a test.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = build("torchvision/squeezenet1_1", seed=5)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(theirs.state_dict(), folder / SqueezeNet1_1_Weights.DEFAULT.url.rsplit("/", 1)[1])
    mine = build("torchvision/squeezenet1_1", pretrained=True)
    assert same(mine, theirs)
    assert not mine.training
    assert same(build("torchvision/squeezenet1_1", pretrained="IMAGENET1K_V1"), theirs)
    with pytest.raises(ValueError, match="has no weights 'V9'; it has IMAGENET1K_V1"):
        build("torchvision/squeezenet1_1", pretrained="V9")
    with pytest.raises(ValueError, match="trained for 1000 classes, not 10"):
        build("torchvision/squeezenet1_1", 10, pretrained=True)


def test_a_download_that_fails_is_said_with_the_ways_out(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(ConnectionError, match=r"could not be downloaded from https://.*put that file into"):
        build("torchvision/squeezenet1_1", pretrained=True)
