// The Responses API as OpenAI's SDK for Node has it: streamed, with its helper, and not streamed.
// The finish is the status of the response, or why it is incomplete.
import OpenAI from "openai";
import { apiKey, baseURL, fail, report } from "./report.mjs";

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const asked = (model) => ({ model, input: "Hello" });

function take(response, seen) {
  if (response.error) return fail(seen, response.error);
  seen.finish = response.incomplete_details?.reason ?? response.status;
  const { input_tokens, output_tokens, input_tokens_details, output_tokens_details } = response.usage;
  const { reasoning_tokens } = output_tokens_details;
  seen.usage = [input_tokens, output_tokens, reasoning_tokens, input_tokens_details.cached_tokens];
  for (const item of response.output) {
    if (item.type === "function_call")
      seen.calls.push([item.call_id, item.name, JSON.parse(item.arguments)]);
  }
}

async function follow(events, seen) {
  for await (const event of events) {
    if (event.type === "response.output_text.delta") seen.text.push(event.delta);
    if (event.type === "response.reasoning_summary_text.delta") seen.thoughts.push(event.delta);
    if (/^response\.(completed|incomplete|failed)$/.test(event.type)) take(event.response, seen);
  }
}

await report({
  create: async (model, seen) => {
    const response = await client.responses.create(asked(model));
    seen.text = response.output_text ? [response.output_text] : [];
    for (const item of response.output) {
      if (item.type === "reasoning") seen.thoughts.push(...item.summary.map(({ text }) => text));
    }
    take(response, seen);
  },
  stream: async (model, seen) =>
    follow(await client.responses.create({ ...asked(model), stream: true }), seen),
  helper: async (model, seen) => follow(client.responses.stream(asked(model)), seen),
});
