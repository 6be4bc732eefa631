"""What the nodes share: their process, the thread they work in, their warnings, their QoS."""

from collections import Counter
import math
import os
import re
import signal
import sys
import threading
import time
import traceback

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import (
    qos_policy_name_from_kind, QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile,
    QoSReliabilityPolicy)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.utilities import remove_ros_args

from ..errors import InputError

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

REPEAT_SECONDS = 5.0
MOST_KINDS = 200
DROPS_SECONDS = 30.0
TAKE_SECONDS = 0.2


def run(*make_nodes):
    """
    Run nodes in this process until a signal, or until one whose work ends is done; exit.

    The exit code is 2 after input that cannot be used, such as a wrong parameter.

    Parameters
    ----------
    *make_nodes : callables without arguments
        Make the nodes. A node with an attribute `done`, a future, ends the process with it; one
        with a method `autostart` is started by that.

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
        for node in nodes:
            if hasattr(node, 'autostart'):
                node.autostart()
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
        # Ctrl-C reaches a node from the terminal and from launch: one of them is enough.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
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


def latched_qos():
    """Return the QoS of what is said once, and heard by whoever comes later."""
    return QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=1,
                      reliability=QoSReliabilityPolicy.RELIABLE,
                      durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


def subscribe(node, message_type, topic, callback, qos):
    """Subscribe with a QoS that the parameters qos_overrides.TOPIC.subscription.* override."""
    return node.create_subscription(
        message_type, topic, callback, qos,
        event_callbacks=SubscriptionEventCallbacks(
            incompatible_qos=_incompatible(node, topic, 'publisher')),
        qos_overriding_options=QoSOverridingOptions.with_default_policies())


def advertise(node, message_type, topic, qos):
    """Publish with a QoS that the parameters qos_overrides.TOPIC.publisher.* override."""
    return node.create_publisher(
        message_type, topic, qos,
        event_callbacks=PublisherEventCallbacks(
            incompatible_qos=_incompatible(node, topic, 'subscription')),
        qos_overriding_options=QoSOverridingOptions.with_default_policies())


def _incompatible(node, topic, other):
    """Return what is called when the QoS of another node's end of a topic does not fit."""
    name = node.resolve_topic_name(topic)

    def tell(event):
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        text = f'a {other} of {name} has incompatible QoS: {policy}'
        node.get_logger().warning(text)
        if hasattr(node, 'incompatible'):
            node.incompatible[name] = text

    return tell


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
    max_rate : callable
        Returns how many images a second are worked on at most; 0: as many as possible.

    Attributes
    ----------
    enabled : bool
        While false, images are dropped.
    on_done : callable
        Called with the seconds that an image took, and those since its first message came.

    """

    def __init__(self, node, matcher, work, warnings, max_rate):
        self._node = node
        self._matcher = matcher
        self._work = work
        self._warnings = warnings
        self._max_rate = max_rate
        self.enabled = True
        self.on_done = lambda seconds, latency: None
        self._stopping = threading.Event()
        self._told, self._told_at = 0, time.monotonic()
        self._thread = None

    def start(self):
        """Begin to work."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._loop, name=self._node.get_name(),
                                        daemon=True)
        self._thread.start()

    def stop(self):
        """Finish the image at hand and end the thread, if there is one."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _loop(self):
        started = -math.inf
        while not self._stopping.is_set():
            rate = self._max_rate()
            rest = started + 1 / rate - time.monotonic() if rate else 0.0
            if rest > 0:
                self._stopping.wait(min(rest, TAKE_SECONDS))
                continue
            messages = self._matcher.take(TAKE_SECONDS)
            try:
                if messages is not None and self.enabled:
                    started = time.monotonic()
                    self._work(**messages)
                    now = time.monotonic()
                    self.on_done(now - started, now - self._matcher.taken_since)
                self._tell_drops()
            except InputError as error:
                self._warnings.warn(str(error))
            except Exception as error:
                if not self._node.context.ok():
                    return  # shut down while it worked: there is nobody to publish to
                self._warnings.once(traceback.format_exc())
                self._warnings.warn(f'image left out: {error!r}')

    def _tell_drops(self):
        dropped = self._matcher.dropped
        if sum(dropped.values()) == self._told:
            return
        if time.monotonic() - self._told_at > DROPS_SECONDS:
            self._told, self._told_at = sum(dropped.values()), time.monotonic()
            reasons = [f'{count} ' + (f'without {kind}' if kind else 'overtaken by newer ones')
                       for kind, count in sorted(dropped.items())]
            self._node.get_logger().info(f'images dropped so far: {", ".join(reasons)}')
