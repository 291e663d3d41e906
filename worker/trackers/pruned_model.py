"""The code of a registered model: MLflow keeps this file with the checkpoint, and runs it to load the model."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

CHECKPOINT = "checkpoint"
MAX_NEW_TOKENS = 64


class PrunedModel(PythonModel):
    """Continues texts by greedy decoding. `model` and `tokenizer` are those of transformers."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the checkpoint beside this file."""
        from eggs_core.whole import load  # not earlier, as this file is also run where the model is registered

        self.model, self.tokenizer = load(Path(__file__).parent / CHECKPOINT)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str]:
        """The continuation of each text in the first column, without the text."""
        from eggs_core.whole import continuation

        longest = (params or {}).get("max_new_tokens", MAX_NEW_TOKENS)
        return [continuation(self.model, self.tokenizer, text, longest)[0] for text in model_input.iloc[:, 0]]


mlflow.models.set_model(PrunedModel())
