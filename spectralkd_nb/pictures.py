"""Photographs that need no download, and fields whose law is known.

Photographs come out of scikit-image's own wheel, or from a person's disk. The fields are made here, so
that an estimator can be held to an exponent that was put in: `power_law_field`, `white_noise`, and
`dead_leaves`, the model that explains where the exponent of photographs comes from.
"""

from __future__ import annotations

import io
import math
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spectralkd_nb import data_path
from spectralkd_nb.spectra import fit_power_law, mode_frequencies, mode_weights, radial_spectrum

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Picture",
    "dead_leaves",
    "likeness",
    "measure_exponents",
    "measured_photographs",
    "open_folder",
    "open_picture",
    "photograph_crops",
    "photographs",
    "power_law_field",
    "read_picture",
    "white_noise",
]

VALUES = ("display", "linear", "log")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear red, green, blue (ITU-R BT.709)
SMALLEST_LEAF = 0.2  # pixels; smaller leaves nearly always fall between pixel centres
LOG_FLOOR = 1 / 255  # added to linear light, so that black has a logarithm

# name: (file in scikit-image, kind, source, licence)
_SHIPPED = {
    "astronaut": ("astronaut.png", "scene", "NASA, Eileen Collins", "public domain"),
    "camera": ("camera.png", "scene", "Lav Varshney", "CC0"),
    "chelsea": ("chelsea.png", "scene", "Stefan van der Walt", "CC0"),
    "coffee": ("coffee.png", "scene", "Rachel Michetti, Pikolo Espresso Bar", "CC0"),
    "coins": ("coins.png", "scene", "Brooklyn Museum, Greek coins from Pompeii", "no known copyright restrictions"),
    "motorcycle": ("motorcycle_left.png", "scene", "Middlebury 2014 stereo benchmark", "CC0, Daniel Scharstein"),
    "rocket": ("rocket.jpg", "scene", "SpaceX", "public domain"),
    "brick": ("brick.png", "texture", "CC0Textures, Bricks25", "CC0"),
    "grass": ("grass.png", "texture", "linolafett, Grass-01", "CC0"),
    "gravel": ("gravel.png", "texture", "CC0Textures, Gravel04", "CC0"),
    "clock": ("clock_motion.png", "unusual", "Stefan van der Walt, camera in motion", "public domain"),
    "galaxies": ("hubble_deep_field.jpg", "unusual", "NASA, Hubble eXtreme Deep Field", "public domain"),
    "retina": ("retina.jpg", "unusual", "Haggstrom, Wikimedia Commons", "CC0"),
    "text": ("text.png", "unusual", "Wikipedia, Corner.png", "public domain"),
}


# --- photographs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """One photograph with its origin.

    Attributes:
        name, kind: kind is "scene", "texture", "unusual" (no ordinary photograph: text, stars, motion blur) or "own".
        source, licence: who made it, and what may be done with it.
        display: (1 or 3, H, W) float32 in 0..1, the values of the file (sRGB, so gamma-coded).
    """

    name: str
    kind: str
    source: str
    licence: str
    display: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return tuple(self.display.shape[-2:])

    def half(self) -> Picture:
        """The same picture at half the size, 2 x 2 pixels averaged in linear light; an odd last row or column goes.

        Raises:
            ValueError: it is one pixel high or wide.
        """
        if min(self.size) < 2:
            raise ValueError(f"{self.name} is {self.size[0]} x {self.size[1]} pixels and has no half size")
        linear = torch.nn.functional.avg_pool2d(_to_linear(self.display)[None], 2)[0]
        return replace(self, display=_to_display(linear))

    def grey(self, values: str = "display") -> Tensor:
        """One grey map (H, W).

        Args:
            values: "display", the luma that a screen is sent, 0..1; "linear", luminance in proportion to the light
                of the scene, 0..1; "log", ln(luminance + 1/255), in which contrast does not depend on illumination.

        Raises:
            ValueError: other values than these three.
        """
        if values not in VALUES:
            raise ValueError(f"values={values!r} is not known; choose one of {', '.join(map(repr, VALUES))}")
        if values == "display":
            return _weighted(self.display)
        linear = _weighted(_to_linear(self.display))
        return linear if values == "linear" else (linear + LOG_FLOOR).log()


def photographs(kind: str = "scene", scale: str = "native") -> dict[str, Picture]:
    """The photographs inside scikit-image's wheel, by name.

    Args:
        kind: "scene" (7 ordinary photographs), "texture" (brick, grass, gravel) or "unusual" (motion blur,
            galaxies, a retina, text).
        scale: "native", or "half" (see `Picture.half`).

    Raises:
        ValueError: another kind or scale.
    """
    from skimage.data import data_dir

    kinds = sorted({entry[1] for entry in _SHIPPED.values()})
    if kind not in kinds:
        raise ValueError(f"kind={kind!r} is not known; choose one of {', '.join(map(repr, kinds))}")
    if scale not in ("native", "half"):
        raise ValueError(f"scale={scale!r} is not known; choose 'native' or 'half'")
    found = {}
    for name, (file, its_kind, source, licence) in _SHIPPED.items():
        if its_kind == kind:
            found[name] = Picture(name, kind, source, licence, _read(Path(data_dir) / file))
    return found if scale == "native" else {name: picture.half() for name, picture in found.items()}


def photograph_crops(size: int = 128, each: int = 4, kind: str = "scene", seed: int = 0) -> Tensor:
    """Square cut-outs of the photographs, in colour, for a network to look at.

    Args:
        size: pixels a side.
        each: cut-outs of every photograph, at places drawn by the seed.
        kind: see `photographs`.

    Returns:
        (photographs x each, 3, size, size), display values 0..1, the cut-outs of one photograph after another.

    Raises:
        ValueError: another kind, or a photograph with fewer pixels a side.
    """
    generator = torch.Generator().manual_seed(seed)
    crops = []
    for picture in photographs(kind).values():
        height, width = picture.size
        if min(height, width) < size:
            raise ValueError(f"{picture.name} has {height} x {width} pixels, fewer than {size} a side; ask for less")
        for _ in range(each):
            top = int(torch.randint(height - size + 1, (1,), generator=generator))
            left = int(torch.randint(width - size + 1, (1,), generator=generator))
            crops.append(picture.display[:, top : top + size, left : left + size].expand(3, -1, -1))
    return torch.stack(crops)


def open_picture(path: str | Path) -> Picture:
    """A picture of your own, by path. Grey of 8 or 16 bits, colour of 8; transparency is laid on white.

    Raises:
        FileNotFoundError: nothing is there.
        PermissionError: it may not be read.
        ValueError: it is a folder, no picture, damaged, too large, or of 32 bits a pixel.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; give the path of a picture")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give one picture, or use open_folder for all of a folder's")
    return Picture(path.stem, "own", str(path), "your own", _read(path))


