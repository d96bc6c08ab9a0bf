"""Chat templates (Jinja) of the known models: they turn messages into a prompt.

llama.cpp renders a template with test messages and derives from the differences how the model
writes reasoning and tool calls. The templates therefore render an assistant's earlier reasoning and
calls exactly as the model is expected to write them. A JSON list of calls between two tags is the
format that the larger SmolLM2 models were trained on. With this format llama.cpp's grammar also
allows only one call if `parallel_tool_calls` is false, and streams the arguments as they come.
"""

from typing import Final

#: The text that starts a tool call.
TOOL_CALL_PREFIX: Final = "<tool_call>"

# The variables `thinks` and `default` (the system message for chats without one) are set before
# this template. Without tools it renders the same as the template in the model's file. Arguments
# are passed parsed: from `tojson` llama.cpp detects that it has to parse them.
_CHATML: Final = r"""
{%- set has_system = messages[0]['role'] == 'system' -%}
{{ '<|im_start|>system\n' + (messages[0]['content'] if has_system else default) }}
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
{%- if not (loop.first and has_system) -%}
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

#: The prompt ends with `<think>`: the answer starts inside the reasoning.
SMOLLM2_THINKING: Final = (
    "{%- set thinks = true -%}"
    "{%- set default = 'You think step by step before you answer.' -%}" + _CHATML
)


def tool_call_prefix(template: str | None) -> str | None:
    """The text that starts a tool call in answers to prompts of `template`; None if unknown."""
    has_prefix = template is not None and TOOL_CALL_PREFIX in template
    return TOOL_CALL_PREFIX if has_prefix else None
