"""What the nodes share: their process, the thread they work in, their warnings, their QoS."""

from collections import Counter
import os
import re
import sys
import threading
import time
import traceback

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.utilities import remove_ros_args
from std_srvs.srv import SetBool

from ..errors import InputError

REPEAT_SECONDS = 5.0
MOST_KINDS = 200
DROPS_SECONDS = 30.0


def run(*make_nodes):
    """
    Run nodes in this process until a signal, or until one whose work ends is done; exit.

    The exit code is 2 after input that cannot be used, such as a wrong parameter.

    Parameters
    ----------
    *make_nodes : callables without arguments
        Make the nodes. A node with an attribute `done`, a future, ends the process with it.

    """
    code = _spin(make_nodes)
    # Not through the interpreter's end: the threads of torch and of DDS, which are destroyed
    # there side by side, at times take seconds for it or hang.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _spin(make_nodes):
    """Run nodes; return the exit code."""
    executor, nodes = None, []
    try:
        _init()
        executor = SingleThreadedExecutor()
        for make in make_nodes:
            nodes.append(make())
            executor.add_node(nodes[-1])
        done = next((node.done for node in nodes if hasattr(node, 'done')), None)
        if done is None:
            executor.spin()
        else:
            executor.spin_until_future_complete(done)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except InputError as error:
        print('error:', ' '.join(str(error).split()), file=sys.stderr)
        return 2
    except Exception:
        if executor is None or rclpy.ok():
            raise
        # A signal came while a node was being made, which rclpy then cannot finish.
    finally:
        for node in nodes:
            node.destroy_node()
        if executor is not None:
            executor.shutdown()
        rclpy.try_shutdown()
        rclpy.get_default_context().destroy()  # other nodes see at once that this one is gone
    return 0


def _init():
    """Start rclpy with the process' command line, which has to be one of ROS."""
    try:
        others = remove_ros_args(sys.argv)[1:]
        rclpy.init()
    except RuntimeError as error:  # rclpy names its errors in a private module only
        raise InputError(f'command line: {error}') from error
    if others:
        raise InputError(f'command line: expected arguments after --ros-args, '
                         f'got {" ".join(others)}')


def sensor_qos(depth=5):
    """Return the QoS of camera images: the newest few, no repetition (SensorDataQoS)."""
    return QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=depth,
                      reliability=QoSReliabilityPolicy.BEST_EFFORT)


def reliable_qos(depth=10):
    """Return the QoS of what the nodes tell one another and robots."""
    return QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=depth,
                      reliability=QoSReliabilityPolicy.RELIABLE)


def subscribe(node, message_type, topic, callback, qos):
    """Subscribe with a QoS that the parameters qos_overrides.TOPIC.subscription.* override."""
    return node.create_subscription(
        message_type, topic, callback, qos,
        qos_overriding_options=QoSOverridingOptions.with_default_policies())


def advertise(node, message_type, topic, qos):
    """Publish with a QoS that the parameters qos_overrides.TOPIC.publisher.* override."""
    return node.create_publisher(
        message_type, topic, qos,
        qos_overriding_options=QoSOverridingOptions.with_default_policies())


def topic_name(name):
    """Return an object's name as part of a topic's: letters, digits and underscores."""
    name = re.sub('[^A-Za-z0-9_]', '_', name)
    return f'_{name}' if name[:1].isdigit() else name


class Warnings:
    """
    Warnings of a node, each kind at most once in REPEAT_SECONDS.

    ROS throttles by line of code and by the node's clock, which may stand still.
    """

    def __init__(self, logger):
        self._logger = logger
        self._last = {}  # kind -> when
        self._silent = Counter()
        self._told = set()
        self.latest = ('', 0.0)  # the last warning of `warn`, said or not, and when

    def warn(self, text):
        """Warn, unless of the same but for numbers and details just now."""
        text = ' '.join(text.split())
        now = time.monotonic()
        self.latest = (text, now)
        kind = re.sub('[0-9.]+', '', text)[:80]
        if now - self._last.get(kind, -REPEAT_SECONDS) < REPEAT_SECONDS:
            self._silent[kind] += 1
            return
        silent = self._silent[kind]
        if len(self._last) > MOST_KINDS:  # what is quoted from messages may be endless
            self._last.clear()
            self._silent.clear()
        self._last[kind], self._silent[kind] = now, 0
        self._logger.warning(text + (f' ({silent} more like this)' if silent else ''))

    def once(self, text):
        """Warn the first time only."""
        if text not in self._told:
            self._told.add(text)
            self._logger.warning(text)


class Worker:
    """
    Works on the images of a StampMatcher in a thread of its own, the newest first.

    So the executor is never blocked, and what comes in meanwhile waits in a bounded queue.

    Parameters
    ----------
    node : rclpy.node.Node
    matcher : StampMatcher
    work : callable
        Called with what the matcher gives, as keywords. InputError: warned about, and on.
    warnings : Warnings

    Attributes
    ----------
    enabled : bool
        While false, images are dropped. Set by the node's service ~/enable.
    on_done : callable
        Called with the seconds that an image took.

    """

    def __init__(self, node, matcher, work, warnings):
        self._node = node
        self._matcher = matcher
        self._work = work
        self._warnings = warnings
        self.enabled, self.on_done = True, lambda seconds: None
        node.create_service(SetBool, '~/enable', self._enable)
        self._stopping = threading.Event()
        self._told, self._told_at = 0, time.monotonic()
        self._thread = threading.Thread(target=self._loop, name=node.get_name(), daemon=True)
        self._thread.start()

    def stop(self):
        """Finish the image at hand and end the thread."""
        self._stopping.set()
        self._thread.join()

    def _loop(self):
        while not self._stopping.is_set():
            messages = self._matcher.take(0.2)
            try:
                if messages is not None and self.enabled:
                    started = time.monotonic()
                    self._work(**messages)
                    self.on_done(time.monotonic() - started)
                self._tell_drops()
            except InputError as error:
                self._warnings.warn(str(error))
            except Exception as error:
                if not self._node.context.ok():
                    return  # shut down while it worked: there is nobody to publish to
                self._warnings.once(traceback.format_exc())
                self._warnings.warn(f'image left out: {error!r}')

    def _enable(self, request, response):
        self.enabled = request.data
        response.success, response.message = True, 'enabled' if request.data else 'disabled'
        return response

    def _tell_drops(self):
        dropped = self._matcher.dropped
        if sum(dropped.values()) == self._told:
            return
        if time.monotonic() - self._told_at > DROPS_SECONDS:
            self._told, self._told_at = sum(dropped.values()), time.monotonic()
            reasons = [f'{count} ' + (f'without {kind}' if kind else 'overtaken by newer ones')
                       for kind, count in sorted(dropped.items())]
            self._node.get_logger().info(f'images dropped so far: {", ".join(reasons)}')