def read_picture(content: bytes, name: str) -> Picture:
    """A picture from the bytes of its file, for instance one that was uploaded.

    Args:
        content: of the file.
        name: of the file.

    Raises:
        ValueError: as `open_picture`.
    """
    return Picture(Path(name).stem, "own", name, "your own", _decode(io.BytesIO(content), name))


def open_folder(folder: str | Path) -> dict[str, Picture]:
    """All pictures of a folder (not of the folders in it), by name and in the order of their names.

    Raises:
        FileNotFoundError: there is no folder.
        ValueError: it holds no pictures, or one that `open_picture` refuses.
    """
    folder = Path(folder).expanduser()
    return {picture.name: picture for picture in each_picture(folder)}


def each_picture(folder: Path) -> Iterator[Picture]:
    """The pictures of a folder one after another, so that only one at a time is in memory. Errors as `open_folder`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give the path of a folder of pictures")
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise ValueError(f"{folder} holds no pictures; files ending in {', '.join(SUFFIXES)} are looked for")
    stems = Counter(path.stem for path in paths)
    for path in paths:
        # Two files that differ in their ending alone keep it in their names.
        yield replace(open_picture(path), name=path.stem if stems[path.stem] == 1 else path.name)


def _read(path: Path) -> Tensor:
    return _decode(path, str(path))


def _decode(file: Path | io.BytesIO, name: str) -> Tensor:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            values = _as_array(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ValueError(f"{name} is no picture that can be read; give a PNG, JPEG, WebP or TIFF file") from None
    except PermissionError:
        raise PermissionError(f"{name} may not be read by this user; change its permissions or copy it") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name} has more pixels than a photograph; make it smaller first") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{name} is damaged and cannot be read as a picture ({error}); save it once more") from None
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.atleast_3d(values), -1, 0)))


def _as_array(image: Any) -> np.ndarray:
    """Pillow image to (H, W) or (H, W, 3) float32 in 0..1."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return np.asarray(image, dtype=np.float32) / 65535
    if image.mode in ("I", "F"):
        raise ValueError("pictures of 32 bits a pixel have no scale of their own; save 8 or 16 bits")
    if "A" in image.getbands() or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    grey = image.mode in ("1", "L")
    return np.asarray(image.convert("L" if grey else "RGB"), dtype=np.float32) / 255


def _weighted(image: Tensor) -> Tensor:
    if len(image) == 1:
        return image[0]
    return torch.einsum("c,chw->hw", torch.tensor(LUMINANCE), image)


def _to_linear(display: Tensor) -> Tensor:
    """sRGB decoding (IEC 61966-2-1)."""
    return torch.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)


