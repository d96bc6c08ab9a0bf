"""Chat templates (Jinja) of the models that have a name here: how messages become a prompt.

llama.cpp renders a template with messages of its own making, and learns from what changes how the
model says its thoughts and its tool calls: so what an assistant has thought and called is rendered
here as the model is to write it. A list of calls between two tags is what SmolLM2's larger sisters
were taught. It is also the form in which llama.cpp's grammar keeps to one call where
`parallel_tool_calls` is false, and whose arguments it passes on as they come.
"""

from typing import Final

#: What a tool call begins with.
CALL: Final = "<tool_call>"

# `thinks` and `default`, the system message where a chat has none, are set before it. Without tools
# it renders what the template in the model's file does. Arguments come parsed: `tojson` of them is
# how llama.cpp sees that it has to parse them.
_CHATML: Final = r"""
{%- set is_told = messages[0]['role'] == 'system' -%}
{{ '<|im_start|>system\n' + (messages[0]['content'] if is_told else default) }}
{%- if tools -%}
{{ '\n\nYou can call functions. There are:\n' }}
{%- for tool in tools -%}
{{ tool['function'] | tojson + '\n' }}
{%- endfor -%}
{{ '\nTo call functions, answer with their names and arguments:\n' }}
{{- '<tool_call>[{"name": "...", "arguments": {...}}]</tool_call>' }}
{%- endif -%}
{{ '<|im_end|>\n' }}
{%- for message in messages -%}
{%- if not (loop.first and is_told) -%}
{{ '<|im_start|>' + message['role'] + '\n' }}
{%- if thinks and message['role'] == 'assistant' and message['reasoning_content'] -%}
{{ '<think>\n' + message['reasoning_content'] + '\n</think>\n\n' }}
{%- endif -%}
{{ message['content'] or '' }}
{%- if message['tool_calls'] -%}
{{ '<tool_call>[' }}
{%- for call in message['tool_calls'] -%}
{{ ('' if loop.first else ', ') + '{"name": ' + call['function']['name'] | tojson }}
{{- ', "arguments": ' + call['function']['arguments'] | tojson + '}' }}
{%- endfor -%}
{{ ']</tool_call>' }}
{%- endif -%}
{{ '<|im_end|>\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\n' }}
{%- if thinks and (enable_thinking is not defined or enable_thinking) -%}
{{ '<think>\n' }}
{%- elif thinks -%}
{{ '<think>\n\n</think>\n\n' }}
{%- endif -%}
{%- endif -%}
"""

SMOLLM2: Final = (
    "{%- set thinks = false -%}"
    "{%- set default = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face' -%}"
    + _CHATML
)

#: Opens `<think>` itself.
SMOLLM2_THINKING: Final = (
    "{%- set thinks = true -%}"
    "{%- set default = 'You think step by step before you answer.' -%}" + _CHATML
)


def call_of(template: str | None) -> str | None:
    """What a tool call begins with in answers to prompts of `template`, where that is known."""
    return CALL if template is not None and CALL in template else None
