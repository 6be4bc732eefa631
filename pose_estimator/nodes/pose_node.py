"""Node that finds poses: instance masks, detections and camera info in, object poses out."""

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray
from visualization_msgs.msg import MarkerArray

from . import results
from .conversions import (
    camera_from_info, fits, image_message, ImageReader, instances_from_messages)
from .diagnostics import Diagnostics
from .markers import ObjectMarkers
from .matching import CameraInfos, StampMatcher
from .parameters import pairs, Parameter, Parameters, strings
from .process import (
    advertise, reliable_qos, run, sensor_qos, subscribe, topic_name, Warnings, Worker)
from .. import assets
from ..drawing import draw_poses
from ..errors import InputError
from ..tracking import Tracker

PARAMETERS = (
    Parameter('models', '', 'Folder of the trained objects; empty: those that the package '
              'ships.'),
    Parameter('objects', [''], 'Which of them to find; empty: all.'),
    Parameter('input', 'rgb_mask', 'What the networks see: the mask and the image within its '
              'crop, or the mask alone, with which no image topic is needed.',
              choices=('rgb_mask', 'mask')),
    Parameter('device', 'cpu', 'Where the networks run: cpu, cuda or cuda:N.'),
    Parameter('min_score', 0.3, 'Least score of a pose that is published.',
              range=(0.0, 1.0), live=True),
    Parameter('rectified', False, 'Whether the images are rectified (matrix P of the camera '
              'info holds) or raw (K and distortion hold).', live=True),
    Parameter('publish_tf', True, 'Whether to publish the objects as TF frames.', live=True),
    Parameter('frame_prefix', '~', "What stands before the objects' names in TF frames, markers "
              'and detections; ~: the namespace, so that two cameras do not give one frame two '
              'parents.'),
    Parameter('min_sightings', 1, 'Images in which an object must be seen before it is '
              'published.', range=(1, 100), live=True),
    Parameter('memory', 1.0, 'Seconds for which an object that is not seen keeps its name.',
              range=(0.0, 60.0), live=True),
    Parameter('mesh_resources', [''], 'object=URI of a mesh for its marker; objects without '
              'one are drawn as boxes.'),
    Parameter('queue_size', 60, 'How many images wait for their masks. Too small if masks come '
              'later than that many images.', range=(1, 1000)),
)
INFO_WAIT_SECONDS = 0.1
OVERLAY_CHECK_SECONDS = 0.5


