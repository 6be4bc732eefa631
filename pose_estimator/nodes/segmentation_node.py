"""Node that finds objects in images: image in, instance masks and detections out."""

from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from .conversions import instances_to_messages
from .managed import ManagedNode, PARAMETERS as MANAGED_PARAMETERS
from .parameters import pairs, Parameter
from .process import advertise, reliable_qos, run
from .segmenters import free_memory, make_segmenter, SEGMENTERS
from ..segmentation.recorded import MASK_GROWTH

PARAMETERS = (
    Parameter('segmenter', 'mask_rcnn',
              'What finds the objects: mask_rcnn: trained by this package (weights); coco: '
              "torchvision's Mask R-CNN with its COCO weights, downloaded once; prints: none but "
              'the prints on the objects, as their models know them; recorded: a file of '
              "detections on a data set's images (detections, dataset).",
              choices=tuple(SEGMENTERS)),
    Parameter('weights', '', 'Weights of mask_rcnn, for prints the folder of the models; empty: '
              'what the package ships.'),
    Parameter('device', 'cpu', 'Where mask_rcnn and coco run: cpu, cuda or cuda:N.'),
    Parameter('min_score', 0.5, 'Least score of an instance that is published.',
              range=(0.0, 1.0)),
    Parameter('confirm', True,
              'For mask_rcnn: have the scores confirmed by the keypoint models that lie beside '
              'the weights, and what is missed found by its print, for objects that have one '
              'there.'),
    Parameter('class_map', [''],
              "Segmenter's label=object, for each label that is to be used under another name. "
              'If any is given, labels that are not mapped are ignored.'),
    Parameter('detections', '', 'For recorded: file of detections in the format of COCO, as '
              'BOP gives them.'),
    Parameter('dataset', '', 'For recorded: folder of the BOP data set whose images come in; '
              'they are recognised by their pixels.'),
    Parameter('mask_growth', MASK_GROWTH, 'For recorded: how far the masks, mostly drawn too '
              'small, are widened, in longer sides of the box.', range=(0.0, 0.2)),
) + MANAGED_PARAMETERS


class SegmentationNode(ManagedNode):
    """
    Publishes what a segmenter finds in each image, under the image's header.

    Parameters
    ----------
    segmenter : Segmenter
        Default: the one that the parameters name.

    """

    def __init__(self, segmenter=None):
        self._given, self.segmenter = segmenter, None
        super().__init__('segmentation_node', PARAMETERS, ('image',), depth=1)

    def check(self):
        """Raise InputError for a class_map that is none."""
        pairs('class_map', self.parameters.class_map)

    def load(self):
        """Make the segmenter, unless it is there."""
        if self.segmenter is None:
            self.segmenter = self._given or make_segmenter(self.parameters)

    def unload(self):
        """Let go of the segmenter."""
        if self.segmenter is not None:
            self.segmenter = None
            free_memory(self.parameters.device)

    @property
    def labels(self):
        """What is found."""
        return self.segmenter.labels

    def facts(self):
        """Return more for the diagnostics."""
        return {'segmenter': self.parameters.segmenter, 'device': self.parameters.device}

    def advertise_results(self):
        """Return the publishers of the results."""
        self.masks = advertise(self, Image, 'instance_masks', reliable_qos(5))
        self.detections = advertise(self, Detection2DArray, 'detections', reliable_qos(5))
        return [self.masks, self.detections]

    def listen(self):
        """Subscribe to the image."""
        self.hear_images()

    def work(self, image):
        """Segment one image and publish the result."""
        stage = self.diagnostics.stage
        with stage('reading'):
            pixels = self.images.rgb(image)
        with stage('segmenting'):
            instances = self.segmenter.segment(pixels)
        with stage('publishing'):
            masks, detections = instances_to_messages(instances, *pixels.shape[:2], image.header)
            self.masks.publish(masks)
            self.detections.publish(detections)
        ignored = getattr(self.segmenter, 'ignored', None)
        if ignored:
            counts = ', '.join(f'{label!r} {count} times' for label, count in ignored.items())
            self.warnings.warn(f'labels that are not in class_map are ignored: {counts} so far')


def main():
    """Run the node."""
    run(SegmentationNode)


if __name__ == '__main__':
    main()
