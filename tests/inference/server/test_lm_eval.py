"""lm-eval's `local-completions` asks the server as it asks any other, and gets the engine's likelihoods and texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from herdbook.inference.engine import Sampling
from tests.support.servers import TOKENIZER, Running, chat_engine

pytest.importorskip("lm_eval", reason="lm-eval is not installed")


@pytest.mark.parametrize("concurrent", [1, 3])
def test_likelihoods_and_texts_are_the_engines(server: Running, tmp_path: Path, concurrent: int) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    TOKENIZER.save(tmp_path)
    judge: Any = LocalCompletionsAPI(
        model="base",
        base_url=f"http://127.0.0.1:{server.port}/v1/completions",
        tokenizer_backend="huggingface",
        tokenizer=str(tmp_path),
        num_concurrent=concurrent,
        batch_size=2,
        max_length=512,
        add_bos_token=True,
        seed=1,
    )
    pairs = [("Once upon", " a time"), ("Once upon", " the"), ("Q: 1+1\nA:", " 2"), ("grün", " 🐄!")]
    got = judge.loglikelihood([Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(pairs)])
    engine = chat_engine(1, taught=False)
    prompts = [TOKENIZER.encode(before, bos=True) for before, _ in pairs]
    want = engine.score(prompts, [TOKENIZER.encode(after) for _, after in pairs])
    assert [logprob for logprob, _ in got] == pytest.approx([score.logprob for score in want], abs=1e-3)
    assert [greedy for _, greedy in got] == [score.greedy for score in want]
    greedy = engine.generate([prompts[0]], Sampling(max_tokens=20))[0].text
    arguments = ("Once upon", {"until": [greedy[8:10]], "max_gen_toks": 20, "temperature": 0})
    texts = judge.generate_until([Instance("generate_until", {}, arguments, 0)])
    assert texts == [engine.generate([prompts[0]], Sampling(max_tokens=20, stop=(greedy[8:10],)))[0].text]
