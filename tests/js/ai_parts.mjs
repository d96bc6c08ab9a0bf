// One question put to the Vercel AI SDK, and what its stream of parts says of the answer.
import { jsonSchema, streamText, tool } from "ai";
import { fail, tools } from "./report.mjs";

const toolSet = Object.fromEntries(
  tools.map(({ function: { name, description, parameters } }) => [
    name,
    tool({ description, inputSchema: jsonSchema(parameters) }),
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

// `model` is a language model of one of the SDK's providers; `more` are further options.
export async function follow(model, seen, more = {}) {
  const { fullStream } = streamText({
    model,
    prompt: "Hello",
    tools: toolSet,
    maxRetries: 0,
    ...more,
    onError: () => {}, // else they are printed
  });
  for await (const part of fullStream) take[part.type]?.(part, seen);
}
