"""State objects as bytes: the last thing before they leave the process, and the first after they came back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class Codec(Protocol[T]):
    """Turns the state objects of one workflow type into bytes and back.

    The server never looks into the bytes, so a codec may encrypt or compress. It is called on the event loop: keep it
    short. Bytes that differ for one and the same object (a random nonce, say) make every periodic checkpoint a new one.
    """

    def encode(self, data: T) -> tuple[str, bytes]:
        """The content type, up to 255 bytes, and the bytes, at most the server's ``snapshot_bytes_max`` (3 MiB by
        default).

        A version of the schema travels as a parameter: ``application/json;version=3``.
        """

    def decode(self, content_type: str, content: bytes) -> T:
        """The object that :meth:`encode` was given, for the content type and the bytes that it returned."""


class JsonCodec(Generic[T]):
    """JSON in UTF-8: for what the json module takes, and for dataclasses whose fields are so."""

    content_type = "application/json"

    def __init__(self, data_type: type[T] | None = None) -> None:
        """
        :param data_type: a dataclass, whose constructor is given the fields when an object comes back; None for plain
            values.
        """
        if data_type is not None and not dataclasses.is_dataclass(data_type):
            raise TypeError(f"{data_type.__name__} is not a dataclass: write a codec of your own for it")
        self._data_type = data_type

    def encode(self, data: T) -> tuple[str, bytes]:
        """See :meth:`Codec.encode`.

        :raises TypeError: the object is not one of JSON's.
        """
        plain: Any = data
        if dataclasses.is_dataclass(data) and not isinstance(data, type):
            plain = dataclasses.asdict(data)
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        return self.content_type, text.encode("utf-8")

    def decode(self, content_type: str, content: bytes) -> T:
        """See :meth:`Codec.decode`.

        :raises ValueError: the bytes are not JSON.
        """
        if content_type.partition(";")[0].strip() != self.content_type:
            raise ValueError(f'the snapshot is "{content_type}", and this codec reads "{self.content_type}"')
        plain: Any = json.loads(content)
        data: T = self._data_type(**plain) if self._data_type else plain
        return data
