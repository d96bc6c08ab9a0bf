// The Vercel AI SDK, and what its stream of parts says of an answer. A body is {model, usage,
// messages, tools, toolChoice, ...}: `tools` are OpenAI's functions, `usage` whether it is asked
// for where a client has to ask, and the rest are options of `streamText`.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { jsonSchema, streamText, tool } from "ai";
import { fail } from "./failures.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false; // they go to stdout

const toolsOf = (functions, results) =>
  Object.fromEntries(
    functions.map(({ name, description, parameters, strict }) => [
      name,
      tool({
        description,
        strict,
        inputSchema: jsonSchema(parameters),
        ...(results && { execute: () => results[name] }),
      }),
    ]),
  );

const counted = ({ inputTokens, outputTokens, inputTokenDetails, outputTokenDetails }) =>
  inputTokens === undefined
    ? null
    : [
        inputTokens,
        outputTokens,
        outputTokenDetails.reasoningTokens ?? 0,
        inputTokenDetails.cacheReadTokens ?? 0,
      ];

const take = {
  "text-delta": ({ text }, seen) => text && seen.text.push(text),
  "reasoning-delta": ({ text }, seen) => text && seen.thoughts.push(text),
  // A call that was cut is handed out as well, marked.
  "tool-call": ({ toolCallId, toolName, input, invalid }, seen) =>
    invalid || seen.calls.push([toolCallId, toolName, input]),
  error: ({ error }, seen) => fail(seen, error),
  finish: ({ finishReason, totalUsage }, seen) => {
    // "error" is the SDK's own word for an end without a finish.
    seen.finish = finishReason === "error" ? null : finishReason.replace("-", "_");
    seen.usage = counted(totalUsage);
  },
};

export function waysOf({ baseURL, apiKey }) {
  const compatible = (includeUsage) =>
    createOpenAICompatible({ name: "legato", baseURL, apiKey, includeUsage });

  const way = (providerOf, more) => async (body, seen, next) => {
    const { model, usage, tools, ...asked } = body;
    const provider = providerOf(usage);
    const answer = (name, options) =>
      streamText({ model: provider(name), maxRetries: 0, onError: () => {}, ...options, ...more });
    let last = model;
    let { messages } = asked;
    if (next) {
      const first = answer(model, { ...asked, tools: toolsOf(tools, next.results) });
      messages = [...messages, ...(await first.response).messages];
      asked.toolChoice = undefined;
      last = next.model;
    }
    const { fullStream } = answer(last, { ...asked, messages, tools: toolsOf(tools) });
    for await (const part of fullStream) take[part.type]?.(part, seen);
  };

  const openai = () => createOpenAI({ baseURL, apiKey });
  return {
    chat: { "ai-sdk": way(compatible) },
    messages: { "ai-sdk": way(() => createAnthropic({ baseURL, apiKey })) },
    responses: {
      // Else the SDK sends the ids of items in place of the items.
      "ai-sdk": way(openai, { providerOptions: { openai: { store: false } } }),
      "ai-sdk-stored": way(openai),
    },
  };
}
