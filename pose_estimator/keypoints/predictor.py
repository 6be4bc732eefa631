"""From crops to keypoints: numpy in, numpy out."""

from dataclasses import dataclass

import numpy as np
import torch

from .heatmaps import ACTIVATIONS, decode
from .hourglass import fold_batch_norms
from .inputs import prepare_input
from ..devices import torch_device
from ..runtimes import fastest, RUNTIMES


@dataclass(frozen=True, eq=False)
class Keypoints:
    """
    Keypoints of N crops.

    Attributes
    ----------
    pixels : array, shape (N, K, 2)
        x, y in crop pixels.
    confidence : array, shape (N, K)
        0..1, the share of belief around the maximum.
    heatmaps : array of float32, shape (N, K, h, h)
        Belief in each cell.

    """

    pixels: np.ndarray
    confidence: np.ndarray
    heatmaps: np.ndarray


class KeypointPredictor:
    """
    Runs a trained network.

    Parameters
    ----------
    checkpoint : Checkpoint
    device : str
        Of torch: 'cpu', 'cuda', ...

    """

    def __init__(self, checkpoint, device='cpu'):
        self.checkpoint = checkpoint
        self.device = torch_device(device)
        network = fold_batch_norms(checkpoint.network())
        network = network.to(self.device, memory_format=torch.channels_last)
        self._run = RUNTIMES[fastest(self.device)](network)
        self._activation = ACTIVATIONS[checkpoint.loss]

    @property
    def size(self):
        """Side of the crops in pixels."""
        return self.checkpoint.config.input_size

    @torch.inference_mode()
    def predict(self, rgb, masks):
        """
        Find keypoints.

        Parameters
        ----------
        rgb : array of uint8, shape (N, size, size, 3), or None
            RGB crops; None for a network of masks alone.
        masks : array of uint8, shape (N, size, size)
            255 where the object is.

        Returns
        -------
        Keypoints

        """
        # (N, 1, S, S) and (N, 3, S, S)
        mask = torch.from_numpy(np.ascontiguousarray(masks)).to(self.device)[:, None] / 255
        color = None
        if rgb is not None:
            color = torch.from_numpy(np.ascontiguousarray(rgb)).to(self.device)
            color = color.permute(0, 3, 1, 2) / 255
        heatmaps = self._activation(self._run(prepare_input(color, mask))[-1])
        pixels, confidence = decode(heatmaps, self.size)
        return Keypoints(pixels.double().cpu().numpy(), confidence.double().cpu().numpy(),
                         heatmaps.cpu().numpy())
