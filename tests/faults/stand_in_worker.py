"""A worker without torch, imported by a worker host for `bench.worker.session`: a trial costs milliseconds.

Everything else of a run is real: the parent's command line, the host, the fork, the protocol, the store and the locks.
What a trial answers is fiction (`fake_worker`); each request takes as long as the seed says, up to `LONGEST_SECONDS`.
"""

import os
import random
import sys
import time

from fake_worker import FakeLauncher

from bench.protocol.channel import Channel, ChannelClosedError

LONGEST_SECONDS = 0.05


def serve(channel: Channel) -> None:
    """See `bench.worker.session.serve`."""
    answers, random_seconds = FakeLauncher(), random.Random(os.getpid())  # noqa: S311 - no secret
    try:
        while True:
            request = channel.receive()
            time.sleep(random_seconds.uniform(0, LONGEST_SECONDS))
            channel.send(answers.respond(request))
            if request.get("do") == "finish":
                return
    except ChannelClosedError:
        return


sys.modules["bench.worker.session"] = sys.modules[__name__]
