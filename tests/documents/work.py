"""A worker that does its jobs in its own process, so that torch is loaded once, and not for each job."""

import signal
import threading

from app.db import make_engine, make_sessions
from app.settings import get_settings
from worker.runner import run_next

stopping = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopping.set())
settings = get_settings()
sessions = make_sessions(make_engine(settings.database_url))
while not stopping.is_set():
    run_next(settings, sessions, stopping)
    stopping.wait(0.05)
