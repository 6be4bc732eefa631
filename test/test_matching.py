"""Messages matched by stamp."""

from collections import Counter
import threading
import time

from pose_estimator.nodes.matching import CameraInfos, StampMatcher
import pytest
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header


def message(stamp, frame_id='camera', width=160):
    """Return a message stamped with whole seconds."""
    made = CameraInfo(header=Header(frame_id=frame_id), width=width)
    made.header.stamp.sec = stamp
    return made


def test_takes_the_newest_complete_and_drops_what_came_before():
    matcher = StampMatcher(('masks', 'detections'), depth=10)
    for stamp in (1, 2, 3, 4):
        matcher.add('masks', message(stamp))
    for stamp in (1, 3):
        matcher.add('detections', message(stamp))
    taken = matcher.take(0)
    assert {kind: one.header.stamp.sec for kind, one in taken.items()} == \
        {'masks': 3, 'detections': 3}
    assert matcher.dropped == Counter({'': 1, 'detections': 1})
    assert matcher.take(0) is None
    matcher.add('detections', message(4))
    assert matcher.take(0)['masks'].header.stamp.sec == 4


def test_stamps_match_to_the_nanosecond():
    matcher = StampMatcher(('masks', 'detections'), depth=10)
    masks, detections = message(1), message(1)
    detections.header.stamp.nanosec = 1
    matcher.add('masks', masks)
    matcher.add('detections', detections)
    assert matcher.take(0) is None


def test_optional_messages_come_along():
    matcher = StampMatcher(('masks',), depth=10)
    matcher.add('image', message(1))
    assert matcher.take(0) is None
    matcher.add('masks', message(1))
    assert set(matcher.take(0)) == {'image', 'masks'}


def test_queue_is_bounded_and_counts_what_it_drops():
    matcher = StampMatcher(('masks', 'image'), depth=3)
    for stamp in range(100):
        matcher.add('image', message(stamp))
    assert matcher.dropped == Counter({'masks': 97})
    matcher.add('masks', message(99))
    assert matcher.take(0)['image'].header.stamp.sec == 99
    assert matcher.dropped == Counter({'masks': 99})


def test_stamps_may_jump_back_and_come_again():
    matcher = StampMatcher(('image',), depth=3)
    for stamp in (100, 1, 100, 1):
        assert matcher.add('image', message(stamp)) == ''
        assert matcher.take(0)['image'].header.stamp.sec == stamp
    matcher.add('image', message(50))
    matcher.add('image', message(2))
    assert matcher.take(0)['image'].header.stamp.sec == 2
    assert matcher.take(0) is None, 'what waited was of a time that is over'


def test_second_message_of_a_stamp_is_refused_and_the_first_with_it():
    matcher = StampMatcher(('masks', 'image'), depth=3)
    assert matcher.add('image', message(1)) == ''
    assert 'stamp 1.000000000 came before' in matcher.add('image', message(1))
    matcher.add('masks', message(1))
    assert matcher.take(0) is None
    assert 'came before' in matcher.add('image', message(1))
    for kind in ('masks', 'image'):
        assert matcher.add(kind, message(2)) == ''
    assert matcher.take(0)['image'].header.stamp.sec == 2
    assert 'came before' in matcher.add('image', message(2)), 'taken already'
    assert matcher.repeated == Counter({'image': 3})


def test_what_is_dropped_tells_how_far_the_nearest_stamp_was():
    matcher = StampMatcher(('masks', 'image'), depth=2)
    late = message(10)
    late.header.stamp.nanosec = 33_000_000
    for stamp in (10, 11):
        matcher.add('image', message(stamp))
    matcher.add('masks', late)
    assert matcher.dropped == Counter({'masks': 1})
    assert matcher.nearest == {'masks': pytest.approx(0.033)}
    matcher.add('image', message(12))
    assert matcher.nearest == {'masks': pytest.approx(-0.967)}
    matcher.add('image', message(13))
    assert matcher.dropped == Counter({'masks': 2, 'image': 1})
    assert matcher.nearest['image'] == pytest.approx(-0.033)


def test_gaps_are_those_to_the_nearest_stamp():
    matcher = StampMatcher(('masks', 'image', 'info'), depth=9)
    assert matcher.gaps() == {}
    for kind, stamp in (('masks', 10), ('masks', 11), ('image', 10), ('image', 13)):
        matcher.add(kind, message(stamp))
    assert matcher.gaps() == {'image': -1.0}


def test_waits_for_another_thread():
    matcher = StampMatcher(('image',), depth=1)
    threading.Timer(0.1, lambda: matcher.add('image', message(1))).start()
    assert matcher.take(30) is not None


def fits(info):
    """Say whether an info is of the tests' usual size."""
    return info.width == 160


def test_camera_info_of_the_same_stamp_comes_first():
    infos = CameraInfos(depth=10)
    for stamp in (1, 2, 3):
        infos.add(message(stamp))
    info, exact = infos.find(message(2).header, fits, 0)
    assert exact and info.header.stamp.sec == 2


def test_camera_info_of_another_stamp_must_be_of_the_same_frame_and_size():
    infos = CameraInfos(depth=10)
    for info in (message(1), message(2), message(3, 'other'), message(4, width=320)):
        infos.add(info)
    info, exact = infos.find(message(5).header, fits, 0)
    assert not exact and info.header.stamp.sec == 2
    assert infos.find(message(5, 'third').header, fits, 0) == (None, False)


def test_camera_info_that_is_late_is_waited_for():
    infos = CameraInfos(depth=10)
    infos.add(message(1))
    threading.Timer(0.1, lambda: infos.add(message(2))).start()
    info, exact = infos.find(message(2).header, fits, 30)
    assert exact and info.header.stamp.sec == 2


def test_where_stamps_never_match_nothing_is_waited_for():
    infos = CameraInfos(depth=10)
    infos.add(message(1))
    infos.find(message(5).header, fits, 0)
    start = time.monotonic()
    assert infos.find(message(6).header, fits, 30)[0].header.stamp.sec == 1
    assert time.monotonic() - start < 10


def test_camera_infos_are_bounded():
    infos = CameraInfos(depth=3)
    for stamp in range(10):
        infos.add(message(stamp))
    assert infos.find(message(6).header, fits, 0) == (infos.find(message(9).header, fits, 0)[0],
                                                      False)
