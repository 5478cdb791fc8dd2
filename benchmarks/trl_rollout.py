"""TRL's side of the rollout comparison; runs in `.venv-trl` (make sets it up).

Search is given to GRPOTrainer as users give it: `tools=[search]`, so that TRL's own lock-step tool loop does the
work (generate for all, call the tools one after another, append, generate again for those that called one).
With `rollout_func` the loop would be the user's own code and nothing of TRL's would be measured. The tokens are
ours: the chat template renders a question as our prompt and a result as our observation, a response template
reads our search tag as a tool call, and turns end at our closing tags and at our token limit.
One difference remains and favours TRL: a turn without a search ends the episode, invalid ones included.
"""

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from benchmarks.lock_step import end_ids
from benchmarks.search_world import Workload, model_of, questions_of, searcher_of
from benchmarks.sides import serve
from components.agent.prompt import TEMPLATES, passages_text

CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}{{ '\\n\\n<information>' + m.content + '</information>\\n\\n' }}"
    "{% elif m.tool_calls %}{% for call in m.tool_calls %}"
    "{{ '<search>' + call.function.name + (call.function.arguments | tojson) + '</search>' }}{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    # Every prompt and every observation ends with an empty line.
    "start_anchor": "\n\n",
    "fields": {
        "tool_calls": {
            "open": "<search>",
            "close": "</search>",
            "repeats": True,
            "content": "text",
            "transform": {"type": "function", "function": {"name": "search", "arguments": {"query": "{content}"}}},
        },
        "content": {"content": "text"},
    },
}


def prepare(settings: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    """Return the measurement of TRL's generation."""
    torch.set_num_threads(settings["threads"])
    workload = Workload(**settings["workload"])
    trainer = _trainer(workload)
    wording = TEMPLATES[workload.loop.template].with_search

    def measure(repeat: int) -> dict[str, Any]:
        questions = questions_of(workload, repeat)
        prompts = [[{"role": "user", "content": wording.format(question=question)}] for question in questions]
        torch.manual_seed(repeat + 1)
        started_s, masks, searches = time.perf_counter(), [], 0
        for begin in range(0, len(prompts), workload.num_slots):
            batch = prompts[begin : begin + workload.num_slots]
            trainer._sync_tool_dicts = [{tool.__name__: tool for tool in trainer.tools}] * len(batch)
            trainer._async_tool_dicts = [{}] * len(batch)
            _, _, tool_mask, completions, *_ = trainer._generate(batch)
            masks += tool_mask
            searches += sum(message["role"] == "tool" for messages in completions for message in messages)
        seconds = time.perf_counter() - started_s
        tokens = sum(map(sum, masks))
        return {"seconds": seconds, "tokens": tokens, "episodes": len(masks), "searches": searches}

    return measure


def _trainer(workload: Workload) -> GRPOTrainer:
    model, tokenizer = model_of(workload)
    loop, searcher = workload.loop, searcher_of(workload)
    tokenizer.chat_template, tokenizer.response_template = CHAT_TEMPLATE, RESPONSE_TEMPLATE
    tokenizer.padding_side = "left"
    model.generation_config.eos_token_id = end_ids(tokenizer)

    def search(query: str) -> str:
        """Search the corpus.

        Args:
            query: What to look for.

        Returns:
            The passages found.
        """
        (found,) = searcher.search([query], loop.top_k)
        return passages_text(found, tokenizer)

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="trl-"),
        use_cpu=True,
        bf16=False,
        fp16=False,
        report_to=[],
        per_device_train_batch_size=workload.num_slots,
        num_generations=2,
        max_completion_length=loop.max_context_tokens,
        max_tool_calling_iterations=loop.max_searches,
        temperature=workload.temperature,
        top_p=1.0,
        top_k=0,
        generation_kwargs={"max_new_tokens": loop.max_turn_tokens},
        gradient_checkpointing=False,
        beta=0.0,
    )
    return GRPOTrainer(
        model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "?"}]}] * 2),
        processing_class=tokenizer,
        tools=[search],
    )


if __name__ == "__main__":
    serve(prepare)
