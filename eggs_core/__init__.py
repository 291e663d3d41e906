"""Expander-guided N:M pruning of decoder-only language models.

Importing this package imports nothing heavy: `pattern`, `spec`, `report` and `errors` need only pydantic,
so that an API process can share them; every other module needs torch and transformers. Once transformers is there,
before or after, it can load packed checkpoints: `AutoModelForCausalLM.from_pretrained(folder)`.
"""

from types import ModuleType

import wrapt


def _teach_transformers(module: ModuleType) -> None:
    from eggs_core import quantizer  # noqa: F401 - registers itself


wrapt.register_post_import_hook(_teach_transformers, "transformers.quantizers.auto")
