"""Both nodes in one process."""

import sys

from .pose_node import PoseNode
from .process import run
from .segmentation_node import SegmentationNode


def main():
    """Run the segmentation node and the pose node."""
    return run(SegmentationNode, PoseNode)


if __name__ == '__main__':
    sys.exit(main())
