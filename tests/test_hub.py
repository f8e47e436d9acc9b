"""A hub that nobody reaches costs one line and no time; its client would retry each file for half a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from isoembed import hub
from isoembed.core import InputError
from isoembed.data.sources import open_source
from isoembed.encoder.config import read_config
from isoembed.encoder.load import load_model
from isoembed.encoder.tokenizer import load_tokenizer


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub at a port where nobody listens."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    monkeypatch.setattr(hub, "_answers", {})


@pytest.mark.parametrize(
    "opened",
    [
        read_config,
        load_model,
        load_tokenizer,
        lambda name: next(iter(open_source(f"hub:{name}"))),
        lambda name: open_source(f"hub:{name}").fingerprint(),
    ],
)
@pytest.mark.usefixtures("away")
def test_an_unreachable_hub_is_one_line_at_once(
    opened: Callable[[str], object], caplog: pytest.LogCaptureFixture
) -> None:
    started = time.perf_counter()
    with pytest.raises(InputError, match="the model hub cannot be reached"):
        opened("nobody/nothing")
    assert time.perf_counter() - started < 5
    assert not [record for record in caplog.records if "etry" in record.message]
    assert constants.HF_HUB_OFFLINE is False  # whoever uses the client too finds it as it was


@pytest.mark.usefixtures("away")
def test_a_name_that_no_model_has_is_the_fault() -> None:
    with pytest.raises(InputError, match="Repo id must"):
        read_config("a b/c d")


class _Refuses(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_whoever_answers_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the answer is; and an answer is believed, so that one process asks once."""
    server = HTTPServer(("127.0.0.1", 0), _Refuses)
    threading.Thread(target=server.handle_request, daemon=True).start()  # one request, no second
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(hub, "_answers", {})
    assert hub.is_reachable()
    server.server_close()
    assert hub.is_reachable()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.is_reachable()
