"""The embedded queue: messages as files in a folder, with no server.

kombu's file transport writes a message in place and moves it through the machine's temporary folder when it is
read; a reader can so see half a message, and a kill can strand one outside the data folder. Here a message
appears whole by a rename, and whoever removes its file has it.
"""

import json
import os
import uuid
from pathlib import Path
from queue import Empty
from time import time_ns
from typing import Any

from kombu.transport import filesystem


class Channel(filesystem.Channel):
    """A channel whose messages are never seen half-written."""

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]
        folder = Path(self.data_folder_out)
        name = f"{time_ns():020d}_{uuid.uuid4().hex}.{queue}.msg"
        staged = folder / f"{name}.part"
        staged.write_text(json.dumps(payload), encoding="utf-8")
        staged.rename(folder / name)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        folder = Path(self.data_folder_in)
        for name in sorted(os.listdir(folder)):
            if name.partition(".")[2] == f"{queue}.msg":
                try:
                    message = (folder / name).read_text(encoding="utf-8")
                    (folder / name).unlink()
                except FileNotFoundError:
                    continue  # another worker was faster
                return json.loads(message)
        raise Empty


class Transport(filesystem.Transport):
    """kombu's file transport with our channel."""

    Channel = Channel
