// The Responses API as OpenAI's SDK for Node has it: not streamed, streamed, and with its helper.
// The finish is the status of the response, or why it is incomplete.
import OpenAI from "openai";
import { fail } from "./failures.mjs";

const callsOf = ({ output }) => output.filter(({ type }) => type === "function_call");

function take(response, seen) {
  if (response.error) return fail(seen, response.error);
  seen.finish = response.incomplete_details?.reason ?? response.status;
  const { input_tokens, output_tokens, input_tokens_details, output_tokens_details } =
    response.usage;
  const { reasoning_tokens } = output_tokens_details;
  seen.usage = [input_tokens, output_tokens, reasoning_tokens, input_tokens_details.cached_tokens];
  seen.calls = callsOf(response).map((item) => [
    item.call_id,
    item.name,
    JSON.parse(item.arguments),
  ]);
}

const DELTAS = {
  "response.output_text.delta": "text",
  "response.reasoning_summary_text.delta": "thoughts",
  "response.refusal.delta": "refusal",
};

async function follow(events, seen) {
  for await (const event of events) {
    if (DELTAS[event.type]) seen[DELTAS[event.type]].push(event.delta);
    if (/^response\.(completed|incomplete|failed)$/.test(event.type)) take(event.response, seen);
  }
}

export function waysOf({ baseURL, apiKey }) {
  const { responses } = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

  async function whole(body, seen) {
    const response = await responses.create(body);
    seen.text = response.output_text ? [response.output_text] : [];
    for (const item of response.output) {
      if (item.type === "reasoning") seen.thoughts.push(...item.summary.map(({ text }) => text));
      const refusals = (item.content ?? []).filter(({ type }) => type === "refusal");
      seen.refusal.push(...refusals.map(({ refusal }) => refusal));
    }
    take(response, seen);
  }

  async function stream(body, seen) {
    await follow(await responses.create({ ...body, stream: true }), seen);
  }

  async function helper(body, seen, next) {
    const events = responses.stream(body);
    if (!next) return follow(events, seen);
    const response = await events.finalResponse();
    const given = callsOf(response).map(({ call_id, name }) => ({
      type: "function_call_output",
      call_id,
      output: next.results[name],
    }));
    const input = [...body.input, ...response.output, ...given];
    return helper({ ...body, tool_choice: undefined, model: next.model, input }, seen);
  }

  return { "node-whole": whole, "node-stream": stream, "node-helper": helper };
}
