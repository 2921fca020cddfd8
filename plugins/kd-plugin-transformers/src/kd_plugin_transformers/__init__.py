"""Models of Hugging Face transformers, and tokenised text from local files."""

from kd_plugin_transformers.checks import check_model, check_tokenizer
from kdcore.component import Component
from kdcore.hookspecs import hookimpl


@hookimpl
def models() -> list[Component]:
    """Offer `hf_model`."""
    return [
        Component(
            name="hf_model",
            factory="kd_plugin_transformers.model:hf_model",
            schema="schemas/hf_model.json",
            summary="a model of Hugging Face transformers, by its config or from a local folder",
            examples="kd_plugin_transformers.examples:EXAMPLES",
            check=check_model,
        )
    ]


@hookimpl
def datasets() -> list[Component]:
    """Offer `hf_text` and `hf_text_classification`."""
    return [
        Component(
            name="hf_text",
            factory="kd_plugin_transformers.text:HFText",
            schema="schemas/hf_text.json",
            summary="blocks of tokens from local text files, for language models",
            examples="kd_plugin_transformers.examples:EXAMPLES",
            check=check_tokenizer,
        ),
        Component(
            name="hf_text_classification",
            factory="kd_plugin_transformers.classification:HFTextClassification",
            schema="schemas/hf_text_classification.json",
            summary="tokenised texts and their classes from a local CSV, TSV or JSON Lines file",
            examples="kd_plugin_transformers.examples:EXAMPLES",
            check=check_tokenizer,
        ),
    ]
