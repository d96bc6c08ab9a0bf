import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { jsonSchema, streamText, tool } from "ai";
import { apiKey, baseURL, fail, report, tools } from "./report.mjs";

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

async function parts(model, seen, includeUsage) {
  const provider = createOpenAICompatible({ name: "legato", baseURL, apiKey, includeUsage });
  const { fullStream } = streamText({
    model: provider(model),
    prompt: "Hello",
    tools: toolSet,
    maxRetries: 0,
    onError: () => {}, // else they are printed
  });
  for await (const part of fullStream) take[part.type]?.(part, seen);
}

await report({
  "ai-sdk": (model, seen) => parts(model, seen, true),
  "ai-sdk, no usage": (model, seen) => parts(model, seen, false),
});
