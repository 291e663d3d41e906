"""Secrets at rest: read again with the same key alone, and the key is shown nowhere."""

import logging
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import ValidationError

from app.secrets import Secrets, UnreadableSecret
from app.settings import Settings

KEY, OTHER = Fernet.generate_key().decode(), Fernet.generate_key().decode()
SECRET = "whsec_çelebi"


def secrets(folder: Path, key: str | None = None) -> Secrets:
    return Secrets(Settings.model_validate({"data_dir": folder, "secret_key": key}))


def test_a_secret_is_stored_in_no_clear_form_and_read_again(tmp_path: Path) -> None:
    stored = secrets(tmp_path, KEY).encrypt(SECRET)
    assert "whsec" not in stored
    assert stored != secrets(tmp_path, KEY).encrypt(SECRET)
    assert secrets(tmp_path, KEY).decrypt(stored) == SECRET
    assert not (tmp_path / "secret.key").exists()


@pytest.mark.parametrize("end", ["AA", "", "é"])
def test_what_was_altered_is_not_read(end: str, tmp_path: Path) -> None:
    stored = secrets(tmp_path, KEY).encrypt(SECRET)
    with pytest.raises(UnreadableSecret, match="another key"):
        secrets(tmp_path, KEY).decrypt(stored[:-4] + end)


def test_keys_take_over_from_one_another(tmp_path: Path) -> None:
    old = secrets(tmp_path, OTHER).encrypt(SECRET)
    both = secrets(tmp_path, f"{KEY}, {OTHER}")
    assert both.decrypt(old) == SECRET
    assert secrets(tmp_path, KEY).decrypt(both.encrypt(SECRET)) == SECRET
    with pytest.raises(UnreadableSecret):
        secrets(tmp_path, KEY).decrypt(old)


def test_a_key_as_openssl_prints_it(tmp_path: Path) -> None:
    assert secrets(tmp_path, "+/" * 21 + "+=").decrypt(secrets(tmp_path, "-_" * 21 + "-=").encrypt("a")) == "a"


def test_without_a_key_one_is_generated_for_the_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "not yet there"
    stored = secrets(folder).encrypt(SECRET)
    assert secrets(folder).decrypt(stored) == SECRET
    (file,) = folder.iterdir()
    assert (file.name, file.stat().st_mode & 0o777) == ("secret.key", 0o600)
    assert secrets(tmp_path, file.read_text()).decrypt(stored) == SECRET


def _encrypt(folder: Path) -> str:
    return secrets(folder).encrypt(SECRET)


def test_processes_that_start_together_use_one_key(tmp_path: Path) -> None:
    with ProcessPoolExecutor(8, mp_context=get_context("spawn")) as pool:
        stored = list(pool.map(_encrypt, [tmp_path] * 32))
    assert [secrets(tmp_path).decrypt(text) for text in stored] == [SECRET] * 32
    assert [file.name for file in tmp_path.iterdir()] == ["secret.key"]


@pytest.mark.parametrize(
    "key",
    ["short", KEY[:-8], f"{KEY},", f"{KEY};{OTHER}", KEY + KEY, "ключ"],
    ids=["a word", "cut off", "an empty one", "another separator", "none", "other letters"],
)
def test_a_key_that_is_none_is_refused_and_not_repeated(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGGS_SECRET_KEY", key)
    with pytest.raises(ValidationError, match="openssl rand") as raised:
        Settings(data_dir=tmp_path)
    assert key not in str(raised.value) + repr(raised.value)


def test_the_key_is_shown_nowhere_and_handed_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "secret_key": f"{KEY},{OTHER}"})
    box = Secrets(settings)
    with caplog.at_level(logging.DEBUG), pytest.raises(UnreadableSecret) as raised:
        box.decrypt(secrets(tmp_path).encrypt(SECRET))
    shown = [
        settings,
        settings.model_dump(),
        box,
        vars(box),
        raised.value,
        caplog.text,
        settings.model_dump_json(),
    ]
    assert not any(KEY in f"{thing!r} {thing}" for thing in shown)

    program = f"from app.settings import Settings; print(Settings().environment() == {settings.environment()!r})"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | settings.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "True\n"
