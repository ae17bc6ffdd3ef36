"""The timer: it waits for the device before it reads the clock, both times."""

from bench.worker.timer import Timer


class QueueingDevice:
    """Takes 8 s for each piece of work that was queued, when it is waited for; queueing takes 0.25 s."""

    def __init__(self) -> None:
        self.now = 0.0
        self.queued = 0

    def queue(self) -> str:
        self.now += 0.25
        self.queued += 1
        return "queued"

    def synchronise(self) -> None:
        self.now += 8 * self.queued
        self.queued = 0


def test_work_is_timed_until_the_device_has_done_it_and_without_what_was_queued_before() -> None:
    device = QueueingDevice()
    device.queue()
    assert Timer(device.synchronise, lambda: device.now).run(device.queue) == ("queued", 8.25)
    assert Timer(device.synchronise, lambda: device.now).seconds(device.queue) == 8.25
