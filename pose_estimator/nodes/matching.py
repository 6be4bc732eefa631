"""Messages of one image, brought together by exact stamp; the newest image first."""

from collections import Counter, deque, OrderedDict
import threading
import time

from .conversions import stamp_ns


# Stamps that go back by more than this mean that time was set back, as when a bag starts again.
JUMP_NS = 10**9
REMEMBERED = 1000  # stamps of images that are done with


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
    nearest : dict
        What the last dropped image lacked -> how far the nearest stamp of that was, in seconds.
    repeated : Counter
        Messages refused because another of their kind had the same stamp, by kind.
    taken_since : float
        When the first message of the image taken last had come, by time.monotonic.

    """

    def __init__(self, required, depth):
        self.required = tuple(required)
        self.depth = depth
        self.dropped = Counter()
        self.nearest = {}
        self.repeated = Counter()
        self.taken_since = 0.0
        self._stamps = {}  # kind -> the last ones, newest arrival last
        self._waiting = OrderedDict()  # stamp -> {kind: message}, oldest arrival first
        self._since = {}  # stamp -> when its first message came
        self._past = OrderedDict()  # stamp of what was taken or refused -> its kinds
        self._changed = threading.Condition()

    def add(self, kind, message):
        """
        Add a message with a header.

        Returns
        -------
        fault : str
            Why it is refused, or ''. Of two messages of a kind with the same stamp nobody knows
            which one belongs to the others of that stamp, so none is used.

        """
        stamp, now = stamp_ns(message.header), time.monotonic()
        with self._changed:
            stamps = self._stamps.setdefault(kind, deque(maxlen=100))
            if stamps and stamp < stamps[-1] - JUMP_NS:
                self._forget()
            stamps.append(stamp)
            is_second = kind in self._waiting.get(stamp, ())
            if is_second:
                self._leave(stamp)
            if is_second or kind in self._past.get(stamp, ()):
                self.repeated[kind] += 1
                return (f'stamp {stamp / 1e9:.9f} came before: images of the same stamp cannot '
                        'be told apart')
            self._waiting.setdefault(stamp, {})[kind] = message
            self._since.setdefault(stamp, now)
            while len(self._waiting) > self.depth:
                self._drop(next(iter(self._waiting)))
            self._changed.notify()
        return ''

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
            for older in list(self._waiting):
                if older == stamp:
                    break
                self._drop(older)
            self.taken_since = self._since[stamp]
            return self._leave(stamp)

    def gaps(self):
        """Return how far the stamps of each other kind are from the last of the first, in s."""
        with self._changed:
            first, *others = (list(self._stamps.get(kind, ())) for kind in self.required)
            return {kind: min((stamp - first[-1] for stamp in stamps), key=abs) / 1e9
                    for kind, stamps in zip(self.required[1:], others) if first and stamps}

    def clear(self):
        """Drop all that waits."""
        with self._changed:
            self._forget()

    def _newest(self):
        for stamp, messages in reversed(self._waiting.items()):
            if all(kind in messages for kind in self.required):
                return stamp
        return None

    def _leave(self, stamp):
        """Return the messages of a stamp, which is done with."""
        messages = self._waiting.pop(stamp)
        del self._since[stamp]
        self._past[stamp] = set(messages)
        if len(self._past) > REMEMBERED:
            self._past.popitem(last=False)
        return messages

    def _forget(self):
        """Begin anew: what waits is of a time that is over."""
        for stamp in list(self._waiting):
            self._drop(stamp)
        for stamps in self._stamps.values():
            stamps.clear()
        self._past.clear()

    def _drop(self, stamp):
        messages = self._waiting.pop(stamp)
        del self._since[stamp]
        lacking = [kind for kind in self.required if kind not in messages]
        self.dropped[' and '.join(lacking)] += 1
        for kind in lacking:
            if self._stamps.get(kind):
                self.nearest[kind] = min((other - stamp for other in self._stamps[kind]),
                                         key=abs) / 1e9


class CameraInfos:
    """
    The last camera infos, by stamp.

    Parameters
    ----------
    depth : int
        How many to keep.

    Attributes
    ----------
    difference : float
        How far the stamp of the info found last was from the image's, in seconds.

    """

    def __init__(self, depth):
        self.depth = depth
        self.difference = 0.0
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
                self.difference = 0.0
                return self._infos[stamp], True
            for info in reversed(self._infos.values()):
                if info.header.frame_id == header.frame_id and fits(info):
                    self.difference = (stamp_ns(info.header) - stamp) / 1e9
                    return info, False
            return None, False
