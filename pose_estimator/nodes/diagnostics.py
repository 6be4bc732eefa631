"""What an operator reads on /diagnostics: whether a node works and, if not, why."""

from collections import Counter, deque
import re
import resource
import sys
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import numpy as np
from rclpy.clock import Clock, ClockType

from .process import advertise, reliable_qos

PERIOD = 1.0  # s
# Without a result for so long, something is wrong; a fault counts as new for so long.
PATIENCE = 2.0
RECENT = 200  # images that rates and latencies are taken of


class Diagnostics:
    """
    Publishes the state of a node once a second.

    Parameters
    ----------
    node : rclpy.node.Node
    matcher : StampMatcher
        Where its messages wait.
    warnings : Warnings
    worker : Worker
    facts : callable
        Returns more of them, a dict of plain values.

    Attributes
    ----------
    rejected : Counter
        What was not published, by reason; numbers in reasons are left out.

    """

    def __init__(self, node, matcher, warnings, worker, facts=dict):
        self._node, self._matcher, self._warnings = node, matcher, warnings
        self._worker, self._facts = worker, facts
        self._started = time.monotonic()
        self._done = deque(maxlen=RECENT)  # (when, seconds of work)
        self.rejected = Counter()
        worker.on_done = self._on_done
        self._publisher = advertise(node, DiagnosticArray, '/diagnostics', reliable_qos())
        # The node's own clock may be simulated, and stand still.
        node.create_timer(PERIOD, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def reject(self, reason):
        """Count what was not published."""
        self.rejected[re.sub(r'\d+(\.\d+)?', 'N', reason)] += 1

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

    def _on_done(self, seconds):
        self._done.append((time.monotonic(), seconds))

    def _verdict(self):
        """Return level and message."""
        now = time.monotonic()
        if not self._worker.enabled:
            return DiagnosticStatus.OK, 'disabled by the service enable'
        fault, when = self._warnings.latest
        if fault and now - when < PATIENCE:
            return DiagnosticStatus.WARN, fault
        last = self._done[-1][0] if self._done else None
        if last is not None and now - last < PATIENCE:
            return DiagnosticStatus.OK, f'{self._rate():.1f} images a second'
        if now - self._started < PATIENCE:
            return DiagnosticStatus.OK, 'starting'
        for kind in self._matcher.required:
            arrived = self._matcher.arrived.get(kind)
            if arrived is None:
                return DiagnosticStatus.WARN, f'no {kind} so far'
            if now - arrived[1] > PATIENCE:
                return DiagnosticStatus.WARN, f'no {kind} for {now - arrived[1]:.0f} s'
        kinds = ', '.join(self._matcher.required)
        return DiagnosticStatus.WARN, f'{kinds}: all come, none with the stamp of another'

    def _rate(self):
        """Return images a second, over those of the last PATIENCE seconds or two."""
        now = time.monotonic()
        recent = [when for when, _ in list(self._done) if now - when < 2 * PATIENCE]
        return (len(recent) - 1) / max(recent[-1] - recent[0], 1e-3) if len(recent) > 1 else 0.0

    def _values(self):
        now = time.monotonic()
        values = {'images': len(self._done), 'images a second': f'{self._rate():.1f}'}
        work = [seconds for _, seconds in list(self._done)]
        if work:
            values['work, median (ms)'] = f'{1e3 * np.median(work):.1f}'
            values['work, 95 % (ms)'] = f'{1e3 * np.quantile(work, 0.95):.1f}'
            values['age of the last result (s)'] = f'{now - self._done[-1][0]:.1f}'
        for kind, (count, when) in sorted(dict(self._matcher.arrived).items()):
            values[f'{kind}: messages'] = count
            values[f'{kind}: age of the last (s)'] = f'{now - when:.1f}'
        for kind, count in sorted(dict(self._matcher.dropped).items()):
            values[f'dropped {"without " + kind if kind else "for newer ones"}'] = count
        for reason, count in Counter(dict(self.rejected)).most_common(10):
            values[f'rejected: {reason}'] = count
        values.update(self._facts())
        # Kilobytes on Linux, bytes on macOS.
        unit = 1 if sys.platform == 'darwin' else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        values['memory, peak (MB)'] = round(peak / 2 ** 20)
        return values
