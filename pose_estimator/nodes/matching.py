"""Messages of one image, brought together by exact stamp; the newest image first."""

from collections import Counter, OrderedDict
import threading
import time

from .conversions import stamp_ns


class StampMatcher:
    """
    Bounded waiting room for the messages of several topics that belong to the same image.

    Any thread may add, one takes.

    Parameters
    ----------
    required : iterable of str
        What must be there before an image is taken.
    depth : int
        How many images may wait; beyond that the oldest is dropped.

    Attributes
    ----------
    dropped : Counter
        Images that were never taken, by what they lacked: 'instance_masks', or '' for
        complete ones that a newer image overtook.
    arrived : dict
        Kind -> (number of messages, when the last came, by time.monotonic).

    """

    def __init__(self, required, depth):
        self.required = tuple(required)
        self.depth = depth
        self.dropped = Counter()
        self.arrived = {}
        self._waiting = OrderedDict()  # stamp -> {kind: message}, oldest arrival first
        self._changed = threading.Condition()

    def add(self, kind, message):
        """Add a message with a header."""
        with self._changed:
            count, _ = self.arrived.get(kind, (0, 0.0))
            self.arrived[kind] = count + 1, time.monotonic()
            self._waiting.setdefault(stamp_ns(message.header), {})[kind] = message
            while len(self._waiting) > self.depth:
                self._drop(next(iter(self._waiting)))
            self._changed.notify()

    def take(self, seconds):
        """
        Return the newest complete image's messages, waiting for one so long.

        All that arrived before it is dropped.

        Returns
        -------
        messages : dict of str to message, or None

        """
        with self._changed:
            stamp = self._newest()
            if stamp is None:
                self._changed.wait(seconds)
                stamp = self._newest()
            if stamp is None:
                return None
            messages = self._waiting[stamp]
            for older in list(self._waiting):
                if older == stamp:
                    break
                self._drop(older)
            del self._waiting[stamp]
            return messages

    def _newest(self):
        for stamp, messages in reversed(self._waiting.items()):
            if all(kind in messages for kind in self.required):
                return stamp
        return None

    def _drop(self, stamp):
        messages = self._waiting.pop(stamp)
        lacking = [kind for kind in self.required if kind not in messages]
        self.dropped[' and '.join(lacking)] += 1


class CameraInfos:
    """
    The last camera infos, by stamp.

    Parameters
    ----------
    depth : int
        How many to keep.

    """

    def __init__(self, depth):
        self.depth = depth
        self._infos = OrderedDict()
        self._changed = threading.Condition()
        self._exact = True  # until an image shows that stamps differ here

    def add(self, info):
        """Add a camera info."""
        with self._changed:
            self._infos[stamp_ns(info.header)] = info
            self._infos.move_to_end(stamp_ns(info.header))
            while len(self._infos) > self.depth:
                self._infos.popitem(last=False)
            self._changed.notify_all()

    def find(self, header, fits, seconds):
        """
        Return the camera info of an image.

        Parameters
        ----------
        header : std_msgs.msg.Header
            The image's.
        fits : callable
            Says of an info of another stamp whether it describes images of this size.
        seconds : float
            How long to wait for the exact one, where stamps have matched so far.

        Returns
        -------
        info : sensor_msgs.msg.CameraInfo or None
            That of the same stamp, else the latest of the same frame that fits.
        exact : bool
            Whether its stamp is the image's.

        """
        stamp = stamp_ns(header)
        with self._changed:
            if self._exact:
                self._changed.wait_for(lambda: stamp in self._infos, seconds)
            self._exact = stamp in self._infos
            if self._exact:
                return self._infos[stamp], True
            for info in reversed(self._infos.values()):
                if info.header.frame_id == header.frame_id and fits(info):
                    return info, False
            return None, False
