import OpenAI from "openai";
import { apiKey, baseURL, report, tools } from "./report.mjs";

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

const asked = (model, usage) => ({
  model,
  messages: [{ role: "user", content: "Hello" }],
  tools,
  ...(usage && { stream_options: { include_usage: true } }),
});

const counted = (usage) =>
  usage && [
    usage.prompt_tokens,
    usage.completion_tokens,
    usage.completion_tokens_details?.reasoning_tokens ?? 0,
    usage.prompt_tokens_details?.cached_tokens ?? 0,
  ];

const called = (calls) =>
  calls.map((call) => [call.id, call.function.name, JSON.parse(call.function.arguments)]);

async function chunks(model, seen, usage) {
  const calls = [];
  const stream = await client.chat.completions.create({ ...asked(model, usage), stream: true });
  for await (const chunk of stream) {
    seen.usage = counted(chunk.usage) ?? seen.usage;
    // Every chunk has a choice where no usage was asked for: many programs rely on it.
    if (usage && chunk.choices.length === 0) continue;
    const { delta, finish_reason: finish } = chunk.choices[0];
    seen.finish = finish ?? seen.finish;
    if (delta.content) seen.text.push(delta.content);
    if (delta.reasoning_content) seen.thoughts.push(delta.reasoning_content);
    for (const { index, id, function: part } of delta.tool_calls ?? []) {
      calls[index] ??= { id, function: { name: part.name, arguments: "" } };
      calls[index].function.arguments += part.arguments ?? "";
    }
  }
  seen.calls = called(calls);
}

// The fold keeps only the last piece of a member that it does not know, such as the reasoning.
async function helper(model, seen) {
  const stream = client.chat.completions.stream(asked(model, true));
  stream.on("content", (delta) => delta && seen.text.push(delta));
  stream.on("chunk", ({ choices: [choice] }) => {
    if (choice?.delta.reasoning_content) seen.thoughts.push(choice.delta.reasoning_content);
    seen.finish = choice?.finish_reason ?? seen.finish;
  });
  const { choices, usage } = await stream.finalChatCompletion();
  seen.calls = called(choices[0].message.tool_calls ?? []);
  seen.usage = counted(usage);
}

await report({
  "openai-node": (model, seen) => chunks(model, seen, true),
  "openai-node, no usage": (model, seen) => chunks(model, seen, false),
  "openai-node-helper": helper,
});
