"""Arguments as ciphertext, and the keys that read them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from cryptography.fernet import Fernet

from taskflow_otel.errors import ConfigurationError, MissingExtraError, TaskArgumentError
from taskflow_otel.model.cipher import PayloadCipher, is_encrypted

PLAIN = '{"v":1,"args":["someone@example.com"],"kwargs":{}}'


@pytest.mark.parametrize("form", [lambda key: key, lambda key: key.decode(), lambda key: [key], lambda key: (key,)])
def test_a_payload_comes_back_with_any_form_of_key(form: Any) -> None:
    cipher = PayloadCipher(form(Fernet.generate_key()))
    assert cipher.decrypt(cipher.encrypt(PLAIN)) == PLAIN


def test_ciphertext_is_marked_and_shows_nothing_of_the_plain_text() -> None:
    encrypted = PayloadCipher(Fernet.generate_key()).encrypt(PLAIN)
    assert is_encrypted(encrypted)
    assert not is_encrypted(PLAIN)
    assert "someone" not in encrypted
    assert encrypted.isascii()


def test_a_payload_stored_before_encryption_was_turned_on_is_still_read() -> None:
    assert PayloadCipher(Fernet.generate_key()).decrypt(PLAIN) == PLAIN


def test_after_a_rotation_the_new_key_encrypts_and_the_old_one_still_decrypts() -> None:
    old, new = Fernet.generate_key(), Fernet.generate_key()
    rotated = PayloadCipher([new, old])
    assert rotated.decrypt(PayloadCipher(old).encrypt(PLAIN)) == PLAIN
    assert PayloadCipher(new).decrypt(rotated.encrypt(PLAIN)) == PLAIN
    with pytest.raises(TaskArgumentError, match="encrypt_args_key"):
        PayloadCipher(old).decrypt(rotated.encrypt(PLAIN))


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-2], lambda text: text[:20] + "é" + text[21:], lambda text: text[:8]]
)
def test_damaged_ciphertext_is_refused(damage: Any) -> None:
    cipher = PayloadCipher(Fernet.generate_key())
    with pytest.raises(TaskArgumentError, match="damaged"):
        cipher.decrypt(damage(cipher.encrypt(PLAIN)))


@pytest.mark.parametrize("key", ["hunter2", b"hunter2", "é" * 44, 5])
def test_a_wrong_key_is_refused_without_being_shown(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="key 2 of 2 is not a Fernet key") as caught:
        PayloadCipher([Fernet.generate_key(), key])
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_no_key_at_all_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        PayloadCipher([])


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'taskflow-otel\[encryption\]'"):
        PayloadCipher("x")
