"""Pictures and a question in, an answer out: the one place where encoders and language models meet."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from encoders import open_encoder
from encoders.base import Encoder, ImageEmbedding, VisionSpec, join_embeddings
from encoders.cache import CacheStats, EmbeddingCache, cache_key
from encoders.images import ImageLimits, Source, load_image, read_image
from encoders.paced import PacedEncoder
from encoders.preprocess import fit_image
from vlm.answer import Answer, Stream
from vlm.errors import ModelClosedError, NotSupportedByRuntime, OptionError, RunError
from vlm.gate import no_check
from vlm.locate import Parts, locate
from vlm.messages import message_of
from vlm.npu import Plan
from vlm.options import DEFAULT_PROMPT, NpuOptions, Pooling, RunOptions, Sampling, adapter_file, checked
from vlm.pace import Pace
from vlm.prompt import IMAGE, Message, render
from vlm.rkllm.abi import RELEASES, abi
from vlm.rkllm.library import Library, host_library, open_library
from vlm.rkllm.messages import captured
from vlm.rkllm.model import ImageTags, Model, ModelSettings, Placement, Request
from vlm.settings import Settings, load_settings
from vlm.speech import Speech
from vlm.turns import NpuTurns, Turn, open_turns

if TYPE_CHECKING:
    from vlm.profile import Profile


class VLM:
    """An open vision-language model: encode, describe, stream, chat, close. Made by `load`.

    May be used from several threads: one run at a time, the others wait. A picture is anything that
    `encoders.images.load_image` takes, or an embedding from `encode`.
    """

    def __init__(
        self,
        parts: Parts,
        library: Library,
        settings: Settings,
        *,
        npu: NpuTurns,
        threads: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.profile: Profile = parts.profile
        self._npu = npu
        self.library = library
        usual = {**self.profile.sampling.model_dump(), "max_new_tokens": self.profile.max_new_tokens}
        self._usual = checked(RunOptions, {**usual, **(options or {})})
        if RELEASES.index(library.release) < RELEASES.index(self.profile.min_release):
            raise NotSupportedByRuntime(f"Model {self.profile.name}", library.release, self.profile.min_release)
        self._cache = EmbeddingCache(settings.cache_bytes)
        self._limits = ImageLimits(max_pixels=settings.max_pixels)
        self._turn, self._encoding = Turn(), Turn()
        with ExitStack() as opened, npu.opening():
            spec = self.profile.vision
            self._encoder: Encoder | None = None
            if parts.encoder is not None:
                pace = _pace(settings, npu.plan, npu.plan.encoder if npu.plan else None)
                self._encoder = _open_encoder(parts.encoder, spec, npu.plan, pace, threads)
                opened.callback(self._encoder.close)
            tags = self.profile.tags
            self._model = Model(
                parts.llm,
                library,
                tags=ImageTags(tags.start, tags.end, tags.content),
                sampling=_sampling(self._usual),
                max_context_len=self.profile.max_context_len,
                max_new_tokens=self._usual.max_new_tokens,
                placement=_placement(npu.plan, library),
                settings=ModelSettings(
                    image_shape=(spec.tokens, spec.width * spec.outputs), sampling_per_run=settings.sampling_per_run
                ),
            )
            opened.callback(self._model.close)
            npu.settle(self._model.facts.npu_core_num)
            # The prompt is ours from here on; 1.1.4 has no template to switch off.
            if "rkllm_set_chat_template" in library.functions:
                self._model.set_chat_template("", "", "")
            self._add_to_model(settings)
            self._opened: ExitStack | None = opened.pop_all()

    def _add_to_model(self, settings: Settings) -> None:
        """Load the LoRA adapters and the prompt cache of the settings."""
        if settings.prompt_cache is not None:
            if self._encoder is not None:
                raise OptionError("A prompt cache does not go with pictures; open the model for text alone.")
            self._model.load_prompt_cache(settings.prompt_cache.expanduser())
        if settings.lora and "rkllm_load_lora" not in self.library.functions:
            raise OptionError(f"The {self.library.origin} runtime takes no LoRA adapters; leave the setting lora out.")
        for given in map(adapter_file, settings.lora):
            self._model.load_lora(given.file, given.name, given.scale)
        if self._usual.adapter not in (None, *self._model.loras):
            raise OptionError(_no_adapter(self._usual.adapter, self._model.loras))

    @property
    def name(self) -> str:
        """The profile's name."""
        return self.profile.name

    @property
    def adapters(self) -> tuple[str, ...]:
        """The LoRA adapters that a question may choose."""
        return self._model.loras

    @property
    def options(self) -> RunOptions:
        """The options of a question that gives none."""
        return self._usual

    @property
    def cache_stats(self) -> CacheStats:
        """How often an embedding was found, and how many are kept."""
        return self._cache.stats

    @property
    def plan(self) -> Plan | None:
        """Which NPU cores the encoder and the language model use; None where there is no NPU."""
        return self._npu.plan

    def encode(self, image: Source | ImageEmbedding) -> ImageEmbedding:
        """Encode one picture, to ask about it as often as wanted; the last ones encoded are kept (VLM_CACHE_BYTES).

        Returns float32 (1, tokens, width x outputs). Raises ImageError, EncoderError, ModelClosedError, and OptionError
        where the model was loaded without pictures.
        """
        return self._encode(image)[0]

    def _encode(
        self, image: Source | ImageEmbedding, check: Callable[[], None] = no_check
    ) -> tuple[ImageEmbedding, bool]:
        """A picture's embedding, and whether it was made just now; else it was given or kept."""
        if isinstance(image, ImageEmbedding):
            return image, False
        encoder, spec = self._encoder, self.profile.vision
        if encoder is None:
            raise OptionError(f"Model {self.profile.name} was loaded for text alone; load it with its encoder.")
        file = read_image(image, limits=self._limits)
        if file is not None:
            self._check_open()
            known = self._cache.get(cache_key(file.content_hash, encoder))
            if known is not None:
                return known, False
        picture = load_image(file or image, limits=self._limits, needed=spec)
        pixels = fit_image(picture, spec)
        key = cache_key(picture.content_hash, encoder)
        may_wait = partial(self._check_open, check)
        with self._encoding.take(may_wait):
            self._check_open()
            embedding = self._cache.get(key, again=file is not None)
            if embedding is not None:
                return embedding, False
            with self._npu.encoder(may_wait) if encoder.npu else nullcontext():
                embedding = encoder.encode(pixels, picture.content_hash)
            self._cache.put(key, embedding)
        return embedding, True

    def describe(self, images: Any, prompt: str = DEFAULT_PROMPT, **options: Any) -> Answer:
        """Answer one question about one picture, several (a list), or none (an empty list).

        options: fields of `vlm.options.RunOptions`; what is not given comes from the profile. Raises RkvlmError.
        """
        return self.stream(images, prompt, **options).finish()

    def stream(self, images: Any, prompt: str = DEFAULT_PROMPT, **options: Any) -> Stream:
        """Like `describe`, as an iterator over the text as it is told."""
        pictures = list(images) if isinstance(images, (list, tuple)) else [images]
        return self._run([Message("user", [*[IMAGE] * len(pictures), prompt])], pictures, options)

    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] = (), **options: Any
    ) -> Answer:
        """Answer the last message of a conversation.

        messages: {"role": "system" | "user" | "assistant", "content": text or parts}, a part being {"type": "text",
        "text": ...} or {"type": "image", "image": picture}. The whole conversation is sent each time: keep the
        embedding from `encode` in its message, so that no picture is encoded twice. tools: functions that the model may
        call, as OpenAI defines them; its calls are in `Answer.tool_calls`. The next question has them as "calls" of the
        assistant's message, and what they gave in messages of role "tool".
        """
        return self.chat_stream(messages, tools=tools, **options).finish()

    def chat_stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        check: Callable[[], None] = no_check,
        **options: Any,
    ) -> Stream:
        """Like `chat`, as an iterator over the text as it is told.

        check: called now and then while the question waits for its turn; what it raises ends the wait.
        """
        pictures: list[Any] = []
        turns = [message_of(message, pictures) for message in messages]
        return self._run(turns, pictures, options, tools, check)

    def embed(
        self,
        images: Any,
        text: str = "",
        *,
        pooling: Pooling = "mean",
        check: Callable[[], None] = no_check,
        **options: Any,
    ) -> NDArray[np.float32]:
        """Make one embedding of a text, of pictures, or of both, from the language model's last hidden layer.

        They are a user's message in the chat template, as for a question. images: a picture, or a list, empty for text
        alone. pooling: the mean over all tokens, or the last one's. check: see `chat_stream`. Returns float32 (width,)
        of length 1, so that the product of two is their likeness. Raises RkvlmError; OptionError for another pooling.
        """
        if pooling not in get_args(Pooling):
            raise OptionError(f"pooling is one of {', '.join(get_args(Pooling))}; got {pooling!r}.")
        pictures = list(images) if isinstance(images, (list, tuple)) else [images]
        message = Message("user", [*[IMAGE] * len(pictures), text])
        request, _, _ = self._request([message], pictures, options, (), check)
        may_wait = partial(self._check_usable, check)
        with self._turn.take(may_wait):
            self._check_open()
            held = self._npu.llm(may_wait)
            try:
                states = self._model.hidden_states(request)
            finally:
                held.release()
        pooled = states.mean(axis=0, dtype=np.float64) if pooling == "mean" else states[-1].astype(np.float64)
        length = np.linalg.norm(pooled)
        if not np.isfinite(length) or not length:
            raise RunError(f"The last hidden layer of {self.profile.name} is no embedding: its length is {length}.")
        return np.asarray(pooled / length, np.float32)

    def _request(
        self,
        messages: list[Message],
        pictures: list[Any],
        given: dict[str, Any],
        tools: Sequence[Mapping[str, Any]],
        check: Callable[[], None],
    ) -> tuple[Request, RunOptions, float | None]:
        """What is asked of the language model, with which options, and how long the pictures took in milliseconds."""
        started = time.perf_counter()
        options = checked(RunOptions, {**self._usual.model_dump(), **given})
        if options.adapter not in (None, *self._model.loras):
            raise OptionError(_no_adapter(options.adapter, self._model.loras))
        prompt = render(self.profile, messages, thinking=options.thinking, tools=tools)
        encoded = [self._encode(picture, check) for picture in pictures]
        embeddings = [embedding for embedding, _ in encoded]
        encode_ms = (time.perf_counter() - started) * 1e3 if any(made for _, made in encoded) else None
        spec = self.profile.vision
        request = Request(
            prompt=prompt.text,
            images=join_embeddings(embeddings).data if embeddings else None,
            image_size=(spec.height, spec.width_px) if embeddings else None,
            sampling=_sampling(options),
            max_new_tokens=options.max_new_tokens,
            stop=(*self.profile.stop, *options.stop),
            seed=options.seed,
            lora=options.adapter,
        )
        return request, options, encode_ms

    def _run(
        self,
        messages: list[Message],
        pictures: list[Any],
        given: dict[str, Any],
        tools: Sequence[Mapping[str, Any]] = (),
        check: Callable[[], None] = no_check,
    ) -> Stream:
        started = time.perf_counter()
        request, options, encode_ms = self._request(messages, pictures, given, tools, check)
        may_wait = partial(self._check_usable, check)
        with self._turn.take(may_wait) as turn:
            self._check_open()
            held = self._npu.llm(may_wait)
            try:
                # The NPU is free when the run has returned, however late its answer is read.
                generation = self._model.generate(request, on_return=held.release)
            except BaseException:
                held.release()
                raise
            kept = turn.pop_all()
        reasoning = self.profile.reasoning if options.thinking else None
        marked = self.profile.tools if tools else None
        speech = Speech(reasoning, marked) if reasoning or marked else None
        return Stream(generation, kept, model=self.profile.name, started=started, encode_ms=encode_ms, speech=speech)

    def _check_open(self, also: Callable[[], None] = no_check) -> None:
        if self._opened is None:
            raise ModelClosedError(f"Model {self.profile.name} is closed; load it again.")
        also()

    def _check_usable(self, also: Callable[[], None] = no_check) -> None:
        self._check_open(also)
        self._model.check_usable()

    def close(self) -> None:
        """Give back the encoder and the language model; a running answer is aborted. May be called twice."""
        opened, self._opened = self._opened, None
        if opened is not None:
            with self._encoding.take():
                opened.close()

    def __enter__(self) -> VLM:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _open_encoder(path: Path, spec: VisionSpec, plan: Plan | None, pace: Pace, threads: int | None) -> Encoder:
    if path.suffix.lower() != ".rknn":
        encoder = open_encoder(path, spec, threads=threads)
        return PacedEncoder(encoder, pace.encode_ms) if pace.encode_ms else encoder
    where = {"core_mask": plan.core_mask, "soc": plan.soc.name} if plan else {}
    return open_encoder(path, spec, capture=captured, **where)


