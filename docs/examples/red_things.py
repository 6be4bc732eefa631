"""
Another segmenter is one small class: this one takes every large red thing for a cup.

    python docs/examples/red_things.py --ros-args -r image:=/camera/image_raw

It runs in place of segmentation_node, with that node's topics, diagnostics and queues.
"""

import cv2
import numpy as np

from pose_estimator.instance import Instance, mask_box
from pose_estimator.nodes.process import run
from pose_estimator.nodes.segmentation_node import SegmentationNode


class RedThings:
    """Finds red areas; a pose_estimator.segmentation.Segmenter."""

    labels = ('cup',)

    def segment(self, image):
        """Return the instances in an RGB image, shape (H, W, 3), uint8: best score first."""
        red = image[..., 0].astype(int) - image[..., 1:].max(-1) > 60
        count, areas = cv2.connectedComponents(red.astype(np.uint8))
        masks = [areas == index for index in range(1, count)]
        masks = sorted((mask for mask in masks if mask.sum() > 100), key=np.sum, reverse=True)
        return [Instance('cup', 0.9, mask_box(mask), mask, index + 1)
                for index, mask in enumerate(masks)]


if __name__ == '__main__':
    run(lambda: SegmentationNode(RedThings()))
