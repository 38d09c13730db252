"""Labelled pictures to train with: a task that needs no download, CIFAR-10 and -100, folders, .npz files."""

from spectralkd_nb.datasets.labelled import LabelledImages, Views, augment, draw_views, read_npz

__all__ = ["LabelledImages", "Views", "augment", "draw_views", "read_npz"]
