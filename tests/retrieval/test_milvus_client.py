"""Connecting to Milvus: what cannot be opened is refused in one line."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from utils.errors import InputError
from utils.retrieval.milvus_client import connect
from utils.retrieval.retriever import Retriever

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")


def test_address_where_nothing_answers_is_refused() -> None:
    with pytest.raises(InputError, match=r"milvus_uri http://127\.0\.0\.1:9: cannot be opened") as refused:
        connect("http://127.0.0.1:9")
    assert "\n" not in str(refused.value)


def test_file_that_cannot_be_used_is_refused(retriever: Retriever, tmp_path: Path) -> None:
    (tmp_path / "old.db").write_text("an older version's file")
    for name in ("old.db", "vectors.sqlite"):
        with pytest.raises(InputError, match=f"milvus_uri .*{name}: Milvus Lite keeps its vectors in a folder"):
            connect(str(tmp_path / name))
    with pytest.raises(InputError, match=r"milvus_uri .*: .*; name a folder that can be written"):
        connect(str(tmp_path / "old.db" / "vectors.db"))
    with pytest.raises(InputError, match=r"milvus_uri .*: Milvus Lite cannot open it \(.*too long"):
        connect(str(tmp_path / f"{'n' * 300}.db"))
    for address in (f"unix:{tmp_path}/none.sock", "ftp://host", "http://127.0.0.1:port"):
        with pytest.raises(InputError, match="cannot be opened") as refused:
            connect(address)
        assert "\n" not in str(refused.value)


def test_missing_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pymilvus"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="needs pymilvus"):
        connect("vectors.db")