def _placement(plan: Plan | None, library: Library) -> Placement:
    """Where a board's language model goes; a PC has no such places."""
    if plan is None:
        return Placement()
    choosable = library.abi.has("RKLLMExtendParam", "enabled_cpus_mask")
    return Placement(base_domain_id=plan.soc.llm_domain, cpu_mask=plan.soc.cpu_mask if choosable else None)


def _no_adapter(name: str | None, loaded: Sequence[str]) -> str:
    return f"There is no LoRA adapter {name!r} here; there are: {', '.join(loaded) or 'none'}."


def _sampling(options: RunOptions) -> Sampling:
    return Sampling(**options.model_dump(include=set(Sampling.model_fields)))


def load(
    model: str | Path | None = None,
    *,
    encoder: str | Path | None = None,
    llm: str | Path | None = None,
    library: str | Path | None = None,
    release: str | None = None,
    threads: int | None = None,
    pictures: bool = True,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> VLM:
    """Open a model.

    model: a profile's name ("qwen2-vl-2b"), a profile file, or a model directory; None takes the VLM_MODEL setting,
    else the demo. encoder, llm: files of your own. library, release: librkllmrt.so and its release, or the release that
    the host runtime is to speak. threads: of ONNX Runtime. pictures: False opens no encoder, for text alone. settings:
    fields of `vlm.settings.Settings`, in place of what the environment and vlm.toml say. options:
    fields of `vlm.options.NpuOptions`, which cores and who waits; and of `vlm.options.RunOptions` in place of the
    profile's: before release 1.3.0 a runtime fixes sampling and max_new_tokens here.

    Raises ProfileError, OptionError, CorePlanError, EncoderError, LibraryError, ModelError or NPUError.
    """
    own = load_settings(settings)
    said = checked(NpuOptions, {name: options.pop(name) for name in NpuOptions.model_fields if name in options})
    parts = locate(model, own, encoder=encoder, llm=llm, pictures=pictures)
    npu = open_turns(parts, own, said)
    threads = threads or own.threads
    if parts.side == "board":
        release = release or own.rkllm_release
        chosen = open_library(library or own.rkllm_lib, release=release, search=[parts.llm.parent])
    elif library is not None:
        raise OptionError(f"The library {library} runs .rkllm files; {parts.llm} is for ONNX Runtime. Leave it out.")
    else:
        pace = _pace(own, npu.plan, npu.plan.llm if npu.plan else None)
        chosen = _host(release or own.rkllm_release or RELEASES[-1], threads, pace)
    return VLM(parts, chosen, own, npu=npu, threads=threads, options=options)


def _pace(settings: Settings, plan: Plan | None, cores: tuple[int, ...] | None) -> Pace:
    """The pace to keep to with those cores at work; all of them where nothing says which."""
    pace = settings.pace or Pace()
    return pace.on_cores(len(cores), plan.soc.npu_cores) if plan and cores else pace


def _host(release: str, threads: int | None, pace: Pace) -> Library:
    from vlm.host import HostRuntime

    return host_library(release, HostRuntime(abi(release), threads=threads, pace=pace))
