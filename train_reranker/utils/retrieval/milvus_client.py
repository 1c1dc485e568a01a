"""Connecting to Milvus, and requests whose failures are one line."""

import logging
import os
from pathlib import Path
from typing import Any

from utils.errors import InputError, RunError

TIMEOUT, LONG_TIMEOUT = 60, 3600  # seconds for an answer, and for requests that load or write many vectors


def connect(uri: str, token: str | None = None) -> Any:
    """Return a client of the Milvus at ``uri``, creating the folder that a file is in; else ``InputError``."""
    os.environ.pop("MILVUS_URI", None)  # pymilvus reads it on import, and fails at a file's name
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError:
        raise InputError("vector_store milvus needs pymilvus: pip install -r requirements.txt") from None
    # They log tracebacks of errors that are raised here anyway, or harmless: pymilvus first asks Milvus Lite for a
    # feature that it lacks.
    for noisy in ("grpc", "milvus_lite", "pymilvus"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    is_file = "://" not in uri and not uri.startswith("unix:")
    if is_file:
        _prepare_file(uri)
    try:
        return MilvusClient(uri, token=token or "", timeout=10)
    except (MilvusException, OSError, ValueError) as error:
        if is_file:
            raise InputError(f"milvus_uri {uri}: {_why_not(uri)}") from None
        raise InputError(
            f"milvus_uri {uri}: cannot be opened ({first_line(error)}); start the server, or correct the address"
        ) from None


def _prepare_file(uri: str) -> None:
    if not uri.endswith(".db") or os.path.isfile(uri):
        raise InputError(
            f"milvus_uri {uri}: Milvus Lite keeps its vectors in a folder whose name ends in .db: name one that is not "
            "a file, such as vectors.db, or a server's address, such as http://localhost:19530"
        )
    try:
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"milvus_uri {uri}: {error.strerror}; name a folder that can be written") from None


def _why_not(file: str) -> str:
    """Return why Milvus Lite does not open a file, which pymilvus keeps to itself, and the remedy."""
    try:
        from milvus_lite import MilvusLite
        from milvus_lite.exceptions import DataDirLockedError
    except ImportError:
        return "a file needs milvus-lite: pip install -r requirements.txt"
    try:
        MilvusLite(file).close()
    except DataDirLockedError:
        return "another process has it open: wait for it, name another file, or start a server for several"
    except Exception as error:  # damaged files raise anything
        return f"Milvus Lite cannot open it ({first_line(error)}); name another, or move it away"
    return "Milvus Lite does not start; run again"


def ask(call: Any, *args: Any, timeout: float = TIMEOUT, **kwargs: Any) -> Any:
    """Call a method of a client; ``RunError`` if Milvus refuses, or does not answer within ``timeout`` seconds."""
    from pymilvus.exceptions import MilvusException

    try:
        return call(*args, timeout=timeout, **kwargs)
    except (MilvusException, TypeError, ValueError) as error:  # pymilvus checks some values by converting them
        raise RunError(f"Milvus failed ({first_line(error)}); what is loaded is kept, run again to resume") from error


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    message = str(getattr(error, "message", "") or error).strip()
    return message.splitlines()[0] if message else type(error).__name__
