"""Node that finds objects in images: image in, instance masks and detections out."""

from rclpy.node import Node
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from .conversions import ImageReader, instances_to_messages
from .diagnostics import Diagnostics
from .matching import StampMatcher
from .parameters import Parameter, Parameters
from .process import advertise, reliable_qos, run, sensor_qos, subscribe, Warnings, Worker
from .segmenters import make_segmenter, SEGMENTERS
from ..segmentation.recorded import MASK_GROWTH

PARAMETERS = (
    Parameter('segmenter', 'mask_rcnn',
              'What finds the objects: mask_rcnn: trained by this package (weights); coco: '
              "torchvision's Mask R-CNN with its COCO weights, downloaded once; recorded: a "
              "file of detections on a data set's images (detections, dataset).",
              choices=tuple(SEGMENTERS)),
    Parameter('weights', '', 'Weights of mask_rcnn; empty: those that the package ships.'),
    Parameter('device', 'cpu', 'Where mask_rcnn and coco run: cpu, cuda or cuda:N.'),
    Parameter('min_score', 0.5, 'Least score of an instance that is published.',
              range=(0.0, 1.0)),
    Parameter('class_map', [''],
              "Segmenter's label=object, for each label that is to be used under another name. "
              'If any is given, labels that are not mapped are ignored.'),
    Parameter('detections', '', 'For recorded: file of detections in the format of COCO, as '
              'BOP gives them.'),
    Parameter('dataset', '', 'For recorded: folder of the BOP data set whose images come in; '
              'they are recognised by their pixels.'),
    Parameter('mask_growth', MASK_GROWTH, 'For recorded: how far the masks, mostly drawn too '
              'small, are widened, in longer sides of the box.', range=(0.0, 0.2)),
)


class SegmentationNode(Node):
    """
    Publishes what a segmenter finds in each image, under the image's header.

    Parameters
    ----------
    segmenter : Segmenter
        Default: the one that the parameters name.

    """

    def __init__(self, segmenter=None):
        super().__init__('segmentation_node')
        self.parameters = Parameters(self, PARAMETERS)
        self.segmenter = segmenter or make_segmenter(self.parameters)
        self.images, how = ImageReader.probed()
        self.get_logger().info(how)
        self.warnings = Warnings(self.get_logger())

        self.masks = advertise(self, Image, 'instance_masks', reliable_qos(5))
        self.detections = advertise(self, Detection2DArray, 'detections', reliable_qos(5))
        self.matcher = StampMatcher(('image',), depth=1)
        self.worker = Worker(self, self.matcher, self.on_image, self.warnings)
        self.diagnostics = Diagnostics(
            self, self.matcher, self.warnings, self.worker, lambda: {
                'segmenter': self.parameters.segmenter, 'device': self.parameters.device})
        subscribe(self, Image, 'image', lambda image: self.matcher.add('image', image),
                  sensor_qos())
        self.get_logger().info(f'ready: {", ".join(self.segmenter.labels)}')

    def on_image(self, image):
        """Segment one image and publish the result."""
        pixels = self.images.rgb(image)
        instances = self.segmenter.segment(pixels)
        masks, detections = instances_to_messages(instances, *pixels.shape[:2], image.header)
        self.masks.publish(masks)
        self.detections.publish(detections)
        ignored = getattr(self.segmenter, 'ignored', None)
        if ignored:
            counts = ', '.join(f'{label!r} {count} times' for label, count in ignored.items())
            self.warnings.warn(f'labels that are not in class_map are ignored: {counts} so far')

    def destroy_node(self):
        """Stop working, then leave."""
        self.worker.stop()
        super().destroy_node()


def main():
    """Run the node."""
    run(SegmentationNode)


if __name__ == '__main__':
    main()
