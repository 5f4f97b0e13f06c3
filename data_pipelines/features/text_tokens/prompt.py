"""Text -> the symbols that a text-to-tokens network reads."""

from avjax.errors import UserError
from data_pipelines import prompting
from data_pipelines.features.common import text_to_tokens
from data_pipelines.prompting import Prompt


class PromptBuilder(prompting.PromptBuilder):
    """A text in a language, or the text of an example."""

    SYSTEM = text_to_tokens.SYSTEM
    TAKES = (prompting.TASK, prompting.TEXT, prompting.LANGUAGE, prompting.EXAMPLE, prompting.DATA)
    SETTINGS = {"steps": ("euler_steps",), "temperature": ("temperature",),
                "length_scale": ("length_scale",)}

    def build(self, request, system, decoder) -> Prompt:
        """UserError for text that cannot be read."""
        if bool(request.text) == bool(request.example):
            raise UserError("what is to be said?", where="--text, --example",
                            expected="one of them")
        task = request.task or system.tasks[0]
        prompting.check_task(task, system)
        if request.example:
            row = prompting.read_example(request, system, decoder)
            conditions, frames = system.conditions(row, task)
            return Prompt(task, (conditions,), frames, row["id"])
        symbols, remarks = text_to_tokens.symbols_of(request.text, request.language, system.config,
                                                     decoder.recipes)
        return Prompt(task, (text_to_tokens.conditions_of(symbols),), 1, request.text,
                      remarks=remarks)