class PoseNode(Node):
    """
    Publishes the poses of an image's instances, under the image's header.

    Parameters
    ----------
    estimator : PoseEstimator
        Default: the one that the parameters name.

    """

    def __init__(self, estimator=None):
        super().__init__('pose_node')
        self.parameters = Parameters(self, PARAMETERS)
        mesh_resources = pairs('mesh_resources', self.parameters.mesh_resources)
        self.estimator = estimator or make_estimator(self.parameters)
        self.images, how = ImageReader.probed()
        self.get_logger().info(how)
        self.warnings = Warnings(self.get_logger())
        self.object_markers = ObjectMarkers(self.estimator.models, mesh_resources)

        self.tracker = Tracker(self.estimator.models, self.estimator.network_input)
        prefix = self.parameters.frame_prefix
        if prefix == '~':
            prefix = self.get_namespace().strip('/')
        self.prefix = prefix + '/' * bool(prefix and not prefix.endswith('/'))
        self.held = {}
        self.poses = advertise(self, PoseStamped, 'object_poses', reliable_qos(100))
        self.poses_of = {
            name: advertise(self, PoseStamped, f'object_poses/{topic_name(name)}', reliable_qos())
            for name in self.estimator.models}
        self.detections = advertise(self, Detection3DArray, 'object_detections', reliable_qos())
        self.tf = advertise(self, TFMessage, '/tf', reliable_qos(100))
        self.markers = advertise(self, MarkerArray, 'object_markers', reliable_qos())
        self.overlay = advertise(self, Image, 'pose_overlay', reliable_qos(2))

        self.infos = CameraInfos(self.parameters.queue_size)
        required = ('masks', 'detections') + ('image',) * self.estimator.needs_image
        self.matcher = StampMatcher(required, self.parameters.queue_size)
        self.worker = Worker(self, self.matcher, self.on_masks, self.warnings)
        self.diagnostics = Diagnostics(
            self, self.matcher, self.warnings, self.worker, lambda: {
                'objects': ', '.join(self.estimator.models), 'device': self.parameters.device,
                'in view': ', '.join(track.id for track in list(self.tracker.tracks))})
        subscribe(self, CameraInfo, 'camera_info', self.infos.add, sensor_qos())
        subscribe(self, Image, 'instance_masks',
                  lambda masks: self.matcher.add('masks', masks), reliable_qos(5))
        subscribe(self, Detection2DArray, 'detections',
                  lambda detections: self.matcher.add('detections', detections),
                  reliable_qos(5))
        self.image_subscription = None
        self.follow_overlay()
        self.create_timer(OVERLAY_CHECK_SECONDS, self.follow_overlay)
        self.get_logger().info(f'ready: {", ".join(self.estimator.models)}')

    def follow_overlay(self):
        """Subscribe to the image while somebody needs it."""
        needed = self.estimator.needs_image or self.overlay.get_subscription_count() > 0
        if needed and self.image_subscription is None:
            self.image_subscription = subscribe(
                self, Image, 'image', lambda image: self.matcher.add('image', image),
                sensor_qos())
        elif not needed and self.image_subscription is not None:
            self.destroy_subscription(self.image_subscription)
            self.image_subscription = None

    def on_masks(self, masks, detections, image=None):
        """Find and publish the poses of one image."""
        header = masks.header
        labels = self.images.labels(masks)
        height, width = labels.shape
        pixels = None if image is None else self.images.rgb(image)
        if pixels is not None and pixels.shape[:2] != labels.shape:
            raise InputError(f'masks: expected the size of the image, {pixels.shape[1]} x '
                             f'{pixels.shape[0]}, got {width} x {height}')
        instances, faults = instances_from_messages(labels, detections)
        unknown = {instance.label for instance in instances} - set(self.estimator.models)
        faults += [f'no model for {label!r}: there are {", ".join(self.estimator.models)}'
                   for label in sorted(unknown)]
        for fault in faults:
            self.warnings.warn(fault)

        camera = self.camera(header, width, height)
        self.estimator.min_score = self.parameters.min_score
        found = self.estimator.estimate(pixels, instances, camera)
        for one in found:
            if one.pose is None:
                self.diagnostics.reject(f'{one.name}: {one.reason}')
        self.tracker.sightings = self.parameters.min_sightings
        self.tracker.memory = self.parameters.memory
        # New objects are counted from left to right.
        ordered = sorted(found, key=lambda one: one.instance.box[0] + one.instance.box[2])
        stamp = header.stamp.sec + 1e-9 * header.stamp.nanosec
        tracked = self.tracker.update(ordered, stamp)
        named = [(self.prefix + track.id, one) for track, one in tracked]

        for track, one in tracked:
            self.poses.publish(results.pose_stamped(one.pose, header))
            self.held[one.name] = self.tracker.best(one.name, self.held.get(one.name))
            if track is self.held[one.name]:
                self.poses_of[one.name].publish(results.pose_stamped(one.pose, header))
        if named and self.parameters.publish_tf:
            self.tf.publish(results.transforms(named, header))
        self.detections.publish(results.detections(named, self.estimator.models, header))
        self.markers.publish(self.object_markers.update(named, header))
        if pixels is not None and self.overlay.get_subscription_count() > 0:
            picture = draw_poses(pixels, found, camera, self.estimator.models)
            self.overlay.publish(image_message(picture, 'rgb8', header))

    def camera(self, header, width, height):
        """Return the camera of an image."""
        info, exact = self.infos.find(header, lambda info: fits(info, width, height),
                                      INFO_WAIT_SECONDS)
        if info is None:
            raise InputError(f'camera_info: expected one of frame {header.frame_id!r} for '
                             f'{width} x {height} pixels, got none so far')
        if not exact:
            self.warnings.once('no camera_info has the stamp of its image: the latest of the '
                               'same frame and size is used')
        return camera_from_info(info, width, height, self.parameters.rectified)

    def destroy_node(self):
        """Stop working, then leave."""
        self.worker.stop()
        super().destroy_node()


def make_estimator(parameters):
    """Return the estimator that the parameters describe."""
    # Here, so that a wrong parameter is told at once: torch takes seconds.
    from ..pipeline import PoseEstimator
    return PoseEstimator.from_directory(
        parameters.models or assets.find('models'), network_input=parameters.input,
        device=parameters.device, min_score=parameters.min_score,
        objects=strings(parameters.objects) or None)


def main():
    """Run the node."""
    run(PoseNode)


if __name__ == '__main__':
    main()