def _to_display(linear: Tensor) -> Tensor:
    """sRGB encoding (IEC 61966-2-1)."""
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def likeness(first: Tensor, second: Tensor) -> float:
    """Correlation of the fine detail of two maps, -1 to 1: of what is left without the mean of 9 x 9 pixels.

    Our own measure; NaN where one of the maps is constant.

    Args:
        first, second: (H, W), of one size.
    """

    def detail(m: Tensor) -> Tensor:
        # Zeros beyond the border are not part of the picture: counted in, they would draw one frame around both.
        return m - torch.nn.functional.avg_pool2d(m[None], 9, stride=1, padding=4, count_include_pad=False)[0]

    return float(torch.corrcoef(torch.stack([detail(m).flatten() for m in (first, second)]))[0, 1])


# --- exponents of photographs --------------------------------------------------------------------


def measure_exponents(pictures: Mapping[str, Picture] | Iterable[Picture]) -> list[dict[str, Any]]:
    """alpha of each picture as this course measures it: one row a picture.

    Each row: name, height, width (pixels); alpha, of the display values at native size; alpha_half_size, of the same at
    half size; alpha_linear and alpha_log, of linear and log light at native size; alpha_lower_half and
    alpha_upper_half, of the lower and the upper half of the band (in octaves), at native size. Moisan edges, default
    band, Whittle fit, as in `spectra`.

    Args:
        pictures: as `photographs` or `open_folder` returns them, or one after the other.

    Raises:
        ValueError: a picture under 16 pixels a side, which has too few rings; the sentence names it.
    """
    pictures = pictures.values() if isinstance(pictures, Mapping) else pictures
    return [_exponents_of(picture) for picture in pictures]


def _exponents_of(picture: Picture) -> dict[str, Any]:
    try:
        return _row_of(picture)
    except ValueError as error:
        raise ValueError(f"{picture.name}: {error}") from None


def _row_of(picture: Picture) -> dict[str, Any]:
    def alpha(grey: Tensor, band: tuple[float, float] | None = None) -> float:
        return float(fit_power_law(radial_spectrum(grey), band).alpha)

    spectrum = radial_spectrum(picture.grey())
    fit = fit_power_law(spectrum)
    middle = math.sqrt(fit.band[0] * fit.band[1])
    return {
        "name": picture.name,
        "height": picture.size[0],
        "width": picture.size[1],
        "alpha": float(fit.alpha),
        "alpha_half_size": alpha(picture.half().grey()),
        "alpha_linear": alpha(picture.grey("linear")),
        "alpha_log": alpha(picture.grey("log")),
        "alpha_lower_half": float(fit_power_law(spectrum, (fit.band[0], middle)).alpha),
        "alpha_upper_half": float(fit_power_law(spectrum, (middle, fit.band[1])).alpha),
    }


def measured_photographs() -> pandas.DataFrame:
    """The exponents of 200 photographs of the BSDS500 training set, as `measure_exponents` gave them.

    Numbers only: the photographs are not part of this project. data/README.md says how the table was made.
    """
    import pandas

    return pandas.read_csv(data_path("photograph_exponents.csv"), dtype={"name": str})


# --- fields whose law is known -------------------------------------------------------------------


