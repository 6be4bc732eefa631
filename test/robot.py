"""What a robot does with the nodes, for tests: publish, subscribe, wait; real processes."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import numpy as np
from pose_estimator.demo.processes import domain_variables
from pose_estimator.nodes.conversions import image_message, stamp_ns
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

HERE = Path(__file__).resolve().parent
DEADLINE = 60  # seconds; only there so that nothing hangs
WIDTH, HEIGHT, FOCAL = 160, 120, 150.0


def environment(domain):
    """Return the environment of processes in a domain of this machine alone."""
    return {**os.environ, **domain_variables(domain), 'OMP_NUM_THREADS': '1',
            'PYTHONPATH': os.pathsep.join([str(HERE.parent), str(HERE),
                                           os.environ.get('PYTHONPATH', '')])}


class Process:
    """
    A node's process, killed in the end.

    Parameters
    ----------
    domain : int
    log : path
        Where its output goes.
    *command
        Arguments to Python.

    """

    def __init__(self, domain, log, *command):
        self.log = Path(log)
        with self.log.open('w') as stream:
            self.child = subprocess.Popen([sys.executable, *map(str, command)], stdout=stream,
                                          stderr=subprocess.STDOUT, env=environment(domain))

    @property
    def output(self):
        """All that it has printed."""
        return self.log.read_text()

    def wait_for(self, text):
        """Wait until it has printed a text."""
        end = time.monotonic() + DEADLINE
        while text not in self.output:
            assert self.child.poll() is None and time.monotonic() < end, \
                f'expected {text!r}, got:\n{self.output}'
            time.sleep(0.02)

    def stop(self, how=signal.SIGINT):
        """End it with a signal and return its exit code."""
        self.child.send_signal(how)
        return self.finish()

    def finish(self):
        """Wait for its end and return its exit code."""
        try:
            return self.child.wait(DEADLINE)
        finally:
            self.kill()

    def kill(self):
        """End it, whatever it does."""
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()


class Robot:
    """A node in this process."""

    def __init__(self, domain):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node('robot', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.publishers = {}
        self.stamp = time.time_ns()

    def collect(self, message_type, topic, depth=1000):
        """Subscribe, and return the list that the messages will be appended to."""
        messages = []
        self.node.create_subscription(message_type, topic, messages.append,
                                      QoSProfile(depth=depth))
        return messages

    def advertise(self, message_type, *topics):
        """Make publishers, and wait until somebody has subscribed to each."""
        for topic in topics:
            self.publishers[topic] = self.node.create_publisher(message_type, topic, 10)
        self.wait(lambda: all(self.publishers[topic].get_subscription_count()
                              for topic in topics), f'subscribers to {topics}')

    def publish(self, **messages):
        """Publish messages by topic."""
        for topic, message in messages.items():
            self.publishers[topic].publish(message)

    def wait(self, condition, what, seconds=DEADLINE):
        """Spin until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f'no {what} after {seconds} s'
            self.executor.spin_once(0.05)

    def spin(self, seconds):
        """Spin for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(0.05)

    def header(self, frame_id='camera', later=2.0):
        """Return a header with a new stamp, by default so late that no object is remembered."""
        self.stamp += round(later * 10**9)
        header = Header(frame_id=frame_id)
        header.stamp.sec, header.stamp.nanosec = divmod(self.stamp, 10**9)
        return header

    def call(self, service_type, name, request):
        """Call a service."""
        client = self.node.create_client(service_type, name)
        self.wait(client.service_is_ready, f'service {name}')
        future = client.call_async(request)
        self.wait(future.done, f'answer of {name}')
        self.node.destroy_client(client)
        return future.result()

    def close(self):
        """Leave."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


def camera_info(header, width=WIDTH, height=HEIGHT):
    """Return the camera info of the tests' images."""
    info = CameraInfo(header=header, width=width, height=height, distortion_model='plumb_bob')
    info.k = [FOCAL, 0., (width - 1) / 2, 0., FOCAL, (height - 1) / 2, 0., 0., 1.]
    info.d = [0.0] * 5
    return info


def picture(cup=True, bottle=True, width=WIDTH, height=HEIGHT):
    """Return an image in which the fake segmenter sees a cup on the left, a bottle right."""
    image = np.full((height, width, 3), 100, np.uint8)
    if cup:
        image[40:80, 20:60] = 255, 0, 0
    if bottle:
        image[30:90, 110:130] = 0, 255, 0
    return image


def picture_message(header, **what):
    """Return the message of a picture."""
    return image_message(picture(**what), 'rgb8', header)


def by_stamp(messages, header):
    """Return the messages that have a header's stamp."""
    return [one for one in messages if stamp_ns(one.header) == stamp_ns(header)]
