"""Node that finds poses: instance masks, detections and camera info in, object poses out."""

from dataclasses import replace

from geometry_msgs.msg import PoseArray, PoseStamped
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import BoundingBox3D, Detection2DArray, Detection3DArray
from visualization_msgs.msg import MarkerArray

from . import results
from .conversions import (
    camera_from_info, fits, image_message, instances_from_messages)
from .managed import ManagedNode, PARAMETERS as MANAGED_PARAMETERS
from .markers import ObjectMarkers
from .matching import CameraInfos
from .parameters import pairs, Parameter, strings
from .process import advertise, latched_qos, reliable_qos, run, sensor_qos, topic_name
from .segmenters import free_memory
from .target_frame import TargetFrame
from .. import assets
from ..drawing import draw_poses
from ..errors import InputError
from ..tracking import Tracker

PARAMETERS = (
    Parameter('models', '', 'Folder of the trained objects, and of a refiner.safetensors if it '
              'has one of its own; empty: those that the package ships.'),
    Parameter('objects', [''], 'Which of them to find; empty: all.'),
    Parameter('input', 'rgb_mask', 'What the networks see: the mask and the image within its '
              'crop, or the mask alone, with which no image topic is needed.',
              choices=('rgb_mask', 'mask')),
    Parameter('device', 'cpu', 'Where the networks run: cpu, cuda or cuda:N.'),
    Parameter('min_score', 0.7, 'Least score of a pose that is published.',
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
    Parameter('target_frame', '', 'Frame that the poses are to be given in, through TF at the '
              "image's stamp; empty: the camera's. Needs tf2_ros."),
    Parameter('smoothing', False, 'Whether poses of an object that stands still are smoothed over '
              'time, by their covariances.', live=True),
    Parameter('mesh_resources', [''], 'object=URI of a mesh for its marker; objects without '
              'one are drawn as boxes.'),
    Parameter('queue_size', 60, 'How many images wait for their masks. Too small if masks come '
              'later than that many images.', range=(1, 1000)),
) + MANAGED_PARAMETERS
INFO_WAIT_SECONDS = 0.1
OVERLAY_CHECK_SECONDS = 0.5


class PoseNode(ManagedNode):
    """
    Publishes the poses of an image's instances, under the image's header.

    Parameters
    ----------
    estimator : PoseEstimator
        Default: the one that the parameters name.

    """

    def __init__(self, estimator=None):
        self._given, self.estimator, self.overlay = estimator, None, None
        self.tracker = self.target = None
        super().__init__('pose_node', PARAMETERS, ('masks', 'detections'))
        self.infos = CameraInfos(self.parameters.queue_size)
        prefix = self.parameters.frame_prefix
        if prefix == '~':
            prefix = self.get_namespace().strip('/')
        self.prefix = prefix + '/' * bool(prefix and not prefix.endswith('/'))
        self.create_timer(OVERLAY_CHECK_SECONDS, self.follow_overlay)

    def check(self):
        """Raise InputError for mesh_resources that are none."""
        self.mesh_resources = pairs('mesh_resources', self.parameters.mesh_resources)

    def load(self):
        """Make and warm the estimator, unless it is there."""
        if self.estimator is None:
            self.estimator = self._given or make_estimator(self.parameters)
            self.tracker = Tracker(self.estimator.models, self.estimator.network_input)
            self.object_markers = ObjectMarkers(self.estimator.models, self.mesh_resources)
            self.held = {}
            self.matcher.required = \
                ('masks', 'detections') + ('image',) * self.estimator.needs_image
        if self.parameters.target_frame and self.target is None:
            self.target = TargetFrame(self, self.parameters.target_frame)

    def unload(self):
        """Let go of the estimator."""
        if self.estimator is not None:
            self.estimator = None
            free_memory(self.parameters.device)

    @property
    def labels(self):
        """What is found."""
        return self.estimator.models

    def facts(self):
        """Return more for the diagnostics."""
        tracks = list(self.tracker.tracks) if self.tracker else []
        objects = self.estimator.models if self.estimator else {}
        return {'objects': ', '.join(objects), 'device': self.parameters.device,
                'in view': ', '.join(track.id for track in tracks),
                'camera_info: stamp behind the image (s)': f'{-self.infos.difference:.6f}'}

    def advertise_results(self):
        """Return the publishers of the results."""
        self.poses = advertise(self, PoseStamped, 'object_poses', reliable_qos(100))
        self.poses_of = {
            name: advertise(self, PoseStamped, f'object_poses/{topic_name(name)}', reliable_qos())
            for name in self.estimator.models}
        self.detections = advertise(self, Detection3DArray, 'object_detections', reliable_qos())
        self.tf = advertise(self, TFMessage, '/tf', reliable_qos(100))
        self.markers = advertise(self, MarkerArray, 'object_markers', reliable_qos())
        self.overlay = advertise(self, Image, 'pose_overlay', reliable_qos(2))
        return [self.poses, *self.poses_of.values(), self.detections, self.tf, self.markers,
                self.overlay, *self.describe_objects()]

    def describe_objects(self):
        """Publish size and symmetries of the objects, latched; return the publishers."""
        made = []
        for name, model in self.estimator.models.items():
            symmetries = model.symmetries_for(self.estimator.network_input)
            for kind, message_type, message in (
                    ('dimensions', BoundingBox3D, results.dimensions(model)),
                    ('symmetries', PoseArray, results.symmetries(symmetries, name))):
                made.append(advertise(self, message_type, f'object_{kind}/{topic_name(name)}',
                                      latched_qos()))
                made[-1].publish(message)
        return made

    def topic_of(self, kind):
        """Return the full name of the topic of a kind of message."""
        return super().topic_of({'masks': 'instance_masks'}.get(kind, kind))

    def listen(self):
        """Subscribe to masks, detections and camera info, and to the image if it is needed."""
        self.hear('camera_info', CameraInfo, sensor_qos(), lambda _, info: self.infos.add(info))
        self.hear('masks', Image, reliable_qos(5))
        self.hear('detections', Detection2DArray, reliable_qos(5))
        self.follow_overlay()

    def follow_overlay(self):
        """Subscribe to the image while somebody needs it."""
        if self.state not in ('active', 'activating'):
            return
        if self.estimator.needs_image or self.overlay.get_subscription_count() > 0:
            self.hear_images()
        else:
            self.deafen('image')

    def retract(self):
        """Delete the markers."""
        gone = self.object_markers.update([], Header(stamp=self.get_clock().now().to_msg()))
        if gone.markers:
            self.markers.publish(gone)

    def work(self, masks, detections, image=None):
        """Find and publish the poses of one image."""
        header, stage = masks.header, self.diagnostics.stage
        with stage('reading'):
            labels = self.images.labels(masks)
            height, width = labels.shape
            pixels = None if image is None else self.images.rgb(image)
            if pixels is not None and pixels.shape[:2] != labels.shape:
                raise InputError(f'masks: expected the size of the image, {pixels.shape[1]} x '
                                 f'{pixels.shape[0]}, got {width} x {height}')
            instances, faults = instances_from_messages(labels, detections)
        for label in sorted({one.label for one in instances} - set(self.estimator.models)):
            faults.append(f'no model for {label!r}: there are {", ".join(self.estimator.models)}')
            self.diagnostics.reject(f'no model for {label!r}')
        for fault in faults:
            self.warnings.warn(fault)

        with stage('waiting for camera_info'):
            camera = self.camera(header, width, height)
        with stage('finding poses'):
            self.estimator.min_score = self.parameters.min_score
            found = self.estimator.estimate(pixels, instances, camera)
        for one in found:
            if one.pose is None:
                self.diagnostics.reject(f'{one.name}: {one.reason}')
        with stage('publishing'):
            self.publish(found, header)
            if pixels is not None and self.overlay.get_subscription_count() > 0:
                picture = draw_poses(pixels, found, camera, self.estimator.models)
                self.overlay.publish(image_message(picture, 'rgb8', header))

    def publish(self, found, header):
        """Name and publish the poses of one image."""
        self.tracker.sightings = self.parameters.min_sightings
        self.tracker.memory = self.parameters.memory
        # New objects are counted from left to right.
        ordered = sorted(found, key=lambda one: one.instance.box[0] + one.instance.box[2])
        stamp = header.stamp.sec + 1e-9 * header.stamp.nanosec
        tracked = self.tracker.update(ordered, stamp)
        if self.parameters.smoothing:
            tracked = [(track, replace(one, pose=track.smoother.update(
                one.pose, one.covariance, stamp))) for track, one in tracked]
        if self.target is not None:
            moved, header = self.target.moved([one for _, one in tracked], header)
            tracked = [(track, one) for (track, _), one in zip(tracked, moved)]
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


def make_estimator(parameters):
    """Return the estimator that the parameters describe."""
    # Here, so that a wrong parameter is told at once: torch takes seconds.
    from ..pipeline import PoseEstimator
    made = PoseEstimator.from_directory(
        parameters.models or assets.find('models'), network_input=parameters.input,
        device=parameters.device, min_score=parameters.min_score,
        objects=strings(parameters.objects) or None)
    made.warm_up()
    return made


def main():
    """Run the node."""
    run(PoseNode)


if __name__ == '__main__':
    main()
