"""The card of the bundled tiny model: what it has and has not seen."""

from components.base_model.config import RecipeConfig


def small_world_card(recipe: RecipeConfig) -> str:
    """Return the Markdown card for a model made by `recipe`."""
    walk, reading = recipe.walk_frac, 1 - recipe.walk_frac
    rows = recipe.steps * recipe.rows_per_step
    return f"""# Tiny base model of the small world

A `Qwen2ForCausalLM` of {recipe.num_layers} layers, width {recipe.hidden_size}, heads of 32, with a byte-level
tokenizer that has one piece per word of the world. It is a stand-in for a pretrained language model: it knows
the words, can read, can copy, and knows the syntax of the tags. It does not know how to search.

## What it has seen
{rows:,} rows drawn from fresh random worlds (seed {recipe.seed}), each world thrown away after one batch:

* {reading:.0%} reading comprehension **without any tag**: a question, one or more documents, the answer. From
  {recipe.two_hop_from_frac:.0%} of the steps on, {recipe.two_hop_frac:.0%} of these need two documents.
* {walk:.0%} **uninformed transcripts** in the format of the search loop. The number of searches is drawn blindly (one
  with probability .85, each further one with .7, at most three). Queries are names drawn at random from what is in
  view (65 %) or random words (35 %). The answer is the title of the first document (40 %) or a random name in view.
  None of it depends on what the question asks.

## What it has not seen
* A demonstration of a purposeful search: no query, no decision to stop and no answer in a tagged transcript was
  chosen because it helps. An uninformed transcript is right by accident only.
* Any entity of a test set: test names are pairs of words that are never drawn for pretraining or training.
* Any two-hop question over a relation pair held out for the bamboogle set.
* Comparison and inference questions, three- and four-hop questions.
* Any text about the real world.

Questions of the one-hop and the trained two-hop wordings occur in it, with other entities.

## How it was made
`python -m components.base_model --set source=recipe://small-world` makes it again from the settings in
`recipe.json`; `pretraining.jsonl` is the log. Two attention layers start with heads planted to copy (the token
after an earlier occurrence of the current one); everything else starts at random, and training may change every
number. No weights came from elsewhere. The forward pass ran under bfloat16 autocast on a CPU, weights and optimizer
were float32.

## Limits
It speaks nothing but the language of the small world. Licence: that of the project.
"""
