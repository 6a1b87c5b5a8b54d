"""vLLM behind the engine's own interface (extra `vllm`): the same calls, settings and results on a fleet of GPUs.

`generate` and `score` call `LLM.generate`, vLLM's stable interface; `submit`, `step`, `stream` the engine beneath it.
Text is made here, from the tokens that come back, so it ends and streams as ours does. Chance is vLLM's own: an answer
is chosen by seed, prompt and number as with ours, but it is another one, and rounding may change it with the batch.
Written against vLLM 0.11 and tried with a stand-in for its interface alone, never with vLLM itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herdbook.inference.base import BaseEngine
from herdbook.inference.layout import Layout
from herdbook.inference.request import Completion, Request, TokenLogprob
from herdbook.inference.sampler import Sampling
from herdbook.inference.scheduler import Load
from herdbook.inference.score import Score, check_pairs
from herdbook.inference.stops import read_stop_ids
from herdbook.model.huggingface import read_config
from herdbook.settings import UserError
from herdbook.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Form:
    """What an answer must keep to, as vLLM is told it; a `Sampling.constraint` for `VLLMEngine`."""

    kind: str
    """json, json_object, regex, choice or grammar."""

    value: Any
    """The schema, pattern, texts or grammar."""

    def copy(self) -> Form:
        """The same form, for another answer: vLLM keeps what follows the answer."""
        return self


class Forms:
    """Makes forms as `constrain.Guide` makes constraints."""

    def json_schema(self, schema: dict[str, Any] | bool) -> Form:
        """JSON that the schema takes."""
        return Form("json", schema if isinstance(schema, dict) else {})

    def json_object(self) -> Form:
        """Any JSON object."""
        return Form("json_object", True)

    def regex(self, pattern: str) -> Form:
        """A text that the whole pattern matches."""
        return Form("regex", pattern)

    def choice(self, texts: Sequence[str]) -> Form:
        """One of these texts."""
        return Form("choice", list(texts))

    def lark(self, grammar: str) -> Form:
        """What a Lark grammar derives from `start`."""
        return Form("grammar", grammar)


class VLLMEngine(BaseEngine):
    """A Hugging Face folder run by vLLM."""

    def __init__(self, llm: Any, folder: Path, rows: int = 64) -> None:
        """`llm`: a `vllm.LLM` of the folder; `rows`: most answers it writes at once."""
        self.llm, self.rows = llm, rows
        self.config, self.tokenizer = read_config(folder), Tokenizer.load(folder)
        self.stop_ids = frozenset(read_stop_ids(folder) or [self.tokenizer.eos_id])
        self.limit = int(llm.llm_engine.model_config.max_model_len)
        self.words = {rank: data for data, rank in self.tokenizer.ranks.items()}
        self.at_work: dict[str, Request] = {}
        self.submitted = 0

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: str | None = None,
        dtype: Any = None,
        rows: int = 64,
        layout: Layout | None = None,
        **more: Any,
    ) -> VLLMEngine:
        """The model of a Hugging Face folder on this machine's GPUs; `more` goes to `vllm.LLM`.

        UserError when vLLM is not installed, or `device` is something else than cuda.
        """
        folder, layout = Path(folder), layout or Layout()
        if device not in (None, "cuda"):
            raise UserError(f"device={device}: vLLM chooses its devices itself; leave it out, or take backend=own")
        if layout.micro_batches:
            raise UserError(f"micro_batches={layout.micro_batches}: vLLM cuts its batches itself; leave it out")
        llm = module().LLM(
            model=str(folder),
            dtype="auto" if dtype is None else str(dtype).removeprefix("torch."),
            tensor_parallel_size=layout.tensor_parallel,
            pipeline_parallel_size=layout.pipeline_parallel,
            max_num_seqs=rows,
            enable_prefix_caching=True,
            seed=0,
            **more,
        )
        return cls(llm, folder, rows)

    @property
    def workload(self) -> Load:
        """See `BaseEngine`; vLLM's blocks are not told."""
        running = min(len(self.at_work), self.rows)
        return Load(running, len(self.at_work) - running, 0, 0)

    def submit(self, prompt: Sequence[int], sampling: Sampling | None = None, *, number: int = 0) -> Request:
        """See `BaseEngine`."""
        request = self.request(prompt, sampling, number)
        name = str(self.submitted)
        self.submitted += 1
        with told():
            self.llm.llm_engine.add_request(name, self.prompt(request), self.params(request))
        self.at_work[name] = request
        return request

    def step(self) -> list[Request]:
        """See `BaseEngine`."""
        if not self.at_work:
            return []
        changed = []
        for output in self.llm.llm_engine.step():
            request = self.at_work.get(output.request_id)
            if request is None:
                continue  # it was cancelled
            self.take(request, output)
            changed.append(request)
            if request.finish is not None:
                del self.at_work[output.request_id]
        return changed or list(self.at_work.values())[:1]  # not empty while something is left to do

    def cancel(self, request: Request) -> None:
        """See `BaseEngine`."""
        names = [name for name, one in self.at_work.items() if one is request]
        if names:
            self.llm.llm_engine.abort_request(names)
            del self.at_work[names[0]]

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        sampling: Sampling | Sequence[Sampling] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[Completion]:
        """See `BaseEngine`."""
        requests = [self.request(*asked) for asked in self.asks(prompts, sampling, numbers)]
        for request, output in zip(requests, self._outputs(requests), strict=True):
            self.take(request, output)
        return [request.completion for request in requests]

    def score(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[Score]:
        """See `BaseEngine`. vLLM reads a continuation's last token too, so one token less fits the context."""
        check_pairs(prompts, continuations, self.limit - 1)
        whole = [[*prompt, *end] for prompt, end in zip(prompts, continuations, strict=True)]
        asked = [at for at, end in enumerate(continuations) if end]
        sampling = Sampling(max_tokens=0, prompt_logprobs=0)
        requests = [self.request(whole[at], sampling, 0) for at in asked]
        scores = [Score(0.0, 0, True)] * len(prompts)
        for at, output in zip(asked, self._outputs(requests), strict=True):
            ends = output.prompt_logprobs[len(prompts[at]) :]
            found = [place[token] for token, place in zip(continuations[at], ends, strict=True)]
            greedy = all(one.rank == 1 for one in found)
            scores[at] = Score(sum(one.logprob for one in found), len(found), greedy)
        return scores

    def _outputs(self, requests: list[Request]) -> list[Any]:
        if not requests:
            return []
        with told():
            found: list[Any] = self.llm.generate(
                [self.prompt(request) for request in requests],
                [self.params(request) for request in requests],
                use_tqdm=False,
            )
        return found

    def prompt(self, request: Request) -> Any:
        """The prompt's tokens as vLLM takes them."""
        return module().TokensPrompt(prompt_token_ids=request.prompt)

    def params(self, request: Request) -> Any:
        """The settings of an answer as vLLM has them."""
        sampling, vllm = request.sampling, module()
        more: dict[str, Any] = {}
        if sampling.constraint is not None:
            more = structured(vllm, sampling.constraint)
        if sampling.temperature > 0:
            more["seed"] = request.key % 2**63
        ends = set(sampling.stop_ids) | (set() if sampling.ignore_end else self.stop_ids)
        return vllm.SamplingParams(
            n=1,
            max_tokens=max(1, request.room),  # it always draws one
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            logit_bias=dict(sampling.logit_bias) or None,
            stop=[text for text in sampling.stop if text] or None,
            stop_token_ids=sorted(ends),
            ignore_eos=sampling.ignore_end,
            logprobs=sampling.logprobs,
            prompt_logprobs=sampling.prompt_logprobs,
            detokenize=any(sampling.stop),  # the text is made here; vLLM needs it to see a stop text
            **more,
        )

    def take(self, request: Request, output: Any) -> None:
        """Bring a request up to what vLLM has told of it so far."""
        answer = output.outputs[0]
        request.cached = output.num_cached_tokens or 0
        request.piece = ""
        if request.prompt_logprobs is not None and output.prompt_logprobs and len(request.prompt_logprobs) == 1:
            tops = request.sampling.prompt_logprobs or 0
            pairs = zip(request.prompt[1:], output.prompt_logprobs[1:], strict=True)
            request.prompt_logprobs += [logprob_of(token, place, tops) for token, place in pairs]
        if request.room == 0:  # only its prompt was to be read
            request.finish = "length" if output.finished else None
            return
        new = list(answer.token_ids)[len(request.ids) :]
        if request.logprobs is not None:
            places = answer.logprobs[len(request.ids) :]
            tops = request.sampling.logprobs or 0
            request.logprobs += [logprob_of(token, place, tops) for token, place in zip(new, places, strict=True)]
        ends = set(request.sampling.stop_ids) | (set() if request.sampling.ignore_end else self.stop_ids)
        for token in new:
            request.ids.append(token)
            request.tokens.append(token)
            data = None if token in ends else self.words.get(token)  # what ends an answer is no part of its text
            if data is not None:
                request.piece += request.growing.feed(data)
        if output.finished:
            request.finish = "stop" if answer.finish_reason == "stop" else "length"
            request.piece += request.growing.finish()


class told:
    """What vLLM finds wrong with a request (a ValueError) is the user's to mend."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError) and not isinstance(error, UserError):
            raise UserError(f"vLLM refuses the request: {error}") from error


def module() -> Any:
    """The library; UserError when it is not installed."""
    try:
        import vllm
    except ImportError as error:
        raise UserError(
            f"backend: vLLM cannot be imported ({error}); pip install 'herdbook[vllm]' on a machine with GPUs, or take "
            "backend=own"
        ) from None
    return vllm


def structured(vllm: Any, form: Any) -> dict[str, Any]:
    """A form as a setting of `SamplingParams`, whose name has changed with releases."""
    if not isinstance(form, Form):
        raise UserError("constraint: vLLM keeps to forms that it makes itself; take one from vllm_engine.Forms")
    kinds = vllm.sampling_params
    if hasattr(kinds, "StructuredOutputsParams"):
        return {"structured_outputs": kinds.StructuredOutputsParams(**{form.kind: form.value})}
    return {"guided_decoding": kinds.GuidedDecodingParams(**{form.kind: form.value})}


def logprob_of(token: int, place: Mapping[int, Any], tops: int) -> TokenLogprob:
    """How likely a token was, of what vLLM tells of its place: the likeliest ones and the token itself."""
    best: Iterable[tuple[int, Any]] = sorted(place.items(), key=lambda item: item[1].rank)
    likeliest = [(other, float(one.logprob)) for other, one in best][:tops]
    return TokenLogprob(token, float(place[token].logprob), likeliest)
