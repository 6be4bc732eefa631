"""What an operator reads on /diagnostics: whether a node works and, if not, why."""

from collections import Counter, deque
from contextlib import contextmanager
import os
from pathlib import Path
import re
import resource
import sys
import threading
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import numpy as np
from rclpy.clock import Clock, ClockType

from .conversions import stamp_ns
from .process import advertise, reliable_qos

PERIOD = 1.0  # s
FRESH = 2.0  # s for which a fault counts as new
# Something is wrong when nothing came for so many usual intervals, but for at least and at most
# so many seconds.
PATIENCE, LEAST_PATIENCE, MOST_PATIENCE = 3, 1.0, 10.0
RECENT = 200  # images that rates and latencies are taken of
ACTIVE = 'active'


class Diagnostics:
    """
    Publishes the state of a node once a second.

    Parameters
    ----------
    node : ManagedNode
        Its matcher, worker, warnings, state and fault are told.
    facts : callable
        Returns more of them, a dict of plain values.

    Attributes
    ----------
    rejected : Counter
        What was not published, by reason; numbers in reasons are left out.

    """

    def __init__(self, node, facts=dict):
        self._node, self._facts = node, facts
        self._began = time.monotonic()
        self._done = deque(maxlen=RECENT)  # (when, seconds of work, seconds since arrival)
        self._images = 0
        self._stages = {}  # name -> seconds
        self._heard = {}  # kind -> times of arrival
        self._counts = Counter()
        self._stamps = {}  # kind -> the last one, in nanoseconds
        self.rejected = Counter()
        node.worker.on_done = self._on_done
        self._publisher = advertise(node, DiagnosticArray, '/diagnostics', reliable_qos())
        # The node's own clock may be simulated, and stand still.
        node.create_timer(PERIOD, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def begin(self):
        """Be patient anew: the node has become active."""
        self._began = time.monotonic()
        self._done.clear()

    def heard(self, kind, message):
        """Count a message that came in."""
        self._heard.setdefault(kind, deque(maxlen=RECENT)).append(time.monotonic())
        self._counts[kind] += 1
        self._stamps[kind] = stamp_ns(message.header)

    def reject(self, reason):
        """Count what was not published."""
        self.rejected[re.sub(r'\d+(\.\d+)?', 'N', reason)] += 1

    @contextmanager
    def stage(self, name):
        """Take the time of a part of the work on an image."""
        started = time.monotonic()
        yield
        self._stages.setdefault(name, deque(maxlen=RECENT)).append(time.monotonic() - started)

    def publish(self):
        """Publish the state."""
        status = self.status()
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def status(self):
        """Return the state as a DiagnosticStatus."""
        level, text = self._verdict()
        name = self._node.get_fully_qualified_name().lstrip('/')
        return DiagnosticStatus(
            level=level, name=f'{name}: images', message=text, hardware_id='pose_estimator',
            values=[KeyValue(key=key, value=str(value)) for key, value in self._values().items()])

    def _on_done(self, seconds, latency):
        self._images += 1
        self._done.append((time.monotonic(), seconds, latency))

    def _verdict(self):
        """Return level and message."""
        now = time.monotonic()
        if self._node.fault:
            return DiagnosticStatus.ERROR, self._node.fault
        if self._node.state != ACTIVE:
            return DiagnosticStatus.WARN, f'{self._node.state}: no images are taken'
        if not self._node.worker.enabled:
            return DiagnosticStatus.OK, 'disabled by the service enable'
        crowded = self._crowded(now)
        if crowded:
            return DiagnosticStatus.WARN, crowded
        fault, when = self._node.warnings.latest
        if fault and now - when < FRESH:
            return DiagnosticStatus.WARN, fault
        if _is_recent([when for when, _, _ in list(self._done)], now):
            return DiagnosticStatus.OK, f'{self._rate():.1f} images a second'
        if now - self._began < FRESH:
            return DiagnosticStatus.OK, 'starting'
        return DiagnosticStatus.WARN, self._missing(now)

    def _missing(self, now):
        """Return what keeps an image from being worked on."""
        matcher = self._node.matcher
        for kind in matcher.required:
            heard = self._heard.get(kind)
            if _is_recent(heard, now):
                continue
            text = f'no {kind} for {now - heard[-1]:.0f} s' if heard else f'no {kind} so far'
            topic = self._node.topic_of(kind)
            others = self._node.incompatible.get(topic, '')
            if others:
                return f'{text}: {others}'
            if not self._node.count_publishers(topic):
                return f'{text}: nobody publishes {topic}'
            return f'{text} on {topic}'
        text = f'{", ".join(matcher.required)}: all come, none with the stamp of another'
        return '; '.join([text, *(f'the nearest of {kind} differs by {seconds:.6f} s'
                                  for kind, seconds in matcher.gaps().items() if seconds)])

    def _crowded(self, now):
        """Return what is wrong if several nodes publish what one should."""
        for kind in list(self._node.subscribed):
            heard = self._heard.get(kind)
            if not _is_recent(heard, now):
                continue
            topic = self._node.topic_of(kind)
            count = self._node.count_publishers(topic)
            if count > 1:
                return f'{count} publishers of {topic}: their messages may be mixed up'
        return ''

    def _rate(self):
        return _rate([when for when, _, _ in list(self._done)])

    def _values(self):
        now = time.monotonic()
        node, matcher = self._node, self._node.matcher
        values = {'state': node.state, 'images': self._images,
                  'images a second': f'{self._rate():.1f}'}
        done = list(self._done)
        if done:
            values['age of the last result (s)'] = f'{now - done[-1][0]:.1f}'
            _tell_times(values, 'latency', [latency for _, _, latency in done])
            _tell_times(values, 'work', [seconds for _, seconds, _ in done])
        for stage, times in sorted(dict(self._stages).items()):
            _tell_times(values, stage, list(times))
        clock = node.get_clock().now().nanoseconds
        for kind, times in sorted(dict(self._heard).items()):
            values[f'{kind}: messages'] = self._counts[kind]
            values[f'{kind}: messages a second'] = f'{_rate(list(times)):.1f}'
            values[f'{kind}: age of the last (s)'] = f'{now - times[-1]:.1f}'
            values[f'{kind}: stamp behind the clock (s)'] = \
                f'{(clock - self._stamps[kind]) / 1e9:.3f}'
        for kind, count in sorted(dict(matcher.dropped).items()):
            values[f'dropped {"without " + kind if kind else "for newer ones"}'] = count
        for kind, seconds in sorted(dict(matcher.nearest).items()):
            values[f'nearest stamp of {kind} to one without (s)'] = f'{seconds:.6f}'
        for kind, count in sorted(dict(matcher.repeated).items()):
            values[f'{kind}: refused, stamp came before'] = count
        for topic, text in sorted(dict(node.incompatible).items()):
            values[f'incompatible QoS on {topic}'] = text
        for reason, count in Counter(dict(self.rejected)).most_common(10):
            values[f'rejected: {reason}'] = count
        values.update(self._facts())
        values.update(process_figures())
        return values


def process_figures():
    """Return memory, threads and open files of this process."""
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == 'darwin' else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    figures = {'memory, peak (MB)': round(peak / 2 ** 20), 'threads': threading.active_count()}
    try:
        pages = int(Path('/proc/self/statm').read_text().split()[1])
        figures['memory (MB)'] = round(pages * os.sysconf('SC_PAGE_SIZE') / 2 ** 20)
        figures['threads'] = len(list(Path('/proc/self/task').iterdir()))
        figures['open files'] = len(list(Path('/proc/self/fd').iterdir()))
    except OSError:  # not Linux
        pass
    return figures


def _is_recent(times, now):
    """Return whether the last of some events is not longer ago than usual."""
    if not times:
        return False
    usual = np.median(np.diff(list(times)[-10:])) if len(times) > 1 else 0.0
    return now - times[-1] <= min(max(PATIENCE * usual, LEAST_PATIENCE), MOST_PATIENCE)


def _rate(times):
    """Return events a second, over those of the last two times FRESH seconds."""
    now = time.monotonic()
    recent = [when for when in times if now - when < 2 * FRESH]
    return (len(recent) - 1) / max(recent[-1] - recent[0], 1e-3) if len(recent) > 1 else 0.0


def _tell_times(values, name, seconds):
    values[f'{name}, median (ms)'] = f'{1e3 * np.median(seconds):.1f}'
    values[f'{name}, 95 % (ms)'] = f'{1e3 * np.quantile(seconds, 0.95):.1f}'
