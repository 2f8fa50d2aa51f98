"""A model on a running service, with the methods of one on this machine: encode, stream, chat_stream, embed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from encoders.images import read_image
from vlm.answer import Answer
from vlm.engine.faults import to_error
from vlm.engine.messages import Fault
from vlm.errors import ImageError, OptionError, PromptError, RkvlmError, ServiceUnreachableError, UnknownModelError
from vlm.options import DEFAULT_PROMPT, Pooling
from vlm.speech import Thought

CONNECT_S = 10.0
_OPENAI_CODES = {"invalid_api_key": "UnauthorizedError", "model_not_found": "UnknownModelError"}
"""Errors that OpenAI has names of its own for; of the others, its protocol has our class in the same place."""


@dataclass(frozen=True)
class SentPicture:
    """A picture's file, to be sent with each question about it. The service keeps its embedding."""

    data: bytes


class RemoteVLM:
    """A model that a service has, made by `connect`. One thread at a time.

    Answers come from POST /v1/describe, embeddings from POST /v1/embeddings.
    """

    def __init__(self, url: str, api_key: str | None, options: Mapping[str, Any]) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = url
        self._options = dict(options)
        try:
            self._http = httpx.Client(
                base_url=url.rstrip("/"), headers=headers, timeout=httpx.Timeout(None, connect=CONNECT_S)
            )
            with self._talking():
                info = _checked(self._http.get("/v1/info")).json()
            self.name = str(info["model"]["name"])
        except (httpx.InvalidURL, LookupError, TypeError, ValueError) as exc:
            raise ServiceUnreachableError(
                f"There is no rkvlm service at {url}: {exc}. Give its address as http://HOST:PORT."
            ) from exc

    def encode(self, image: Any) -> SentPicture:
        """Read a picture's file: a path, its bytes, or a binary file object. Raises ImageError, ImageTooLargeError."""
        if isinstance(image, SentPicture):
            return image
        file = read_image(image)
        if file is None:
            raise ImageError(f"A picture for a service is a file or its bytes; got pixels, {type(image).__name__}.")
        return SentPicture(file.data)

    def stream(self, images: Any, prompt: str = DEFAULT_PROMPT, **options: Any) -> RemoteStream:
        """Ask one question about one picture, several (a list), or none (an empty list)."""
        pictures = images if isinstance(images, (list, tuple)) else [images]
        parts = [*({"type": "image", "image": picture} for picture in pictures), {"type": "text", "text": prompt}]
        return self.chat_stream([{"role": "user", "content": parts}], **options)

    def chat_stream(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> RemoteStream:
        """Ask the last message of a conversation, see `vlm.VLM.chat`. Raises RkvlmError."""
        pictures: list[bytes] = []
        turns = [self._turn(message, pictures) for message in messages]
        if not turns or turns[-1]["role"] != "user":
            raise PromptError("The last message must be from the user.")
        given = {**self._options, **options}
        form: list[tuple[str, Any]] = [("image", ("image", data)) for data in pictures]
        form += [("prompt", (None, turns[-1]["content"])), ("history", (None, json.dumps(turns[:-1])))]
        for name, value in given.items():
            values = value if isinstance(value, (list, tuple)) else [value]
            form += [(name, (None, str(each))) for each in values if each is not None]
        request = self._http.build_request("POST", "/v1/describe", files=form, headers={"Accept": "text/event-stream"})
        with self._talking():
            response = self._http.send(request, stream=True)
            if response.is_error:
                response.read()
        return RemoteStream(_checked(response), self.name, self._url)

    def embed(
        self, images: Any, text: str = "", *, pooling: Pooling = "mean", adapter: str | None = None
    ) -> NDArray[np.float32]:
        """Make one embedding of a text, of pictures, or of both, see `vlm.VLM.embed`. Raises RkvlmError."""
        options = {**self._options, **({"adapter": adapter} if adapter else {})}
        adapter = options.pop("adapter", None)
        if options:
            raise OptionError(f"An embedding from a service takes no option {min(options)}; leave it out.")
        parts: list[dict[str, Any]] = []
        for image in images if isinstance(images, (list, tuple)) else [images]:
            data = base64.b64encode(self.encode(image).data).decode("ascii")
            parts.append({"type": "image_url", "image_url": {"url": f"data:;base64,{data}"}})
        asked = {
            "model": f"{self.name}@{adapter}" if adapter else self.name,
            "input": [[*parts, {"type": "text", "text": text}]],
            "pooling": pooling,
            "encoding_format": "base64",
        }
        with self._talking():
            made = _checked(self._http.post("/v1/embeddings", json=asked)).json()
        return np.frombuffer(base64.b64decode(made["data"][0]["embedding"]), "<f4").astype(np.float32)

    def _turn(self, message: Mapping[str, Any], pictures: list[bytes]) -> dict[str, Any]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        before = len(pictures)
        pictures += [self.encode(part["image"]).data for part in parts if part["type"] == "image"]
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        return {"role": message["role"], "content": text, "images": len(pictures) - before}

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as exc:
            raise ServiceUnreachableError(
                f"The service at {self._url} does not answer: {str(exc).rstrip('.')}. See that `vlm serve` runs there "
                "(--host lets other machines in), and that its address is http://HOST:PORT."
            ) from exc

    def close(self) -> None:
        """Close the connection. May be called twice."""
        self._http.close()

    def __enter__(self) -> RemoteVLM:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class RemoteStream:
    """An answer as the service tells it: an iterator over pieces of text. Closing it ends the answer there too."""

    def __init__(self, response: httpx.Response, model: str, url: str) -> None:
        self._stack = ExitStack()
        self._stack.callback(response.close)
        self._events = _events(response)
        self._url = url
        self._pieces: list[str] = []
        self._figures = Answer("", model, "abort", None, None, None, None, None)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            for name, data in self._events:
                if name in ("token", "thought"):
                    self._pieces.append(Thought(data["text"]) if name == "thought" else data["text"])
                    return self._pieces[-1]
                if name == "error":
                    raise _error(data)
                if name == "done":
                    known = {field.name for field in fields(Answer)}
                    self._figures = Answer(**{key: value for key, value in data.items() if key in known})
                    raise StopIteration
            raise ServiceUnreachableError(
                f"The service at {self._url} ended the connection before the answer's end. Ask again; its log says why."
            )
        except httpx.HTTPError as exc:
            self.close()
            raise ServiceUnreachableError(f"The connection to {self._url} broke: {exc}. Ask again.") from exc
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the answer. May be called twice."""
        self._stack.close()

    def __enter__(self) -> RemoteStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def answer(self) -> Answer:
        """What was told so far, with its figures once it is over."""
        text = "".join(piece for piece in self._pieces if not isinstance(piece, Thought))
        thought = "".join(piece for piece in self._pieces if isinstance(piece, Thought))
        return replace(self._figures, text=text, reasoning=thought)


def connect(url: str, *, api_key: str | None = None, model: str | None = None, **options: Any) -> RemoteVLM:
    """Use the model of a running service (`vlm serve`) at `url`, as "http://board.local:8080".

    model: its name, where only that one will do, or "name@adapter" for one of its LoRA adapters. options: fields of
    `vlm.options.RunOptions` for every question.
    Raises ServiceUnreachableError, UnauthorizedError, UnknownModelError.
    """
    name, _, adapter = (model or "").partition("@")
    remote = RemoteVLM(url, api_key, options | ({"adapter": adapter} if adapter else {}))
    if name not in ("", remote.name):
        remote.close()
        raise UnknownModelError(
            f"The service at {url} has the model {remote.name}, not {model}. Ask for that one, or name none."
        )
    return remote


def _events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """The server-sent events of a response: name and data."""
    name = ""
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def _checked(response: httpx.Response) -> httpx.Response:
    """The response, unless it is an error: that is raised, in the class that the service names."""
    if not response.is_error:
        return response
    try:
        raise _error(response.json())
    except (ValueError, LookupError, TypeError) as exc:
        text = (
            f"The service answered with status {response.status_code}, not as rkvlm does. See what listens at its "
            "address: another program, or a proxy before it."
        )
        raise ServiceUnreachableError(text) from exc


def _error(data: Mapping[str, Any]) -> RkvlmError:
    """The error that a service tells of, in its own class, which has the exit code."""
    error = data["error"]
    kind = str(error.get("code") or error["type"])
    return to_error(Fault(_OPENAI_CODES.get(kind, kind), str(error["message"])))
