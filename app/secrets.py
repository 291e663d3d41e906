"""Encrypts short secrets at rest: what is stored for later use, and must not be read in a copy of the database.

The key is that of the setting `secret_key`. Without one it is in `secret.key` in the data folder, generated once,
for everything that shares this folder.
"""

import os
import re
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.settings import Settings

_KEY = re.compile(r"[A-Za-z0-9+/_-]{43}=")


class UnreadableSecret(Exception):
    """The secret was encrypted with a key that this process does not have, or was altered."""


class Secrets:
    """Encrypts and decrypts with the key of an installation; reads or generates it when it is needed first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def encrypt(self, secret: str) -> str:
        """The secret as it may be stored."""
        return self._keys.encrypt(secret.encode()).decode()

    def decrypt(self, stored: str) -> str:
        """The secret that was stored. Raises `UnreadableSecret`."""
        try:
            return self._keys.decrypt(stored.encode()).decode()
        except InvalidToken:
            raise UnreadableSecret(
                "A stored secret cannot be read: it was encrypted with another key. Add that key to "
                "EGGS_SECRET_KEY, or set the secret anew."
            ) from None

    def can_decrypt(self, stored: str) -> bool:
        """Whether `decrypt` can read this."""
        try:
            self.decrypt(stored)
        except UnreadableSecret:
            return False
        return True

    @cached_property
    def _keys(self) -> MultiFernet:
        key = self._settings.secret_key
        return parse_keys(_key_of(self._settings.data_dir) if key is None else key.get_secret_value())


def parse_keys(text: str) -> MultiFernet:
    """The keys of a text that has them separated by commas: the first encrypts, all of them decrypt.

    Raises `ValueError`, which does not repeat the text.
    """
    keys = [key.strip() for key in text.split(",")]
    if not all(map(_KEY.fullmatch, keys)):  # Fernet itself skips what it does not understand
        raise ValueError("A key is 32 bytes in base64; `openssl rand -base64 32` prints one.")
    return MultiFernet([Fernet(key) for key in keys])


def _key_of(folder: Path) -> str:
    """The key in this folder. Of several processes that find none, one makes it."""
    path = folder / "secret.key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, prefix=".secret.key.") as file:  # of mode 0600
            file.write(Fernet.generate_key())
            file.flush()
            os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(file.name, path)  # whole or not at all, and never over another one
    return path.read_text()
