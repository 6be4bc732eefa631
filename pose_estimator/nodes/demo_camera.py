"""Node that plays the demo's scene as if it were a camera, and tells the truth beside it."""

from queue import Queue
from threading import Event, Thread

from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose

from .conversions import pose_message
from .parameters import Parameter
from .process import advertise, reliable_qos, run
from .virtual_camera import PARAMETERS as CAMERA_PARAMETERS, VirtualCamera
from ..demo.scene import DemoScene

PARAMETERS = (
    Parameter('seed', 2020, "Number that fixes the scene's path and backgrounds.",
              range=(0, 2**31 - 1)),
) + CAMERA_PARAMETERS
CUP_HANDLE = 'cup_handle'
MOST_AHEAD = 300  # images drawn and not yet played; 0.9 MB each


class DemoCamera(VirtualCamera):
    """
    Publishes the demo's scene, and its true poses on `truth`, which no other node hears.

    The score of a true pose is the visible fraction of its object; cup_handle has the cup's
    pose, and a score of 1 where the handle can be seen and 0 where not.
    """

    def __init__(self):
        super().__init__('demo_camera', PARAMETERS)
        self.scene = DemoScene(self.parameters.seed)
        self.get_logger().info(self.scene.describe())
        self.truth = advertise(self, Detection3DArray, 'truth', reliable_qos(100))
        # Drawing while playing would take time from the nodes that no camera takes.
        self._ahead, self._is_drawn = Queue(MOST_AHEAD), Event()
        Thread(target=self._draw, daemon=True).start()

    def is_ready(self):
        """Return whether the scene is drawn, or as much of it as may wait."""
        return self._is_drawn.is_set() or self._ahead.full()

    def pictures(self):
        """Yield the scene's images."""
        for frame in iter(self._ahead.get, None):
            yield (frame.image, self.scene.camera,
                   lambda header, frame=frame: self.truth.publish(truth_message(frame, header)))

    def _draw(self):
        """Draw what is played."""
        while True:
            for number in range(int(self.scene.duration * self.parameters.rate)):
                self._ahead.put(self.scene.frame(number / self.parameters.rate))
            self._ahead.put(None)
            self._is_drawn.set()
            if not self.parameters.loop:
                return


def truth_message(frame, header):
    """Return the true poses of a DemoFrame."""
    message = Detection3DArray(header=header)
    scores = dict(frame.visible)
    scores[CUP_HANDLE] = float(frame.cup_handle_visible > 0)
    for name, score in scores.items():
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = name, float(score)
        result.pose.pose = pose_message(frame.poses[name.replace(CUP_HANDLE, 'cup')])
        message.detections.append(Detection3D(header=header, id=name, results=[result]))
    return message


def main():
    """Run the node."""
    run(DemoCamera)


if __name__ == '__main__':
    main()