def white_noise(size: int | tuple[int, int], n: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """n maps of independent standard normal pixels, (n, H, W): alpha = 0.

    Args:
        size: pixels a side, or (H, W).
        generator: for a repeatable result; it also decides the device.

    Returns:
        (n, H, W) float32.

    Raises:
        ValueError: a size below 1.
        TypeError: a size that is no whole number.
    """
    return _noise(size, n, generator, torch.float32)


def power_law_field(
    size: int | tuple[int, int],
    alpha: float,
    n: int = 1,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """n Gaussian fields with P(f) proportional to f^-alpha exactly (in expectation), (n, H, W).

    White noise, filtered by f^(-alpha/2) in Fourier space. The fields are periodic, with mean 0 and expected
    variance 1. A cut-out of a larger field is not periodic: that is how to imitate a photograph.

    Args:
        size: pixels a side, or (H, W).
        alpha: the exponent of power.
        generator: see `white_noise`.
        dtype: of the result; it is computed in float64.

    Raises:
        ValueError: a size below 1, a single pixel, an alpha that is not finite or whose powers overflow.
        TypeError: a size that is no whole number.
    """
    noise = _noise(size, n, generator, torch.float64)
    height, width = noise.shape[-2:]
    radius = torch.hypot(*mode_frequencies(height, width, noise.device))
    radius[0, 0] = 1
    gain = radius ** (-alpha / 2)
    gain[0, 0] = 0
    if not (torch.isfinite(gain.square()).all() and gain.any()):
        raise ValueError(f"alpha={alpha} on {height} x {width} pixels makes no field; |alpha| below 50 and 2 pixels do")
    if not n:  # Fourier transforms of nothing are an error in some versions of torch
        return noise.to(dtype)
    full_plane = (gain.square() * mode_weights(width, noise.device)).sum()
    gain = gain * torch.sqrt(height * width / full_plane)
    return torch.fft.irfft2(torch.fft.rfft2(noise) * gain, s=(height, width)).to(dtype)


def _noise(size: int | tuple[int, int], n: int, generator: torch.Generator | None, dtype: torch.dtype) -> Tensor:
    device = generator.device if generator is not None else "cpu"
    return torch.randn(n, *_height_width(size), generator=generator, dtype=dtype, device=device)


def _height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (operator.index(n) for n in (size if isinstance(size, tuple | list) else (size, size)))
    if min(height, width) < 1:
        raise ValueError(f"size={size} holds no pixels; give the pixels a side, or (height, width)")
    return height, width


def dead_leaves(
    size: int | tuple[int, int],
    n: int = 1,
    exponent: float = 3.0,
    r_min: float = 1.0,
    r_max: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """n pictures of opaque grey discs that fall on one another like leaves, (n, H, W), values 0..1.

    Radii have density r^-exponent between r_min and r_max; places and grey values are uniform. With exponent 3
    the collage looks the same at every scale and alpha is near 2 (Ruderman 1997, Vision Res. 37:3385; Lee, Mumford &
    Huang 2001, IJCV 41:35). Measured: alpha is about 5 - exponent between the frequencies of the largest
    and the smallest leaves; above 1 / r_min single edges take over, and they fall as f^-3.

    Drawn front to back: the first leaf lies on top, later ones fill only what is still open, so drawing stops
    when the picture is full. Exact, where back to front would be a guess at when to stop.

    Args:
        size: pixels a side, or (H, W).
        exponent: p of the density r^-p of radii.
        r_min, r_max: pixels; r_max is the longer side if None.
        generator: CPU generator, for a repeatable result.

    Returns:
        (n, H, W) float32, on the CPU.

    Raises:
        ValueError: a size below 1, radii out of order or r_min below 0.2 pixels, an exponent beyond 20 either way.
    """
    height, width = _height_width(size)
    r_max = float(max(height, width)) if r_max is None else float(r_max)
    if not (SMALLEST_LEAF <= r_min <= r_max < math.inf and abs(exponent) <= 20):
        raise ValueError(
            f"r_min={r_min}, r_max={r_max} and exponent={exponent} make no collage that ever covers the picture; "
            f"{SMALLEST_LEAF} <= r_min <= r_max pixels and an exponent of at most 20 are needed"
        )
    radii = _radius_sampler(height, width, exponent, float(r_min), r_max)
    collages = [_one_collage(height, width, radii, generator) for _ in range(n)]
    return torch.from_numpy(np.stack(collages)) if n else torch.zeros(0, height, width)


def _radius_sampler(height: int, width: int, exponent: float, r_min: float, r_max: float):
    """Inverse cumulative distribution of the radii of leaves that can touch the picture.

    Leaves rain on the whole plane; one of radius r is of use only if its centre falls in the picture
    widened by r, so large leaves are met more often, by (H + 2r)(W + 2r).
    """
    if r_min == r_max:
        return lambda u: np.full_like(u, r_min)
    r = np.geomspace(r_min, r_max, 4096)
    density = r**-exponent * (height + 2 * r) * (width + 2 * r)
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(r))])
    return lambda u: np.interp(u, cumulative / cumulative[-1], r)


def _one_collage(height: int, width: int, radii, generator: torch.Generator | None) -> np.ndarray:
    picture = np.zeros((height, width), np.float32)
    is_open = np.ones((height, width), bool)
    left = height * width
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width)[None, :] + 0.5
    while left:
        u = torch.rand(1024, 4, generator=generator, dtype=torch.float64).numpy()
        radius = radii(u[:, 0])
        y, x = u[:, 1] * (height + 2 * radius) - radius, u[:, 2] * (width + 2 * radius) - radius
        tops, bottoms = np.maximum(0, y - radius).astype(int), np.minimum(height, y + radius + 1).astype(int)
        lefts, rights = np.maximum(0, x - radius).astype(int), np.minimum(width, x + radius + 1).astype(int)
        for i, (top, bottom, at, end) in enumerate(zip(tops, bottoms, lefts, rights, strict=True)):
            window = slice(top, bottom), slice(at, end)
            free = is_open[window]
            if not free.any():
                continue
            disc = (rows[top:bottom] - y[i]) ** 2 + (columns[:, at:end] - x[i]) ** 2 <= radius[i] ** 2
            new = disc & free
            picture[window][new] = u[i, 3]
            free[new] = False
            left -= int(new.sum())
            if not left:
                break
    return picture
