"""Examples for the OpenAPI document."""

from typing import Any

from pydantic import ConfigDict

from eggs_core.spec import AcceptIf, ComparedSpec, Method, PruneSpec

JOB_ID = "job_01jv3k0s9e6x7q2m4n8p5r1t0w"
SPEC: dict[str, Any] = PruneSpec(
    model="smollm2-135m-instruct",
    compare=(ComparedSpec(method=Method.RIA),),
    accept_if=AcceptIf(perplexity_ratio=1.15),
).model_dump(mode="json")
HUB_PUSH: dict[str, Any] = {"repo_id": "acme/smollm2-135m-2of4", "private": True, "revision": "main"}
REPORT: dict[str, Any] = {
    "schema_version": 2,
    "model": {
        "reference": "smollm2-135m-instruct",
        "revision": None,
        "architecture": "LlamaForCausalLM",
        "parameters": 134515008,
        "blocks": 30,
        "dtype": "bfloat16",
        "fingerprint": "8f14e45fceea167a5a36dedd4bea2543f4a1d3c1d6c9a1b8b1f6a3a7f7c5b2e0",
    },
    "method": "eggs",
    "effort": "balanced",
    "pattern": "2:4",
    "min_degree": 4,
    "evaluation": {
        "texts": [
            {
                "text": {
                    "source": "pydocs",
                    "fingerprint": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
                    "windows": 16,
                    "sequence_length": 1024,
                    "seed": None,
                },
                "perplexity": {
                    "dense": 20.4,
                    "pruned": 130.1,
                    "ratio": 6.38,
                    "tokens": 16368,
                    "pruned_interval": {"low": 118.9, "high": 142.5},
                    "ratio_interval": {"low": 6.11, "high": 6.66},
                },
                "kl_divergence": 1.87,
                "top1_agreement": 0.45,
                "kl_divergence_interval": {"low": 1.79, "high": 1.95},
                "top1_agreement_interval": {"low": 0.44, "high": 0.46},
                "over_seeds": {"mean": 131.4, "standard_deviation": 1.9},
            }
        ],
        "repeats": [{"seed": 0, "perplexities": [130.1]}],
        "compared": [
            {
                "method": "ria",
                "effort": None,
                "min_degree": 0,
                "perplexities": [151.3],
                "mean_relative_output_error": 0.0817,
                "seconds": 2.4,
            }
        ],
        "generations": [
            {
                "prompt": "The import statement combines two operations; it searches for",
                "dense": " the named module, then it binds the results of that search",
                "pruned": " the name of the module, and then the name of the module",
            }
        ],
        "speed": [
            {
                "batch": 1,
                "prompt_tokens": 128,
                "new_tokens": 64,
                "dense": {"prefill_seconds": 0.19, "tokens_per_second": 41.2},
                "packed": {"prefill_seconds": 0.2, "tokens_per_second": 58.9},
                "ratio": 1.43,
                "products": [
                    {"shape": [576, 576], "layers": 60, "prefill": "unpacked", "decode": "packed, AVX2"},
                    {"shape": [192, 576], "layers": 60, "prefill": "unpacked", "decode": "packed, AVX2"},
                ],
            },
            {
                "batch": 16,
                "prompt_tokens": 128,
                "new_tokens": 64,
                "dense": {"prefill_seconds": 1.6, "tokens_per_second": 310.4},
                "packed": {"prefill_seconds": 1.7, "tokens_per_second": 270.1},
                "ratio": 0.87,
                "products": [],
            },
        ],
        "tasks": [
            {
                "name": "hellaswag",
                "metric": "acc_norm",
                "dense": 0.431,
                "pruned": 0.318,
                "dense_stderr": 0.0049,
                "pruned_stderr": 0.0046,
                "examples": 10042,
            }
        ],
    },
    "sparsity": {"pruned_layers": 0.5, "model": 0.39, "by_layer_type": {"q_proj": 0.5}},
    "bytes": {
        "dense_checkpoint": 269060552,
        "pruned_checkpoint": 269060552,
        "packed_checkpoint": 172867840,
        "pruned_in_memory": 269043456,
        "packed_in_memory": 172849920,
        "peak_resident": 1288490188,
        "peak_device": None,
    },
    "seconds": {"load": 4.1, "prune": 71.9, "evaluate": 24.3, "total": 101.2},
    "expansion": {
        "min_input_degree": 4,
        "mean_input_degree": 288.0,
        "channels_cut_off": 0,
        "max_second_singular_value": 0.078,
        "max_ramanujan_ratio": 0.66,
        "min_neighbourhood_ratio": 0.68,
    },
    "layers": [
        {
            "name": "model.layers.0.self_attn.q_proj",
            "type": "q_proj",
            "block": 0,
            "shape": [576, 576],
            "sparsity": 0.5,
            "kept_importance": 0.998,
            "relative_output_error": 0.012,
            "min_degree": 4,
            "duality_gap": 0.0,
            "min_input_degree": 4,
            "mean_input_degree": 288.0,
            "channels_cut_off": 0,
            "second_singular_value": 0.078,
            "ramanujan_bound": 0.118,
            "neighbourhood_ratio": 0.68,
            "calibration_tokens": 32768,
            "importance": "ria",
        }
    ],
    "training": [],
    "notes": [],
    "acceptance": {
        "verdict": "rejected",
        "checks": [
            {"criterion": "perplexity_ratio", "limit": 1.15, "source": "pydocs", "value": 6.38, "met": False}
        ],
    },
    "calibration": {
        "source": "pydocs",
        "fingerprint": "1b4f0e9851971998e732078544c96b36c3d01cedf7caa332359d6f1d83567014",
        "windows": 32,
        "sequence_length": 1024,
        "seed": 0,
    },
    "spec": SPEC,
    "versions": {
        "eggs": "0.1.0",
        "eggs_commit": "4e1243bd22c66e76c2ba9eddc1f91394e57f9f83",
        "python": "3.11.7",
        "torch": "2.11.0",
        "transformers": "5.3.0",
    },
    "device": "cpu",
    "threads": 2,
}

# Of effort `best`, which the report above is not of.
BLOCK_TRAINING: dict[str, Any] = {
    "block": 0,
    "error_before": 0.0123,
    "error_after": 0.0087,
    "epochs": 5,
    "skipped": None,
}


def example(value: dict[str, Any]) -> ConfigDict:
    """Configuration of a pydantic model that has this example."""
    return ConfigDict(json_schema_extra={"examples": [value]})


def example_list(*items: dict[str, Any]) -> ConfigDict:
    """The same for a page that holds these items."""
    return example(
        {
            "object": "list",
            "data": list(items),
            "first_id": items[0]["id"],
            "last_id": items[-1]["id"],
            "has_more": False,
        }
    )
