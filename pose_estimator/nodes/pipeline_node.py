"""Both nodes in one process."""

from .pose_node import PoseNode
from .process import run
from .segmentation_node import SegmentationNode


def main():
    """Run the segmentation node and the pose node."""
    run(SegmentationNode, PoseNode)


if __name__ == '__main__':
    main()
