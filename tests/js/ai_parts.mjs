// One question put to the Vercel AI SDK, and what its stream of parts says of the answer.
import { jsonSchema, streamText, tool } from "ai";
import { fail, results, tools } from "./report.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false; // they go to stdout

const toolsThat = (execute) =>
  Object.fromEntries(
    tools.map(({ function: { name, description, parameters } }) => [
      name,
      tool({ description, inputSchema: jsonSchema(parameters), ...execute(name) }),
    ]),
  );
const shown = toolsThat(() => ({}));
const executed = toolsThat((name) => ({ execute: () => results[name] }));

const ask = (model, messages, more) =>
  streamText({
    model,
    messages,
    tools: shown,
    maxRetries: 0,
    onError: () => {}, // else they are printed
    ...more,
  });
const question = { role: "user", content: "Hello" };

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
export async function follow(model, seen, more = {}, messages = [question]) {
  for await (const part of ask(model, messages, more).fullStream) take[part.type]?.(part, seen);
}

// The answer of `next` to a turn in which the calls of `model` were executed.
export async function followTurn(model, next, seen, more = {}) {
  const first = ask(model, [question], { ...more, tools: executed });
  await follow(next, seen, more, [question, ...(await first.response).messages]);
}
