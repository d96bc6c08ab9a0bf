// Chat Completions as OpenAI's SDK for Node has it: not streamed, streamed, and with its helper.
import OpenAI from "openai";

const counted = (usage) =>
  usage && [
    usage.prompt_tokens,
    usage.completion_tokens,
    usage.completion_tokens_details?.reasoning_tokens ?? 0,
    usage.prompt_tokens_details?.cached_tokens ?? 0,
  ];

const called = (calls) =>
  calls.map((call) => [call.id, call.function.name, JSON.parse(call.function.arguments)]);

function take({ content, reasoning_content: thought, refusal }, finish, seen) {
  if (content) seen.text.push(content);
  if (thought) seen.thoughts.push(thought);
  if (refusal) seen.refusal.push(refusal);
  seen.finish = finish ?? seen.finish;
}

export function waysOf({ baseURL, apiKey }) {
  const completions = new OpenAI({ baseURL, apiKey, maxRetries: 0 }).chat.completions;

  async function whole({ stream_options: _, ...body }, seen) {
    const { choices, usage } = await completions.create(body);
    const [{ message, finish_reason: finish }] = choices;
    take(message, finish, seen);
    seen.calls = called(message.tool_calls ?? []);
    seen.usage = counted(usage);
  }

  async function stream(body, seen) {
    const calls = [];
    for await (const chunk of await completions.create({ ...body, stream: true })) {
      seen.usage = counted(chunk.usage) ?? seen.usage;
      // Every chunk has a choice where no usage was asked for: many programs rely on it.
      if (body.stream_options && chunk.choices.length === 0) continue;
      const [{ delta, finish_reason: finish }] = chunk.choices;
      take(delta, finish, seen);
      for (const { index, id, function: part } of delta.tool_calls ?? []) {
        calls[index] ??= { id, function: { name: part.name, arguments: "" } };
        calls[index].function.arguments += part.arguments ?? "";
      }
    }
    seen.calls = called(calls);
  }

  // The fold keeps only the last piece of a member that it does not know, such as the reasoning.
  async function helper(body, seen, next) {
    const events = completions.stream(body);
    if (!next)
      events.on("chunk", ({ choices: [choice] }) => {
        if (choice) take(choice.delta, choice.finish_reason, seen);
      });
    const { choices, usage } = await events.finalChatCompletion();
    const { message } = choices[0];
    const calls = message.tool_calls ?? [];
    if (next) {
      const given = calls.map(({ id, function: { name } }) => ({
        role: "tool",
        tool_call_id: id,
        content: next.results[name],
      }));
      const messages = [...body.messages, message, ...given];
      return helper({ ...body, tool_choice: undefined, model: next.model, messages }, seen);
    }
    seen.calls = called(calls);
    seen.usage = counted(usage);
  }

  return { "node-whole": whole, "node-stream": stream, "node-helper": helper };
}
