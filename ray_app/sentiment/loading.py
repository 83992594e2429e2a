"""From a folder that ``models.inspect`` found whole to a transformers model in memory, or a typed reason why not.

transformers itself is lenient: it fills weights that a file lacks with random numbers and drops those it has no place
for. Here both are errors, for either gives a classifier that looks well and knows nothing.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

from ray_app.errors import ModelIncomplete, ModelOutOfMemory, ModelUnsuitable
from ray_app.sentiment.models import LocalModel
from ray_app.sentiment.tokens import Tokens

#: positions of these start after the padding id: two of the table's 514 rows are never a token's
POSITIONS_AFTER_PADDING: Final = frozenset({"roberta", "xlm-roberta", "camembert"})
#: transformers writes 1e30 where a tokenizer knows no limit
NO_LIMIT: Final = 1_000_000
#: the fewest tokens a model must take: two special ones and one of the text
FEWEST_TOKENS: Final = 3


def load_model(local: LocalModel, dtype: torch.dtype) -> Any:
    """The classifier in eval mode on the CPU, in ``dtype`` whatever the file's is.

    Raises ModelIncomplete (the file cannot be read), ModelUnsuitable (its tensors are not this architecture's) and
    ModelOutOfMemory.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    messages: Any = logging
    messages.disable_progress_bar()
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            local.path,
            dtype=dtype,
            use_safetensors=local.safetensors,
            weights_only=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        if out_of_memory(error):
            why = "its weights do not fit the memory left; choose a smaller model, or free some"
            raise ModelOutOfMemory(local.name, why) from error
        why = f"{local.path}: its weights and its config.json do not belong together, or the architecture is unknown"
        raise ModelUnsuitable(local.name, f"{why} ({_first_line(error)})") from error
    except Exception as error:  # safetensors and pickle each raise their own; all mean: not readable
        raise ModelIncomplete(local.name, f"{local.path}: unreadable ({_first_line(error)}); fetch it anew") from error
    lost = sorted(key for key in found["unexpected_keys"] if ".layer." in key)
    if found["missing_keys"] or lost:
        keys = ", ".join([*sorted(found["missing_keys"]), *lost][:3])
        why = f"{local.path}: {type(model).__name__} lacks weights or has too many of them ({keys} …)"
        raise ModelUnsuitable(local.name, f"{why}; it is another architecture, or no fine-tuned classifier")
    return model.eval().requires_grad_(False)


def out_of_memory(error: BaseException) -> bool:
    """A GPU's allocator has a class for it; the CPU's only says so."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def load_tokens(local: LocalModel, config: Any) -> Tokens:
    """The tokenizer, limited to what the model can read. Raises ModelIncomplete and ModelUnsuitable."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(local.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the tokenizers' Rust raises bare Exception
        why = f"{local.path}: its tokenizer cannot be read ({_first_line(error)}); fetch it anew"
        raise ModelIncomplete(local.name, why) from error
    if not tokenizer.is_fast:
        raise ModelUnsuitable(local.name, f"{local.path}: {type(tokenizer).__name__} has no fast form (tokenizer.json)")
    if len(tokenizer) > config.vocab_size:
        why = f"{local.path}: the tokenizer knows {len(tokenizer)} tokens, the model {config.vocab_size}"
        raise ModelUnsuitable(local.name, f"{why}: they do not belong together")
    return Tokens(tokenizer.backend_tokenizer, max_tokens(local, config, tokenizer), tokenizer.unk_token_id)


def max_tokens(local: LocalModel, config: Any, tokenizer: Any) -> int:
    """How many tokens, special ones included, the model has positions for and its tokenizer allows."""
    positions: int = config.max_position_embeddings
    if config.model_type in POSITIONS_AFTER_PADDING:
        positions -= config.pad_token_id + 1
    limit = tokenizer.model_max_length
    longest = min(positions, int(limit)) if limit and limit < NO_LIMIT else positions
    if longest < FEWEST_TOKENS:
        raise ModelUnsuitable(local.name, f"{local.path}: it reads {longest} tokens at most")
    return longest


def pad_id(model: nn.Module) -> int:
    """What stands beyond a text's end; masked, so any id does where the config names none."""
    found = getattr(model.config, "pad_token_id", None)
    return found if isinstance(found, int) else 0


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
