"""The nodes with an estimator and a segmenter that know the answer, for tests of the rest."""

from collections import Counter
import sys
import time

import numpy as np

from pose_estimator.geometry import Pose
from pose_estimator.instance import Instance, mask_box
from pose_estimator.nodes import process
from pose_estimator.nodes.pose_node import PoseNode
from pose_estimator.nodes.segmentation_node import SegmentationNode
from pose_estimator.object_model import object_from_mesh
from pose_estimator.pipeline import ObjectPose

DISTANCE = 0.8
SLOW_SECONDS = 0.1


class FakeEstimator:
    """Puts each object at the centre of its box, DISTANCE away."""

    def __init__(self, needs_image):
        self.needs_image, self.min_score = needs_image, 0.0
        self.network_input = 'rgb_mask' if needs_image else 'mask'
        self.models = {name: object_from_mesh(f'builtin:{name}', 'm', name)[0]
                       for name in ('cup', 'bottle')}

    def estimate(self, image, instances, camera):
        """Return a pose for each instance that has a model and more than one pixel."""
        assert image is not None or not self.needs_image
        return [self._pose(one, camera) for one in instances if one.label in self.models]

    def _pose(self, instance, camera):
        x0, y0, x1, y1 = instance.box
        ray = camera.rays([[(x0 + x1) / 2, (y0 + y1) / 2]])[0]
        pose = Pose(np.eye(3), DISTANCE * ray)
        reason = ''
        if instance.mask.sum() < 2:
            pose, reason = None, 'mask of one pixel'
        elif instance.score < self.min_score:
            pose, reason = None, f'score {instance.score} is below {self.min_score}'
        return ObjectPose(
            name=instance.label, instance=instance, pose=pose, score=instance.score,
            covariance=np.diag([1e-6, 2e-6, 3e-6, 4e-6, 5e-6, 6e-6]), keypoints=np.zeros((0, 2)),
            confidence=np.zeros(0), inliers=np.zeros(0, bool), reprojection_error=0.5,
            reason=reason)


class FakeSegmenter:
    """Takes red pixels for a cup and green ones for a bottle."""

    labels = ('cup', 'bottle')

    def __init__(self, seconds=0.0):
        self.ignored, self._seconds = Counter(), seconds

    def segment(self, image):
        """Return an instance for each colour that is there; a blue thing has no name here."""
        time.sleep(self._seconds)
        found = []
        if ((image[..., 2] > 200) & (image[..., 0] < 50)).any():
            self.ignored['vase'] += 1
        for channel, label in enumerate(self.labels):
            mask = (image[..., channel] > 200) & (image[..., 2] < 50)
            if mask.any():
                found.append(Instance(label, 0.9, mask_box(mask), mask, len(found) + 1))
        return found


NODES = {
    'segmentation': lambda: SegmentationNode(FakeSegmenter()),
    'slow_segmentation': lambda: SegmentationNode(FakeSegmenter(SLOW_SECONDS)),
    'pose_mask': lambda: PoseNode(FakeEstimator(needs_image=False)),
    'pose_rgb_mask': lambda: PoseNode(FakeEstimator(needs_image=True)),
}


if __name__ == '__main__':
    process.REPEAT_SECONDS = 0.0  # tests read every warning
    names = sys.argv.pop(1).split(',')
    process.run(*(NODES[name] for name in names))
