"""What the cameras that play pictures instead of taking them share."""

from rclpy.node import Node
from rclpy.task import Future
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from .conversions import camera_info_message, image_message
from .parameters import Parameter, Parameters
from .process import advertise, reliable_qos

PARAMETERS = (
    Parameter('rate', 5.0, 'Images per second.', range=(0.01, 1000.0)),
    Parameter('loop', False, 'Whether to start again after the last image, or to end.'),
    Parameter('frame_id', 'camera', 'Frame of the images.'),
    Parameter('wait_for_subscribers', 1, 'How many must have subscribed to the image before '
              'the first one is published.', range=(0, 100)),
)
SETTLE_SECONDS = 1.0  # what subscribers need after their discovery until they get everything


class VirtualCamera(Node):
    """
    Publishes Image and CameraInfo at a fixed rate, stamped when they are published.

    Parameters
    ----------
    name : str
    table : tuple of Parameter
        The node's parameters, PARAMETERS among them.

    Attributes
    ----------
    done : rclpy.task.Future
        Set some time after the last image.

    """

    def __init__(self, name, table):
        super().__init__(name)
        self.parameters = Parameters(self, table)
        self.done = Future()
        self.images = advertise(self, Image, 'image', reliable_qos())
        self.infos = advertise(self, CameraInfo, 'camera_info', reliable_qos())
        self.frames = None
        self.played = 0
        self.stamp = Time(clock_type=self.get_clock().clock_type)
        self.timer = self.create_timer(0.1, self.wait)

    def pictures(self):
        """Yield (image, camera, publish) from first to last; publish takes the header."""
        raise NotImplementedError

    def is_ready(self):
        """Return whether playing may start."""
        return True

    def wait(self):
        """Start playing once enough nodes have subscribed and the pictures are there."""
        count = self.images.get_subscription_count()
        if count >= self.parameters.wait_for_subscribers and not self.is_ready():
            self.get_logger().info('drawing the images', once=True)
        elif count >= self.parameters.wait_for_subscribers:
            self.after(SETTLE_SECONDS, self.start)
        else:
            self.get_logger().info(
                f'waiting for subscribers to {self.images.topic_name}: {count} of '
                f'{self.parameters.wait_for_subscribers}', throttle_duration_sec=10.0,
                skip_first=True)

    def after(self, seconds, callback):
        """Call back every so many seconds from now on, and nothing else."""
        self.destroy_timer(self.timer)
        self.timer = self.create_timer(seconds, callback)

    def start(self):
        """Start playing."""
        self.frames = self.pictures()
        self.after(1 / self.parameters.rate, self.publish_next)

    def publish_next(self):
        """Publish the next image."""
        frame = next(self.frames, None)
        if frame is None and self.parameters.loop:
            self.frames = self.pictures()
            frame = next(self.frames, None)
        if frame is None:
            self.get_logger().info(f'played {self.played} images: the end')
            self.after(SETTLE_SECONDS, lambda: self.done.set_result(None))
            return
        image, camera, publish = frame
        header = Header(frame_id=self.parameters.frame_id, stamp=self.next_stamp().to_msg())
        # The image first: over shared memory a big message can push out small ones before it.
        self.images.publish(image_message(image, 'rgb8', header))
        self.infos.publish(camera_info_message(camera, header))
        publish(header)
        self.played += 1

    def next_stamp(self):
        """Return the time, but later than the last stamp even where the clock stands still."""
        now = self.get_clock().now()
        if now <= self.stamp:
            now = Time(nanoseconds=self.stamp.nanoseconds + 1, clock_type=now.clock_type)
        self.stamp = now
        return now
