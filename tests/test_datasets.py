"""Labelled pictures: what is built in, what is read from a disk, and augmentation in batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from spectralkd_nb.datasets import LabelledImages, augment, draw_views, open_dataset, rotated
from spectralkd_nb.datasets.files import read_folder, read_npz
from spectralkd_nb.datasets.labelled import order_free_hash
from spectralkd_nb.datasets.patches import MARGIN, _places, photograph_patches
from spectralkd_nb.pictures import photographs
from spectralkd_nb.spectra import fit_power_law, radial_spectrum


def some_images(n: int = 12, size: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=generator)
    return pixels.contiguous(memory_format=torch.channels_last)


def some_data() -> LabelledImages:
    return LabelledImages(
        "some", some_images(), torch.arange(12) % 3, some_images(6, seed=1), torch.arange(6) % 3, ("a", "b", "c")
    )


# --- the data itself -----------------------------------------------------------------------------


def test_normalised_training_images_have_mean_0_and_variance_1():
    data = some_data()
    normal = data.normalise(data.train_images).double()
    assert normal.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert normal.square().mean((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_the_hash_knows_pixels_and_labels_but_no_order():
    images, labels = some_images(), torch.arange(12) % 3
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    whole = order_free_hash(images, labels)
    assert order_free_hash(images[order], labels[order]) == whole
    assert order_free_hash(images.contiguous(), labels) == whole
    assert order_free_hash(images[order], labels) != whole
    changed = images.clone()
    changed[0, 0, 0, 0] += 1
    assert order_free_hash(changed, labels) != whole
    assert some_data().fingerprint == some_data().fingerprint


# --- augmentation --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 6), (5, 8)])
def test_a_batch_is_augmented_as_one_image_after_another_would_be(shape):
    images = torch.rand(20, 3, *shape, generator=torch.Generator().manual_seed(0))
    views = draw_views(20, 2, True, torch.Generator().manual_seed(1))
    batch = augment(images, views, 2)
    for i, image in enumerate(images):
        padded = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)))
        top, left = int(views.top[i]), int(views.left[i])
        expected = padded[:, top : top + shape[0], left : left + shape[1]]
        assert np.array_equal(batch[i].numpy(), expected[..., ::-1] if views.mirrored[i] else expected)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_views_cover_all_shifts_mirror_half_and_lose_no_image():
    views = draw_views(4000, 4, True, torch.Generator().manual_seed(0))
    assert sorted(views.order.tolist()) == list(range(4000))
    assert set(views.top.tolist()) == set(views.left.tolist()) == set(range(9))
    assert views.mirrored.double().mean() == pytest.approx(0.5, abs=0.03)
    still = draw_views(10, 0, False, torch.Generator().manual_seed(0))
    images = some_images(10)
    assert torch.equal(augment(images, still, 0), images)


def test_batches_of_views_are_the_views():
    views = draw_views(10, 4, True, torch.Generator().manual_seed(0))
    parts = [views.batch(start, 4) for start in range(0, 10, 4)]
    assert torch.equal(torch.cat([part.left for part in parts]), views.left)
    assert len(parts[-1].order) == 2


# --- the task that needs no download -------------------------------------------------------------


@pytest.fixture(scope="module")
def built_in() -> LabelledImages:
    return open_dataset("photographs")


def test_the_built_in_task_is_large_balanced_and_the_same_every_time(built_in):
    assert len(built_in.test_labels) >= 2000
    assert built_in.train_images.shape[1:] == (3, 32, 32)
    for labels in (built_in.train_labels, built_in.test_labels):
        assert len(set(torch.bincount(labels).tolist())) == 1
    assert len(built_in.classes) == 14
    assert built_in.fingerprint == photograph_patches().fingerprint
    assert built_in.fingerprint != photograph_patches(seed=1).fingerprint


def test_brightness_and_contrast_tell_little_of_the_photograph(built_in):
    # What clipping leaves of both makes a quarter right; the smallest student has three quarters.
    def facts(images):
        values = images.double().flatten(1)
        return torch.stack([values.mean(1), values.std(1)], 1)

    train, test = facts(built_in.train_images), facts(built_in.test_images)
    nearest = torch.cdist(test / train.std(0), train / train.std(0)).argmin(1)
    assert (built_in.train_labels[nearest] == built_in.test_labels).double().mean() < 0.3


@pytest.mark.parametrize("name", ["astronaut", "clock"])
def test_no_pixel_is_both_trained_on_and_tested_with(name):
    picture = next(p[name] for kind in ("scene", "unusual") if name in (p := photographs(kind)))
    places = _places(picture, 32, torch.Generator().manual_seed(0))
    seen = {part: torch.zeros(picture.size, dtype=torch.bool) for part in places}
    for part, corners in places.items():
        assert len(corners)
        for top, left in corners.tolist():
            seen[part][top : top + 32, left : left + 32] = True
            assert top % (32 + MARGIN) <= MARGIN
    assert not (seen["train"] & seen["test"]).any()


def test_too_many_patches_are_refused():
    with pytest.raises(ValueError, match=r"has \d+ places for patches of 32 pixels, and 100000 are wanted"):
        photograph_patches(train=100_000)


# --- .npz ----------------------------------------------------------------------------------------


def arrays(**changed) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    whole = {
        "train_images": rng.integers(256, size=(6, 4, 5, 3), dtype=np.uint8),
        "train_labels": np.array([0, 1, 0, 1, 0, 1], np.int32),
        "test_images": rng.integers(256, size=(2, 4, 5, 3), dtype=np.uint8),
        "test_labels": np.array([1, 0]),
        "classes": np.array(["cat", "dog"]),
    }
    return {name: value for name, value in (whole | changed).items() if value is not None}


def test_an_npz_file_reads_as_it_was_written(tmp_path):
    written = arrays()
    np.savez(tmp_path / "pets.npz", **written)
    data = open_dataset(tmp_path / "pets.npz")
    assert data.name == "pets"
    assert data.classes == ("cat", "dog")
    assert np.array_equal(data.train_images.permute(0, 2, 3, 1).numpy(), written["train_images"])
    assert data.train_labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.test_labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"classes": None}, "lacks classes; it must hold"),
        ({"train_images": np.zeros((6, 3, 4, 5))}, r"train_images are float64 \(6, 3, 4, 5\), and uint8"),
        ({"test_labels": np.array([0.0, 1.0])}, "test_labels are float64"),
        ({"train_labels": np.array([0, 1])}, r"train_labels are int64 \(2,\) for 6 images"),
        ({"test_labels": np.array([0, 2])}, "run from 0 to 2, and there are 2 classes"),
        ({"classes": np.array([{"pickled": 1}, 2], dtype=object)}, "cannot be read as an .npz file of plain arrays"),
    ],
)
def test_an_npz_file_of_another_form_is_refused_in_a_sentence(tmp_path, changed, words):
    np.savez(tmp_path / "pets.npz", **arrays(**changed))
    with pytest.raises(ValueError, match=words):
        read_npz(tmp_path / "pets.npz")


def test_what_is_no_npz_file_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz file"):
        read_npz(tmp_path / "text.npz")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_npz(tmp_path / "none.npz")


# --- folders -------------------------------------------------------------------------------------


def paint(path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_a_folder_of_class_folders_is_divided_the_same_way_every_time(tmp_path):
    for i in range(10):
        paint(tmp_path / "red" / f"{i}.png", (200 + i, 0, 0))
        paint(tmp_path / "blue" / f"{i}.jpg", (0, 0, 200 + i), size=(32, 64))
    data = open_dataset(tmp_path)
    assert data.classes == ("blue", "red")
    assert data.train_images.shape == (16, 3, 32, 32)
    assert data.test_labels.tolist() == [0, 0, 1, 1]
    assert (data.test_images[data.test_labels == 1][:, 0] >= 200).all()
    assert read_folder(tmp_path).fingerprint == data.fingerprint
    assert read_folder(tmp_path, seed=1).fingerprint != data.fingerprint
    assert read_folder(tmp_path, size=16).train_images.shape[-1] == 16


def test_train_and_test_folders_are_respected(tmp_path):
    for part, n in (("train", 3), ("test", 2)):
        for name in ("a", "b"):
            for i in range(n):
                paint(tmp_path / part / name / f"{i}.png", (i, 0, 0))
    data = read_folder(tmp_path)
    assert (len(data.train_labels), len(data.test_labels)) == (6, 4)


def test_the_middle_of_a_picture_is_kept(tmp_path):
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 255
    for name in ("a", "b"):
        for i in range(2):
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(path)
    assert (read_folder(tmp_path).train_images == 255).all()


def test_folders_that_are_no_data_set_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="holds 0 folders; one for each of two or more classes"):
        read_folder(tmp_path)
    for i in range(2):
        paint(tmp_path / "a" / f"{i}.png", (0, 0, 0))
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        read_folder(tmp_path)
    paint(tmp_path / "b" / "0.png", (0, 0, 0))
    with pytest.raises(ValueError, match="holds a single picture"):
        read_folder(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="holds train but no test"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="no data set 'imagenet'; name photographs, fields, cifar10, cifar100"):
        open_dataset("imagenet")


# --- random fields ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fields():
    return open_dataset("fields")


def grey(images):
    return images[:, 0].double() / 255


def test_the_fields_are_four_exponents_in_four_directions(fields):
    assert len(fields.classes) == 16
    assert fields.train_images.shape == (1600, 3, 32, 32)
    assert fields.test_images.shape == (2400, 3, 32, 32)
    assert fields.train_labels.bincount().tolist() == [100] * 16
    assert fields.test_labels.bincount().tolist() == [150] * 16
    assert fields.classes[:2] == ("alpha 1.0 at 0", "alpha 1.0 at 45")
    assert not fields.flip


def test_fields_have_one_brightness_and_one_contrast_and_no_colour(fields):
    values = fields.train_images.double() / 255
    assert (values[:, 0] == values[:, 2]).all()
    assert values.mean((1, 2, 3)).sub(0.5).abs().max() < 0.01
    assert values.std((1, 2, 3)).sub(0.2).abs().max() < 0.01


def test_the_spectrum_of_a_class_has_its_exponent(fields):
    for label, name in enumerate(fields.classes):
        own = grey(fields.test_images[fields.test_labels == label])
        fit = fit_power_law(radial_spectrum(own, edges="hann").average(), band=(0.1, 0.45))
        assert float(fit.alpha) == pytest.approx(float(name.split()[1]), abs=0.12), name


def test_the_spectrum_of_a_class_has_most_power_in_its_direction_and_least_across(fields):
    for label, name in enumerate(fields.classes):
        own = grey(fields.test_images[fields.test_labels == label])
        spectrum = radial_spectrum(own, edges="hann", sectors=4).average()
        power = spectrum.power[:, 4:12].log().mean(1)
        direction = float(name.split()[-1])
        assert float(spectrum.orientation[power.argmax()]) == direction, name
        assert float(spectrum.orientation[power.argmin()]) == (direction + 90) % 180, name
        assert float(power.max() - power.min()) == pytest.approx(2 * 0.4 * 0.9, abs=0.15)  # 0.9: mean over a sector


def test_the_divergence_of_two_laws_is_that_of_its_definition(fields):
    """KL(P || Q) + KL(Q || P) of complex Gaussian modes, both summed up in numpy over the whole plane."""
    fy, fx = np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32), indexing="ij")
    radius, angle = np.hypot(fy, fx), np.arctan2(fy, fx)
    shown = (radius > 0) & (radius < 0.5)
    law = {}
    for label, name in enumerate(fields.classes):
        alpha, direction = float(name.split()[1]), np.deg2rad(float(name.split()[-1]))
        power = radius[shown] ** -alpha * np.exp(0.4 * np.cos(2 * (angle[shown] - direction)))
        law[label] = power / power.sum()
    for first, second in ((0, 1), (0, 2), (0, 4), (3, 13), (5, 15)):
        p, q = law[first], law[second]
        there, back = (a / b - 1 - np.log(a / b) for a, b in ((p, q), (q, p)))
        assert float(fields.similarity[first, second]) == pytest.approx(-(there + back).mean(), rel=1e-9)


def test_a_field_is_most_like_its_neighbour_in_alpha(fields):
    similarity = fields.similarity
    torch.testing.assert_close(similarity, similarity.T)
    assert (similarity.diagonal() == 0).all()
    nearest = similarity.masked_fill(torch.eye(16, dtype=torch.bool), -torch.inf).argmax(1)
    assert (nearest % 4 == torch.arange(16) % 4).all()
    assert ((nearest // 4 - torch.arange(16) // 4).abs() == 1).all()


def test_fields_follow_from_their_seed():
    few = {"train": 2, "test": 3}
    assert open_dataset("fields", **few).fingerprint == open_dataset("fields", **few).fingerprint
    assert open_dataset("fields", **few).fingerprint != open_dataset("fields", seed=1, **few).fingerprint


def test_what_is_known_of_classes_goes_with_their_images_and_not_with_turned_ones(fields):
    assert torch.equal(fields.held_out(4).similarity, fields.similarity)
    assert rotated(open_dataset("fields", train=1, test=1)).similarity is None


@pytest.mark.parametrize("options", [{"size": 7}, {"train": 0}, {"test": 0}])
def test_fields_that_would_show_nothing_are_refused(options):
    with pytest.raises(ValueError, match="give 8 pixels or more, and a patch or more of each"):
        open_dataset("fields", **options)
