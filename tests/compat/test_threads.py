"""Where another thread is."""

from __future__ import annotations

import threading

from taskflow_otel.compat.threads import frame_of


def test_the_frame_of_a_waiting_thread_is_where_it_waits_and_an_ended_one_has_no_frame() -> None:
    entered, release = threading.Event(), threading.Event()

    def waits_here() -> None:
        entered.set()
        release.wait()

    thread = threading.Thread(target=waits_here)
    thread.start()
    entered.wait()
    assert thread.ident is not None
    frame, names = frame_of(thread.ident), []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    release.set()
    thread.join()
    assert "waits_here" in names
    assert frame_of(thread.ident) is None
