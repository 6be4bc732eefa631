"""The annotated picture that the demo leaves behind."""

import time

import cv2

from ..errors import InputError

WAIT_SECONDS = 0.5  # a picture's poses have come by then


class AnnotatedPicture:
    """
    The best of the annotated pictures that are heard.

    Parameters
    ----------
    listener : DemoListener
    rate : callable
        Stamp -> how good a picture is, anything that can be compared.
    enough : object
        A picture rated like this need not be bettered: no more are asked for.

    """

    def __init__(self, listener, rate, enough):
        self._listener = listener
        self._rate = rate
        self._enough = enough
        self._best = self._rating = None

    def choose(self):
        """Look at the pictures that have come, and keep the best."""
        pictures = self._listener.pictures
        latest = time.time_ns() - WAIT_SECONDS * 1e9
        for stamp in [one for one in pictures if one < latest]:
            message = pictures.pop(stamp)
            if stamp not in self._listener.truths:
                continue
            rating = self._rate(stamp)
            if self._rating is None or rating > self._rating:
                self._best, self._rating = message, rating
                if rating >= self._enough:
                    self._listener.watch(False)

    def write(self, path):
        """Write it as a file."""
        if self._best is None:
            print('No annotated picture has come.')
            return
        pixels = self._listener.read_picture(self._best)
        if not cv2.imwrite(str(path), pixels[..., ::-1]):
            raise InputError(f'{path}: cannot be written')
        print(f'Annotated picture: {path}')
