"""
Instance masks: which pixels show which object.

A segmenter is any object with the two members of the protocol `Segmenter`; the pose stage, the
nodes and the commands ask for nothing more. `mask_rcnn.MaskRCNNSegmenter` is the one that is
trained here; `recorded.RecordedSegmenter` replays what another one found.

"""

from typing import List, Protocol, Tuple

import numpy as np

from ..instance import Instance


class Segmenter(Protocol):
    """
    What every segmenter offers.

    Attributes
    ----------
    labels : tuple of str
        Names of the objects that it may find.

    """

    labels: Tuple[str, ...]

    def segment(self, image: np.ndarray) -> List[Instance]:
        """
        Find the objects in an image.

        Parameters
        ----------
        image : array of uint8, shape (H, W, 3)
            RGB.

        Returns
        -------
        instances : list of Instance
            Best score first, ids counted from 1, masks of the image's size.

        """
        ...
